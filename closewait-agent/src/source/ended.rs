//! Check whether a process has ended, without `/proc`: nothing here waits for a lock of that process.

use std::{os::fd::AsFd as _, time::Duration};

use rustix::{
    event::PollFlags,
    io::Errno,
    process::{PidfdFlags, pidfd_open},
};

use crate::host::{poll::poll, proc};

/// Whether a process has ended, even if its parent has not waited for it yet. `false` if that is unknown: before
/// Linux 5.3, and if no descriptor is free.
pub fn has_ended(pid: u32) -> bool {
    let Some(pid) = proc::number(pid) else { return false };
    match pidfd_open(pid, PidfdFlags::empty()) {
        // The descriptor becomes readable when the last thread ends (`pidfd_poll`, kernel/fork.c at v5.10).
        Ok(process) => poll(process.as_fd(), PollFlags::IN, Duration::ZERO).contains(PollFlags::IN),
        Err(error) => error == Errno::SRCH,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, id},
        thread,
        time::Duration,
    };

    use super::*;

    #[test]
    fn a_running_process_has_not_ended_and_a_zombie_has() {
        assert!(!has_ended(id()));
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(!has_ended(child.id()));
        child.kill().unwrap();
        let ended = (0..1000).any(|_| {
            thread::sleep(Duration::from_millis(5));
            has_ended(child.id())
        });
        assert!(ended, "a zombie has ended");
        child.wait().unwrap();
        assert!(has_ended(u32::MAX >> 1), "there is none with this number");
    }
}
