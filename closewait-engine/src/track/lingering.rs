//! Sockets that have exited CLOSE_WAIT while a program still has a descriptor of them.
//!
//! No list of connections shows them, and no event reports the close of the descriptor, so the agent refreshes them at growing
//! intervals.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    limits::{Quota, keep_owner, shrink, some_are_of, sort_owners},
    model::{Dwell, Endpoint, Exit, Owner, Since, Socket, SocketKey},
    time::BootTime,
    track::hashing::{FastState, by_key},
    track::socket_view::SocketView,
};

/// Maximum number of lingering sockets, at about 400 bytes each; further ones are dropped and counted.
const MAX_LINGERING: usize = 65_536;
/// Maximum number of stored descriptors, without the first of each socket.
const MAX_MORE_OWNERS: usize = 65_536;
/// Time between the exit of a socket and its first refresh.
const FIRST_REFRESH_AFTER: Duration = Duration::from_secs(1);
/// Maximum interval of refreshes of a socket.
const MAX_REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Time after the end of a connection within which a program that has sent something to a peer that was gone closes it. Later, it is
/// stuck: it may have sent only a greeting.
const MAX_CLOSE_DELAY: Duration = Duration::from_secs(60);

/// Socket that has exited CLOSE_WAIT and has an open descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lingering {
    /// Key of the socket.
    #[serde(skip)]
    pub key: SocketKey,
    /// Facts about the socket at its exit.
    pub socket: Socket,
    /// Cause and time of the exit.
    pub gone: Exit,
    /// Descriptors of the socket, as of the last scan; `None` before the first.
    pub owners: Option<Vec<Owner>>,
    /// Latest time at which the agent noticed that a program used the socket, if it is as stuck as before the peer, or its silence, ended the
    /// connection; otherwise `None`. See [`Self::is_abandoned`].
    #[serde(default)]
    untouched_since: Option<BootTime>,
    /// Whether its exit counts as an exit from its group already.
    #[serde(default)]
    has_left: bool,
    found: Vec<Owner>,
    due: BootTime,
    /// Time of the last refresh that found the socket; `None` before the first one, which few descriptors survive.
    seen: Option<BootTime>,
}

impl Lingering {
    /// Returns the local and the remote endpoint.
    pub(crate) fn ends(&self) -> (Endpoint, Endpoint) {
        (self.socket.local, self.socket.remote)
    }

    /// Whether the peer has ended the connection, and the program has not used the socket after the peer's FIN: it is stuck as before.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.untouched_since.is_some()
    }

    /// Whether its exit counts as an exit from its group already: the program seemed to be about to close it.
    pub(crate) fn has_left(&self) -> bool {
        self.has_left
    }

    /// Returns the latest time at which a program is known, or may have, to have used the socket.
    pub(crate) fn touched(&self) -> BootTime {
        self.untouched_since.unwrap_or(self.gone.at)
    }

    /// Returns the latest time at which its descriptor is known to have been open.
    pub(crate) fn last_open(&self) -> BootTime {
        self.seen.unwrap_or(self.gone.at)
    }

    /// Returns the PID of its first owner; `None` if it is unknown.
    pub(crate) fn first_pid(&self) -> Option<u32> {
        self.owners.as_deref()?.first().map(|owner| owner.task.pid)
    }

    /// Returns the time of the entry into CLOSE_WAIT, or its bounds. Without a known dwell time, the exit is the latest one.
    pub(crate) fn since(&self) -> Since {
        let at = self.gone.at;
        match self.gone.dwell {
            Some(Dwell::Exact(dwell)) => Since::Exact(at - dwell),
            Some(Dwell::Between { at_least, at_most }) => {
                Since::Between { earliest: at_most.map(|at_most| at - at_most), latest: at - at_least }
            }
            None => Since::Between { earliest: None, latest: at },
        }
    }
}

/// All sockets that have exited CLOSE_WAIT and have an open descriptor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LingeringSockets {
    #[serde(with = "by_key")]
    sockets: HashMap<SocketKey, Lingering, FastState>,
    #[serde(skip)]
    due: BTreeSet<(BootTime, SocketKey)>,
    /// Number of sockets that are as stuck as before.
    #[serde(skip)]
    abandoned: usize,
    /// Sockets that the current refresh reads; `None` between two, and in a checkpoint of an older version.
    #[serde(default)]
    refreshing: Option<Vec<SocketKey>>,
    unwatched: u64,
    /// Keys by inode, during a scan that needs them.
    by_inode: Option<BTreeMap<u64, SocketKey>>,
    owner_quota: Quota,
    /// Number of descriptors that the last scan dropped.
    dropped_owners: u64,
}

