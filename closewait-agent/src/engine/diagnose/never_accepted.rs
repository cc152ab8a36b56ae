//! A socket that waits in its listener's backlog.

use super::{Judgement, Rule};
use crate::engine::{
    diagnose::Case,
    model::{Certainty, Class},
};

/// `sk_socket` is null in CLOSE_WAIT: `inet_accept` has not run (net/ipv4/af_inet.c at v5.10), so no program has it.
pub(super) struct NeverAccepted;

impl Rule for NeverAccepted {
    fn name(&self) -> &'static str {
        "never_accepted"
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        if case.socket.accepted? {
            return None;
        }
        let local = case.socket.local;
        Some(Judgement {
            class: Class::NeverAccepted,
            certainty: Certainty::Fact,
            text: format!(
                "it waits in the backlog of the listener on {local}: no program has accepted it, the peer has left"
            ),
            next: format!(
                "find the program that listens on port {port} and see why it does not call accept(); \
                 `ss -ltnp 'sport = :{port}'` shows its backlog as Recv-Q of Send-Q",
                port = local.port
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{diagnose::verdict, testing::socket};

    #[test]
    fn a_socket_in_the_backlog_is_a_fact() {
        let verdict = verdict(&Socket { accepted: Some(false), ..socket() });
        assert_eq!((verdict.class, verdict.certainty), (Class::NeverAccepted, Certainty::Fact));
        assert!(verdict.text.contains("10.0.0.5:8080"), "{}", verdict.text);
        assert!(verdict.next.contains("sport = :8080"), "{}", verdict.next);
    }

    #[test]
    fn it_says_nothing_of_one_that_was_accepted_or_of_which_that_is_unknown() {
        for accepted in [Some(true), None] {
            assert_eq!(NeverAccepted.check(&Socket { accepted, ..socket() }), None);
        }
    }
}
