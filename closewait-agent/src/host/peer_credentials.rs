//! Credentials of the process at the other end of a Unix socket.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

/// Process at the other end: a connected client, or the server that called listen(2) (`init_peercred` and `copy_peercred`,
/// net/unix/af_unix.c, v6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id; `None` for a process outside of this pid namespace.
    pub pid: Option<u32>,
    /// Effective user.
    pub user: u32,
}

impl PeerCredentials {
    /// Returns the credentials of the other end.
    ///
    /// # Errors
    ///
    /// If the socket has none.
    pub fn of(stream: impl AsFd) -> io::Result<Self> {
        // Not by rustix: its type cannot represent pid 0, which stands for a process outside of this pid namespace.
        let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
        let mut length = size_of::<libc::ucred>() as libc::socklen_t;
        let (fd, to) = (stream.as_fd().as_raw_fd(), (&raw mut found).cast());
        // SAFETY: `to` points to a `ucred`, `length` has its size, and both outlive the call.
        let failed = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, to, &raw mut length) };
        if failed == 0 {
            Ok(Self { pid: u32::try_from(found.pid).ok().filter(|pid| *pid != 0), user: found.uid })
        } else {
            Err(io::Error::last_os_error())
        }
    }
}
