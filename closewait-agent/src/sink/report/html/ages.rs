//! Ages of the sockets over time, as a heat map: rows of age, columns of time, darker for more sockets.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use maud::{Markup, html};

use super::{
    course::{AXIS_HEIGHT, px, swatch, thin, time_labels, view},
    panels::{range, short_range},
    scale::TimeAxis,
};
use crate::clock::TimeAnchor;
use closewait_engine::{
    model::{AgeCounts, CoursePoint},
    text::count,
    time::BootTime,
};

/// Height of a row, pixels.
const AGE_ROW: f64 = 15.0;
/// Number of shades. Each one is a class of the style sheet.
const SHADES: u32 = 5;
/// Maximum number of columns: narrower ones would not be seen, and each takes some bytes.
const MAX_COLUMNS: usize = 60;

/// Column of the heat map: the ages at the end of a time.
struct AgeColumn {
    from: BootTime,
    to: BootTime,
    ages: AgeCounts,
}

/// Returns the heat map of the ages of `points`; nothing if their ages are unknown.
pub(super) fn heat_map(points: &[CoursePoint], axis: TimeAxis, anchor: TimeAnchor, prefix: &str) -> Markup {
    let columns = columns(points);
    let highest = columns.iter().flat_map(|column| column.ages).max().unwrap_or(0);
    let used = |bucket: &usize| columns.iter().any(|column| column.ages.get(*bucket).is_some_and(|count| *count > 0));
    let buckets = 0..AgeCounts::default().len();
    let (Some(youngest), Some(oldest)) = (buckets.clone().find(used), buckets.rev().find(used)) else {
        return html! {};
    };
    let height = (oldest - youngest + 1) as f64 * AGE_ROW;
    let top = |bucket: usize| (oldest - bucket) as f64 * AGE_ROW;
    let (title, desc) = (format!("{prefix}-mt"), format!("{prefix}-md"));
    html! {
        figure {
            figcaption { "Ages of the sockets over time" }
            svg role="img" width="100%" height=(px(height + AXIS_HEIGHT)) aria-labelledby={ (title) " " (desc) } {
                title id=(title) { "Ages of the sockets over time" }
                desc id=(desc) { (description(&columns)) }
                svg width="100%" height=(px(height)) viewBox=(view(height)) preserveAspectRatio="none" {
                    @for shade in 1..=SHADES {
                        path class={ "heat-" (shade) } d=(cells(&columns, axis, &shade_range(shade, highest), top)) {}
                    }
                }
                line.zero x1="0" x2="100%" y1=(px(height)) y2=(px(height)) {}
                @for bucket in youngest..=oldest {
                    text.tick x="0" y=(px(top(bucket) + AGE_ROW - 4.0)) { (short_range(bucket)) }
                }
                (time_labels(axis, anchor, height))
            }
            ul.legend {
                @for shade in 1..=SHADES {
                    @let sockets = shade_range(shade, highest);
                    @if !sockets.is_empty() {
                        li { (swatch(&format!("heat-{shade}"), "M0 0H24V14H0Z")) (legend(&sockets)) }
                    }
                }
            }
            p.note { "Each row begins at the age on its left. Columns from before the incident was detected contain only the sockets that were still there at its detection." }
        }
    }
}

/// Returns at most [`MAX_COLUMNS`] columns.
fn columns(points: &[CoursePoint]) -> Vec<AgeColumn> {
    let known: Vec<_> = points.iter().filter(|point| point.ages.is_some()).copied().collect();
    let column = |pair: &[CoursePoint]| match pair {
        [before, point] => Some(AgeColumn { from: before.at, to: point.at, ages: point.ages? }),
        _ => None,
    };
    thin(&known, MAX_COLUMNS).windows(2).filter_map(column).collect()
}

/// Returns the numbers of sockets with a shade; empty if no number has it. The shades divide the numbers on a logarithmic scale.
fn shade_range(shade: u32, highest: u32) -> RangeInclusive<u32> {
    let lower = |shade: u32| f64::from(highest).powf(f64::from(shade - 1) / f64::from(SHADES)).ceil() as u32;
    if shade == SHADES { lower(shade)..=highest } else { lower(shade)..=lower(shade + 1).saturating_sub(1) }
}

