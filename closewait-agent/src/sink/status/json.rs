//! JSON object of `closewait status`.

use std::{borrow::Cow, io};

use serde::Serialize;

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
struct StatusObject<'a> {
    schema_version: u32,
    time: String,
    watched_seconds: Option<f64>,
    stuck_after_seconds: f64,
    count: u64,
    untracked: u64,
    unseen: Option<&'a str>,
    groups: Vec<StatusGroupObject<'a>>,
    more_groups: u64,
}

#[derive(Serialize)]
struct StatusGroupObject<'a> {
    /// Identifier of the incident; `null` for a group without one.
    id: Option<String>,
    state: Option<&'static str>,
    severity: &'static str,
    service: Option<String>,
    owner: Option<TaskObject<'a>>,
    script: Option<&'a str>,
    summary: String,
    group: GroupMembers,
    count: u64,
    shape: Option<&'static str>,
    slope_per_second: Option<f64>,
    oldest: schema::DwellMembers,
    onset: String,
    piles_up_since: Option<String>,
    fds_open: Option<u64>,
    fds_limit: Option<u64>,
    backlog: Option<u32>,
    backlog_max: Option<u32>,
    limit_reached: Option<&'static str>,
    exhaustion_seconds: Option<f64>,
    exhaustion: Option<ForecastObject>,
    verdict: VerdictObject<'a>,
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
        groups: report.groups.iter().map(|group| StatusGroupObject::new(group, &time)).collect(),
        more_groups: report.more,
    };
    serde_json::to_writer(&mut *to, &object)?;
    to.push(b'\n');
    Ok(())
}

/// Object of a group of `list --by group`.
#[derive(Serialize)]
struct ListedGroupObject<'a> {
    schema_version: u32,
    time: &'a str,
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
        let Pileup { group, incident, count, shape, slope, onset, forecast, verdict, evidence, .. } = pileup;
        let service = pileup.service();
        let process = evidence.process.as_deref();
        Self {
            id: incident.map(|incident| incident.id.to_string()),
            state: incident.map(|incident| incident.state.name()),
            severity: pileup.severity().name(),
            service: service.label(),
            owner: service.owner.map(|(comm, pid)| TaskObject { pid, comm }),
            script: service.script,
            summary: pileup.summary(),
            group: group.into(),
            count: *count,
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
