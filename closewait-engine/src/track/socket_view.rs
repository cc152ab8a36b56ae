//! Tracked socket in the table, without a copy.

use std::{borrow::Cow, fmt, ops::Deref};

use super::{packed::Packed, sockets::Sockets};
use crate::{
    model::{Dwell, Endpoint, Opener, Owner, Protocol, Role, Since, Socket, SocketKey},
    time::BootTime,
    track::tracked_socket::TrackedSocket,
};

/// Tracked socket in the table. Each method reads only what it returns.
#[derive(Clone, Copy)]
pub(crate) struct SocketView<'a> {
    sockets: &'a Sockets,
    packed: &'a Packed,
}

/// Facts about a socket that decide what an inspection reads.
#[derive(Clone, Debug)]
pub(crate) struct InspectedSocket<'a> {
    /// [`Socket::netns`].
    pub(crate) netns: Option<u32>,
    /// [`Socket::cgroup`].
    pub(crate) cgroup: Option<u64>,
    /// [`Socket::inode`].
    pub(crate) inode: Option<u64>,
    /// [`Socket::role`].
    pub(crate) role: Option<Role>,
    /// [`Socket::local`].
    pub(crate) local: Endpoint,
    /// Descriptors of the socket; `None` before the first scan.
    pub(crate) owners: Option<Owners<'a>>,
}

impl<'a> From<(&Socket, Option<&'a [Owner]>)> for InspectedSocket<'a> {
    fn from((socket, owners): (&Socket, Option<&'a [Owner]>)) -> Self {
        let Socket { netns, cgroup, inode, role, local, .. } = *socket;
        Self { netns, cgroup, inode, role, local, owners: owners.map(Owners::Others) }
    }
}

impl<'a> From<SocketView<'a>> for InspectedSocket<'a> {
    fn from(one: SocketView<'a>) -> Self {
        Self {
            netns: one.netns(),
            cgroup: one.cgroup(),
            inode: one.inode(),
            role: one.role(),
            local: one.ends().0,
            owners: one.owners(),
        }
    }
}

/// Descriptors of a socket, sorted by process. Nearly all sockets have one, which takes no allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owners<'a> {
    /// One descriptor.
    One([Owner; 1]),
    /// None, or several.
    Others(&'a [Owner]),
}

impl Owners<'_> {
    /// Copies the descriptors.
    pub(crate) fn into_vec(self) -> Vec<Owner> {
        match self {
            Self::One(one) => one.into(),
            Self::Others(others) => others.to_vec(),
        }
    }
}

impl Deref for Owners<'_> {
    type Target = [Owner];

    fn deref(&self) -> &[Owner] {
        match self {
            Self::One(one) => one,
            Self::Others(others) => others,
        }
    }
}

impl<'a> From<Owners<'a>> for Cow<'a, [Owner]> {
    fn from(owners: Owners<'a>) -> Self {
        match owners {
            Owners::One(one) => Cow::Owned(one.into()),
            Owners::Others(others) => Cow::Borrowed(others),
        }
    }
}

impl fmt::Debug for SocketView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_tracked().fmt(f)
    }
}

impl<'a> SocketView<'a> {
    pub(super) fn new(sockets: &'a Sockets, packed: &'a Packed) -> Self {
        Self { sockets, packed }
    }

