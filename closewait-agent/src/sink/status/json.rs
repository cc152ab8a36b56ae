//! JSON object of `closewait status`.

use std::{borrow::Cow, io};

use serde::Serialize;

#[cfg(test)]
use crate::sink::document::*;
use crate::{
    clock::TimeAnchor,
    sink::json::write_line,
    sink::schema::{self, ForecastObject, GroupMembers, SCHEMA_VERSION, TaskObject, VerdictObject},
};
use closewait_engine::{
    model::{IncidentReport, Pileup, ReportedGroup, Shape},
    time::BootTime,
};

/// All groups, the most urgent first.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct StatusObject<'a> {
    /// Version of the schema.
    #[cfg_attr(test, schemars(with = "Version"))]
    schema_version: u32,
    /// Time of the answer.
    #[cfg_attr(test, schemars(with = "Time"))]
    time: String,
    /// Time for which the agent has watched, in seconds; `null` without an agent.
    watched_seconds: Option<f64>,
    /// Dwell time from which a socket is stuck, in seconds.
    stuck_after_seconds: f64,
    /// Number of sockets in CLOSE_WAIT.
    count: u64,
    /// Number of those that the agent does not track, because the limit is reached; only `count` includes them.
    untracked: u64,
    /// Reason why the answer may lack sockets, as text for people; `null` if there is none.
    unseen: Option<&'a str>,
    /// Number of frames of stacks that the agent keeps, 16384 at most, with about 200 bytes each; `null` if it reads no stacks.
    stack_frames: Option<u64>,
    /// Groups, the most urgent first; 64 at most.
    groups: Vec<StatusGroupObject<'a>>,
    /// Number of further groups, which are less urgent.
    more_groups: u64,
}

/// Group of sockets with the same owner, network namespace, role, and local port or remote endpoint.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct StatusGroupObject<'a> {
    /// Identifier of the incident; `null` for a group without one.
    id: Option<String>,
    /// State of the incident; `null` for a group without one.
    #[cfg_attr(test, schemars(with = "Option<StateName>"))]
    state: Option<&'static str>,
    /// Severity.
    #[cfg_attr(test, schemars(with = "SeverityName"))]
    severity: &'static str,
    /// Unit, pod or container of the owner; else its name and `script`. The same after a restart; `null` if unknown.
    service: Option<String>,
    /// Process with the most sockets of the group, or of their listener; `null` if unknown.
    owner: Option<TaskObject<'a>>,
    /// Script, module, JAR file or main class that the process runs, never another argument; `null` if there is none,
    /// or the agent did not read it.
    script: Option<&'a str>,
    /// Group in one line of at most 120 characters.
    summary: String,
    /// Property that the sockets share.
    group: GroupMembers,
    /// Number of sockets that the program has not closed: those in CLOSE_WAIT, and those in `ended`.
    count: u64,
    /// Number of these sockets that have exited CLOSE_WAIT, because the peer or its silence ended the connection; the program still has
    /// the descriptor.
    ended: u64,
    /// Course of the count; `null` if no agent watched.
    #[cfg_attr(test, schemars(with = "Option<ShapeName>"))]
    shape: Option<&'static str>,
    /// Change of the count, in sockets per second; negative if it falls; `null` without an agent that watches.
    slope_per_second: Option<f64>,
    /// Dwell time of the oldest socket of the problem.
    oldest: schema::DwellMembers,
    /// Entry of that socket; the latest possible time, if the agent did not see it.
    #[cfg_attr(test, schemars(with = "Time"))]
    onset: String,
    /// Start of the incident; `null` if there is none.
    #[cfg_attr(test, schemars(with = "Option<Time>"))]
    piles_up_since: Option<String>,
    /// Number of open descriptors of the owner; `null` if unknown.
    fds_open: Option<u64>,
    /// Limit of open descriptors of the owner; `null` if unknown.
    fds_limit: Option<u64>,
    /// Number of connections that wait at the listener to be accepted; `null` if unknown.
    backlog: Option<u32>,
    /// Limit of `backlog`; `null` if unknown.
    backlog_max: Option<u32>,
    /// Limit that is reached; `null` if none is.
    #[cfg_attr(test, schemars(with = "Option<LimitName>"))]
    limit_reached: Option<&'static str>,
    /// Time until the first limit is reached, in seconds; 0 if it is reached; `null` without a forecast.
    exhaustion_seconds: Option<f64>,
    /// Forecast for the limit that is reached first; `null` without a forecast.
    exhaustion: Option<ForecastObject>,
    /// Diagnosis of the group.
    verdict: VerdictObject<'a>,
    /// Command of the verdict, or one that lists the sockets of the group.
    command: Cow<'a, str>,
}

