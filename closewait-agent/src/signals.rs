//! Signals that are blocked or ignored when a process starts: it inherits that from its parent.

use std::{
    io,
    mem::{MaybeUninit, zeroed},
    os::unix::process::CommandExt as _,
    process::Command,
    ptr,
    time::Duration,
};

use anyhow::Context as _;

/// Unblocks these signals in this thread. Threads and programs that it starts later inherit this.
///
/// # Errors
///
/// If the kernel refuses.
pub fn unblock(signals: &[libc::c_int]) -> anyhow::Result<()> {
    let set = set_of(signals);
    // SAFETY: the set is initialized and only read, and the old one is not requested.
    match unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)).context("pthread_sigmask failed"),
    }
}

fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call writes the whole set, for which there is room.
    let _never: libc::c_int = unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: the set was initialized above; a number that is no signal is refused.
        let _refused: libc::c_int = unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) };
    }
    // SAFETY: it was initialized above.
    unsafe { set.assume_init() }
}

/// Signals that this process has blocked, and takes one by one.
pub struct BlockedSignals {
    set: libc::sigset_t,
    /// Mask of this thread before.
    before: libc::sigset_t,
}

/// Signal that was sent to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Number.
    pub signal: libc::c_int,
    /// Whether the kernel sent it, as for a key of the terminal: then every process of the terminal's foreground group
    /// has it.
    pub from_kernel: bool,
}

impl BlockedSignals {
    /// Blocks these signals in this thread and in those that it starts later. Programs inherit this, unless
    /// [`BlockedSignals::restore_in`] is called for them.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn block(signals: &[libc::c_int]) -> anyhow::Result<Self> {
        let (set, mut before) = (set_of(signals), set_of(&[]));
        // SAFETY: both sets are initialized and outlive the call.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before) } {
            0 => Ok(Self { set, before }),
            code => Err(io::Error::from_raw_os_error(code)).context("pthread_sigmask failed"),
        }
    }

    /// Starts the command with the signals blocked that this process had blocked before.
    pub fn restore_in(&self, command: &mut Command) {
        let before = self.before;
        let restore = move || {
            // SAFETY: the set is initialized and only read, and the old one is not requested.
            match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) } {
                0 => Ok(()),
                code => Err(io::Error::from_raw_os_error(code)),
            }
        };
        // SAFETY: between fork and exec, `restore` makes one system call: it neither allocates nor takes a lock.
        unsafe { command.pre_exec(restore) };
    }

    /// Takes the next signal; `None` if there is none for this time.
    pub fn wait(&self, time: Duration) -> Option<Received> {
        // SAFETY: a `siginfo_t` is numbers, for all of which zeros are valid.
        let mut info: libc::siginfo_t = unsafe { zeroed() };
        // SAFETY: as above.
        let mut limit: libc::timespec = unsafe { zeroed() };
        limit.tv_sec = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        limit.tv_nsec = libc::c_long::from(i32::try_from(time.subsec_nanos()).unwrap_or(0));
        // SAFETY: all three are initialized, and outlive the call.
        let signal = unsafe { libc::sigtimedwait(&raw const self.set, &raw mut info, &raw const limit) };
        (signal > 0).then_some(Received { signal, from_kernel: info.si_code == libc::SI_KERNEL })
    }
}

/// Resets a signal that this process may ignore because its parent did.
pub fn reset(signal: libc::c_int) {
    // SAFETY: sets no handler, only the default.
    let _before: libc::sighandler_t = unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Stops this process until another one continues it, as SIGTSTP does by default: the kernel ignores it if no shell could
/// continue the process, since its group is orphaned (`get_signal`, kernel/signal.c, v6.18). A handler of the signal is kept.
pub fn stop() {
    // SAFETY: a `sigaction` is numbers and an optional function, for all of which zeros are valid: no flag, and `SIG_DFL`.
    let default: libc::sigaction = unsafe { zeroed() };
    let mut before = default;
    // SAFETY: sets no handler, only the default; both outlive the call.
    if unsafe { libc::sigaction(libc::SIGTSTP, &raw const default, &raw mut before) } == 0 {
        // SAFETY: signals have no other effect on memory than their handlers.
        let _never: libc::c_int = unsafe { libc::raise(libc::SIGTSTP) };
        // SAFETY: sets what was set before.
        let _never: libc::c_int = unsafe { libc::sigaction(libc::SIGTSTP, &raw const before, ptr::null_mut()) };
    }
}

/// Whether this process ignores a signal.
pub fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: a `sigaction` is numbers and an optional function, for all of which zeros are valid.
    let mut action: libc::sigaction = unsafe { zeroed() };
    // SAFETY: `action` has room for what is written; nothing is set.
    let known = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) } == 0;
    known && action.sa_sigaction == libc::SIG_IGN
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
        if is_ignored(*signal) {
            // SAFETY: sets no handler, only the default.
            let _before: libc::sighandler_t = unsafe { libc::signal(*signal, libc::SIG_DFL) };
        }
    }
    unblock(&all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_waits_and_a_program_does_not_inherit_the_block() {
        // A thread of its own, as the mask belongs to the thread.
        let work = || {
            let blocked = BlockedSignals::block(&[libc::SIGUSR2]).unwrap();
            assert_eq!(blocked.wait(Duration::ZERO), None);
            // SAFETY: it has no arguments and cannot fail.
            let this_thread = unsafe { libc::pthread_self() };
            // SAFETY: the thread is this one, so it exists.
            let sent = unsafe { libc::pthread_kill(this_thread, libc::SIGUSR2) };
            assert_eq!(sent, 0);
            let received = Received { signal: libc::SIGUSR2, from_kernel: false };
            assert_eq!(blocked.wait(Duration::from_secs(10)), Some(received));
            let mut command = Command::new("grep");
            blocked.restore_in(command.args(["SigBlk", "/proc/self/status"]));
            let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
            assert_eq!(output.trim_end(), "SigBlk:\t0000000000000000");
        };
        std::thread::spawn(work).join().unwrap();
    }
}
