//! What a process is and does.
use super::text::Comm;
use serde::{Deserialize, Serialize};
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
