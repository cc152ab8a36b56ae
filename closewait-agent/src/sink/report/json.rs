//! JSON object of `closewait report`.

use std::io;

use serde::Serialize;

use super::ReportPage;
#[cfg(test)]
use crate::sink::document::*;
use crate::sink::schema::{self, PileupEndObject, PileupObject, SCHEMA_VERSION, TotalsObject};
use closewait_engine::{
    model::{
        AgeCounts, CoursePoint, FirstForecast, IncidentCourse, Milestone, MilestoneKind, Recovery, ReportedGroup,
        ResolvedIncident,
    },
    time::BootTime,
};

/// Whole report, in one object.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct ReportObject<'a> {
    /// Version of the schema.
    #[cfg_attr(test, schemars(with = "Version"))]
    schema_version: u32,
    /// Time of the report.
    #[cfg_attr(test, schemars(with = "Time"))]
    time: String,
    /// Name of the host; `null` if unknown.
    host: Option<&'a str>,
    /// Version of the closewait that made the report.
    closewait: &'a str,
    /// Time for which the agent has watched, in seconds; `null` without an agent.
    watched_seconds: Option<f64>,
    /// Dwell time from which a socket is stuck, in seconds.
    stuck_after_seconds: f64,
    /// Counts of the agent; without an agent, those of one scan.
    totals: TotalsObject,
    /// Number of sockets in CLOSE_WAIT that the agent does not track, because the limit is reached.
    untracked: u64,
    /// Reason why the report may lack sockets, as text for people; `null` if there is none.
    unseen: Option<&'a str>,
    /// Groups with sockets in CLOSE_WAIT, the most urgent first.
    groups: Vec<ReportedObject<'a>>,
    /// Number of further groups, which are less urgent.
    more_groups: u64,
    /// Last incidents that have ended, 16 at most, the oldest first.
    resolved: Vec<ResolvedObject<'a>>,
}

/// Group of a report.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct ReportedObject<'a> {
    /// Start of the incident; `null` if there is none.
    #[cfg_attr(test, schemars(with = "Option<Time>"))]
    piles_up_since: Option<String>,
    /// Number of sockets that are certainly stuck.
    stuck: u64,
    #[serde(flatten)]
    pileup: PileupObject<'a>,
    /// Course of the incident; `null` for a group without an open incident.
    course: Option<CourseObject>,
}

/// Incident that has ended.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct ResolvedObject<'a> {
    /// Time of the end.
    #[cfg_attr(test, schemars(with = "Time"))]
    time: String,
    #[serde(flatten)]
    end: PileupEndObject<'a>,
    /// Course of the incident.
    course: CourseObject,
}

/// Course of an incident.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct CourseObject {
    /// Known events, in order of time.
    milestones: Vec<MilestoneObject>,
    /// First forecast, to compare with what came about; `null` if there was none.
    forecast: Option<FirstForecastObject>,
    /// Counts over time, 97 at most. Points from before the first count of the group contain only the sockets that
    /// remained until then.
    points: Vec<CoursePointObject>,
}

/// Event in the course of an incident.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct MilestoneObject {
    /// Time of the event.
    #[cfg_attr(test, schemars(with = "Time"))]
    time: String,
    /// Kind of the event.
    #[cfg_attr(test, schemars(with = "MilestoneKindName"))]
    kind: &'static str,
    /// Limit that the event is about; `null` if there is none.
    #[cfg_attr(test, schemars(with = "Option<LimitName>"))]
    limit: Option<&'static str>,
    /// Way in which the incident ended; `null` if `kind` is not `resolved`.
    #[cfg_attr(test, schemars(with = "Option<RecoveryName>"))]
    how: Option<&'static str>,
    /// Number of sockets in CLOSE_WAIT; `null` if unknown.
    count: Option<u64>,
    /// Used amount of the limit; `null` if unknown.
    used: Option<u64>,
    /// Maximum amount of the limit; `null` if unknown.
    most: Option<u64>,
}

/// First forecast of an incident.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct FirstForecastObject {
    /// Time at which it was made.
    #[cfg_attr(test, schemars(with = "Time"))]
    time: String,
    /// Limit that it is for.
    #[cfg_attr(test, schemars(with = "LimitName"))]
    limit: &'static str,
    /// Used amount at that time.
    used: u64,
    /// Maximum amount.
    most: u64,
    /// Forecast time of exhaustion.
    #[cfg_attr(test, schemars(with = "Time"))]
    exhausted: String,
    /// Earliest time of exhaustion that the counts allowed.
    #[cfg_attr(test, schemars(with = "Time"))]
    earliest: String,
    /// Latest time of exhaustion that the counts allowed; `null` if they also allowed no growth.
    #[cfg_attr(test, schemars(with = "Option<Time>"))]
    latest: Option<String>,
}

