//! CPU time and memory of this process.

use std::{fs, time::Duration};

use crate::clock;

/// CPU time and memory of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// CPU time of all threads since the start.
    pub cpu: Duration,
    /// Resident memory, bytes; `None` if it cannot be read.
    pub memory: Option<u64>,
}

impl ProcessUsage {
    /// Reads both.
    pub fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").ok();
        Self { cpu: clock::process_cpu(), memory: status.as_deref().and_then(resident) }
    }
}

/// Returns the resident memory in a text as `/proc/PID/status` has it (`task_mem`, fs/proc/task_mmu.c at v5.10), bytes.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_memory_is_in_bytes() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    6072 kB\nRssAnon:\t 1 kB\n"), Some(6072 * 1024));
        assert_eq!(resident("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn this_process_uses_some() {
        let usage = ProcessUsage::read();
        assert!(usage.memory.is_some_and(|memory| memory > 100_000) && usage.cpu > Duration::ZERO, "{usage:?}");
    }
}
