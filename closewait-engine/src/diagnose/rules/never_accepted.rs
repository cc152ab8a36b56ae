//! Sockets that wait in their listener's backlog.

use crate::diagnose::{About, Explanation, Judgement, Rule, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class},
};

/// Detects a socket that no program has accepted: its `sk_socket` is null, so `inet_accept` has not run (net/ipv4/af_inet.c at
/// v5.10).
pub(super) struct NeverAccepted;

impl Rule for NeverAccepted {
    fn about(&self) -> &'static About {
        &About {
            name: "never_accepted",
            when: "no program has accepted the socket; `accept_stopped` does not apply, because the socket is young, its \
                   listener is unknown, or the program still closes other connections",
            class: &[Class::NeverAccepted],
            certainty: &[(
                Certainty::Fact,
                "the kernel has not created a file for the socket, so no program can have it",
            )],
            says: "the peer connected, waited in the backlog and closed; the accept loop is slow, or there was a burst",
            next: "find the listening program and see how often it calls accept()",
            not: &["a program that owns the socket and does not read from it: that program has accepted it"],
            seen: &["haproxy/haproxy#136", "kubernetes/kubernetes#66133"],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        if case.socket.accepted? {
            return None;
        }
        Some(Judgement::new(Class::NeverAccepted, Certainty::Fact, move || {
            let (local, age) = (case.socket.local, text::age(case));
            let backlog = case
                .listener
                .map(|listener| &listener.what)
                .map_or_else(String::new, |listener| format!(" ({} of {})", listener.backlog, listener.backlog_max));
            let flow = case.group.flow.as_ref().filter(|_| case.listeners < 2);
            let last_closed = flow.and_then(|flow| flow.last_closed);
            let progress = match last_closed.filter(|closed| *closed >= case.entered) {
                Some(closed) => format!(
                    "; other connections of the port were closed since, the last one {} ago: the accept loop is slow, or there was a \
                 burst",
                    text::duration(case.now.since(closed))
                ),
                None => String::new(),
            };
            let find = match text::OwnerNames::new(&text::tasks(case)) {
                Some(who) => format!("see what keeps {who} from calling accept() sooner"),
                None => {
                    format!(
                        "find the program that listens on port {} and see why it does not call accept()",
                        local.port
                    )
                }
            };
            Explanation {
                text: format!(
                    "it waits in the backlog of the listener on {local}{backlog}: no program has accepted it, and the peer closed \
                 {age} ago{progress}"
                ),
                next: text::ss_listeners(case, format!("{find}: the backlog is Recv-Q, its limit is Send-Q")),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, owned_by, secs};

    #[test]
    fn a_socket_in_the_backlog_is_a_fact() {
        let verdict = Scene::server().unaccepted().verdict();
        assert_eq!((verdict.rule, verdict.certainty), ("never_accepted", Certainty::Fact));
        assert!(verdict.text.contains("10.0.0.5:8080"), "{}", verdict.text);
        assert_eq!(verdict.next.command.as_deref(), Some("ss -ltnp 'sport = :8080'"));
    }

    #[test]
    fn a_program_that_makes_progress_is_slow_and_not_stopped() {
        let scene = Scene::server().unaccepted().listened_by(&[owned_by(7, "uwsgi", 3)]).closed_before(4, secs(1));
        let verdict = scene.verdict();
        assert_eq!(verdict.rule, "never_accepted");
        assert!(verdict.text.contains("the last one 4s ago: the accept loop is slow"), "{}", verdict.text);
        assert!(verdict.next.text.contains("uwsgi[7]"), "{}", verdict.next.text);
    }

    #[test]
    fn a_socket_that_is_accepted_or_may_be_is_excluded() {
        for accepted in [Some(true), None] {
            let mut scene = Scene::server();
            scene.socket.accepted = accepted;
            assert_eq!(scene.check(&NeverAccepted), None);
        }
    }
}
