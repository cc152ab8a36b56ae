//! Notes of an agent for the next one, beside pinned maps.

use crate::histogram::BUCKETS;

/// Version of the pinned data. Raise it whenever a pinned map, or a record in the pinned ring buffer, changes its
/// meaning.
pub const LAYOUT: u32 = 8;
/// Oldest version whose maps an agent adopts. Version 5 has no [`crate::slots`]: all of its sockets are in the hash map, which
/// the program reads when a slot is not the socket's own. Up to version 6 each entry has a record, and
/// [`crate::slots::PENDING`] is 0. Up to version 7 there are no [`crate::passes`], and each exit has a record.
pub const OLDEST_LAYOUT: u32 = 5;

/// Notes of an agent; the kernel program does not read them.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Kept {
    /// [`LAYOUT`] of the agent that pinned the maps; 0 while they are not complete.
    pub layout: u32,
    /// Hook of the program: one of [`hook`].
    pub hook: u32,
    /// Hash that is equal for programs with the same behavior; 0 while none is attached.
    pub program: u64,
    /// Maximum number of sockets in the map with times of entry.
    pub max_sockets: u32,
    /// Size of the ring buffer, bytes.
    pub ring_bytes: u32,
    /// Time at which the last window of the histograms ended, `CLOCK_BOOTTIME` nanoseconds.
    pub reported_ns: u64,
    /// Dwell times that all CPUs together had counted by then, see [`crate::stats::Stats::dwell`].
    pub reported: [u64; BUCKETS],
}

/// Values of [`Kept::hook`].
pub mod hook {
    /// The typed hook, `tp_btf`.
    pub const BTF: u32 = 1;
    /// The classic tracepoint.
    pub const CLASSIC: u32 = 2;
}

const _: () = assert!(size_of::<Kept>() == 32 + 8 * BUCKETS);

// SAFETY: a `repr(C)` struct of integers without padding, as the size shows: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Kept {}
