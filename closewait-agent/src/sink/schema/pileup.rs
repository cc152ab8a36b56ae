//! JSON objects of groups that grow without closing.

mod moment;

use std::{borrow::Cow, net::IpAddr};

use serde::Serialize;

use self::moment::MomentObject;
use super::{
    DwellMembers, EndpointObject, OpenedInObject, OwnerObject, ProcessObject, StackGroupObject, UnixBackendObject,
    UnreadRequestObject, VerdictObject, seconds,
};
#[cfg(test)]
use crate::sink::document::*;
use crate::sink::schema::socket::{PodObject, read_state, workload_members};
use closewait_engine::{
    model::{
        Evidence, Forecast, IncidentState, LastDiagnosis, Oldest, Pileup, PileupEnd, PileupGroup, ReadState, Role,
        Shape, Task,
    },
    process::ThreadGroup,
    snapshot::urgency::Severity,
    time::BootTime,
};

/// Maximum number of shown groups of threads.
const MAX_THREAD_GROUPS: usize = 5;

/// Group of sockets that grows or is stuck.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct PileupObject<'a> {
    /// Identifier of the incident: 16 hexadecimal digits, the same in all events of the incident and after a restart of
    /// the agent with `--pin`; `null` for a group without an incident.
    id: Option<String>,
    /// State of the incident; `null` for a group without an incident.
    #[cfg_attr(test, schemars(with = "Option<StateName>"))]
    state: Option<&'static str>,
    /// Severity.
    #[cfg_attr(test, schemars(with = "SeverityName"))]
    severity: &'static str,
    /// Owner of most sockets: unit, pod or container, or else the process with its script; `null` if unknown.
    service: Option<String>,
    /// Group in one line of at most 120 characters.
    summary: String,
    /// Property that the sockets share.
    group: GroupMembers,
    /// Time of the incident's first report; `null` for a group without an incident.
    #[cfg_attr(test, schemars(with = "Option<Time>"))]
    began: Option<String>,
    /// Whether the incident was reported before.
    again: bool,
    /// Number of sockets that the program has not closed: those in CLOSE_WAIT, and those in `ended`.
    count: u64,
    /// Number of these sockets that have exited CLOSE_WAIT, because the peer or its silence ended the connection; the program still has
    /// the descriptor.
    ended: u64,
    /// Owners of the sockets that entered since the onset, with the number of sockets of each; `null` if no scan for
    /// owners was possible.
    owners: Option<Vec<OwnerCountObject<'a>>>,
    /// Course of the count; `null` if no agent watched.
    #[cfg_attr(test, schemars(with = "Option<ShapeName>"))]
    shape: Option<&'static str>,
    /// Change of the count, in sockets per second; negative if it falls; `null` if unknown.
    slope_per_second: Option<f64>,
    /// Error of the slope, in sockets per second: half the span that contains two thirds of the slopes between points;
    /// `null` if unknown.
    slope_error_per_second: Option<f64>,
    /// Enters, in sockets per second; `null` if unknown.
    entered_per_second: Option<f64>,
    /// Exits, in sockets per second; `null` if unknown.
    left_per_second: Option<f64>,
    /// Share of the sockets that entered since the onset and are still in CLOSE_WAIT, from 0 to 1; `null` if unknown.
    stuck_share: Option<f64>,
    /// Beginning of the problem.
    onset: OnsetObject,
    /// Time until the first limit is reached, in seconds; 0 if it is reached; `null` without a forecast.
    exhaustion_seconds: Option<f64>,
    /// Forecast for the limit that is reached first; `null` without a forecast.
    exhaustion: Option<ForecastObject>,
    /// Diagnosis of the group.
    verdict: VerdictObject<'a>,
    /// Evidence that a restart of the program would destroy.
    evidence: EvidenceObject<'a>,
    /// Groups of equal stacks of the threads of the evidence's process: those that are not idle first, then the larger ones, 8 at most;
    /// `null` if they were not read in the last two minutes.
    stacks: Option<Vec<StackGroupObject<'a>>>,
    /// Requests that no program has read, the most frequent first, 5 at most and one object for all others; `null` if the agent peeked
    /// at none (`run --peek first-line`).
    unread_requests: Option<Vec<UnreadRequestObject<'a>>>,
    /// Command alone: that of the verdict, or one that lists the sockets of the group.
    command: Cow<'a, str>,
    /// Address of the page about the verdict.
    runbook: String,
}

