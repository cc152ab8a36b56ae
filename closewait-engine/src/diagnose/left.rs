//! Verdict on a stuck socket that has exited CLOSE_WAIT.

use std::time::Duration;

use super::{About, text};
use crate::model::{Certainty, Class, Dwell, ExitCause, Socket, Verdict};
use crate::process::NextStep;

/// Description of this verdict. It is not a rule: the engine gives it when a stuck socket exits CLOSE_WAIT.
pub(super) const ABOUT: About = About {
    name: "left",
    when: "a stuck socket has exited CLOSE_WAIT",
    class: &[Class::Transient, Class::Unknown],
    certainty: &[
        (
            Certainty::High,
            "transient: the program closed, shut down or reset the connection late, or wrote an answer to a peer that was already gone",
        ),
        (
            Certainty::Medium,
            "transient: the kernel closed the socket because the process ended, or it is unknown which of the two closed it; unknown: the socket was reset, timed out or destroyed, or its listener was closed; the program did not call close()",
        ),
    ],
    says: "whether a falling number of sockets means that the program has recovered",
    next: "if the program ended the socket, compare the dwell time with the timeouts of the peers; otherwise, see whether the \
           descriptor is still open",
    not: &["a number that falls because resets and keepalive clear a leak: the cause of the exit shows the difference"],
    seen: &["scotte.org, HttpURLConnection (2015)"],
};

