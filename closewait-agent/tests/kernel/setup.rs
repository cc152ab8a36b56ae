//! Hosts that lack something: what a child process is cut off from before it becomes the agent.

use std::{
    ffi::CStr,
    fs, io,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{self, Command},
    ptr,
};

/// Numbers of `include/uapi/linux/capability.h`.
pub(crate) mod capability {
    pub(crate) const DAC_READ_SEARCH: u32 = 2;
    pub(crate) const SYS_PTRACE: u32 = 19;
    pub(crate) const SYS_ADMIN: u32 = 21;
    pub(crate) const SYS_RESOURCE: u32 = 24;
    pub(crate) const PERFMON: u32 = 38;
    pub(crate) const BPF: u32 = 39;
    /// More than any kernel has.
    pub(crate) const END: u32 = 64;
}

/// The command gets a mount table of its own in which these folders are empty. One that is not there stays away.
pub(crate) fn cover(command: &mut Command, folders: &'static [&'static CStr]) {
    let work = move || {
        // SAFETY: takes a number only.
        succeed(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        // Or else what is mounted here would be mounted for everybody.
        mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_PRIVATE)?;
        for folder in folders {
            match mount(c"none", folder, c"tmpfs", 0) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                other => other?,
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec, `work` makes system calls only: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(work) };
}

/// The command gets a `/proc` of its own in which others' processes are hidden.
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
    // SAFETY: between fork and exec, `work` makes system calls only: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(work) };
}

/// The command is root with no capability but these.
pub(crate) fn keep_only(command: &mut Command, capabilities: &'static [u32]) {
    drop_where(command, |number| !capabilities.contains(&number));
}

/// The command is root without this capability.
pub(crate) fn drop_only(command: &mut Command, capability: u32) {
    drop_where(command, move |number| number == capability);
}

/// The command may lock as much memory as an ordinary process.
pub(crate) fn lock_little_memory(command: &mut Command) {
    let limit = libc::rlimit { rlim_cur: 64 << 10, rlim_max: 64 << 10 };
    let work = move || {
        // SAFETY: the pointer is to a whole rlimit that outlives the call.
        succeed(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) })
    };
    // SAFETY: between fork and exec, `work` makes one system call only.
    unsafe { command.pre_exec(work) };
}

/// A copy of the binary that everybody may run, wherever the original lies.
pub(crate) struct PublicBinary {
    pub(crate) path: PathBuf,
}

impl PublicBinary {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("closewait-kernel-test-{}", process::id()));
        fs::copy(env!("CARGO_BIN_EXE_closewait"), &path).expect("a copy of the binary");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions of the copy");
        Self { path }
    }
}

impl Drop for PublicBinary {
    fn drop(&mut self) {
        // A copy that stays in the folder for temporary files does no harm.
        let _result = fs::remove_file(&self.path);
    }
}

/// Takes capabilities out of the bounding set: for root, exec then takes them out of all others.
fn drop_where(command: &mut Command, unwanted: impl Fn(u32) -> bool + Send + Sync + 'static) {
    let work = move || {
        for number in (0..capability::END).filter(|number| unwanted(*number)) {
            // SAFETY: takes numbers only.
            let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
            match succeed(result) {
                // The kernel does not have so many.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                other => other?,
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec, `work` makes system calls only: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(work) };
}

fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    // SAFETY: three texts that end in a zero and outlive the call; the kernel takes no data as no options.
    succeed(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, ptr::null()) })
}

fn succeed(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
