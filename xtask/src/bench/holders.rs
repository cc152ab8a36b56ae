//! Processes that hold descriptors while something is measured.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use fs_err as fs;

use crate::{crowd, exec, namespaces};

/// Processes of a crowd, if it is not too large for them.
const PROCESSES: u32 = 3;

/// Processes with descriptors. Dropping it ends them, and with them their sockets.
pub(super) struct Crowd {
    processes: Vec<Child>,
}

/// Moves this process into a network namespace for crowds. To be called before the first thread starts.
pub(super) fn enter_network() -> Result<()> {
    namespaces::enter_new_network()?;
    // The closed ends of the clients are not measured; the kernel forgets them after a second.
    Ok(fs::write("/proc/sys/net/ipv4/tcp_fin_timeout", "1")?)
}

impl Crowd {
    /// Makes `close_wait` sockets in CLOSE_WAIT and `other` descriptors; the first process has the number `first`.
    pub(super) fn gather(first: u8, close_wait: u32, other: u32) -> Result<Self> {
        let this = exec::this()?;
        let mut crowd = Self { processes: Vec::new() };
        let count = processes(close_wait + other, crowd::most_descriptors()?);
        for (number, (close_wait, other)) in (first..).zip(shares(close_wait, count).zip(shares(other, count))) {
            let mut command = Command::new(&this);
            command.arg("crowd").args(["--number", &number.to_string()]);
            command.args(["--close-wait", &close_wait.to_string(), "--other", &other.to_string()]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            crowd.processes.push(exec::start(&mut command)?);
        }
        for process in &mut crowd.processes {
            let mut line = String::new();
            let stdout = process.stdout.take().context("a crowd has no standard output; this is a bug")?;
            BufReader::new(stdout).read_line(&mut line).context("cannot read from a crowd; this is a bug")?;
            ensure!(line == "ready\n", "a crowd ended before it was ready; its own messages are above");
        }
        Ok(crowd)
    }

    /// How many processes it is.
    pub(super) fn processes(&self) -> usize {
        self.processes.len()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // All begin to close before the first is waited for: that takes some seconds.
        for process in &mut self.processes {
            drop(process.stdin.take());
        }
        for process in &mut self.processes {
            let _killed_if_late = exec::wait_at_most(process, Duration::from_secs(30));
        }
    }
}

/// How many processes `descriptors` need, when one can have `most`.
fn processes(descriptors: u32, most: u32) -> u32 {
    descriptors.div_ceil(most.saturating_sub(crowd::BESIDE).max(1)).max(PROCESSES)
}

/// `total` in equal parts, the first ones larger by one where it does not divide.
fn shares(total: u32, count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(move |index| total / count + u32::from(index < total % count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        assert_eq!(shares(100, 3).collect::<Vec<_>>(), [34, 33, 33]);
        assert_eq!(shares(2, 3).collect::<Vec<_>>(), [1, 1, 0]);
    }

    #[test]
    fn a_large_crowd_has_more_processes() {
        assert_eq!(processes(48_000, 1_048_576), 3);
        assert_eq!(processes(200_000, 20_000), 11);
    }
}