fn legend(sockets: &RangeInclusive<u32>) -> String {
    let (from, to) = (*sockets.start(), *sockets.end());
    if from == to { count(from, "socket") } else { format!("{from} to {}", count(to, "socket")) }
}

/// Returns the data of a path around all cells with these numbers of sockets.
fn cells(columns: &[AgeColumn], axis: TimeAxis, sockets: &RangeInclusive<u32>, top: impl Fn(usize) -> f64) -> String {
    let mut path = String::new();
    for AgeColumn { from, to, ages } in columns {
        let (left, right) = (axis.x(*from), axis.x(*to));
        for (bucket, _) in ages.iter().enumerate().filter(|(_, number)| **number > 0 && sockets.contains(number)) {
            let (y, width) = (top(bucket), right - left);
            let _infallible: std::fmt::Result = write!(path, "M{left:.0} {y:.0}h{width:.0}v{AGE_ROW:.0}h-{width:.0}z");
        }
    }
    path
}

fn description(columns: &[AgeColumn]) -> String {
    let Some(last) = columns.last() else { return String::new() };
    let known = last.ages.iter().enumerate().filter(|(_, number)| **number > 0);
    let known: Vec<_> = known.map(|(bucket, number)| format!("{}: {number}", range(bucket))).collect();
    if known.is_empty() { "No socket at the end.".to_owned() } else { format!("At the end {}.", known.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(seconds: u64, ages: &[(usize, u32)]) -> CoursePoint {
        let mut counts = AgeCounts::default();
        for (bucket, count) in ages {
            counts[*bucket] = *count;
        }
        CoursePoint { at: BootTime(seconds * 1_000_000_000), ages: Some(counts), ..CoursePoint::default() }
    }

    #[test]
    fn every_number_has_one_shade() {
        for highest in [1, 2, 3, 7, 100, 31_337, u32::MAX] {
            let all = (1..=SHADES).map(|shade| shade_range(shade, highest)).filter(|numbers| !numbers.is_empty());
            let mut next = 1_u64;
            for numbers in all {
                assert_eq!(u64::from(*numbers.start()), next, "{highest}");
                next = u64::from(*numbers.end()) + 1;
            }
            assert_eq!(next, u64::from(highest) + 1);
        }
    }

    #[test]
    fn older_sockets_are_above_and_more_of_them_darker() {
        let points = [point(0, &[]), point(10, &[(0, 1)]), point(20, &[(2, 100), (0, 1)])];
        let axis = TimeAxis { from: points[0].at, to: points[2].at };
        let page = heat_map(&points, axis, TimeAnchor::booted_at(std::time::UNIX_EPOCH), "i").into_string();
        assert!(page.contains(r#"class="heat-1" d="M0 30h1000v15h-1000zM1000 30h1000v15h-1000z""#), "{page}");
        assert!(page.contains(r#"class="heat-5" d="M1000 0h1000v15h-1000z""#), "{page}");
        assert!(page.contains("At the end 0 to 1s: 1, 3s to 10s: 100."), "{page}");
        let unknown = points.map(|point| CoursePoint { ages: None, ..point });
        assert_eq!(heat_map(&unknown, axis, TimeAnchor::booted_at(std::time::UNIX_EPOCH), "i").into_string(), "");
    }

    #[test]
    fn a_long_course_has_a_bounded_size() {
        let points: Vec<_> =
            (0..160).map(|at| point(at, &std::array::from_fn::<_, 13, _>(|bucket| (bucket, 1 << bucket)))).collect();
        let axis = TimeAxis { from: points[0].at, to: points[159].at };
        let page = heat_map(&points, axis, TimeAnchor::booted_at(std::time::UNIX_EPOCH), "i").into_string();
        assert!(columns(&points).len() <= MAX_COLUMNS);
        assert!(page.len() < 30_000, "{}", page.len());
    }
}
