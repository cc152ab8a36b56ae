//! Sockets in CLOSE_WAIT, and the time of the next report of each.
//!
//! Two sources describe the same sockets: the tracepoint's records, in the order of the events, and scans, which show
//! the sockets of one time. A scan is handed in before the records that were written while it ran, so a record can be
//! older than the scan; times decide which one is right.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{
    limits::{Quota, keep_owner, shrink},
    model::{Dwell, Endpoint, KeySecret, Owner, Role, Since, Socket, SocketKey},
    time::BootTime,
    track::hashing::{FastState, KeyedState},
    track::overflow::Overflow,
    track::scans::Scans,
    track::schedule::Schedule,
    track::tracked_socket::{TrackedSocket, differ, first_due, newer, next_doubling},
};

/// Number of descriptors that are kept beside the first of each socket, at some 100 bytes. Workers that inherit ten
/// thousand sockets each would take gigabytes.
const MAX_MORE_OWNERS: usize = 1 << 20;

/// End of the clock, which never comes.
const NEVER: BootTime = BootTime(u64::MAX);

/// Result of an exit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Another tracked socket at the same address: its exit was missed, and the entry of the present one too.
    pub(crate) missed: Option<Box<TrackedSocket>>,
    /// Tracked socket that left.
    pub(crate) tracked: Option<Box<TrackedSocket>>,
    /// Dwell time of the socket, if known.
    pub(crate) dwell: Option<Dwell>,
}

/// All sockets in CLOSE_WAIT.
#[derive(Debug)]
pub(crate) struct Tracker {
    stuck_after: Duration,
    /// Boxed: the table is half empty when it has grown, and growing moves everything.
    sockets: HashMap<SocketKey, Box<TrackedSocket>, FastState>,
    /// One entry for each socket.
    schedule: Schedule,
    /// The keys of sockets of which only namespace and ends are known. Records without the kernel's types do not name the
    /// namespace, so the same ends can stand for several.
    by_ends: HashMap<(Endpoint, Endpoint), Vec<SocketKey>, KeyedState>,
    /// Number of sockets that were reported as stuck.
    reported: usize,
    /// Keys by inode, while a scan needs them.
    by_inode: Option<BTreeMap<u64, SocketKey>>,
    scans: Scans,
    /// Maximum number of tracked sockets: the first ones, which are the oldest.
    most: usize,
    overflow: Overflow,
    owner_quota: Quota,
    /// Number of descriptors that the last scan dropped.
    dropped_owners: u64,
}

impl Tracker {
    /// `stuck_after` is the age at which a socket is first due; it must not be zero. At most `most` are tracked.
    /// `key_secret` is that of the keys that are made of ends.
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

    /// Whether a scan found no owner of an accepted socket. A program may have accepted it during the scan.
    pub(crate) fn has_unheld(&self) -> bool {
        self.iter().any(|(_, one)| one.socket.accepted == Some(true) && one.owners.as_deref() == Some(&[]))
    }

    /// Returns the number of sockets.
    pub(crate) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Number of sockets in CLOSE_WAIT that are not tracked, because the limit is reached.
    pub(crate) fn untracked(&self) -> u64 {
        self.overflow.count()
    }

    /// Number of sockets that ever were not tracked, because the limit was reached.
    pub(crate) fn untracked_total(&self) -> u64 {
        self.overflow.total()
    }

    /// Returns whether some of the dropped sockets could be tracked now.
    pub(crate) fn can_track_dropped(&self) -> bool {
        self.overflow.count() > 0 && self.sockets.len() < self.most
    }

    /// Number of descriptors that the last scan found and the tracker dropped, because a limit was reached.
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

