//! Log of an open incident, from which its course is made.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Active, Inspected, Point};
use crate::{
    model::{
        AGE_BOUNDS, AgeCounts, CoursePoint, FirstForecast, Forecast, IncidentCourse, IncidentId, Limit, Milestone,
        MilestoneKind, Recovery, count_age,
    },
    time::BootTime,
};

/// Maximum number of points of a course. With more, neighbors are merged, so that the points of a long incident are further apart.
const MAX_COURSE_POINTS: usize = 96;
/// Maximum number of logged milestones. A count of sockets has 32 bits, and cannot double more often.
const MAX_LOGGED_MILESTONES: usize = 48;
/// Maximum number of points before the first count, made from the entries of the sockets.
const MAX_EARLIER_POINTS: usize = 16;
/// Maximum delay of the last close behind the onset, as a divisor of the time until detection: a program that closed later has
/// not stopped to close.
const STOPPED_DIVISOR: u32 = 4;

/// Point of a course, with counts since the flow began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LoggedPoint {
    at: BootTime,
    count: u64,
    stuck: u64,
    entered: u64,
    left: u64,
    /// Open descriptors of the owner at an inspection after the previous point.
    descriptors: Option<u64>,
    ages: Option<AgeCounts>,
}

impl LoggedPoint {
    const fn new(point: &Point, ages: Option<AgeCounts>) -> Self {
        let Point { at, present: count, stuck, entered, left, .. } = *point;
        Self { at, count, stuck: stuck.present, entered, left, descriptors: None, ages }
    }
}

/// Log of an open incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CourseLog {
    points: Vec<LoggedPoint>,
    /// Minimum interval of points.
    interval: Duration,
    milestones: Vec<Milestone>,
    last_closed: Option<BootTime>,
    first_unaccepted: Option<Milestone>,
    forecast: Option<FirstForecast>,
    /// Process whose descriptors are logged: the owner of most sockets at the last report.
    owner: Option<u32>,
    /// Time of the inspection of which the descriptors were logged last.
    inspected: Option<BootTime>,
    /// Ages of the sockets of the count that is in progress.
    counted: AgeCounts,
}

impl CourseLog {
    /// Begins the log of an incident that is detected at `at`. `history` has the counts before.
    pub(super) fn open(at: BootTime, seen: &Inspected, history: &[Point]) -> Self {
        let Inspected { count, onset, last_closed, forecast, .. } = *seen;
        let stopped = |closed: &BootTime| closed.since(onset) <= at.since(onset) / STOPPED_DIVISOR;
        let mut log = Self {
            points: Vec::new(),
            interval: Duration::ZERO,
            milestones: vec![
                Milestone { at: onset, kind: MilestoneKind::FirstStuck, count: None, used: None },
                Milestone { at, kind: MilestoneKind::Detected, count: Some(count), used: used(forecast) },
            ],
            last_closed: last_closed.filter(stopped),
            first_unaccepted: None,
            forecast: None,
            owner: None,
            inspected: None,
            counted: AgeCounts::default(),
        };
        log.points.extend(history.first().map(|first| earlier(first, seen)).unwrap_or_default());
        history.iter().for_each(|point| log.add(LoggedPoint::new(point, Some(ages(&seen.entries, point.at)))));
        log.inspected(at, seen);
        if let Some(forecast) = forecast.filter(|forecast| forecast.is_reached()) {
            log.reached(at, MilestoneKind::LimitReached(forecast.limit), seen);
        }
        log
    }

    /// Counts the age of a socket for the next [`CourseLog::push`].
    pub(crate) fn present(&mut self, age: Duration) {
        count_age(&mut self.counted, age, 1);
    }

    /// Adds a count.
    pub(super) fn push(&mut self, point: &Point) {
        let ages = std::mem::take(&mut self.counted);
        self.add(LoggedPoint::new(point, Some(ages)));
    }

    fn add(&mut self, point: LoggedPoint) {
        match self.points.as_mut_slice() {
            [.., before, last] if point.at.since(before.at) < self.interval => {
                *last = LoggedPoint { descriptors: last.descriptors, ..point };
            }
            [.., last] if last.at >= point.at => {}
            _ => self.points.push(point),
        }
        if self.points.len() > MAX_COURSE_POINTS {
            self.merge();
        }
    }

    /// Merges neighbors, except for the first and the last point.
    fn merge(&mut self) {
        let last = self.points.len() - 1;
        let mut open = None;
        let mut at = 0;
        self.points.retain_mut(|point| {
            let keeps = at % 2 == 0 || at == last;
            at += 1;
            if keeps {
                point.descriptors = point.descriptors.or(open.take());
            } else {
                open = point.descriptors;
            }
            keeps
        });
        let whole = self.points.first().zip(self.points.last()).map(|(first, last)| last.at.since(first.at));
        let most = u32::try_from(MAX_COURSE_POINTS).unwrap_or(u32::MAX);
        self.interval = self.interval.max(whole.unwrap_or_default() * 2 / most);
    }

