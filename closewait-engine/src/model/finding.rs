//! Outputs of the engine: findings for the user, and commands for the agent.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Dwell, Endpoint, ExitCause, IncidentId, Owner, Pileup, PileupEnd, PileupGroup, Socket, SocketKey, StuckCounts,
    Task, Verdict, WatchedPort,
};
use crate::{histogram::Summary, process::Process, time::BootTime, workload::Workload};

/// Counters of the kernel program over all CPUs, since it was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Number of sockets that entered CLOSE_WAIT.
    pub entered: u64,
    /// Number of sockets that exited CLOSE_WAIT.
    pub left: u64,
    /// Number of sockets that exited CLOSE_WAIT without an entry that the kernel program saw; included in `left`.
    pub left_unseen: u64,
    /// Number of records dropped because the ring buffer was full.
    pub ring_full: u64,
    /// Number of entry times dropped because the map was full.
    pub map_full: u64,
    /// Number of entry times overwritten because the previous exit was missed.
    pub replaced: u64,
    /// Number of runs that the kernel skipped because the program was already running on that CPU; `None` if the kernel does not
    /// count them (before Linux 5.12).
    pub skipped: Option<u64>,
    /// Number of dwell times in each bucket of [`closewait_common::histogram`], nanoseconds.
    #[serde(with = "sparse")]
    pub dwell: Vec<u64>,
}

/// Serialization of counts that are mostly 0, as pairs of index and count.
pub(crate) mod sparse {
    use serde::{Deserialize, Deserializer, Serialize as _, Serializer};

    pub(crate) fn serialize<S: Serializer>(counts: &[u64], to: S) -> Result<S::Ok, S::Error> {
        let counted: Vec<(usize, u64)> = counts.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
        counted.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
        let mut counts = vec![0; closewait_common::histogram::BUCKETS];
        for (place, count) in Vec::<(usize, u64)>::deserialize(from)? {
            // Ignore a count with an invalid index.
            if let Some(slot) = counts.get_mut(place) {
                *slot = count;
            }
        }
        Ok(counts)
    }
}

/// All counts since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Number of sockets that entered CLOSE_WAIT.
    pub entered: u64,
    /// Number of sockets that exited CLOSE_WAIT.
    pub left: u64,
    /// Number of sockets that exited CLOSE_WAIT without an entry that the agent saw: it is older than the agent, or was missed.
    /// Included in `left`.
    pub left_unseen: u64,
    /// Number of records lost because the ring buffer was full.
    pub lost_ring_full: u64,
    /// Number of entry times lost because the map was full.
    pub lost_map_full: u64,
    /// Number of missed exits, noticed because the socket entered again.
    pub replaced: u64,
    /// Number of runs of the kernel program that the kernel skipped; `None` if the kernel does not count them.
    pub skipped_by_kernel: Option<u64>,
    /// Number of records that could not be decoded.
    pub undecodable: u64,
    /// Number of lines dropped because the reader of standard output was too slow.
    pub unwritten: u64,
    /// Number of lines of the log dropped because the reader of standard error was too slow.
    pub log_lines_dropped: u64,
    /// Number of events that the export over OTLP dropped.
    pub unexported: u64,
    /// Number of times that the recording could not be written: a file ends then, and a directory has a gap.
    pub recordings_failed: u64,
    /// Number of observations that a recording in a directory dropped, because it could not be written.
    pub unrecorded: u64,
    /// Number of missed sockets that an audit found.
    pub repaired: u64,
    /// Number of tracked sockets that an audit found to have exited before.
    pub phantom: u64,
    /// Number of sockets in CLOSE_WAIT that are tracked now.
    pub tracked: u64,
    /// Number of sockets that have exited CLOSE_WAIT while a program still has a descriptor of them.
    pub fd_open: u64,
    /// Number of open descriptors of ended connections that the agent does not watch, because the limit is reached; included in
    /// `fd_open`.
    pub fd_open_unwatched: u64,
    /// Number of sockets in CLOSE_WAIT that were dropped because `max_tracked` was reached; a socket that enters again counts
    /// again.
    pub untracked: u64,
    /// Number of sockets that entered on a port, or towards a remote endpoint, without counts of its own, because `MAX_FLOWS` was
    /// reached.
    pub ungrouped: u64,
    /// Largest number of facts that one scan dropped over a limit: descriptors beyond a socket's first, listeners, other
    /// connections of owners, and sockets without an owner that were not searched for elsewhere.
    pub unkept: u64,
}

/// Sockets that a [`Finding::Histogram`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// All sockets of the host.
    All,
    /// Server sockets of one local port.
    LocalPort(u16),
    /// Sockets without a scope of their own: clients, and servers of ports over the limit.
    Other,
}