impl Default for LingeringSockets {
    fn default() -> Self {
        Self {
            sockets: HashMap::default(),
            due: BTreeSet::new(),
            abandoned: 0,
            refreshing: None,
            unwatched: 0,
            by_inode: None,
            owner_quota: Quota::new(MAX_MORE_OWNERS),
            dropped_owners: 0,
        }
    }
}

impl LingeringSockets {
    /// Restores the field that a checkpoint does not contain, because it follows from the sockets.
    pub(crate) fn restored(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "a sorted set")]
        let due = self.sockets.iter().map(|(key, one)| (one.due, *key)).collect();
        self.due = due;
        self.abandoned = self.maybe_abandoned().count();
        for (key, one) in &mut self.sockets {
            one.key = *key;
        }
    }

    /// Whether any socket is as stuck as before its peer ended the connection.
    pub(crate) fn has_abandoned(&self) -> bool {
        self.abandoned > 0
    }

    /// Returns all sockets, also those that no refresh has found yet, in the order of their next refresh.
    fn all(&self) -> impl Iterator<Item = &Lingering> {
        self.due.iter().filter_map(|(_, key)| self.sockets.get(key))
    }

    /// Returns the number of sockets that a refresh has found.
    pub(crate) fn len(&self) -> usize {
        self.all().filter(|lingering| lingering.seen.is_some()).count()
    }

    /// Returns the number of sockets over the limit, which are not watched.
    pub(crate) fn unwatched(&self) -> u64 {
        self.unwatched
    }

    /// Returns the number of descriptors of the last scan that were dropped, because a limit was reached.
    pub(crate) fn dropped_owners(&self) -> u64 {
        self.dropped_owners
    }

    /// Returns the time of the next refresh.
    pub(crate) fn next_due(&self) -> Option<BootTime> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Returns the sockets that a refresh has found, in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SocketKey, &Lingering)> {
        let mut keys: Vec<_> = self.due.iter().map(|(_, key)| *key).collect();
        keys.sort_unstable();
        let known = keys.into_iter().filter_map(|key| Some((key, self.sockets.get(&key)?)));
        known.filter(|(_, lingering)| lingering.seen.is_some())
    }

    /// Returns the sockets that a refresh has found, and that are as stuck as before their peers ended the connections: they count in
    /// their groups.
    pub(crate) fn abandoned(&self) -> impl Iterator<Item = SocketView<'_>> {
        self.iter().filter(|(_, one)| one.is_abandoned()).map(|(_, one)| SocketView::Abandoned(one))
    }

    /// Returns the sockets of [`Self::abandoned`], and those that may be: no refresh has looked for their descriptors yet.
    pub(crate) fn maybe_abandoned(&self) -> impl Iterator<Item = SocketView<'_>> {
        self.all().filter(|one| one.is_abandoned()).map(SocketView::Abandoned)
    }

    /// Returns the number of all sockets, also of those that no refresh has found yet.
    pub(crate) fn stored(&self) -> usize {
        self.sockets.len()
    }

    /// Removes the descriptors of ended processes from sockets that others own, too.
    pub(crate) fn drop_owners(&mut self, pids: &BTreeSet<u32>) {
        #[expect(clippy::disallowed_methods, reason = "the result does not depend on the order")]
        for one in self.sockets.values_mut() {
            if let Some(owners) = one.owners.as_mut().filter(|owners| some_are_of(owners, pids)) {
                owners.retain(|owner| !pids.contains(&owner.task.pid));
            }
        }
    }

    /// Returns the first owners of the sockets that a refresh has found at `at` or later: these processes have not ended.
    pub(crate) fn owners_found_since(&self, at: BootTime) -> BTreeSet<u32> {
        self.all().filter(|one| one.seen >= Some(at)).filter_map(Lingering::first_pid).collect()
    }

    /// Adds a socket that exited, or that a scan found after its exit. `untouched_since` is the latest known use of one that is as stuck as
    /// before.
    pub(crate) fn add(
        &mut self,
        key: SocketKey,
        socket: Socket,
        gone: Exit,
        (owners, untouched_since): (Option<Vec<Owner>>, Option<BootTime>),
    ) {
        self.remove(key);
        if self.sockets.len() >= MAX_LINGERING {
            self.unwatched += 1;
            return;
        }
        let (due, has_left) = (gone.at + FIRST_REFRESH_AFTER, untouched_since.is_none());
        self.due.insert((due, key));
        self.abandoned += usize::from(untouched_since.is_some());
        self.sockets.insert(
            key,
            Lingering { key, socket, gone, owners, untouched_since, has_left, found: Vec::new(), due, seen: None },
        );
    }

    /// Removes and returns a socket, because another one has its address.
    pub(crate) fn remove(&mut self, key: SocketKey) -> Option<Lingering> {
        let known = self.sockets.remove(&key)?;
        self.due.remove(&(known.due, key));
        self.abandoned -= usize::from(known.is_abandoned());
        shrink(&mut self.sockets);
        Some(known)
    }

    /// Records that a refresh or a scan found the socket at `at`. Returns whether the socket is known.
    pub(crate) fn seen(&mut self, key: SocketKey, at: BootTime, socket: &Socket, owner: Option<Owner>) -> bool {
        let Some(known) = self.sockets.get_mut(&key).filter(|known| same(&known.socket, socket)) else { return false };
        known.seen = known.seen.max(Some(at));
        if let Some(owner) = owner {
            keep_owner(&mut known.found, owner, &mut self.owner_quota);
        }
        true
    }

    /// Adds a descriptor from a scan that has only the socket's inode.
    pub(crate) fn held_inode(&mut self, inode: u64, owner: &Owner) {
        let by_inode = self.by_inode.get_or_insert_with(|| {
            self.due.iter().filter_map(|(_, key)| Some((self.sockets.get(key)?.socket.inode?, *key))).collect()
        });
        if let Some(known) = by_inode.get(&inode).and_then(|key| self.sockets.get_mut(key)) {
            keep_owner(&mut known.found, owner.clone(), &mut self.owner_quota);
        }
    }

    /// Begins the refresh of the sockets that are due at `now`, and returns them.
    pub(crate) fn begin_refresh(&mut self, now: BootTime) -> Vec<SocketKey> {
        let due = self.due(now);
        self.refreshing = Some(due.clone());
        due
    }

    fn due(&self, now: BootTime) -> Vec<SocketKey> {
        self.due.iter().take_while(|(due, _)| *due <= now).map(|(_, key)| *key).collect()
    }

    /// Ends the refresh of [`Self::begin_refresh`] at `asked`. Removes and returns the sockets that it did not find: they are closed if it
    /// has read all of them (`complete`). Otherwise they may be open, and remain until the next one.
    pub(crate) fn refreshed_due(&mut self, asked: BootTime, complete: bool) -> Vec<Lingering> {
        let mut closed = Vec::new();
        for key in self.refreshing.take().unwrap_or_else(|| self.due(asked)) {
            // Another socket may have the address by now.
            let Some(known) = self.sockets.get_mut(&key).filter(|known| known.due <= asked) else { continue };
            self.due.remove(&(known.due, key));
            let is_found = known.seen.is_some_and(|seen| seen >= asked);
            if complete && !is_found {
                self.abandoned -= usize::from(known.is_abandoned());
                closed.extend(self.sockets.remove(&key));
                continue;
            }
            let can_be_stuck = is_found && known.gone.seen && known.gone.how.is_by_peer() && known.gone.dwell.is_some();
            if can_be_stuck && asked.since(known.gone.at) >= MAX_CLOSE_DELAY {
                self.abandoned += usize::from(!known.is_abandoned());
                known.untouched_since.get_or_insert(known.gone.at);
            }
            let gap = asked.since(known.gone.at).clamp(FIRST_REFRESH_AFTER, MAX_REFRESH_INTERVAL);
            known.due = asked + gap;
            self.due.insert((known.due, key));
        }
        shrink(&mut self.sockets);
        closed
    }

    /// Ends the refresh of all known sockets since `asked`. Removes and returns the sockets that it did not find again: they are closed.
    pub(crate) fn refreshed_found(&mut self, asked: BootTime) -> Vec<Lingering> {
        let gone = |one: &Lingering| one.seen.is_some_and(|seen| seen < asked);
        let keys: Vec<_> = self.iter().filter(|(_, one)| gone(one)).map(|(key, _)| key).collect();
        keys.into_iter().filter_map(|key| self.remove(key)).collect()
    }

    /// Takes over the result of a scan of open files that began at `began`; `complete` is whether it read all
    /// processes.
    pub(crate) fn scan_ended(&mut self, began: BootTime, complete: bool) {
        self.by_inode = None;
        self.dropped_owners = self.owner_quota.reset(0);
        let keys: Vec<_> = self.due.iter().map(|(_, key)| *key).collect();
        for key in keys {
            let Some(known) = self.sockets.get_mut(&key) else { continue };
            let mut found = std::mem::take(&mut known.found);
            sort_owners(&mut found);
            if !found.is_empty() || (complete && known.gone.at < began) {
                known.owners = Some(found);
            }
        }
    }
}

