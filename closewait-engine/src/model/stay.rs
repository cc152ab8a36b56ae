//! How long a socket stays in CLOSE_WAIT, and how it leaves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::socket::Task;
use crate::time::BootTime;

/// How long a socket has been in CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dwell {
    /// Its entry was seen.
    Exact(Duration),
    /// It is older than the agent.
    Between {
        /// It has been there at least so long.
        at_least: Duration,
        /// And at most so long, where anything bounds it.
        at_most: Option<Duration>,
    },
}

impl Dwell {
    /// The time that is certain.
    pub fn at_least(self) -> Duration {
        match self {
            Self::Exact(dwell) => dwell,
            Self::Between { at_least, .. } => at_least,
        }
    }
}

/// When a socket entered CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Since {
    /// Its entry was seen.
    Exact(BootTime),
    /// It was found later.
    Between {
        /// Not before this, where anything bounds it.
        earliest: Option<BootTime>,
        /// Not after this.
        latest: BootTime,
    },
}

impl Since {
    /// How long ago that is at `now`.
    pub fn dwell(self, now: BootTime) -> Dwell {
        match self {
            Self::Exact(entered) => Dwell::Exact(now.since(entered)),
            Self::Between { earliest, latest } => {
                Dwell::Between { at_least: now.since(latest), at_most: earliest.map(|earliest| now.since(earliest)) }
            }
        }
    }

    /// Whether it cannot have entered at `moment`.
    pub fn excludes(self, moment: BootTime) -> bool {
        match self {
            Self::Exact(entered) => moment != entered,
            Self::Between { earliest, latest } => moment > latest || earliest.is_some_and(|earliest| moment < earliest),
        }
    }

    /// The moment from which on it certainly was in CLOSE_WAIT.
    pub fn latest(self) -> BootTime {
        match self {
            Self::Exact(entered) => entered,
            Self::Between { latest, .. } => latest,
        }
    }
}

/// How a socket left CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum How {
    /// The program closed it; its FIN went out.
    Closed,
    /// The program shut down its sending side and keeps the descriptor.
    Shutdown,
    /// The program ended it with a reset: unread data, `SO_LINGER` of 0, or a `connect` to `AF_UNSPEC`.
    Aborted,
    /// The peer reset it.
    Reset,
    /// Keepalive or retransmission gave up.
    Timeout,
    /// `SOCK_DESTROY`, as by `ss -K`.
    Destroyed,
    /// Its listener was closed while it waited to be accepted.
    ListenerClosed,
    /// Nothing tells.
    Unknown,
}

/// Exit of a socket from CLOSE_WAIT while a program still has a descriptor for it: the socket shows in no list of
/// connections and counts against the limit of open files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// When it left; if nobody saw that, when it was found.
    pub at: BootTime,
    /// Whether its leaving was seen.
    pub seen: bool,
    /// How.
    pub how: How,
    /// Who did it, where that is known.
    pub closer: Option<Task>,
    /// How long it had stayed in CLOSE_WAIT.
    pub dwell: Option<Dwell>,
}