/// Result that the engine reports to the user.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// A socket entered CLOSE_WAIT.
    Enter {
        /// Time at which the socket entered.
        at: BootTime,
        /// Socket that entered.
        socket: Socket,
    },
    /// A socket has been in CLOSE_WAIT for the threshold, or for twice as long as at its last report.
    Stuck {
        /// Time at which the engine found the socket stuck.
        at: BootTime,
        /// Stuck socket.
        socket: Socket,
        /// Dwell time of the socket.
        dwell: Dwell,
        /// Descriptors of the socket, sorted by process; `None` if no scan for owners was possible.
        owners: Option<Vec<Owner>>,
        /// Diagnosis of the socket.
        verdict: Box<Verdict>,
        /// Unit, container or pod of the socket's cgroup.
        workload: Option<Box<Workload>>,
        /// First owner of the socket, or of its listener if no program has accepted the socket, as of its last inspection. Its sockets share
        /// it.
        process: Option<Arc<Process>>,
        /// Port or remote endpoint whose incident the socket belongs to.
        group: Box<PileupGroup>,
        /// Open incident of the group; `None` if there is none.
        incident: Option<IncidentId>,
    },
    /// A socket exited CLOSE_WAIT.
    Leave {
        /// Time of the exit; if the agent missed it, the time at which the engine noticed it.
        at: BootTime,
        /// Socket that exited.
        socket: Socket,
        /// Dwell time of the socket; `None` if its entry is unknown.
        dwell: Option<Dwell>,
        /// Cause of the exit.
        how: ExitCause,
        /// Task that closed the socket, if known.
        closer: Option<Task>,
        /// Whether the kernel closed the descriptor because the closer ended; `None` if unknown.
        ended: Option<bool>,
        /// Whether a program still has a descriptor of the socket.
        fd_open: Option<bool>,
        /// Whether the socket was stuck: the engine reported it, or its dwell time reached the threshold.
        stuck: bool,
        /// Diagnosis of the exit of a stuck socket.
        verdict: Option<Box<Verdict>>,
    },
    /// An incident opens, doubles, nears a limit, or reaches one.
    Pileup {
        /// Time of the report.
        at: BootTime,
        /// Report of the incident.
        pileup: Box<Pileup>,
    },
    /// An incident has ended.
    PileupEnd {
        /// Time at which the engine found the end.
        at: BootTime,
        /// Report of the end.
        end: Box<PileupEnd>,
    },
    /// Dwell times of one window.
    Histogram {
        /// End of the window.
        at: BootTime,
        /// Counted sockets.
        scope: Scope,
        /// Length of the window.
        window: Duration,
        /// Dwell times of sockets that exited in the window, if the agent saw their entry.
        finished: Summary,
        /// Ages of the sockets that are still in CLOSE_WAIT.
        unfinished: Summary,
    },
    /// The agent lost records or reached a limit.
    Health {
        /// Time at which the engine found the loss.
        at: BootTime,
        /// All counts so far.
        totals: Totals,
    },
    /// The agent stops.
    Stop {
        /// Time of the stop.
        at: BootTime,
        /// All counts.
        totals: Totals,
    },
}

/// Processes, cgroups, sockets and namespaces to inspect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InspectionRequest {
    /// Processes, each reported as [`super::InspectionFact::Process`].
    pub processes: Vec<u32>,
    /// Processes whose stacks the agent reads, each reported as [`super::InspectionFact::Stacks`] unless there is no time for it.
    pub stacks_of: Vec<u32>,
    /// Processes whose other connections the agent reads, each connection reported as [`super::InspectionFact::ProxyPeer`].
    pub connections_of: Vec<u32>,
    /// Processes whose connections over UNIX sockets the agent reads, each reported as [`super::InspectionFact::UnixConnections`] if it
    /// could.
    pub unix_of: Vec<u32>,
    /// Cgroups, each reported as [`super::InspectionFact::Cgroup`].
    pub cgroups: Vec<u64>,
    /// Inodes of sockets without an owner, each reported as [`super::InspectionFact::Location`].
    pub unheld: Vec<u64>,
    /// Network namespaces, each reported as [`super::InspectionFact::Namespace`].
    pub namespaces: Vec<u32>,
    /// Watched ports, each reported as [`super::InspectionFact::Closes`].
    pub closes_of: Vec<WatchedPort>,
    /// Sockets whose peer sockets may be on this host, each reported as [`super::InspectionFact::PeerEnd`].
    pub peer_ends_of: Vec<PeerQuestion>,
    /// Sockets whose first unread request the agent peeks at, each reported as [`super::InspectionFact::Unread`] if it could.
    pub unread_of: Vec<UnreadQuestion>,
    /// Connections whose stacks the agent samples from now on, and no others, reported as [`super::InspectionFact::Connects`] by later
    /// inspections.
    pub connects_of: Vec<ConnectQuestion>,
    /// Whether the agent searches for the tools that next steps run, reported as [`super::InspectionFact::Tools`].
    pub tools: bool,
}

