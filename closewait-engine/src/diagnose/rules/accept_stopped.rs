//! A socket that has waited in its listener's backlog for too long.

use std::time::Duration;

use crate::diagnose::{
    About, Explanation, Judgement, Rule,
    text::{self, OwnerNames},
};
use crate::{
    diagnose::Case,
    model::{Certainty, Class},
};

/// Detects a program that does not call `accept()`, or is far behind.
///
/// The accept queue is first in, first out (`inet_csk_reqsk_queue_add` appends, `reqsk_queue_remove` takes the head;
/// net/ipv4/inet_connection_sock.c, include/net/request_sock.h at v5.10). So all connections that `accept()` took while this socket
/// waited were ahead of it, and the queue holds at most one more than its limit (`sk_acceptq_is_full`, include/net/sock.h).
pub(super) struct AcceptStopped;

/// Maximum delay of a working accept loop.
const LAG: Duration = Duration::from_secs(10);

impl Rule for AcceptStopped {
    fn about(&self) -> &'static About {
        &About {
            name: "accept_stopped",
            when: "no program has accepted the socket for more than 10 s; its listener is known; no program has closed \
                   another connection of the port in that time",
            class: &[Class::NeverAccepted],
            certainty: &[(
                Certainty::Fact,
                "the accept queue is first in, first out: while this socket waited, accept() took only connections that \
                 were ahead of it, at most one more than the backlog's limit",
            )],
            says: "the listening program does not call accept(), or is far behind",
            next: "see where the thread that should call accept() is",
            not: &[
                "a burst that the program is working through: it lasts less than 10 s, or the program closes other \
                 connections of the port",
                "a slow program: accept() may have taken the connections ahead of this socket; the text has their maximum number",
                "several listeners on the port (SO_REUSEPORT), of which any may have the socket: see `never_accepted`",
            ],
            seen: &["unbit/uwsgi#2472", "signalwire/freeswitch#922", "gevent/gevent#276"],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        if case.socket.accepted? || case.age() <= LAG {
            return None;
        }
        let listener = &case.listener?.what;
        // The oldest socket of the group waits in the same queue.
        let waits = case.group.oldest.max(case.age());
        // With several listeners, the closed connections may have been those of another one.
        let flow = case.group.flow.as_ref().filter(|_| case.listeners < 2);
        if flow.and_then(|flow| flow.last_closed).is_some_and(|closed| closed >= case.now - waits) {
            return None;
        }
        Some(Judgement::new(Class::NeverAccepted, Certainty::Fact, move || {
            let (backlog, max) = (listener.backlog, listener.backlog_max);
            let who = OwnerNames::new(&text::tasks(case));
            let program = who.clone().unwrap_or_else(|| OwnerNames::program("the listening program"));
            let doing = text::doing(case);
            let port = listener.local.port;
            Explanation {
                text: format!(
                    "it waits in the backlog of {local} ({backlog} of {max}), and {program} {has} not accepted it: the oldest \
                 socket there has waited for {waited}, although at most {ahead} can be ahead of it.{doing}",
                    has = program.has(),
                    local = listener.local,
                    waited = text::duration(waits),
                    ahead = text::count(u64::from(max) + 1, "connection"),
                ),
                next: match who {
                    Some(_) => text::dump(case).and(
                        "look for the thread that should call accept(); until it does, destroying these sockets makes no room in the backlog",
                    ),
                    None => text::ss_listeners(
                        case,
                        format!("find the program that listens on port {port}, and see why it does not call accept()"),
                    ),
                },
            }
        }))
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
    fn a_stalled_queue_is_reported_with_its_listener() {
        let judgement = waiting(120).check(&AcceptStopped).unwrap();
        assert_eq!((judgement.class, judgement.certainty), (Class::NeverAccepted, Certainty::Fact));
        for part in ["10.0.0.5:8080 (5 of 128)", "uwsgi[7]", "2m", "129 connections"] {
            assert!(judgement.text.contains(part), "{part}: {}", judgement.text);
        }
        assert!(judgement.next.text.contains("uwsgi[7]"), "{}", judgement.next.text);
    }

    #[test]
    fn the_oldest_socket_of_the_queue_counts() {
        let mut scene = waiting(20);
        scene.group.oldest = secs(600);
        assert!(scene.check(&AcceptStopped).unwrap().text.contains("10m"));
    }

    #[test]
    fn without_a_known_listener_process_the_next_step_finds_it() {
        let judgement = Scene::server().unaccepted().aged(60).listened_by(&[]).check(&AcceptStopped).unwrap();
        assert_eq!(judgement.next.command.as_deref(), Some("ss -ltnp 'sport = :8080'"));
    }

    #[test]
    fn a_burst_and_a_working_program_are_excluded() {
        assert_eq!(waiting(9).check(&AcceptStopped), None);
        assert_eq!(waiting(120).closed_before(10, secs(1)).check(&AcceptStopped), None);
    }

    #[test]
    fn the_listener_has_to_be_known_and_the_socket_unaccepted() {
        assert_eq!(Scene::server().unaccepted().aged(120).check(&AcceptStopped), None);
        for accepted in [Some(true), None] {
            let mut scene = waiting(120);
            scene.socket.accepted = accepted;
            assert_eq!(scene.check(&AcceptStopped), None);
        }
    }
}
