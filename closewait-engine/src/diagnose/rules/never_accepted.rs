//! A socket that waits in its listener's backlog.

use crate::diagnose::{About, Judgement, Rule, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class},
};

/// `sk_socket` is null in CLOSE_WAIT: `inet_accept` has not run (net/ipv4/af_inet.c at v5.10), so no program has it.
pub(super) struct NeverAccepted;

impl Rule for NeverAccepted {
    fn about(&self) -> &'static About {
        &About {
            name: "never_accepted",
            when: "no program has accepted it, and `accept_stopped` does not apply: it is young, its listener is \
                   unknown, or the program still closes others",
            class: &[Class::NeverAccepted],
            certainty: &[(Certainty::Fact, "the kernel has made no file for it, so no program has it")],
            says: "the peer connected, waited in the backlog and left; the accept loop is slow or has had a burst",
            next: "find the program that listens and see how often it calls accept()",
            not: &["a program that holds it and does not read: that one has accepted it"],
            seen: &["haproxy/haproxy#136", "kubernetes/kubernetes#66133"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        if case.socket.accepted? {
            return None;
        }
        let (local, age) = (case.socket.local, text::age(case));
        let backlog = case
            .listener
            .map(|listener| &listener.what)
            .map_or_else(String::new, |listener| format!(" ({} of {})", listener.backlog, listener.backlog_max));
        let flow = case.group.flow.as_ref().filter(|_| case.listeners < 2);
        let last_closed = flow.and_then(|flow| flow.last_closed);
        let goes_on = match last_closed.filter(|closed| *closed >= case.entered) {
            Some(closed) => format!(
                "; others of the port were closed since, the last {} ago: the accept loop is slow, or has had a burst",
                text::duration(case.now.since(closed))
            ),
            None => String::new(),
        };
        let find = match text::names(&text::tasks(case)) {
            Some(who) => format!("see why {who} does not call accept() sooner"),
            None => {
                format!("find the program that listens on port {} and see why it does not call accept()", local.port)
            }
        };
        Some(Judgement {
            class: Class::NeverAccepted,
            certainty: Certainty::Fact,
            text: format!(
                "it waits in the backlog of the listener on {local}{backlog}: no program has accepted it, the peer has \
                 left {age} ago{goes_on}"
            ),
            next: format!(
                "{find}; `ss -ltnp 'sport = :{port}'` shows its backlog as Recv-Q of Send-Q",
                port = local.port
            ),
        })
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
        assert!(verdict.next.contains("sport = :8080"), "{}", verdict.next);
    }

    #[test]
    fn a_program_that_goes_on_is_slow_and_not_stopped() {
        let scene = Scene::server().unaccepted().listened_by(&[owned_by(7, "uwsgi", 3)]).closed_before(4, secs(1));
        let verdict = scene.verdict();
        assert_eq!(verdict.rule, "never_accepted");
        assert!(verdict.text.contains("the last 4s ago: the accept loop is slow"), "{}", verdict.text);
        assert!(verdict.next.contains("uwsgi[7]"), "{}", verdict.next);
    }

    #[test]
    fn it_says_nothing_of_one_that_was_accepted_or_of_which_that_is_unknown() {
        for accepted in [Some(true), None] {
            let mut scene = Scene::server();
            scene.socket.accepted = accepted;
            assert_eq!(scene.ask(&NeverAccepted), None);
        }
    }
}
