//! JSON object of `closewait report`.

use std::io;

use serde::Serialize;

use super::ReportPage;
use crate::sink::schema::{self, PileupEndObject, PileupObject, SCHEMA_VERSION, TotalsObject};
use closewait_engine::{
    model::{
        CoursePoint, FirstForecast, IncidentCourse, Milestone, MilestoneKind, Recovery, ReportedGroup, ResolvedIncident,
    },
    time::BootTime,
};

/// Whole report, in one object.
#[derive(Serialize)]
struct ReportObject<'a> {
    schema_version: u32,
    time: String,
    host: Option<&'a str>,
    closewait: &'a str,
    watched_seconds: Option<f64>,
    stuck_after_seconds: f64,
    totals: TotalsObject,
    untracked: u64,
    unseen: Option<&'a str>,
    groups: Vec<ReportedObject<'a>>,
    more_groups: u64,
    resolved: Vec<ResolvedObject<'a>>,
}

#[derive(Serialize)]
struct ReportedObject<'a> {
    piles_up_since: Option<String>,
    stuck: u64,
    #[serde(flatten)]
    pileup: PileupObject<'a>,
    course: Option<CourseObject>,
}

#[derive(Serialize)]
struct ResolvedObject<'a> {
    time: String,
    #[serde(flatten)]
    end: PileupEndObject<'a>,
    course: CourseObject,
}

#[derive(Serialize)]
struct CourseObject {
    milestones: Vec<MilestoneObject>,
    forecast: Option<FirstForecastObject>,
    points: Vec<CoursePointObject>,
}

#[derive(Serialize)]
struct MilestoneObject {
    time: String,
    kind: &'static str,
    limit: Option<&'static str>,
    how: Option<&'static str>,
    count: Option<u64>,
    used: Option<u64>,
    most: Option<u64>,
}

#[derive(Serialize)]
struct FirstForecastObject {
    time: String,
    limit: &'static str,
    used: u64,
    most: u64,
    exhausted: String,
    earliest: String,
    latest: Option<String>,
}

#[derive(Serialize)]
struct CoursePointObject {
    time: String,
    count: u64,
    stuck: u64,
    entered: u64,
    left: u64,
    fds_open: Option<u64>,
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
            let CoursePoint { at, count, stuck, entered, left, descriptors: fds_open } = *point;
            CoursePointObject { time: time(at), count, stuck, entered, left, fds_open }
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
