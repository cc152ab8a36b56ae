//! Outputs of the engine: findings for the user, and tasks for the agent.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Dwell, Endpoint, ExitCause, Owner, Pileup, PileupEnd, Socket, SocketKey, Task, Verdict, WatchedPort};
use crate::{histogram::Summary, process::Process, time::BootTime, workload::Workload};

/// The kernel's counters over all CPUs, since the program was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Sockets that entered CLOSE_WAIT.
    pub entered: u64,
    /// Sockets that left CLOSE_WAIT.
    pub left: u64,
    /// Sockets that left CLOSE_WAIT although the kernel program had not seen their entry; included in `left`.
    pub left_unseen: u64,
    /// Records dropped because the ring buffer was full.
    pub ring_full: u64,
    /// Entry times dropped because the map was full.
    pub map_full: u64,
    /// Entry times overwritten because the exit before was missed.
    pub replaced: u64,
    /// Runs that the kernel skipped because the program was already running on that CPU; `None` where the kernel does
    /// not count them (before Linux 5.12).
    pub skipped: Option<u64>,
    /// Count of dwell times for each bucket of [`closewait_common::histogram`], nanoseconds.
    #[serde(with = "sparse")]
    pub dwell: Vec<u64>,
}

/// Counts of which nearly all are 0, kept as the others with their places.
mod sparse {
    use serde::{Deserialize, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(counts: &[u64], to: S) -> Result<S::Ok, S::Error> {
        let counted: Vec<(usize, u64)> = counts.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
        counted.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
        let mut counts = vec![0; closewait_common::histogram::BUCKETS];
        for (place, count) in Vec::<(usize, u64)>::deserialize(from)? {
            // Of a place that there is not, nothing can be counted.
            if let Some(slot) = counts.get_mut(place) {
                *slot = count;
            }
        }
        Ok(counts)
    }
}

/// Everything that was counted since the agent began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Sockets that entered CLOSE_WAIT.
    pub entered: u64,
    /// Sockets that left CLOSE_WAIT.
    pub left: u64,
    /// Sockets that left CLOSE_WAIT although their entry was not seen: older than the agent, or missed. Included in
    /// `left`.
    pub left_unseen: u64,
    /// Records lost because the ring buffer was full.
    pub lost_ring_full: u64,
    /// Entry times lost because the map was full.
    pub lost_map_full: u64,
    /// Missed exits, noticed because the socket entered again.
    pub replaced: u64,
    /// Runs of the kernel program that the kernel skipped; `None` where it does not count them.
    pub skipped_by_kernel: Option<u64>,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Lines that were dropped because standard output was not read fast enough.
    pub unwritten: u64,
    /// Lines of the log that were dropped because standard error was not read fast enough.
    pub log_lines_dropped: u64,
    /// Recordings that ended before the agent because they could not be written: 0 or 1.
    pub recordings_failed: u64,
    /// Sockets that were missed, and found when what is tracked was compared with the kernel's sockets.
    pub repaired: u64,
    /// Sockets that were tracked though they had left, found in the same way.
    pub phantom: u64,
    /// Sockets in CLOSE_WAIT now, as far as the agent knows.
    pub tracked: u64,
    /// Sockets that are out of CLOSE_WAIT while a program still has a descriptor for them.
    pub fd_open: u64,
    /// Open descriptors of ended connections over the limit, which the agent does not watch; included in `fd_open`.
    pub fd_open_unwatched: u64,
    /// Sockets in CLOSE_WAIT that were dropped because `max_tracked` was reached; a socket that enters again counts
    /// again.
    pub untracked: u64,
    /// Sockets that entered on a port, or towards a remote endpoint, that has no counts of its own because `MAX_FLOWS`
    /// was reached.
    pub ungrouped: u64,
    /// Facts about the surroundings of sockets that were dropped over a limit, the most in one scan: descriptors beyond
    /// a socket's first, listeners, other connections of owners, sockets without an owner that were not searched for
    /// elsewhere.
    pub unkept: u64,
}

/// Sockets that a [`Finding::Histogram`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All sockets of the machine.
    All,
    /// Accepted sockets of one local port.
    LocalPort(u16),
    /// All that have no scope of their own: connecting sides, and ports beyond the limit.
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
    /// A socket has been in CLOSE_WAIT for the threshold, or for another doubling of it.
    Stuck {
        /// Time at which the engine found the socket stuck.
        at: BootTime,
        /// Stuck socket.
        socket: Socket,
        /// Dwell time of the socket.
        dwell: Dwell,
        /// Descriptors of the socket, sorted by process; `None` if no scan for owners was possible.
        owners: Option<Vec<Owner>>,
        /// Reason why the socket stays in CLOSE_WAIT.
        verdict: Box<Verdict>,
        /// Unit, container or pod of the socket's cgroup.
        workload: Option<Box<Workload>>,
        /// First owner of the socket, or of its listener if no program has accepted the socket, as of its last inspection.
        process: Option<Box<Process>>,
    },
    /// A socket left CLOSE_WAIT.
    Leave {
        /// Time of the exit; if it was missed, time at which the engine noticed it.
        at: BootTime,
        /// Socket that left.
        socket: Socket,
        /// Dwell time of the socket; `None` if its entry is unknown.
        dwell: Option<Dwell>,
        /// Cause of the exit.
        how: ExitCause,
        /// Task that closed the socket, if known.
        closer: Option<Task>,
        /// Whether a program still has a descriptor for it.
        fd_open: Option<bool>,
        /// Whether it had been stuck: it was reported, or its dwell time had reached the threshold.
        stuck: bool,
        /// Meaning of the exit for the cause, if the socket had been stuck.
        verdict: Option<Box<Verdict>>,
    },
    /// A group grows without closing, or has doubled since the last report.
    Pileup {
        /// Time of the report.
        at: BootTime,
        /// Report of the incident.
        pileup: Box<Pileup>,
    },
    /// An incident is over.
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
        /// Sockets that left in the window and whose entry was seen.
        finished: Summary,
        /// Ages of those that are still there.
        unfinished: Summary,
    },
    /// Something was lost.
    Health {
        /// Time at which the engine found the loss.
        at: BootTime,
        /// All counts so far.
        totals: Totals,
    },
    /// The end.
    Stop {
        /// Time of the end.
        at: BootTime,
        /// All counts.
        totals: Totals,
    },
}