/// End of an incident. Members of the report that are unknown at the end are `null`.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct PileupEndObject<'a> {
    /// Identifier of the incident, as in its `pileup` events.
    id: String,
    /// State of the incident: `resolved`.
    #[cfg_attr(test, schemars(with = "StateName"))]
    state: &'static str,
    /// Severity: `info`.
    #[cfg_attr(test, schemars(with = "SeverityName"))]
    severity: &'static str,
    /// Owner of most sockets, as in the last report; `null` if unknown.
    service: Option<&'a str>,
    /// End of the incident in one line of at most 120 characters.
    summary: String,
    /// Property that the sockets share.
    group: GroupMembers,
    /// Time of the incident's first report.
    #[cfg_attr(test, schemars(with = "Time"))]
    began: String,
    /// Time since `began`, in seconds.
    lasted_seconds: f64,
    /// Way in which the incident ended.
    #[cfg_attr(test, schemars(with = "RecoveryName"))]
    how: &'static str,
    /// Number of sockets that the program has not closed at the end.
    count: u64,
    /// Largest number of such sockets during the incident.
    most: u64,
    /// Change of the count, in sockets per second; `null`, because it is unknown at the end.
    slope_per_second: Option<f64>,
    /// Beginning of the problem.
    onset: EndedOnsetObject,
    /// Forecast; `null`, because there is none at the end.
    exhaustion: Option<ForecastObject>,
    /// Diagnosis; `null`, because it is unknown at the end: see `last_verdict`.
    verdict: Option<VerdictObject<'a>>,
    /// Evidence; `null`, because it is unknown at the end.
    evidence: Option<EvidenceObject<'a>>,
    /// Stacks; `null`, because they are unknown at the end.
    stacks: Option<Vec<StackGroupObject<'a>>>,
    /// Unread requests; `null`, because they are unknown at the end.
    unread_requests: Option<Vec<UnreadRequestObject<'a>>>,
    /// Command of the verdict; `null`, because there is none at the end.
    command: Option<&'a str>,
    /// Address of the page about the last verdict; `null` if there was none.
    runbook: Option<String>,
    /// Diagnosis at the last report; `null` if there was none.
    last_verdict: Option<LastVerdictObject>,
}

/// Beginning of a problem that has ended.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct EndedOnsetObject {
    /// Entry of the oldest socket of the problem.
    #[cfg_attr(test, schemars(with = "Time"))]
    first_stuck: String,
}

/// Diagnosis at the last report of an incident.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct LastVerdictObject {
    /// Time of that report.
    #[cfg_attr(test, schemars(with = "Time"))]
    time: String,
    /// Class of the cause.
    #[cfg_attr(test, schemars(with = "ClassName"))]
    class: &'static str,
    /// Name of the rule that gave the verdict.
    rule: &'static str,
    /// Certainty of the verdict.
    #[cfg_attr(test, schemars(with = "CertaintyName"))]
    certainty: &'static str,
}

/// Property that the sockets of a group share: local port of servers, remote endpoint of clients.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct GroupMembers {
    /// Side of the connection that the sockets are on; `null` if unknown.
    #[cfg_attr(test, schemars(with = "Option<RoleName>"))]
    role: Option<&'static str>,
    /// Inode of the network namespace; `null` if unknown.
    netns: Option<u32>,
    /// Id of the cgroup v2 of the programs of clients; `null` for servers, or if unknown.
    cgroup: Option<u64>,
    /// Local port of servers; `null` for clients. Both this and `remote` are `null` for the groups over the limit,
    /// which are counted together.
    local_port: Option<u16>,
    /// Remote endpoint of clients; `null` for servers.
    remote: Option<EndpointObject>,
}

