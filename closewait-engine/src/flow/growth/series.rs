//! Counts of a flow over time, at shorter intervals for more recent counts.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::{
    model::Slope,
    time::{BootTime, nanos},
};

/// Maximum number of points of one scale. Growth needs three windows; more of them give a better line.
const MAX_POINTS: usize = 8;
/// Length of each scale's windows, as a multiple of the shortest: from 2 s to 17 minutes.
const SCALES: [u64; 4] = [1, 8, 64, 512];

/// Counts of a flow at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) at: BootTime,
    /// Number of sockets in CLOSE_WAIT.
    pub(crate) present: u64,
    /// Counts of sockets that are older than the sockets of the flow get in normal operation.
    pub(crate) mature: Aged,
    /// Counts of stuck sockets.
    pub(crate) stuck: Aged,
    /// Number of entries so far.
    pub(crate) entered: u64,
    /// Number of exits so far.
    pub(crate) left: u64,
    /// Number of exits so far because the process ended.
    pub(crate) ended: u64,
}

/// Counts of sockets that have reached some age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Aged {
    pub(crate) present: u64,
    /// Number of exits of such sockets so far.
    pub(crate) left: u64,
}

/// Points of several scales, newest last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Series {
    scales: [VecDeque<Point>; SCALES.len()],
}

impl Series {
    pub(super) fn new() -> Self {
        Self { scales: std::array::from_fn(|_| VecDeque::with_capacity(MAX_POINTS)) }
    }

    /// Adds a point; `window` is the intended length of the shortest windows.
    pub(super) fn push(&mut self, point: Point, window: std::time::Duration) {
        for (points, scale) in self.scales.iter_mut().zip(SCALES) {
            let length = nanos(window).saturating_mul(scale);
            // Timers expire late, never early; a tenth of the shortest window compensates for that.
            let due = |last: &Point| point.at.0.saturating_sub(last.at.0) >= length - nanos(window) / 10;
            if points.back().is_none_or(due) {
                if points.len() == MAX_POINTS {
                    points.pop_front();
                }
                points.push_back(point);
            }
        }
    }

    /// Returns the points of each scale, from the shortest windows to the longest.
    pub(super) fn scales(&self) -> impl Iterator<Item = Vec<Point>> {
        self.scales.iter().map(|points| points.iter().copied().collect())
    }

    /// Returns the newest point.
    pub(super) fn newest(&self) -> Option<&Point> {
        self.scales[0].back()
    }

    /// Returns the points of the shortest windows.
    pub(super) fn finest(&self) -> impl Iterator<Item = &Point> {
        self.scales[0].iter()
    }

    /// Returns the points of all scales, oldest first, each time once.
    pub(super) fn history(&self) -> Vec<Point> {
        let mut all: Vec<Point> = self.scales.iter().flatten().copied().collect();
        all.sort_unstable_by_key(|point| point.at);
        all.dedup();
        all
    }
}

/// Returns the median of the slopes between all pairs of points (Theil–Sen estimator), which is robust against outliers. The
/// error is half of the range that contains two thirds of these slopes. `None` for fewer than three points.
pub(super) fn slope(points: &[Point], count: impl Fn(&Point) -> u64) -> Option<Slope> {
    if points.len() < 3 {
        return None;
    }
    let mut slopes = Vec::with_capacity(points.len() * (points.len() - 1) / 2);
    for (index, one) in points.iter().enumerate() {
        for other in &points[index + 1..] {
            let seconds = other.at.since(one.at).as_secs_f64();
            if seconds > 0.0 {
                slopes.push((count(other) as f64 - count(one) as f64) / seconds);
            }
        }
    }
    slopes.sort_unstable_by(f64::total_cmp);
    let at = |permille: usize| slopes.get((slopes.len().checked_sub(1)? * permille + 500) / 1000).copied();
    let middle = slopes.len() / 2;
    let median = match slopes.len() % 2 {
        0 => (slopes.get(middle.checked_sub(1)?)? + slopes.get(middle)?) / 2.0,
        _ => *slopes.get(middle)?,
    };
    Some(Slope { per_second: median, error: (at(833)? - at(167)?) / 2.0 })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(2);

    fn point(seconds: u64, present: u64) -> Point {
        Point { at: BootTime(seconds * 1_000_000_000), present, ..Point::default() }
    }

    #[test]
    fn each_scale_has_a_limited_number_of_points() {
        let mut series = Series::new();
        for second in (0..4000).step_by(2) {
            series.push(point(second, second), WINDOW);
        }
        let scales: Vec<_> = series.scales().collect();
        for (points, scale) in scales.iter().zip(SCALES) {
            assert!(points.len() <= MAX_POINTS, "{scale}");
            let first = points.windows(2).next().map(|pair| pair[1].at.since(pair[0].at));
            assert_eq!(first, Some(WINDOW * u32::try_from(scale).unwrap()));
        }
        assert_eq!(series.newest().unwrap().at, BootTime(3998 * 1_000_000_000));
        let history = series.history();
        assert!(history.windows(2).all(|pair| pair[0].at < pair[1].at));
    }

    #[test]
    fn an_outlier_hardly_changes_the_slope() {
        let mut points: Vec<_> = (0..8).map(|n| point(2 * n, 100 + 40 * n)).collect();
        let line = |points: &[Point]| slope(points, |point| point.present).unwrap();
        assert_eq!(line(&points), Slope { per_second: 20.0, error: 0.0 });
        points[3].present = 5000;
        let bent = line(&points);
        assert!((bent.per_second - 20.0).abs() < 1.0, "{bent:?}");
        assert_eq!(slope(&points[..2], |point| point.present), None);
    }
}