    /// Returns the socket as it is stored if its packed form has no room for it.
    fn wide(self) -> Option<&'a TrackedSocket> {
        if !self.packed.is_wide() {
            return None;
        }
        self.sockets.wide.get(&self.packed.key).map(|wide| &**wide)
    }

    /// Returns the key of the socket.
    pub(crate) fn key(self) -> SocketKey {
        self.packed.key
    }

    /// Returns the time of the next report.
    pub(crate) fn due(self) -> BootTime {
        self.packed.due
    }

    /// Returns the time of the entry, or its bounds.
    pub(crate) fn since(self) -> Since {
        self.wide().map_or_else(
            || {
                let earliest = self.packed.has_earliest().then(|| self.sockets.earliest.get(&self.key())).flatten();
                self.packed.since(earliest.copied())
            },
            |wide| wide.since,
        )
    }

    /// Returns the time of the entry, or the latest one.
    pub(crate) fn latest(self) -> BootTime {
        self.wide().map_or_else(|| self.packed.latest(), |wide| wide.since.latest())
    }

    /// Returns the dwell time at `now`.
    pub(crate) fn dwell(self, now: BootTime) -> Dwell {
        self.since().dwell(now)
    }

    /// Returns the latest time at which the socket is known to have been in CLOSE_WAIT.
    pub(crate) fn seen(self) -> BootTime {
        self.wide().map_or_else(|| self.packed.seen(), |wide| wide.seen)
    }

    /// Returns the latest time at which the agent noticed that a program used the socket.
    pub(crate) fn touched(self) -> BootTime {
        self.wide().map_or_else(|| self.packed.touched(), |wide| wide.touched)
    }

    /// Returns the time of the last refresh.
    pub(crate) fn refreshed(self) -> Option<BootTime> {
        self.wide().map_or_else(|| self.packed.refreshed(), |wide| wide.refreshed)
    }

    /// Whether the socket was reported as stuck.
    pub(crate) fn is_reported(self) -> bool {
        self.wide().map_or_else(|| self.packed.is_reported(), |wide| wide.reported)
    }

    /// Returns [`Socket::accepted`].
    pub(crate) fn accepted(self) -> Option<bool> {
        self.wide().map_or_else(|| self.packed.accepted(), |wide| wide.socket.accepted)
    }

    /// Returns [`Socket::protocol`].
    pub(crate) fn protocol(self) -> Protocol {
        self.wide().map_or_else(|| self.packed.protocol(&self.sockets.interned), |wide| wide.socket.protocol)
    }

    /// Returns [`Socket::role`].
    pub(crate) fn role(self) -> Option<Role> {
        self.wide().map_or_else(|| self.packed.role(), |wide| wide.socket.role)
    }

    /// Returns [`Socket::inode`].
    pub(crate) fn inode(self) -> Option<u64> {
        self.wide().map_or_else(|| self.packed.inode(), |wide| wide.socket.inode)
    }

    /// Returns [`Socket::netns`].
    pub(crate) fn netns(self) -> Option<u32> {
        self.wide().map_or_else(|| self.packed.netns(&self.sockets.interned), |wide| wide.socket.netns)
    }

    /// Returns [`Socket::cgroup`].
    pub(crate) fn cgroup(self) -> Option<u64> {
        self.wide().map_or_else(|| self.packed.cgroup(&self.sockets.interned), |wide| wide.socket.cgroup)
    }

    /// Returns [`Socket::sent_bytes`].
    pub(crate) fn sent_bytes(self) -> Option<u64> {
        self.wide().map_or_else(|| self.packed.sent_bytes(), |wide| wide.socket.sent_bytes)
    }

    /// Returns the local and the remote endpoint.
    pub(crate) fn ends(self) -> (Endpoint, Endpoint) {
        let of_wide = |wide: &TrackedSocket| (wide.socket.local, wide.socket.remote);
        self.wide().map_or_else(|| self.packed.ends(&self.sockets.interned), of_wide)
    }

    /// Returns the network namespace and the cgroup, and the local and the remote endpoint.
    pub(crate) fn site_and_ends(self) -> ((Option<u32>, Option<u64>), (Endpoint, Endpoint)) {
        if let Some(wide) = self.wide() {
            let Socket { netns, cgroup, local, remote, .. } = wide.socket;
            return ((netns, cgroup), (local, remote));
        }
        self.packed.site_and_ends(&self.sockets.interned)
    }

    /// Returns the facts about the socket.
    pub(crate) fn socket(self) -> Socket {
        if let Some(wide) = self.wide() {
            return wide.socket.clone();
        }
        Socket { opener: self.opener(), ..self.packed.socket(&self.sockets.interned) }
    }

    /// Returns [`Socket::opener`].
    pub(crate) fn opener(self) -> Option<Box<Opener>> {
        if let Some(wide) = self.wide() {
            return wide.socket.opener.clone();
        }
        self.packed.has_opener().then(|| self.sockets.openers.get(&self.key())).flatten().cloned().map(Box::new)
    }

    /// Returns the descriptors of the socket as of the last scan of open files; `None` before the first.
    pub(crate) fn owners(self) -> Option<Owners<'a>> {
        if let Some(wide) = self.wide() {
            return wide.owners.as_deref().map(Owners::Others);
        }
        let is_owned = self.packed.owned()?;
        let owner = is_owned.then(|| self.packed.owner(&self.sockets.interned)).flatten();
        Some(owner.map_or(Owners::Others(&[]), |owner| Owners::One([owner])))
    }

    /// Whether the owners are known.
    pub(crate) fn is_scanned(self) -> bool {
        self.wide().map_or_else(|| self.packed.owned().is_some(), |wide| wide.owners.is_some())
    }

    /// Whether the descriptors are known, and there is none.
    pub(crate) fn is_unheld(self) -> bool {
        let of_wide = |wide: &TrackedSocket| wide.owners.as_deref().is_some_and(<[_]>::is_empty);
        self.wide().map_or_else(|| self.packed.owned() == Some(false), of_wide)
    }

    /// Whether two descriptions cannot belong to the same socket, as [`super::tracked_socket::differ`] decides.
    pub(crate) fn differs(self, socket: &Socket) -> bool {
        fn differ<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
            one.zip(other).is_some_and(|(one, other)| one != other)
        }
        if let Some(wide) = self.wide() {
            return super::tracked_socket::differ(&wide.socket, socket);
        }
        differ(self.packed.cookie(), socket.cookie)
            || differ(self.netns(), socket.netns)
            || differ(self.packed.inode(), socket.inode)
            || self.ends() != (socket.local, socket.remote)
    }

    /// Whether a found socket is another one, or this one after a later entry.
    pub(crate) fn is_another(self, since: Since, found: &Socket) -> bool {
        // An exact time comes from the kernel, and this socket was in CLOSE_WAIT before it.
        matches!(since, Since::Exact(entered) if entered > self.latest()) || self.differs(found)
    }

    /// Whether an exit at `at` belongs to this entry and not to an earlier one. `entered` is the entry that belongs to the exit,
    /// if the kernel program saw it.
    pub(crate) fn ends_with(self, at: BootTime, entered: Option<BootTime>) -> bool {
        match (entered, self.since()) {
            (Some(entered), Since::Exact(since)) => entered >= since,
            // Neither the scan nor the exit found an entry time in the kernel's map.
            (None, Since::Between { .. }) => true,
            (Some(_), Since::Between { .. }) | (None, Since::Exact(_)) => at >= self.seen(),
        }
    }

    /// Whether the record of an entry at `at` is about an earlier socket, or an earlier entry of this one.
    pub(crate) fn is_later_than(self, at: BootTime, socket: &Socket) -> bool {
        self.since().is_after(at) || self.differs(socket)
    }

    /// Copies the socket.
    pub(crate) fn to_tracked(self) -> TrackedSocket {
        if let Some(wide) = self.wide() {
            return wide.clone();
        }
        let found = self.packed.is_found().then(|| self.packed.owner(&self.sockets.interned)).flatten();
        TrackedSocket {
            socket: self.socket(),
            since: self.since(),
            seen: self.seen(),
            due: self.due(),
            reported: self.is_reported(),
            refreshed: self.refreshed(),
            owners: self.owners().map(Owners::into_vec),
            found: found.into_iter().collect(),
            touched: self.touched(),
        }
    }
}
