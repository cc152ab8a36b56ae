//! Detection of growth, which decides whether a flow has an incident.
//!
//! Only *mature* sockets count: those older than the sockets of the flow get in normal operation. A program that keeps up has no
//! mature sockets, for any number of entries and exits. An incident begins if the number of mature sockets grows in three windows
//! in a row, by far more than the number of exits. Windows last from seconds, for a hang, to a quarter of an hour, for a leak of
//! one socket per minute. Without growth, an incident begins if a limit is reached.

mod course_log;
mod evidence;
mod exhausted;
mod habit;
mod members;
mod series;

use std::time::Duration;

pub(crate) use self::members::Members;
pub(crate) use self::series::{Aged, Point};
use self::series::{Series, slope};
pub(crate) use self::{course_log::CourseLog, habit::Habit};
use serde::{Deserialize, Serialize};

use crate::{
    model::{
        Forecast, IncidentCourse, IncidentId, IncidentState, IncidentStatus, LastDiagnosis, Limit, MilestoneKind,
        Recovery, Shape, Slope,
    },
    snapshot::urgency::NEAR_LIMIT,
    text::harmless_field,
    time::BootTime,
};

/// Minimum growth of an incident, sockets.
const MIN_GROWTH: u64 = 10;
/// Minimum growth of an incident, as a multiple of the standard deviation of exits.
const SIGMAS: f64 = 4.0;
/// Number of consecutive windows with at most a quarter of the mature sockets after which an incident ends.
const LOW_WINDOWS: u8 = 3;
/// Time without growth after which an incident is level.
const LEVEL_PERIOD: Duration = Duration::from_secs(600);
/// Shortest interval between two inspections of an incident for its limits.
const MIN_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Longest interval between two inspections of an incident for its limits, as long as that of scans for owners.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum relative error of a slope that a forecast may use.
const FITS: f64 = 0.25;
/// Minimum slope of the second half, as a multiple of the first half's, at which growth accelerates.
const ACCELERATES: f64 = 1.5;

/// Limits, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct LimitSet(u8);

impl LimitSet {
    fn insert(&mut self, limit: Limit) {
        self.0 |= 1 << limit as u8;
    }

    fn contains(self, limit: Limit) -> bool {
        self.0 & (1 << limit as u8) != 0
    }
}

/// Reported incident.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Active {
    id: IncidentId,
    began: BootTime,
    /// Entry of the oldest socket at the first report.
    onset: BootTime,
    /// Highest number of mature sockets.
    most: u64,
    /// Time of the first window with `most` mature sockets.
    most_at: BootTime,
    /// Highest number of sockets.
    most_present: u64,
    /// Exits before the first window with `most_present` sockets, and those of them because the process ended; `None` before the
    /// second window.
    before_most: Option<(u64, u64)>,
    /// Number of sockets at the first report, or at the last report of a doubling.
    reported: u64,
    /// Limits that were reported as near.
    near: LimitSet,
    /// Limits that were reported as reached.
    reached: LimitSet,
    /// Whether a limit was reached at the last inspection.
    exhausted: bool,
    /// Time of the next inspection for the limits.
    next_check: BootTime,
    /// Number of consecutive windows with few mature sockets.
    low: u8,
}

impl Active {
    /// Returns an incident that begins at `at`.
    fn open(at: BootTime, mature: u64, seen: &Inspected) -> Self {
        let Inspected { id, count, onset, forecast, .. } = *seen;
        let mut near = LimitSet::default();
        // A limit that is reached already gets a report of its own, after the next inspection.
        if let Some(forecast) = forecast.filter(|forecast| forecast.left <= NEAR_LIMIT) {
            near.insert(forecast.limit);
        }
        let mut active = Self {
            id,
            began: at,
            onset,
            most: mature,
            most_at: at,
            most_present: count,
            before_most: None,
            reported: count,
            near,
            reached: LimitSet::default(),
            exhausted: false,
            next_check: at,
            low: 0,
        };
        active.schedule_check(at, forecast);
        active
    }

    /// Updates the incident after an inspection at `at`. Returns the milestones that it has reached, which have to be reported.
    fn inspected(&mut self, at: BootTime, seen: &Inspected) -> [Option<MilestoneKind>; 2] {
        let Inspected { count, forecast, .. } = *seen;
        self.schedule_check(at, forecast);
        self.exhausted = forecast.is_some_and(|forecast| forecast.is_reached());
        let doubled = count >= self.reported.saturating_mul(2);
        if doubled {
            self.reported = count;
        }
        let is_news = |set: &mut LimitSet, limit: Limit| {
            let is_new = !set.contains(limit);
            set.insert(limit);
            is_new
        };
        let limit = forecast.and_then(|Forecast { limit, left, .. }| match (self.exhausted, left <= NEAR_LIMIT) {
            (true, _) => is_news(&mut self.reached, limit).then_some(MilestoneKind::LimitReached(limit)),
            (false, true) => is_news(&mut self.near, limit).then_some(MilestoneKind::LimitNear(limit)),
            (false, false) => None,
        });
        [doubled.then_some(MilestoneKind::Doubled), limit]
    }

