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
