//! JSON objects of groups that grow without closing.

use std::{borrow::Cow, net::IpAddr};

use serde::Serialize;

use super::{DwellMembers, EndpointObject, OwnerObject, ProcessObject, VerdictObject, seconds};
use crate::sink::schema::socket::{PodObject, read_state, workload_members};
use closewait_engine::{
    model::{
        Evidence, Forecast, IncidentState, LastDiagnosis, Moment, Oldest, Pileup, PileupEnd, PileupGroup, ReadState,
        Role, Shape, Task,
    },
    process::ThreadGroup,
    snapshot::urgency::Severity,
    time::BootTime,
};

/// Maximum number of shown groups of threads.
const MAX_THREAD_GROUPS: usize = 5;

#[derive(Serialize)]
pub(in crate::sink) struct PileupObject<'a> {
    /// Identifier of the incident; `null` for a group without one.
    id: Option<String>,
    state: Option<&'static str>,
    severity: &'static str,
    service: Option<String>,
    summary: String,
    group: GroupMembers,
    /// Time of the incident's first report.
    began: Option<String>,
    /// Whether the incident was reported before.
    again: bool,
    count: u64,
    owners: Option<Vec<OwnerCountObject<'a>>>,
    shape: Option<&'static str>,
    slope_per_second: Option<f64>,
    slope_error_per_second: Option<f64>,
    entered_per_second: Option<f64>,
    left_per_second: Option<f64>,
    stuck_share: Option<f64>,
    onset: OnsetObject,
    exhaustion_seconds: Option<f64>,
    exhaustion: Option<ForecastObject>,
    verdict: VerdictObject<'a>,
    evidence: EvidenceObject<'a>,
    /// Command alone: that of the verdict, or one that lists the sockets of the group.
    command: Cow<'a, str>,
    runbook: String,
}

/// End of an incident. Members of the report that are unknown at the end are `null`.
#[derive(Serialize)]
pub(in crate::sink) struct PileupEndObject<'a> {
    id: String,
    state: &'static str,
    severity: &'static str,
    service: Option<&'a str>,
    summary: String,
    group: GroupMembers,
    began: String,
    lasted_seconds: f64,
    how: &'static str,
    count: u64,
    most: u64,
    slope_per_second: Option<f64>,
    onset: EndedOnsetObject,
    exhaustion: Option<ForecastObject>,
    verdict: Option<VerdictObject<'a>>,
    evidence: Option<EvidenceObject<'a>>,
    command: Option<&'a str>,
    runbook: Option<String>,
    /// Diagnosis at the last report, with the time of that report.
    last_verdict: Option<LastVerdictObject>,
}

#[derive(Serialize)]
struct EndedOnsetObject {
    first_stuck: String,
}

#[derive(Serialize)]
struct LastVerdictObject {
    time: String,
    class: &'static str,
    rule: &'static str,
    certainty: &'static str,
}

#[derive(Serialize)]
pub(in crate::sink) struct GroupMembers {
    role: Option<&'static str>,
    netns: Option<u32>,
    cgroup: Option<u64>,
    local_port: Option<u16>,
    remote: Option<EndpointObject>,
}

#[derive(Serialize)]
struct OwnerCountObject<'a> {
    pid: u32,
    comm: &'a str,
    count: u32,
}

#[derive(Serialize)]
struct OnsetObject {
    first_stuck: String,
    last_closed: Option<String>,
    unaccepted_since: Option<String>,
}

#[derive(Serialize)]
pub(in crate::sink) struct ForecastObject {
    limit: &'static str,
    used: u64,
    most: u64,
    /// Time at which `used` was read.
    time: String,
    at_least_seconds: f64,
    at_most_seconds: Option<f64>,
}

#[derive(Serialize)]
struct EvidenceObject<'a> {
    oldest: Vec<OldestObject<'a>>,
    median_seconds: f64,
    p90_seconds: f64,
    read_states: Vec<ReadObject>,
    unaccepted: u32,
    remotes: u32,
    top_remotes: Vec<RemoteObject>,
    process: Option<ProcessObject<'a>>,
    /// Time at which `process` and `threads` were read.
    process_time: Option<String>,
    threads: Option<Vec<ThreadsObject>>,
    container: Option<&'a str>,
    unit: Option<&'a str>,
    pod: Option<PodObject<'a>>,
    backlog: Option<u32>,
    backlog_max: Option<u32>,
    /// Time at which `backlog` was read.
    backlog_time: Option<String>,
    waits_for: Option<EndpointObject>,
    history: Vec<MomentObject>,
}

#[derive(Serialize)]
struct OldestObject<'a> {
    remote: EndpointObject,
    cookie: Option<u64>,
    #[serde(flatten)]
    dwell: DwellMembers,
    read_state: Option<&'static str>,
    owners: Option<Vec<OwnerObject<'a>>>,
}

#[derive(Serialize)]
struct ReadObject {
    read_state: &'static str,
    count: u32,
}

#[derive(Serialize)]
struct RemoteObject {
    address: IpAddr,
    count: u32,
}

/// Threads with the same activity.
#[derive(Serialize)]
struct ThreadsObject {
    count: u32,
    place: Option<String>,
}

#[derive(Serialize)]
struct MomentObject {
    seconds_ago: f64,
    count: u64,
    entered: u64,
    left: u64,
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

impl MomentObject {
    fn new(moment: &Moment, now: BootTime) -> Self {
        let Moment { at, count, entered, left } = *moment;
        Self { seconds_ago: seconds(now.since(at)), count, entered, left }
    }
}
