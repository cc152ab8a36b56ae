//! Whether a process has ended, asked without `/proc`: nothing here waits for a lock of that process.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// Whether a process has ended, also if its parent has not waited for it yet. `false` where that cannot be found out: before
/// Linux 5.3, and if no descriptor is left.
pub fn has_ended(pid: u32) -> bool {
    match open(pid) {
        // It became readable at the end of its last thread (`pidfd_poll`, kernel/fork.c at v5.10).
        Ok(process) => is_readable(&process),
        Err(error) => error.raw_os_error() == Some(libc::ESRCH),
    }
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0) };
    let opened = libc::c_int::try_from(opened).map_err(io::Error::other)?;
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was opened just now, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

fn is_readable(process: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one pollfd that lives here for the time of the call, which does not wait.
    (unsafe { libc::poll(&raw mut poll, 1, 0) }) > 0 && poll.revents & libc::POLLIN != 0
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
    fn one_that_runs_has_not_ended_and_one_that_nobody_has_waited_for_has() {
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