/// Processes, cgroups, sockets and namespaces to inspect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InspectionRequest {
    /// Processes: hand in [`super::InspectionFact::Process`].
    pub processes: Vec<u32>,
    /// Processes whose other connections matter: hand in [`super::InspectionFact::ProxyPeer`].
    pub connections_of: Vec<u32>,
    /// Cgroups: hand in [`super::InspectionFact::Cgroup`].
    pub cgroups: Vec<u64>,
    /// Inodes of sockets without an owner: hand in [`super::InspectionFact::Location`].
    pub unheld: Vec<u64>,
    /// Network namespaces: hand in [`super::InspectionFact::Namespace`].
    pub namespaces: Vec<u32>,
    /// Watched ports: hand in [`super::InspectionFact::Closes`].
    pub closes_of: Vec<WatchedPort>,
    /// Sockets whose other end may be on this host: hand in [`super::InspectionFact::PeerEnd`].
    pub peer_ends_of: Vec<PeerQuestion>,
    /// Whether to search for the tools that next steps run: hand in [`super::InspectionFact::Tools`].
    pub tools: bool,
}

/// Socket whose other end is to be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerQuestion {
    /// The socket.
    pub key: SocketKey,
    /// Its network namespace; `None` where records do not tell.
    pub netns: Option<u32>,
    /// Its local end.
    pub local: Endpoint,
    /// Its remote end.
    pub remote: Endpoint,
}

/// Finding, or task for the agent.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Show this.
    Finding(Finding),
    /// Check whether a program still has a descriptor of these sockets, whose connections are over, and hand in those
    /// that have one as [`super::RefreshFact::Lingering`]. An [`Output::Refresh`] follows.
    RefreshLingering(Vec<SocketKey>),
    /// Refresh these sockets and hand in each one found as [`super::RefreshFact::Present`], at the end
    /// [`super::RefreshEnd::Inspection`].
    Refresh(Vec<SocketKey>),
    /// Find all owners of sockets in CLOSE_WAIT: hand in [`super::ScanFact::Owned`], [`super::ScanFact::Listening`] and
    /// [`super::ScanFact::Lingering`], at the end [`super::ScanEnd::Descriptors`] or [`super::ScanEnd::Failed`], and
    /// [`super::ScanEnd::Owners`].
    ScanOwners {
        /// Network namespaces of which the scan need not describe each socket: all are tracked by their kernel addresses.
        known: Vec<u32>,
    },
    /// Inspect the owners, at the end hand in [`super::InspectionEnd::Owners`].
    InspectOwners(InspectionRequest),
    /// Hand in everything that is there as [`super::ScanFact::Present`] and the like, with `sweep` also every time of
    /// entry that the kernel keeps as [`super::ScanFact::StoredEntry`], at the end [`super::ScanEnd::Audit`].
    Audit {
        /// Whether the kernel's map is to be read.
        sweep: bool,
    },
    /// Refresh these sockets as with [`Output::Refresh`], at the end hand in [`super::RefreshEnd::Suspects`].
    RefreshSuspects(Vec<SocketKey>),
    /// Do the next step for a query.
    Query(QueryCommand),
    /// The kernel program is to count the closes of these ports, and of no others.
    WatchPorts(Vec<WatchedPort>),
    /// Delete these entry times from the kernel's map: their sockets have left CLOSE_WAIT since.
    Forget(Vec<(SocketKey, BootTime)>),
    /// Read the kernel's counters and hand them in as [`super::Observation::Counters`].
    ReadCounters,
}

/// Number of a query that waits for its answer, given by the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QueryId(pub u64);

/// Next step for a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryCommand {
    /// Scan everything, for a one-off scan: hand in [`super::ScanFact`]s, at the end [`super::QueryEvent::ScannedAll`].
    ScanAll {
        /// The query.
        query: QueryId,
    },
    /// Read these sockets again and hand in [`super::RefreshFact`]s, at the end [`super::QueryEvent::Refreshed`].
    Refresh {
        /// The query.
        query: QueryId,
        /// Sockets in CLOSE_WAIT.
        present: Vec<SocketKey>,
        /// Sockets of which only a descriptor is left. If all were read, hand in [`super::RefreshEnd::Lingering`].
        lingering: Vec<SocketKey>,
    },
    /// Inspect and hand in [`super::InspectionFact`]s, at the end [`super::QueryEvent::Inspected`].
    Inspect {
        /// The query.
        query: QueryId,
        /// Processes, cgroups, sockets and namespaces to inspect.
        request: Box<InspectionRequest>,
    },
    /// Answer the query with what is known now.
    Answer {
        /// The query.
        query: QueryId,
    },
}
