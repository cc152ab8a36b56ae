//! Copies of the facts of many sockets, which the kernel program makes in one run for a refresh.
//!
//! The agent chooses the parts of the kernel's structs ([`CopyWindows`]), writes addresses into a [`CopyBatch`], runs the program, and reads
//! the copies from the same memory.

/// Maximum number of sockets of one run.
pub const SOCKETS: usize = 64;
/// Maximum number of parts that are copied.
pub const WINDOWS: usize = 16;
/// Maximum size of a copy, words of 8 bytes.
pub const WORDS: usize = 96;

/// Size of a word, bytes.
pub const WORD: usize = size_of::<u64>();

/// Part of the memory behind the address of a socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Start, bytes from the address of the socket.
    pub offset: u32,
    /// Size, words; 0 for no part.
    pub words: u32,
    /// Place in a copy, words from the start.
    pub to: u32,
}

impl Window {
    /// No part.
    pub const NONE: Self = Self { offset: 0, words: 0, to: 0 };
}

/// Parts that are copied, one behind the other.
pub type CopyWindows = [Window; WINDOWS];

/// Memory that the agent shares with the program.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CopyBatch {
    /// Time before the first copy, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// Addresses of the sockets.
    pub sockets: [u64; SOCKETS],
    /// 0 if all parts of the socket were copied.
    pub failed: [u64; SOCKETS],
    /// Copies of the sockets.
    pub copies: [[u64; WORDS]; SOCKETS],
}

const _: () = assert!(size_of::<Window>() == 12);
const _: () = assert!(size_of::<CopyBatch>() == WORD * (1 + 2 * SOCKETS + WORDS * SOCKETS));

// SAFETY: a `repr(C)` struct of `u64` alone: no padding, every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for CopyBatch {}
// SAFETY: a `repr(C)` struct of `u32` alone, as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Window {}
