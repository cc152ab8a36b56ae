//! Network and mount namespaces of this process, apart from the machine's own traffic and mounts. Each ends with the process.
//!
//! Only the calling thread moves into a new namespace: call these functions before the first thread starts.

use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::prelude::*;

/// Moves this thread into a new network namespace whose loopback is up.
pub(crate) fn enter_new_network() -> Result<()> {
    unshare(UnshareFlags::NEWNET)?;
    exec::quiet(Command::new("ip").args(["link", "set", "lo", "up"]))
        .context("cannot bring up `lo`; install iproute2")?;
    Ok(())
}

/// Mounts a file system without data at `path`, in a new mount namespace.
pub(crate) fn mount_in_new_namespace(kind: &str, path: &Path) -> Result<()> {
    unshare(UnshareFlags::NEWNS)?;
    // Otherwise the new mount would appear in the original namespace, too.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .context("mount --make-rprivate failed")?;
    let failed = || format!("mount of {kind} on {} failed; run as root", path.display());
    mount(kind, path, kind, MountFlags::empty(), None).with_context(failed)
}

/// Detaches the file system that is mounted at `path`.
pub(crate) fn detach(path: &Path) -> Result<()> {
    unmount(path, UnmountFlags::DETACH).with_context(|| format!("umount of {} failed", path.display()))
}

fn unshare(flags: UnshareFlags) -> Result<()> {
    // SAFETY: the flags are only NEWNET and NEWNS; what is unsafe is unsharing the table of descriptors.
    unsafe { unshare_unsafe(flags) }.with_context(|| format!("unshare({flags:?}) failed; run as root"))
}
