//! Result of an exit from CLOSE_WAIT.

use crate::{
    model::{Dwell, Opener, Owner, Role},
    time::BootTime,
    track::socket_view::{Owners, SocketView},
    track::tracked_socket::TrackedSocket,
};

/// Facts about a tracked socket that exited, as far as its exit needs them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Departed {
    /// Whether the engine had reported the socket as stuck.
    pub(crate) reported: bool,
    /// [`crate::model::Socket::role`].
    pub(crate) role: Option<Role>,
    /// [`crate::model::Socket::cgroup`].
    pub(crate) cgroup: Option<u64>,
    /// [`crate::model::Socket::sent_bytes`].
    pub(crate) sent_bytes: Option<u64>,
    /// [`crate::model::Socket::opener`].
    pub(crate) opener: Option<Box<Opener>>,
    /// [`TrackedSocket::owners`].
    pub(crate) owners: Option<Vec<Owner>>,
    /// [`TrackedSocket::touched`].
    pub(crate) touched: BootTime,
}

impl Departed {
    pub(super) fn of(one: SocketView<'_>) -> Self {
        Self {
            reported: one.is_reported(),
            role: one.role(),
            cgroup: one.cgroup(),
            sent_bytes: one.sent_bytes(),
            opener: one.opener(),
            owners: one.owners().map(Owners::into_vec),
            touched: one.touched(),
        }
    }
}

/// Result of an exit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Another tracked socket at the same address: its exit was missed, and so was the entry of the socket that exited now.
    pub(crate) missed: Option<Box<TrackedSocket>>,
    /// Tracked socket that exited.
    pub(crate) tracked: Option<Departed>,
    /// Dwell time of the socket, if known.
    pub(crate) dwell: Option<Dwell>,
}
