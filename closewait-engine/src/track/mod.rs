//! Sockets in CLOSE_WAIT, and sockets that have exited but still have a descriptor.

pub(crate) mod departed;
pub(crate) mod hashing;
mod interner;
pub(crate) mod lingering;
pub(crate) mod overflow;
mod packed;
pub(crate) mod scans;
mod schedule;
mod slab;
pub(crate) mod socket_view;
pub(crate) mod sockets;
pub(crate) mod tracked_socket;
pub(crate) mod tracker;
