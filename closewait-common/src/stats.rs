//! Counters of each CPU, stored where no ring buffer can lose them.

use crate::histogram::BUCKETS;

/// Index of a counter in [`Stats::counters`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Sockets that entered CLOSE_WAIT.
    Entered = 0,
    /// Exited sockets whose entry was not observed: older than the program, or missed.
    LeftUnseen = 2,
    /// Records dropped because the ring buffer was full.
    RingFull = 3,
    /// Entry times that could not be stored: the map was full or the kernel out of memory.
    MapFull = 4,
    /// Entries that were still stored when the same `struct sock` entered again: a missed exit.
    Replaced = 5,
}

/// Number of counters. The one with index 1 counted exited sockets before layout 6 ([`crate::kept`]); now their number is that of
/// all dwell times plus [`Counter::LeftUnseen`].
pub const COUNTERS: usize = 6;

/// Counts of one CPU since the program was loaded.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stats {
    /// Counts, one for each [`Counter`].
    pub counters: [u64; COUNTERS],
    /// Dwell times of exited sockets with an observed entry, nanoseconds; see [`crate::histogram`].
    pub dwell: [u64; BUCKETS],
}

// A value of a per-CPU map may not be larger than this (`PCPU_MIN_UNIT_SIZE`, include/linux/percpu.h at v5.10).
const _: () = assert!(size_of::<Stats>() <= 32 * 1024);
const _: () = assert!(size_of::<Stats>() == 8 * (COUNTERS + BUCKETS));

// SAFETY: a `repr(C)` struct of `u64` alone: no padding, every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Stats {}
