//! Namespaces for what must not meet the machine's own traffic and mounts. Each ends with the process.

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};

const TRACEFS: &str = "/sys/kernel/tracing";

/// Moves this process into a new network namespace whose loopback is up.
///
/// To be called before the first thread starts: only the calling thread moves.
pub(crate) fn enter_new_network() -> Result<()> {
    // SAFETY: unshare takes a number and touches no memory of ours.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    check(result).context("unshare(CLONE_NEWNET) failed; run as root")?;
    loopback_up().context("cannot bring up `lo` in the new network namespace; run as root")
}

/// Moves this process into a mount namespace of its own where tracefs is mounted, as classic tracepoints need it.
/// Nothing happens where the machine has it mounted. To be called before the first thread starts.
pub(crate) fn mount_tracefs() -> Result<()> {
    if Path::new(TRACEFS).join("events").is_dir() {
        return Ok(());
    }
    // SAFETY: unshare takes a number and touches no memory of ours.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    check(result).context("unshare(CLONE_NEWNS) failed; run as root")?;
    // Else the new mount would show up in the namespace that this one was copied from.
    mount(c"none", c"/", c"", libc::MS_REC | libc::MS_PRIVATE)?;
    let target = CString::new(TRACEFS).context("the path of tracefs has a zero byte; this is a bug")?;
    mount(c"tracefs", &target, c"tracefs", 0)
}

/// Moves this process into a mount namespace of its own with a BPF file system at `path`. To be called before the first
/// thread starts.
pub(crate) fn mount_bpf(path: &Path) -> Result<()> {
    // SAFETY: unshare takes a number and touches no memory of ours.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    check(result).context("unshare(CLONE_NEWNS) failed; run as root")?;
    mount(c"none", c"/", c"", libc::MS_REC | libc::MS_PRIVATE)?;
    mount(c"bpf", &c_path(path)?, c"bpf", 0)
}

/// Takes away what is mounted at `path`.
pub(crate) fn unmount(path: &Path) -> Result<()> {
    // SAFETY: the string ends in zero and outlives the call.
    let result = unsafe { libc::umount2(c_path(path)?.as_ptr(), libc::MNT_DETACH) };
    check(result).with_context(|| format!("umount of {} failed", path.display()))
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).context("a path has a zero byte; this is a bug")
}

fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: libc::c_ulong) -> Result<()> {
    // SAFETY: the three strings end in zero and outlive the call; none of the mounts takes data.
    let result = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) };
    check(result).with_context(|| format!("mount of {source:?} on {target:?} failed; run as root"))
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