    /// Tracks a socket that entered. Returns the former socket at its address, if the exit of that one was missed.
    pub(crate) fn enter(&mut self, key: SocketKey, at: BootTime, socket: Socket) -> Option<Box<TrackedSocket>> {
        let known_by = self.find(key, &socket).map(|(known_by, _)| known_by);
        let before = known_by.and_then(|known_by| Some((known_by, self.remove(known_by)?)));
        let Some((known_by, before)) = before else {
            self.overflow.remove(&socket);
            if self.sockets.len() < self.most {
                self.insert(key, Box::new(TrackedSocket::new(socket, Since::Exact(at), at, self.stuck_after)));
            } else {
                self.overflow.entered(&socket);
            }
            return None;
        };
        if at > before.seen {
            self.scans.missed(&before.socket, at);
            self.insert(key, Box::new(TrackedSocket::new(socket, Since::Exact(at), at, self.stuck_after)));
            return Some(before);
        }
        if before.is_later_than(at, &socket) {
            self.insert(known_by, before);
            return None;
        }
        // A snapshot found this very stay already; the record only tells when it began.
        let mut tracked =
            TrackedSocket::new(newer(&before.socket, socket), Since::Exact(at), before.seen, self.stuck_after);
        (tracked.owners, tracked.found, tracked.touched) = (before.owners, before.found, before.touched);
        if before.reported {
            tracked.reported = true;
            tracked.due = next_doubling(at, self.stuck_after, before.seen);
        }
        self.insert(key, Box::new(tracked));
        None
    }

