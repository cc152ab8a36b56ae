//! State of one tracked socket in CLOSE_WAIT.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
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

    /// Takes over the descriptors that a scan of open files found. A socket that a checkpoint shares is copied only if
    /// something changes.
    pub(crate) fn owner_scan_ended(
        this: &mut Arc<Self>,
        key: SocketKey,
        scan: OwnerScan,
        role: impl FnOnce(&Socket) -> Option<Role>,
    ) {
        let OwnerScan { began, complete, by_inode } = scan;
        let is_older = this.since.latest() < began;
        let unheld = this.found.is_empty();
        // A socket without a kernel address cannot be refreshed. But an unaccepted socket has no descriptor, and no program
        // reads from it, so its facts do not change until a scan finds a descriptor. A scan by inodes cannot find one.
        let unaccepted = key.is_of_ends() && this.socket.accepted == Some(false);
        let is_fresh = unaccepted && complete && !by_inode && unheld && is_older;
        let refreshed = if is_fresh { this.refreshed.max(Some(began)) } else { this.refreshed };
        let role = this.socket.role.or_else(|| role(&this.socket));
        let same_owners = match (&this.owners, complete) {
            (Some(owners), true) => owners.is_empty() || !is_older,
            (Some(_), false) => false,
            (None, true) => !is_older,
            (None, false) => true,
        };
        if unheld && same_owners && refreshed == this.refreshed && role == this.socket.role {
            return;
        }
        let tracked = Arc::make_mut(this);
        (tracked.refreshed, tracked.socket.role) = (refreshed, role);
        let mut found = std::mem::take(&mut tracked.found);
        found.sort_by_key(|owner| (owner.task.pid, owner.fd));
        found.shrink_to_fit();
        if !unheld || (complete && is_older) {
            tracked.owners = Some(found);
        } else if !complete {
            tracked.owners = None;
        }
    }

    /// Whether a found socket is another one, or this one after a later entry.
    pub(crate) fn is_another(&self, since: Since, found: &Socket) -> bool {
        // An exact time comes from the kernel, and this socket was in CLOSE_WAIT before it.
        matches!(since, Since::Exact(entered) if entered > self.since.latest()) || differ(&self.socket, found)
    }

    /// Whether the record of an entry at `at` is about an earlier socket, or an earlier entry of this one.
    pub(crate) fn is_later_than(&self, at: BootTime, socket: &Socket) -> bool {
        let earliest = match self.since {
            Since::Exact(entered) => Some(entered),
            Since::Between { earliest, .. } => earliest,
        };
        earliest.is_some_and(|earliest| at < earliest) || differ(&self.socket, socket)
    }

    /// Whether an exit at `at` belongs to this entry and not to an earlier one. `entered` is the entry that belongs to the exit,
    /// if the kernel program saw it.
    pub(crate) fn ends(&self, at: BootTime, entered: Option<BootTime>) -> bool {
        match (entered, self.since) {
            (Some(entered), Since::Exact(since)) => entered >= since,
            // Neither the scan nor the exit found an entry time in the kernel's map.
            (None, Since::Between { .. }) => true,
            (Some(_), Since::Between { .. }) | (None, Since::Exact(_)) => at >= self.seen,
        }
    }
}

/// Returns the time of the first report of a socket that the agent first saw at `seen`. A socket that was already stuck then is
/// due at `seen`, because no inspection was possible before.
pub(crate) fn first_due(since: BootTime, stuck_after: Duration, seen: BootTime) -> BootTime {
    (since + stuck_after).max(seen)
}

/// Whether two descriptions cannot belong to the same socket.
pub(crate) fn differ(one: &Socket, other: &Socket) -> bool {
    fn differ<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
        one.zip(other).is_some_and(|(one, other)| one != other)
    }
    differ(one.cookie, other.cookie)
        || differ(one.netns, other.netns)
        || differ(one.inode, other.inode)
        || (one.local, one.remote) != (other.local, other.remote)
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

    /// Every case: a checkpoint shares the socket, so a copy costs time and memory.
    #[test]
    fn the_end_of_a_scan_copies_a_socket_only_if_something_changes() {
        let (mut same, mut changed) = (0, 0);
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
            let mut tracked = TrackedSocket::new(
                Socket { accepted, role: has_role.then_some(Role::Server), ..socket() },
                Since::Exact(entered),
                entered,
                Duration::from_secs(1),
            );
            tracked.owners = owners[next(3)].clone();
            tracked.found = if is_held { vec![owner("y", 2, 4)] } else { vec![] };
            let before = Arc::new(tracked);
            let (mut after, mut alone) = (Arc::clone(&before), Arc::new((*before).clone()));
            let scan = OwnerScan { began: BootTime(100), complete, by_inode };
            for one in [&mut after, &mut alone] {
                TrackedSocket::owner_scan_ended(one, SocketKey(7), scan, |_socket| None);
            }
            assert_eq!(after, alone);
            assert_eq!(Arc::ptr_eq(&before, &after), before == after, "{before:?} {scan:?}");
            *if before == after { &mut same } else { &mut changed } += 1;
            // The result itself.
            let expected = match (is_held, complete, is_older) {
                (true, ..) => Some(vec![owner("y", 2, 4)]),
                (false, true, true) => Some(vec![]),
                (false, true, false) => before.owners.clone(),
                (false, false, _) => None,
            };
            assert_eq!(after.owners, expected, "{before:?} {scan:?}");
            assert!(after.found.is_empty());
        }
        assert!(same > 10 && changed > 10, "{same} {changed}");
    }
}
