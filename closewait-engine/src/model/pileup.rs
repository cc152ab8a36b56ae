//! Incidents: groups that grow without closes, and reports of them.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Dwell, Endpoint, IncidentCourse, IncidentId, IncidentStatus, LastDiagnosis, Owner, ProxyPeer, ReadState,
    ResolvedIncident, Role, Task, Totals, UnixBackend, Verdict,
};
use crate::{
    process::Process,
    stacks::{ConnectStacks, ProcessStacks},
    text::{harmless_field, harmless_lines},
    time::BootTime,
    unread::UnreadRequests,
    workload::Workload,
};

/// Change of a count per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Slope {
    /// Sockets per second; negative if the count falls.
    pub per_second: f64,
    /// Possible error of `per_second`, in sockets per second.
    pub error: f64,
}

/// Course of a group's count over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Shape {
    /// All sockets exit in time.
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
    /// Returns the name in events.
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

/// Common properties of an incident's sockets: their port or remote endpoint, role, namespace and cgroup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PileupGroup {
    /// Side of the connection that the sockets are on.
    pub role: Option<Role>,
    /// Inode of the sockets' network namespace.
    pub netns: Option<u32>,
    /// Id of the cgroup v2 of clients.
    pub cgroup: Option<u64>,
    /// Local port of servers.
    pub local_port: Option<u16>,
    /// Remote endpoint of clients.
    pub remote: Option<Endpoint>,
}

impl fmt::Display for PileupGroup {
    /// Writes the port or remote endpoint: `on port 8080`, `towards 10.0.0.7:443`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.local_port, self.remote) {
            (Some(port), _) => write!(f, "on port {port}"),
            (None, Some(remote)) => write!(f, "towards {remote}"),
            (None, None) => f.write_str("of groups over the limit, which are counted together"),
        }
    }
}

/// Limit that a growing group can exhaust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Limit {
    /// Open descriptors of a process (`RLIMIT_NOFILE`).
    Descriptors,
    /// Unaccepted connections of a listener.
    Backlog,
    /// Connections of a port (`--connection-limit`, set by the user).
    Connections,
}

impl Limit {
    /// All limits.
    pub const ALL: [Self; 3] = [Self::Descriptors, Self::Backlog, Self::Connections];

    /// Returns the name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Backlog => "backlog",
            Self::Connections => "connections",
        }
    }

    /// Returns a maximum as the program or the user has set it, and as `ss` shows it: a backlog holds one connection more
    /// (`sk_acceptq_is_full`, include/net/sock.h at v5.10).
    pub const fn configured(self, most: u64) -> u64 {
        match self {
            Self::Backlog => most.saturating_sub(1),
            Self::Descriptors | Self::Connections => most,
        }
    }
}

/// Time to exhaustion of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Limit that the group exhausts first.
    pub limit: Limit,
    /// Used amount at the last reading.
    pub used: u64,
    /// Maximum amount.
    pub most: u64,
    /// Time of the last reading, at which `used` was read.
    pub read_at: BootTime,
    /// Time to exhaustion at the measured growth; zero if the limit is reached.
    pub left: Duration,
    /// Time to exhaustion at the fastest growth that the counts allow.
    pub at_least: Duration,
    /// Time to exhaustion at the slowest growth that the counts allow; `None` if the counts also allow no growth.
    pub at_most: Option<Duration>,
}

impl Forecast {
    /// Whether the limit was reached at the last reading.
    pub const fn is_reached(&self) -> bool {
        self.used >= self.most
    }
}

/// Times at which a problem began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Onset {
    /// Entry of the oldest remaining socket; its latest possible time if the agent did not see it.
    pub first_stuck: BootTime,
    /// Time of the latest exit that the program caused, or of its latest close of another connection of a watched port; `None` if the agent
    /// saw neither.
    pub last_closed: Option<BootTime>,
    /// Entry of the oldest socket that no program has accepted. A backlog is a queue (`reqsk_queue_remove`,
    /// include/net/request_sock.h at v5.10), so the program has not accepted any later connection of the listener either. The
    /// kernel does not store the time of the last accept().
    pub unaccepted_since: Option<BootTime>,
}

