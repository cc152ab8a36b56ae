//! Errors of an agent's control socket and of queries to it.

use std::{error::Error, fmt, io, path::PathBuf, time::Duration};

use super::PROTOCOL;
use crate::host::in_time::CallFailure;
use closewait_engine::text::duration;

/// Error of an agent's control socket or of a query to it. Its text is the problem with its cause, and a line with a
/// hint.
#[derive(Debug)]
pub enum ControlError {
    /// A file that is no socket is at the path.
    Occupied {
        /// Path of the socket.
        path: PathBuf,
        /// Kind of file, with its article.
        what: &'static str,
    },
    /// A socket of another user is at the path.
    Foreign {
        /// Path of the socket.
        path: PathBuf,
        /// User who owns the socket.
        owner: u32,
    },
    /// Another agent answers at the path.
    Taken {
        /// Path of the socket.
        path: PathBuf,
    },
    /// The path is too long for the address of a Unix socket.
    TooLong {
        /// Path of the socket.
        path: PathBuf,
    },
    /// A system call failed while the agent created the socket.
    Listen {
        /// Name of the system call.
        call: &'static str,
        /// Path that the call got.
        path: PathBuf,
        /// Error of the call.
        error: io::Error,
    },
    /// The server is neither root nor the own user, and root has not given it the folder.
    Untrusted {
        /// Path of the socket.
        path: PathBuf,
        /// User of the server.
        user: u32,
    },
    /// The agent took too long.
    Slow {
        /// Path of the socket.
        path: PathBuf,
        /// Time that the client waited.
        waited: Duration,
        /// Bytes of the answer that arrived until then.
        bytes: u64,
    },
    /// The file system of the socket took too long.
    Unanswered {
        /// Path of the socket.
        path: PathBuf,
        /// System call that did not answer, and its duration.
        why: CallFailure,
        /// Whether a client was connecting, not an agent listening.
        asked: bool,
    },
    /// A system call failed during a query.
    Ask {
        /// Name of the system call.
        call: &'static str,
        /// Path of the socket.
        path: PathBuf,
        /// Error of the call.
        error: io::Error,
    },
    /// The agent uses another version of the protocol.
    Version {
        /// Path of the socket.
        path: PathBuf,
        /// Version of the agent's protocol; 0 before the first.
        protocol: u32,
        /// Version of the agent; empty before the first.
        agent: String,
    },
    /// The agent refused to answer, or its answer is unusable.
    Answer {
        /// Path of the socket.
        path: PathBuf,
        /// The reason.
        why: String,
    },
}

impl ControlError {
    /// Returns what failed and why, without the hint.
    pub fn problem(&self) -> String {
        match self {
            Self::Occupied { path, what } => format!("{} is {what}, not a socket; it stays as it is", path.display()),
            Self::Foreign { path, owner } => {
                format!("{} is a socket of user {owner}; it stays as it is", path.display())
            }
            Self::Taken { path } => format!("another agent answers at {}", path.display()),
            Self::TooLong { path } => format!(
                "the path of the socket is too long: {} has {} bytes, and {MAX_SOCKET_PATH} are possible",
                path.display(),
                path.as_os_str().len()
            ),
            Self::Listen { call, path, error } => format!("{call} for {} failed: {error}", path.display()),
            Self::Untrusted { path, user } => format!(
                "user {user} answers at {}, who is neither root, nor you, nor the owner of a folder that root has made for \
                 an agent: the answer is not taken",
                path.display()
            ),
            Self::Slow { path, waited, bytes: 0 } => {
                format!("the agent did not answer within {} ({})", duration(*waited), path.display())
            }
            Self::Slow { path, waited, bytes } => format!(
                "the agent did not answer within {}: only {bytes} bytes came ({})",
                duration(*waited),
                path.display()
            ),
            Self::Unanswered { path, why, asked: true } => {
                format!("querying the agent at {} failed: {why}", path.display())
            }
            Self::Unanswered { path, why, asked: false } => format!("{}: {why}", path.display()),
            Self::Ask { call, path, error } => {
                format!("querying the agent at {} failed ({call}): {error}", path.display())
            }
            Self::Version { path, protocol, agent } => {
                let version = if agent.is_empty() { String::new() } else { format!(" of version {agent}") };
                format!(
                    "the agent{version} at {} speaks version {protocol} of the control protocol, and this closewait (version {}) \
                     speaks version {PROTOCOL}",
                    path.display(),
                    env!("CARGO_PKG_VERSION")
                )
            }
            Self::Answer { path, why } => format!("the agent at {} gave no answer: {why}", path.display()),
        }
    }

    /// Returns what the user can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Occupied { .. } | Self::Foreign { .. } => {
                "give a --socket of its own to this agent, or move away what is there"
            }
            Self::Taken { .. } => "give a --socket of its own to this agent, or stop the other",
            Self::TooLong { .. } => "give a shorter --socket",
            Self::Listen { .. } => "give a --socket in a folder that this user may write to",
            Self::Untrusted { .. } => "scan without the agent: --alone",
            Self::Slow { .. } => "check whether the agent is stopped or busy, or scan without it: --alone",
            Self::Unanswered { asked: true, .. } => {
                "check the file system of the path, or scan without the agent: --alone"
            }
            Self::Unanswered { .. } => "check the file system of the path, or give a --socket on another one",
            Self::Ask { .. } => "run as root or as the user that runs the agent, or scan without it: --alone",
            Self::Version { .. } => {
                "restart the agent with this closewait, use the closewait of the agent, or scan without it: --alone"
            }
            Self::Answer { .. } => "check that the agent has the same version, or scan without it: --alone",
        }
    }

    /// Whether a one-off scan may replace the agent's answer: the client did not find an untrusted server there.
    pub fn permits_scan(&self) -> bool {
        matches!(self, Self::Ask { .. } | Self::Slow { .. } | Self::TooLong { .. } | Self::Unanswered { .. })
    }
}

/// Maximum length of a path in the address of a Unix socket, bytes: `UNIX_PATH_MAX` (include/uapi/linux/un.h, v6.18)
/// less the zero at its end.
pub const MAX_SOCKET_PATH: usize = 107;

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nhint: {}", self.problem(), self.hint())
    }
}

impl Error for ControlError {}
