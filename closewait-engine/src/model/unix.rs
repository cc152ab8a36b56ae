//! Connections of processes to programs that listen on UNIX sockets.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Task;
use crate::{text::harmless_field, time::BootTime};

/// Connections of one process over UNIX sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixConnections {
    /// The process.
    pub pid: u32,
    /// Time of the read.
    pub at: BootTime,
    /// Listeners that the process is connected to, one for each path.
    pub listeners: Vec<UnixListener>,
}

/// Listener of a UNIX socket, and the connections of one process to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixListener {
    /// Path of the socket; `@` before an abstract name.
    #[serde(deserialize_with = "harmless_field")]
    pub path: String,
    /// Number of connections of the process to it.
    pub connections: u32,
    /// Number of these that no program has accepted.
    pub queued: u32,
    /// Number of those that no program has accepted, and on which the process has sent nothing.
    pub queued_idle: u32,
    /// Number of connections, accepted or not, with data of the process that the other program has not read.
    pub unread: u32,
    /// Processes that have a descriptor of the listener; empty if the agent did not find them.
    pub owners: Vec<Task>,
}

impl UnixListener {
    /// Returns the number of connections that are certain to wait for an answer.
    ///
    /// Nothing shows when data came in, so an accepted connection without unread data may be idle in a pool. A program opens no connection
    /// for a request while it has an idle one, so if it sent requests on all of those that are not accepted, the others wait, too.
    pub fn waiting(&self) -> u32 {
        if self.queued > 0 && self.queued_idle == 0 { self.connections } else { self.unread }
    }
}

/// Program behind a UNIX socket, and the connections of a group's owners to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixBackend {
    /// Path of the socket; `@` before an abstract name.
    #[serde(deserialize_with = "harmless_field")]
    pub path: String,
    /// Number of connections of the owners to it.
    pub connections: u32,
    /// Number of these that no program has accepted.
    pub queued: u32,
    /// Number of connections that are certain to wait for an answer.
    pub waiting: u32,
    /// Process that has a descriptor of the listener; of several, one whose threads explain most. `None` if unknown.
    pub program: Option<Task>,
    /// Number of processes that have a descriptor of the listener.
    pub processes: u32,
    /// Activity of the threads of `program`; `None` if unknown.
    #[serde(deserialize_with = "harmless_field")]
    pub activity: Option<String>,
}

impl fmt::Display for UnixBackend {
    /// Writes the path and the program: `/run/php.sock (php-fpm[7])`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        self.program.as_ref().map_or(Ok(()), |task| write!(f, " ({task})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_connection_without_unread_data_may_be_idle() {
        let listener = |connections, queued, queued_idle, unread| UnixListener {
            path: "/run/app.sock".to_owned(),
            connections,
            queued,
            queued_idle,
            unread,
            owners: Vec::new(),
        };
        assert_eq!(listener(27, 0, 0, 0).waiting(), 0, "an idle pool");
        assert_eq!(listener(27, 0, 0, 3).waiting(), 3);
        assert_eq!(listener(27, 22, 0, 22).waiting(), 27, "a request opens a connection only if no other is idle");
        assert_eq!(listener(27, 22, 1, 21).waiting(), 21, "a pool that connects ahead");
    }
}