/// Process and remote port of connections that the agent samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectQuestion {
    /// The process.
    pub pid: u32,
    /// Remote port.
    pub port: u16,
}

/// Socket whose peer socket the agent looks up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerQuestion {
    /// The socket.
    pub key: SocketKey,
    /// Inode of the network namespace; `None` if records do not contain it.
    pub netns: Option<u32>,
    /// Local endpoint.
    pub local: Endpoint,
    /// Remote endpoint.
    pub remote: Endpoint,
}

/// Socket with unread bytes, and a descriptor of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnreadQuestion {
    /// The socket.
    pub key: SocketKey,
    /// Process that owns the socket.
    pub pid: u32,
    /// Number of its descriptor.
    pub fd: u32,
    /// Inode of the socket.
    pub inode: u64,
    /// Number that `SO_COOKIE` shows.
    pub cookie: Option<u64>,
}

/// Finding for the user, or command for the agent.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Show a finding.
    Finding(Finding),
    /// A minute has passed in which sockets were stuck or an incident was open: remind people of them. This is no event.
    StillStuck {
        /// Time of the counts.
        at: BootTime,
        /// Numbers of stuck sockets and open incidents.
        counts: StuckCounts,
    },
    /// Check whether a program still has a descriptor of these sockets, whose connections have ended, and report each such socket
    /// as [`super::RefreshFact::Lingering`]. An [`Output::Refresh`] follows.
    RefreshLingering(Vec<SocketKey>),
    /// Refresh these sockets; report each socket that is found as [`super::RefreshFact::Present`], and the end as
    /// [`super::RefreshEnd::Inspection`].
    Refresh(Vec<SocketKey>),
    /// Find all owners of sockets in CLOSE_WAIT; report [`super::ScanFact::Owned`], [`super::ScanFact::Listening`] and
    /// [`super::ScanFact::Lingering`], then [`super::ScanEnd::Descriptors`] or [`super::ScanEnd::Failed`], and finally
    /// [`super::ScanEnd::Owners`].
    ScanOwners {
        /// Network namespaces of which the scan need not describe each socket: all are tracked by their kernel addresses.
        known: Vec<u32>,
    },
    /// Inspect the owners; report the end as [`super::InspectionEnd::Owners`].
    InspectOwners(InspectionRequest),
    /// Scan all sockets; report [`super::ScanFact::Present`] and the other facts, and the end as [`super::ScanEnd::Audit`].
    Audit {
        /// Whether to read the kernel's map and report each entry time as [`super::ScanFact::StoredEntry`].
        sweep: bool,
    },
    /// Refresh these sockets as for [`Output::Refresh`]; report the end as [`super::RefreshEnd::Suspects`].
    RefreshSuspects(Vec<SocketKey>),
    /// Do the next step of a query.
    Query(QueryCommand),
    /// Have the kernel program count the closes of these ports, and of no others.
    WatchPorts(Vec<WatchedPort>),
    /// Delete these entry times from the kernel's map: their sockets have exited CLOSE_WAIT.
    Forget(Vec<(SocketKey, BootTime)>),
    /// Read the kernel's counters and report them as [`super::Observation::Counters`].
    ReadCounters,
}

/// Number of an unanswered query, assigned by the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QueryId(pub u64);

/// Next step of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryCommand {
    /// Scan everything, for a one-off scan; report [`super::ScanFact`]s, and the end as [`super::QueryEvent::ScannedAll`].
    ScanAll {
        /// The query.
        query: QueryId,
    },
    /// Refresh these sockets; report [`super::RefreshFact`]s, and the end as [`super::QueryEvent::Refreshed`].
    Refresh {
        /// The query.
        query: QueryId,
        /// Sockets in CLOSE_WAIT.
        present: Vec<SocketKey>,
        /// Sockets that have exited but still have a descriptor. If all were read, report [`super::RefreshEnd::Lingering`].
        lingering: Vec<SocketKey>,
    },
    /// Inspect; report [`super::InspectionFact`]s, and the end as [`super::QueryEvent::Inspected`].
    Inspect {
        /// The query.
        query: QueryId,
        /// Processes, cgroups, sockets and namespaces to inspect.
        request: Box<InspectionRequest>,
    },
    /// Answer the query from the current state.
    Answer {
        /// The query.
        query: QueryId,
    },
}
