//! What rules judge: one socket, and everything around it that tells causes apart.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::evidence::GroupEvidence;
use crate::{
    model::{Dwell, Endpoint, Exit, Listener, Owner, ProxyPeer, ReadState, Role, Socket, SocketLocation},
    process::Process,
    time::BootTime,
};

/// Data that is sent so soon after the FIN may have met it on the way; and times of sending are only known within ticks.
pub const AROUND_FIN: Duration = Duration::from_millis(20);

/// One socket with its surroundings. What is not known is `None`, and a rule that needs it says nothing.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// When the case is judged.
    pub now: BootTime,
    /// The age at which a socket counts as stuck.
    pub stuck_after: Duration,
    /// The socket.
    pub socket: &'a Socket,
    /// Its age, or the bounds of it.
    pub dwell: Dwell,
    /// When it certainly was in CLOSE_WAIT: its entry if that was seen, else the latest that it can have been.
    pub entered: BootTime,
    /// How it left CLOSE_WAIT, if it did: then only a descriptor is left of it.
    pub gone: Option<&'a Exit>,
    /// Every descriptor of it, sorted by process; `None` if they could not be looked for.
    pub owners: Option<&'a [Owner]>,
    /// Whether some processes could not be looked at: then others may hold it, too.
    pub blind: bool,
    /// Where it is, if no process has a descriptor and that was found out.
    pub place: Option<&'a SocketLocation>,
    /// For how long, at least, nothing was read from it and nobody accepted it, as far as it was watched.
    pub untouched: Duration,
    /// The sockets that are like it.
    pub group: &'a Group,
    /// The listener that it came out of, or waits at.
    pub listener: Option<&'a Seen<Listener>>,
    /// Number of listeners that it can have come from (`SO_REUSEPORT`).
    pub listeners: usize,
    /// Other connections of its owners that are likely to be the other leg of a proxied one.
    pub proxy_peers: &'a ProxyPeers,
    /// The processes that hold it, and those that hold its listener.
    pub processes: &'a [&'a Process],
    /// How long its namespace's connection tracking keeps a connection in CLOSE_WAIT.
    pub conntrack: Option<Duration>,
}

/// Something that a scan found, with its descriptors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen<T> {
    /// What it is.
    pub what: T,
    /// When it was found.
    pub at: BootTime,
    /// Every descriptor of it, sorted by process; empty also where they could not be looked for.
    pub owners: Vec<Owner>,
}

/// The sockets of the same owner, the same role, and the same local port (servers) or remote end (clients), in one network
/// namespace. All of them are in CLOSE_WAIT, or were in the time that is told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// How many there are, this one included.
    pub count: u32,
    /// How many of them are older than the age at which a socket counts as stuck.
    pub stuck: u32,
    /// The certain age of the oldest.
    pub oldest: Duration,
    /// The certain age of the one in the middle.
    pub median: Duration,
    /// The certain age of the youngest.
    pub youngest: Duration,
    /// How many are in each read state; those of which it is not known are in none.
    pub reads: Vec<(ReadState, u32)>,
    /// How many never got a byte from the program.
    pub unanswered: u32,
    /// How many different remote addresses there are.
    pub remotes: u32,
    /// How many sockets wait in the backlog of the same port, never accepted.
    pub unaccepted: u32,
    /// What was seen come and go on the same local port (servers) or to the same remote end (clients), whoever held it;
    /// `None` for a one-off scan without an agent.
    pub flow: Option<Flow>,
    /// What was read of the group for and against the causes.
    pub evidence: GroupEvidence,
}

/// What came and went while the agent watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// For how long it was watched.
    pub watched: Duration,
    /// How many entered CLOSE_WAIT.
    pub entered: u64,
    /// How many left it because the program closed, shut down or aborted them.
    pub closed: u64,
    /// When the program last ended one.
    pub last_closed: Option<BootTime>,
    /// The longest stay that the program ended itself, of late.
    pub longest_closed: Option<Duration>,
    /// Of those that entered longer ago than the age at which a socket counts as stuck, as far back as is kept.
    pub old_entered: u64,
    /// How many of those are still there.
    pub old_present: u64,
    /// When the oldest that is still there entered.
    pub onset: Option<BootTime>,
    /// Of those that entered since the onset, longer ago than the age at which a socket counts as stuck.
    pub since_onset_entered: u64,
    /// How many of those are still there.
    pub since_onset_present: u64,
    /// How the number of sockets has gone in the last windows, each as long as the age at which a socket counts as stuck.
    pub trend: Option<Trend>,
}

