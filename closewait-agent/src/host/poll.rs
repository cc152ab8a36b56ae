//! Poll of one descriptor.

use std::{os::fd::BorrowedFd, time::Duration};

use rustix::event::{self, PollFd, PollFlags, Timespec};

/// Waits at most `timeout`, and returns the events that a descriptor is ready for; none after a timeout or an
/// interruption.
pub fn poll(fd: BorrowedFd<'_>, events: PollFlags, timeout: Duration) -> PollFlags {
    let mut entry = [PollFd::from_borrowed_fd(fd, events)];
    // The kernel limits a timeout of many years.
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
