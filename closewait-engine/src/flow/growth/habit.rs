//! Dwell times in normal operation, from which the age of mature sockets follows.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Minimum age of a mature socket, because a burst may queue for as long.
const MIN_MATURE_AGE: Duration = Duration::from_secs(5);
/// Minimum age of a mature socket, as a multiple of the longest healthy dwell time.
const TIMES_LONGEST: u32 = 3;
/// Minimum number of healthy exits for a habit. Without a habit, only stuck sockets are mature.
const MIN_HEALTHY_EXITS: u64 = 10;

/// Dwell times of a flow's sockets in normal operation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Habit {
    closed: u64,
    /// Longest dwell time in this span of windows, and in the previous one. Older values expire, so that one slow request does
    /// not count forever.
    longest: [Option<Duration>; 2],
}

impl Habit {
    /// Adds healthy exits after `longest` at most.
    pub(crate) fn closed(&mut self, exits: u64, longest: Duration) {
        self.closed = self.closed.saturating_add(exits);
        self.longest[0] = self.longest[0].max(Some(longest));
    }

    /// Ends a span of windows.
    pub(crate) fn turn(&mut self) {
        self.longest = [None, self.longest[0]];
    }

    /// Returns the longest recent dwell time; `None` with fewer than [`MIN_HEALTHY_EXITS`] exits.
    pub(crate) fn longest(&self) -> Option<Duration> {
        self.longest.into_iter().max().flatten().filter(|_| self.closed >= MIN_HEALTHY_EXITS)
    }

    /// Returns the minimum age of a mature socket.
    pub(crate) fn mature_age(&self, stuck_after: Duration) -> Duration {
        let mature = |longest: Duration| longest.saturating_mul(TIMES_LONGEST).max(MIN_MATURE_AGE).min(stuck_after);
        self.longest().map_or(stuck_after, mature)
    }
}
