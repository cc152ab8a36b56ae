//! Exit of a socket from CLOSE_WAIT, and its cause.

use serde::{Deserialize, Serialize};

use super::{Dwell, Task};
use crate::time::BootTime;

/// Reason why a socket left CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ExitCause {
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
    /// The listener closed while the socket waited to be accepted.
    ListenerClosed,
    /// No fact shows the reason.
    Unknown,
}

/// Exit of a socket from CLOSE_WAIT while a program still has a descriptor for it: the socket shows in no list of
/// connections and counts against the limit of open files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Time of the exit; if it was missed, time at which the agent noticed it.
    pub at: BootTime,
    /// Whether the agent saw the exit.
    pub seen: bool,
    /// Cause of the exit.
    pub how: ExitCause,
    /// Task that caused the exit, if known.
    pub closer: Option<Task>,
    /// Dwell time in CLOSE_WAIT; `None` if the entry is unknown.
    pub dwell: Option<Dwell>,
}
