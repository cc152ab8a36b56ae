//! A request that was read, and never got a byte of answer.

use crate::diagnose::{
    About, Judgement, Rule,
    pace::{self, Pace},
    text,
};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, ReadState},
};

/// Nothing was sent on the connection: not on one with TLS, whose handshake is sent.
pub(super) struct UnansweredRequest;

/// If fewer of those on the port stay, in thousandths, the program forgets some; if more, it may hang.
const SMALL_SHARE: u64 = 500;

impl Rule for UnansweredRequest {
    fn about(&self) -> &'static About {
        &About {
            name: "unanswered",
            when: "a server read from it (not all, or all, or the FIN too) and never sent a byte",
            class: &[Class::Hung, Class::Leak],
            certainty: &[
                (
                    Certainty::Medium,
                    "hung if nothing was closed since, or it was not watched; a leak if others were closed since and \
                     fewer than half of the port's stay",
                ),
                (
                    Certainty::Low,
                    "hung if the FIN was read too and it was not watched: a program that reads the end has continued; a \
                     leak if others were closed since and most of the port's stay",
                ),
            ],
            says: "the request was taken by a worker that has not come back, or was dropped without an answer",
            next: "see where the worker is",
            not: &[
                "slow handlers: `slow`, where the port shows one; never more than medium",
                "protocols in which a server never answers (log collectors): they still close; never more than medium",
                "a connection with TLS has sent its handshake: this rule says nothing",
            ],
            seen: &["jetty/jetty.project#8908", "3proxy/3proxy#193", "apache/brpc#607"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let state = case.socket.read_state()?;
        let took = match state {
            ReadState::IdleFin | ReadState::Goodbye => "read the request",
            ReadState::Partial => "read a part of what came in",
            ReadState::FinConsumed => "read all that came in and the end of it",
            ReadState::NeverRead | ReadState::Probe => return None,
        };
        // Only the FIN came: there was no request.
        let nothing_came = case.socket.received_bytes? <= 1;
        if !case.is_server() || !case.socket.accepted? || case.socket.sent_bytes? > 0 || nothing_came {
            return None;
        }
        let small = case.group.flow.as_ref().and_then(|flow| flow.stuck_permille()).is_some_and(|s| s < SMALL_SHARE);
        let pace = pace::of(case);
        let (class, certainty) = match pace {
            Pace::Stands { .. } => (Class::Hung, Certainty::Medium),
            Pace::Unwatched if state == ReadState::FinConsumed => (Class::Hung, Certainty::Low),
            Pace::Unwatched => (Class::Hung, Certainty::Medium),
            Pace::Slow { .. } | Pace::GoesOn if small => (Class::Leak, Certainty::Medium),
            Pace::Slow { .. } | Pace::GoesOn => (Class::Leak, Certainty::Low),
        };
        let port = text::port(case);
        let others = pace.of_others(port);
        Some(Judgement {
            class,
            certainty,
            text: format!(
                "{owner} {took} and has sent nothing, {age} after the peer closed{others}.{doing}",
                owner = text::owner(case),
                age = text::age(case),
                doing = text::doing(case),
            ),
            next: text::dump(case),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, secs};

    fn said(scene: &Scene) -> Option<(Class, Certainty)> {
        scene.ask(&UnansweredRequest).map(|said| (said.class, said.certainty))
    }

    fn taken(state: ReadState) -> Scene {
        Scene::server().aged(300).reading(state).replied(false)
    }

    #[test]
    fn a_request_that_was_taken_and_not_answered_is_likely_a_hang() {
        for state in [ReadState::IdleFin, ReadState::Partial] {
            assert_eq!(said(&taken(state)), Some((Class::Hung, Certainty::Medium)));
            assert_eq!(said(&taken(state).closed_before(400, secs(1))), Some((Class::Hung, Certainty::Medium)));
        }
        assert_eq!(said(&taken(ReadState::FinConsumed)), Some((Class::Hung, Certainty::Low)));
    }

    #[test]
    fn a_program_that_closes_most_others_leaks() {
        let scene = taken(ReadState::FinConsumed).closed_before(10, secs(1));
        let few = scene.clone().flowing(|flow| (flow.old_entered, flow.old_present) = (100, 10));
        assert_eq!(said(&few), Some((Class::Leak, Certainty::Medium)));
        let most = scene.flowing(|flow| (flow.old_entered, flow.old_present) = (100, 90));
        assert_eq!(said(&most), Some((Class::Leak, Certainty::Low)));
    }

    #[test]
    fn it_says_nothing_of_an_answered_one_or_without_a_request_or_if_not_known() {
        assert_eq!(said(&Scene::server().reading(ReadState::IdleFin).replied(true)), None);
        assert_eq!(said(&taken(ReadState::NeverRead)), None);
        assert_eq!(said(&taken(ReadState::Probe)), None);
        let mut scene = taken(ReadState::FinConsumed);
        scene.socket.received_bytes = Some(1);
        assert_eq!(said(&scene), None, "a port scan that the program noticed");
        let mut scene = taken(ReadState::IdleFin);
        scene.socket.sent_bytes = None;
        assert_eq!(said(&scene), None);
        assert_eq!(said(&Scene::client().reading(ReadState::IdleFin)), None);
    }
}
