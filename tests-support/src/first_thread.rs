//! Process whose first thread has ended while another one lives, as after `pthread_exit` in `main`.

use std::{fs, io, ptr};

use crate::clock::{patience, poll_until};

/// Size of the stack of the thread that lives, bytes.
const STACK: usize = 64 << 10;
/// Time between its looks for the test, microseconds.
const INTERVAL: libc::useconds_t = 50_000;

/// Copy of this process with its descriptors and one thread, which sleeps; the first one has ended. It ends with the test.
pub struct FirstThreadEnded(libc::pid_t);

impl FirstThreadEnded {
    /// Starts the process, and waits until its first thread has ended.
    pub fn start() -> Self {
        let mut stack = vec![0_u8; STACK];
        let top = stack.as_mut_ptr_range().end;
        // SAFETY: takes nothing; the child makes system calls only.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let flags = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
            // SAFETY: the stack is that of no other thread of the child, which never frees it.
            unsafe { libc::clone(sleep_on, top.cast(), flags, ptr::null_mut()) };
            // SAFETY: takes a number only, and ends this thread.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        assert!(pid > 0, "fork: {}", io::Error::last_os_error());
        let process = Self(pid);
        let stat = format!("/proc/{pid}/stat");
        let has_ended = || fs::read_to_string(&stat).is_ok_and(|text| text.contains(") Z "));
        assert!(poll_until(patience(), has_ended), "its first thread goes on");
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

/// Sleeps as long as the process has the same parent.
extern "C" fn sleep_on(_none: *mut libc::c_void) -> libc::c_int {
    // SAFETY: takes nothing, and cannot fail.
    let parent = unsafe { libc::getppid() };
    loop {
        // SAFETY: takes a number only.
        unsafe { libc::usleep(INTERVAL) };
        // SAFETY: as above.
        if unsafe { libc::getppid() } != parent {
            // SAFETY: takes a number only, and does not return.
            unsafe { libc::_exit(0) };
        }
    }
}
