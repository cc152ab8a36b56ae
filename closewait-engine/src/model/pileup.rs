//! Groups that grow without closing.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Dwell, Endpoint, Owner, ProxyPeer, ReadState, Role, Task, Totals, Verdict};
use crate::{process::Process, text::harmless_field, time::BootTime, workload::Workload};

/// Change of a count per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Slope {
    /// Sockets per second; negative if the count falls.
    pub per_second: f64,
    /// Possible error of `per_second`, in sockets per second.
    pub error: f64,
}

/// Course of a group's count, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Shape {
    /// All leave in time.
    Transient,
    /// Some sockets remain, and the count is level.
    Plateau,
    /// The count grows at an even rate.
    Linear,
    /// The count grows at an increasing rate.
    Accelerating,
    /// The count falls.
    Recovering,
}

impl Shape {
    /// The word that events use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Plateau => "plateau",
            Self::Linear => "linear",
            Self::Accelerating => "accelerating",
            Self::Recovering => "recovering",
        }
    }
}

/// Common properties of the sockets of an incident: their port or remote endpoint, and what else they share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PileupGroup {
    /// Side of the connection that the sockets are on.
    pub role: Option<Role>,
    /// Their network namespace.
    pub netns: Option<u32>,
    /// The id of their cgroup v2, of connecting sides.
    pub cgroup: Option<u64>,
    /// The port that is listened on, of accepting sides.
    pub local_port: Option<u16>,
    /// The remote end, of connecting sides.
    pub remote: Option<Endpoint>,
}

impl fmt::Display for PileupGroup {
    /// Writes the port or remote endpoint: `on port 8080`, `towards 10.0.0.7:443`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.local_port, self.remote) {
            (Some(port), _) => write!(f, "on port {port}"),
            (None, Some(remote)) => write!(f, "towards {remote}"),
            (None, None) => f.write_str("of groups that are too many to count each by itself"),
        }
    }
}

/// Limit that the group hits first if it continues to grow as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Limit {
    /// Open descriptors of a process: `RLIMIT_NOFILE`.
    Descriptors,
    /// Connections that wait at a listener.
    Backlog,
    /// Connections that the user allows on the port (`--connection-limit`).
    Connections,
}

impl Limit {
    /// The word that events use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Backlog => "backlog",
            Self::Connections => "connections",
        }
    }
}

/// Time to exhaustion of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Limit that the group hits first.
    pub limit: Limit,
    /// Used amount of the limit at its last reading.
    pub used: u64,
    /// Highest possible amount.
    pub most: u64,
    /// The time that is left.
    pub left: Duration,
    /// Time to exhaustion at the fastest growth that the counts allow.
    pub at_least: Duration,
    /// Time to exhaustion at the slowest growth that the counts allow; `None` if that is no growth.
    pub at_most: Option<Duration>,
}

/// Since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Onset {
    /// Entry of the oldest remaining socket; its latest possible time if the entry was not seen.
    pub first_stuck: BootTime,
    /// Time at which the program last closed a socket itself; `None` if the agent saw no such exit.
    pub last_closed: Option<BootTime>,
    /// Entry of the oldest socket that no program has accepted. A backlog is a queue (`reqsk_queue_remove`,
    /// include/net/request_sock.h at v5.10): later arrivals at its listener were not accepted either. The kernel does
    /// not store the time of the last accept().
    pub unaccepted_since: Option<BootTime>,
}

/// Evidence that a restart would destroy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The oldest sockets: they are the cause, the later ones the effect.
    pub oldest: Vec<Oldest>,
    /// The certain age in the middle of all.
    pub median: Duration,
    /// The certain age that nine of ten do not reach.
    pub p90: Duration,
    /// Number of sockets in each read state.
    pub reads: Vec<(ReadState, u32)>,
    /// Number of sockets that wait to be accepted.
    pub unaccepted: u32,
    /// Number of different remote addresses.
    pub remotes: u32,
    /// The most frequent remote addresses.
    pub top_remotes: Vec<(std::net::IpAddr, u32)>,
    /// The process of most of those that entered since the onset.
    pub process: Option<Box<Process>>,
    /// Unit, container or pod of the owner's cgroup.
    pub workload: Option<Box<Workload>>,
    /// The listener's backlog and how long it may be.
    pub backlog: Option<(u32, u32)>,
    /// The other connection that the oldest waits for, of a proxy.
    pub proxy_peer: Option<ProxyPeer>,
    /// Counts of the group before the report, oldest first.
    pub history: Vec<Moment>,
}

