//! Second argument of the program that refreshes one socket, and its results.

/// Reports the socket if it is in CLOSE_WAIT.
pub const WAITING: u64 = 0;
/// Reports the socket if its connection has ended and it has a descriptor.
pub const LINGERING: u64 = 1;
/// Writes the record of the socket's entry ([`crate::record::flag::ANNOUNCED`]) if the socket is in CLOSE_WAIT and has a slot.
pub const ENTERED: u64 = 2;

/// The socket is not in that state.
pub const ABSENT: i32 = 0;
/// The ring buffer has the record.
pub const WRITTEN: i32 = 1;
/// The ring buffer has no room for the record. Nothing is lost of an entry: the agent asks again. Another record is counted as lost.
pub const FULL: i32 = 2;
