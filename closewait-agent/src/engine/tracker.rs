//! The sockets that are in CLOSE_WAIT, and when each is due to be reported.
//!
//! Two witnesses speak of the same sockets: the tracepoint's records, in the order in which things happened, and
//! snapshots, which say what was there at one moment. A snapshot is handed in before the records that were written while
//! it was taken, so a record can be older than what the snapshot has said already; times decide who is right.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use foldhash::fast::FixedState;

use super::{
    model::{Dwell, Since, Socket, SocketKey},
    time::{Boot, nanos},
};

/// One socket in CLOSE_WAIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// What is known of it.
    pub socket: Socket,
    /// When it entered.
    pub since: Since,
    /// The latest moment at which it is known to have been there.
    seen: Boot,
    /// When it is due to be reported next.
    due: Boot,
    /// Whether it was reported as stuck.
    pub reported: bool,
}

/// All sockets in CLOSE_WAIT.
#[derive(Debug)]
pub struct Tracker {
    stuck_after: Duration,
    sockets: HashMap<SocketKey, Tracked, FixedState>,
    /// One entry for each socket.
    due: BTreeSet<(Boot, SocketKey)>,
    /// How many sockets are known by their ends alone.
    by_ends: usize,
}

impl Tracker {
    /// `stuck_after` is the age at which a socket is first due; it must not be zero.
    pub fn new(stuck_after: Duration) -> Self {
        Self {
            stuck_after: stuck_after.max(Duration::from_nanos(1)),
            sockets: HashMap::with_hasher(FixedState::with_seed(0)),
            due: BTreeSet::new(),
            by_ends: 0,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<Boot> {
        self.due.first().map(|(due, _)| *due)
    }

    /// All of them, in the order in which they are due.
    pub fn iter(&self) -> impl Iterator<Item = (SocketKey, &Tracked)> {
        self.due.iter().filter_map(|(_, key)| Some((*key, self.sockets.get(key)?)))
    }

    /// A socket entered. Returns the one that had its place, if that one's leaving was missed.
    pub fn enter(&mut self, key: SocketKey, at: Boot, socket: Socket) -> Option<Tracked> {
        let before = self.key_of(key, &socket).and_then(|known_by| self.remove(known_by));
        let Some(before) = before else {
            self.insert(key, Tracked::new(socket, Since::Exact(at), at, self.stuck_after));
            return None;
        };
        if at > before.seen {
            self.insert(key, Tracked::new(socket, Since::Exact(at), at, self.stuck_after));
            return Some(before);
        }
        // A snapshot found this very stay already; the record only tells when it began.
        let mut tracked = Tracked::new(newer(&before.socket, socket), Since::Exact(at), before.seen, self.stuck_after);
        if before.reported {
            tracked.reported = true;
            tracked.due = next_doubling(at, self.stuck_after, before.seen);
        }
        self.insert(key, tracked);
        None
    }

    /// A socket left. `entered` is when the kernel saw it enter, if it did. Returns how long it stayed, if anything
    /// tells, and what was tracked of it.
    pub fn leave(
        &mut self,
        key: SocketKey,
        at: Boot,
        entered: Option<Boot>,
        socket: &Socket,
    ) -> (Option<Dwell>, Option<Tracked>) {
        let exact = entered.map(|entered| Dwell::Exact(at.since(entered)));
        let known_by = self.key_of(key, socket);
        let known_by = known_by.filter(|key| self.sockets.get(key).is_some_and(|tracked| tracked.ends(at, entered)));
        let tracked = known_by.and_then(|known_by| self.remove(known_by));
        (exact.or_else(|| tracked.as_ref().map(|tracked| tracked.since.dwell(at))), tracked)
    }

    /// A snapshot found a socket at `at`. Returns whether it is new.
    pub fn present(&mut self, key: SocketKey, at: Boot, since: Since, socket: Socket) -> bool {
        let known_by = self.key_of(key, &socket);
        let Some(mut tracked) = known_by.and_then(|known_by| self.remove(known_by)) else {
            self.insert(key, Tracked::new(socket, since, at, self.stuck_after));
            return true;
        };
        tracked.socket = newer(&socket, tracked.socket);
        tracked.seen = tracked.seen.max(at);
        if let (Since::Between { .. }, Since::Exact(_)) = (tracked.since, since) {
            tracked.since = since;
        }
        // Of two names for the same socket, the kernel's own stays.
        let key = known_by.filter(|known_by| !known_by.is_of_ends()).unwrap_or(key);
        self.insert(key, tracked);
        false
    }

    /// The next socket that is due at `now`, with its age; it is due again when that has doubled.
    pub fn pop_due(&mut self, now: Boot) -> Option<(&Tracked, Dwell)> {
        let (due, key) = *self.due.first()?;
        if due > now {
            return None;
        }
        self.due.pop_first();
        let tracked = self.sockets.get_mut(&key)?;
        tracked.reported = true;
        tracked.due = next_doubling(tracked.since.latest(), self.stuck_after, now);
        self.due.insert((tracked.due, key));
        Some((tracked, tracked.since.dwell(now)))
    }

    /// Under which key the socket is known, if at all.
    fn key_of(&self, key: SocketKey, socket: &Socket) -> Option<SocketKey> {
        if self.sockets.contains_key(&key) {
            return Some(key);
        }
        // Asked only where a snapshot without kernel programs was taken.
        let of_ends = || SocketKey::of_ends(socket.local, socket.remote);
        (self.by_ends > 0).then(of_ends).filter(|key| self.sockets.contains_key(key))
    }

    fn insert(&mut self, key: SocketKey, tracked: Tracked) {
        self.due.insert((tracked.due, key));
        self.by_ends += usize::from(key.is_of_ends());
        self.sockets.insert(key, tracked);
    }

    fn remove(&mut self, key: SocketKey) -> Option<Tracked> {
        let tracked = self.sockets.remove(&key)?;
        self.due.remove(&(tracked.due, key));
        self.by_ends -= usize::from(key.is_of_ends());
        Some(tracked)
    }
}

impl Tracked {
    fn new(socket: Socket, since: Since, seen: Boot, stuck_after: Duration) -> Self {
        Self { socket, since, seen, due: since.latest() + stuck_after, reported: false }
    }

    /// Whether a leaving at `at`, of a stay that began at `entered` if that was seen, is the end of this stay, and not
    /// of one before it.
    fn ends(&self, at: Boot, entered: Option<Boot>) -> bool {
        match (entered, self.since) {
            (Some(entered), Since::Exact(since)) => entered >= since,
            // Neither the snapshot nor the leaving found a time of entry in the kernel.
            (None, Since::Between { .. }) => true,
            (Some(_), Since::Between { .. }) | (None, Since::Exact(_)) => at >= self.seen,
        }
    }
}

/// The first moment after `now` at which the age is `stuck_after` times a power of two.
fn next_doubling(since: Boot, stuck_after: Duration, now: Boot) -> Boot {
    let step = nanos(stuck_after).max(1);
    let ages = nanos(now.since(since)) / step;
    // `ages` steps have passed: the next power of two above that, at least 1.
    let next = ages.checked_add(1).and_then(u64::checked_next_power_of_two);
    Boot(since.0.saturating_add(next.and_then(|next| next.checked_mul(step)).unwrap_or(u64::MAX)))
}

/// `newer`, with what it does not know taken from `older`.
fn newer(newer: &Socket, older: Socket) -> Socket {
    Socket {
        cookie: newer.cookie.or(older.cookie),
        netns: newer.netns.or(older.netns),
        netns_cookie: newer.netns_cookie.or(older.netns_cookie),
        protocol: newer.protocol,
        local: newer.local,
        remote: newer.remote,
        role: newer.role.or(older.role),
        inode: newer.inode.or(older.inode),
        cgroup: newer.cgroup.or(older.cgroup),
        accepted: newer.accepted.or(older.accepted),
        unread_bytes: newer.unread_bytes.or(older.unread_bytes),
        received_bytes: newer.received_bytes.or(older.received_bytes),
        sent_bytes: newer.sent_bytes.or(older.sent_bytes),
        keepalive: newer.keepalive.or(older.keepalive),
    }
}

#[cfg(test)]
mod tests;