/// Writes the object.
///
/// # Errors
///
/// If it cannot be written as JSON.
pub(super) fn write(report: &IncidentReport, anchor: TimeAnchor, to: &mut Vec<u8>) -> io::Result<()> {
    let time = |at: BootTime| schema::time(anchor.wall(at));
    let object = StatusObject {
        schema_version: SCHEMA_VERSION,
        time: time(report.at),
        watched_seconds: report.watched.map(schema::seconds),
        stuck_after_seconds: schema::seconds(report.stuck_after),
        count: report.totals.tracked.saturating_add(report.untracked),
        untracked: report.untracked,
        unseen: report.unseen.as_deref(),
        stack_frames: report.stack_frames,
        groups: report.groups.iter().map(|group| StatusGroupObject::new(group, &time)).collect(),
        more_groups: report.more,
    };
    serde_json::to_writer(&mut *to, &object)?;
    to.push(b'\n');
    Ok(())
}

/// Group of sockets, as in `status`.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct ListedGroupObject<'a> {
    /// Version of the schema.
    #[cfg_attr(test, schemars(with = "Version"))]
    schema_version: u32,
    /// Time of the list.
    #[cfg_attr(test, schemars(with = "Time"))]
    time: &'a str,
    /// Property that the sockets share: `group`, which stands for the groups of `status`.
    #[cfg_attr(test, schemars(with = "GroupWord"))]
    by: &'static str,
    #[serde(flatten)]
    group: StatusGroupObject<'a>,
}

/// Writes one object per group of a report.
///
/// # Errors
///
/// If `to` fails, or an object cannot be written as JSON.
pub(in crate::sink) fn group_objects(
    groups: &[&ReportedGroup],
    report: &IncidentReport,
    anchor: TimeAnchor,
    to: &mut impl io::Write,
) -> io::Result<()> {
    let time = |at: BootTime| schema::time(anchor.wall(at));
    let now = time(report.at);
    let mut lines = Vec::new();
    for group in groups {
        let group = StatusGroupObject::new(group, &time);
        let object = ListedGroupObject { schema_version: SCHEMA_VERSION, time: &now, by: "group", group };
        write_line(&object, &mut lines)?;
    }
    to.write_all(&lines)
}

impl<'a> StatusGroupObject<'a> {
    fn new(
        ReportedGroup { piles_up_since, pileup, .. }: &'a ReportedGroup,
        time: &impl Fn(BootTime) -> String,
    ) -> Self {
        let Pileup { group, incident, count, ended, shape, slope, onset, forecast, verdict, evidence, .. } = pileup;
        let service = pileup.service();
        let process = evidence.process.as_deref();
        Self {
            id: incident.map(|incident| incident.id.to_string()),
            state: incident.map(|incident| incident.state.name()),
            severity: pileup.severity().name(),
            service: service.label(),
            owner: service.owner.map(|(comm, pid)| TaskObject { pid, comm: comm.as_str() }),
            script: service.script,
            summary: pileup.summary(),
            group: group.into(),
            count: *count,
            ended: *ended,
            shape: shape.map(Shape::name),
            slope_per_second: slope.map(|slope| slope.per_second),
            oldest: evidence.oldest.first().map(|oldest| oldest.dwell).into(),
            onset: time(onset.first_stuck),
            piles_up_since: piles_up_since.map(time),
            fds_open: process.and_then(|process| process.fds_open),
            fds_limit: process.and_then(|process| process.fds_limit),
            backlog: evidence.backlog.map(|(backlog, _)| backlog),
            backlog_max: evidence.backlog.map(|(_, most)| most),
            limit_reached: pileup.reached_limit().map(|limit| limit.name()),
            exhaustion_seconds: forecast.map(|forecast| schema::seconds(forecast.left)),
            exhaustion: forecast.map(|forecast| ForecastObject::new(&forecast, time)),
            verdict: verdict.into(),
            command: pileup.command(),
        }
    }
}
