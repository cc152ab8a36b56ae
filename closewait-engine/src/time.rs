//! Kernel time, the only time base of the engine.

use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Longest tick of the kernel's TCP times, at 100 Hz: a time is certainly later than another only if the difference is larger.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Time on `CLOCK_BOOTTIME`, nanoseconds since boot, suspend included. Every kernel record uses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Returns the time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    /// Saturates at the end of the clock, some 584 years after boot.
    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(nanos(later)))
    }
}

impl Sub<Duration> for BootTime {
    type Output = Self;

    /// Saturates at boot.
    fn sub(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(earlier)))
    }
}

impl fmt::Display for BootTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s after boot", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// Converts a duration to nanoseconds; `u64::MAX` if it is longer.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
