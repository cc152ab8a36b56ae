//! Chart of the number of sockets over time, of block characters.

use crate::sink::table;
use closewait_engine::{
    model::{CoursePoint, IncidentCourse, MilestoneKind},
    time::BootTime,
};

/// Number of rows of the chart itself.
const HEIGHT: u64 = 6;
/// Maximum number of columns.
const MAX_WIDTH: usize = 120;
/// Minimum number of columns for a chart: with fewer, its times would not fit below it.
const MIN_WIDTH: usize = 30;
/// Characters for parts of a row, in eighths.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Numbers of sockets of an incident over time.
pub(super) struct CountChart<'a> {
    points: &'a [CoursePoint],
    highest: u64,
    /// Times with a name, the most important first.
    marks: Vec<(BootTime, &'static str)>,
}

impl<'a> CountChart<'a> {
    /// Returns the chart of a course; `None` if it has too few points.
    pub(super) fn new(course: &'a IncidentCourse) -> Option<Self> {
        let points = course.points.as_slice();
        let highest =
            points.iter().map(|point| point.count).max().filter(|highest| *highest > 0 && points.len() > 2)?;
        let mark = |name: &'static str, is: fn(MilestoneKind) -> bool| {
            course.milestones.iter().find(|one| is(one.kind)).map(|one| (one.at, name))
        };
        let marks = [
            mark("full", |kind| matches!(kind, MilestoneKind::LimitReached(_))),
            mark("detected", |kind| kind == MilestoneKind::Detected),
        ];
        Some(Self { points, highest, marks: marks.into_iter().flatten().collect() })
    }

    /// Returns the lines of the chart in `width` columns; none on a narrow screen.
    pub(super) fn lines(&self, width: usize, clock: impl Fn(BootTime) -> String) -> Vec<String> {
        let labels = [self.highest, self.highest / 2, 0].map(|number| number.to_string());
        let margin = labels[0].len() + 1;
        let columns = width.min(MAX_WIDTH).saturating_sub(margin + 1);
        if columns < MIN_WIDTH {
            return Vec::new();
        }
        let counts: Vec<u64> = (0..columns).map(|column| self.count(column, columns)).collect();
        let mut lines = Vec::new();
        for row in (0..HEIGHT).rev() {
            let label = match row {
                _ if row == HEIGHT - 1 => &labels[0],
                _ if row == HEIGHT / 2 - 1 && self.highest > 3 => &labels[1],
                _ => "",
            };
            let mut line = format!("{label:>width$} │", width = margin - 1);
            for count in &counts {
                // A count above zero is visible.
                let eighths = (u128::from(*count) * u128::from(HEIGHT * 8)).div_ceil(u128::from(self.highest));
                let part = eighths.saturating_sub(u128::from(row * 8)).min(8);
                line.push(EIGHTHS.get(part as usize).copied().unwrap_or('█'));
            }
            lines.push(line.trim_end().to_owned());
        }
        lines.push(format!("{:>width$} └{}", labels[2], "─".repeat(columns), width = margin - 1));
        lines.push(self.times(margin + 1, columns, clock));
        lines
    }

    fn ends(&self) -> (BootTime, BootTime) {
        let at = |point: Option<&CoursePoint>| point.map_or(BootTime(0), |point| point.at);
        (at(self.points.first()), at(self.points.last()))
    }

    /// Returns the highest count in a column, or the last one before it.
    fn count(&self, column: usize, columns: usize) -> u64 {
        let (begin, end) = self.ends();
        let span = u128::from(end.0.saturating_sub(begin.0));
        let bound = |column: usize| begin.0 + (span * column as u128 / columns.max(1) as u128) as u64;
        let (from, to) = (bound(column), bound(column + 1));
        let known = self.points.partition_point(|point| point.at.0 < from);
        let within = self.points.iter().skip(known).take_while(|point| point.at.0 <= to).map(|point| point.count);
        within.max().or_else(|| self.points.get(known.checked_sub(1)?).map(|point| point.count)).unwrap_or_default()
    }

    /// Returns the line of times: the ends, and the marks that fit between them.
    fn times(&self, margin: usize, columns: usize, clock: impl Fn(BootTime) -> String) -> String {
        let (begin, end) = self.ends();
        let (first, last) = (clock(begin), clock(end));
        let span = u128::from(end.0.saturating_sub(begin.0)).max(1);
        let mut texts = vec![(0, first), (columns.saturating_sub(table::width(&last)), last)];
        for (at, name) in &self.marks {
            let column = (u128::from(at.0.saturating_sub(begin.0)) * columns as u128 / span) as usize;
            let text = format!("┊{} {name}", clock(*at));
            let (from, to) = (column, column + table::width(&text));
            let is_free = |(of, other): &(usize, String)| to < *of || from > of + table::width(other);
            if to <= columns && texts.iter().all(is_free) {
                texts.push((column, text));
            }
        }
        texts.sort();
        let mut line = " ".repeat(margin);
        for (column, text) in texts {
            let gap = (margin + column).saturating_sub(table::width(&line));
            line.extend(std::iter::repeat_n(' ', gap));
            line.push_str(&text);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use closewait_engine::testing::course;

    fn clock(at: BootTime) -> String {
        format!("00:00:{:02}", at.0 / 1_000_000_000)
    }

    #[test]
    fn a_chart_fits_its_width_and_rises_with_the_count() {
        let course = course();
        let chart = CountChart::new(&course).unwrap();
        let lines = chart.lines(60, clock);
        assert!(lines.iter().all(|line| table::width(line) <= 60), "{lines:#?}");
        assert_eq!(lines.len() as u64, HEIGHT + 2);
        assert!(lines[0].starts_with("960 │") && lines[0].ends_with('█'), "{lines:#?}");
        assert!(lines[6].starts_with("  0 └─"), "{lines:#?}");
        assert!(lines[7].trim_start().starts_with("00:00:01") && lines[7].ends_with("00:00:50"), "{lines:#?}");
        assert!(lines[7].contains("┊00:00:15 detected"), "{lines:#?}");
        for column in 0..54 {
            assert!(chart.count(column, 54) <= chart.count(column + 1, 55).max(960), "{column}");
        }
        assert!(chart.lines(20, clock).is_empty());
    }

    #[test]
    fn nothing_is_drawn_without_counts() {
        let mut course = course();
        course.points.truncate(2);
        assert!(CountChart::new(&course).is_none());
        course.points.clear();
        assert!(CountChart::new(&course).is_none());
    }

    #[test]
    fn extreme_times_and_counts_are_drawn() {
        let mut course = course();
        course.points[0].at = BootTime(0);
        course.points.last_mut().unwrap().at = BootTime(u64::MAX);
        course.points.last_mut().unwrap().count = u64::MAX;
        let lines = CountChart::new(&course).unwrap().lines(100, clock);
        assert!(!lines.is_empty());
    }
}
