//! Evidence for and against causes, read for each group.
//!
//! Missing evidence proves nothing: each part is `None` until the agent has read it, and a rule that needs it does not apply.

mod clients;
mod gather;
mod reading;
mod stacks;
mod unix;
mod waits;

use std::time::Duration;

pub use self::{
    clients::{ClientFacts, OwnerClients},
    reading::{CounterEvidence, EvidenceReading},
    stacks::{OwnLoops, StackEvidence},
    waits::{Waits, WaitsSample},
};
pub(crate) use self::{
    gather::{MemberCounts, OwnerConnections, STARTED, Sources},
    stacks::STEADY,
};
use crate::{
    model::{PortCloses, UnixBackend},
    time::BootTime,
};

/// Minimum dwell time of an exit that shows that the program worked on the socket; a shorter dwell time is normal.
pub const LATE: Duration = Duration::from_secs(3);
/// Maximum age of progress that counts as current.
pub const RECENT: Duration = Duration::from_secs(10);
/// Minimum number of new connections that were not served for a program that has stopped to make progress.
pub const MIN_DEMAND: u32 = 2;
/// Minimum time after the onset of an entry that counts as new demand. An earlier entry may belong to the same event.
pub const AFTER_ONSET: Duration = Duration::from_secs(1);

/// Evidence about a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupEvidence {
    /// Entry of the oldest socket of the group that is still in CLOSE_WAIT; `None` for a group without one.
    pub onset: Option<BootTime>,
    /// Entry of the oldest socket of the same port or remote endpoint, also of those that have exited with an open descriptor, or the
    /// program's last progress after that. `None` for a group
    /// without a socket in CLOSE_WAIT.
    pub stalled_since: Option<BootTime>,
    /// Number of sockets of the same port or remote endpoint that entered at least [`AFTER_ONSET`] after [`Self::stalled_since`],
    /// plus the number of open connections that wait for an answer.
    pub demand: u32,
    /// Number of sockets of the group that entered at that time, and that the program has answered: they wait for its close only.
    pub answered: u32,
    /// Exits of sockets that the program had kept for [`LATE`] or longer; `None` without a watching agent.
    pub late_exits: Option<LateExits>,
    /// Open connections of the owners to the same port; `None` if the agent did not read them.
    pub siblings: Option<Siblings>,
    /// Closes of connections of the same port, in any state; `None` if the kernel program does not count them.
    pub closes: Option<PortCloses>,
    /// Time of the last exit from CLOSE_WAIT on the same port that the program caused after the onset.
    pub last_exit: Option<BootTime>,
    /// Peer sockets of the group, as far as they are on this host.
    pub peer_ends: PeersRead,
    /// Connections of the owners to other programs; `None` if the agent did not read them.
    pub backends: Option<Backends>,
    /// Programs behind UNIX sockets that the owners are connected to, those that certainly keep most of them waiting first; `None` if the
    /// agent did not read them.
    pub unix: Option<Vec<UnixBackend>>,
    /// Wait reasons of the owners' threads; `None` if the agent did not read them.
    pub waits: Option<Waits>,
    /// Stacks of the owners' threads; `None` if the agent did not read them.
    pub stacks: Option<StackEvidence>,
    /// Number of sockets with data that the peer has not acknowledged.
    pub sending: u32,
    /// Number of sockets that received data before their only owner started.
    pub older_than_owner: u32,
    /// Number of sockets whose FIN the program has not read.
    pub eof_unread: u32,
    /// Facts about connections that the program opened; all zero for servers.
    pub clients: ClientFacts,
}

/// Exits of sockets that the program had kept for [`LATE`] or longer and then ended: it closed them, or wrote to a peer that had
/// closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LateExits {
    /// Number of late exits in the agent's history, which keeps the latest ones.
    pub count: u32,
    /// Time of the latest exit.
    pub last: Option<BootTime>,
    /// Longest dwell time of these exits.
    pub longest: Duration,
}

impl LateExits {
    /// Maximum number of stored late exits of each flow.
    pub(crate) const MAX: usize = 8;

