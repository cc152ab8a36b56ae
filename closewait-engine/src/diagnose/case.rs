//! Input of the rules: one socket, its group, and the facts that distinguish causes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::evidence::GroupEvidence;
use crate::{
    model::{Dwell, Endpoint, Exit, Listener, Owner, ProxyPeer, ReadState, Role, Socket, SocketLocation},
    process::Process,
    time::BootTime,
};

/// Tolerance around the FIN: data sent within this time after it may have crossed it on the way, and the kernel's times of sending
/// have the resolution of a tick.
pub const AROUND_FIN: Duration = Duration::from_millis(20);

/// Ratio of the median age of a group to the longest dwell time of a socket that the program closed, above which it will not close those of the
/// group just because it is slow.
const OUTLIVES: u32 = 4;
/// Minimum of that median age.
const OUTLIVES_AFTER: Duration = Duration::from_secs(60);

/// One socket, its group, and facts about its owners. An unknown fact is `None`, and a rule that needs it does not apply.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// Time of the judgement.
    pub now: BootTime,
    /// Age at which a socket counts as stuck.
    pub stuck_after: Duration,
    /// The socket.
    pub socket: &'a Socket,
    /// Dwell time of the socket, or its bounds.
    pub dwell: Dwell,
    /// Entry of the socket into CLOSE_WAIT; if the agent did not see it, the latest possible time.
    pub entered: BootTime,
    /// Exit of the socket from CLOSE_WAIT, if only a descriptor is left.
    pub gone: Option<&'a Exit>,
    /// Every descriptor of the socket, sorted by process; `None` if the agent could not scan for them.
    pub owners: Option<&'a [Owner]>,
    /// Whether the agent could not inspect some processes, which may also own the socket.
    pub blind: bool,
    /// Location of a socket of which no process has a descriptor, if the agent found it.
    pub place: Option<&'a SocketLocation>,
    /// Minimum time since the socket was last read or accepted, as far as the agent watched it.
    pub untouched: Duration,
    /// Group of the socket.
    pub group: &'a Group,
    /// Listener that the socket came from, or in whose backlog it waits.
    pub listener: Option<&'a Seen<Listener>>,
    /// Number of listeners that the socket can have come from (`SO_REUSEPORT`).
    pub listeners: usize,
    /// Other connections of the owners that are likely to be the other side of a proxied connection.
    pub proxy_peers: &'a ProxyPeers,
    /// Processes that own the socket or its listener.
    pub processes: &'a [&'a Process],
    /// Time for which connection tracking in the socket's namespace keeps a connection in CLOSE_WAIT.
    pub conntrack: Option<Duration>,
}

/// Result of a scan, with its descriptors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen<T> {
    /// The item that the scan found.
    pub what: T,
    /// Time of the scan.
    pub at: BootTime,
    /// Every descriptor of the item, sorted by process; also empty if the agent could not scan for them.
    pub owners: Vec<Owner>,
}

/// Sockets with the same owner, network namespace, role, and local port (servers) or remote endpoint (clients).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Number of sockets in CLOSE_WAIT.
    pub count: u32,
    /// Number of stuck sockets.
    pub stuck: u32,
    /// Minimum age of the oldest socket.
    pub oldest: Duration,
    /// Median of the minimum ages.
    pub median: Duration,
    /// Minimum age of the youngest socket.
    pub youngest: Duration,
    /// Number of sockets in each read state; without the sockets whose state is unknown.
    pub reads: Vec<(ReadState, u32)>,
    /// Number of sockets on which the program sent no byte.
    pub unanswered: u32,
    /// Number of sockets on which the peer sent nothing but the FIN.
    pub asked_nothing: u32,
    /// Number of sockets on which the program has answered the last data: it sent data later by more than a tick.
    pub answered: u32,
    /// Number of sockets on which the program sent data at the time of the last data that it received, or later.
    pub replied: u32,
    /// Number of sockets on which the program has not answered the last data: it sent no data later by more than a tick, or none at
    /// all.
    pub awaiting: u32,
    /// Number of distinct remote addresses.
    pub remotes: u32,
    /// Age of the oldest unaccepted socket in a backlog of the same port; `None` if there is none.
    pub oldest_unaccepted: Option<Duration>,
    /// Entries and exits on the same local port (servers) or to the same remote endpoint (clients), of all owners; `None` for
    /// a one-off scan without an agent.
    pub flow: Option<Flow>,
    /// Evidence for and against causes.
    pub evidence: GroupEvidence,
}