/// How a number goes over three windows at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trend {
    /// It grows in every window.
    Growing,
    /// It stays where it is.
    Level,
    /// It gets less.
    Falling,
    /// Now this, now that.
    Uneven,
}

/// Connections of the same process that wait for another program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyPeers {
    /// Of the sockets of the group that are in CLOSE_WAIT, how many have found such a connection.
    pub paired: u32,
    /// The leg of this very socket.
    pub own: Option<ProxyPeer>,
    /// Where most of the group's legs lead, and how many.
    pub towards: Option<(Endpoint, u32)>,
}

impl Case<'_> {
    /// The age that is certain.
    pub fn age(&self) -> Duration {
        self.dwell.at_least()
    }

    /// Whether it counts as stuck.
    pub fn is_old(&self) -> bool {
        self.age() >= self.stuck_after
    }

    /// Whether a program accepted it.
    pub fn is_server(&self) -> bool {
        self.socket.role == Some(Role::Server)
    }

    /// Whether a program connected it.
    pub fn is_client(&self) -> bool {
        self.socket.role == Some(Role::Client)
    }

    /// Whether the peer has acknowledged data after its FIN, which only a peer does that still reads: the kernel of one
    /// that has closed answers data with a RST (`tcp_rcv_state_process`, net/ipv4/tcp_input.c at v5.10). `None` if it
    /// cannot be told.
    pub fn acked_after_fin(&self) -> Option<bool> {
        let (sent, acked) = (self.socket.last_sent?, self.socket.last_ack?);
        match self.dwell {
            Dwell::Exact(_) => {
                let sent_after = sent > self.entered + AROUND_FIN && self.socket.sent_bytes? > 0;
                Some(sent_after && acked >= sent && self.socket.send_queue_bytes? == 0)
            }
            // An ACK of later data moves the bound of the entry with it.
            Dwell::Between { .. } => None,
        }
    }

    /// Distinct processes that hold it.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.owners.unwrap_or_default().iter().map(|owner| owner.task.pid).collect();
        pids.dedup();
        pids
    }

    /// `name[pid]` of the first owner.
    pub fn owner(&self) -> Option<String> {
        let task = &self.owners?.first()?.task;
        Some(format!("{}[{}]", task.comm, task.pid))
    }
}

impl Group {
    /// Whether there are several, and all of them entered within a few seconds.
    pub fn same_moment(&self) -> bool {
        const MAX_SPREAD: Duration = Duration::from_secs(5);
        self.count >= 3 && self.oldest.saturating_sub(self.youngest) <= MAX_SPREAD
    }

    /// Whether at least half of those of which the read state is known were never read: of a large group, some are.
    pub fn is_mostly_unread(&self) -> bool {
        let known: u32 = self.reads.iter().map(|(_, count)| *count).sum();
        known > 0 && self.in_state(ReadState::NeverRead) * 2 >= known
    }

    /// Returns the number of sockets in a read state.
    pub fn in_state(&self, state: ReadState) -> u32 {
        self.reads.iter().find(|(of, _)| *of == state).map_or(0, |(_, count)| *count)
    }
}

impl Flow {
    /// Of those that entered long enough ago, the part that is still there, in thousandths. `None` if none entered.
    pub fn stuck_permille(&self) -> Option<u64> {
        (self.old_entered > 0).then(|| self.old_present.saturating_mul(1000) / self.old_entered)
    }

    /// The same since the onset.
    pub fn stuck_permille_since_onset(&self) -> Option<u64> {
        let entered = self.since_onset_entered;
        (entered > 0).then(|| self.since_onset_present.saturating_mul(1000) / entered)
    }
}
