//! Filter for the system calls that an agent never makes after its start.
//!
//! It is a list of refused calls: all others are allowed, so that no C library and no kernel breaks the agent. A
//! strict list of allowed calls belongs to the unit file (`SystemCallFilter=`).

use std::{collections::BTreeMap, env::consts::ARCH, ffi::c_long};

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Reason why there is no filter.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilterError {
    /// The filter does not support this architecture.
    #[error("making the filter failed: {0}")]
    Make(BackendError),
    /// The kernel refuses the filter.
    #[error("seccomp(SECCOMP_SET_MODE_FILTER) failed: {0}")]
    Install(seccompiler::Error),
}

/// `kexec_file_load`, for which libc has no name on all targets (include/uapi/asm-generic/unistd.h, v6.18).
const KEXEC_FILE_LOAD: c_long = if IS_X86_64 { 320 } else { 294 };

/// System calls that fail with `EPERM`.
const REFUSED: [c_long; 50] = [
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes: CAP_SYS_PTRACE is for reading `/proc`.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // New namespaces: a user namespace has all capabilities.
    libc::SYS_unshare,
    libc::SYS_setns,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    KEXEC_FILE_LOAD,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Other users.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    // Large, and unused here.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    // Its requests bypass this filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Whether this is x86_64, which has further calls and numbers.
const IS_X86_64: bool = cfg!(target_arch = "x86_64");
/// Bit in the numbers of x32, which the kernel reports as the same architecture (`__X32_SYSCALL_BIT` in
/// arch/x86/include/uapi/asm/unistd.h, v6.18).
const X32: c_long = 0x4000_0000;
/// Refused calls of x86_64 alone: iopl and ioperm (arch/x86/entry/syscalls/syscall_64.tbl, v6.18).
const X86_64_ONLY: [c_long; 2] = [172, 173];
/// `open` of x86_64 (arch/x86/entry/syscalls/syscall_64.tbl, v6.18). Newer architectures have none.
const X86_64_OPEN: c_long = 2;
/// Calls that have a separate number on x32: execve, ptrace, kexec_load, process_vm_readv, process_vm_writev,
/// execveat (arch/x86/entry/syscalls/syscall_64.tbl, v6.18).
const X32_ONLY: [c_long; 6] = [520, 521, 528, 539, 540, 545];

/// Flags of `clone` that create a namespace. `clone` does not accept `CLONE_NEWTIME`.
const NEW_NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Installs the filters for all threads of this process, permanently. They do not refuse the calls in `allowed`.
pub(super) fn install(allowed: &[c_long]) -> Result<(), FilterError> {
    // Builds all filters before it installs the first.
    let filters = [refused(allowed).map_err(FilterError::Make)?, unknown().map_err(FilterError::Make)?];
    filters.iter().try_for_each(|filter| seccompiler::apply_filter_all_threads(filter)).map_err(FilterError::Install)
}

/// Makes every later attempt of this thread to open a file fail with `EACCES`.
pub(super) fn refuse_files() -> Result<(), FilterError> {
    let calls = [libc::SYS_openat, libc::SYS_openat2].into_iter().chain(IS_X86_64.then_some(X86_64_OPEN));
    let filter = program(calls.flat_map(numbers).map(|call| (call, vec![])).collect(), libc::EACCES);
    seccompiler::apply_filter(&filter.map_err(FilterError::Make)?).map_err(FilterError::Install)
}

/// Builds the filter of refused calls, except those in `allowed`.
fn refused(allowed: &[c_long]) -> Result<BpfProgram, BackendError> {
    let calls = REFUSED.into_iter().filter(|call| !allowed.contains(call));
    let mut rules: BTreeMap<_, _> = calls.flat_map(numbers).map(|call| (call, vec![])).collect();
    if IS_X86_64 {
        rules.extend(X86_64_ONLY.into_iter().flat_map(numbers).map(|call| (call, vec![])));
        rules.extend(X32_ONLY.map(|call| (call | X32, vec![])));
    }
    let of_new_namespaces = NEW_NAMESPACES.map(|flag| {
        let flag = u64::from(flag.unsigned_abs());
        SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?])
    });
    let of_new_namespaces = of_new_namespaces.into_iter().collect::<Result<Vec<_>, _>>()?;
    rules.extend(numbers(libc::SYS_clone).map(|call| (call, of_new_namespaces.clone())));
    program(rules, libc::EPERM)
}

/// Builds the filter of calls that look unimplemented: a filter cannot read the flags of `clone3`, and C libraries
/// fall back to `clone`.
fn unknown() -> Result<BpfProgram, BackendError> {
    program(numbers(libc::SYS_clone3).map(|call| (call, vec![])).collect(), libc::ENOSYS)
}

