//! Limits of the environment that would end the process by a signal.

use std::{io, mem::zeroed, ptr};

/// Makes a write beyond `RLIMIT_FSIZE` (`ulimit -f`) fail with `EFBIG`, a normal error, where SIGXFSZ would kill the
/// process (`generic_write_check_limits` in fs/read_write.c, v6.18).
///
/// A handler, and not `SIG_IGN`: child programs get the default back (`flush_signal_handlers` in kernel/signal.c,
/// v6.18).
pub fn survive_file_size_limit() {
    extern "C" fn do_nothing(_signal: libc::c_int) {}
    // SAFETY: a `sigaction` is numbers and an optional function, for all of which zeros are valid.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = do_nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` is valid and outlives the call; the handler touches nothing, so it may run at any time.
    let result = unsafe { libc::sigaction(libc::SIGXFSZ, &raw const action, ptr::null_mut()) };
    if result != 0 {
        log::warn!("a limit on file sizes would kill this process: sigaction failed: {}", io::Error::last_os_error());
    }
}