/// One of the oldest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oldest {
    /// The peer.
    pub remote: Endpoint,
    /// The number that `ss -e` shows.
    pub cookie: Option<u64>,
    /// Dwell time of the socket.
    pub dwell: Dwell,
    /// Part of the received data that the program has read; `None` if unknown.
    pub read: Option<ReadState>,
    /// Descriptors of the socket, sorted by process; `None` if no scan for owners was possible.
    pub owners: Option<Vec<Owner>>,
}

/// Counts at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Time of the count.
    pub at: BootTime,
    /// Number of sockets in CLOSE_WAIT.
    pub count: u64,
    /// Entered since the moment before.
    pub entered: u64,
    /// Left since then.
    pub left: u64,
}

/// A group grows without closing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pileup {
    /// Port or remote endpoint of the incident.
    pub group: PileupGroup,
    /// Time of the incident's first report.
    pub began: BootTime,
    /// Whether it was reported before: it has doubled since.
    pub again: bool,
    /// Number of sockets in CLOSE_WAIT.
    pub count: u64,
    /// Owners of the sockets that entered since the onset, with the number of sockets of each; `None` if no scan for
    /// owners was possible.
    pub owners: Option<Vec<(Task, u32)>>,
    /// Course of the count; `None` if no agent watched.
    pub shape: Option<Shape>,
    /// Change of the count per second; `None` before there are three windows.
    pub slope: Option<Slope>,
    /// Entries per second.
    pub entered_per_second: Option<f64>,
    /// Exits per second.
    pub left_per_second: Option<f64>,
    /// Share of the sockets that entered since the onset and are still in CLOSE_WAIT, in thousandths.
    pub stuck_permille: Option<u64>,
    /// Since when.
    pub onset: Onset,
    /// Limit that is exhausted first, and when; `None` if no limit is known, or the growth is too uneven for a
    /// forecast.
    pub forecast: Option<Forecast>,
    /// Diagnosis of the group.
    pub verdict: Verdict,
    /// Evidence that a restart would destroy.
    pub evidence: Evidence,
}

/// Way in which an incident ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nearly all have left.
    Drained,
    /// The remaining sockets stay in CLOSE_WAIT, and their number has been level for long.
    Level,
}

impl Recovery {
    /// The word that events use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Level => "level",
        }
    }
}

/// A group grows no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PileupEnd {
    /// Port or remote endpoint of the incident.
    pub group: PileupGroup,
    /// Time of the incident's first report.
    pub began: BootTime,
    /// Number of sockets in CLOSE_WAIT.
    pub count: u64,
    /// Highest number of sockets during the incident.
    pub most: u64,
    /// Way in which the incident ended.
    pub how: Recovery,
}

/// Everything at one moment that a person needs to know of an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentReport {
    /// Time of the report.
    pub at: BootTime,
    /// Time for which an agent has watched; `None` for a one-off scan.
    pub watched: Option<Duration>,
    /// The age at which a socket counts as stuck.
    pub stuck_after: Duration,
    /// Everything counted so far.
    pub totals: Totals,
    /// Sockets in CLOSE_WAIT at this time that are not tracked, because too many are.
    pub untracked: u64,
    /// Reason why the report may lack sockets; `None` if the agent sees all.
    #[serde(deserialize_with = "harmless_field")]
    pub unseen: Option<String>,
    /// The groups that have sockets in CLOSE_WAIT, that with the oldest first.
    pub groups: Vec<ReportedGroup>,
    /// Number of further groups, whose oldest sockets are younger.
    pub more: u64,
}

/// One group of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportedGroup {
    /// Start of the group's incident; `None` if it has none.
    pub piles_up_since: Option<BootTime>,
    /// Report of the group.
    pub pileup: Pileup,
}
