//! Connections that have ended while a descriptor is still open.

use std::time::Duration;

use crate::diagnose::{About, Explanation, Judgement, Rule, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class, Exit, ExitCause},
};

/// Detects a descriptor that outlives its connection: `tcp_reset`, `tcp_write_err` and `tcp_abort` end the connection and do not
/// close the file (net/ipv4/tcp_input.c, tcp_timer.c, tcp.c at v5.10).
pub(super) struct Gone;

/// Time after the end of a connection at which a slow program no longer explains an open descriptor.
const LONG: Duration = Duration::from_secs(600);

impl Rule for Gone {
    fn about(&self) -> &'static About {
        &About {
            name: "gone",
            when: "the connection has ended in another way than by the peer, or the agent did not see its end; a program still has its \
                   descriptor",
            class: &[Class::Leak, Class::Transient, Class::Unknown],
            certainty: &[
                (
                    Certainty::Medium,
                    "leak, for a server that has kept the descriptor for more than 10 min; transient, in the first minute",
                ),
                (
                    Certainty::Low,
                    "leak, in between; leak, for a client, because a pool checks a connection only at its next use; unknown, \
                     if closewait found no process that has the descriptor, or in the first minute after the agent noticed an end that \
                     it did not see",
                ),
            ],
            says: "the descriptor is still open; it counts against the limit of open files and appears in no list of connections",
            next: "look for the code that has the descriptor and does not see the error that a read of it returns",
            not: &[
                "a connection in CLOSE_WAIT that the peer or its silence ended: its program is stuck as before, and it is judged with the \
                 sockets of its group",
                "a program that needs time to close it: transient for the first 60 s, or `--stuck-after` if that is longer",
            ],
            seen: &["moby/moby#31660", "gorilla/websocket#91"],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let gone = case.gone?;
        let ago = case.now.since(gone.at);
        if case.owners.is_some_and(<[_]>::is_empty) {
            return Some(Judgement::new(Class::Unknown, Certainty::Low, move || {
                let (how, when) = (how(gone.how), when(gone, ago));
                Explanation {
                    text: format!("{how} {when}, and closewait found no process that still has its descriptor"),
                    next: "nothing, unless the number of such sockets grows".into(),
                }
            }));
        }
        // A slow program sees the error when it has finished its work.
        let is_early = ago <= case.stuck_after.max(super::SURE_AGE);
        let (class, certainty) = match is_early {
            true if gone.seen => (Class::Transient, Certainty::Medium),
            // It can have ended long ago.
            true => (Class::Unknown, Certainty::Low),
            false if ago > LONG && !case.is_client() => (Class::Leak, Certainty::Medium),
            false => (Class::Leak, Certainty::Low),
        };
        Some(Judgement::new(class, certainty, move || {
            let (how, when, owner) = (how(gone.how), when(gone, ago), text::owner(case));
            let pool = if case.is_client() { " A connection pool would notice this at the next use." } else { "" };
            Explanation {
                text: format!(
                    "{how} {when}, but {owner} still {has} its descriptor: it counts against the limit of open files \
                     and appears in no list of connections.{pool}",
                    has = owner.has(),
                ),
                next: format!(
                    "find out why {owner} {does} not close it; a read of it returns at once, with an error or the end of the \
                     data",
                    does = owner.does(),
                )
                .into(),
            }
        }))
    }
}

/// Returns the beginning of a sentence about an exit.
fn how(how: ExitCause) -> &'static str {
    match how {
        ExitCause::Closed => "its program ended it",
        ExitCause::Shutdown => "its program shut down its sending side",
        ExitCause::Aborted => "its program ended it with a reset",
        ExitCause::Reset => "the peer reset it",
        ExitCause::Timeout => "it timed out (keepalive or retransmission)",
        ExitCause::Destroyed => "it was destroyed, as by `ss -K`,",
        ExitCause::ListenerClosed => "its listener was closed",
        ExitCause::Unknown => "it exited CLOSE_WAIT for an unknown reason",
    }
}

/// Formats the time of an exit, which was `ago`.
fn when(gone: &Exit, ago: Duration) -> String {
    // For an exit that the agent missed, the time is that at which the agent noticed it.
    if gone.seen { format!("{} ago", text::duration(ago)) } else { "at an unknown time".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::testing::{Scene, secs},
        model::Verdict,
    };

    fn gone(scene: Scene, ago: u64, how: ExitCause) -> Option<Verdict> {
        let at = scene.now - secs(ago);
        Scene { gone: Some(Exit { at, seen: true, how, closer: None, dwell: None }), ..scene }.check(&Gone)
    }

    #[test]
    fn a_descriptor_that_is_kept_is_a_leak() {
        let judgement = gone(Scene::server(), 300, ExitCause::Reset).unwrap();
        assert_eq!((judgement.class, judgement.certainty), (Class::Leak, Certainty::Low), "the program may be slow");
        let later = gone(Scene::server(), 700, ExitCause::Reset).unwrap();
        assert_eq!((later.class, later.certainty), (Class::Leak, Certainty::Medium));
        assert!(judgement.text.starts_with("the peer reset it 5m ago, but app[42] still has"), "{}", judgement.text);
    }

    #[test]
    fn a_program_gets_time_to_close_it() {
        assert_eq!(gone(Scene::server(), 30, ExitCause::Timeout).unwrap().class, Class::Transient);
    }

    #[test]
    fn an_end_that_was_not_seen_can_be_long_ago() {
        let gone = |ago| Exit {
            at: Scene::server().now - secs(ago),
            seen: false,
            how: ExitCause::Reset,
            closer: None,
            dwell: None,
        };
        let of = |ago| Scene { gone: Some(gone(ago)), ..Scene::server() }.check(&Gone).unwrap();
        assert_eq!((of(30).class, of(30).certainty), (Class::Unknown, Certainty::Low));
        assert_eq!((of(300).class, of(300).certainty), (Class::Leak, Certainty::Low));
    }

    #[test]
    fn a_pool_may_not_have_checked_the_connection() {
        assert_eq!(gone(Scene::client(), 300, ExitCause::Reset).unwrap().certainty, Certainty::Low);
    }

    #[test]
    fn without_an_owner_no_program_is_blamed() {
        let scene = Scene { owners: Some(Vec::new()), ..Scene::server() };
        assert_eq!(gone(scene, 300, ExitCause::Destroyed).unwrap().class, Class::Unknown);
    }

    #[test]
    fn a_socket_in_close_wait_is_excluded() {
        assert_eq!(Scene::server().check(&Gone), None);
    }
}
