//! Counters of each CPU, kept where no ring buffer can lose them.

use crate::histogram::BUCKETS;

/// Index of a counter in [`Stats::counters`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Sockets that entered CLOSE_WAIT.
    Entered = 0,
    /// Sockets that left CLOSE_WAIT.
    Left = 1,
    /// Of those that left, the ones whose entry was not seen: older than the program, or missed.
    LeftUnseen = 2,
    /// Records dropped because the ring buffer was full.
    RingFull = 3,
    /// Entry times that could not be stored: the map was full or the kernel out of memory.
    MapFull = 4,
    /// Entries found still stored when the same `struct sock` entered again: a leaving was missed.
    Replaced = 5,
}

/// How many counters there are.
pub const COUNTERS: usize = 6;

/// What one CPU has counted since the program was loaded.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stats {
    /// One for each [`Counter`].
    pub counters: [u64; COUNTERS],
    /// Dwell times, nanoseconds, of the sockets that left and whose entry was seen; see [`crate::histogram`].
    pub dwell: [u64; BUCKETS],
}

// A value of a per-CPU map may not be larger than this (`PCPU_MIN_UNIT_SIZE`, include/linux/percpu.h at v5.10).
const _: () = assert!(size_of::<Stats>() <= 32 * 1024);
const _: () = assert!(size_of::<Stats>() == 8 * (COUNTERS + BUCKETS));

// SAFETY: a `repr(C)` struct of `u64` alone: no padding, every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Stats {}