/// Process with sockets of a group.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct OwnerCountObject<'a> {
    /// PID in the pid namespace of the agent.
    pid: u32,
    /// Name that the kernel has for the process (`comm`, 15 bytes at most), with control characters escaped.
    comm: &'a str,
    /// Number of sockets of the group that it owns.
    count: u32,
}

/// Beginning of a problem.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct OnsetObject {
    /// Entry of the oldest remaining socket; the latest possible time, if the agent did not see it.
    #[cfg_attr(test, schemars(with = "Time"))]
    first_stuck: String,
    /// Time at which the program last closed a socket itself; `null` if unknown.
    #[cfg_attr(test, schemars(with = "Option<Time>"))]
    last_closed: Option<String>,
    /// Entry of the oldest unaccepted socket; the program has accepted no later arrival at its listener; `null` if
    /// there is none.
    #[cfg_attr(test, schemars(with = "Option<Time>"))]
    unaccepted_since: Option<String>,
}

/// Time to exhaustion of a limit.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct ForecastObject {
    /// Limit that is reached first.
    #[cfg_attr(test, schemars(with = "LimitName"))]
    limit: &'static str,
    /// Used amount, as read at `time`.
    used: u64,
    /// Maximum amount.
    most: u64,
    /// Time at which `used` was read.
    #[cfg_attr(test, schemars(with = "Time"))]
    time: String,
    /// Shortest time until the limit is reached, in seconds.
    at_least_seconds: f64,
    /// Longest time until the limit is reached, in seconds; `null` if it may never be reached.
    at_most_seconds: Option<f64>,
}

/// Evidence about a group.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct EvidenceObject<'a> {
    /// Oldest sockets. They show the cause; later ones are its effect.
    oldest: Vec<OldestObject<'a>>,
    /// Median of the certain dwell times, in seconds.
    median_seconds: f64,
    /// 90th percentile of the certain dwell times, in seconds.
    p90_seconds: f64,
    /// Number of sockets in each read state that occurs.
    read_states: Vec<ReadObject>,
    /// Number of sockets that no program has accepted.
    unaccepted: u32,
    /// Number of distinct remote addresses.
    remotes: u32,
    /// Most frequent remote addresses.
    top_remotes: Vec<RemoteObject>,
    /// Owner of most of the sockets that entered since the onset, as read at `process_time`; `null` if unknown.
    process: Option<ProcessObject<'a>>,
    /// Time at which `process` and `threads` were read; `null` if they were not.
    #[cfg_attr(test, schemars(with = "Option<Time>"))]
    process_time: Option<String>,
    /// Largest groups of threads of `process` with the same activity; `null` if they were not read.
    threads: Option<Vec<ThreadsObject>>,
    /// Id of the owner's container; `null` if there is none, or it is unknown.
    container: Option<&'a str>,
    /// Systemd unit of the owner; `null` if there is none, or it is unknown.
    unit: Option<&'a str>,
    /// Pod of the owner; `null` if there is none, or it is unknown.
    pod: Option<PodObject<'a>>,
    /// Number of connections that wait at the listener to be accepted, as read at `backlog_time`; `null` if unknown.
    backlog: Option<u32>,
    /// Limit of `backlog`; `null` if unknown.
    backlog_max: Option<u32>,
    /// Time at which `backlog` was read; `null` if it was not.
    #[cfg_attr(test, schemars(with = "Option<Time>"))]
    backlog_time: Option<String>,
    /// Remote end of the connection that the oldest socket waits for, if it is one leg of a proxied connection;
    /// otherwise `null`.
    waits_for: Option<EndpointObject>,
    /// Stacks in which `process` opened such connections; `null` if none was sampled (`run --stacks auto`).
    opened_in: Option<OpenedInObject<'a>>,
    /// Programs behind UNIX sockets that the owners are connected to, the most important first; `null` if unknown, and for clients.
    unix_backends: Option<Vec<UnixBackendObject<'a>>>,
    /// Counts of the last minutes, the oldest first.
    history: Vec<MomentObject>,
}

