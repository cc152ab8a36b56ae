//! State of one tracked socket in CLOSE_WAIT.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::packed::SocketParts;
use crate::{
    limits::sort_owners,
    model::{Owner, Role, Since, Socket, SocketKey},
    time::{BootTime, nanos},
};

/// Scan of open files that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnerScan {
    /// Start of the scan.
    pub(crate) began: BootTime,
    /// Whether it could read all processes.
    pub(crate) complete: bool,
    /// Whether it found sockets by their inodes.
    pub(crate) by_inode: bool,
}

/// Tracked socket in CLOSE_WAIT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TrackedSocket {
    /// Facts about the socket.
    pub(crate) socket: Socket,
    /// Time of the entry, or its bounds.
    pub(crate) since: Since,
    /// Latest time at which the socket is known to have been in CLOSE_WAIT.
    pub(crate) seen: BootTime,
    /// Time of the next report.
    pub(crate) due: BootTime,
    /// Whether the engine has reported the socket as stuck.
    pub(crate) reported: bool,
    /// Time of the last refresh.
    pub(crate) refreshed: Option<BootTime>,
    /// Descriptors of the socket as of the last scan of open files, sorted by process; `None` before the first.
    pub(crate) owners: Option<Vec<Owner>>,
    /// Descriptors that the running scan has found so far.
    pub(crate) found: Vec<Owner>,
    /// Latest time at which the agent noticed that a program read data or accepted the socket; initially the time at which it
    /// found the socket.
    pub(crate) touched: BootTime,
}

impl TrackedSocket {
    pub(crate) fn new(socket: Socket, since: Since, seen: BootTime, stuck_after: Duration) -> Self {
        let due = first_due(since.latest(), stuck_after, seen);
        Self {
            socket,
            since,
            seen,
            due,
            reported: false,
            refreshed: None,
            owners: None,
            found: Vec::new(),
            touched: seen,
        }
    }

    /// Returns the parts that the table packs.
    pub(super) fn parts(&self) -> SocketParts<'_> {
        let Self { socket, since, seen, due, reported, refreshed, owners, found, touched } = self;
        let (since, seen, due, touched) = (*since, *seen, *due, *touched);
        let (reported, refreshed, owners) = (*reported, *refreshed, owners.as_deref());
        SocketParts { socket, since, seen, due, reported, refreshed, owners, found, touched }
    }

    /// Updates the facts from a refresh at `at`.
    pub(crate) fn renew(&mut self, fresh: &Socket, at: BootTime) {
        let before = (self.socket.unread_bytes, self.socket.accepted);
        self.socket = newer(fresh, self.socket.clone());
        let changed = before.0.is_some_and(|unread| fresh.unread_bytes.is_some_and(|now| now != unread))
            || before.1.is_some_and(|accepted| fresh.accepted.is_some_and(|now| now != accepted));
        if changed {
            self.touched = at;
        }
    }

    /// Takes over the descriptors that a scan of open files found.
    pub(crate) fn owner_scan_ended(
        &mut self,
        key: SocketKey,
        scan: OwnerScan,
        role: impl FnOnce(&Socket) -> Option<Role>,
    ) {
        let OwnerScan { began, complete, by_inode } = scan;
        let is_older = self.since.latest() < began;
        let unheld = self.found.is_empty();
        // A socket without a kernel address cannot be refreshed. But an unaccepted socket has no descriptor, and no program
        // reads from it, so its facts do not change until a scan finds a descriptor. A scan by inodes cannot find one.
        let unaccepted = key.is_of_ends() && self.socket.accepted == Some(false);
        if unaccepted && complete && !by_inode && unheld && is_older {
            self.refreshed = self.refreshed.max(Some(began));
        }
        self.socket.role = self.socket.role.or_else(|| role(&self.socket));
        let mut found = std::mem::take(&mut self.found);
        sort_owners(&mut found);
        found.shrink_to_fit();
        if !unheld || (complete && is_older) {
            self.owners = Some(found);
        } else if !complete {
            self.owners = None;
        }
    }
}

/// Returns the time of the first report of a socket that the agent first saw at `seen`. A socket that was already stuck then is
/// due at `seen`, because no inspection was possible before.
pub(crate) fn first_due(since: BootTime, stuck_after: Duration, seen: BootTime) -> BootTime {
    (since + stuck_after).max(seen)
}

/// Returns the first time after `now` at which the age is `stuck_after` times a power of two.
pub(crate) fn next_doubling(since: BootTime, stuck_after: Duration, now: BootTime) -> BootTime {
    let step = nanos(stuck_after).max(1);
    let ages = nanos(now.since(since)) / step;
    // The next power of two above `ages`, at least 1.
    let next = ages.checked_add(1).and_then(u64::checked_next_power_of_two);
    BootTime(since.0.saturating_add(next.and_then(|next| next.checked_mul(step)).unwrap_or(u64::MAX)))
}

/// Returns the facts of `newer`, with unknown facts taken from `older`.
pub(crate) fn newer(newer: &Socket, older: Socket) -> Socket {
    Socket {
        cookie: newer.cookie.or(older.cookie),
        netns: newer.netns.or(older.netns),
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
        acked_bytes: newer.acked_bytes.or(older.acked_bytes),
        send_queue_bytes: newer.send_queue_bytes.or(older.send_queue_bytes),
        last_received: newer.last_received.or(older.last_received),
        last_ack: newer.last_ack.or(older.last_ack),
        last_sent: newer.last_sent.or(older.last_sent),
        // `None` can mean that no timer runs, so the older value does not apply.
        timer: newer.timer,
        opener: newer.opener.clone().or(older.opener),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{owner, socket};

    /// Every case.
    #[test]
    fn the_end_of_a_scan_decides_which_descriptors_are_there() {
        let owners = [None, Some(vec![]), Some(vec![owner("x", 1, 3)])];
        for number in 0..2 * 2 * 2 * 2 * 2 * 3 * 2 {
            let mut rest = number;
            let mut next = |count: usize| {
                let digit = rest % count;
                rest /= count;
                digit
            };
            let [complete, by_inode, is_older, is_held, has_role] = [0; 5].map(|_| next(2) == 1);
            let accepted = Some(next(2) == 1);
            let entered = BootTime(if is_older { 50 } else { 150 });
            let mut before = TrackedSocket::new(
                Socket { accepted, role: has_role.then_some(Role::Server), ..socket() },
                Since::Exact(entered),
                entered,
                Duration::from_secs(1),
            );
            before.owners = owners[next(3)].clone();
            before.found = if is_held { vec![owner("y", 2, 4)] } else { vec![] };
            let scan = OwnerScan { began: BootTime(100), complete, by_inode };
            let mut after = before.clone();
            after.owner_scan_ended(SocketKey(7), scan, |_socket| None);
            let expected = match (is_held, complete, is_older) {
                (true, ..) => Some(vec![owner("y", 2, 4)]),
                (false, true, true) => Some(vec![]),
                (false, true, false) => before.owners.clone(),
                (false, false, _) => None,
            };
            assert_eq!(after.owners, expected, "{before:?} {scan:?}");
            assert!(after.found.is_empty());
            let is_fresh = accepted == Some(false) && complete && !by_inode && !is_held && is_older;
            assert_eq!(after.refreshed, is_fresh.then_some(BootTime(100)), "{before:?} {scan:?}");
            assert_eq!(after.socket, before.socket);
        }
    }
}
