//! Sockets in CLOSE_WAIT, with the time of the next report of each.
//!
//! Two sources describe the same sockets: the tracepoint's records, in the order of the events, and scans, which show the sockets
//! of one time. The facts of a scan arrive before the records that were written during it, so a record can be older than the
//! scan; times decide which one is right.

mod passing;
mod stale;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    limits::{Quota, keep_owner, shrink, some_are_of},
    model::{Dwell, Endpoint, KeySecret, Owner, Role, Since, Socket, SocketKey},
    time::BootTime,
    track::departed::{Departed, Left},
    track::hashing::{KeyedState, by_key},
    track::overflow::Overflow,
    track::scans::Scans,
    track::socket_view::SocketView,
    track::sockets::Sockets,
    track::tracked_socket::{OwnerScan, TrackedSocket, first_due, newer, next_doubling},
};

/// Maximum number of stored descriptors, without the first of each socket, at about 100 bytes each. Workers that inherit ten
/// thousand sockets each would take gigabytes.
const MAX_MORE_OWNERS: usize = 1 << 20;

/// End of the clock.
pub(super) const NEVER: BootTime = BootTime(u64::MAX);

/// All sockets in CLOSE_WAIT.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tracker {
    stuck_after: Duration,
    sockets: Sockets,
    /// Keys of sockets of which only the namespace and the endpoints are known. Records without the kernel's types lack the
    /// namespace, so several sockets can have the same endpoints.
    #[serde(with = "by_key")]
    by_ends: HashMap<(Endpoint, Endpoint), Vec<SocketKey>, KeyedState>,
    /// Keys by inode, during a scan that needs them.
    by_inode: Option<BTreeMap<u64, SocketKey>>,
    scans: Scans,
    /// Maximum number of tracked sockets; the first ones, which are the oldest, are tracked.
    most: usize,
    overflow: Overflow,
    owner_quota: Quota,
    /// Number of descriptors that the last scan dropped.
    dropped_owners: u64,
}

impl Tracker {
    /// Returns an empty tracker. `stuck_after` is the age at which a socket is first due, and must not be zero; `most` is the
    /// maximum number of tracked sockets; `key_secret` is the secret of the keys that are computed from endpoints.
    pub(crate) fn new(stuck_after: Duration, most: usize, key_secret: KeySecret) -> Self {
        Self {
            stuck_after: stuck_after.max(Duration::from_nanos(1)),
            sockets: Sockets::default(),
            by_ends: HashMap::default(),
            by_inode: None,
            scans: Scans::default(),
            most,
            overflow: Overflow::new(key_secret),
            owner_quota: Quota::new(MAX_MORE_OWNERS),
            dropped_owners: 0,
        }
    }

    /// Whether the scan for owners that began at `began` found none of an accepted socket: a program may have accepted it during the
    /// scan, or it entered CLOSE_WAIT during it.
    pub(crate) fn has_unheld(&self, began: BootTime) -> bool {
        let unheld = |one: SocketView<'_>| one.is_unheld() || (!one.is_scanned() && one.latest() >= began);
        self.iter().any(|one| one.accepted() == Some(true) && unheld(one))
    }

    /// Returns the number of sockets.
    pub(crate) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Returns the number of sockets in CLOSE_WAIT that are not tracked, because the limit is reached.
    pub(crate) fn untracked(&self) -> u64 {
        self.overflow.count()
    }

    /// Returns the number of sockets since the start that were not tracked, because the limit was reached.
    pub(crate) fn untracked_total(&self) -> u64 {
        self.overflow.total()
    }

    /// Whether some of the dropped sockets could be tracked now.
    pub(crate) fn can_track_dropped(&self) -> bool {
        self.overflow.count() > 0 && self.sockets.len() < self.most
    }

    /// Returns the number of descriptors of the last scan that were dropped, because a limit was reached.
    pub(crate) fn dropped_owners(&self) -> u64 {
        self.dropped_owners
    }

    /// Returns the time of the next report.
    pub(crate) fn next_due(&self) -> Option<BootTime> {
        self.sockets.first().map(SocketView::due).filter(|due| *due != NEVER)
    }