/// One of the oldest sockets of a group.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct OldestObject<'a> {
    /// Remote endpoint.
    remote: EndpointObject,
    /// Number of the socket that `SO_COOKIE` and `ss -e` show; `null` if unknown.
    cookie: Option<u64>,
    #[serde(flatten)]
    dwell: DwellMembers,
    /// Part of the received data that the program has read; `null` if unknown.
    #[cfg_attr(test, schemars(with = "Option<ReadStateName>"))]
    read_state: Option<&'static str>,
    /// Every descriptor of the socket; `null` if no scan for owners was possible.
    owners: Option<Vec<OwnerObject<'a>>>,
}

/// Number of sockets in a read state.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct ReadObject {
    /// Part of the received data that the program has read.
    #[cfg_attr(test, schemars(with = "ReadStateName"))]
    read_state: &'static str,
    /// Number of sockets.
    count: u32,
}

/// Number of sockets of a remote address.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct RemoteObject {
    /// IP address.
    address: IpAddr,
    /// Number of sockets.
    count: u32,
}

/// Threads with the same activity.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct ThreadsObject {
    /// Number of threads.
    count: u32,
    /// Place in which they are, as text for people; `null` if unknown.
    place: Option<String>,
}

impl<'a> PileupObject<'a> {
    /// Creates the object at `at`; `time` writes other moments.
    pub(in crate::sink) fn new(pileup: &'a Pileup, at: BootTime, time: &impl Fn(BootTime) -> String) -> Self {
        let Pileup { group, incident, count, owners, shape, slope, onset, forecast, verdict, evidence, .. } = pileup;
        let owner = |(task, count): &'a (Task, u32)| OwnerCountObject {
            pid: task.pid,
            comm: task.comm.as_str(),
            count: *count,
        };
        Self {
            id: incident.map(|incident| incident.id.to_string()),
            state: incident.map(|incident| incident.state.name()),
            severity: pileup.severity().name(),
            service: pileup.service().label(),
            summary: pileup.summary(),
            group: group.into(),
            began: incident.map(|incident| time(incident.began)),
            again: incident.is_some_and(|incident| incident.state != IncidentState::Opened),
            count: *count,
            ended: pileup.ended,
            owners: owners.as_ref().map(|owners| owners.iter().map(owner).collect()),
            shape: shape.map(Shape::name),
            slope_per_second: slope.map(|slope| slope.per_second),
            slope_error_per_second: slope.map(|slope| slope.error),
            entered_per_second: pileup.entered_per_second,
            left_per_second: pileup.left_per_second,
            stuck_share: pileup.stuck_permille.map(|share| share as f64 / 1000.0),
            onset: OnsetObject {
                first_stuck: time(onset.first_stuck),
                last_closed: onset.last_closed.map(time),
                unaccepted_since: onset.unaccepted_since.map(time),
            },
            exhaustion_seconds: forecast.map(|forecast| seconds(forecast.left)),
            exhaustion: forecast.map(|forecast| ForecastObject::new(&forecast, time)),
            verdict: verdict.into(),
            evidence: EvidenceObject::new(evidence, at, time),
            stacks: evidence.stacks.as_deref().map(|stacks| StackGroupObject::first(stacks, at)),
            unread_requests: evidence.unread.as_ref().map(UnreadRequestObject::all),
            command: pileup.command(),
            runbook: runbook(verdict.rule),
        }
    }
}

/// Returns the address of the page about a rule.
fn runbook(rule: &str) -> String {
    // The headings of the generated page are the names of the rules.
    format!("{}/blob/main/docs/diagnoses.md#{rule}", env!("CARGO_PKG_REPOSITORY"))
}

