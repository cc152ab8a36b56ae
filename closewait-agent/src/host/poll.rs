//! What a descriptor is ready for.

use std::{os::fd::BorrowedFd, time::Duration};

use rustix::event::{self, PollFd, PollFlags, Timespec};

/// Returns what a descriptor is ready for, after at most `timeout`; nothing if it is not, or the call was interrupted.
pub fn poll(fd: BorrowedFd<'_>, events: PollFlags, timeout: Duration) -> PollFlags {
    let mut entry = [PollFd::from_borrowed_fd(fd, events)];
    // A timeout of many years is cut off by the kernel.
    let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
    match event::poll(&mut entry, Some(&timeout)) {
        Ok(1..) => entry[0].revents(),
        Ok(0) | Err(_) => PollFlags::empty(),
    }
}

/// Whether `fd` is a pipe or a socket whose other end was closed.
pub fn reader_is_gone(fd: BorrowedFd<'_>) -> bool {
    poll(fd, PollFlags::empty(), Duration::ZERO).intersects(PollFlags::ERR | PollFlags::HUP)
}
