//! What the leaving of a socket that had been stuck says of the cause.

use std::time::Duration;

use super::{About, text};
use crate::model::{Certainty, Class, Dwell, ExitCause, Socket, Verdict};

/// The name and the words of this, which is no rule: it is asked once a socket has left.
pub(super) const ABOUT: About = About {
    name: "left",
    when: "a socket that had been stuck has left CLOSE_WAIT",
    class: &[Class::Transient, Class::Unknown],
    certainty: &[
        (Certainty::High, "transient: its program ended it, or wrote an answer to a peer that was gone: late"),
        (
            Certainty::Medium,
            "unknown: it was reset, timed out or destroyed, or its listener was closed; no close() made the number fall",
        ),
    ],
    says: "whether a falling number means that the program got on",
    next: "compare the time that it took with the time-outs of the peers; for the others, see whether the descriptor is \
           still open",
    not: &["a number that falls because resets and keepalive clear a leak: how they left tells"],
    seen: &["scotte.org, HttpURLConnection (2015)"],
};

/// The verdict on the leaving; `None` if nothing tells how it left. `wrote` is how many bytes its program has written
/// since the socket was last looked at, as far as that is known.
pub fn left(
    socket: &Socket,
    dwell: Option<Dwell>,
    how: ExitCause,
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
        ExitCause::Closed => (true, format!("it was slow, not stuck for ever: closed{after}")),
        ExitCause::Shutdown => {
            (true, format!("it was slow, not stuck for ever: its sending side was shut down{after}"))
        }
        ExitCause::Aborted => {
            (true, format!("it was slow, not stuck for ever: ended with a reset by its program{after}"))
        }
        // A peer that is gone answers data with a reset (`tcp_rcv_state_process`, net/ipv4/tcp_input.c at v5.10).
        ExitCause::Reset if answered => {
            let bytes = sent
                .filter(|sent| *sent > 0)
                .map_or_else(String::new, |sent| format!(" {}", text::count(sent, "byte")));
            (
                true,
                format!(
                    "it was slow, not stuck for ever: its program wrote{bytes}{after}, to which the peer, gone by then, answered with a reset"
                ),
            )
        }
        ExitCause::Reset => (false, format!("the peer reset it{after}")),
        ExitCause::Timeout => (false, format!("keepalive or retransmission gave up{after}")),
        ExitCause::Destroyed => (false, format!("it was destroyed from outside{after}, as by `ss -K`")),
        ExitCause::ListenerClosed => (false, format!("its listener was closed{after}, before it was accepted")),
        ExitCause::Unknown => return None,
    };
    let verdict = |class, certainty, text, next| Some(Verdict { class, rule: ABOUT.name, certainty, text, next });
    if closed {
        let next = format!(
            "if that is too late, see what kept its program so long; the peer was {} and had closed first",
            socket.remote
        );
        return verdict(Class::Transient, Certainty::High, format!("{fell}{remains}"), next);
    }
    let next = match fd_open {
        Some(true) => {
            "see which program still has the descriptor (`closewait list`): what kept the socket is still there"
        }
        Some(false) | None => "do not take the fall for a recovery: see whether others still stay",
    };
    let text = format!("{fell}: one fewer, without a close() of its program{remains}");
    verdict(Class::Unknown, Certainty::Medium, text, next.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::socket;

    const DWELL: Option<Dwell> = Some(Dwell::Exact(Duration::from_secs(12)));

    #[test]
    fn one_that_its_program_ended_was_slow() {
        for how in [ExitCause::Closed, ExitCause::Shutdown, ExitCause::Aborted] {
            let verdict = left(&socket(), DWELL, how, Some(false), (false, None)).unwrap();
            assert_eq!((verdict.class, verdict.certainty), (Class::Transient, Certainty::High));
            assert!(verdict.text.starts_with("it was slow, not stuck for ever: "), "{}", verdict.text);
            assert!(verdict.text.ends_with("after 12s"), "{}", verdict.text);
        }
    }

    #[test]
    fn one_that_was_answered_too_late_was_slow() {
        let verdict = left(&socket(), DWELL, ExitCause::Reset, Some(true), (true, Some(38))).unwrap();
        assert_eq!((verdict.class, verdict.certainty), (Class::Transient, Certainty::High));
        assert!(verdict.text.contains("wrote 38 bytes after 12s"), "{}", verdict.text);
        let nothing = left(&socket(), DWELL, ExitCause::Reset, Some(true), (false, Some(0))).unwrap();
        assert_eq!(nothing.class, Class::Unknown);
    }

    #[test]
    fn one_that_was_taken_away_says_that_nothing_was_closed() {
        for how in [ExitCause::Reset, ExitCause::Timeout, ExitCause::Destroyed, ExitCause::ListenerClosed] {
            let verdict = left(&socket(), DWELL, how, Some(true), (false, None)).unwrap();
            assert_eq!(verdict.class, Class::Unknown);
            assert!(verdict.text.contains("without a close()"), "{}", verdict.text);
            assert!(verdict.text.contains("descriptor is still open"), "{}", verdict.text);
        }
    }

    #[test]
    fn nothing_is_said_if_nothing_tells() {
        assert_eq!(left(&socket(), DWELL, ExitCause::Unknown, None, (false, None)), None);
    }

    #[test]
    fn an_age_that_is_not_known_is_not_told() {
        assert!(left(&socket(), None, ExitCause::Closed, None, (false, None)).unwrap().text.ends_with("closed"));
        let bounds = Some(Dwell::Between { at_least: Duration::from_secs(12), at_most: None });
        assert!(
            left(&socket(), bounds, ExitCause::Closed, None, (false, None))
                .unwrap()
                .text
                .ends_with("after at least 12s")
        );
    }
}