    /// Returns the state after the first report.
    fn state(&self) -> IncidentState {
        if self.exhausted { IncidentState::Exhausted } else { IncidentState::Updated }
    }

    /// Returns the reason why nearly all sockets have exited at `point`.
    fn drained(&self, point: &Point) -> Recovery {
        let (left, ended) = self.before_most.unwrap_or_default();
        if (point.ended - ended) * 2 > point.left - left { Recovery::ProcessEnded } else { Recovery::Drained }
    }

    /// Sets the time of the next inspection: when the limit will be near, or reached.
    fn schedule_check(&mut self, at: BootTime, forecast: Option<Forecast>) {
        let until = forecast.filter(|forecast| !forecast.is_reached() || !self.reached.contains(forecast.limit));
        let until = until.map(|Forecast { left, .. }| if left > NEAR_LIMIT { left - NEAR_LIMIT } else { left });
        let until = until.unwrap_or(MAX_CHECK_INTERVAL);
        self.next_check = at + until.clamp(MIN_CHECK_INTERVAL, MAX_CHECK_INTERVAL);
    }
}

/// Facts about an incident from one inspection.
#[derive(Clone, Debug)]
pub(crate) struct Inspected {
    /// Identifier of an incident that begins now.
    pub(crate) id: IncidentId,
    /// Number of sockets.
    pub(crate) count: u64,
    /// Entry of the oldest socket of the growth.
    pub(crate) onset: BootTime,
    /// Forecast for the limit that is exhausted first.
    pub(crate) forecast: Option<Forecast>,
    /// Latest exit that the program caused.
    pub(crate) last_closed: Option<BootTime>,
    /// Entry of the oldest socket that no program has accepted.
    pub(crate) first_unaccepted: Option<BootTime>,
    /// Owner of most sockets of the growth.
    pub(crate) owner: Option<u32>,
    /// Entries of the sockets in ascending order; empty during an incident.
    pub(crate) entries: Vec<BootTime>,
    /// Start of the agent.
    pub(crate) began: BootTime,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum GrowthState {
    Quiet,
    /// Growth, or an incident, that the next inspection confirms and reports.
    Suspected(Option<Active>),
    Active(Active),
    /// Ended incident, with the number of mature sockets that remained.
    Level(u64),
}

/// Incident that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndedIncident {
    pub(crate) id: IncidentId,
    pub(crate) began: BootTime,
    pub(crate) onset: BootTime,
    /// Last report, if there was one.
    pub(crate) last: Option<Box<LastReport>>,
    pub(crate) count: u64,
    pub(crate) most: u64,
    pub(crate) how: Recovery,
    /// Course; `None` if there were too many incidents at the same time.
    pub(crate) course: Option<IncidentCourse>,
}

/// Parts of an incident's last report that its end repeats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastReport {
    #[serde(deserialize_with = "harmless_field")]
    pub(crate) service: Option<String>,
    pub(crate) diagnosis: LastDiagnosis,
}

/// Counts of a flow that has mature sockets, and the state of its incident.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Growth {
    series: Series,
    state: GrowthState,
    /// Minimum age of the flow's mature sockets; constant during an incident.
    age: Duration,
    /// Whether `age` is less than `stuck_after`.
    early: bool,
    last: Option<Box<LastReport>>,
    /// Log of the open incident.
    log: Option<Box<CourseLog>>,
}

/// Course of a flow's count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Course {
    pub(crate) shape: Shape,
    pub(crate) slope: Option<Slope>,
    /// Whether the slope is exact enough for a forecast.
    pub(crate) fits: bool,
    pub(crate) entered_per_second: f64,
    pub(crate) left_per_second: f64,
}

impl Growth {
    /// Returns a growth without an incident. `before` is the count before the first mature sockets, if there was one.
    pub(crate) fn new(before: Option<Point>, window: Duration) -> Self {
        let mut series = Series::new();
        if let Some(before) = before {
            series.push(before, window);
        }
        Self { series, state: GrowthState::Quiet, age: Duration::MAX, early: false, last: None, log: None }
    }

    /// Returns the minimum age of mature sockets that an incident has fixed; `None` without an incident.
    pub(crate) fn settled_age(&self) -> Option<Duration> {
        match self.state {
            GrowthState::Quiet => None,
            GrowthState::Suspected(_) | GrowthState::Active(_) | GrowthState::Level(_) => Some(self.age),
        }
    }