    /// Returns all sockets, in the order of their next reports.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SocketView<'_>> {
        self.sockets.iter()
    }

    /// Returns all sockets, in the order of the memory that they are in.
    pub(crate) fn stored(&self) -> impl Iterator<Item = SocketView<'_>> {
        self.sockets.stored()
    }

    /// Tracks a socket that entered. Returns the previous socket at its address, if the exit of that one was missed.
    pub(crate) fn enter(&mut self, key: SocketKey, at: BootTime, socket: &Socket) -> Option<Box<TrackedSocket>> {
        let Some(before) = self.find(key, socket).map(|id| self.sockets.view(id)) else {
            self.overflow.remove(socket);
            if self.sockets.len() < self.most {
                self.insert_new(key, socket, Since::Exact(at), at);
            } else {
                self.overflow.entered(socket);
            }
            return None;
        };
        let known_by = before.key();
        // A scan by `sock_diag` can find a socket, with the time of its entry, after the time at which the scan has asked.
        let was_missed = at > before.seen() && before.since() != Since::Exact(at);
        let is_older = !was_missed && before.is_later_than(at, socket);
        let before = self.remove(known_by)?;
        if was_missed {
            self.scans.missed(&before.socket, at);
            self.insert_new(key, socket, Since::Exact(at), at);
            return Some(Box::new(before));
        }
        if is_older {
            self.insert(known_by, &before);
            return None;
        }
        // A scan has already found the socket; the record adds the exact time of the entry.
        let mut tracked =
            TrackedSocket::new(newer(&before.socket, socket.clone()), Since::Exact(at), before.seen, self.stuck_after);
        (tracked.owners, tracked.found, tracked.touched) = (before.owners, before.found, before.touched);
        if before.reported {
            tracked.reported = true;
            tracked.due = next_doubling(at, self.stuck_after, before.seen);
        }
        self.insert(key, &tracked);
        None
    }

    /// Removes a socket that exited at `at`. `entered` is the time of the entry, if the kernel program saw it.
    pub(crate) fn leave(&mut self, key: SocketKey, at: BootTime, entered: Option<BootTime>, socket: &Socket) -> Left {
        let mut missed = None;
        let find = |this: &Self| {
            let id = this.find(key, socket)?;
            let one = this.sockets.view(id);
            Some((id, one.differs(socket), one.seen()))
        };
        let mut found = find(self);
        if let Some((other, true, _)) = found.filter(|(.., seen)| *seen < at) {
            missed = self.remove(self.sockets.view(other).key()).map(Box::new);
            if let Some(missed) = &missed {
                self.scans.missed(&missed.socket, at);
            }
            // The socket that exited can be tracked by its endpoints.
            found = find(self);
        }
        let found = found.filter(|(id, is_another, _)| !is_another && self.sockets.view(*id).ends_with(at, entered));
        let mut dwell = entered.map(|entered| Dwell::Exact(at.since(entered)));
        let tracked = if let Some((id, ..)) = found {
            let one = self.sockets.view(id);
            dwell = dwell.or_else(|| Some(one.dwell(at)));
            let (known_by, departed) = (one.key(), Departed::of(one));
            if known_by.is_of_ends() {
                self.forget_ends(known_by, one.ends());
            }
            self.sockets.delete(id);
            Some(departed)
        } else {
            self.overflow.left(socket);
            None
        };
        self.scans.left(socket, at);
        self.sockets.shrink();
        shrink(&mut self.by_ends);
        Left { missed, tracked, dwell }
    }

    /// Begins a scan, which starts at `now` or later and whose facts arrive concurrently with records.
    pub(crate) fn scan_began(&mut self, now: BootTime) {
        self.scans.begin(now);
    }

    /// Returns the start time of the oldest running scan.
    pub(crate) fn scan_asked(&self) -> Option<BootTime> {
        self.scans.asked()
    }

    /// Ends a scan.
    pub(crate) fn scan_ended(&mut self) {
        self.scans.end();
    }

    /// Whether a fact that a scan found at `at` is outdated: the socket has exited since, or another one has its address or its
    /// endpoints.
    pub(crate) fn is_outdated(&mut self, key: SocketKey, at: BootTime, socket: &Socket) -> bool {
        let known_by = self.find_scanned(key, socket);
        let Some(tracked) = known_by.and_then(|known_by| self.sockets.get(known_by)) else {
            return self.scans.may_have_left(socket, at);
        };
        let entered_later = matches!(tracked.since(), Since::Exact(entered) if entered > at);
        if tracked.differs(socket) {
            entered_later || tracked.seen() > at || self.scans.may_have_left(socket, at)
        } else {
            entered_later || self.scans.has_left(socket, at)
        }
    }

    /// Removes the tracked socket at the address of a socket that a scan found, if it is another one: its exit was missed, and so
    /// was the entry of the found socket.
    pub(crate) fn take_another(&mut self, key: SocketKey, since: Since, socket: &Socket) -> Option<Box<TrackedSocket>> {
        let known_by = self.find_scanned(key, socket)?;
        let is_another = self.sockets.get(known_by)?.is_another(since, socket);
        is_another.then(|| self.remove(known_by)).flatten().map(Box::new)
    }

    /// Tracks or updates a socket that a scan found at `at`. Returns whether it is new.
    pub(crate) fn present(&mut self, key: SocketKey, at: BootTime, since: Since, socket: Socket) -> bool {
        let known_by = self.find_scanned(key, &socket);
        let Some(mut tracked) = known_by.and_then(|known_by| self.remove(known_by)) else {
            if self.sockets.len() >= self.most {
                return self.overflow.found(&socket);
            }
            let was_untracked = self.overflow.remove(&socket);
            self.insert_new(key, &socket, since, at);
            return !was_untracked;
        };
        // A refresh during the scan is younger than the facts of the scan.
        if tracked.refreshed.is_none_or(|refreshed| refreshed <= at) {
            tracked.renew(&socket, at);
        }
        tracked.seen = tracked.seen.max(at);
        if let (Since::Between { .. }, Since::Exact(entered)) = (tracked.since, since) {
            tracked.since = since;
            tracked.due = if tracked.reported {
                next_doubling(entered, self.stuck_after, at)
            } else {
                first_due(entered, self.stuck_after, at)
            };
        }
        // Of two keys of the same socket, keep the kernel address.
        let key = known_by.filter(|known_by| !known_by.is_of_ends()).unwrap_or(key);
        self.insert(key, &tracked);
        false
    }

    /// Returns the sockets that are due at `now`.
    pub(crate) fn due(&self, now: BootTime) -> impl Iterator<Item = SocketKey> {
        let due = self.iter().take_while(move |one| one.due() <= now && one.due() != NEVER);
        due.map(SocketView::key)
    }

    /// Updates a tracked socket from a refresh. An untracked socket remains untracked, because it may have exited since, and
    /// another one may have its address.
    pub(crate) fn refreshed(&mut self, key: SocketKey, at: BootTime, socket: &Socket) {
        let Some(tracked) = self.sockets.get(key) else { return };
        let one_namespace = tracked.netns().is_none() || tracked.netns() == socket.netns;
        if one_namespace && !tracked.differs(socket) {
            self.sockets.change(key, |tracked| {
                tracked.renew(socket, at);
                tracked.refreshed = Some(at);
                tracked.seen = tracked.seen.max(at);
            });
        }
    }

    /// Notes that a refresh at `at` has found a tracked socket with the facts of its last refresh.
    pub(crate) fn unchanged(&mut self, key: SocketKey, at: BootTime) {
        self.sockets.unchanged(key, at);
    }

    /// Adds a descriptor of a tracked socket from a scan of open files.
    pub(crate) fn held(&mut self, key: SocketKey, socket: &Socket, owner: Owner) {
        if let Some(known_by) = self.find_scanned(key, socket) {
            self.sockets.change(known_by, |one| keep_owner(&mut one.found, owner, &mut self.owner_quota));
        }
    }

    /// Adds a descriptor from a scan that has only the socket's address and inode; `at` is the time at which it was
    /// found, if known.
    pub(crate) fn holds(&mut self, key: SocketKey, at: Option<BootTime>, inode: u64, owner: Owner) {
        let Some(tracked) = self.sockets.get(key) else { return };
        // Another socket can have entered at the address after the scan found the descriptor.
        let is_younger = matches!((tracked.since(), at), (Since::Exact(entered), Some(at)) if entered > at);
        if !is_younger && tracked.inode().is_none_or(|own| own == inode) {
            self.sockets.change(key, |tracked| {
                tracked.socket.inode = Some(inode);
                // A program may have accepted the socket only after the last facts about it.
                tracked.socket.accepted = Some(true);
                keep_owner(&mut tracked.found, owner, &mut self.owner_quota);
            });
        }
    }

    /// Adds a descriptor from a scan that has only the socket's inode.
    pub(crate) fn held_inode(&mut self, inode: u64, owner: Owner) {
        let by_inode = self
            .by_inode
            .get_or_insert_with(|| self.sockets.iter().filter_map(|one| Some((one.inode()?, one.key()))).collect());
        if let Some(key) = by_inode.get(&inode) {
            self.sockets.change(*key, |one| keep_owner(&mut one.found, owner, &mut self.owner_quota));
        }
    }

    /// Takes over the result of a scan of open files that began at `began`. Descriptors that the scan did not find are closed,
    /// unless the socket is younger or the scan could not read all processes.
    pub(crate) fn owner_scan_ended(
        &mut self,
        began: BootTime,
        complete: bool,
        mut role: impl FnMut(&Socket) -> Option<Role>,
    ) {
        let scan = OwnerScan { began, complete, by_inode: self.by_inode.take().is_some() };
        self.dropped_owners = self.owner_quota.reset(0);
        for key in self.sockets.keys() {
            self.sockets.change(key, |one| one.owner_scan_ended(key, scan, &mut role));
        }
    }

    /// Drops the descriptors of these processes from sockets that another process also owns.
    pub(crate) fn drop_owners(&mut self, pids: &BTreeSet<u32>) {
        let of_several = |one: &SocketView<'_>| one.owners().is_some_and(|owners| some_are_of(&owners, pids));
        let keys: Vec<_> = self.iter().filter(of_several).map(SocketView::key).collect();
        for key in keys {
            self.sockets.change(key, |one| {
                one.owners.iter_mut().for_each(|owners| owners.retain(|owner| !pids.contains(&owner.task.pid)));
            });
        }
    }

    /// Ends a failed scan, and drops the descriptors that it has found.
    pub(crate) fn scan_failed(&mut self) {
        self.scans.end();
        self.by_inode = None;
        self.owner_quota.reset(0);
        for key in self.sockets.keys() {
            self.sockets.change(key, |one| one.found = Vec::new());
        }
    }

    /// Returns the sockets that were reported as stuck and are not due at `now`, next due first.
    pub(crate) fn stuck(&self, now: BootTime) -> Vec<SocketKey> {
        self.iter().filter(|one| one.due() > now && one.is_reported()).map(SocketView::key).collect()
    }

    /// Returns the sockets with a kernel address that were not refreshed since `then`.
    pub(crate) fn not_refreshed_since(&self, then: BootTime) -> Vec<SocketKey> {
        let old = self.iter().filter(|one| one.refreshed().is_none_or(|refreshed| refreshed < then));
        old.map(SocketView::key).filter(|key| !key.is_of_ends()).collect()
    }

    /// Returns the sockets that entered before `began` and were not seen since.
    pub(crate) fn not_seen_since(&self, began: BootTime) -> Vec<SocketKey> {
        self.iter().filter(|one| one.seen().max(one.latest()) < began).map(SocketView::key).collect()
    }

    /// Removes a socket if it was not seen since `then`.
    pub(crate) fn take_if_not_seen_since(&mut self, key: SocketKey, then: BootTime) -> Option<Box<TrackedSocket>> {
        self.sockets.get(key).filter(|one| one.seen() < then)?;
        self.remove(key).map(Box::new)
    }

    /// Removes a socket that was found without its connection at `at`, if it was last seen before.
    pub(crate) fn remove_ended(&mut self, key: SocketKey, at: BootTime, socket: &Socket) {
        let found = self.find(key, socket).map(|id| self.sockets.view(id));
        if let Some(ended) = found.filter(|one| one.seen() <= at && !one.differs(socket)).map(SocketView::key) {
            self.remove(ended);
        }
    }

    /// Whether any socket was reported as stuck.
    pub(crate) fn has_stuck(&self) -> bool {
        self.sockets.reported() > 0
    }

    /// Returns the sockets that were reported as stuck, are due at `now`, or are `wanted` for another reason.
    pub(crate) fn stuck_or_due(
        &self,
        now: BootTime,
        wanted: impl Fn(SocketView<'_>) -> bool,
    ) -> impl Iterator<Item = SocketView<'_>> {
        self.iter().filter(move |one| one.is_reported() || one.due() <= now || wanted(*one))
    }

    /// Returns a tracked socket.
    pub(crate) fn get(&self, key: SocketKey) -> Option<SocketView<'_>> {
        self.sockets.get(key)
    }

    /// Marks a socket as reported at `now`. It is due again when its age has doubled.
    pub(crate) fn report(&mut self, key: SocketKey, now: BootTime) {
        let stuck_after = self.stuck_after;
        self.sockets.change(key, |tracked| {
            tracked.reported = true;
            tracked.due = next_doubling(tracked.since.latest(), stuck_after, now);
        });
    }

    /// Returns the number of a tracked socket.
    fn find(&self, key: SocketKey, socket: &Socket) -> Option<u32> {
        if let Some(id) = self.sockets.id(key) {
            return Some(id);
        }
        // Not empty only after a scan without kernel programs.
        let named_alike = self.by_ends.get(&(socket.local, socket.remote))?;
        let mut same = named_alike.iter().filter_map(|key| self.sockets.id(*key)).filter(|id| {
            let netns = self.sockets.view(*id).netns();
            socket.netns.is_none() || netns.is_none() || netns == socket.netns
        });
        same.next()
    }

    /// Returns the key under which a socket that a scan found is tracked.
    fn find_scanned(&mut self, key: SocketKey, socket: &Socket) -> Option<SocketKey> {
        if let Some(id) = self.find(key, socket) {
            return Some(self.sockets.view(id).key());
        }
        // `sock_diag` does not report kernel addresses.
        let Self { sockets, scans, .. } = self;
        let all = || {
            sockets.iter().map(|one| {
                let (local, remote) = one.ends();
                (one.key(), (one.netns(), local, remote))
            })
        };
        let found = key.is_of_ends().then(|| scans.find(socket, all())).flatten()?;
        // The tracked socket may have exited, and another one may have its endpoints.
        sockets.get(found).filter(|tracked| !tracked.differs(socket)).map(|_| found)
    }

    /// Adds a socket that was first seen at `seen`.
    fn insert_new(&mut self, key: SocketKey, socket: &Socket, since: Since, seen: BootTime) {
        self.prepare(key, socket);
        let due = first_due(since.latest(), self.stuck_after, seen);
        self.sockets.insert_new(key, socket, since, seen, due);
    }

    fn insert(&mut self, key: SocketKey, tracked: &TrackedSocket) {
        self.prepare(key, &tracked.socket);
        self.sockets.insert(key, tracked);
    }

    /// Adds the endpoints of a socket to the tables of endpoints.
    fn prepare(&mut self, key: SocketKey, socket: &Socket) {
        self.scans.tracked(key, socket);
        if key.is_of_ends() {
            self.by_ends.entry((socket.local, socket.remote)).or_default().push(key);
        }
    }

    fn remove(&mut self, key: SocketKey) -> Option<TrackedSocket> {
        let tracked = self.sockets.remove(key)?;
        self.forget_ends(key, (tracked.socket.local, tracked.socket.remote));
        Some(tracked)
    }

    fn forget_ends(&mut self, key: SocketKey, ends: (Endpoint, Endpoint)) {
        if !key.is_of_ends() {
            return;
        }
        let others = self.by_ends.remove(&ends).unwrap_or_default();
        let others: Vec<_> = others.into_iter().filter(|other| *other != key).collect();
        if !others.is_empty() {
            self.by_ends.insert(ends, others);
        }
    }
}

#[cfg(test)]
mod tests;