/// Entries and exits that the agent saw on one port or to one remote endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Time for which the agent has watched.
    pub watched: Duration,
    /// Number of sockets that entered CLOSE_WAIT.
    pub entered: u64,
    /// Number of sockets that exited because the program closed, shut down or aborted them.
    pub closed: u64,
    /// Time of the latest exit that the program caused.
    pub last_closed: Option<BootTime>,
    /// Longest dwell time among the recent exits that the program caused.
    pub longest_closed: Option<Duration>,
    /// Number of sockets that entered longer ago than the age at which a socket counts as stuck, as far back as counts are kept.
    pub old_entered: u64,
    /// Number of the [`Self::old_entered`] sockets that are still in CLOSE_WAIT.
    pub old_present: u64,
    /// Entry of the oldest socket that is still in CLOSE_WAIT.
    pub onset: Option<BootTime>,
    /// Number of sockets that entered after the onset, and longer ago than the age at which a socket counts as stuck.
    pub since_onset_entered: u64,
    /// Number of the [`Self::since_onset_entered`] sockets that are still in CLOSE_WAIT.
    pub since_onset_present: u64,
    /// Trend of the number of sockets over the last windows, each as long as the age at which a socket counts as stuck.
    pub trend: Option<Trend>,
}

/// Trend of a number over at least three windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trend {
    /// The number rises in every window.
    Growing,
    /// The number remains the same.
    Level,
    /// The number falls.
    Falling,
    /// The number both rises and falls.
    Uneven,
}

/// Connections of the owners that are likely to be the other sides of proxied connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyPeers {
    /// Number of sockets of the group for which such a connection was found.
    pub paired: u32,
    /// Connection that was found for this socket.
    pub own: Option<ProxyPeer>,
    /// Most frequent remote endpoint of these connections, and their number.
    pub towards: Option<(Endpoint, u32)>,
}