impl<'a> PileupEndObject<'a> {
    /// Creates the object at `at`; `time` writes other moments.
    pub(in crate::sink) fn new(end: &'a PileupEnd, at: BootTime, time: &impl Fn(BootTime) -> String) -> Self {
        let PileupEnd { id, group, service, began, onset, last, count, most, how } = end;
        let last_verdict = |last: &LastDiagnosis| LastVerdictObject {
            time: time(last.at),
            class: last.class.name(),
            rule: last.rule,
            certainty: last.certainty.name(),
        };
        Self {
            id: id.to_string(),
            state: IncidentState::Resolved.name(),
            severity: Severity::Info.name(),
            service: service.as_deref(),
            summary: end.summary(at),
            group: group.into(),
            began: time(*began),
            lasted_seconds: seconds(at.since(*began)),
            how: how.name(),
            count: *count,
            most: *most,
            slope_per_second: None,
            onset: EndedOnsetObject { first_stuck: time(*onset) },
            exhaustion: None,
            verdict: None,
            evidence: None,
            stacks: None,
            unread_requests: None,
            command: None,
            runbook: last.as_ref().map(|last| runbook(last.rule)),
            last_verdict: last.as_ref().map(last_verdict),
        }
    }
}

impl From<&PileupGroup> for GroupMembers {
    fn from(group: &PileupGroup) -> Self {
        let PileupGroup { role: of, netns, cgroup, local_port, remote } = *group;
        Self { role: of.map(Role::name), netns, cgroup, local_port, remote: remote.map(Into::into) }
    }
}

impl ForecastObject {
    pub(in crate::sink) fn new(forecast: &Forecast, time: &impl Fn(BootTime) -> String) -> Self {
        let Forecast { limit, used, most, read_at, left: _, at_least, at_most } = *forecast;
        Self {
            limit: limit.name(),
            used,
            most,
            time: time(read_at),
            at_least_seconds: seconds(at_least),
            at_most_seconds: at_most.map(seconds),
        }
    }
}

impl<'a> EvidenceObject<'a> {
    fn new(evidence: &'a Evidence, at: BootTime, time: &impl Fn(BootTime) -> String) -> Self {
        let process = evidence.process.as_deref();
        let threads = process.map(|process| {
            let threads = |group: &ThreadGroup| ThreadsObject { count: group.count, place: group.place() };
            process.groups.iter().take(MAX_THREAD_GROUPS).map(threads).collect()
        });
        let (container, unit, pod) = workload_members(evidence.workload.as_deref());
        Self {
            oldest: evidence.oldest.iter().map(Into::into).collect(),
            median_seconds: seconds(evidence.median),
            p90_seconds: seconds(evidence.p90),
            read_states: evidence.reads.iter().map(|of| ReadObject::from(*of)).collect(),
            unaccepted: evidence.unaccepted,
            remotes: evidence.remotes,
            top_remotes: evidence
                .top_remotes
                .iter()
                .map(|(address, count)| RemoteObject { address: *address, count: *count })
                .collect(),
            process: process.map(Into::into),
            process_time: evidence.process_at.map(time),
            threads,
            container,
            unit,
            pod,
            backlog: evidence.backlog.map(|(backlog, _)| backlog),
            backlog_max: evidence.backlog.map(|(_, most)| most),
            backlog_time: evidence.backlog_at.map(time),
            waits_for: evidence.proxy_peer.as_ref().map(|proxy_peer| proxy_peer.socket.remote.into()),
            opened_in: evidence.connects.as_ref().map(OpenedInObject::new),
            unix_backends: evidence.unix.as_ref().map(|unix| unix.iter().map(Into::into).collect()),
            history: evidence.history.iter().map(|moment| MomentObject::new(moment, at)).collect(),
        }
    }
}

impl<'a> From<&'a Oldest> for OldestObject<'a> {
    fn from(oldest: &'a Oldest) -> Self {
        Self {
            remote: oldest.remote.into(),
            cookie: oldest.cookie,
            dwell: Some(oldest.dwell).into(),
            read_state: oldest.read.map(read_state),
            owners: oldest.owners.as_ref().map(|owners| owners.iter().map(Into::into).collect()),
        }
    }
}

impl From<(ReadState, u32)> for ReadObject {
    fn from((state, count): (ReadState, u32)) -> Self {
        Self { read_state: read_state(state), count }
    }
}
