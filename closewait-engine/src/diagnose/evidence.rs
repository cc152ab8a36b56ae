//! Evidence for and against the causes: what was read of a group, and what was not.
//!
//! Absence of evidence is none: each part is `None` until it was read, and a rule that needs it stays silent.

mod clients;
mod gather;
mod reading;
mod waits;

use std::time::Duration;

pub(crate) use self::gather::Sources;
pub use self::{
    clients::ClientFacts,
    reading::{CounterEvidence, EvidenceReading},
    waits::{Waits, WaitsSample},
};
use crate::{model::PortCloses, time::BootTime};

/// Dwell time from which on an exit shows that the program worked on the socket: shorter ones are healthy.
pub const LATE: Duration = Duration::from_secs(3);
/// Age up to which progress counts as current.
pub const RECENT: Duration = Duration::from_secs(10);
/// Time after the onset from which on an entry is new demand and not part of the same event.
pub const AFTER_ONSET: Duration = Duration::from_secs(1);

/// What was read of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupEvidence {
    /// Entry of the oldest socket of the group that is still in CLOSE_WAIT; `None` for a group without one.
    pub onset: Option<BootTime>,
    /// Sockets of the same port or remote endpoint that entered after the oldest of them, and connections that wait for an answer.
    pub demand: u32,
    /// Exits of sockets that the program had kept for [`LATE`] or longer; `None` without an agent that watched.
    pub late_exits: Option<LateExits>,
    /// Open connections of the owners to the same port; `None` if they were not read.
    pub siblings: Option<Siblings>,
    /// Closes of connections of the same port, in any state; `None` if the kernel program does not count them.
    pub closes: Option<PortCloses>,
    /// The other ends of the group's sockets, as far as they are on this host.
    pub peer_ends: PeersRead,
    /// Connections that the owners made to other programs; `None` if they were not read.
    pub backends: Option<Backends>,
    /// What the threads of the owners wait for; `None` if they were not read.
    pub waits: Option<Waits>,
    /// Sockets of the group with data that the peer has not acknowledged.
    pub sending: u32,
    /// Sockets of the group that had received data before their only owner began.
    pub older_than_owner: u32,
    /// Sockets of the group whose FIN the program has not read.
    pub eof_unread: u32,
    /// What only matters for connections that the program made.
    pub clients: ClientFacts,
}

/// Exits of sockets that the program had kept for [`LATE`] or longer and then ended: it closed them, or wrote to a peer that had
/// gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LateExits {
    /// Number of the last ones, as far as they are kept.
    pub count: u32,
    /// Time of the last one.
    pub last: Option<BootTime>,
    /// Longest dwell time of those.
    pub longest: Duration,
}

impl LateExits {
    /// Whether the program finishes sockets late, and still does.
    pub fn is_current(&self, now: BootTime) -> bool {
        self.count >= 2 && self.last.is_some_and(|last| now.since(last) <= self.longest.max(RECENT))
    }
}

/// Open connections of a group's owners to the port that the group came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Siblings {
    /// Connections on which the program both received and sent after the onset, the last time lately.
    pub served: u32,
    /// Connections that have received something after the last answer.
    pub waiting: u32,
}

/// Other ends of a group's sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeersRead {
    /// Number that was looked up.
    pub read: u32,
    /// Number that was found with a program that can still read.
    pub half_closed: u32,
}

/// Connections that the owners of a group made to other programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// Number of connections that wait for an answer.
    pub waiting: u32,
}

impl GroupEvidence {
    /// Whether other work of the program went on after the onset: it served other connections, or closed connections that it had
    /// answered. `None` if neither was read and found.
    pub fn progresses(&self, now: BootTime) -> Option<bool> {
        match (self.serves_others(), self.closes_others(now)) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), _) => Some(false),
            (None, Some(false) | None) => None,
        }
    }

    /// Whether the program serves other connections of the port; `None` if they were not read.
    pub fn serves_others(&self) -> Option<bool> {
        self.siblings.map(|siblings| siblings.served > 0)
    }

    /// Whether the program closed a connection of the port in the last [`RECENT`]; `None` if closes were not counted.
    pub fn closes_others(&self, now: BootTime) -> Option<bool> {
        self.closes.map(|closes| closes.last.is_some_and(|last| now.since(last) <= RECENT))
    }

    /// Whether the program finishes sockets late, and still does; `None` if nothing was watched.
    pub fn finishes_late(&self, now: BootTime) -> Option<bool> {
        self.late_exits.map(|exits| exits.is_current(now))
    }
}