    /// Returns their number in words: `3`, or `at least 8` if more are not stored.
    pub fn number(&self) -> String {
        let least = if self.count as usize >= Self::MAX { "at least " } else { "" };
        format!("{least}{}", self.count)
    }

    /// Whether the program still finishes sockets late: it did so at least twice, and the latest exit is not older than
    /// [`RECENT`] or twice the longest dwell time.
    pub fn is_current(&self, now: BootTime) -> bool {
        // A program that works in rounds ends no socket for the length of one, and of the wait for the next.
        self.count >= 2 && self.last.is_some_and(|last| now.since(last) <= (self.longest * 2).max(RECENT))
    }
}

/// Open connections of a group's owners to the local port of the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Siblings {
    /// Last time at which the program sent data on a connection that had received data, both after the onset; if that was less than
    /// [`RECENT`] before the agent read the connections, the time of the read. `None` if it served no connection.
    pub last_served: Option<BootTime>,
    /// Number of connections that received data after the onset and after the last answer.
    pub waiting: u32,
}

/// Counts of the group's peer sockets that the agent looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeersRead {
    /// Number of peer sockets that were looked up.
    pub read: u32,
    /// Number of peer sockets whose program has closed one direction only and can still read.
    pub half_closed: u32,
    /// Number of peers, of any host, that have ended the connection.
    pub ended: u32,
}

impl PeersRead {
    /// Whether at least half of the peers can still read.
    pub fn wait(&self) -> bool {
        self.read > 0 && self.half_closed * 2 >= self.read + self.ended
    }
}

/// Connections of a group's owners to other programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// Number of connections that wait for an answer.
    pub waiting: u32,
    /// Whether data has arrived on one of them in the [`RECENT`] before the agent read them.
    pub answered: bool,
}

/// Reason, as stacks show it, why threads do not close the sockets of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// For a lock or for room in a queue, at one to three lines.
    AtLines(StackEvidence),
    /// For a connection of a pool.
    ForPool(StackEvidence),
    /// For other threads of the program, none of which can continue.
    ForEachOther(StackEvidence),
    /// Tasks of an event loop, at one line, for another task or a result, while the loop has no timer and no other program owes an answer.
    ForResult(StackEvidence),
}

impl Stall {
    /// Returns what the threads do, in words.
    pub fn words(&self) -> String {
        match self {
            Self::AtLines(stacks) => stacks.blocked(),
            Self::ForPool(stacks) => stacks.waiting_for_pool(),
            Self::ForEachOther(stacks) => stacks.waiting_for_itself(),
            Self::ForResult(stacks) => stacks.waiting_for_result(),
        }
    }
}

/// Whether a number is at least half of the `count` sockets of a group, and not 0.
fn is_most(number: u32, count: u32) -> bool {
    number > 0 && u64::from(number) * 2 >= u64::from(count)
}

impl GroupEvidence {
    /// Returns what stacks show about the `count` sockets of the group that a server without progress has not closed: what most of its threads
    /// wait for.
    pub fn stall(&self, count: u32, now: BootTime) -> Option<Stall> {
        let stacks = self.stacks.filter(|_| self.demand >= MIN_DEMAND && self.progresses(now) != Some(true))?;
        if stacks.blocks(count) {
            Some(Stall::AtLines(stacks))
        } else if stacks.lacks_pooled(count) {
            Some(Stall::ForPool(stacks))
        } else {
            self.for_each_other(count).or_else(|| self.for_result(count))
        }
    }

    /// Whether stacks show that threads have waited for locks or for a connection of a pool, at least half as many as the `count` sockets of
    /// the group: those with a timeout have tried again.
    pub fn stops(&self, count: u32) -> bool {
        self.stacks.is_some_and(|stacks| stacks.stops(count))
    }

