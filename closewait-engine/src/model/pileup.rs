//! Groups that grow without closing.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Dwell, Endpoint, Owner, ProxyPeer, ReadState, Role, Task, Totals, Verdict};
use crate::{process::Process, text::harmless_field, time::BootTime, workload::Workload};

/// How a count goes, each second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Slope {
    /// More, or if negative fewer, each second.
    pub per_second: f64,
    /// How far that may be off.
    pub error: f64,
}

/// How a group's count goes, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Shape {
    /// All leave in time.
    Transient,
    /// Some stay, and they do not get more.
    Plateau,
    /// They get more, at an even rate.
    Linear,
    /// They get more, faster and faster.
    Accelerating,
    /// They get fewer.
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

/// What the sockets of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PileupGroup {
    /// Which end of their connections they are.
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
    /// Where its sockets are: `on port 8080`, `towards 10.0.0.7:443`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.local_port, self.remote) {
            (Some(port), _) => write!(f, "on port {port}"),
            (None, Some(remote)) => write!(f, "towards {remote}"),
            (None, None) => f.write_str("of groups that are too many to count each by itself"),
        }
    }
}

/// The first limit that is hit if all goes on as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Limit {
    /// Open descriptors of a process: `RLIMIT_NOFILE`.
    Descriptors,
    /// Connections that wait at a listener.
    Backlog,
    /// What the user said of the port (`--connection-limit`).
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

/// When a limit is hit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Which.
    pub limit: Limit,
    /// How much of it was used when that was last looked at.
    pub used: u64,
    /// How much there is.
    pub most: u64,
    /// The time that is left.
    pub left: Duration,
    /// And if the count grows as fast as may be.
    pub at_least: Duration,
    /// And if it grows as slowly as may be; `None` if it may not grow then.
    pub at_most: Option<Duration>,
}

/// Since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Onset {
    /// When the oldest that is still there entered, at the latest.
    pub first_stuck: BootTime,
    /// When the program last ended one by itself; `None` if it was not seen to.
    pub last_closed: Option<BootTime>,
    /// When the oldest that no program has accepted entered. A backlog is a queue (`reqsk_queue_remove`,
    /// include/net/request_sock.h at v5.10): what came to its listener after that was not accepted either. When accept() was last
    /// called, the kernel keeps nowhere.
    pub unaccepted_since: Option<BootTime>,
}

/// What a restart would destroy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The oldest sockets: they are the cause, the later ones the effect.
    pub oldest: Vec<Oldest>,
    /// The certain age in the middle of all.
    pub median: Duration,
    /// The certain age that nine of ten do not reach.
    pub p90: Duration,
    /// How many are in each read state.
    pub reads: Vec<(ReadState, u32)>,
    /// How many wait to be accepted.
    pub unaccepted: u32,
    /// How many different remote addresses there are.
    pub remotes: u32,
    /// The most frequent remote addresses.
    pub top_remotes: Vec<(std::net::IpAddr, u32)>,
    /// The process of most of those that entered since the onset.
    pub process: Option<Box<Process>>,
    /// What its cgroup is.
    pub workload: Option<Box<Workload>>,
    /// The listener's backlog and how long it may be.
    pub backlog: Option<(u32, u32)>,
    /// The other connection that the oldest waits for, of a proxy.
    pub proxy_peer: Option<ProxyPeer>,
    /// What was counted before, oldest first.
    pub history: Vec<Moment>,
}

/// One of the oldest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oldest {
    /// The peer.
    pub remote: Endpoint,
    /// The number that `ss -e` shows.
    pub cookie: Option<u64>,
    /// Its age.
    pub dwell: Dwell,
    /// What its program has read.
    pub read: Option<ReadState>,
    /// Every descriptor of it; `None` if they could not be looked for.
    pub owners: Option<Vec<Owner>>,
}

/// Counts at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// When.
    pub at: BootTime,
    /// In CLOSE_WAIT.
    pub count: u64,
    /// Entered since the moment before.
    pub entered: u64,
    /// Left since then.
    pub left: u64,
}

/// A group grows without closing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pileup {
    /// Which.
    pub group: PileupGroup,
    /// When it was first found.
    pub began: BootTime,
    /// Whether it was reported before: it has doubled since.
    pub again: bool,
    /// How many there are.
    pub count: u64,
    /// Who holds those that entered since the onset, and how many each; `None` if owners could not be looked for.
    pub owners: Option<Vec<(Task, u32)>>,
    /// How the count goes; `None` if it was not watched.
    pub shape: Option<Shape>,
    /// The same in numbers; `None` before there are three windows.
    pub slope: Option<Slope>,
    /// How many enter each second.
    pub entered_per_second: Option<f64>,
    /// How many leave each second.
    pub left_per_second: Option<f64>,
    /// Of those that entered since the onset, the part that is still there, in thousandths.
    pub stuck_permille: Option<u64>,
    /// Since when.
    pub onset: Onset,
    /// Where it ends; `None` if nothing tells, or the line is not good enough.
    pub forecast: Option<Forecast>,
    /// Why.
    pub verdict: Verdict,
    /// What tells why.
    pub evidence: Evidence,
}

/// How a pile-up ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nearly all have left.
    Drained,
    /// Those that are there stay, and no more came for long.
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
    /// Which.
    pub group: PileupGroup,
    /// When it was first found.
    pub began: BootTime,
    /// How many there are.
    pub count: u64,
    /// How many there were at most.
    pub most: u64,
    /// How it ended.
    pub how: Recovery,
}

/// Everything at one moment that a person needs to know of an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentReport {
    /// When.
    pub at: BootTime,
    /// For how long an agent has watched; `None` for a one-off scan.
    pub watched: Option<Duration>,
    /// The age at which a socket counts as stuck.
    pub stuck_after: Duration,
    /// Everything counted so far.
    pub totals: Totals,
    /// Sockets in CLOSE_WAIT at this time that are not tracked, because too many are.
    pub untracked: u64,
    /// Why there may be sockets that cannot be seen, if so.
    #[serde(deserialize_with = "harmless_field")]
    pub unseen: Option<String>,
    /// The groups that have sockets in CLOSE_WAIT, that with the oldest first.
    pub groups: Vec<ReportedGroup>,
    /// So many more, whose sockets are younger.
    pub more: u64,
}

/// One group of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportedGroup {
    /// When it was found to pile up, if it does.
    pub piles_up_since: Option<BootTime>,
    /// All of it.
    pub pileup: Pileup,
}
