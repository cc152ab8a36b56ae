//! The only reader of clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::engine::time::Boot;

/// The time on the kernel program's clock.
pub fn now() -> Boot {
    Boot(crate::engine::time::nanos(read(libc::CLOCK_BOOTTIME)))
}

/// How long the machine has been suspended since boot.
pub fn suspended() -> Duration {
    read(libc::CLOCK_BOOTTIME).saturating_sub(read(libc::CLOCK_MONOTONIC))
}

/// Ties the kernel program's clock to the wall's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeAnchor {
    /// The wall's time at boot, by today's reading of both clocks.
    booted: SystemTime,
}

impl TimeAnchor {
    /// As both clocks stand now. A later step of the wall clock needs a new anchor.
    pub fn now() -> Self {
        let wall = UNIX_EPOCH + read(libc::CLOCK_REALTIME);
        Self { booted: wall.checked_sub(read(libc::CLOCK_BOOTTIME)).unwrap_or(UNIX_EPOCH) }
    }

    /// With boot at a given time, for tests and recordings.
    pub const fn booted_at(booted: SystemTime) -> Self {
        Self { booted }
    }

    /// The wall's time at `moment`.
    pub fn wall(self, moment: Boot) -> SystemTime {
        self.booted.checked_add(Duration::from_nanos(moment.0)).unwrap_or(UNIX_EPOCH)
    }
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for a write, and the three clocks named above exist since Linux 2.6.39, so it cannot fail.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) };
    debug_assert_eq!(failed, 0, "clock_gettime({clock})");
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