    /// Returns what stacks show about the `count` sockets of the group while other threads serve other connections: what those wait for that may
    /// work on the sockets.
    pub fn stall_beside_others(&self, count: u32) -> Option<Stall> {
        match self.stacks.filter(|stacks| stacks.stops(count)) {
            Some(stacks) if stacks.stops_in_pool() => Some(Stall::ForPool(stacks)),
            Some(stacks) => Some(Stall::AtLines(stacks)),
            None => self.for_each_other(count).or_else(|| self.for_result(count)),
        }
    }

    /// Returns the stacks of threads that wait for each other and that nothing else will wake: no thread can continue, and no other program owes
    /// an answer.
    fn for_each_other(&self, count: u32) -> Option<Stall> {
        let owes_nothing = self.backends.is_some_and(|backends| backends.waiting == 0);
        let wait = |stacks: &StackEvidence| stacks.waits_for_itself(count) && (owes_nothing || stacks.networked == 0);
        self.stacks.filter(wait).map(Stall::ForEachOther)
    }

    /// Returns the stacks of tasks that wait for another task or a result at one line and that nothing outside of the program will continue.
    fn for_result(&self, count: u32) -> Option<Stall> {
        let is_still = self.waits.is_some_and(|waits| waits.idle_loop == Some(true) && waits.limited == 0);
        let is_alone = self.backends.is_some_and(|backends| backends.waiting == 0 && !backends.answered);
        self.stacks.filter(|stacks| is_still && is_alone && is_most(stacks.awaiting, count)).map(Stall::ForResult)
    }

    /// Whether the program makes progress since the onset: it serves other connections, or closes connections that it has answered.
    /// `None` if other connections were not read and no close was counted.
    pub fn progresses(&self, now: BootTime) -> Option<bool> {
        match (self.serves_others(now), self.closes_others(now)) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), _) => Some(false),
            (None, Some(false) | None) => None,
        }
    }

    /// Whether the program serves other connections of the port; `None` if the agent did not read them.
    pub fn serves_others(&self, now: BootTime) -> Option<bool> {
        self.siblings.map(|siblings| siblings.last_served.is_some_and(|last| self.is_current(last, now)))
    }

    /// Whether the program closes connections of the port after the onset, in CLOSE_WAIT or in another state; `None` if closes were
    /// not counted and no socket has exited CLOSE_WAIT.
    pub fn closes_others(&self, now: BootTime) -> Option<bool> {
        if self.last_exit.is_some_and(|last| self.is_current(last, now)) {
            return Some(true);
        }
        self.closes.map(|closes| closes.last.is_some_and(|last| self.is_current(last, now)))
    }

    /// Returns the time of the last known progress; `None` if none is known.
    pub fn last_progress(&self) -> Option<BootTime> {
        let served = self.siblings.and_then(|siblings| siblings.last_served);
        let closed = self.closes.and_then(|closes| closes.last);
        served.max(closed).max(self.last_exit)
    }

    /// Whether progress at `last` shows that the program still makes progress: it is recent, or hardly any connection came later.
    fn is_current(&self, last: BootTime, now: BootTime) -> bool {
        now.since(last) <= RECENT || self.demand < MIN_DEMAND
    }

    /// Whether connections to other programs, or threads that wait in `connect`, wait for half of the group's `count` sockets; `None` if
    /// the connections were not read.
    pub fn backends_wait(&self, count: u32) -> Option<bool> {
        let most = |waiting| is_most(waiting, count);
        if self.unix_backend_waits(count).is_some() || self.waits.is_some_and(|waits| most(waits.connecting)) {
            return Some(true);
        }
        self.backends.map(|backends| most(backends.waiting))
    }

    /// Returns the program behind a UNIX socket to which the owners have at least half as many connections as the group has sockets.
    pub fn unix_backend(&self, count: u32) -> Option<&UnixBackend> {
        self.unix.as_ref()?.first().filter(|first| u64::from(first.connections) * 2 >= u64::from(count))
    }

    /// Returns that program if as many of these connections are certain to wait for an answer.
    pub fn unix_backend_waits(&self, count: u32) -> Option<&UnixBackend> {
        self.unix_backend(count).filter(|backend| is_most(backend.waiting, count))
    }
}
