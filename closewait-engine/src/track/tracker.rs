//! Sockets in CLOSE_WAIT, with the time of the next report of each.
//!
//! Two sources describe the same sockets: the tracepoint's records, in the order of the events, and scans, which show the sockets
//! of one time. The facts of a scan arrive before the records that were written during it, so a record can be older than the
//! scan; times decide which one is right.

mod restored;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    limits::{Quota, keep_owner, shrink, some_are_of},
    model::{Dwell, Endpoint, KeySecret, Owner, Role, Since, Socket, SocketKey},
    time::BootTime,
    track::hashing::{FastState, KeyedState, by_key},
    track::overflow::Overflow,
    track::scans::Scans,
    track::schedule::Schedule,
    track::tracked_socket::{OwnerScan, TrackedSocket, differ, first_due, newer, next_doubling},
};

/// Maximum number of stored descriptors, without the first of each socket, at about 100 bytes each. Workers that inherit ten
/// thousand sockets each would take gigabytes.
const MAX_MORE_OWNERS: usize = 1 << 20;

/// End of the clock.
const NEVER: BootTime = BootTime(u64::MAX);

/// Result of an exit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Another tracked socket at the same address: its exit was missed, and so was the entry of the socket that exited now.
    pub(crate) missed: Option<Arc<TrackedSocket>>,
    /// Tracked socket that exited.
    pub(crate) tracked: Option<Arc<TrackedSocket>>,
    /// Dwell time of the socket, if known.
    pub(crate) dwell: Option<Dwell>,
}

