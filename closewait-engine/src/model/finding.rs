//! What goes out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Dwell, Endpoint, How, Owner, Pileup, PileupEnd, Socket, SocketKey, Task, Verdict, WatchedPort};
use crate::{histogram::Summary, process::Process, time::BootTime, workload::Workload};

/// The kernel's counters over all CPUs, since the program was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Sockets that entered CLOSE_WAIT.
    pub entered: u64,
    /// Sockets that left CLOSE_WAIT.
    pub left: u64,
    /// Of those, the ones whose entry the kernel program had not seen.
    pub left_unseen: u64,
    /// Records that found no room in the ring buffer.
    pub ring_full: u64,
    /// Entry times that found no room in the map.
    pub map_full: u64,
    /// Entries overwritten because the leaving before was missed.
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
    /// Of those, the ones whose entry was not seen: older than the agent, or missed.
    pub left_unseen: u64,
    /// Records lost because the ring buffer was full.
    pub lost_ring_full: u64,
    /// Entry times lost because the map was full.
    pub lost_map_full: u64,
    /// Leavings that were missed, noticed because the socket entered again.
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
    /// Of those, the ones that nobody watches, because there are too many.
    pub fd_open_unwatched: u64,
    /// Sockets in CLOSE_WAIT that were not tracked for want of room; one that enters anew counts again.
    pub untracked: u64,
    /// Sockets that entered on a port, or towards a remote end, whose comings and goings are not counted for want of room.
    pub ungrouped: u64,
    /// Facts around the sockets that found no room, the most at one look: descriptors beyond a socket's first, listeners,
    /// other connections of owners, sockets without a owner that were not searched for elsewhere.
    pub unkept: u64,
}

/// Which sockets a [`Finding::Histogram`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All of the machine.
    All,
    /// Those of one local port, on the accepting side.
    LocalPort(u16),
    /// All that have no scope of their own: connecting sides, and ports beyond the limit.
    Other,
}

/// What the engine has found out.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// A socket entered CLOSE_WAIT.
    Enter {
        /// When.
        at: BootTime,
        /// Which.
        socket: Socket,
    },
    /// A socket has been in CLOSE_WAIT for the threshold, or for another doubling of it.
    Stuck {
        /// When this was found.
        at: BootTime,
        /// Which.
        socket: Socket,
        /// Its age.
        dwell: Dwell,
        /// Every descriptor of it; `None` if they could not be looked for.
        owners: Option<Vec<Owner>>,
        /// Why it stays.
        verdict: Box<Verdict>,
        /// What its cgroup is.
        workload: Option<Box<Workload>>,
        /// First owner of the socket, or of its listener if no program has accepted the socket, as of its last inspection.
        process: Option<Box<Process>>,
    },
    /// A socket left CLOSE_WAIT.
    Leave {
        /// When.
        at: BootTime,
        /// Which.
        socket: Socket,
        /// How long it stayed; `None` if its entry is unknown.
        dwell: Option<Dwell>,
        /// How it left.
        how: How,
        /// Who closed it.
        closer: Option<Task>,
        /// Whether a program still has a descriptor for it.
        fd_open: Option<bool>,
        /// Whether it had been stuck: it was reported, or its dwell time had reached the threshold.
        stuck: bool,
        /// Of a socket that had been stuck: what its leaving says of the cause.
        verdict: Option<Box<Verdict>>,
    },
    /// A group grows without closing, or has doubled since that was last said.
    Pileup {
        /// When this was found.
        at: BootTime,
        /// All of it.
        pileup: Box<Pileup>,
    },
    /// It grows no longer.
    PileupEnd {
        /// When this was found.
        at: BootTime,
        /// All of it.
        end: Box<PileupEnd>,
    },
    /// Dwell times of one window.
    Histogram {
        /// When the window ended.
        at: BootTime,
        /// Which sockets.
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
        /// When this was found.
        at: BootTime,
        /// All counts so far.
        totals: Totals,
    },
    /// The end.
    Stop {
        /// When.
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
    /// Inodes of sockets that no process holds: hand in [`super::InspectionFact::Location`].
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
    /// Its local end.
    pub local: Endpoint,
    /// Its remote end.
    pub remote: Endpoint,
}

/// What the engine wants done.
#[expect(clippy::large_enum_variant, reason = "nearly all are findings, and a box would cost each an allocation")]
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Show this.
    Finding(Finding),
    /// Look whether a program still has a descriptor of these sockets, whose connections are over, and hand in those of
    /// which that is so as [`super::RefreshFact::Lingering`]. An [`Output::Refresh`] follows.
    RefreshLingering(Vec<SocketKey>),
    /// Look at these sockets anew and hand in what is found as [`super::RefreshFact::Present`], at the end
    /// [`super::RefreshEnd::Inspection`].
    Refresh(Vec<SocketKey>),
    /// Find all who hold a socket in CLOSE_WAIT: hand in [`super::ScanFact::Owned`], [`super::ScanFact::Listening`] and
    /// [`super::ScanFact::Lingering`], at the end [`super::ScanEnd::Descriptors`] or
    /// [`super::ScanEnd::Failed`], and [`super::ScanEnd::Owners`].
    ScanOwners {
        /// Network namespaces of which the scan need not describe each socket: all are tracked by their kernel addresses.
        known: Vec<u32>,
    },
    /// Look at the owners, at the end [`super::InspectionEnd::Owners`].
    InspectOwners(InspectionRequest),
    /// Hand in everything that is there as [`super::ScanFact::Present`] and the like, with `sweep` also every time of
    /// entry that the kernel keeps as [`super::ScanFact::StoredEntry`], at the end [`super::ScanEnd::Audit`].
    Audit {
        /// Whether the kernel's map is to be read.
        sweep: bool,
    },
    /// Look at these sockets as with [`Output::Refresh`], at the end [`super::RefreshEnd::Suspects`].
    RefreshSuspects(Vec<SocketKey>),
    /// Do the next step for a query.
    Query(QueryCommand),
    /// The kernel program is to count the closes of these ports, and of no others.
    WatchPorts(Vec<WatchedPort>),
    /// The kernel is to forget these times of entry: nobody is in CLOSE_WAIT there since then.
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
        /// What to inspect.
        request: Box<InspectionRequest>,
    },
    /// Answer the query with what is known now.
    Answer {
        /// The query.
        query: QueryId,
    },
}