/// Whether two descriptions belong to the same socket. Another socket can have the same address by now.
fn same(a: &Socket, b: &Socket) -> bool {
    let cookies = a.cookie.zip(b.cookie).is_none_or(|(a, b)| a == b);
    let inodes = a.inode.zip(b.inode).is_none_or(|(a, b)| a == b);
    cookies && inodes && (a.local, a.remote) == (b.local, b.remote)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::ExitCause,
        testing::{owner, socket, socket_on_port},
    };

    const KEY: SocketKey = SocketKey(1 << 63);

    fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    fn gone() -> Exit {
        Exit { at: at(10), seen: true, how: ExitCause::Reset, closer: None, dwell: None }
    }

    fn one() -> LingeringSockets {
        let mut sockets = LingeringSockets::default();
        sockets.add(KEY, socket(), gone(), (None, Some(at(1))));
        sockets
    }

    #[test]
    fn the_interval_of_refreshes_grows() {
        let mut sockets = one();
        let mut refreshes = Vec::new();
        for _ in 0..9 {
            let due = sockets.next_due().unwrap();
            refreshes.push(due.since(at(10)).as_secs());
            assert!(sockets.seen(KEY, due, &socket(), None));
            sockets.begin_refresh(due);
            sockets.refreshed_due(due, true);
        }
        assert_eq!(refreshes, [1, 2, 4, 8, 16, 32, 64, 124, 184]);
    }

    #[test]
    fn a_socket_that_a_refresh_does_not_find_is_removed() {
        let mut sockets = one();
        assert!(!sockets.seen(KEY, at(11), &socket_on_port(9), None), "another socket at its address");
        assert_eq!(sockets.begin_refresh(at(11)), [KEY]);
        sockets.refreshed_due(at(11), true);
        assert_eq!(sockets.next_due(), None);
    }

    #[test]
    fn a_refresh_that_did_not_read_all_closes_none() {
        let mut sockets = one();
        sockets.begin_refresh(at(11));
        assert!(sockets.refreshed_due(at(11), false).is_empty());
        assert_eq!((sockets.stored(), sockets.next_due()), (1, Some(at(12))), "it is read again");
    }

    #[test]
    fn a_refresh_closes_only_the_sockets_that_it_was_to_read() {
        let mut sockets = LingeringSockets::default();
        assert_eq!(sockets.begin_refresh(at(11)), []);
        // The record of its exit comes late.
        sockets.add(KEY, socket(), gone(), (None, Some(at(1))));
        assert!(sockets.refreshed_due(at(11), true).is_empty());
        assert_eq!((sockets.stored(), sockets.begin_refresh(at(12))), (1, vec![KEY]));
    }

    #[test]
    fn a_refresh_for_a_query_removes_sockets_at_once() {
        let mut sockets = one();
        sockets.refreshed_found(at(11));
        assert_eq!(sockets.sockets.len(), 1, "no refresh has found it before");
        assert!(sockets.seen(KEY, at(11), &socket(), None));
        sockets.begin_refresh(at(11));
        sockets.refreshed_due(at(11), true);
        assert!(sockets.seen(KEY, at(20), &socket(), None));
        sockets.refreshed_found(at(20));
        assert_eq!(sockets.len(), 1);
        sockets.refreshed_found(at(21));
        assert_eq!((sockets.len(), sockets.next_due()), (0, None));
    }

    #[test]
    fn owners_are_those_of_the_last_scan() {
        let mut sockets = one();
        assert!(sockets.seen(KEY, at(12), &socket(), Some(owner("worker", 7, 3))));
        sockets.scan_ended(at(12), true);
        assert_eq!(sockets.iter().next().unwrap().1.owners.as_ref().map(Vec::len), Some(1));
        sockets.scan_ended(at(13), true);
        assert_eq!(sockets.iter().next().unwrap().1.owners.as_ref().map(Vec::len), Some(0));
    }

    #[test]
    fn a_scan_by_inodes_finds_owners() {
        let mut sockets = one();
        let inode = socket().inode.unwrap();
        assert!(sockets.seen(KEY, at(11), &socket(), None));
        sockets.held_inode(inode + 1, &owner("other", 8, 3));
        sockets.held_inode(inode, &owner("worker", 7, 3));
        sockets.scan_ended(at(12), true);
        assert_eq!(sockets.iter().next().unwrap().1.owners, Some(vec![owner("worker", 7, 3)]));
    }

    #[test]
    fn sockets_over_the_limit_are_counted() {
        let mut sockets = LingeringSockets::default();
        for key in 0..MAX_LINGERING as u64 + 5 {
            sockets.add(SocketKey(key), socket(), gone(), (None, Some(at(1))));
        }
        assert_eq!((sockets.sockets.len(), sockets.unwatched()), (MAX_LINGERING, 5));
        assert_eq!(sockets.len(), 0, "no refresh has found them yet");
    }
}
