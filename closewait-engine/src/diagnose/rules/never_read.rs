//! A request that was accepted and never looked at.

use crate::diagnose::{
    About, Judgement, Rule,
    pace::{self, Pace},
    text,
};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, ReadState},
};

/// As many bytes are unread as came in: no read was ever made.
pub(super) struct NeverRead;

/// Number of stuck sockets from which the verdict is certain.
const MIN_STUCK_FOR_CERTAINTY: u32 = 3;

impl Rule for NeverRead {
    fn about(&self) -> &'static About {
        &About {
            name: "never_read",
            when: "a server accepted it, and not a byte of what came in was ever read",
            class: &[Class::Hung, Class::Leak],
            certainty: &[
                (
                    Certainty::High,
                    "hung: 3 at least are stuck, nothing of the port was closed since, after more than 4 times the \
                     longest that ever was, and twice `--stuck-after`; it used to close others; nothing was sent",
                ),
                (Certainty::Medium, "hung: not watched for so long, or few"),
                (
                    Certainty::Low,
                    "hung: it was sent something first, so that it may be a program that ignores what comes in; a leak \
                     if others were closed since: it was lost on the way to a worker",
                ),
            ],
            says: "the program accepts and does not serve: its workers are stuck or too few",
            next: "see where the workers are",
            not: &[
                "a queue before slow workers: `slow` if the port shows that, else what stands still for long enough",
                "a server that speaks first and ignores input: low",
                "one look without an agent: medium at most, as nothing is known of others",
            ],
            seen: &["xtdb/xtdb#5850", "dotnet/aspnetcore#29621", "istio/istio#27834"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let unread = case.socket.unread_bytes?;
        if !case.is_server() || !case.socket.accepted? || case.socket.read_state()? != ReadState::NeverRead {
            return None;
        }
        let spoke_first = case.socket.sent_bytes? > 0;
        let pace = pace::of(case);
        let (class, certainty) = match pace {
            Pace::GoesOn | Pace::Slow { .. } => (Class::Leak, Certainty::Low),
            Pace::Unwatched | Pace::Stands { .. } if spoke_first => (Class::Hung, Certainty::Low),
            Pace::Stands { proven: true } if case.group.stuck >= MIN_STUCK_FOR_CERTAINTY => {
                (Class::Hung, Certainty::High)
            }
            Pace::Unwatched | Pace::Stands { .. } => (Class::Hung, Certainty::Medium),
        };
        let (owner, port) = (text::owner(case), text::port(case));
        let others = pace.of_others(port);
        Some(Judgement {
            class,
            certainty,
            text: format!(
                "{owner} accepted it and has read none of the {bytes} that came in, {age} after the peer closed{others}. \
                 {never} of {count} in its group were never read.{doing}",
                // The FIN counts as one.
                bytes = text::count(unread - 1, "byte"),
                age = text::age(case),
                never = case.group.in_state(ReadState::NeverRead).max(1),
                count = text::count(case.group.count.max(1), "socket"),
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

    fn unread(age: u64, count: u32) -> Scene {
        Scene::server().of(count).aged(age).reading(ReadState::NeverRead).replied(false)
    }

    fn said(scene: &Scene) -> Option<(Class, Certainty)> {
        scene.ask(&NeverRead).map(|said| (said.class, said.certainty))
    }

    #[test]
    fn a_port_that_stands_still_with_unread_requests_is_hung() {
        let scene = unread(300, 5).closed_before(400, secs(2));
        assert_eq!(said(&scene), Some((Class::Hung, Certainty::High)));
        let text = scene.ask(&NeverRead).unwrap().text;
        assert!(text.contains("none of the 300 bytes") && text.contains("5 of 5 sockets"), "{text}");
    }

    #[test]
    fn a_single_look_and_few_sockets_are_not_sure() {
        assert_eq!(said(&unread(9000, 50)), Some((Class::Hung, Certainty::Medium)), "not watched");
        assert_eq!(said(&unread(300, 2).closed_before(400, secs(2))), Some((Class::Hung, Certainty::Medium)));
        assert_eq!(said(&unread(9000, 50).flowing(|_| ())), Some((Class::Hung, Certainty::Medium)), "never closed any");
    }

    #[test]
    fn a_server_that_speaks_first_may_not_want_to_read() {
        let mut scene = unread(300, 5).closed_before(400, secs(2));
        scene.socket.sent_bytes = Some(20);
        assert_eq!(said(&scene), Some((Class::Hung, Certainty::Low)));
    }

    #[test]
    fn a_program_that_closes_others_is_not_hung() {
        assert_eq!(said(&unread(300, 5).closed_before(10, secs(2))), Some((Class::Leak, Certainty::Low)));
    }

    #[test]
    fn it_says_nothing_of_one_that_was_read_or_is_no_servers_or_unknown() {
        assert_eq!(said(&Scene::server().reading(ReadState::IdleFin)), None);
        assert_eq!(said(&Scene::client().reading(ReadState::NeverRead)), None);
        let mut scene = unread(300, 5);
        scene.socket.accepted = None;
        assert_eq!(said(&scene), None);
        scene.socket.accepted = Some(true);
        scene.socket.sent_bytes = None;
        assert_eq!(said(&scene), None);
    }
}
