//! Detection of growth, which decides whether a flow has an incident.
//!
//! Only *mature* sockets count: those older than the sockets of the flow get in normal operation. A program that keeps up has no
//! mature sockets, for any number of entries and exits. An incident begins if the number of mature sockets grows in three windows
//! in a row, by far more than the number of exits. Windows last from seconds, for a hang, to a quarter of an hour, for a leak of
//! one socket per minute.

mod evidence;
mod series;

use std::time::Duration;

pub(crate) use self::series::{Aged, Point};
use self::series::{Series, slope};
use crate::{
    model::{Recovery, Shape, Slope},
    time::BootTime,
};

/// Minimum age of a mature socket, because a burst may queue for as long.
const MIN_MATURE_AGE: Duration = Duration::from_secs(5);
/// Minimum age of a mature socket, as a multiple of the longest healthy dwell time.
const TIMES_LONGEST: u32 = 3;
/// Minimum number of healthy exits for a habit. Without a habit, only stuck sockets are mature.
const MIN_HEALTHY_EXITS: u64 = 10;
/// Minimum growth of an incident, sockets.
const MIN_GROWTH: u64 = 10;
/// Minimum growth of an incident, as a multiple of the standard deviation of exits.
const SIGMAS: f64 = 4.0;
/// Number of consecutive windows with at most a quarter of the mature sockets after which an incident ends.
const LOW_WINDOWS: u8 = 3;
/// Time without growth after which an incident is level.
const LEVEL_PERIOD: Duration = Duration::from_secs(600);
/// Maximum relative error of a slope that a forecast may use.
const FITS: f64 = 0.25;
/// Minimum slope of the second half, as a multiple of the first half's, at which growth accelerates.
const ACCELERATES: f64 = 1.5;

/// Dwell times of a flow's sockets in normal operation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Habit {
    closed: u64,
    /// Longest dwell time in this span of windows, and in the previous one. Older values expire, so that one slow request does
    /// not count forever.
    longest: [Option<Duration>; 2],
}

impl Habit {
    /// Adds a healthy exit after `dwell`.
    pub(crate) fn closed(&mut self, dwell: Duration) {
        self.closed = self.closed.saturating_add(1);
        self.longest[0] = self.longest[0].max(Some(dwell));
    }

    /// Ends a span of windows.
    pub(crate) fn turn(&mut self) {
        self.longest = [None, self.longest[0]];
    }

    /// Returns the longest recent dwell time; `None` with fewer than [`MIN_HEALTHY_EXITS`] exits.
    pub(crate) fn longest(&self) -> Option<Duration> {
        self.longest.into_iter().max().flatten().filter(|_| self.closed >= MIN_HEALTHY_EXITS)
    }

    /// Returns the minimum age of a mature socket.
    pub(crate) fn mature_age(&self, stuck_after: Duration) -> Duration {
        let mature = |longest: Duration| longest.saturating_mul(TIMES_LONGEST).max(MIN_MATURE_AGE).min(stuck_after);
        self.longest().map_or(stuck_after, mature)
    }
}

/// Reported incident.
#[derive(Clone, Copy, Debug)]
struct Active {
    began: BootTime,
    /// Highest number of mature sockets.
    most: u64,
    /// Time of the first window with `most` mature sockets.
    most_at: BootTime,
    /// Highest number of sockets.
    most_present: u64,
    /// Number of sockets at the last report.
    reported: u64,
    /// Number of consecutive windows with few mature sockets.
    low: u8,
}

#[derive(Clone, Copy, Debug)]
enum GrowthState {
    Quiet,
    /// Growth that the next inspection confirms and reports; for the second time if there is an incident.
    Suspected(Option<Active>),
    Active(Active),
    /// Ended incident, with the number of mature sockets that remained.
    Level(u64),
}

/// Incident that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndedIncident {
    pub(crate) began: BootTime,
    pub(crate) count: u64,
    pub(crate) most: u64,
    pub(crate) how: Recovery,
}

/// Counts of a flow that has mature sockets, and the state of its incident.
#[derive(Debug)]
pub(crate) struct Growth {
    series: Series,
    state: GrowthState,
    /// Minimum age of the flow's mature sockets; constant during an incident.
    age: Duration,
    /// Whether `age` is less than `stuck_after`.
    early: bool,
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
        Self { series, state: GrowthState::Quiet, age: Duration::MAX, early: false }
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
        active.most_present = active.most_present.max(point.present);
        active.low = if point.mature.present <= active.most / 4 { active.low + 1 } else { 0 };
        let (count, most) = (point.present, active.most_present);
        let ended = |how| Some(EndedIncident { began: active.began, count, most, how });
        if active.low >= LOW_WINDOWS {
            self.state = GrowthState::Quiet;
            return ended(Recovery::Drained);
        }
        if point.at.since(active.most_at) >= LEVEL_PERIOD {
            self.state = GrowthState::Level(point.mature.present);
            return ended(Recovery::Level);
        }
        let doubled = point.present >= active.reported.saturating_mul(2);
        self.state = if doubled { GrowthState::Suspected(Some(active)) } else { GrowthState::Active(active) };
        None
    }

    /// Returns the start of the incident; `None` if there is none.
    pub(crate) fn active_since(&self) -> Option<BootTime> {
        match self.state {
            GrowthState::Active(active) | GrowthState::Suspected(Some(active)) => Some(active.began),
            GrowthState::Quiet | GrowthState::Suspected(None) | GrowthState::Level(_) => None,
        }
    }

    /// Returns the counts, oldest first.
    pub(crate) fn history(&self) -> Vec<Point> {
        self.series.history()
    }

    /// Whether the growth is suspected: the next inspection confirms and reports it.
    pub(crate) fn is_suspected(&self) -> bool {
        matches!(self.state, GrowthState::Suspected(_))
    }

    /// Whether the growth is over and its counts can be dropped.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, GrowthState::Quiet) && self.series.finest().all(|point| point.mature.present == 0)
    }

    /// Records a report of the incident at `at` with `count` sockets. A `count` of 0 means that there was no report; growth is
    /// suspected again if it continues. Returns the time of the first report, and whether that was an earlier one.
    pub(crate) fn reported(&mut self, at: BootTime, count: u64) -> Option<(BootTime, bool)> {
        if count == 0 {
            self.state = match self.state {
                GrowthState::Suspected(Some(active)) => GrowthState::Active(active),
                GrowthState::Suspected(None) | GrowthState::Quiet | GrowthState::Active(_) | GrowthState::Level(_) => {
                    GrowthState::Quiet
                }
            };
            return None;
        }
        let mature = self.series.newest().map_or(0, |newest| newest.mature.present);
        let before = match self.state {
            GrowthState::Suspected(before) => before,
            GrowthState::Quiet | GrowthState::Active(_) | GrowthState::Level(_) => None,
        };
        let active = before.map_or(
            Active { began: at, most: mature, most_at: at, most_present: count, reported: count, low: 0 },
            |before| Active { reported: count, ..before },
        );
        self.state = GrowthState::Active(active);
        Some((active.began, before.is_some()))
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
