//! The kernel's clocks, and time windows of events.

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

/// Returns the time limit of waits: far longer than normal, because the machine may be busy.
pub fn patience() -> Duration {
    Duration::from_secs(20) * slowness()
}

/// Returns the factor by which this machine is slower than an idle one: guests with an emulated CPU set it. By
/// default 1, so that all times apply as they stand in the tests.
pub fn slowness() -> u32 {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    *SLOWNESS.get_or_init(|| match env::var("CLOSEWAIT_TEST_SLOWNESS") {
        Ok(text) => text.parse().expect("CLOSEWAIT_TEST_SLOWNESS is a number"),
        Err(_unset) => 1,
    })
}

/// Returns the maximum difference of two clocks that are read one after the other, seconds.
pub fn apart() -> f64 {
    0.005 * f64::from(slowness())
}

/// Returns the maximum delay of the kernel's ticks behind its clock, seconds: 0 if the CPU always runs when one is
/// due.
pub fn ticks_late() -> f64 {
    apart() - 0.005
}

/// Returns seconds of `CLOCK_BOOTTIME`, the clock of the kernel program.
pub fn boot_seconds() -> f64 {
    read(libc::CLOCK_BOOTTIME)
}

/// Returns seconds of `CLOCK_REALTIME` since 1970.
pub fn wall_seconds() -> f64 {
    read(libc::CLOCK_REALTIME)
}

/// Converts a time of the wall clock to the boot clock.
pub fn boot_from_wall(wall_seconds: f64) -> f64 {
    wall_seconds - read(libc::CLOCK_REALTIME) + boot_seconds()
}

/// Calls `done` every few milliseconds until it is true. Returns whether it was.
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

/// Runs `work` until the machine has not paused meanwhile. A pause of the whole machine proves nothing about `work`.
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

/// Runs `work`. Returns the longest delay of a runnable thread meanwhile, seconds.
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
        // Even if `work` fails, or the watcher would never end.
        let result = panic::catch_unwind(AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        let longest = watcher.join().expect("the watcher");
        (longest, result.unwrap_or_else(|cause| panic::resume_unwind(cause)))
    })
}

/// Interval that contains an event, seconds of the boot clock.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub from: f64,
    pub to: f64,
}

impl Window {
    /// Runs `work`, and returns the interval in which it ran.
    pub fn around<T>(work: impl FnOnce() -> T) -> (Self, T) {
        let from = boot_seconds();
        let result = work();
        (Self { from, to: boot_seconds() }, result)
    }

    /// Returns the shortest and the longest possible time from this event to a later one.
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
