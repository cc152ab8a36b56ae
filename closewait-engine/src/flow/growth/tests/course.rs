//! Courses of incidents that are played through the whole engine.

use super::*;
use crate::{
    model::{IncidentCourse, MilestoneKind, ResolvedIncident},
    snapshot::query::ReportContent,
};

const END: u64 = 120_000;
/// Time at which the process of [`hang`] has no descriptor for another socket.
const FULL: u64 = 80_200;

fn at(millis: u64) -> BootTime {
    BootTime((1_000_000 + millis) * MILLI)
}

/// Returns the course of the only open incident, and the resolved incidents, as of `millis`.
fn courses(reports: &Reports, millis: u64) -> (Option<IncidentCourse>, Vec<ResolvedIncident>) {
    let engine = reports.engine.as_ref().unwrap();
    let report = engine.report_of(at(millis), &Filter::default(), ReportContent::Courses);
    let mut courses: Vec<_> = report.groups.into_iter().filter_map(|group| group.course).collect();
    assert!(courses.len() <= 1, "{courses:?}");
    (courses.pop(), report.resolved)
}

fn time_of(course: &IncidentCourse, kind: MilestoneKind) -> Option<u64> {
    let milestone = course.milestones.iter().find(|milestone| milestone.kind == kind)?;
    Some(milestone.at.0 / MILLI - 1_000_000)
}

#[test]
fn the_course_of_a_hang_has_what_was_forecast_and_what_came_about() {
    let reports = play(&hang(FULL), END);
    let (course, resolved) = courses(&reports, END);
    let course = course.unwrap();
    assert_eq!(resolved, []);
    assert_eq!(course.id, reports.pileups[0].1.incident.unwrap().id);
    assert_eq!(time_of(&course, MilestoneKind::LastClosed), Some(29_980));
    assert_eq!(time_of(&course, MilestoneKind::FirstStuck), Some(30_000));
    assert_eq!(time_of(&course, MilestoneKind::Detected), Some(reports.pileups[0].0));
    // Milestones are the events that a stream has.
    let doubled = course.milestones.iter().filter(|milestone| milestone.kind == MilestoneKind::Doubled).count();
    assert!(doubled >= 1 && course.milestones.is_sorted_by_key(|milestone| milestone.at), "{course:#?}");
    let (_, reached) = reports.pileups.iter().find(|(_, pileup)| state(pileup) == IncidentState::Exhausted).unwrap();
    let milestone = course.milestones.iter().find(|one| one.kind == MilestoneKind::LimitReached(Limit::Descriptors));
    let milestone = milestone.unwrap();
    assert_eq!((milestone.count, milestone.used.unwrap().1), (Some(reached.count), reached.forecast.unwrap().used));
    let forecast = course.forecast.unwrap();
    assert_eq!(forecast.made_at, at(reports.pileups[0].0));
    let error = forecast.exhausted_at.0.abs_diff(milestone.at.0) / MILLI;
    assert!(error < 7_000, "forecast {forecast:?}, came about {milestone:?}");
    // The chart begins with the healthy time, and ends now.
    let (first, last) = (course.points[0], *course.points.last().unwrap());
    assert!((28_000..30_000).contains(&(first.at.0 / MILLI - 1_000_000)) && first.count == 0, "{first:?}");
    assert_eq!((last.at, last.count), (at(END), 1004));
    assert!(course.points.is_sorted_by_key(|point| point.count), "{:?}", course.points);
    assert!(course.points.iter().any(|point| point.descriptors.is_some()));
}

#[test]
fn only_a_report_that_asks_for_courses_has_them() {
    let reports = play(&hang(FULL), END);
    let engine = reports.engine.as_ref().unwrap();
    assert!(engine.report(at(END)).groups.iter().all(|group| group.course.is_none()));
}

#[test]
fn the_same_input_gives_the_same_course() {
    let one = || courses(&play(&hang(FULL), END), END);
    assert_eq!(one(), one());
}

#[test]
fn a_resolved_incident_keeps_its_course() {
    let mut lives = hang(90_000);
    for life in &mut lives {
        life.leaves = life.leaves.min(90_000);
    }
    let reports = play(&lives, END);
    let (course, resolved) = courses(&reports, END);
    assert_eq!((course, resolved.len()), (None, 1));
    let ResolvedIncident { at: ended, end, course } = &resolved[0];
    assert_eq!((ended, end), (&at(reports.ends[0].0), &reports.ends[0].1));
    assert_eq!(course.id, end.id);
    assert_eq!(time_of(course, MilestoneKind::Resolved(Recovery::Drained)), Some(reports.ends[0].0));
    assert_eq!(course.milestones.last().unwrap().count, Some(0));
    let most = course.points.iter().map(|point| point.count).max().unwrap();
    assert!(most >= 1150 && course.points.last().unwrap().count == 0, "{most}");
}

#[test]
fn the_engine_keeps_the_latest_resolved_incidents() {
    // Each port hangs for 20 s, one after the other.
    let lives: Vec<Life> = (0..20_u16)
        .flat_map(|number| {
            let begin = u64::from(number) * 30_000;
            let healthy = steady(8000 + number, begin, begin + 5_000, 50, 30);
            let mut stuck = steady(8000 + number, begin + 5_000, begin + 25_000, 50, NEVER);
            stuck.iter_mut().for_each(|life| life.leaves = begin + 25_000);
            [healthy, stuck].concat()
        })
        .collect();
    let reports = play(&lives, 700_000);
    let (_, resolved) = courses(&reports, 700_000);
    assert_eq!((reports.ends.len(), resolved.len()), (20, 16));
    let ports: Vec<_> = resolved.iter().filter_map(|one| one.end.group.local_port).collect();
    assert_eq!(ports, (8004..8020).collect::<Vec<_>>());
    let engine = reports.engine.as_ref().unwrap();
    let of = |filter: Filter| engine.report_of(at(700_000), &filter, ReportContent::Courses).resolved.len();
    assert_eq!(of(Filter { ports: vec![8010], ..Filter::default() }), 1);
    assert_eq!(of(Filter { pids: vec![7], ..Filter::default() }), 0);
    assert_eq!(of(Filter { verdicts: vec![Class::Pool], ..Filter::default() }), 0);
}