/// All sockets in CLOSE_WAIT.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tracker {
    stuck_after: Duration,
    /// Behind pointers, because a table that has grown is half empty, and growth moves all entries. The pointers are
    /// shared with a checkpoint: a socket that changes before the checkpoint is written is copied then.
    #[serde(with = "by_key")]
    sockets: HashMap<SocketKey, Arc<TrackedSocket>, FastState>,
    /// Time of the next report of each socket.
    #[serde(skip)]
    schedule: Schedule,
    /// Keys of sockets of which only the namespace and the endpoints are known. Records without the kernel's types lack the
    /// namespace, so several sockets can have the same endpoints.
    #[serde(with = "by_key")]
    by_ends: HashMap<(Endpoint, Endpoint), Vec<SocketKey>, KeyedState>,
    /// Number of sockets that were reported as stuck.
    #[serde(skip)]
    reported: usize,
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
            sockets: HashMap::default(),
            schedule: Schedule::default(),
            by_ends: HashMap::default(),
            reported: 0,
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
        let unheld = |one: &TrackedSocket| match one.owners.as_deref() {
            Some(owners) => owners.is_empty(),
            None => one.since.latest() >= began,
        };
        self.iter().any(|(_, one)| one.socket.accepted == Some(true) && unheld(one))
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
        self.schedule.first().map(|(due, _)| due).filter(|due| *due != NEVER)
    }

    /// Returns all sockets, in the order of their next reports.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SocketKey, &TrackedSocket)> {
        self.schedule.iter().filter_map(|(_, key)| Some((key, &**self.sockets.get(&key)?)))
    }

    /// Tracks a socket that entered. Returns the previous socket at its address, if the exit of that one was missed.
    pub(crate) fn enter(&mut self, key: SocketKey, at: BootTime, socket: Socket) -> Option<Arc<TrackedSocket>> {
        let known_by = self.find(key, &socket).map(|(known_by, _)| known_by);
        let before = known_by.and_then(|known_by| Some((known_by, self.remove(known_by)?)));
        let Some((known_by, before)) = before else {
            self.overflow.remove(&socket);
            if self.sockets.len() < self.most {
                self.insert(key, Arc::new(TrackedSocket::new(socket, Since::Exact(at), at, self.stuck_after)));
            } else {
                self.overflow.entered(&socket);
            }
            return None;
        };
        if at > before.seen {
            self.scans.missed(&before.socket, at);
            self.insert(key, Arc::new(TrackedSocket::new(socket, Since::Exact(at), at, self.stuck_after)));
            return Some(before);
        }
        if before.is_later_than(at, &socket) {
            self.insert(known_by, before);
            return None;
        }
        // A scan has already found the socket; the record adds the exact time of the entry.
        let mut tracked =
            TrackedSocket::new(newer(&before.socket, socket), Since::Exact(at), before.seen, self.stuck_after);
        let before = Arc::unwrap_or_clone(before);
        (tracked.owners, tracked.found, tracked.touched) = (before.owners, before.found, before.touched);
        if before.reported {
            tracked.reported = true;
            tracked.due = next_doubling(at, self.stuck_after, before.seen);
        }
        self.insert(key, Arc::new(tracked));
        None
    }

    /// Removes a socket that exited at `at`. `entered` is the time of the entry, if the kernel program saw it.
    pub(crate) fn leave(&mut self, key: SocketKey, at: BootTime, entered: Option<BootTime>, socket: &Socket) -> Left {
        let judge = |(known_by, tracked): (SocketKey, &TrackedSocket)| {
            let is_another = differ(&tracked.socket, socket);
            (known_by, is_another && tracked.seen < at, !is_another && tracked.ends(at, entered))
        };
        let mut found = self.find(key, socket).map(judge);
        let mut missed = None;
        if let Some((known_by, true, _)) = found {
            missed = self.remove(known_by).inspect(|missed| self.scans.missed(&missed.socket, at));
            // The socket that exited can be tracked by its endpoints.
            found = self.find(key, socket).map(judge);
        }
        let tracked = found.filter(|(_, _, ends)| *ends).and_then(|(known_by, ..)| self.remove(known_by));
        if tracked.is_none() {
            self.overflow.left(socket);
        }
        self.scans.left(socket, at);
        shrink(&mut self.sockets);
        shrink(&mut self.by_ends);
        let exact = entered.map(|entered| Dwell::Exact(at.since(entered)));
        let dwell = exact.or_else(|| tracked.as_ref().map(|tracked| tracked.since.dwell(at)));
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
        let Some(tracked) = known_by.and_then(|known_by| self.sockets.get(&known_by)) else {
            return self.scans.may_have_left(socket, at);
        };
        let entered_later = matches!(tracked.since, Since::Exact(entered) if entered > at);
        if differ(&tracked.socket, socket) {
            entered_later || tracked.seen > at || self.scans.may_have_left(socket, at)
        } else {
            entered_later || self.scans.has_left(socket, at)
        }
    }

    /// Removes the tracked socket at the address of a socket that a scan found, if it is another one: its exit was missed, and so
    /// was the entry of the found socket.
    pub(crate) fn take_another(&mut self, key: SocketKey, since: Since, socket: &Socket) -> Option<Arc<TrackedSocket>> {
        let known_by = self.find_scanned(key, socket)?;
        if self.sockets.get(&known_by)?.is_another(since, socket) { self.remove(known_by) } else { None }
    }

    /// Tracks or updates a socket that a scan found at `at`. Returns whether it is new.
    pub(crate) fn present(&mut self, key: SocketKey, at: BootTime, since: Since, socket: Socket) -> bool {
        let known_by = self.find_scanned(key, &socket);
        let Some(mut known) = known_by.and_then(|known_by| self.remove(known_by)) else {
            if self.sockets.len() >= self.most {
                return self.overflow.found(&socket);
            }
            let was_untracked = self.overflow.remove(&socket);
            self.insert(key, Arc::new(TrackedSocket::new(socket, since, at, self.stuck_after)));
            return !was_untracked;
        };
        let tracked = Arc::make_mut(&mut known);
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
        self.insert(key, known);
        false
    }

    /// Returns the sockets that are due at `now`.
    pub(crate) fn due(&self, now: BootTime) -> Vec<SocketKey> {
        self.schedule.iter().take_while(|(due, _)| *due <= now && *due != NEVER).map(|(_, key)| key).collect()
    }

    /// Updates a tracked socket from a refresh. An untracked socket remains untracked, because it may have exited since, and
    /// another one may have its address.
    pub(crate) fn refreshed(&mut self, key: SocketKey, at: BootTime, socket: &Socket) {
        let Some(tracked) = self.sockets.get_mut(&key).map(Arc::make_mut) else { return };
        let one_namespace = tracked.socket.netns.is_none() || tracked.socket.netns == socket.netns;
        if one_namespace && !differ(&tracked.socket, socket) {
            tracked.renew(socket, at);
            tracked.refreshed = Some(at);
            tracked.seen = tracked.seen.max(at);
        }
    }

    /// Adds a descriptor of a tracked socket from a scan of open files.
    pub(crate) fn held(&mut self, key: SocketKey, socket: &Socket, owner: Owner) {
        let known_by = self.find_scanned(key, socket);
        if let Some(tracked) = known_by.and_then(|known_by| self.sockets.get_mut(&known_by).map(Arc::make_mut)) {
            keep_owner(&mut tracked.found, owner, &mut self.owner_quota);
        }
    }

    /// Adds a descriptor from a scan that has only the socket's address and inode; `at` is the time at which it was
    /// found, if known.
    pub(crate) fn holds(&mut self, key: SocketKey, at: Option<BootTime>, inode: u64, owner: Owner) {
        let Some(tracked) = self.sockets.get_mut(&key).map(Arc::make_mut) else { return };
        // Another socket can have entered at the address after the scan found the descriptor.
        let is_younger = matches!((tracked.since, at), (Since::Exact(entered), Some(at)) if entered > at);
        if !is_younger && tracked.socket.inode.is_none_or(|own| own == inode) {
            tracked.socket.inode = Some(inode);
            // A program may have accepted the socket only after the last facts about it.
            tracked.socket.accepted = Some(true);
            keep_owner(&mut tracked.found, owner, &mut self.owner_quota);
        }
    }

    /// Adds a descriptor from a scan that has only the socket's inode.
    pub(crate) fn held_inode(&mut self, inode: u64, owner: Owner) {
        let by_inode = self.by_inode.get_or_insert_with(|| {
            let named = self.schedule.iter().filter_map(|(_, key)| Some((self.sockets.get(&key)?.socket.inode?, key)));
            named.collect()
        });
        if let Some(tracked) = by_inode.get(&inode).and_then(|key| self.sockets.get_mut(key).map(Arc::make_mut)) {
            keep_owner(&mut tracked.found, owner, &mut self.owner_quota);
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
        for (_, key) in self.schedule.iter() {
            if let Some(tracked) = self.sockets.get_mut(&key) {
                TrackedSocket::owner_scan_ended(tracked, key, scan, &mut role);
            }
        }
    }

    /// Drops the descriptors of these processes from sockets that another process also owns.
    pub(crate) fn drop_owners(&mut self, pids: &BTreeSet<u32>) {
        for (_, key) in self.schedule.iter() {
            let Some(tracked) = self.sockets.get_mut(&key) else { continue };
            // A change would copy a socket that a checkpoint shares.
            if tracked.owners.as_deref().is_some_and(|owners| some_are_of(owners, pids)) {
                let owners = Arc::make_mut(tracked).owners.iter_mut();
                owners.for_each(|owners| owners.retain(|owner| !pids.contains(&owner.task.pid)));
            }
        }
    }

    /// Ends a failed scan, and drops the descriptors that it has found.
    pub(crate) fn scan_failed(&mut self) {
        self.scans.end();
        self.by_inode = None;
        self.owner_quota.reset(0);
        for (_, key) in self.schedule.iter() {
            // A change would copy a socket that a checkpoint shares.
            if let Some(tracked) = self.sockets.get_mut(&key).filter(|tracked| !tracked.found.is_empty()) {
                Arc::make_mut(tracked).found = Vec::new();
            }
        }
    }

    /// Returns the sockets that were reported as stuck and are not due at `now`, next due first.
    pub(crate) fn stuck(&self, now: BootTime) -> Vec<SocketKey> {
        let later = self.schedule.iter().filter(|(due, _)| *due > now);
        later.map(|(_, key)| key).filter(|key| self.sockets.get(key).is_some_and(|one| one.reported)).collect()
    }

    /// Returns the sockets with a kernel address that were not refreshed since `then`.
    pub(crate) fn not_refreshed_since(&self, then: BootTime) -> Vec<SocketKey> {
        let old = self.iter().filter(|(_, tracked)| tracked.refreshed.is_none_or(|refreshed| refreshed < then));
        old.map(|(key, _)| key).filter(|key| !key.is_of_ends()).collect()
    }

    /// Returns the sockets that entered before `began` and were not seen since.
    pub(crate) fn not_seen_since(&self, began: BootTime) -> Vec<SocketKey> {
        self.iter().filter(|(_, one)| one.seen.max(one.since.latest()) < began).map(|(key, _)| key).collect()
    }

    /// Removes a socket if it was not seen since `then`.
    pub(crate) fn take_if_not_seen_since(&mut self, key: SocketKey, then: BootTime) -> Option<Arc<TrackedSocket>> {
        self.sockets.get(&key).filter(|one| one.seen < then)?;
        self.remove(key)
    }

    /// Whether any socket was reported as stuck.
    pub(crate) fn has_stuck(&self) -> bool {
        self.reported > 0
    }

    /// Returns the sockets that were reported as stuck, are due at `now`, or are `wanted` for another reason.
    pub(crate) fn stuck_or_due(
        &self,
        now: BootTime,
        wanted: impl Fn(&Socket) -> bool,
    ) -> impl Iterator<Item = (SocketKey, &TrackedSocket)> {
        self.iter().filter(move |(_, tracked)| tracked.reported || tracked.due <= now || wanted(&tracked.socket))
    }

    /// Returns a tracked socket.
    pub(crate) fn get(&self, key: SocketKey) -> Option<&TrackedSocket> {
        self.sockets.get(&key).map(|tracked| &**tracked)
    }

    /// Makes facts that may have changed unknown, for sockets that are due at `now` and were not refreshed since `refreshed`.
    /// Returns the previous facts of sockets without a kernel address: no refresh can read them, so their facts would be unknown
    /// until the next audit.
    pub(crate) fn forget_stale_facts(&mut self, now: BootTime, refreshed: BootTime) -> Vec<(SocketKey, Socket)> {
        let mut forgotten = Vec::new();
        for key in self.due(now) {
            let Some(tracked) = self.sockets.get_mut(&key).map(Arc::make_mut) else { continue };
            if tracked.refreshed.is_none_or(|last| last < refreshed) {
                let before = tracked.socket.clone();
                tracked.socket = before.clone().without_changing_facts();
                if key.is_of_ends() {
                    forgotten.push((key, before));
                }
            }
        }
        forgotten
    }

    /// Restores the facts that [`Self::forget_stale_facts`] returned.
    pub(crate) fn remember(&mut self, forgotten: Vec<(SocketKey, Socket)>) {
        for (key, before) in forgotten {
            if let Some(tracked) = self.sockets.get_mut(&key).map(Arc::make_mut) {
                tracked.socket = before;
            }
        }
    }

    /// Marks a socket as reported at `now`. It is due again when its age has doubled.
    pub(crate) fn report(&mut self, key: SocketKey, now: BootTime) -> Option<(&TrackedSocket, Dwell)> {
        let tracked = self.sockets.get_mut(&key).map(Arc::make_mut)?;
        self.schedule.remove(tracked.due, key);
        self.reported += usize::from(!tracked.reported);
        tracked.reported = true;
        tracked.due = next_doubling(tracked.since.latest(), self.stuck_after, now);
        self.schedule.insert_again(tracked.due, key);
        Some((tracked, tracked.since.dwell(now)))
    }

    /// Returns a tracked socket, and its key.
    fn find(&self, key: SocketKey, socket: &Socket) -> Option<(SocketKey, &TrackedSocket)> {
        if let Some(tracked) = self.sockets.get(&key) {
            return Some((key, tracked));
        }
        // Not empty only after a scan without kernel programs.
        let named_alike = self.by_ends.get(&(socket.local, socket.remote))?;
        let known = named_alike.iter().filter_map(|key| Some((*key, &**self.sockets.get(key)?)));
        let mut same = known.filter(|(_, tracked)| {
            let netns = tracked.socket.netns;
            socket.netns.is_none() || netns.is_none() || netns == socket.netns
        });
        same.next()
    }

    /// Returns the key under which a socket that a scan found is tracked.
    fn find_scanned(&mut self, key: SocketKey, socket: &Socket) -> Option<SocketKey> {
        if let Some((known_by, _)) = self.find(key, socket) {
            return Some(known_by);
        }
        // `sock_diag` does not report kernel addresses.
        let Self { sockets, scans, schedule: due, .. } = self;
        let all = || due.iter().filter_map(|(_, key)| Some((key, &sockets.get(&key)?.socket)));
        let found = key.is_of_ends().then(|| scans.find(socket, all())).flatten()?;
        // The tracked socket may have exited, and another one may have its endpoints.
        sockets.get(&found).filter(|tracked| !differ(&tracked.socket, socket)).map(|_| found)
    }

    fn insert(&mut self, key: SocketKey, tracked: Arc<TrackedSocket>) {
        self.scans.tracked(key, &tracked.socket);
        if tracked.reported {
            self.reported += 1;
            self.schedule.insert_again(tracked.due, key);
        } else {
            self.schedule.insert_first(tracked.due, key);
        }
        if key.is_of_ends() {
            self.by_ends.entry((tracked.socket.local, tracked.socket.remote)).or_default().push(key);
        }
        self.sockets.insert(key, tracked);
    }

    fn remove(&mut self, key: SocketKey) -> Option<Arc<TrackedSocket>> {
        let tracked = self.sockets.remove(&key)?;
        self.schedule.remove(tracked.due, key);
        self.reported -= usize::from(tracked.reported);
        if key.is_of_ends() {
            let ends = (tracked.socket.local, tracked.socket.remote);
            let others = self.by_ends.remove(&ends).unwrap_or_default();
            let others: Vec<_> = others.into_iter().filter(|other| *other != key).collect();
            if !others.is_empty() {
                self.by_ends.insert(ends, others);
            }
        }
        Some(tracked)
    }
}

#[cfg(test)]
mod tests;
