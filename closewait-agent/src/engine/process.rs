//! What a process is and does.

use serde::{Deserialize, Serialize};

use super::text::Comm;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub comm: Comm,
    /// Start.
    pub started_ns: Option<u64>,
    /// Parent.
    pub parent: Option<u32>,
    /// Exe.
    pub exe: Option<String>,
    /// Descriptors that are open.
    pub fds_open: Option<u64>,
    /// How many may be.
    pub fds_limit: Option<u64>,
}

impl Process {
    /// What most of its threads do, in words.
    pub fn activity(&self) -> Option<String> {
        None
    }

    /// The share of a CPU that its busiest thread uses, in thousandths, if that is nearly all of one.
    pub fn busy_thread(&self) -> Option<u32> {
        None
    }

    /// Whether one thread does all of its work on sockets.
    pub fn is_event_loop_runtime(&self) -> bool {
        false
    }

    /// The command that shows where its threads are.
    pub fn dump_command(&self) -> Option<String> {
        None
    }
}
