//! A response that was not read to its end.

use std::time::Duration;

use crate::diagnose::{About, Judgement, Rule, Trend, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, ReadState},
};

/// The server has sent all that it had; the rest of it is in the socket of a client that does not read on.
pub(super) struct AbandonedResponse;

/// A reader that pauses for so many times the age at which a socket counts as stuck has likely gone.
const PAUSE: u32 = 2;
/// And surely not before this.
const LONG_PAUSE: Duration = Duration::from_secs(60);
/// Number of sockets alike that a single slow reader does not explain.
const MIN_ALIKE: u32 = 3;

impl Rule for AbandonedResponse {
    fn about(&self) -> &'static About {
        &About {
            name: "abandoned_response",
            when: "a client has read some or nothing of what came in, and more than a goodbye is unread",
            class: &[Class::Leak, Class::Unknown],
            certainty: &[
                (
                    Certainty::High,
                    "nothing was read for twice `--stuck-after` and 60 s, 3 or more are alike, and their number grows",
                ),
                (
                    Certainty::Medium,
                    "nothing was read for twice `--stuck-after`, and 3 or more are alike or their number grows",
                ),
                (
                    Certainty::Low,
                    "a single one, or one look without an agent, which cannot tell a slow reader; unknown if something \
                     was read lately",
                ),
            ],
            says: "the response was dropped without closing it: a status or an error path that does not read the body",
            next: "look for the path that drops a response unread",
            not: &[
                "a slow reader, a paused download: read lately, or a single one",
                "a proxy whose own client is slow: `proxy_wait` where its other connection was found",
                "up to 100 unread bytes are a goodbye: `pool`",
            ],
            seen: &["TencentBlueKing/bk-repo#2093", "dotnet/corefx#32864", "cloudfoundry/gorouter#21"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let (state, unread) = (case.socket.read_state()?, case.socket.unread_bytes?);
        if !case.is_client() || !matches!(state, ReadState::Partial | ReadState::NeverRead) {
            return None;
        }
        let (owner, port) = (text::owner(case), text::port(case));
        let from = case.socket.remote;
        // The FIN counts as one.
        let bytes = text::count(unread - 1, "byte");
        let flow = case.group.flow.as_ref();
        let alike = case.group.in_state(ReadState::Partial) + case.group.in_state(ReadState::NeverRead);
        if flow.is_some() && case.untouched < case.stuck_after.saturating_mul(PAUSE) {
            return Some(Judgement {
                class: Class::Unknown,
                certainty: Certainty::Low,
                text: format!(
                    "{bytes} of the response from {from} are unread; {owner} may be reading it slowly, it has not been \
                     untouched for long"
                ),
                next: format!("check again: `closewait list --port {port}` shows whether less is unread then"),
            });
        }
        let grows = flow.and_then(|flow| flow.trend) == Some(Trend::Growing);
        let (certainty, evidence) = match flow {
            None => (Certainty::Low, "; whether it is read slowly or not at all, one look does not tell".to_owned()),
            Some(_) => {
                let certainty = match (alike >= MIN_ALIKE, grows) {
                    (true, true) if case.untouched >= LONG_PAUSE => Certainty::High,
                    (true, _) | (false, true) => Certainty::Medium,
                    (false, false) => Certainty::Low,
                };
                let growth = if grows { ", and their number grows" } else { "" };
                let untouched = text::duration(case.untouched);
                (certainty, format!("; nothing was read for {untouched}. {} alike{growth}", are(alike.max(1))))
            }
        };
        Some(Judgement {
            class: Class::Leak,
            certainty,
            text: format!(
                "{owner} left {bytes} of the response from {from} unread, {age} after the peer closed{evidence}",
                age = text::age(case)
            ),
            next: format!(
                "find the calls to {from} in {owner} that drop a response without reading or closing it: errors, \
                 redirects, statuses other than 200, canceled calls"
            ),
        })
    }
}

fn are(count: u32) -> String {
    if count == 1 { "1 is".to_owned() } else { format!("{count} are") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, secs};

    fn dropped(count: u32) -> Scene {
        let scene = Scene::client().of(count).aged(300).reading(ReadState::Partial).flowing(|_| ());
        Scene { untouched: secs(290), ..scene }
    }

    fn said(scene: &Scene) -> Option<(Class, Certainty)> {
        scene.ask(&AbandonedResponse).map(|said| (said.class, said.certainty))
    }

    #[test]
    fn many_that_nobody_reads_and_that_grow_are_a_leak() {
        let scene = dropped(5).flowing(|flow| flow.trend = Some(Trend::Growing));
        assert_eq!(said(&scene), Some((Class::Leak, Certainty::High)));
        let text = scene.ask(&AbandonedResponse).unwrap().text;
        assert!(text.contains("left 4999 bytes") && text.contains("5 are alike, and their number"), "{text}");
        assert_eq!(said(&dropped(5)), Some((Class::Leak, Certainty::Medium)));
    }

    #[test]
    fn one_look_or_one_socket_is_a_guess() {
        assert_eq!(said(&dropped(1)), Some((Class::Leak, Certainty::Low)));
        let scene = Scene::client().of(50).aged(9000).reading(ReadState::NeverRead);
        assert_eq!(said(&scene), Some((Class::Leak, Certainty::Low)));
    }

    #[test]
    fn a_slow_reader_is_not_accused() {
        let scene = Scene { untouched: secs(5), ..dropped(5).flowing(|flow| flow.trend = Some(Trend::Growing)) };
        assert_eq!(said(&scene), Some((Class::Unknown, Certainty::Low)));
    }

    #[test]
    fn it_says_nothing_of_pools_servers_and_unknown_counts() {
        assert_eq!(said(&dropped(5).reading(ReadState::Goodbye)), None);
        assert_eq!(said(&dropped(5).reading(ReadState::IdleFin)), None);
        assert_eq!(said(&Scene::server().reading(ReadState::Partial)), None);
        let mut scene = dropped(5);
        scene.socket.unread_bytes = None;
        assert_eq!(said(&scene), None);
    }
}
