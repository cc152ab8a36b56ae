//! What an agent leaves to the next one beside pinned maps.

use crate::histogram::BUCKETS;

/// Raised whenever a pinned map, or a record in the pinned ring buffer, means something else than before.
pub const LAYOUT: u32 = 5;

/// Written by the agent; the kernel program does not look at it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Kept {
    /// [`LAYOUT`] of whoever pinned the maps; 0 while they are not complete.
    pub layout: u32,
    /// Which hook the program is for: one of [`hook`].
    pub hook: u32,
    /// Tells programs that do the same from others; 0 while none is attached.
    pub program: u64,
    /// Sockets whose time of entry the map has room for.
    pub max_sockets: u32,
    /// Size of the ring buffer.
    pub ring_bytes: u32,
    /// When the last window of the histograms ended, `CLOCK_BOOTTIME` nanoseconds.
    pub reported_ns: u64,
    /// The dwell times that all CPUs together had counted by then, see [`crate::stats::Stats::dwell`].
    pub reported: [u64; BUCKETS],
}

/// Values of [`Kept::hook`].
pub mod hook {
    /// `tp_btf`.
    pub const BTF: u32 = 1;
    /// The classic tracepoint.
    pub const CLASSIC: u32 = 2;
}

const _: () = assert!(size_of::<Kept>() == 32 + 8 * BUCKETS);

// SAFETY: a `repr(C)` struct of integers without padding, as the size shows: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Kept {}