/// Counts of a group at one time.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct CoursePointObject {
    /// Time of the count.
    #[cfg_attr(test, schemars(with = "Time"))]
    time: String,
    /// Number of sockets that the program had not closed.
    count: u64,
    /// Number of stuck sockets among them.
    stuck: u64,
    /// Number of enters since the previous point; 0 at the first.
    entered: u64,
    /// Number of exits since the previous point; 0 at the first.
    left: u64,
    /// Number of open descriptors of the owner; `null` if they were not read since the previous point.
    fds_open: Option<u64>,
    /// Numbers of sockets by age: younger than 1 s, then of at least 1 s, 3 s, 10 s, 30 s, 1 min, 3 min, 10 min, 30 min, 1 h, 3 h,
    /// 12 h and 24 h. Before the incident was detected they contain only the sockets that remained until then; `null` if unknown.
    ages: Option<AgeCounts>,
}

/// Writes the object.
///
/// # Errors
///
/// If it cannot be written as JSON.
pub(super) fn write(page: &ReportPage<'_>, to: &mut Vec<u8>) -> io::Result<()> {
    let report = page.report;
    let time = &|at: BootTime| schema::time(page.anchor.wall(at));
    let object = ReportObject {
        schema_version: SCHEMA_VERSION,
        time: time(report.at),
        host: report.host.as_deref(),
        closewait: page.version,
        watched_seconds: report.watched.map(schema::seconds),
        stuck_after_seconds: schema::seconds(report.stuck_after),
        totals: report.totals.into(),
        untracked: report.untracked,
        unseen: report.unseen.as_deref(),
        groups: report.groups.iter().map(|group| ReportedObject::new(group, report.at, time)).collect(),
        more_groups: report.more,
        resolved: report.resolved.iter().map(|resolved| ResolvedObject::new(resolved, time)).collect(),
    };
    serde_json::to_writer(&mut *to, &object)?;
    to.push(b'\n');
    Ok(())
}

impl<'a> ReportedObject<'a> {
    fn new(group: &'a ReportedGroup, at: BootTime, time: &impl Fn(BootTime) -> String) -> Self {
        let ReportedGroup { piles_up_since, stuck, pileup, course } = group;
        Self {
            piles_up_since: piles_up_since.map(time),
            stuck: *stuck,
            pileup: PileupObject::new(pileup, at, time),
            course: course.as_ref().map(|course| CourseObject::new(course, time)),
        }
    }
}

impl<'a> ResolvedObject<'a> {
    fn new(resolved: &'a ResolvedIncident, time: &impl Fn(BootTime) -> String) -> Self {
        let ResolvedIncident { at, end, course } = resolved;
        Self { time: time(*at), end: PileupEndObject::new(end, *at, time), course: CourseObject::new(course, time) }
    }
}

impl CourseObject {
    fn new(course: &IncidentCourse, time: &impl Fn(BootTime) -> String) -> Self {
        let IncidentCourse { id: _, milestones, forecast, points } = course;
        let first = |forecast: FirstForecast| {
            let FirstForecast { made_at, limit, used, most, exhausted_at, earliest, latest } = forecast;
            FirstForecastObject {
                time: time(made_at),
                limit: limit.name(),
                used,
                most,
                exhausted: time(exhausted_at),
                earliest: time(earliest),
                latest: latest.map(time),
            }
        };
        let point = |point: &CoursePoint| {
            let CoursePoint { at, count, stuck, entered, left, descriptors: fds_open, ages } = *point;
            CoursePointObject { time: time(at), count, stuck, entered, left, fds_open, ages }
        };
        Self {
            milestones: milestones.iter().map(|one| MilestoneObject::new(one, time)).collect(),
            forecast: forecast.map(first),
            points: points.iter().map(point).collect(),
        }
    }
}

impl MilestoneObject {
    fn new(milestone: &Milestone, time: &impl Fn(BootTime) -> String) -> Self {
        let Milestone { at, kind, count, used } = *milestone;
        let of_kind = match kind {
            MilestoneKind::LimitNear(limit) | MilestoneKind::LimitReached(limit) => Some(limit),
            MilestoneKind::LastClosed
            | MilestoneKind::FirstStuck
            | MilestoneKind::FirstUnaccepted
            | MilestoneKind::Detected
            | MilestoneKind::Doubled
            | MilestoneKind::Resolved(_) => used.map(|(limit, ..)| limit),
        };
        let how = if let MilestoneKind::Resolved(how) = kind { Some(Recovery::name(how)) } else { None };
        let (used, most) = used.map_or((None, None), |(_, used, most)| (Some(used), Some(most)));
        Self { time: time(at), kind: kind.name(), limit: of_kind.map(|limit| limit.name()), how, count, used, most }
    }
}
