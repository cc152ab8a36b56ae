//! Socket that its program has not closed, without a copy.

use std::{borrow::Cow, fmt, ops::Deref};

use super::{packed::Packed, sockets::Sockets};
use crate::{
    model::{Dwell, Endpoint, Exit, Opener, Owner, Protocol, ReadState, Role, Since, Socket, SocketKey},
    time::BootTime,
    track::lingering::Lingering,
    track::tracked_socket::TrackedSocket,
    track::tracker::NEVER,
};

/// Socket that its program has not closed. Each method reads only what it returns.
#[derive(Clone, Copy)]
pub(crate) enum SocketView<'a> {
    /// Tracked socket in the table.
    Tracked(&'a Sockets, &'a Packed),
    /// Socket whose connection the peer has ended; its facts are those at its exit from CLOSE_WAIT.
    Abandoned(&'a Lingering),
}

/// Form in which a socket is stored.
enum Stored<'a> {
    /// In the table.
    Packed(&'a Sockets, &'a Packed),
    /// Because the packed form has no room for it.
    Wide(&'a TrackedSocket),
    /// Because it has exited.
    Abandoned(&'a Lingering),
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
    /// Returns the form in which the socket is stored.
    fn stored(self) -> Stored<'a> {
        match self {
            Self::Tracked(sockets, packed) if packed.is_wide() => match sockets.wide.get(&packed.key) {
                Some(wide) => Stored::Wide(wide),
                None => Stored::Packed(sockets, packed),
            },
            Self::Tracked(sockets, packed) => Stored::Packed(sockets, packed),
            Self::Abandoned(one) => Stored::Abandoned(one),
        }
    }

    /// Returns a fact about the socket from its packed form, or from the whole one.
    fn fact<T>(self, packed: impl FnOnce(&'a Sockets, &'a Packed) -> T, whole: impl FnOnce(&'a Socket) -> T) -> T {
        match self.stored() {
            Stored::Packed(sockets, of) => packed(sockets, of),
            Stored::Wide(wide) => whole(&wide.socket),
            Stored::Abandoned(one) => whole(&one.socket),
        }
    }

    /// Returns the exit of a socket whose connection the peer has ended; `None` for a socket in CLOSE_WAIT.
    pub(crate) fn exit(self) -> Option<&'a Exit> {
        match self {
            Self::Tracked(..) => None,
            Self::Abandoned(one) => Some(&one.gone),
        }
    }

    /// Returns the key of the socket.
    pub(crate) fn key(self) -> SocketKey {
        match self {
            Self::Tracked(_, packed) => packed.key,
            Self::Abandoned(one) => one.key,
        }
    }

    /// Returns the time of the next report.
    pub(crate) fn due(self) -> BootTime {
        match self {
            Self::Tracked(_, packed) => packed.due,
            Self::Abandoned(_) => NEVER,
        }
    }

    /// Returns the time of the entry, or its bounds.
    pub(crate) fn since(self) -> Since {
        match self.stored() {
            Stored::Packed(sockets, packed) => {
                let earliest = packed.has_earliest().then(|| sockets.earliest.get(&packed.key)).flatten();
                packed.since(earliest.copied())
            }
            Stored::Wide(wide) => wide.since,
            Stored::Abandoned(one) => one.since(),
        }
    }

    /// Returns the time of the entry, or the latest one.
    pub(crate) fn latest(self) -> BootTime {
        match self.stored() {
            Stored::Packed(_, packed) => packed.latest(),
            Stored::Wide(wide) => wide.since.latest(),
            Stored::Abandoned(one) => one.since().latest(),
        }
    }

    /// Returns the time at `now` since the socket's entry, or its bounds.
    pub(crate) fn dwell(self, now: BootTime) -> Dwell {
        self.since().dwell(now)
    }

    /// Returns the latest time at which the socket is known to have been in CLOSE_WAIT.
    pub(crate) fn seen(self) -> BootTime {
        match self.stored() {
            Stored::Packed(_, packed) => packed.seen(),
            Stored::Wide(wide) => wide.seen,
            Stored::Abandoned(one) => one.gone.at,
        }
    }

    /// Returns the latest time at which the agent noticed that a program used the socket.
    pub(crate) fn touched(self) -> BootTime {
        match self.stored() {
            Stored::Packed(_, packed) => packed.touched(),
            Stored::Wide(wide) => wide.touched,
            Stored::Abandoned(one) => one.touched(),
        }
    }

    /// Returns the time of the last refresh.
    pub(crate) fn refreshed(self) -> Option<BootTime> {
        match self.stored() {
            Stored::Packed(_, packed) => packed.refreshed(),
            Stored::Wide(wide) => wide.refreshed,
            Stored::Abandoned(one) => Some(one.gone.at),
        }
    }

    /// Whether the socket was reported as stuck.
    pub(crate) fn is_reported(self) -> bool {
        match self.stored() {
            Stored::Packed(_, packed) => packed.is_reported(),
            Stored::Wide(wide) => wide.reported,
            // Its exit was.
            Stored::Abandoned(_) => true,
        }
    }

    /// Returns [`Socket::accepted`].
    pub(crate) fn accepted(self) -> Option<bool> {
        self.fact(|_, packed| packed.accepted(), |socket| socket.accepted)
    }

    /// Returns [`Socket::protocol`].
    pub(crate) fn protocol(self) -> Protocol {
        self.fact(|sockets, packed| packed.protocol(&sockets.interned), |socket| socket.protocol)
    }

    /// Returns [`Socket::role`].
    pub(crate) fn role(self) -> Option<Role> {
        self.fact(|_, packed| packed.role(), |socket| socket.role)
    }

    /// Returns [`Socket::inode`].
    pub(crate) fn inode(self) -> Option<u64> {
        self.fact(|_, packed| packed.inode(), |socket| socket.inode)
    }

    /// Returns [`Socket::cookie`].
    fn cookie(self) -> Option<u64> {
        self.fact(|_, packed| packed.cookie(), |socket| socket.cookie)
    }

    /// Returns [`Socket::netns`].
    pub(crate) fn netns(self) -> Option<u32> {
        self.fact(|sockets, packed| packed.netns(&sockets.interned), |socket| socket.netns)
    }

    /// Returns [`Socket::cgroup`].
    pub(crate) fn cgroup(self) -> Option<u64> {
        self.fact(|sockets, packed| packed.cgroup(&sockets.interned), |socket| socket.cgroup)
    }

    /// Returns [`Socket::sent_bytes`].
    pub(crate) fn sent_bytes(self) -> Option<u64> {
        self.fact(|_, packed| packed.sent_bytes(), |socket| socket.sent_bytes)
    }

    /// Returns [`Socket::read_state`].
    pub(crate) fn read_state(self) -> Option<ReadState> {
        self.fact(|_, packed| packed.read_state(), Socket::read_state)
    }

    /// Returns the local and the remote endpoint.
    pub(crate) fn ends(self) -> (Endpoint, Endpoint) {
        self.fact(|sockets, packed| packed.ends(&sockets.interned), |socket| (socket.local, socket.remote))
    }

    /// Returns the network namespace and the cgroup, and the local and the remote endpoint.
    pub(crate) fn site_and_ends(self) -> ((Option<u32>, Option<u64>), (Endpoint, Endpoint)) {
        let of_whole = |socket: &Socket| ((socket.netns, socket.cgroup), (socket.local, socket.remote));
        self.fact(|sockets, packed| packed.site_and_ends(&sockets.interned), of_whole)
    }

    /// Returns the facts about the socket.
    pub(crate) fn socket(self) -> Socket {
        match self.stored() {
            Stored::Packed(sockets, packed) => Socket { opener: self.opener(), ..packed.socket(&sockets.interned) },
            Stored::Wide(wide) => wide.socket.clone(),
            Stored::Abandoned(one) => one.socket.clone(),
        }
    }

    /// Returns [`Socket::opener`].
    pub(crate) fn opener(self) -> Option<Box<Opener>> {
        let of_packed = |sockets: &Sockets, packed: &Packed| {
            packed.has_opener().then(|| sockets.openers.get(&packed.key)).flatten().cloned().map(Box::new)
        };
        self.fact(of_packed, |socket| socket.opener.clone())
    }

    /// Returns the descriptors of the socket as of the last scan of open files; `None` before the first.
    pub(crate) fn owners(self) -> Option<Owners<'a>> {
        match self.stored() {
            Stored::Packed(sockets, packed) => {
                let owner = packed.owned()?.then(|| packed.owner(&sockets.interned)).flatten();
                Some(owner.map_or(Owners::Others(&[]), |owner| Owners::One([owner])))
            }
            Stored::Wide(wide) => wide.owners.as_deref().map(Owners::Others),
            Stored::Abandoned(one) => one.owners.as_deref().map(Owners::Others),
        }
    }

    /// Returns the PID of the first owner, and the number of owning processes; `None` if none is known.
    pub(crate) fn owning_processes(self) -> Option<(u32, u32)> {
        let of_whole = |owners: Option<&[Owner]>| {
            let owners = owners?;
            let others = owners.windows(2).filter(|pair| pair[0].task.pid != pair[1].task.pid).count();
            Some((owners.first()?.task.pid, 1 + u32::try_from(others).unwrap_or(u32::MAX - 1)))
        };
        match self.stored() {
            Stored::Packed(sockets, packed) => {
                packed.owned()?.then(|| packed.owner_task(&sockets.interned)).flatten().map(|task| (task.pid, 1))
            }
            Stored::Wide(wide) => of_whole(wide.owners.as_deref()),
            Stored::Abandoned(one) => of_whole(one.owners.as_deref()),
        }
    }

    /// Whether the owners are known.
    pub(crate) fn is_scanned(self) -> bool {
        match self.stored() {
            Stored::Packed(_, packed) => packed.owned().is_some(),
            Stored::Wide(wide) => wide.owners.is_some(),
            Stored::Abandoned(one) => one.owners.is_some(),
        }
    }

    /// Whether the descriptors are known, and there is none.
    pub(crate) fn is_unheld(self) -> bool {
        match self.stored() {
            Stored::Packed(_, packed) => packed.owned() == Some(false),
            Stored::Wide(wide) => wide.owners.as_deref().is_some_and(<[_]>::is_empty),
            Stored::Abandoned(one) => one.owners.as_deref().is_some_and(<[_]>::is_empty),
        }
    }

    /// Whether two descriptions cannot belong to the same socket.
    pub(crate) fn differs(self, socket: &Socket) -> bool {
        fn differ<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
            one.zip(other).is_some_and(|(one, other)| one != other)
        }
        differ(self.cookie(), socket.cookie)
            || differ(self.netns(), socket.netns)
            || differ(self.inode(), socket.inode)
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
            // An earlier stay ended before. A later observation proves nothing: the program reads the time before the state changes.
            (None, Since::Exact(since)) => at >= since,
            (Some(_), Since::Between { .. }) => at >= self.seen(),
        }
    }

    /// Whether the record of an entry at `at` is about an earlier socket, or an earlier entry of this one.
    pub(crate) fn is_later_than(self, at: BootTime, socket: &Socket) -> bool {
        self.since().is_after(at) || self.differs(socket)
    }

    /// Copies the socket.
    pub(crate) fn to_tracked(self) -> TrackedSocket {
        let found = match self.stored() {
            Stored::Wide(wide) => return wide.clone(),
            Stored::Packed(sockets, packed) => packed.is_found().then(|| packed.owner(&sockets.interned)).flatten(),
            Stored::Abandoned(_) => None,
        };
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
