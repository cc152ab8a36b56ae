//! Stacks of programs in their `connect(2)`: which connections the kernel program samples, and the record of a sample.

/// Maximum number of watched pairs of a process and a remote port.
pub const WATCHED_CONNECTS: u32 = 64;
/// Size of the ring buffer of [`ConnectRecord`]s, bytes: 31 records.
pub const CONNECT_RING_BYTES: u32 = 256 << 10;
/// Maximum number of bytes of a stack in a record. Most stacks of connecting threads and goroutines are shorter.
pub const STACK_BYTES: usize = 8 << 10;
/// Number of bytes of a stack that are copied together, so that the end of a stack's memory loses less than that.
pub const CHUNK_BYTES: usize = 1024;

/// Watched pair of a process and a remote port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectWatch {
    /// End of the watch, `CLOCK_BOOTTIME` nanoseconds. Without an agent that extends it, the kernel program samples no more.
    pub until_ns: u64,
    /// Maximum of `samples`. If CPUs count at the same time, there are a few more.
    pub most: u64,
    /// Number of connections since the agent wrote this.
    pub connects: u64,
    /// Number of samples since the agent wrote this, including those for which the ring buffer had no space.
    pub samples: u64,
}

/// Returns the key of a process (`tgid`) and a remote port.
pub const fn key(pid: u32, port: u16) -> u64 {
    (pid as u64) << 16 | port as u64
}

/// Registers and stack of a thread in its `connect(2)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectRecord {
    /// Everything but the stack.
    pub head: ConnectHead,
    /// Memory at the stack pointer.
    pub stack: [u8; STACK_BYTES],
}

/// Connection and registers of a [`ConnectRecord`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectHead {
    /// Time of the connect, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// Address of the next instruction in user space.
    pub pc: u64,
    /// Stack pointer in user space.
    pub sp: u64,
    /// Frame pointer: `rbp`, or `x29`.
    pub fp: u64,
    /// Link register: `x30`; 0 on machines without one.
    pub lr: u64,
    /// Process id (`tgid`) in the initial pid namespace.
    pub pid: u32,
    /// Thread id there.
    pub tid: u32,
    /// Inode of the socket's network namespace; 0 if unknown.
    pub netns: u32,
    /// Remote port, host byte order.
    pub remote_port: u16,
    /// Number of valid bytes of the stack.
    pub stack_len: u16,
    /// Remote address; IPv4 as an IPv4-mapped IPv6 address.
    pub remote_address: [u8; 16],
}

/// Size of a [`ConnectRecord`], bytes.
pub const CONNECT_RECORD_SIZE: usize = size_of::<ConnectRecord>();

const _: () = assert!(size_of::<ConnectWatch>() == 32);
const _: () = assert!(CONNECT_RECORD_SIZE == 72 + STACK_BYTES);
const _: () = assert!(core::mem::offset_of!(ConnectRecord, stack) == 72);
const _: () = assert!(STACK_BYTES.is_multiple_of(CHUNK_BYTES) && STACK_BYTES <= u16::MAX as usize);

// SAFETY: a `repr(C)` struct of integers without padding, as the size shows: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ConnectWatch {}
