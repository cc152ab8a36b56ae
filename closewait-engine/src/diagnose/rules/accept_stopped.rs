//! A socket that has waited in its listener's backlog for so long that the program cannot be accepting as it should.

use std::time::Duration;

use crate::diagnose::{About, Judgement, Rule, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class},
};

/// The accept queue is first in, first out (`inet_csk_reqsk_queue_add` appends, `reqsk_queue_remove` takes the head;
/// net/ipv4/inet_connection_sock.c, include/net/request_sock.h at v5.10). So what `accept()` took while this socket
/// waited was ahead of it, and the queue holds at most one more than its limit (`sk_acceptq_is_full`,
/// include/net/sock.h): few enough in that time that the program stands still or is far behind.
pub(super) struct AcceptStopped;

/// A client that left while it queued is seen here after as long as the accept loop lags behind.
const LAG: Duration = Duration::from_secs(10);

impl Rule for AcceptStopped {
    fn about(&self) -> &'static About {
        &About {
            name: "accept_stopped",
            when: "no program has accepted it for more than 10 s, its listener is known, and no other connection of the \
                   port was closed by a program in that time",
            class: &[Class::NeverAccepted],
            certainty: &[(
                Certainty::Fact,
                "the socket is in the accept queue, which is first in, first out: since it came, accept() has taken \
                 only what was ahead of it, at most one more than the limit of the backlog",
            )],
            says: "the program that listens does not call accept(), or is far behind",
            next: "see where the thread that should call accept() is",
            not: &[
                "a burst that is being worked off: shorter than 10 s, or the program closes others of the port",
                "connections ahead of it may have been accepted meanwhile; the text says how many at most",
                "which one of several listeners on the port (SO_REUSEPORT) is unknown: `never_accepted`",
            ],
            seen: &["unbit/uwsgi#2472", "signalwire/freeswitch#922", "gevent/gevent#276"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        if case.socket.accepted? || case.age() <= LAG {
            return None;
        }
        let listener = &case.listener?.what;
        // The oldest of the group waits in the same queue.
        let waits = case.group.oldest.max(case.age());
        // With several listeners, another one may have had those.
        let flow = case.group.flow.as_ref().filter(|_| case.listeners < 2);
        if flow.and_then(|flow| flow.last_closed).is_some_and(|closed| closed >= case.now - waits) {
            return None;
        }
        let (backlog, max) = (listener.backlog, listener.backlog_max);
        let who = text::names(&text::tasks(case));
        let program = who.clone().unwrap_or_else(|| "the program that listens there".to_owned());
        let doing = text::doing(case);
        let port = listener.local.port;
        Some(Judgement {
            class: Class::NeverAccepted,
            certainty: Certainty::Fact,
            text: format!(
                "it waits in the backlog of {local} ({backlog} of {max}), and {program} has not accepted it: the oldest \
                 has waited for {waited}, in which accept() took at most the {ahead} that fit in ahead of it.{doing}",
                local = listener.local,
                waited = text::duration(waits),
                ahead = text::count(u64::from(max) + 1, "connection"),
            ),
            next: match who {
                Some(_) => format!(
                    "{}, and look for the one that should call accept(). Until it does, `ss -K` frees no place in the \
                     backlog",
                    text::dump(case)
                ),
                None => format!(
                    "find the program that listens on port {port}, `ss -ltnp 'sport = :{port}'`, and see why it does \
                     not call accept()"
                ),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, owned_by, secs};

    fn waiting(seconds: u64) -> Scene {
        Scene::server().unaccepted().aged(seconds).listened_by(&[owned_by(7, "uwsgi", 3)])
    }

    #[test]
    fn a_queue_that_does_not_move_is_named_with_its_listener() {
        let said = waiting(120).ask(&AcceptStopped).unwrap();
        assert_eq!((said.class, said.certainty), (Class::NeverAccepted, Certainty::Fact));
        for part in ["10.0.0.5:8080 (5 of 128)", "uwsgi[7]", "2m", "129 connections"] {
            assert!(said.text.contains(part), "{part}: {}", said.text);
        }
        assert!(said.next.contains("uwsgi[7]"), "{}", said.next);
    }

    #[test]
    fn the_oldest_of_the_queue_counts() {
        let mut scene = waiting(20);
        scene.group.oldest = secs(600);
        assert!(scene.ask(&AcceptStopped).unwrap().text.contains("10m"));
    }

    #[test]
    fn a_listener_of_which_nobody_is_known_to_have_it_is_to_be_found() {
        let said = Scene::server().unaccepted().aged(60).listened_by(&[]).ask(&AcceptStopped).unwrap();
        assert!(said.next.contains("ss -ltnp 'sport = :8080'"), "{}", said.next);
    }

    #[test]
    fn it_leaves_a_burst_and_a_program_that_works_to_the_next_rule() {
        assert_eq!(waiting(9).ask(&AcceptStopped), None);
        assert_eq!(waiting(120).closed_before(10, secs(1)).ask(&AcceptStopped), None);
    }

    #[test]
    fn it_needs_the_listener_and_that_it_was_not_accepted() {
        assert_eq!(Scene::server().unaccepted().aged(120).ask(&AcceptStopped), None);
        for accepted in [Some(true), None] {
            let mut scene = waiting(120);
            scene.socket.accepted = accepted;
            assert_eq!(scene.ask(&AcceptStopped), None);
        }
    }
}
