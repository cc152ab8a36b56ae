//! Exit of a socket from CLOSE_WAIT, and its cause.

use serde::{Deserialize, Serialize};

use super::{Dwell, Task};
use crate::time::BootTime;

/// Cause of a socket's exit from CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ExitCause {
    /// The program closed the socket, and the kernel sent the FIN.
    Closed,
    /// The program shut down the sending side and keeps the descriptor.
    Shutdown,
    /// The program reset the connection: it closed with unread data or an `SO_LINGER` of 0, or connected to `AF_UNSPEC`.
    Aborted,
    /// The peer reset the connection.
    Reset,
    /// Keepalive or retransmission timed out.
    Timeout,
    /// A program destroyed the socket with `SOCK_DESTROY`, as `ss -K` does.
    Destroyed,
    /// The listener closed before a program accepted the socket.
    ListenerClosed,
    /// The cause is unknown.
    Unknown,
}

impl ExitCause {
    /// All causes.
    pub const ALL: [Self; 8] = [
        Self::Closed,
        Self::Shutdown,
        Self::Aborted,
        Self::Reset,
        Self::Timeout,
        Self::Destroyed,
        Self::ListenerClosed,
        Self::Unknown,
    ];

    /// Whether the peer or its silence ended the connection: the program has not closed it.
    pub(crate) const fn is_by_peer(self) -> bool {
        matches!(self, Self::Reset | Self::Timeout)
    }

    /// Returns the name in events and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Shutdown => "shutdown",
            Self::Aborted => "aborted",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Destroyed => "destroyed",
            Self::ListenerClosed => "listener_closed",
            Self::Unknown => "unknown",
        }
    }
}

/// Exit of a socket from CLOSE_WAIT while a program still has a descriptor of it. Such a socket appears in no list of
/// connections, but counts against the limit of open files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Time of the exit; if the agent missed it, the time at which the agent noticed it.
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
