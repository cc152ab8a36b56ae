//! Geometry of the charts: positions, ticks, paths and rows of labels.
//!
//! Own code, because the charts are a few paths over time. A chart crate measures fonts, draws labels with fixed colors and scales
//! text with the picture. Here a path is stretched to the width of the page (`preserveAspectRatio="none"`), and labels are SVG
//! text at a percentage of that width, in the colors of the style sheet: they stay sharp and legible at any width.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::TimeAnchor;
use closewait_engine::time::BootTime;

/// Width of the coordinates of paths.
pub(super) const WIDTH: f64 = 2000.0;
/// Maximum number of ticks on the axis of values, without zero.
const MAX_VALUE_TICKS: f64 = 4.0;
/// Maximum number of ticks on the axis of time: their labels fit into the narrowest page.
const MAX_TIME_TICKS: u64 = 5;
/// Distance of a tick from the left and right edge, percent of the width: its label is centered.
const TICK_MARGIN: f64 = 8.0;
/// Steps of the axis of time, seconds.
const TIME_STEPS: [u64; 23] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800,
    1_209_600, 2_419_200, 7_257_600,
];
/// Step from which on the label of a tick is a date, seconds.
const DATE_STEP: u64 = 86_400;

/// Axis of time.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeAxis {
    /// Time at the left edge.
    pub(super) from: BootTime,
    /// Time at the right edge.
    pub(super) to: BootTime,
}

impl TimeAxis {
    /// Returns the position of `at` as a share of the width, 0 to 1.
    fn share(self, at: BootTime) -> f64 {
        let all = self.to.since(self.from).as_secs_f64();
        if all > 0.0 { (at.since(self.from).as_secs_f64() / all).min(1.0) } else { 0.0 }
    }

    /// Returns the position of `at` in the coordinates of paths.
    pub(super) fn x(self, at: BootTime) -> f64 {
        self.share(at) * WIDTH
    }

    /// Returns the position of `at`, percent of the width.
    pub(super) fn percent(self, at: BootTime) -> f64 {
        self.share(at) * 100.0
    }

    /// Whether the axis contains `at`.
    pub(super) fn contains(self, at: BootTime) -> bool {
        self.from <= at && at <= self.to
    }

    /// Returns the ticks: positions in percent, and labels in UTC.
    pub(super) fn ticks(self, anchor: TimeAnchor) -> Vec<(f64, String)> {
        let all = self.to.since(self.from).as_secs();
        let Some(step) = TIME_STEPS.into_iter().find(|step| all / step <= MAX_TIME_TICKS) else { return Vec::new() };
        let from = anchor.wall(self.from).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let first = from - from % step + step;
        let ticks = (0..=MAX_TIME_TICKS).map(|number| {
            let wall = UNIX_EPOCH + Duration::from_secs(first + number * step);
            (self.percent(anchor.boot(wall)), tick_label(wall, step))
        });
        ticks.filter(|(x, _)| (TICK_MARGIN..=100.0 - TICK_MARGIN).contains(x)).collect()
    }
}

/// Formats the time of a tick in UTC: `22:48`, `22:48:30`, or the date for steps of days.
fn tick_label(wall: SystemTime, step: u64) -> String {
    let text = humantime::format_rfc3339_seconds(wall).to_string();
    let part = match step {
        DATE_STEP.. => 5..10,
        60.. => 11..16,
        _ => 11..19,
    };
    text.get(part).unwrap_or_default().to_owned()
}

/// Axis of values from 0 at the bottom.
#[derive(Clone, Copy, Debug)]
pub(super) struct ValueAxis {
    /// Value at the top.
    pub(super) most: f64,
    /// Height, in the coordinates of paths and pixels.
    pub(super) height: f64,
}

impl ValueAxis {
    /// Returns the position of `value`, from the top.
    pub(super) fn y(self, value: f64) -> f64 {
        if self.most > 0.0 { self.height - value / self.most * self.height } else { self.height }
    }

    /// Returns round values above 0, each with its position from the top.
    pub(super) fn ticks(self) -> Vec<(f64, f64)> {
        let step = round_step(self.most / MAX_VALUE_TICKS);
        let number = if step > 0.0 { (self.most / step).floor() } else { 0.0 };
        (1..=number as u32).map(|number| f64::from(number) * step).map(|value| (value, self.y(value))).collect()
    }
}

/// Returns the least of 1, 2, 5, 10, 20 .. and of their tenths that is not below `least`; 0 for 0.
fn round_step(least: f64) -> f64 {
    if !(least.is_finite() && least > 0.0) {
        return 0.0;
    }
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= least).unwrap_or(power * 10.0)
}

/// Returns the data of a path along `points`.
pub(super) fn line(points: impl IntoIterator<Item = (f64, f64)>) -> String {
    let mut path = String::new();
    for (at, (x, y)) in points.into_iter().enumerate() {
        let command = if at == 0 { 'M' } else { 'L' };
        let _infallible: std::fmt::Result = write!(path, "{command}{x:.0} {y:.1}");
    }
    path
}

/// Returns the data of a path around the area between `points` and the height `base`.
pub(super) fn area(points: &[(f64, f64)], base: f64) -> String {
    let (Some((first, _)), Some((last, _))) = (points.first(), points.last()) else { return String::new() };
    let edge = [(*first, base)].into_iter().chain(points.iter().copied()).chain([(*last, base)]);
    line(edge) + "Z"
}