    /// A socket left. `entered` is when the kernel saw it enter, if it did.
    pub(crate) fn leave(&mut self, key: SocketKey, at: BootTime, entered: Option<BootTime>, socket: &Socket) -> Left {
        let judge = |(known_by, tracked): (SocketKey, &TrackedSocket)| {
            let is_another = differ(&tracked.socket, socket);
            (known_by, is_another && tracked.seen < at, !is_another && tracked.ends(at, entered))
        };
        let mut found = self.find(key, socket).map(judge);
        let mut missed = None;
        if let Some((known_by, true, _)) = found {
            missed = self.remove(known_by).inspect(|missed| self.scans.missed(&missed.socket, at));
            // This one can be known by its ends.
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

    /// A scan begins at `now` or later, whose facts are handed in while records come in too.
    pub(crate) fn scan_began(&mut self, now: BootTime) {
        self.scans.begin(now);
    }

    /// Returns the start time of the oldest running scan.
    pub(crate) fn scan_asked(&self) -> Option<BootTime> {
        self.scans.asked()
    }

    /// Ends that scan.
    pub(crate) fn scan_ended(&mut self) {
        self.scans.end();
    }

    /// Whether what a scan found at `at` is older than what is known: the socket has left since, or another one has its
    /// address or its ends.
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

    /// Removes the tracked socket at the address of a socket that a scan found, if it is another one: its exit was
    /// missed, and the entry of the found one too.
    pub(crate) fn take_another(&mut self, key: SocketKey, since: Since, socket: &Socket) -> Option<Box<TrackedSocket>> {
        let known_by = self.find_scanned(key, socket)?;
        if self.sockets.get(&known_by)?.is_another(since, socket) { self.remove(known_by) } else { None }
    }

    /// A snapshot found a socket at `at`. Returns whether it is new.
    pub(crate) fn present(&mut self, key: SocketKey, at: BootTime, since: Since, socket: Socket) -> bool {
        let known_by = self.find_scanned(key, &socket);
        let Some(mut tracked) = known_by.and_then(|known_by| self.remove(known_by)) else {
            if self.sockets.len() >= self.most {
                return self.overflow.found(&socket);
            }
            let was_untracked = self.overflow.remove(&socket);
            self.insert(key, Box::new(TrackedSocket::new(socket, since, at, self.stuck_after)));
            return !was_untracked;
        };
        // Of a socket that was refreshed while the scan was running, the refresh is younger.
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
        // Of two names for the same socket, the kernel's own stays.
        let key = known_by.filter(|known_by| !known_by.is_of_ends()).unwrap_or(key);
        self.insert(key, tracked);
        false
    }

    /// The sockets that are due at `now`.
    pub(crate) fn due(&self, now: BootTime) -> Vec<SocketKey> {
        self.schedule.iter().take_while(|(due, _)| *due <= now && *due != NEVER).map(|(_, key)| key).collect()
    }

    /// Takes in the refresh of a socket. A socket that is not tracked remains so: it may have left meanwhile, and
    /// another may have its address.
    pub(crate) fn refreshed(&mut self, key: SocketKey, at: BootTime, socket: &Socket) {
        let Some(tracked) = self.sockets.get_mut(&key) else { return };
        let one_namespace = tracked.socket.netns.is_none() || tracked.socket.netns == socket.netns;
        if one_namespace && !differ(&tracked.socket, socket) {
            tracked.renew(socket, at);
            tracked.refreshed = Some(at);
            tracked.seen = tracked.seen.max(at);
        }
    }

    /// A scan of open files found a descriptor of a socket that is tracked.
    pub(crate) fn held(&mut self, key: SocketKey, socket: &Socket, owner: Owner) {
        let known_by = self.find_scanned(key, socket);
        if let Some(tracked) = known_by.and_then(|known_by| self.sockets.get_mut(&known_by)) {
            keep_owner(&mut tracked.found, owner, &mut self.owner_quota);
        }
    }

    /// Adds a descriptor from a scan that has only the socket's address and inode; `at` is the time at which it was
    /// found, if known.
    pub(crate) fn holds(&mut self, key: SocketKey, at: Option<BootTime>, inode: u64, owner: Owner) {
        let Some(tracked) = self.sockets.get_mut(&key) else { return };
        // Another socket can have entered at the address since.
        let is_younger = matches!((tracked.since, at), (Since::Exact(entered), Some(at)) if entered > at);
        if !is_younger && tracked.socket.inode.is_none_or(|own| own == inode) {
            tracked.socket.inode = Some(inode);
            // Perhaps only since the socket was seen.
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
        if let Some(tracked) = by_inode.get(&inode).and_then(|key| self.sockets.get_mut(key)) {
            keep_owner(&mut tracked.found, owner, &mut self.owner_quota);
        }
    }

    /// Takes over the result of a scan of open files that began at `began`: descriptors that it has not found are
    /// closed, unless the socket is younger or the scan could not read all processes.
    pub(crate) fn owner_scan_ended(
        &mut self,
        began: BootTime,
        complete: bool,
        mut role: impl FnMut(&Socket) -> Option<Role>,
    ) {
        let by_inode = self.by_inode.take().is_some();
        self.dropped_owners = self.owner_quota.reset(0);
        for (_, key) in self.schedule.iter() {
            let Some(tracked) = self.sockets.get_mut(&key) else { continue };
            let mut found = std::mem::take(&mut tracked.found);
            // It cannot be refreshed by its address. But a socket that nobody has accepted has no descriptor, and nobody
            // reads from it: nothing of it changes until a scan finds one. A scan by inodes would not know it.
            let unaccepted = key.is_of_ends() && tracked.socket.accepted == Some(false);
            if unaccepted && complete && !by_inode && found.is_empty() && tracked.since.latest() < began {
                tracked.refreshed = tracked.refreshed.max(Some(began));
            }
            found.sort_by_key(|owner| (owner.task.pid, owner.fd));
            found.shrink_to_fit();
            if !found.is_empty() || (complete && tracked.since.latest() < began) {
                tracked.owners = Some(found);
            } else if !complete {
                tracked.owners = None;
            }
            if tracked.socket.role.is_none() {
                tracked.socket.role = role(&tracked.socket);
            }
        }
    }

    /// A scan gave up: what it has found so far is dropped.
    pub(crate) fn scan_failed(&mut self) {
        self.scans.end();
        self.by_inode = None;
        self.owner_quota.reset(0);
        for (_, key) in self.schedule.iter() {
            if let Some(tracked) = self.sockets.get_mut(&key) {
                tracked.found = Vec::new();
            }
        }
    }

    /// Returns the sockets that were reported as stuck and are not due at `now`, next due first.
    pub(crate) fn stuck(&self, now: BootTime) -> Vec<SocketKey> {
        let later = self.schedule.iter().filter(|(due, _)| *due > now);
        later.map(|(_, key)| key).filter(|key| self.sockets.get(key).is_some_and(|one| one.reported)).collect()
    }

    /// Returns the sockets that were not refreshed since `then`, and that the kernel has a name for.
    pub(crate) fn not_refreshed_since(&self, then: BootTime) -> Vec<SocketKey> {
        let old = self.iter().filter(|(_, tracked)| tracked.refreshed.is_none_or(|refreshed| refreshed < then));
        old.map(|(key, _)| key).filter(|key| !key.is_of_ends()).collect()
    }

    /// Returns the sockets that entered before `began` and that nothing has shown since.
    pub(crate) fn not_seen_since(&self, began: BootTime) -> Vec<SocketKey> {
        self.iter().filter(|(_, one)| one.seen.max(one.since.latest()) < began).map(|(key, _)| key).collect()
    }

    /// Takes one out, if nothing has shown it since `then`.
    pub(crate) fn take_if_not_seen_since(&mut self, key: SocketKey, then: BootTime) -> Option<Box<TrackedSocket>> {
        self.sockets.get(&key).filter(|one| one.seen < then)?;
        self.remove(key)
    }

    /// Whether any was reported as stuck.
    pub(crate) fn has_stuck(&self) -> bool {
        self.reported > 0
    }

    /// Returns the sockets that were reported as stuck, are due at `now` or are `wanted` otherwise, with their owners.
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

    /// Makes the facts that may have changed unknown, for sockets that are due at `now` and were not refreshed since
    /// `refreshed`. Returns the sockets that are known by their ends, unchanged: no refresh can find them by an
    /// address, so their facts would be unknown until the next audit.
    pub(crate) fn forget_what_was_not_refreshed(
        &mut self,
        now: BootTime,
        refreshed: BootTime,
    ) -> Vec<(SocketKey, Socket)> {
        let mut forgotten = Vec::new();
        for key in self.due(now) {
            let Some(tracked) = self.sockets.get_mut(&key) else { continue };
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

    /// Brings back what was forgotten for a report.
    pub(crate) fn remember(&mut self, forgotten: Vec<(SocketKey, Socket)>) {
        for (key, before) in forgotten {
            if let Some(tracked) = self.sockets.get_mut(&key) {
                tracked.socket = before;
            }
        }
    }

    /// Reports a socket at `now`: it is due again when its age has doubled.
    pub(crate) fn report(&mut self, key: SocketKey, now: BootTime) -> Option<(&TrackedSocket, Dwell)> {
        let tracked = self.sockets.get_mut(&key)?;
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
        // Filled only where a snapshot without kernel programs was taken.
        let named_alike = self.by_ends.get(&(socket.local, socket.remote))?;
        let known = named_alike.iter().filter_map(|key| Some((*key, &**self.sockets.get(key)?)));
        let mut same = known.filter(|(_, tracked)| {
            let netns = tracked.socket.netns;
            socket.netns.is_none() || netns.is_none() || netns == socket.netns
        });
        same.next()
    }

    /// The key under which a socket that a scan found is tracked.
    fn find_scanned(&mut self, key: SocketKey, socket: &Socket) -> Option<SocketKey> {
        if let Some((known_by, _)) = self.find(key, socket) {
            return Some(known_by);
        }
        // The kernel's own name for it is unknown to `sock_diag`.
        let Self { sockets, scans, schedule: due, .. } = self;
        let all = || due.iter().filter_map(|(_, key)| Some((key, &sockets.get(&key)?.socket)));
        let found = key.is_of_ends().then(|| scans.find(socket, all())).flatten()?;
        // The socket there may have left, and the address may be another's.
        sockets.get(&found).filter(|tracked| !differ(&tracked.socket, socket)).map(|_| found)
    }

    fn insert(&mut self, key: SocketKey, tracked: Box<TrackedSocket>) {
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

    fn remove(&mut self, key: SocketKey) -> Option<Box<TrackedSocket>> {
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