/// Upper bounds of the buckets of [`Evidence::ages`], exclusive. The last bucket has none.
pub const AGE_BOUNDS: [Duration; 12] = [
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_mins(1),
    Duration::from_mins(3),
    Duration::from_mins(10),
    Duration::from_mins(30),
    Duration::from_hours(1),
    Duration::from_hours(3),
    Duration::from_hours(12),
    Duration::from_hours(24),
];

/// Numbers of sockets by age, in the buckets of [`AGE_BOUNDS`].
// A literal: rustc 1.95 fails on a struct update of a type whose length is an expression of another crate.
pub type AgeCounts = [u32; 13];
const _: () = assert!(AGE_BOUNDS.len() + 1 == size_of::<AgeCounts>() / size_of::<u32>());

/// Returns the number of the bucket of [`AGE_BOUNDS`] that contains an age.
fn age_bucket(age: Duration) -> usize {
    AGE_BOUNDS.partition_point(|bound| *bound <= age)
}

/// Counts sockets of an age.
pub fn count_age(counts: &mut AgeCounts, age: Duration, sockets: u32) {
    if let Some(count) = counts.get_mut(age_bucket(age)) {
        *count = count.saturating_add(sockets);
    }
}

/// Evidence that a restart would destroy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Oldest sockets. They show the cause; later sockets are its effect.
    pub oldest: Vec<Oldest>,
    /// Median of the sockets' minimum ages.
    pub median: Duration,
    /// 90th percentile of the sockets' minimum ages.
    pub p90: Duration,
    /// Number of sockets by minimum age, in the buckets of [`AGE_BOUNDS`].
    pub ages: AgeCounts,
    /// Number of sockets in each read state.
    pub reads: Vec<(ReadState, u32)>,
    /// Number of unaccepted sockets.
    pub unaccepted: u32,
    /// Number of distinct remote addresses.
    pub remotes: u32,
    /// Most frequent remote addresses, with the number of sockets of each.
    pub top_remotes: Vec<(std::net::IpAddr, u32)>,
    /// Owner of most of the sockets that entered since the onset.
    pub process: Option<Box<Process>>,
    /// Time of the last inspection of `process`.
    pub process_at: Option<BootTime>,
    /// Stacks of the threads of `process`; `None` if they were not read in the last two minutes.
    #[serde(default)]
    pub stacks: Option<Arc<ProcessStacks>>,
    /// Requests that no program has read; `None` if the agent peeked at none.
    #[serde(default)]
    pub unread: Option<UnreadRequests>,
    /// Stacks in which `process` opened connections to the remote endpoint; `None` if none was sampled.
    #[serde(default)]
    pub connects: Option<ConnectStacks>,
    /// Programs behind UNIX sockets that the owners are connected to, the most important first; `None` if the agent did not read them.
    #[serde(default)]
    pub unix: Option<Vec<UnixBackend>>,
    /// Unit, container or pod of the owner's cgroup.
    pub workload: Option<Box<Workload>>,
    /// Length and limit of the listener's backlog.
    pub backlog: Option<(u32, u32)>,
    /// Time at which `backlog` was read.
    pub backlog_at: Option<BootTime>,
    /// Other side of the oldest socket's proxied connection.
    pub proxy_peer: Option<ProxyPeer>,
    /// Counts of the group before the report, oldest first.
    pub history: Vec<Moment>,
}

impl Evidence {
    /// Describes the activity of the threads of `process` at `now`, by their stacks where they are known.
    pub fn activity(&self, now: BootTime) -> Option<String> {
        self.process.as_deref()?.activity_beside(self.stacks.as_deref(), now)
    }
}

