use super::*;
use crate::model::{Certainty, Class};
use crate::{flow::growth::Aged, model::Host, testing::pileup};

const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> BootTime {
    BootTime(seconds * SECOND)
}

/// Returns a count at `seconds`: 10 sockets enter each second, and 1 leaves.
fn point(seconds: u64) -> Point {
    let stuck = Aged { present: 9 * seconds.saturating_sub(60), left: 0 };
    Point {
        at: at(seconds),
        present: 9 * seconds,
        mature: stuck,
        stuck,
        entered: 10 * seconds,
        left: seconds,
        ended: 0,
    }
}

fn seen(count: u64) -> Inspected {
    Inspected {
        id: id(),
        count,
        onset: at(10),
        forecast: None,
        last_closed: Some(at(9)),
        first_unaccepted: None,
        owner: Some(7),
        entries: Vec::new(),
        began: at(1),
    }
}

fn id() -> IncidentId {
    IncidentId::new(&Host::default(), &pileup(Class::Hung, Certainty::High, 1).group, at(10))
}

fn forecast(used: u64, left: u64) -> Forecast {
    let left = Duration::from_secs(left);
    let (limit, read_at) = (Limit::Descriptors, at(0));
    Forecast { limit, used, most: 1024, read_at, left, at_least: left, at_most: Some(left * 2) }
}

fn kinds(course: &IncidentCourse) -> Vec<MilestoneKind> {
    course.milestones.iter().map(|milestone| milestone.kind).collect()
}

#[test]
fn a_long_incident_keeps_a_bounded_number_of_points_and_all_counts() {
    let mut log = CourseLog::open(at(20), &seen(180), &[point(10), point(12)]);
    for number in 7..50_000 {
        log.push(&point(number * 2));
        assert!(log.points.len() <= MAX_COURSE_POINTS, "{number}");
    }
    let course = log.course(id(), Some(&point(99_999)));
    assert!(course.points.len() > MAX_COURSE_POINTS / 3, "{}", course.points.len());
    let (first, last) = (course.points[0], *course.points.last().unwrap());
    assert_eq!((first.at, first.entered, first.left, last.at, last.count), (at(10), 0, 0, at(99_999), 9 * 99_999));
    assert!(course.points.windows(2).all(|pair| pair[0].at < pair[1].at));
    // Merged points lose no entry and no exit.
    let sum = |of: fn(&CoursePoint) -> u64| course.points.iter().map(of).sum::<u64>();
    assert_eq!((sum(|point| point.entered), sum(|point| point.left)), (10 * 99_989, 99_989));
    let gaps: Vec<u64> = course.points.windows(2).map(|pair| pair[1].at.since(pair[0].at).as_secs()).collect();
    let inner = &gaps[1..gaps.len() - 2];
    assert!(inner.iter().max().unwrap() <= &(4 * inner.iter().min().unwrap()), "{gaps:?}");
}

#[test]
fn a_short_incident_keeps_every_count() {
    let mut log = CourseLog::open(at(20), &seen(180), &[point(10), point(12)]);
    (7..40).for_each(|number| log.push(&point(number * 2)));
    let times: Vec<u64> = log.course(id(), None).points.iter().map(|point| point.at.0 / SECOND).collect();
    assert_eq!(times, (5..40).map(|number| number * 2).collect::<Vec<_>>());
}

