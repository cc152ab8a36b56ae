//! Sockets in CLOSE_WAIT, and sockets that have exited but still have a descriptor.

pub(crate) mod hashing;
pub(crate) mod lingering;
pub(crate) mod overflow;
pub(crate) mod scans;
pub(crate) mod schedule;
pub(crate) mod tracked_socket;
pub(crate) mod tracker;
