//! Process whose first thread has ended while another one lives, as after `pthread_exit` in `main`.

use std::{fs, io, mem::MaybeUninit, ptr};

use crate::{
    agent::sleeps,
    clock::{patience, poll_until},
};

/// Sleep of the living thread, seconds: longer than any test, so that no test ever finds it awake.
const LONG: libc::c_uint = 10_000;

/// Copy of this process with its descriptors and one thread, which sleeps; the first one has ended. It ends with the test.
pub struct FirstThreadEnded(libc::pid_t);

impl FirstThreadEnded {
    /// Starts the process, and waits until its first thread has ended and the other one sleeps.
    pub fn start() -> Self {
        let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
        // SAFETY: takes nothing. The child only makes a thread, which glibc and musl keep possible after a fork of one with several
        // threads, and system calls.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: the pointers are valid, and the function takes no value.
            let error = unsafe { libc::pthread_create(thread.as_mut_ptr(), ptr::null(), sleep_on, ptr::null_mut()) };
            if error != 0 {
                // SAFETY: takes a number only, and does not return.
                unsafe { libc::_exit(error) };
            }
            // SAFETY: takes a number only, and ends this thread.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        assert!(pid > 0, "fork: {}", io::Error::last_os_error());
        let process = Self(pid);
        let stat = format!("/proc/{pid}/stat");
        let has_ended = || fs::read_to_string(&stat).is_ok_and(|text| text.contains(") Z "));
        assert!(poll_until(patience(), has_ended), "its first thread goes on");
        let sleeps = || {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            threads.into_iter().any(|thread| sleeps(&thread.path()))
        };
        assert!(poll_until(patience(), sleeps), "its other thread does not sleep");
        process
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.0.unsigned_abs()
    }
}

impl Drop for FirstThreadEnded {
    fn drop(&mut self) {
        // SAFETY: takes numbers only; the process is a child that was not waited for.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        // SAFETY: as above; the status is not wanted.
        unsafe { libc::waitpid(self.0, ptr::null_mut(), 0) };
    }
}

/// Sleeps until the thread that started the process ends, or the test.
extern "C" fn sleep_on(_none: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: takes numbers only, and cannot fail for a signal that exists.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    loop {
        // SAFETY: takes a number only.
        unsafe { libc::sleep(LONG) };
    }
}
