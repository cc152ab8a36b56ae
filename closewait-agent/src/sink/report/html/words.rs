//! Words and times of the page.

use maud::{Markup, html};

use crate::clock::TimeAnchor;
use closewait_engine::{
    model::{Limit, MilestoneKind, ReadState, Recovery},
    text::still_harmless,
    time::BootTime,
};

/// Writer of times in UTC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Relation of the kernel's clock and the wall clock.
    pub(super) anchor: TimeAnchor,
    /// Time of the report.
    pub(super) now: BootTime,
}

impl Clock {
    /// Formats a time with its date: `2026-11-25 22:48:33 UTC`.
    pub(super) fn full(self, at: BootTime) -> String {
        let text = self.text(at);
        format!("{} {} UTC", text.get(..10).unwrap_or_default(), text.get(11..19).unwrap_or_default())
    }

    /// Formats a time without its date if that is the date of the report: `22:48:33`, `11-24 22:48:33`.
    pub(super) fn short(self, at: BootTime) -> String {
        let (text, now) = (self.text(at), self.text(self.now));
        let clock = text.get(11..19).unwrap_or_default();
        if text.get(..10) == now.get(..10) {
            return clock.to_owned();
        }
        format!("{} {clock}", text.get(5..10).unwrap_or_default())
    }

    fn text(self, at: BootTime) -> String {
        humantime::format_rfc3339_seconds(self.anchor.wall(at)).to_string()
    }
}

/// Returns a text from the host, isolated from the direction of the text around it.
pub(super) fn foreign(text: &str) -> Markup {
    html! { bdi { (still_harmless(text.to_owned())) } }
}

/// Returns the name of a milestone.
pub(super) const fn milestone(kind: MilestoneKind) -> &'static str {
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
        MilestoneKind::Resolved(Recovery::Drained) => "drained",
        MilestoneKind::Resolved(Recovery::Level) => "level",
    }
}

/// Returns the explanation of a milestone.
pub(super) const fn meaning(kind: MilestoneKind) -> &'static str {
    match kind {
        MilestoneKind::LastClosed => "the program closed a socket of this group for the last time before the incident",
        MilestoneKind::FirstStuck => "the oldest of the remaining sockets entered CLOSE_WAIT",
        MilestoneKind::FirstUnaccepted => "the oldest socket entered that no program has accepted",
        MilestoneKind::Detected => "closewait reported the incident",
        MilestoneKind::Doubled => "twice as many sockets as at the report before",
        MilestoneKind::LimitNear(Limit::Descriptors) => "the descriptors of the process will soon be exhausted",
        MilestoneKind::LimitNear(Limit::Backlog) => "the backlog of the listener will soon be full",
        MilestoneKind::LimitNear(Limit::Connections) => "the connection limit will soon be reached",
        MilestoneKind::LimitReached(Limit::Descriptors) => "the process has no free descriptor",
        MilestoneKind::LimitReached(Limit::Backlog) => "the listener has no free slot in its backlog",
        MilestoneKind::LimitReached(Limit::Connections) => "the connection limit was reached",
        MilestoneKind::Resolved(Recovery::Drained) => "nearly all sockets have exited CLOSE_WAIT",
        MilestoneKind::Resolved(Recovery::Level) => "the sockets remain, and their number has long been level",
    }
}

/// Returns the name of what a limit bounds.
pub(super) const fn limit(limit: Limit) -> &'static str {
    match limit {
        Limit::Descriptors => "descriptors",
        Limit::Backlog => "backlog",
        Limit::Connections => "connections",
    }
}

/// Returns the name of a read state.
pub(super) const fn read(state: ReadState) -> &'static str {
    match state {
        ReadState::NeverRead => "never read",
        ReadState::Partial => "read in part",
        ReadState::Goodbye => "read but for a short rest",
        ReadState::IdleFin => "all data read, not the FIN",
        ReadState::Probe => "a FIN without data, not read",
        ReadState::FinConsumed => "read to the end",
    }
}

/// Returns the conclusion that the most frequent read state allows.
pub(super) const fn read_meaning(state: ReadState) -> &'static str {
    match state {
        ReadState::NeverRead => "The program has not read these requests. The sockets that it did read show the cause.",
        ReadState::Partial => "The program stopped while it was reading these requests.",
        ReadState::Goodbye => "The program read its requests, but not the peer's last message.",
        ReadState::IdleFin => "The program read all data and has not noticed the end of the connection.",
        ReadState::Probe => "The peers closed without sending data, and the program has not read that.",
        ReadState::FinConsumed => "The program read the end of these connections and has not closed them.",
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn only_times_of_other_days_have_a_date() {
        let anchor = TimeAnchor::booted_at(UNIX_EPOCH + Duration::from_secs(86_400));
        let clock = Clock { anchor, now: BootTime(90_000_000_000_000) };
        assert_eq!(clock.full(clock.now), "1970-01-03 01:00:00 UTC");
        assert_eq!(clock.short(BootTime(86_401_000_000_000)), "00:00:01");
        assert_eq!(clock.short(BootTime(86_399_000_000_000)), "01-02 23:59:59");
    }

    #[test]
    fn names_are_escaped_and_isolated() {
        let text = foreign("a<b>\"\u{202e}&").into_string();
        assert_eq!(text, "<bdi>a&lt;b&gt;&quot;\\u{202e}&amp;</bdi>");
    }
}
