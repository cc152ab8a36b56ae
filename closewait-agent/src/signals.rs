//! Signals that are blocked or ignored when a process starts: it inherits that from its parent.

use std::{
    io,
    mem::{MaybeUninit, zeroed},
    ptr,
};

use anyhow::Context as _;

/// Unblocks these signals in this thread. Threads and programs that it starts later inherit this.
///
/// # Errors
///
/// If the kernel refuses.
pub fn unblock(signals: &[libc::c_int]) -> anyhow::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call writes the whole set, for which there is room.
    let _never: libc::c_int = unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: the set was initialized above; a number that is no signal is refused.
        let _refused: libc::c_int = unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) };
    }
    // SAFETY: the set is initialized and only read, and the old one is not requested.
    match unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut()) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)).context("pthread_sigmask failed"),
    }
}

/// Unblocks every signal and resets ignored ones, so that programs of this process do not inherit the settings of
/// `nohup` and others. Handlers stay: programs do not inherit them.
///
/// # Errors
///
/// If the kernel refuses to unblock them.
pub fn set_defaults() -> anyhow::Result<()> {
    let all: Vec<libc::c_int> = (1..=libc::SIGRTMAX()).collect();
    for signal in &all {
        // Rust ignores it in this process and resets it in child programs.
        if *signal == libc::SIGPIPE {
            continue;
        }
        // SAFETY: a `sigaction` is numbers and an optional function, for all of which zeros are valid.
        let mut action: libc::sigaction = unsafe { zeroed() };
        // SAFETY: `action` has room for what is written; nothing is set.
        let known = unsafe { libc::sigaction(*signal, ptr::null(), &raw mut action) } == 0;
        if known && action.sa_sigaction == libc::SIG_IGN {
            // SAFETY: sets no handler, only the default.
            let _before: libc::sighandler_t = unsafe { libc::signal(*signal, libc::SIG_DFL) };
        }
    }
    unblock(&all)
}