    /// Adds the counts of a window. `age` is the minimum age of mature sockets in that window. Returns the incident that has
    /// ended with the window.
    pub(crate) fn window(
        &mut self,
        point: Point,
        window: Duration,
        age: Duration,
        stuck_after: Duration,
    ) -> Option<EndedIncident> {
        self.series.push(point, window);
        if let Some(log) = &mut self.log {
            log.push(&point);
        }
        (self.age, self.early) = (age, age < stuck_after);
        let mature = point.mature.present;
        match self.state {
            GrowthState::Quiet if self.grows().is_some() => self.state = GrowthState::Suspected(None),
            GrowthState::Level(level) if mature >= level + level / 2 && self.grows().is_some() => {
                self.state = GrowthState::Suspected(None);
            }
            GrowthState::Level(level) if mature <= level / 4 => self.state = GrowthState::Quiet,
            GrowthState::Active(active) => return self.continue_incident(active, point),
            GrowthState::Quiet | GrowthState::Level(_) | GrowthState::Suspected(_) => {}
        }
        None
    }

    fn continue_incident(&mut self, mut active: Active, point: Point) -> Option<EndedIncident> {
        if point.mature.present > active.most {
            (active.most, active.most_at) = (point.mature.present, point.at);
        }
        if point.present > active.most_present || active.before_most.is_none() {
            active.most_present = active.most_present.max(point.present);
            active.before_most = Some((point.left, point.ended));
        }
        active.low = if point.mature.present <= active.most / 4 { active.low + 1 } else { 0 };
        let (count, most) = (point.present, active.most_present);
        let how = if active.low >= LOW_WINDOWS {
            Some(active.drained(&point))
        } else {
            // A count at its limit cannot grow, and that is no recovery.
            let is_level = point.at.since(active.most_at) >= LEVEL_PERIOD && !active.exhausted;
            is_level.then_some(Recovery::Level)
        };
        if let Some(how) = how {
            self.state = match how {
                Recovery::Drained | Recovery::ProcessEnded => GrowthState::Quiet,
                Recovery::Level => GrowthState::Level(point.mature.present),
            };
            let course = self.log.take().map(|log| log.ended(&active, &point, how));
            let (Active { id, began, onset, .. }, last) = (active, self.last.take());
            return Some(EndedIncident { id, began, onset, last, count, most, how, course });
        }
        let doubled = point.present >= active.reported.saturating_mul(2);
        let is_due = doubled || point.at >= active.next_check;
        self.state = if is_due { GrowthState::Suspected(Some(active)) } else { GrowthState::Active(active) };
        None
    }

    fn active(&self) -> Option<Active> {
        match self.state {
            GrowthState::Active(active) | GrowthState::Suspected(Some(active)) => Some(active),
            GrowthState::Quiet | GrowthState::Suspected(None) | GrowthState::Level(_) => None,
        }
    }

    /// Returns the incident as of its last inspection; `None` if there is none.
    pub(crate) fn incident(&self) -> Option<IncidentStatus> {
        let active = self.active()?;
        let Active { id, began, .. } = active;
        Some(IncidentStatus { id, state: active.state(), began })
    }

    /// Returns the service in the last report of the incident.
    pub(crate) fn reported_service(&self) -> Option<&str> {
        self.last.as_ref()?.service.as_deref()
    }

    /// Returns the counts, oldest first.
    pub(crate) fn history(&self) -> Vec<Point> {
        self.series.history()
    }

    /// Whether the growth is suspected: the next inspection confirms and reports it.
    pub(crate) fn is_suspected(&self) -> bool {
        matches!(self.state, GrowthState::Suspected(_))
    }

    /// Whether there are enough mature sockets for an incident, and it has none.
    pub(crate) fn is_calm(&self) -> bool {
        matches!(self.state, GrowthState::Quiet | GrowthState::Level(_))
            && self.series.newest().is_some_and(|newest| newest.mature.present >= MIN_GROWTH)
    }

    /// Suspects an incident without growth.
    pub(crate) fn suspect(&mut self) {
        if self.is_calm() {
            self.state = GrowthState::Suspected(None);
        }
    }

