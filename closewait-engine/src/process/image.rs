//! Program that a process runs.

use serde::{Deserialize, Serialize};

use super::Process;

/// Program that a process runs, since its last execve(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessImage {
    /// Start time of the process, nanoseconds since boot on `CLOCK_BOOTTIME`, to the tick of 10 ms.
    pub started_ns: u64,
    /// Number that another program of the same process very likely does not have: the agent makes it from the address at which the stack
    /// of the first thread began, which each execve(2) chooses at random (`setup_arg_pages`, fs/exec.c at v5.10), unless the user has
    /// forbidden that. Two agents make different numbers. `None` if the agent may not read the address.
    pub exec_id: Option<u64>,
}

impl ProcessImage {
    /// Whether both are the same program, as far as is known.
    pub fn is_same(self, other: Self) -> bool {
        let differs = self.exec_id.zip(other.exec_id).is_some_and(|(one, other)| one != other);
        self.started_ns == other.started_ns && !differs
    }
}

impl Process {
    /// Returns the program that it runs; `None` if its start is unknown.
    pub fn image(&self) -> Option<ProcessImage> {
        Some(ProcessImage { started_ns: self.started_ns?, exec_id: self.exec_id })
    }
}
