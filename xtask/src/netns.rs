//! A network namespace for traffic that must not meet the machine's own.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

/// Moves this process into a new network namespace whose loopback is up. The namespace ends with the process.
///
/// To be called before the first thread starts: only the calling thread moves.
pub(crate) fn enter_new() -> Result<()> {
    // SAFETY: unshare takes a number and touches no memory of ours.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    check(result).context("unshare(CLONE_NEWNET) failed; run as root")?;
    loopback_up().context("cannot bring up `lo` in the new network namespace; run as root")
}

fn loopback_up() -> Result<()> {
    // SAFETY: socket takes numbers and touches no memory of ours.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd).context("socket failed")?;
    // SAFETY: the descriptor was opened above and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: ifreq is integers, arrays and a union of them, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = 1; // IFF_UP
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    check(result).context("ioctl(SIOCSIFFLAGS) failed")
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