impl Case<'_> {
    /// Whether an owner uses all descriptors that it may open, so that it can accept no connection.
    pub fn is_out_of_descriptors(&self) -> bool {
        let full = |process: &&Process| process.descriptors().is_some_and(|(open, limit)| open >= limit);
        self.processes.iter().any(full)
    }

    /// Returns the minimum age of the socket.
    pub fn age(&self) -> Duration {
        self.dwell.at_least()
    }

    /// Whether the socket is stuck.
    pub fn is_old(&self) -> bool {
        self.age() >= self.stuck_after
    }

    /// Whether a program accepted the connection, or is to accept it.
    pub fn is_server(&self) -> bool {
        self.socket.role == Some(Role::Server)
    }

    /// Whether a process owns the listener of the socket; `false` also if the listener is unknown.
    pub fn listens(&self, pid: u32) -> bool {
        self.listener.is_some_and(|listener| listener.owners.iter().any(|owner| owner.task.pid == pid))
    }

    /// Whether no owner of the socket has its listener, which other processes have: a process for each connection, or one that
    /// connections are passed to. `false` if the listener or the owners are unknown.
    pub fn is_passed_to_owner(&self) -> bool {
        let listened = self.listener.is_some_and(|listener| !listener.owners.is_empty());
        let pids = self.pids();
        listened && !pids.is_empty() && !pids.iter().any(|pid| self.listens(*pid))
    }

    /// Returns the time for which the program has made no progress on the port, as far as is known: at most the age of the oldest socket
    /// of the group.
    pub fn stalled(&self) -> Duration {
        let since = self.group.evidence.stalled_since;
        since.map_or(self.group.oldest, |since| self.now.since(since).min(self.group.oldest))
    }

    /// Whether the program still finishes sockets late, and may finish these. `None` without a watching agent, and if most sockets of the
    /// group are many times older than any that it finished: slow requests do not explain these.
    pub fn finishes_late(&self) -> Option<bool> {
        let exits = self.group.evidence.late_exits?;
        let closed = self.group.flow.as_ref().and_then(|flow| flow.longest_closed);
        let longest = closed.map_or(exits.longest, |closed| exits.longest.max(closed));
        let are_others = self.group.median > longest.saturating_mul(OUTLIVES).max(OUTLIVES_AFTER);
        let is_current = exits.is_current(self.now);
        (!is_current || !are_others).then_some(is_current)
    }

    /// Whether a program opened the connection.
    pub fn is_client(&self) -> bool {
        self.socket.role == Some(Role::Client)
    }

    /// Whether the peer has acknowledged data after its FIN. Only a peer that still reads does so: the kernel of a peer that has
    /// closed both directions answers data with a RST (`tcp_rcv_state_process`, net/ipv4/tcp_input.c at v5.10). `None` if
    /// unknown.
    pub fn acked_after_fin(&self) -> Option<bool> {
        let (sent, acked) = (self.socket.last_sent?, self.socket.last_ack?);
        match self.dwell {
            Dwell::Exact(_) => {
                let sent_after = sent > self.entered + AROUND_FIN && self.socket.sent_bytes? > 0;
                Some(sent_after && acked >= sent && self.socket.send_queue_bytes? == 0)
            }
            // An ACK of later data also moves the bound of the entry.
            Dwell::Between { .. } => None,
        }
    }

    /// Returns the distinct processes that own the socket.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.owners.unwrap_or_default().iter().map(|owner| owner.task.pid).collect();
        pids.dedup();
        pids
    }

    /// Returns the first owner as `name[pid]`.
    pub fn owner(&self) -> Option<String> {
        Some(self.owners?.first()?.task.to_string())
    }
}

impl Group {
    /// Whether the group has at least 3 sockets, and all of them entered within 5 s.
    pub fn same_moment(&self) -> bool {
        const MAX_SPREAD: Duration = Duration::from_secs(5);
        self.count >= 3 && self.oldest.saturating_sub(self.youngest) <= MAX_SPREAD
    }

    /// Whether the program read nothing from at least half of the sockets whose read state is known.
    pub fn is_mostly_unread(&self) -> bool {
        let known: u32 = self.reads.iter().map(|(_, count)| *count).sum();
        known > 0 && self.in_state(ReadState::NeverRead) * 2 >= known
    }

    /// Whether the program has read most of the requests, and has not answered at least half of them.
    pub fn was_read_without_answer(&self) -> bool {
        self.is_most(self.unanswered) && !self.is_mostly_unread()
    }

    /// Whether a number of sockets is at least half of the group, and not 0.
    pub fn is_most(&self, number: u32) -> bool {
        number > 0 && number * 2 >= self.count
    }

    /// Returns the number of sockets in a read state.
    pub fn in_state(&self, state: ReadState) -> u32 {
        self.reads.iter().find(|(of, _)| *of == state).map_or(0, |(_, count)| *count)
    }
}

impl Flow {
    /// Returns the share of [`Self::old_entered`] that is still in CLOSE_WAIT, in thousandths; `None` if no socket entered.
    pub fn stuck_permille(&self) -> Option<u64> {
        (self.old_entered > 0).then(|| self.old_present.saturating_mul(1000) / self.old_entered)
    }

    /// Returns the share of [`Self::since_onset_entered`] that is still in CLOSE_WAIT, in thousandths; `None` if no socket
    /// entered.
    pub fn stuck_permille_since_onset(&self) -> Option<u64> {
        let entered = self.since_onset_entered;
        (entered > 0).then(|| self.since_onset_present.saturating_mul(1000) / entered)
    }
}
