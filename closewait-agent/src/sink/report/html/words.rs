//! Words of the page that other formats do not have.

use maud::{Markup, html};

use closewait_engine::{
    model::{Limit, MilestoneKind, ReadState},
    text::still_harmless,
};

/// Returns a text from the host, isolated from the direction of the text around it.
pub(super) fn foreign(text: &str) -> Markup {
    html! { bdi { (still_harmless(text.to_owned())) } }
}

/// Returns the label of a milestone in a chart, one or two words.
pub(super) const fn mark(kind: MilestoneKind) -> &'static str {
    match kind {
        MilestoneKind::LastClosed => "last close",
        MilestoneKind::FirstStuck => "first stuck",
        MilestoneKind::FirstUnaccepted => "first unaccepted",
        MilestoneKind::Detected => "detected",
        MilestoneKind::Doubled => "doubled",
        MilestoneKind::LimitNear(_) => "limit near",
        MilestoneKind::LimitReached(Limit::Descriptors) => "descriptors full",
        MilestoneKind::LimitReached(Limit::Backlog) => "backlog full",
        MilestoneKind::LimitReached(Limit::Connections) => "connection limit",
        MilestoneKind::Resolved(how) => how.words(),
    }
}

/// Statement about read states that are mostly unknown.
pub(super) const READ_UNKNOWN: &str = "For most sockets it is unknown what the program has read.";

/// Returns the conclusion that the most frequent read state allows.
pub(super) const fn read_meaning(state: ReadState) -> &'static str {
    match state {
        ReadState::NeverRead => {
            "The program has not read most of these requests. The sockets of those that it did read show the cause."
        }
        ReadState::Partial => "The program stopped while it was reading these requests.",
        ReadState::Goodbye => "The program read its requests, but not the peer's last message.",
        ReadState::IdleFin => "The program read all data and has not noticed the end of the connection.",
        ReadState::Probe => "The peers closed without sending data, and the program has not read that.",
        ReadState::FinConsumed => "The program read the end of these connections and has not closed them.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_isolated() {
        let text = foreign("a<b>\"\u{202e}&").into_string();
        assert_eq!(text, "<bdi>a&lt;b&gt;&quot;\\u{202e}&amp;</bdi>");
    }
}
