//! Ports whose closes the kernel program counts, and remote ports whose openers it stores.

/// Maximum number of watched ports.
pub const WATCHED_PORTS: u32 = 1024;

/// Count of one watched port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// A close counts if the program sent data on the connection after this time, `CLOCK_BOOTTIME` nanoseconds.
    pub since_ns: u64,
    /// Number of closes.
    pub closes: u64,
    /// Time of the last close, `CLOCK_BOOTTIME` nanoseconds; 0 if there was none.
    pub last_ns: u64,
}

/// Returns the key of a port in the network namespace with this inode: a local port of accepted connections, or a
/// remote port of connections that programs make.
pub const fn key(netns: u32, port: u16, remote: bool) -> u64 {
    (remote as u64) << 63 | (netns as u64) << 16 | port as u64
}

const _: () = assert!(size_of::<Watched>() == 24);

// SAFETY: a `repr(C)` struct of integers without padding, as the size shows: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Watched {}