/// One of the oldest sockets of an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oldest {
    /// Remote endpoint.
    pub remote: Endpoint,
    /// Number that `SO_COOKIE` and `ss -e` show.
    pub cookie: Option<u64>,
    /// Dwell time of the socket.
    pub dwell: Dwell,
    /// Part of the received data that the program has read; `None` if unknown.
    pub read: Option<ReadState>,
    /// Descriptors of the socket, sorted by process; `None` if no scan for owners was possible.
    pub owners: Option<Vec<Owner>>,
}

/// Counts of a group at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Time of the count.
    pub at: BootTime,
    /// Number of sockets in CLOSE_WAIT.
    pub count: u64,
    /// Number of entries since the previous count.
    pub entered: u64,
    /// Number of exits since the previous count.
    pub left: u64,
}

/// Report of an incident: a group that grows without closes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pileup {
    /// Port or remote endpoint of the incident.
    pub group: PileupGroup,
    /// Identity and state of the group's incident; `None` without an open incident.
    pub incident: Option<IncidentStatus>,
    /// Number of sockets that the program has not closed: those in CLOSE_WAIT, and those in `ended`.
    pub count: u64,
    /// Number of these sockets that have exited CLOSE_WAIT, because the peer or its silence ended the connection; the program still has
    /// the descriptor.
    #[serde(default)]
    pub ended: u64,
    /// Owners of the sockets that entered since the onset, with the number of sockets of each; `None` if no scan for
    /// owners was possible.
    pub owners: Option<Vec<(Task, u32)>>,
    /// Course of the count; `None` if no agent watched.
    pub shape: Option<Shape>,
    /// Change of the count per second; `None` with fewer than three windows.
    pub slope: Option<Slope>,
    /// Entries per second.
    pub entered_per_second: Option<f64>,
    /// Exits per second.
    pub left_per_second: Option<f64>,
    /// Share of the sockets that entered since the onset and are still in CLOSE_WAIT, in thousandths.
    pub stuck_permille: Option<u64>,
    /// Beginning of the problem.
    pub onset: Onset,
    /// Forecast for the limit that is exhausted first; `None` if no limit is known, or the growth is too uneven for a forecast.
    pub forecast: Option<Forecast>,
    /// Diagnosis of the group.
    pub verdict: Verdict,
    /// Evidence that a restart would destroy.
    pub evidence: Evidence,
}

impl Pileup {
    /// Returns the command of the next step, or else the command that lists the sockets of the group.
    pub fn command(&self) -> Cow<'_, str> {
        if let Some(command) = &self.verdict.next.command {
            return Cow::Borrowed(command);
        }
        let owner = self.service().owner.map(|(_, pid)| format!(" --pid {pid}")).unwrap_or_default();
        let place = match (self.group.local_port, self.group.remote) {
            (Some(port), _) => format!(" --port {port}"),
            // A shell takes brackets for a pattern, and zsh refuses one that matches no file.
            (None, Some(remote)) if remote.address.is_ipv6() => format!(" --peer '{remote}'"),
            (None, Some(remote)) => format!(" --peer {remote}"),
            (None, None) => String::new(),
        };
        Cow::Owned(format!("closewait list{owner}{place}"))
    }
}

/// Way in which an incident ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recovery {
    /// Nearly all sockets have exited.
    Drained,
    /// Nearly all sockets have exited, most of them because their process ended.
    ProcessEnded,
    /// The remaining sockets are still in CLOSE_WAIT, and their number has long been level.
    Level,
}

impl Recovery {
    /// Returns the name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::ProcessEnded => "process_ended",
            Self::Level => "level",
        }
    }

    /// Returns the way for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::ProcessEnded => "process ended",
            Self::Level => "level",
        }
    }
}

