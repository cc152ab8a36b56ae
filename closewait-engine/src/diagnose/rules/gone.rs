//! A connection that is over, and a descriptor that is left of it.

use std::time::Duration;

use crate::diagnose::{About, Judgement, Rule, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, ExitCause},
};

/// Leaving CLOSE_WAIT is not being closed: `tcp_reset`, `tcp_write_err` and `tcp_abort` end the connection and leave the
/// file alone (net/ipv4/tcp_input.c, tcp_timer.c, tcp.c at v5.10).
pub(super) struct Gone;

/// Time after the end of a connection from which on no slow program explains an open descriptor.
const LONG: Duration = Duration::from_secs(600);

impl Rule for Gone {
    fn about(&self) -> &'static About {
        &About {
            name: "gone",
            when: "the connection is over (reset, timeout, destroyed, shut down), and a program still has its descriptor",
            class: &[Class::Leak, Class::Transient, Class::Unknown],
            certainty: &[
                (Certainty::Medium, "a leak for a server that has kept it for 10 min; transient in the first minute"),
                (
                    Certainty::Low,
                    "between the two; for a client, as a pool checks a connection only when it needs one again; \
                                  unknown if no process was found to have it",
                ),
            ],
            says: "that the descriptor is open is a fact; it counts against the limit of open files and shows in no list \
                   of connections",
            next: "look for the code that has the descriptor and does not see the error that a read of it returns",
            not: &["a program that has not closed it yet: transient until it is as old as a stuck socket"],
            seen: &["moby/moby#31660", "gorilla/websocket#91"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let gone = case.gone?;
        let ago = case.now.since(gone.at);
        let how = match gone.how {
            ExitCause::Closed => "its program ended it",
            ExitCause::Shutdown => "its program shut down its sending side",
            ExitCause::Aborted => "its program ended it with a reset",
            ExitCause::Reset => "the peer reset it",
            ExitCause::Timeout => "keepalive or retransmission gave up",
            ExitCause::Destroyed => "it was destroyed from outside, as by `ss -K`",
            ExitCause::ListenerClosed => "its listener was closed",
            ExitCause::Unknown => "it left CLOSE_WAIT in a way that the agent did not see",
        };
        // If nobody saw it leave, it is only known when it was found.
        let when = if gone.seen { format!("{} ago", text::duration(ago)) } else { "before anybody watched".to_owned() };
        if case.owners.is_some_and(<[_]>::is_empty) {
            return Some(Judgement {
                class: Class::Unknown,
                certainty: Certainty::Low,
                text: format!("{how} {when}, and no process was found that still has a descriptor of it"),
                next: "nothing, unless the number of such sockets grows".to_owned(),
            });
        }
        let owner = text::owner(case);
        // A slow program sees the error when it is done.
        let (class, certainty) = match (ago, case.is_client()) {
            (ago, _) if ago <= case.stuck_after.max(super::SURE_AGE) => (Class::Transient, Certainty::Medium),
            (ago, false) if ago > LONG => (Class::Leak, Certainty::Medium),
            (_, _) => (Class::Leak, Certainty::Low),
        };
        let pool = if case.is_client() { " A pool of connections would notice at its next use." } else { "" };
        Some(Judgement {
            class,
            certainty,
            text: format!(
                "{how} {when}, but {owner} still has its descriptor: it counts against the limit of open files \
                 and shows in no list of connections.{pool}"
            ),
            next: format!("find why {owner} does not close it: a read of it returns an error or the end at once"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::testing::{Scene, secs},
        model,
    };

    fn gone(scene: Scene, ago: u64, how: ExitCause) -> Option<Judgement> {
        let at = scene.now - secs(ago);
        Scene { gone: Some(model::Exit { at, seen: true, how, closer: None, dwell: None }), ..scene }.ask(&Gone)
    }

    #[test]
    fn a_descriptor_that_is_kept_is_a_leak() {
        let said = gone(Scene::server(), 300, ExitCause::Reset).unwrap();
        assert_eq!((said.class, said.certainty), (Class::Leak, Certainty::Low), "a slow program sees it late");
        let later = gone(Scene::server(), 700, ExitCause::Reset).unwrap();
        assert_eq!((later.class, later.certainty), (Class::Leak, Certainty::Medium));
        assert!(said.text.starts_with("the peer reset it 5m ago, but app[42] still has"), "{}", said.text);
    }

    #[test]
    fn a_program_gets_time_to_close_it() {
        assert_eq!(gone(Scene::server(), 30, ExitCause::Timeout).unwrap().class, Class::Transient);
    }

    #[test]
    fn a_pool_may_not_have_looked() {
        assert_eq!(gone(Scene::client(), 300, ExitCause::Reset).unwrap().certainty, Certainty::Low);
    }

    #[test]
    fn nobody_is_blamed_if_nobody_has_it() {
        let scene = Scene { owners: Some(Vec::new()), ..Scene::server() };
        assert_eq!(gone(scene, 300, ExitCause::Destroyed).unwrap().class, Class::Unknown);
    }

    #[test]
    fn it_says_nothing_of_one_that_is_in_close_wait() {
        assert_eq!(Scene::server().ask(&Gone), None);
    }
}
