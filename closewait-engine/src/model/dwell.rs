//! Dwell time of a socket, and the time of its entry.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::BootTime;

/// Dwell time of a socket, exact or as bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dwell {
    /// Dwell time of a socket whose entry the agent saw.
    Exact(Duration),
    /// Bounds for a socket that is older than the agent, or whose entry the agent missed.
    Between {
        /// Lower bound.
        at_least: Duration,
        /// Upper bound; `None` if unknown.
        at_most: Option<Duration>,
    },
}

impl Dwell {
    /// Returns the exact dwell time, or the lower bound.
    pub fn at_least(self) -> Duration {
        match self {
            Self::Exact(dwell) => dwell,
            Self::Between { at_least, .. } => at_least,
        }
    }
}

/// Time at which a socket entered CLOSE_WAIT, exact or as bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Since {
    /// Time of an entry that the agent saw.
    Exact(BootTime),
    /// Bounds for an entry that the agent did not see.
    Between {
        /// Earliest possible entry; `None` if unknown.
        earliest: Option<BootTime>,
        /// Latest possible entry.
        latest: BootTime,
    },
}

/// Largest delay of the kernel's ticks behind its clock on a busy host or in a guest. A time computed from ticks can be wrong by this
/// delay.
const TICKS_LATE: Duration = Duration::from_millis(100);

impl Since {
    /// Whether the socket certainly entered after `moment`. A bound counts with the delay of the ticks from which it is computed.
    pub fn is_after(self, moment: BootTime) -> bool {
        match self {
            Self::Exact(entered) => entered > moment,
            Self::Between { earliest, .. } => earliest.is_some_and(|earliest| earliest - TICKS_LATE > moment),
        }
    }

    /// Returns the dwell time at `now`.
    pub fn dwell(self, now: BootTime) -> Dwell {
        match self {
            Self::Exact(entered) => Dwell::Exact(now.since(entered)),
            Self::Between { earliest, latest } => {
                Dwell::Between { at_least: now.since(latest), at_most: earliest.map(|earliest| now.since(earliest)) }
            }
        }
    }

    /// Whether the socket cannot have entered at `moment`, as [`Since::is_after`] counts bounds.
    pub fn excludes(self, moment: BootTime) -> bool {
        match self {
            Self::Exact(entered) => moment != entered,
            Self::Between { latest, .. } => moment > latest + TICKS_LATE || self.is_after(moment),
        }
    }

    /// Returns the latest possible time of the entry.
    pub fn latest(self) -> BootTime {
        match self {
            Self::Exact(entered) => entered,
            Self::Between { latest, .. } => latest,
        }
    }
}