/// Returns the number of a call, and on x86_64 its number on x32.
fn numbers(call: c_long) -> impl Iterator<Item = c_long> {
    [call].into_iter().chain(IS_X86_64.then_some(call | X32))
}

fn program(rules: BTreeMap<c_long, Vec<SeccompRule>>, answer: libc::c_int) -> Result<BpfProgram, BackendError> {
    let answer = SeccompAction::Errno(answer.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, answer, TargetArch::try_from(ARCH)?)?.try_into()
}

#[cfg(test)]
mod tests {
    use std::{io, thread};

    use super::*;

    /// Returns the error of a call with zeros as arguments on a thread that has the filters.
    fn filtered(allowed: &'static [c_long], call: c_long) -> Option<i32> {
        thread::spawn(move || {
            for filter in [refused(allowed).unwrap(), unknown().unwrap()] {
                // For this thread alone: other tests continue.
                seccompiler::apply_filter(&filter).unwrap();
            }
            // SAFETY: all pointers among the arguments are null, which each of these calls refuses.
            let result = unsafe { libc::syscall(call, 0, 0, 0, 0, 0, 0) };
            (result < 0).then(|| io::Error::last_os_error().raw_os_error()).flatten()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn what_the_agent_never_does_is_refused() {
        let to_processes = [libc::SYS_ptrace, libc::SYS_process_vm_writev, libc::SYS_process_madvise];
        let others = [libc::SYS_execve, libc::SYS_mount, libc::SYS_init_module, libc::SYS_setuid];
        for call in to_processes.into_iter().chain(others) {
            assert_eq!(filtered(&[], call), Some(libc::EPERM), "system call {call}");
        }
    }

    #[test]
    fn a_thread_that_may_open_no_file_opens_none() {
        let open = || std::fs::read("/proc/self/stat").map_err(|error| error.raw_os_error());
        let refused = thread::spawn(move || {
            refuse_files().unwrap();
            open()
        });
        assert_eq!(refused.join().unwrap(), Err(Some(libc::EACCES)));
        assert!(open().is_ok(), "other threads do");
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn numbers_of_x32_are_no_way_round() {
        for call in [libc::SYS_mount | X32, X32_ONLY[0] | X32, X86_64_ONLY[0] | X32] {
            assert_eq!(filtered(&[], call), Some(libc::EPERM), "system call {call:#x}");
        }
    }

    #[test]
    fn namespaces_are_entered_only_if_that_is_asked_for() {
        assert_eq!(filtered(&[], libc::SYS_setns), Some(libc::EPERM));
        // Standard input is no namespace.
        assert_ne!(filtered(&[libc::SYS_setns], libc::SYS_setns), Some(libc::EPERM));
    }

    #[test]
    fn descriptors_are_duplicated_only_if_that_is_asked_for() {
        assert_eq!(filtered(&[], libc::SYS_pidfd_getfd), Some(libc::EPERM));
        // Standard input is no process.
        assert_eq!(filtered(&[libc::SYS_pidfd_getfd], libc::SYS_pidfd_getfd), Some(libc::EBADF));
    }

    #[test]
    fn a_thread_becomes_another_user_only_if_that_is_asked_for() {
        const ALLOWED: &[c_long] = &[libc::SYS_setresuid];
        assert_eq!(filtered(&[], libc::SYS_setresuid), Some(libc::EPERM));
        // To user 0, which fails with the same error for others than root.
        if rustix::process::geteuid().is_root() {
            assert_eq!(filtered(ALLOWED, libc::SYS_setresuid), None);
        }
        assert_eq!(filtered(ALLOWED, libc::SYS_setuid), Some(libc::EPERM));
    }

    #[test]
    fn threads_can_be_started_and_namespaces_not_made() {
        thread::spawn(|| {
            for filter in [refused(&[]).unwrap(), unknown().unwrap()] {
                seccompiler::apply_filter(&filter).unwrap();
            }
            assert_eq!(thread::spawn(|| 7).join().unwrap(), 7);
            let flags = c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD);
            // SAFETY: the filter refuses it before any process is made.
            let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
            assert_eq!((result, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EPERM)));
        })
        .join()
        .unwrap();
        assert_eq!(filtered(&[], libc::SYS_clone3), Some(libc::ENOSYS));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn numbers_without_a_name_are_those_of_libc() {
        assert_eq!(KEXEC_FILE_LOAD, libc::SYS_kexec_file_load);
        assert_eq!(X86_64_ONLY, [libc::SYS_iopl, libc::SYS_ioperm]);
        for call in X86_64_ONLY {
            assert_eq!(filtered(&[], call), Some(libc::EPERM), "system call {call}");
        }
    }

    #[test]
    fn no_call_is_listed_twice() {
        let once: std::collections::BTreeSet<_> = REFUSED.into_iter().collect();
        assert_eq!(once.len(), REFUSED.len());
    }
}
