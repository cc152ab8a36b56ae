//! How a server gets on with the sockets of a port: the hard question between "hung" and "forgets some".

use std::time::Duration;

use super::Case;
use crate::time::BootTime;

/// What was seen of others on the same port since this one entered CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Not watched, or not for long enough.
    Unwatched,
    /// The program has ended none.
    Stands {
        /// It had ended some before, and has now needed far longer than it ever did.
        proven: bool,
    },
    /// The program ends others, and has taken about as long over one of them.
    Slow {
        /// The longest that one took.
        longest: Duration,
    },
    /// The program ends others, and needs far less for them.
    GoesOn,
}

/// A stay that the program ended shows that a stay of up to so many times its length may end as well.
const SLOW_TIMES: u32 = 2;
/// To call a program hung it must have needed so many times longer than ever before.
const HUNG_TIMES: u32 = 4;

impl Pace {
    /// What became of others of the port, as the end of a sentence; empty if that was not watched.
    pub(super) fn of_others(self, port: u16) -> String {
        match self {
            Self::Unwatched => String::new(),
            Self::Stands { .. } => format!("; nothing of port {port} was closed since"),
            Self::Slow { .. } | Self::GoesOn => format!("; others of port {port} were closed since"),
        }
    }
}

/// Of the socket of a case.
pub(super) fn of(case: &Case<'_>) -> Pace {
    since(case, case.entered)
}

/// The same, since another moment.
pub(super) fn since(case: &Case<'_>, moment: BootTime) -> Pace {
    let Some(flow) = &case.group.flow else { return Pace::Unwatched };
    let waits = case.now.since(moment);
    if flow.last_closed.is_some_and(|closed| closed >= moment) {
        return match flow.longest_closed {
            Some(longest) if waits <= longest.saturating_mul(SLOW_TIMES) => Pace::Slow { longest },
            Some(_) | None => Pace::GoesOn,
        };
    }
    // What went on before anybody watched is not known.
    let quiet = waits.min(flow.watched);
    if quiet < case.stuck_after {
        return Pace::Unwatched;
    }
    let needed = flow.longest_closed.unwrap_or_default().saturating_mul(HUNG_TIMES);
    let proven = flow.closed > 0 && quiet >= case.stuck_after.saturating_mul(2) && quiet >= needed;
    Pace::Stands { proven }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Scene, secs},
        *,
    };

    #[test]
    fn without_an_agent_nothing_is_known() {
        assert_eq!(Scene::server().aged(900).case(of), Pace::Unwatched);
    }

    #[test]
    fn an_agent_that_has_just_begun_knows_nothing_of_the_time_before() {
        let scene = Scene::server().aged(900).flowing(|flow| flow.watched = secs(30));
        assert_eq!(scene.case(of), Pace::Unwatched);
    }

    #[test]
    fn it_stands_if_nothing_was_closed_since() {
        let scene = Scene::server().aged(300).closed_before(400, secs(2));
        assert_eq!(scene.case(of), Pace::Stands { proven: true });
    }

    #[test]
    fn it_is_not_proven_where_nothing_was_ever_closed_or_some_took_nearly_as_long() {
        let scene = Scene::server().aged(300).flowing(|_| ());
        assert_eq!(scene.case(of), Pace::Stands { proven: false });
        let scene = Scene::server().aged(300).closed_before(400, secs(100));
        assert_eq!(scene.case(of), Pace::Stands { proven: false });
        let scene = Scene::server().aged(100).closed_before(400, secs(2));
        assert_eq!(scene.case(of), Pace::Stands { proven: false }, "too young");
    }

    #[test]
    fn a_program_that_closes_others_is_slow_or_goes_on() {
        let scene = Scene::server().aged(300).closed_before(10, secs(200));
        assert_eq!(scene.case(of), Pace::Slow { longest: secs(200) });
        let scene = Scene::server().aged(300).closed_before(10, secs(2));
        assert_eq!(scene.case(of), Pace::GoesOn);
    }
}