#[test]
fn milestones_are_in_order_and_unknown_ones_are_missing() {
    use MilestoneKind::{
        Detected, Doubled, FirstStuck, FirstUnaccepted, LastClosed, LimitNear, LimitReached, Resolved,
    };
    let limit = Limit::Descriptors;
    let mut log = CourseLog::open(at(20), &Inspected { forecast: Some(forecast(200, 400)), ..seen(180) }, &[point(12)]);
    let later = |used, left| Inspected {
        forecast: Some(forecast(used, left)),
        first_unaccepted: Some(at(33)),
        ..seen(used - 20)
    };
    log.inspected(at(30), &Inspected { first_unaccepted: Some(at(29)), ..later(380, 200) });
    log.reached(at(30), Doubled, &later(380, 200));
    log.reached(at(35), LimitNear(limit), &later(400, 100));
    log.inspected(at(40), &later(1024, 0));
    log.reached(at(40), LimitReached(limit), &later(1024, 0));
    let course = log.course(id(), None);
    let expected = [LastClosed, FirstStuck, Detected, Doubled, FirstUnaccepted, LimitNear(limit), LimitReached(limit)];
    assert_eq!(kinds(&course), expected);
    assert!(course.milestones.is_sorted_by_key(|milestone| milestone.at));
    assert_eq!(course.milestones[6].used, Some((limit, 1024, 1024)));
    // The first forecast stays, whatever came about.
    let first = course.forecast.unwrap();
    assert_eq!((first.made_at, first.exhausted_at, first.latest), (at(20), at(420), Some(at(820))));

    // A socket that was accepted later is no milestone, and neither is the latest close of a program that still closes.
    let mut log = CourseLog::open(at(20), &Inspected { last_closed: Some(at(19)), ..seen(180) }, &[point(12)]);
    log.inspected(at(25), &Inspected { first_unaccepted: Some(at(24)), ..seen(190) });
    log.inspected(at(30), &seen(200));
    assert_eq!(kinds(&log.course(id(), None)), [FirstStuck, Detected]);
    for number in 0..1_000 {
        log.reached(at(40 + number), Doubled, &seen(200));
    }
    assert_eq!(log.course(id(), None).milestones.len(), MAX_LOGGED_MILESTONES);
    let active = Active::open(at(20), 1, &seen(180));
    let course = log.ended(&active, &point(9_000), Recovery::Drained);
    assert_eq!(kinds(&course).last(), Some(&Resolved(Recovery::Drained)));
}

#[test]
fn the_chart_begins_before_the_first_count_with_the_sockets_that_remained() {
    // 20 per second enter from second 10 on; the first count is in second 18.
    let entries: Vec<BootTime> = (0..200).map(|number| BootTime(10 * SECOND + number * SECOND / 20)).collect();
    let first = Point { at: at(18), present: 161, entered: 1_161, left: 1_000, ..Point::default() };
    let log = CourseLog::open(at(20), &Inspected { entries: entries.clone(), ..seen(200) }, &[first]);
    let course = log.course(id(), None);
    assert_eq!(course.points.len(), MAX_EARLIER_POINTS + 2);
    assert_eq!((course.points[0].at, course.points[0].count), (at(9), 0));
    assert!(course.points.is_sorted_by_key(|point| (point.at, point.count)));
    let entered: u64 = course.points.iter().map(|point| point.entered).sum();
    assert_eq!((entered, course.points.last().unwrap().count), (161, 161));
    // Every point has the ages of its sockets: in second 18, those of 8 s, 5 s and so on.
    assert!(
        course
            .points
            .iter()
            .all(|point| point.ages.unwrap().iter().map(|count| u64::from(*count)).sum::<u64>() == point.count)
    );
    assert_eq!(course.points.last().unwrap().ages.unwrap()[..4], [20, 40, 101, 0]);
    // The agent knows nothing of the time before its start.
    let log = CourseLog::open(at(20), &Inspected { entries, began: at(14), ..seen(200) }, &[first]);
    assert_eq!(log.course(id(), None).points[0].at, at(14));
}

#[test]
fn descriptors_are_logged_once_for_each_inspection_and_survive_a_merge() {
    let mut log = CourseLog::open(at(20), &seen(180), &[point(10)]);
    for number in 6..400 {
        log.push(&point(number * 2));
        log.descriptors(at(number / 10 * 20), number);
    }
    let course = log.course(id(), None);
    let known: Vec<u64> = course.points.iter().filter_map(|point| point.descriptors).collect();
    assert!(course.points.len() <= MAX_COURSE_POINTS && known.len() >= 30, "{known:?}");
    assert!(known.is_sorted_by(|one, next| one < next), "{known:?}");
}

#[test]
fn each_count_has_the_ages_of_its_sockets() {
    let mut log = CourseLog::open(at(20), &seen(180), &[point(10)]);
    log.present(Duration::from_millis(999));
    log.present(Duration::from_secs(1));
    log.present(Duration::from_hours(30));
    log.push(&point(22));
    log.push(&point(24));
    let course = log.course(id(), Some(&point(25)));
    let ages: Vec<_> = course.points.iter().map(|point| point.ages.map(|ages| (ages[0], ages[1], ages[12]))).collect();
    assert_eq!(ages[1..], [Some((1, 1, 1)), Some((0, 0, 0)), None], "the last point is no count");
}