/// Report of the end of an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PileupEnd {
    /// Identifier of the incident.
    pub id: IncidentId,
    /// Port or remote endpoint of the incident.
    pub group: PileupGroup,
    /// Name of the service that owned most of the sockets at the last report; `None` if unknown.
    #[serde(deserialize_with = "harmless_field")]
    pub service: Option<String>,
    /// Time of the incident's first report.
    pub began: BootTime,
    /// Beginning of the problem: the entry of its oldest socket.
    pub onset: BootTime,
    /// Diagnosis at the last report; `None` without a report.
    pub last: Option<LastDiagnosis>,
    /// Number of sockets in CLOSE_WAIT.
    pub count: u64,
    /// Highest number of sockets during the incident.
    pub most: u64,
    /// Way in which the incident ended.
    pub how: Recovery,
}

/// Report of all groups at one time, with the evidence for an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentReport {
    /// Time of the report.
    pub at: BootTime,
    /// Name of the host, as `uname -n` prints it; `None` if unknown.
    #[serde(deserialize_with = "harmless_field")]
    pub host: Option<String>,
    /// Time for which an agent has watched; `None` for a one-off scan.
    pub watched: Option<Duration>,
    /// Age at which a socket counts as stuck.
    pub stuck_after: Duration,
    /// All counts so far.
    pub totals: Totals,
    /// Number of sockets in CLOSE_WAIT that are not tracked, because the limit is reached.
    pub untracked: u64,
    /// Reason why the report may lack sockets; `None` if the agent sees all.
    #[serde(deserialize_with = "harmless_lines")]
    pub unseen: Option<String>,
    /// Number of frames of stacks that the agent keeps; `None` if it reads none.
    #[serde(default)]
    pub stack_frames: Option<u64>,
    /// Groups with sockets in CLOSE_WAIT, the most urgent first.
    pub groups: Vec<ReportedGroup>,
    /// Number of further groups, which are less urgent.
    pub more: u64,
    /// Number of sockets in CLOSE_WAIT that match the filter; `None` without a filter.
    pub matching: Option<u64>,
    /// Latest incidents that have ended, oldest first.
    pub resolved: Vec<ResolvedIncident>,
}

impl IncidentReport {
    /// Returns the number of the groups' sockets that have exited CLOSE_WAIT and are not closed.
    pub fn ended(&self) -> u64 {
        self.groups.iter().map(|group| group.pileup.ended).sum()
    }
}

/// Group of an [`IncidentReport`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportedGroup {
    /// Start of the group's incident; `None` if the group is not an incident.
    pub piles_up_since: Option<BootTime>,
    /// Number of sockets that count as stuck by their minimum age.
    pub stuck: u64,
    /// Report of the group.
    pub pileup: Pileup,
    /// Course of the group's incident; `None` without an open incident.
    pub course: Option<IncidentCourse>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Certainty, Class},
        testing::{owner, pileup},
    };

    #[test]
    fn an_age_is_below_the_bound_of_its_bucket() {
        let bucket = |millis| age_bucket(Duration::from_millis(millis));
        assert_eq!([0, 999, 1000, 2999, 3000].map(bucket), [0, 0, 1, 1, 2]);
        assert_eq!(age_bucket(Duration::MAX), AGE_BOUNDS.len());
        assert!(AGE_BOUNDS.is_sorted());
    }

    #[test]
    fn a_group_without_a_command_is_listed() {
        let mut group = pileup(Class::Leak, Certainty::High, 3);
        assert_eq!(group.command(), "this --now");
        group.verdict.next.command = None;
        assert_eq!(group.command(), "closewait list --port 80");
        group.owners = Some(vec![(owner("app", 7, 3).task, 3)]);
        assert_eq!(group.command(), "closewait list --pid 7 --port 80");
        let remote = Endpoint { address: std::net::Ipv6Addr::LOCALHOST.into(), port: 443 };
        (group.group.local_port, group.group.remote) = (None, Some(remote));
        assert_eq!(group.command(), "closewait list --pid 7 --peer '[::1]:443'");
        group.group.remote = None;
        assert_eq!(group.command(), "closewait list --pid 7");
    }
}