    /// Adds the facts of an inspection at `at`.
    pub(super) fn inspected(&mut self, at: BootTime, seen: &Inspected) {
        let Inspected { forecast, first_unaccepted, owner, .. } = *seen;
        self.owner = owner;
        // A socket that was accepted since is none that no program accepts.
        self.first_unaccepted =
            first_unaccepted.map(|at| Milestone { at, kind: MilestoneKind::FirstUnaccepted, count: None, used: None });
        let ahead = forecast.filter(|forecast| !forecast.is_reached());
        if let Some(Forecast { limit, used, most, left, at_least, at_most, .. }) = ahead {
            self.forecast.get_or_insert(FirstForecast {
                made_at: at,
                limit,
                used,
                most,
                exhausted_at: at + left,
                earliest: at + at_least,
                latest: at_most.map(|most| at + most),
            });
        }
    }

    /// Adds a milestone that an inspection at `at` has found. That of a limit that was reached at the opening is there already.
    pub(super) fn reached(&mut self, at: BootTime, kind: MilestoneKind, seen: &Inspected) {
        let is_limit = matches!(kind, MilestoneKind::LimitReached(_));
        if is_limit && self.milestones.iter().any(|milestone| milestone.kind == kind) {
            return;
        }
        if self.milestones.len() < MAX_LOGGED_MILESTONES {
            self.milestones.push(Milestone { at, kind, count: Some(seen.count), used: used(seen.forecast) });
        }
    }

    /// Returns the process whose descriptors [`CourseLog::descriptors`] logs.
    pub(crate) fn owner(&self) -> Option<u32> {
        self.owner
    }

    /// Adds the open descriptors of the owner as of an inspection at `at`.
    pub(crate) fn descriptors(&mut self, at: BootTime, open: u64) {
        if self.inspected.is_none_or(|last| last < at)
            && let Some(newest) = self.points.last_mut()
        {
            self.inspected = Some(at);
            newest.descriptors = Some(open);
        }
    }

    /// Returns the course of an incident until `now`, with the counts at that time.
    pub(crate) fn course(&self, id: IncidentId, now: Option<&Point>) -> IncidentCourse {
        let mut milestones = self.milestones.clone();
        let closed = |at| Milestone { at, kind: MilestoneKind::LastClosed, count: None, used: None };
        milestones.extend(self.last_closed.map(closed));
        milestones.extend(self.first_unaccepted);
        milestones.sort_by_key(|milestone| milestone.at);
        let newest = self.points.last().map(|point| point.at);
        let now = now.filter(|now| newest.is_none_or(|newest| newest < now.at)).map(|now| LoggedPoint::new(now, None));
        let mut before = None;
        let points = self.points.iter().copied().chain(now).map(|point| {
            let LoggedPoint { at, count, stuck, entered, left, descriptors, ages } = point;
            let before = before.replace(point).unwrap_or(point);
            let (entered, left) = (entered.saturating_sub(before.entered), left.saturating_sub(before.left));
            CoursePoint { at, count, stuck, entered, left, descriptors, ages }
        });
        IncidentCourse { id, points: points.collect(), milestones, forecast: self.forecast }
    }

    /// Returns the course of an incident that ended at `at`.
    pub(super) fn ended(mut self, active: &Active, at: &Point, how: Recovery) -> IncidentCourse {
        self.milestones.push(Milestone {
            at: at.at,
            kind: MilestoneKind::Resolved(how),
            count: Some(at.present),
            used: None,
        });
        self.course(active.id, None)
    }
}

/// Returns the amount of a limit that is used.
fn used(forecast: Option<Forecast>) -> Option<(Limit, u64, u64)> {
    forecast.map(|Forecast { limit, used, most, .. }| (limit, used, most))
}

/// Returns points between the onset and the first count, from the entries of the sockets that are there now: a flow is counted
/// only once it has mature sockets. Sockets that left before the first count are missing.
fn earlier(first: &Point, seen: &Inspected) -> Vec<LoggedPoint> {
    let Inspected { onset, began, entries, .. } = seen;
    if first.at <= *onset {
        return Vec::new();
    }
    let lead = first.at.since(*onset) / 8;
    let start = (*onset - lead).max(*began);
    let steps = u32::try_from(MAX_EARLIER_POINTS).unwrap_or(u32::MAX);
    let step = first.at.since(start) / (steps + 1);
    let by = |at: BootTime| entries.partition_point(|entry| *entry <= at) as u64;
    let times = (0..=steps).map(|number| start + step * number).filter(|at| *at < first.at);
    let point = |at: BootTime| LoggedPoint {
        at,
        count: by(at),
        stuck: 0,
        entered: first.entered.saturating_sub(by(first.at) - by(at)),
        left: first.left,
        descriptors: None,
        ages: Some(ages(entries, at)),
    };
    let mut points: Vec<_> = times.map(point).collect();
    points.dedup_by_key(|point| point.at);
    points
}

/// Returns the ages at `at` of the sockets that entered until then. `entries` are in ascending order.
fn ages(entries: &[BootTime], at: BootTime) -> AgeCounts {
    let mut ages = AgeCounts::default();
    let mut younger = entries.partition_point(|entry| *entry <= at);
    let bounds =
        AGE_BOUNDS.iter().map(|bound| entries.partition_point(|entry| *entry <= at && at.since(*entry) >= *bound));
    for (count, older) in ages.iter_mut().zip(bounds.chain([0])) {
        *count = u32::try_from(younger - older).unwrap_or(u32::MAX);
        younger = older;
    }
    ages
}

#[cfg(test)]
mod tests;
