//! Program that a process runs.

use serde::{Deserialize, Serialize};

use super::Process;

/// Program that a process runs, since its last execve(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessImage {
    /// Start time of the process, nanoseconds since boot on `CLOCK_BOOTTIME`, to the tick of 10 ms.
    pub started_ns: u64,
    /// Address at which the stack of its first thread began. Each execve(2) chooses another one at random, unless the user has forbidden
    /// that (`setup_arg_pages`, fs/exec.c at v5.10; `randomize_va_space`). `None` if the agent may not read it.
    pub stack_start: Option<u64>,
}

impl ProcessImage {
    /// Whether both are the same program, as far as is known.
    pub fn is_same(self, other: Self) -> bool {
        let differs = self.stack_start.zip(other.stack_start).is_some_and(|(one, other)| one != other);
        self.started_ns == other.started_ns && !differs
    }
}

impl Process {
    /// Returns the program that it runs; `None` if its start is unknown.
    pub fn image(&self) -> Option<ProcessImage> {
        Some(ProcessImage { started_ns: self.started_ns?, stack_start: self.stack_start })
    }
}