/// Returns the data of a path of dots: lines without length, whose round ends are not stretched.
pub(super) fn dots(points: &[(f64, f64)]) -> String {
    points.iter().map(|(x, y)| format!("M{x:.0} {y:.1}h0")).collect()
}

/// Label at a position on the axis of time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placed {
    /// Position, percent of the width.
    pub(super) x: f64,
    /// Row, from the top.
    pub(super) row: usize,
    /// Whether the label ends at its position instead of starting there.
    pub(super) ends: bool,
}

/// Places labels, so that none overlaps another: each gets the first row that is free over its whole width. `labels` are positions
/// and widths in percent, from left to right.
pub(super) fn place(labels: &[(f64, f64)]) -> Vec<Placed> {
    let mut rows: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut placed = Vec::new();
    for &(x, width) in labels {
        let ends = x + width > 100.0;
        let (left, right) = if ends { (x - width, x) } else { (x, x + width) };
        let is_free = |row: &Vec<(f64, f64)>| row.iter().all(|(from, to)| right <= *from || *to <= left);
        let row = rows.iter().position(is_free).unwrap_or(rows.len());
        if row == rows.len() {
            rows.push(Vec::new());
        }
        if let Some(row) = rows.get_mut(row) {
            row.push((left, right));
        }
        placed.push(Placed { x, row, ends });
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(from: u64, to: u64) -> TimeAxis {
        let second = |second: u64| BootTime(second * 1_000_000_000);
        TimeAxis { from: second(from), to: second(to) }
    }

    #[test]
    fn positions_are_shares_of_the_axis_and_stay_within() {
        let axis = axis(100, 300);
        assert_eq!((axis.x(axis.from), axis.percent(BootTime(150_000_000_000)), axis.x(axis.to)), (0.0, 25.0, WIDTH));
        assert_eq!((axis.x(BootTime(0)), axis.x(BootTime(u64::MAX))), (0.0, WIDTH));
        let empty = TimeAxis { from: axis.from, to: axis.from };
        assert_eq!((empty.x(axis.from), empty.ticks(TimeAnchor::booted_at(UNIX_EPOCH))), (0.0, vec![]));
        let values = ValueAxis { most: 200.0, height: 100.0 };
        assert_eq!((values.y(0.0), values.y(50.0), values.y(200.0)), (100.0, 75.0, 0.0));
        assert_eq!(ValueAxis { most: 0.0, height: 100.0 }.y(3.0), 100.0);
    }

    #[test]
    fn ticks_are_round_few_and_away_from_the_edges() {
        let anchor = TimeAnchor::booted_at(UNIX_EPOCH + Duration::from_secs(3 * 86_400 + 7));
        let labels = |axis: TimeAxis| axis.ticks(anchor).into_iter().map(|(_, label)| label).collect::<Vec<_>>();
        assert_eq!(labels(axis(100, 190)), ["00:02:00", "00:02:30", "00:03:00"]);
        assert_eq!(labels(axis(0, 3600)), ["00:15", "00:30", "00:45"]);
        assert_eq!(labels(axis(0, 5 * 86_400)), ["01-05", "01-06", "01-07", "01-08"]);
        for length in (1..2_000_000_u64).step_by(977) {
            let ticks = axis(5, 5 + length).ticks(anchor);
            assert!(ticks.len() <= 6 && ticks.iter().all(|(x, _)| (8.0..=92.0).contains(x)), "{length}: {ticks:?}");
        }
        let ticks = |most| ValueAxis { most, height: 100.0 }.ticks().into_iter().map(|(value, _)| value).collect();
        let all: [Vec<f64>; 4] = [ticks(1144.0), ticks(3.0), ticks(0.0), ticks(f64::NAN)];
        assert_eq!(all, [vec![500.0, 1000.0], vec![1.0, 2.0, 3.0], vec![], vec![]]);
    }

    #[test]
    fn paths_are_lines_and_closed_areas() {
        let points = [(0.0, 10.0), (1000.4, 2.54)];
        assert_eq!(line(points), "M0 10.0L1000 2.5");
        assert_eq!(area(&points, 20.0), "M0 20.0L0 10.0L1000 2.5L1000 20.0Z");
        assert_eq!((line([]), area(&[], 1.0)), (String::new(), String::new()));
    }

    #[test]
    fn labels_never_overlap() {
        let mut random = 7_u64;
        for _ in 0..500 {
            let mut labels: Vec<(f64, f64)> = Vec::new();
            for _ in 0..12 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                labels.push(((random >> 33) as f64 % 101.0, 5.0 + (random >> 50) as f64 % 12.0));
            }
            labels.sort_by(|left, right| left.0.total_cmp(&right.0));
            let placed = place(&labels);
            let spans: Vec<_> = placed
                .iter()
                .zip(&labels)
                .map(|(one, (_, width))| {
                    let (left, right) = if one.ends { (one.x - width, one.x) } else { (one.x, one.x + width) };
                    assert!(left >= -0.001 && right <= 100.001, "{one:?}");
                    (one.row, left, right)
                })
                .collect();
            for (at, (row, left, right)) in spans.iter().enumerate() {
                let overlaps = |other: &&(usize, f64, f64)| other.0 == *row && *left < other.2 && other.1 < *right;
                assert_eq!(spans[at + 1..].iter().find(overlaps), None, "{labels:?}");
            }
        }
        assert_eq!(
            place(&[(10.0, 9.0), (12.0, 9.0), (95.0, 9.0)]).iter().map(|one| (one.row, one.ends)).collect::<Vec<_>>(),
            [(0, false), (1, false), (0, true)]
        );
    }
}
