//! Late exits of one flow: they show that its program is slow, not hung.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    diagnose::evidence::{LATE, LateExits},
    time::BootTime,
};

/// Process whose end was an exit: its pid, if it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndedBy(pub(crate) Option<u32>);

/// Time and dwell time of the exit of a socket that the program had kept for [`LATE`] or longer.
pub(super) type LateExit = (BootTime, Duration);

/// The last process that ended with a late exit, and its first one, while that is among the stored ones.
pub(super) type EndedLate = Option<(EndedBy, Option<LateExit>)>;

/// Adds an exit at `at` after `stayed` to the latest ones, if that is late. `ended` is the process that has ended, if that was the cause.
///
/// The kernel closes the sockets of a process that ends. A process for one connection has finished it then, but one that ends with
/// more sockets has crashed or was restarted, and has finished none of them: they say nothing about the next process.
pub(super) fn add(
    exits: &mut VecDeque<LateExit>,
    ended_late: &mut EndedLate,
    (at, stayed): LateExit,
    ended: Option<EndedBy>,
) {
    if stayed < LATE {
        return;
    }
    if let Some(ended) = ended {
        if let Some((last, first)) = ended_late
            && *last == ended
        {
            let first = first.take();
            exits.retain(|exit| Some(*exit) != first);
            return;
        }
        *ended_late = Some((ended, Some((at, stayed))));
    }
    // Pop before the push, so that the queue does not grow beyond the limit.
    if exits.len() >= LateExits::MAX {
        exits.pop_front();
    }
    exits.push_back((at, stayed));
}

/// Returns the number of the late exits, the time of the last one and the longest dwell time.
pub(super) fn summary(exits: &VecDeque<LateExit>) -> LateExits {
    LateExits {
        count: u32::try_from(exits.len()).unwrap_or(u32::MAX),
        last: exits.back().map(|(at, _)| *at),
        longest: exits.iter().map(|(_, stayed)| *stayed).max().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    /// Returns the log after exits at these times, each after 8 s, because these processes ended.
    fn log(exits: &[(u64, Option<u32>)]) -> LateExits {
        let (mut log, mut ended_late) = (VecDeque::new(), None);
        for (seconds, pid) in exits {
            let exit = (at(*seconds), Duration::from_secs(8));
            add(&mut log, &mut ended_late, exit, pid.map(|pid| EndedBy(Some(pid))));
        }
        summary(&log)
    }

    #[test]
    fn a_process_that_ends_with_many_sockets_has_finished_none() {
        let exits = log(&[(10, None), (11, Some(7)), (11, Some(7)), (11, Some(7)), (11, Some(7))]);
        assert_eq!((exits.count, exits.last), (1, Some(at(10))));
        // The same pid later is another process, and its sockets do not count either.
        assert_eq!(log(&[(11, Some(7)), (11, Some(7)), (90, Some(7)), (90, Some(7))]).count, 0);
    }

    #[test]
    fn a_process_for_each_connection_finishes_it_with_its_end() {
        let exits = log(&[(10, Some(7)), (11, Some(8)), (12, Some(9))]);
        assert_eq!((exits.count, exits.last), (3, Some(at(12))));
    }

    #[test]
    fn early_exits_do_not_count() {
        let mut log = VecDeque::new();
        add(&mut log, &mut None, (at(10), Duration::from_secs(1)), None);
        assert_eq!(summary(&log), LateExits::default());
    }

    #[test]
    fn only_the_latest_ones_are_stored() {
        assert_eq!(log(&[(10, None); 2 * LateExits::MAX]).count, u32::try_from(LateExits::MAX).unwrap());
    }
}
