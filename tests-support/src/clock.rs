//! The kernel's clocks, and the span in which something is known to have happened.

use std::{
    env,
    panic::{self, AssertUnwindSafe},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How long anything is waited for: far more than it takes, for the machine may be busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How many times slower than a machine that does nothing else this one is said to be: guests whose processor is only
/// imitated say so. Where nothing is said all times hold as they stand in the tests.
pub fn slowness() -> u32 {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    *SLOWNESS.get_or_init(|| match env::var("CLOSEWAIT_TEST_SLOWNESS") {
        Ok(text) => text.parse().expect("CLOSEWAIT_TEST_SLOWNESS is a number"),
        Err(_unset) => 1,
    })
}

/// How far in seconds two clocks may be apart that are read one after the other.
pub fn apart() -> f64 {
    0.005 * f64::from(slowness())
}

/// How far in seconds the kernel's ticks may be behind its clock. They are not, where the processor is there when one is due.
pub fn ticks_late() -> f64 {
    apart() - 0.005
}

/// Seconds of `CLOCK_BOOTTIME`, the clock of the kernel program.
pub fn boot_seconds() -> f64 {
    read(libc::CLOCK_BOOTTIME)
}

/// Seconds of `CLOCK_REALTIME` since 1970.
pub fn wall_seconds() -> f64 {
    read(libc::CLOCK_REALTIME)
}

/// A time of the wall clock as one of the boot clock.
pub fn boot_from_wall(wall_seconds: f64) -> f64 {
    wall_seconds - read(libc::CLOCK_REALTIME) + boot_seconds()
}

/// Asks `done` every few milliseconds and says whether it was ever true.
pub fn poll_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = boot_seconds() + limit.as_secs_f64();
    loop {
        if done() {
            return true;
        }
        if boot_seconds() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// What `work` saw on a machine that let it run. A pause of the whole machine is nobody's fault: then it has to try again.
pub fn undisturbed<T>(work: impl Fn() -> T) -> T {
    let mut pauses = Vec::new();
    for _ in 0..5 {
        let (pause, seen) = with_longest_pause(&work);
        if pause < 0.05 * f64::from(slowness()) {
            return seen;
        }
        pauses.push(pause);
    }
    panic!("the machine is too busy for this test: it stood still for {pauses:?} s");
}

/// Runs `work` and says for how many seconds at most a thread that wanted to run meanwhile was kept waiting.
fn with_longest_pause<T>(work: impl FnOnce() -> T) -> (f64, T) {
    const STEP: Duration = Duration::from_millis(2);
    let done = AtomicBool::new(false);
    let watch = || {
        let mut longest = 0.0_f64;
        while !done.load(Ordering::Relaxed) {
            let before = boot_seconds();
            thread::sleep(STEP);
            longest = longest.max(boot_seconds() - before - STEP.as_secs_f64());
        }
        longest
    };
    thread::scope(|scope| {
        let watcher = scope.spawn(watch);
        // Also when `work` fails, or else the watcher would be waited for in vain.
        let result = panic::catch_unwind(AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        let longest = watcher.join().expect("the watcher");
        (longest, result.unwrap_or_else(|cause| panic::resume_unwind(cause)))
    })
}

/// Something happened at some time between `from` and `to`, in seconds of the boot clock.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub from: f64,
    pub to: f64,
}

impl Window {
    /// Runs `work` and says when it was.
    pub fn around<T>(work: impl FnOnce() -> T) -> (Self, T) {
        let from = boot_seconds();
        let result = work();
        (Self { from, to: boot_seconds() }, result)
    }

    /// The shortest and the longest time that can have passed from this to a later one.
    pub fn until(self, later: Self) -> (f64, f64) {
        (later.from - self.to, later.to - self.from)
    }
}

fn read(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that this function owns, and the kernel has these clocks (boot time since 2.6.39).
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(result, 0, "clock_gettime failed");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
