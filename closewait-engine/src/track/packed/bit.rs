//! Bits of [`super::Packed::known`].

pub(super) const COOKIE: u32 = 1;
pub(super) const SERVER: u32 = 1 << 1;
pub(super) const CLIENT: u32 = 1 << 2;
pub(super) const INODE: u32 = 1 << 3;
pub(super) const ACCEPTED_KNOWN: u32 = 1 << 4;
pub(super) const ACCEPTED: u32 = 1 << 5;
pub(super) const UNREAD: u32 = 1 << 6;
pub(super) const RECEIVED: u32 = 1 << 7;
pub(super) const SENT: u32 = 1 << 8;
pub(super) const KEEPALIVE_KNOWN: u32 = 1 << 9;
pub(super) const KEEPALIVE: u32 = 1 << 10;
pub(super) const ACKED: u32 = 1 << 11;
pub(super) const SEND_QUEUE: u32 = 1 << 12;
pub(super) const LAST_RECEIVED: u32 = 1 << 13;
pub(super) const LAST_ACK: u32 = 1 << 14;
pub(super) const LAST_SENT: u32 = 1 << 15;
pub(super) const TIMER_ON: u32 = 1 << 16;
pub(super) const TIMER_KEEPALIVE: u32 = 1 << 17;
pub(super) const TIMER_PERSIST: u32 = 1 << 18;
pub(super) const REFRESHED: u32 = 1 << 19;
/// The time of the entry is exact.
pub(super) const EXACT: u32 = 1 << 20;
/// `Sockets` has the earliest time of the entry.
pub(super) const EARLIEST: u32 = 1 << 21;
pub(super) const REPORTED: u32 = 1 << 22;
/// A scan has ended: the owners are known.
pub(super) const SCANNED: u32 = 1 << 23;
/// The descriptor is that of the last scan.
pub(super) const OWNED: u32 = 1 << 24;
/// The running scan has found the descriptor.
pub(super) const FOUND: u32 = 1 << 25;
/// `Sockets` has the opener.
pub(super) const OPENER: u32 = 1 << 26;
/// The remote address is a number of an IPv6 address.
pub(super) const V6: u32 = 1 << 27;
/// Index in [`super::UNITS`], two bits.
pub(super) const UNIT_SHIFT: u32 = 28;
/// The socket does not fit.
pub(super) const WIDE: u32 = 1 << 30;
/// The socket was last seen by its last refresh, and `Packed::base` is an earlier time.
pub(super) const SEEN_REFRESHED: u32 = 1 << 31;
