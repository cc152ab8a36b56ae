//! State of one tracked socket in CLOSE_WAIT.

use std::time::Duration;

use crate::{
    model::{Owner, Since, Socket},
    time::{BootTime, nanos},
};

/// Socket in CLOSE_WAIT that is tracked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrackedSocket {
    /// Facts about the socket.
    pub(crate) socket: Socket,
    /// Time of the entry, or its bounds.
    pub(crate) since: Since,
    /// The latest moment at which it is known to have been there.
    pub(crate) seen: BootTime,
    /// Time of the next report.
    pub(crate) due: BootTime,
    /// Whether it was reported as stuck.
    pub(crate) reported: bool,
    /// Time of the last refresh.
    pub(crate) refreshed: Option<BootTime>,
    /// Descriptors of the socket as of the last scan of open files, sorted by process; `None` before the first.
    pub(crate) owners: Option<Vec<Owner>>,
    /// Descriptors that the running scan has found so far.
    pub(crate) found: Vec<Owner>,
    /// Latest time at which data was seen to be read, or the socket to be accepted; at first the time at which it was
    /// found.
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

    /// Takes in a refresh of the socket.
    pub(crate) fn renew(&mut self, fresh: &Socket, at: BootTime) {
        let before = (self.socket.unread_bytes, self.socket.accepted);
        self.socket = newer(fresh, self.socket.clone());
        let changed = before.0.is_some_and(|unread| fresh.unread_bytes.is_some_and(|now| now != unread))
            || before.1.is_some_and(|accepted| fresh.accepted.is_some_and(|now| now != accepted));
        if changed {
            self.touched = at;
        }
    }

    /// Whether a found socket is another one, or this one in a later CLOSE_WAIT.
    pub(crate) fn is_another(&self, since: Since, found: &Socket) -> bool {
        // The time is the kernel's own, and this one was there before.
        matches!(since, Since::Exact(entered) if entered > self.since.latest()) || differ(&self.socket, found)
    }

    /// Whether the record of an entry at `at` is about an earlier socket or CLOSE_WAIT than this one.
    pub(crate) fn is_later_than(&self, at: BootTime, socket: &Socket) -> bool {
        let earliest = match self.since {
            Since::Exact(entered) => Some(entered),
            Since::Between { earliest, .. } => earliest,
        };
        earliest.is_some_and(|earliest| at < earliest) || differ(&self.socket, socket)
    }

    /// Whether an exit at `at` ends this CLOSE_WAIT and not an earlier one; `entered` is the entry that belongs to the
    /// exit, if that was seen.
    pub(crate) fn ends(&self, at: BootTime, entered: Option<BootTime>) -> bool {
        match (entered, self.since) {
            (Some(entered), Since::Exact(since)) => entered >= since,
            // Neither the snapshot nor the leaving found a time of entry in the kernel.
            (None, Since::Between { .. }) => true,
            (Some(_), Since::Between { .. }) | (None, Since::Exact(_)) => at >= self.seen,
        }
    }
}

/// Time at which a socket that was first seen at `seen` is due for the first time. One that was stuck already before it was
/// found is not late: there was no time for an inspection yet.
pub(crate) fn first_due(since: BootTime, stuck_after: Duration, seen: BootTime) -> BootTime {
    (since + stuck_after).max(seen)
}

/// Whether two descriptions cannot be of the same socket.
pub(crate) fn differ(one: &Socket, other: &Socket) -> bool {
    fn differ<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
        one.zip(other).is_some_and(|(one, other)| one != other)
    }
    differ(one.cookie, other.cookie)
        || differ(one.netns, other.netns)
        || differ(one.inode, other.inode)
        || (one.local, one.remote) != (other.local, other.remote)
}

/// The first moment after `now` at which the age is `stuck_after` times a power of two.
pub(crate) fn next_doubling(since: BootTime, stuck_after: Duration, now: BootTime) -> BootTime {
    let step = nanos(stuck_after).max(1);
    let ages = nanos(now.since(since)) / step;
    // `ages` steps have passed: the next power of two above that, at least 1.
    let next = ages.checked_add(1).and_then(u64::checked_next_power_of_two);
    BootTime(since.0.saturating_add(next.and_then(|next| next.checked_mul(step)).unwrap_or(u64::MAX)))
}

/// `newer`, with what it does not know taken from `older`.
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
        // One that does not run is no gap in what is known.
        timer: newer.timer,
        opener: newer.opener.clone().or(older.opener),
    }
}