/// Returns the verdict on an exit; `None` if its cause is unknown. `ended` is whether the kernel closed the socket because its
/// program ended, if known, `answered` whether the program wrote to a peer that was already gone, `sent` the number of bytes that
/// it wrote since the last refresh of the socket, if known.
pub fn left(
    socket: &Socket,
    dwell: Option<Dwell>,
    (how, ended): (ExitCause, Option<bool>),
    fd_open: Option<bool>,
    (answered, sent): (bool, Option<u64>),
) -> Option<Verdict> {
    let after = dwell.map_or_else(String::new, |dwell| match dwell {
        Dwell::Exact(exact) => format!(" after {}", text::duration(exact)),
        Dwell::Between { at_least, at_most: _ } if at_least == Duration::ZERO => String::new(),
        Dwell::Between { at_least, at_most: _ } => format!(" after at least {}", text::duration(at_least)),
    });
    let remains = match fd_open {
        Some(true) => "; its descriptor is still open and counts against the limit of open files",
        Some(false) | None => "",
    };
    let (closed, fell) = match how {
        // The kernel closes the sockets of a process that ends.
        ExitCause::Closed | ExitCause::Aborted if ended == Some(true) => {
            (true, format!("its program ended{after}, and had not closed it: the kernel did"))
        }
        ExitCause::Closed if ended == Some(false) => {
            (true, format!("its program was slow, not hung: it closed the socket{after}"))
        }
        ExitCause::Closed => (true, format!("its program was slow, or has ended: it closed the socket{after}")),
        ExitCause::Shutdown => (true, format!("its program was slow, not hung: it shut down the sending side{after}")),
        ExitCause::Aborted => (true, format!("its program was slow, not hung: it reset the connection{after}")),
        // A peer that is gone answers data with a reset (`tcp_rcv_state_process`, net/ipv4/tcp_input.c at v5.10).
        ExitCause::Reset if answered => {
            let bytes = sent
                .filter(|sent| *sent > 0)
                .map_or_else(String::new, |sent| format!(" {}", text::count(sent, "byte")));
            (
                true,
                format!(
                    "its program was slow, not hung: it wrote{bytes}{after}, and the peer, which was already gone, answered \
                     with a reset"
                ),
            )
        }
        ExitCause::Reset => (false, format!("the peer reset it{after}")),
        ExitCause::Timeout => (false, format!("it timed out (keepalive or retransmission){after}")),
        ExitCause::Destroyed => (false, format!("it was destroyed{after}, as by `ss -K`")),
        ExitCause::ListenerClosed => (false, format!("its listener was closed{after}, before a program accepted it")),
        ExitCause::Unknown => return None,
    };
    let verdict = |class, certainty, text, next| Some(Verdict { class, rule: ABOUT.name, certainty, text, next });
    if closed {
        let next = format!(
            "if that is too late, see what delayed its program; the peer was {}, which had closed first",
            socket.remote
        );
        let certainty = if ended == Some(true) || (how == ExitCause::Closed && ended.is_none()) {
            Certainty::Medium
        } else {
            Certainty::High
        };
        return verdict(Class::Transient, certainty, format!("{fell}{remains}"), next.into());
    }
    let next = match fd_open {
        Some(true) => {
            NextStep::command("see which program still has the descriptor: the cause is still there", "closewait list")
        }
        Some(false) | None => {
            "do not take the lower number for a recovery: see whether other sockets are still stuck".into()
        }
    };
    let text = format!("{fell}; its program did not call close(){remains}");
    verdict(Class::Unknown, Certainty::Medium, text, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::socket;

    const DWELL: Option<Dwell> = Some(Dwell::Exact(Duration::from_secs(12)));

    #[test]
    fn a_socket_that_its_program_ended_was_slow() {
        let causes = [
            (ExitCause::Closed, Certainty::Medium),
            (ExitCause::Shutdown, Certainty::High),
            (ExitCause::Aborted, Certainty::High),
        ];
        for (how, certainty) in causes {
            let verdict = left(&socket(), DWELL, (how, None), Some(false), (false, None)).unwrap();
            assert_eq!((verdict.class, verdict.certainty), (Class::Transient, certainty));
            assert!(verdict.text.starts_with("its program was slow, "), "{}", verdict.text);
            assert!(verdict.text.ends_with("after 12s"), "{}", verdict.text);
        }
    }

    #[test]
    fn a_close_by_the_kernel_is_no_close_by_the_program() {
        let verdict = |how, ended| left(&socket(), DWELL, (how, Some(ended)), Some(false), (false, None)).unwrap();
        for how in [ExitCause::Closed, ExitCause::Aborted] {
            let ended = verdict(how, true);
            assert_eq!(ended.certainty, Certainty::Medium);
            assert_eq!(ended.text, "its program ended after 12s, and had not closed it: the kernel did");
        }
        let closed = verdict(ExitCause::Closed, false);
        assert_eq!(closed.certainty, Certainty::High);
        assert_eq!(closed.text, "its program was slow, not hung: it closed the socket after 12s");
    }

    #[test]
    fn a_socket_that_was_answered_too_late_was_slow() {
        let verdict = left(&socket(), DWELL, (ExitCause::Reset, None), Some(true), (true, Some(38))).unwrap();
        assert_eq!((verdict.class, verdict.certainty), (Class::Transient, Certainty::High));
        assert!(verdict.text.contains("wrote 38 bytes after 12s"), "{}", verdict.text);
        let nothing = left(&socket(), DWELL, (ExitCause::Reset, None), Some(true), (false, Some(0))).unwrap();
        assert_eq!(nothing.class, Class::Unknown);
    }

    #[test]
    fn an_exit_that_the_program_did_not_cause_is_no_recovery() {
        for how in [ExitCause::Reset, ExitCause::Timeout, ExitCause::Destroyed, ExitCause::ListenerClosed] {
            let verdict = left(&socket(), DWELL, (how, None), Some(true), (false, None)).unwrap();
            assert_eq!(verdict.class, Class::Unknown);
            assert!(verdict.text.contains("did not call close()"), "{}", verdict.text);
            assert!(verdict.text.contains("descriptor is still open"), "{}", verdict.text);
        }
    }

    #[test]
    fn an_unknown_exit_cause_gives_no_verdict() {
        assert_eq!(left(&socket(), DWELL, (ExitCause::Unknown, None), None, (false, None)), None);
    }

    #[test]
    fn an_unknown_dwell_time_is_not_printed() {
        let unknown = left(&socket(), None, (ExitCause::Closed, None), None, (false, None)).unwrap();
        assert!(unknown.text.ends_with("it closed the socket"), "{}", unknown.text);
        let bounds = Some(Dwell::Between { at_least: Duration::from_secs(12), at_most: None });
        assert!(
            left(&socket(), bounds, (ExitCause::Closed, None), None, (false, None))
                .unwrap()
                .text
                .ends_with("after at least 12s")
        );
    }
}