    /// Whether the growth is over and its counts can be dropped.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, GrowthState::Quiet) && self.series.finest().all(|point| point.mature.present == 0)
    }

    /// Returns the log of the open incident.
    pub(crate) fn log(&self) -> Option<&CourseLog> {
        self.log.as_deref()
    }

    /// Returns the log of the open incident.
    pub(crate) fn log_mut(&mut self) -> Option<&mut CourseLog> {
        self.log.as_deref_mut()
    }

    /// Records an inspection of suspected growth at `at`. Without `seen`, there is nothing to report; growth is suspected again if
    /// it continues. An incident that begins gets a log if it `may_log`. Returns the incident if it has to be reported.
    pub(crate) fn inspected(
        &mut self,
        at: BootTime,
        seen: Option<&Inspected>,
        may_log: bool,
    ) -> Option<IncidentStatus> {
        let before = self.active();
        let Some(seen) = seen else {
            self.state = match before {
                Some(active) => {
                    GrowthState::Active(Active { next_check: active.next_check.max(at + MIN_CHECK_INTERVAL), ..active })
                }
                None => GrowthState::Quiet,
            };
            return None;
        };
        let mature = self.series.newest().map_or(0, |newest| newest.mature.present);
        let (active, state) = match before {
            None => {
                self.log = may_log.then(|| Box::new(CourseLog::open(at, seen, &self.series.history())));
                (Active::open(at, mature, seen), Some(IncidentState::Opened))
            }
            Some(mut active) => {
                let reached = active.inspected(at, seen);
                if let Some(log) = &mut self.log {
                    log.inspected(at, seen);
                    reached.into_iter().flatten().for_each(|kind| log.reached(at, kind, seen));
                }
                (active, reached.iter().any(Option::is_some).then(|| active.state()))
            }
        };
        self.state = GrowthState::Active(active);
        state.map(|state| IncidentStatus { id: active.id, state, began: active.began })
    }

    /// Keeps the parts of a report that the end of the incident repeats.
    pub(crate) fn reported(&mut self, last: LastReport) {
        self.last = Some(Box::new(last));
    }

    /// Returns the course of the count. `onset` is the entry of the oldest remaining socket.
    pub(crate) fn course(&self, onset: BootTime) -> Course {
        let growing = self.grows();
        let grows = growing.is_some();
        let all = growing.unwrap_or_else(|| self.series.finest().copied().collect());
        let since: Vec<Point> = all.iter().copied().filter(|point| point.at >= onset).collect();
        let points = if since.len() >= 3 { since } else { all };
        let line = slope(&points, |point| point.present);
        let per_second = |count: fn(&Point) -> u64| match (points.first(), points.last()) {
            (Some(first), Some(last)) if last.at > first.at => {
                count(last).saturating_sub(count(first)) as f64 / last.at.since(first.at).as_secs_f64()
            }
            _ => 0.0,
        };
        Course {
            shape: self.shape(grows, &points),
            slope: line,
            fits: grows && points.len() > 3 && line.is_some_and(|line| line.error <= line.per_second * FITS),
            entered_per_second: per_second(|point| point.entered),
            left_per_second: per_second(|point| point.left),
        }
    }

    fn shape(&self, grows: bool, points: &[Point]) -> Shape {
        let mature = self.series.newest().map_or(0, |newest| newest.mature.present);
        if mature == 0 {
            return Shape::Transient;
        }
        if grows {
            let middle = points.len() / 2;
            let halves = [&points[..=middle.min(points.len() - 1)], &points[middle..]];
            let [first, second] = halves.map(|half| slope(half, |point| point.present));
            return match (first, second) {
                (Some(first), Some(second))
                    if second.per_second > first.per_second.max(0.0) * ACCELERATES + first.error =>
                {
                    Shape::Accelerating
                }
                _ => Shape::Linear,
            };
        }
        let most = match self.state {
            GrowthState::Active(active) | GrowthState::Suspected(Some(active)) => active.most,
            GrowthState::Level(level) => level,
            GrowthState::Quiet | GrowthState::Suspected(None) => mature,
        };
        if mature < most - most / 4 { Shape::Recovering } else { Shape::Plateau }
    }

    /// Returns the points of the shortest windows in which the count grows.
    fn grows(&self) -> Option<Vec<Point>> {
        let newest = self.series.newest()?;
        self.series.scales().find(|points| {
            grows(points, newest, |point| point.stuck, false) || grows(points, newest, |point| point.mature, self.early)
        })
    }
}

/// Whether the count rises from each of the last points to the next, by more than chance explains.
fn grows(points: &[Point], newest: &Point, of: impl Fn(&Point) -> Aged, early: bool) -> bool {
    let Some(last4) = points.last_chunk::<4>() else { return false };
    let [first, .., last] = last4;
    let present = |point: &Point| of(point).present;
    if present(newest) < present(last) || last4.windows(2).any(|pair| present(&pair[1]) <= present(&pair[0])) {
        return false;
    }
    let grown = present(last) - present(first);
    let left = of(last).left - of(first).left;
    // Before any socket is stuck, only growth in which nearly all entering sockets remain is certain.
    let in_doubt = early && (left * 3 > grown || grown * 2 < last.entered - first.entered);
    grown >= MIN_GROWTH && grown as f64 >= 3.0 + SIGMAS * (left as f64).sqrt() && !in_doubt
}

#[cfg(test)]
mod tests;
