//! Hosts that lack something: removes it from a child process before it becomes the agent.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{self, Command},
    ptr,
};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::{
    ability::{Ability, can},
    agent::binary,
};

/// User and group without privileges.
pub(crate) const NOBODY: libc::uid_t = 65534;

/// Numbers of `include/uapi/linux/capability.h`.
pub(crate) mod capability {
    pub(crate) const DAC_READ_SEARCH: u32 = 2;
    pub(crate) const SETGID: u32 = 6;
    pub(crate) const SETUID: u32 = 7;
    pub(crate) const NET_ADMIN: u32 = 12;
    pub(crate) const SYS_PTRACE: u32 = 19;
    pub(crate) const SYS_ADMIN: u32 = 21;
    pub(crate) const SYS_RESOURCE: u32 = 24;
    pub(crate) const PERFMON: u32 = 38;
    pub(crate) const BPF: u32 = 39;
    /// More than any kernel has.
    pub(crate) const END: u32 = 64;
}

/// Gives the command a mount namespace in which these folders are empty. Missing ones stay missing.
pub(crate) fn cover(command: &mut Command, folders: &'static [&'static CStr]) {
    let work = move || {
        // SAFETY: takes a number only.
        succeed(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        // Otherwise these mounts would be visible everywhere.
        mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_PRIVATE)?;
        for folder in folders {
            match mount(c"none", folder, c"tmpfs", 0) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                other => other?,
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec, `work` makes only system calls: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(work) };
}

/// Gives the command a `/proc` in which the processes of other users are hidden.
pub(crate) fn hide_processes(command: &mut Command) {
    let work = move || {
        // SAFETY: takes a number only.
        succeed(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_PRIVATE)?;
        // SAFETY: texts that end in a zero and outlive the call.
        succeed(unsafe {
            libc::mount(c"none".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), 0, c"hidepid=2".as_ptr().cast())
        })
    };
    // SAFETY: between fork and exec, `work` makes only system calls: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(work) };
}

/// Gives the calling thread its own mount namespace: no other process sees its mounts.
pub(crate) fn own_mounts() -> io::Result<()> {
    // SAFETY: takes a number only, and moves no thread but this one.
    succeed(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_PRIVATE)
}

/// Mounts debugfs at its usual place.
pub(crate) fn mount_debugfs() -> io::Result<()> {
    mount(c"debugfs", c"/sys/kernel/debug", c"debugfs", 0)
}

/// Mounts a BPF file system there, visible everywhere.
pub(crate) fn mount_bpf(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no zero in a path");
    mount(c"bpf", &path, c"bpf", 0).expect("mount -t bpf");
}

/// Mounts an empty file system of this many bytes there, visible everywhere.
pub(crate) fn mount_tmpfs(path: &Path, bytes: u64) {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no zero in a path");
    let size = CString::new(format!("size={bytes}")).expect("no zero in a number");
    // SAFETY: texts that end in a zero and outlive the call.
    succeed(unsafe { libc::mount(c"tmpfs".as_ptr(), path.as_ptr(), c"tmpfs".as_ptr(), 0, size.as_ptr().cast()) })
        .expect("mount -t tmpfs");
}

/// Unmounts what is mounted there, at the latest when no process uses it any more.
pub(crate) fn unmount(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no zero in a path");
    // SAFETY: a text that ends in a zero and outlives the call.
    succeed(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }).expect("umount");
}

/// Runs the command as root with only these capabilities.
pub(crate) fn keep_only(command: &mut Command, capabilities: &'static [u32]) {
    drop_where(command, |number| !capabilities.contains(&number));
}

/// Runs the command as root without this capability.
pub(crate) fn drop_only(command: &mut Command, capability: u32) {
    drop_where(command, move |number| number == capability);
}

/// Runs the command as the user nobody, in no group, with only these capabilities, as a service has them by
/// `DynamicUser=`, `AmbientCapabilities=`, `CapabilityBoundingSet=` and `LimitMEMLOCK=`.
pub(crate) fn become_nobody(command: &mut Command, capabilities: &'static [u32]) {
    lift_locked_memory(command);
    drop_where(command, |number| !capabilities.contains(&number));
    let (mut low, mut high) = (0, 0);
    for number in capabilities {
        *if *number < 32 { &mut low } else { &mut high } |= 1 << (number % 32);
    }
    let work = move || {
        // SAFETY: takes numbers only; so do the next four.
        succeed(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) })?;
        // SAFETY: as above; with a length of 0 no list is read.
        succeed(unsafe { libc::setgroups(0, ptr::null()) })?;
        // SAFETY: as above.
        succeed(unsafe { libc::setresgid(NOBODY, NOBODY, NOBODY) })?;
        // SAFETY: as above.
        succeed(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) })?;
        // `struct __user_cap_header_struct` and two of `__user_cap_data_struct` (include/uapi/linux/capability.h, v6.18).
        let (header, sets) = ([0x2008_0522_u32, 0], [low, low, low, high, high, high]);
        // SAFETY: both are of the size that this version of the call reads, and outlive it.
        let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
        succeed(if result < 0 { -1 } else { 0 })?;
        for number in capabilities {
            let (raise, number) = (libc::PR_CAP_AMBIENT_RAISE, libc::c_ulong::from(*number));
            // SAFETY: takes numbers only.
            succeed(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, number, 0, 0) })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec, `work` makes only system calls: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(work) };
}

/// Forbids the command to install a filter for system calls, as a container's own filter may.
pub(crate) fn forbid_filters(command: &mut Command) {
    let rules = [(libc::SYS_seccomp, vec![])].into();
    let (allow, refuse) = (SeccompAction::Allow, SeccompAction::Errno(libc::EPERM.unsigned_abs()));
    let machine = std::env::consts::ARCH.try_into().expect("a machine that has filters");
    let filter = SeccompFilter::new(rules, allow, refuse, machine).expect("rules");
    let filter: BpfProgram = filter.try_into().expect("a filter");
    let work = move || seccompiler::apply_filter(&filter).map_err(|_refused| io::ErrorKind::PermissionDenied.into());
    // SAFETY: between fork and exec, `work` makes only two system calls: an error is made without allocating.
    unsafe { command.pre_exec(work) };
}

/// Lets the command lock any amount of memory, where that matters for the agent.
pub(crate) fn lift_locked_memory(command: &mut Command) {
    if !can(Ability::Memcg) {
        lock_memory(command, libc::RLIM_INFINITY);
    }
}

/// Lets the command lock `bytes` of memory.
pub(crate) fn lock_memory(command: &mut Command, bytes: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    let work = move || {
        // SAFETY: the pointer is to a whole rlimit that outlives the call.
        succeed(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) })
    };
    // SAFETY: between fork and exec, `work` makes only one system call.
    unsafe { command.pre_exec(work) };
}

/// Copy of the binary that any user may run, for any location of the original.
pub(crate) struct PublicBinary {
    pub(crate) path: PathBuf,
}

impl PublicBinary {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("closewait-kernel-test-{}", process::id()));
        fs::copy(binary(), &path).expect("a copy of the binary");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions of the copy");
        Self { path }
    }
}

impl Drop for PublicBinary {
    fn drop(&mut self) {
        // If this fails, the copy stays in the folder for temporary files, which is harmless.
        let _result = fs::remove_file(&self.path);
    }
}

/// Drops capabilities from the bounding set: for root, exec then drops them from all other sets.
fn drop_where(command: &mut Command, unwanted: impl Fn(u32) -> bool + Send + Sync + 'static) {
    let work = move || {
        for number in (0..capability::END).filter(|number| unwanted(*number)) {
            // SAFETY: takes numbers only.
            let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
            match succeed(result) {
                // The kernel has fewer.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                other => other?,
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec, `work` makes only system calls: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(work) };
}

/// Mounts a file system without options of its own.
pub(crate) fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    // SAFETY: three texts that end in a zero and outlive the call; the kernel takes no data as no options.
    succeed(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, ptr::null()) })
}

fn succeed(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
