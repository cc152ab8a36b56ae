//! Charts and table of the course of an incident.

use std::time::Duration;

use maud::{Markup, html};

use super::{
    super::{ReportPage, content::amount, timeline::Timeline},
    ages,
    scale::{self, TimeAxis, ValueAxis, WIDTH},
    words::{self, foreign},
};
use crate::clock::TimeAnchor;
use closewait_engine::{
    model::{CoursePoint, FirstForecast, IncidentCourse, Limit, Milestone, MilestoneKind},
    text::{count, rate},
    time::BootTime,
};

/// Maximum number of points that are drawn: more than pixels of a narrow page would not be seen.
const MAX_POINTS: usize = 160;
/// Maximum number of marks in a chart: each can need a row of its own.
const MAX_MARKS: usize = 12;
/// Maximum number of events in the table.
const MAX_ROWS: usize = 24;
/// Maximum number of known numbers of descriptors that are drawn as dots: they are read only now and then.
const MAX_DOTS: usize = 24;
/// Minimum time over which a rate is measured.
const MIN_STEP: Duration = Duration::from_secs(1);
/// Maximum number of rates.
const MAX_STEPS: u32 = 120;
/// Heights of the areas of both charts, pixels.
const COURSE_HEIGHT: f64 = 200.0;
const FLOW_HEIGHT: f64 = 96.0;
/// Height of the labels of the axis of time, and of a row of other labels, pixels.
pub(super) const AXIS_HEIGHT: f64 = 20.0;
const ROW_HEIGHT: f64 = 16.0;
/// Width of the narrowest chart whose marks have words, pixels. The style sheet hides the words on narrower pages.
const WORDS_WIDTH: f64 = 600.0;
/// Width of a character of a label, and of the number before it, pixels; both are generous.
const CHARACTER_WIDTH: f64 = 6.6;
const NUMBER_WIDTH: f64 = 22.0;
/// A limit beyond this multiple of the highest count would flatten the curves, so the chart ends below it.
const MAX_LIMIT_FACTOR: f64 = 3.0;
/// Largest part of the chart before the first count and after the last, as a divisor of the time between both.
const MARGIN_DIVISOR: u32 = 3;

/// Charts of an incident.
pub(super) struct CourseCharts<'a> {
    /// Course of the incident.
    pub(super) course: &'a IncidentCourse,
    /// Limit that the chart shows, with its maximum.
    pub(super) limit: Option<(Limit, u64)>,
    /// Prefix of the element identifiers, unique in the page.
    pub(super) prefix: String,
    /// Page with the charts.
    pub(super) page: &'a ReportPage<'a>,
}

impl CourseCharts<'_> {
    /// Returns all charts, or the reason why there are none.
    pub(super) fn charts(&self) -> Markup {
        let points = thin(&self.course.points, MAX_POINTS);
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            return html! { p.note { (super::NO_COUNTS) } };
        };
        if points.len() < 2 {
            return html! { p.note { "There is one count so far, too few for a chart." } };
        }
        let axis = self.axis(first.at, last.at);
        html! {
            (self.timeline(&points, axis))
            (self.flows(&points, axis))
            (ages::heat_map(&points, axis, self.page.anchor, &self.prefix))
        }
    }

    /// Returns the axis of time: all counts, and what is near them of milestones and forecast.
    fn axis(&self, first: BootTime, last: BootTime) -> TimeAxis {
        let margin = last.since(first) / MARGIN_DIVISOR;
        let times = self.course.milestones.iter().map(|milestone| milestone.at);
        let times = times.chain(self.course.forecast.map(|forecast| forecast.exhausted_at + margin / 4));
        let (mut from, mut to) = (first, last);
        for time in times.filter(|time| first - margin <= *time && *time <= last + margin) {
            (from, to) = (from.min(time), to.max(time));
        }
        TimeAxis { from, to }
    }

    fn timeline(&self, points: &[CoursePoint], axis: TimeAxis) -> Markup {
        let counts = points.iter().map(|point| point.count);
        let highest = counts.chain(self.descriptors(points).into_iter().map(|(_, open)| open)).max().unwrap_or(0);
        let most = self.limit.map_or(0.0, |(_, most)| most as f64);
        let shows_limit = most > 0.0 && most <= highest as f64 * MAX_LIMIT_FACTOR;
        let top = if shows_limit { most.max(highest as f64) * 1.1 } else { (highest as f64 * 1.15).max(1.0) };
        let values = ValueAxis { most: top, height: COURSE_HEIGHT };
        let at = |time, value: u64| (axis.x(time), values.y(value as f64));
        let counts: Vec<_> = points.iter().map(|point| at(point.at, point.count)).collect();
        let stuck: Vec<_> = points.iter().map(|point| at(point.at, point.stuck)).collect();
        let descriptors: Vec<_> = self
            .descriptors(points)
            .into_iter()
            .filter(|(time, _)| axis.contains(*time))
            .map(|(time, open)| at(time, open))
            .collect();
        let marks = self.marks(axis);
        let rows = marks.iter().map(|mark| mark.row + 1).max().unwrap_or(0);
        let above = rows as f64 * ROW_HEIGHT + 8.0;
        let height = above + COURSE_HEIGHT + AXIS_HEIGHT;
        let (title, desc) = (format!("{}-t", self.prefix), format!("{}-d", self.prefix));
        html! {
            figure {
                figcaption { "Sockets in CLOSE_WAIT over time" }
                svg role="img" width="100%" height=(px(height)) aria-labelledby={ (title) " " (desc) } {
                    title id=(title) { "Sockets in CLOSE_WAIT over time" }
                    desc id=(desc) { (self.description(points)) }
                    (grid(&values, above))
                    svg y=(px(above)) width="100%" height=(px(COURSE_HEIGHT)) viewBox=(view(COURSE_HEIGHT))
                        preserveAspectRatio="none" {
                        path.count d=(scale::area(&counts, COURSE_HEIGHT)) {}
                        path.stuck d=(scale::area(&stuck, COURSE_HEIGHT)) {}
                        @if let Some(forecast) = &self.course.forecast { (cone(forecast, axis, values)) }
                        path.edge d=(scale::line(counts)) {}
                        path.open d=(scale::line(descriptors.iter().copied())) {}
                        @if descriptors.len() <= MAX_DOTS { path.dots d=(scale::dots(&descriptors)) {} }
                    }
                    @if shows_limit {
                        @let y = px(above + values.y(most));
                        line.limit x1="0" x2="100%" y1=(y) y2=(y) {}
                    }
                    (grid_labels(&values, above))
                    @if let Some((limit, most)) = self.limit.filter(|_| shows_limit) {
                        text.limit x="64" y=(px(above + values.y(most as f64) - 4.0)) {
                            (format!("limit: {most} {}", limit.name()))
                        }
                    }
                    @for mark in &marks {
                        @let x = percent(mark.x);
                        line.mark x1=(x) x2=(x) y1=(px(mark.row as f64 * ROW_HEIGHT + 3.0)) y2=(px(above + COURSE_HEIGHT)) {}
                        text.mark x=(x) dx=(if mark.ends { "-4" } else { "4" }) y=(px(mark.row as f64 * ROW_HEIGHT + 13.0))
                            text-anchor=(if mark.ends { "end" } else { "start" }) {
                            tspan.number { (mark.number) } tspan.word { " " (mark.name) }
                        }
                    }
                    @for x in self.doublings(axis) {
                        @let x = percent(x);
                        line.doubling x1=(x) x2=(x) y1=(px(above + COURSE_HEIGHT - 8.0)) y2=(px(above + COURSE_HEIGHT)) {}
                    }
                    (time_labels(axis, self.page.anchor, above + COURSE_HEIGHT))
                }
                (self.legend(&descriptors, shows_limit, highest))
                @if let Some(forecast) = &self.course.forecast { p.note { (self.forecast(forecast)) } }
            }
        }
    }

    fn legend(&self, descriptors: &[(f64, f64)], shows_limit: bool, highest: u64) -> Markup {
        let doubled = self.course.milestones.iter().any(|milestone| milestone.kind == MilestoneKind::Doubled);
        html! {
            ul.legend {
                li { (swatch("count", "M0 10L24 2V14H0Z")) "in CLOSE_WAIT" }
                li { (swatch("stuck", "M0 12L24 6V14H0Z")) "stuck among them" }
                @if !descriptors.is_empty() { li { (swatch("open", "M0 11L24 3")) "open descriptors" } }
                @if shows_limit { li { (swatch("limit", "M0 8H24")) "limit" } }
                @if self.course.forecast.is_some() {
                    li { (swatch("cone", "M0 12L24 2V12Z")) "first forecast" }
                }
                @if doubled { li { (swatch("doubling", "M12 6V14")) "doubled" } }
                @if let Some((limit, most)) = self.limit.filter(|_| !shows_limit) {
                    li { (format!("the limit of {most} {} is above the chart, whose highest value is {highest}", limit.name())) }
                }
            }
        }
    }

    /// Returns the known numbers of open descriptors, from counts and milestones.
    fn descriptors(&self, points: &[CoursePoint]) -> Vec<(BootTime, u64)> {
        let counted = points.iter().filter_map(|point| Some((point.at, point.descriptors?)));
        let reported = self.course.milestones.iter().filter_map(|milestone| match milestone.used {
            Some((Limit::Descriptors, used, _)) => Some((milestone.at, used)),
            Some((Limit::Backlog | Limit::Connections, ..)) | None => None,
        });
        let mut known: Vec<_> = counted.chain(reported).collect();
        known.sort_unstable();
        known.dedup_by_key(|(at, _)| *at);
        known
    }

    fn description(&self, points: &[CoursePoint]) -> String {
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return String::new() };
        let highest = points.iter().map(|point| point.count).max().unwrap_or(0);
        let mut text = format!(
            "{} sockets at {}, {} at {}, at most {highest}.",
            first.count,
            self.page.clock(first.at),
            last.count,
            self.page.clock(last.at)
        );
        if let Some(open) = last.descriptors {
            text.push_str(&format!(" {open} descriptors are open at the end."));
        }
        if let Some((limit, most)) = self.limit {
            text.push_str(&format!(" The limit is {most} {}.", limit.name()));
        }
        text
    }

    /// Returns the marks of the milestones on the axis, with their numbers in the table. Doublings have none.
    fn marks(&self, axis: TimeAxis) -> Vec<ChartMark> {
        let marked: Vec<_> = numbers(&self.course.milestones)
            .into_iter()
            .zip(&self.course.milestones)
            .filter_map(|(number, one)| Some((number?, one)))
            .filter(|(_, one)| axis.contains(one.at))
            .take(MAX_MARKS)
            .collect();
        let width = |name: &str| (NUMBER_WIDTH + name.len() as f64 * CHARACTER_WIDTH) / WORDS_WIDTH * 100.0;
        let labels: Vec<_> =
            marked.iter().map(|(_, one)| (axis.percent(one.at), width(words::mark(one.kind)))).collect();
        let placed = scale::place(&labels).into_iter().zip(marked);
        placed
            .map(|(scale::Placed { x, row, ends }, (number, one))| ChartMark {
                number,
                name: words::mark(one.kind),
                x,
                row,
                ends,
            })
            .collect()
    }

    fn doublings(&self, axis: TimeAxis) -> impl Iterator<Item = f64> {
        let doubled = self.course.milestones.iter().filter(|one| one.kind == MilestoneKind::Doubled);
        doubled.filter(move |one| axis.contains(one.at)).map(move |one| axis.percent(one.at))
    }

    /// Returns the chart of entries above and exits below zero.
    fn flows(&self, points: &[CoursePoint], axis: TimeAxis) -> Markup {
        let steps: Vec<_> = steps(points, axis)
            .into_iter()
            .map(|(from, to, entered, left)| {
                let seconds = to.since(from).as_secs_f64();
                (axis.x(from), axis.x(to), entered as f64 / seconds, left as f64 / seconds)
            })
            .collect();
        let most = |of: fn(&(f64, f64, f64, f64)) -> f64| steps.iter().map(of).fold(0.0, f64::max);
        let (entered, left) = (most(|step| step.2), most(|step| step.3));
        let highest = entered.max(left);
        if highest <= 0.0 {
            return html! { p.note { "No socket entered or exited CLOSE_WAIT in this time." } };
        }
        let half = FLOW_HEIGHT / 2.0;
        let values = ValueAxis { most: highest * 1.05, height: half };
        let along = |above: bool| -> Vec<(f64, f64)> {
            let y = |entered: f64, left: f64| if above { values.y(entered) } else { FLOW_HEIGHT - values.y(left) };
            steps
                .iter()
                .flat_map(|(from, to, entered, left)| [(*from, y(*entered, *left)), (*to, y(*entered, *left))])
                .collect()
        };
        let (title, desc) = (format!("{}-ft", self.prefix), format!("{}-fd", self.prefix));
        let zero = px(half);
        html! {
            figure {
                figcaption { "Entries and exits a second" }
                svg role="img" width="100%" height=(px(FLOW_HEIGHT + AXIS_HEIGHT)) aria-labelledby={ (title) " " (desc) } {
                    title id=(title) { "Entries and exits a second" }
                    desc id=(desc) { (format!("At most {} entered and {} exited.", rate(entered), rate(left))) }
                    svg width="100%" height=(px(FLOW_HEIGHT)) viewBox=(view(FLOW_HEIGHT)) preserveAspectRatio="none" {
                        path.entered d=(scale::area(&along(true), half)) {}
                        path.left d=(scale::area(&along(false), half)) {}
                    }
                    line.zero x1="0" x2="100%" y1=(zero) y2=(zero) {}
                    (time_labels(axis, self.page.anchor, FLOW_HEIGHT))
                }
                ul.legend {
                    li { (swatch("entered", "M0 2H24V10H0Z")) "above the line: entered, " (at_most(entered)) }
                    li { (swatch("left", "M0 4H24V12H0Z")) "below the line: exited, " (at_most(left)) }
                }
            }
        }
    }

    /// Returns the first forecast in a sentence. The timeline compares it with what came about.
    fn forecast(&self, forecast: &FirstForecast) -> String {
        let FirstForecast { made_at, limit, used, most, exhausted_at, earliest, latest } = *forecast;
        let clock = |at| self.page.clock(at);
        let range = match latest.map(clock) {
            Some(latest) if latest == clock(earliest) => String::new(),
            Some(latest) => format!(", between {} and {latest}", clock(earliest)),
            None => format!(", not before {}", clock(earliest)),
        };
        let (amount, made, at) = (amount((limit, used, limit.configured(most))), clock(made_at), clock(exhausted_at));
        format!("First forecast at {made}, with {amount}: exhausted at {at}{range}.")
    }
}

/// Returns the table of a timeline. Events in the chart have their number in it.
pub(super) fn table(timeline: &Timeline, milestones: &[Milestone]) -> Markup {
    let numbers = numbers(milestones);
    let more = timeline.rows.len().saturating_sub(MAX_ROWS);
    html! {
        figure {
            figcaption { "Timeline, in UTC" }
            table.timeline {
                thead { tr {
                    th scope="col" { "No." } th scope="col" { "Time" } th scope="col" { "Event" } th.amount scope="col" { "Counts" }
                } }
                tbody {
                    @for (at, row) in timeline.rows.iter().take(MAX_ROWS).enumerate() {
                        tr {
                            td { @match numbers.get(at) { Some(Some(number)) => (number), _ => "·" } }
                            td.keep { (row.time) }
                            td.event { (foreign(&row.what)) }
                            td.amount { (foreign(&row.counts)) }
                        }
                    }
                }
            }
            @if more > 0 { p.note { (count(more as u64, "more event")) " not shown." } }
        }
    }
}

/// Returns the numbers of milestones in charts and tables. Doublings have none: there can be many.
fn numbers(milestones: &[Milestone]) -> Vec<Option<usize>> {
    let mut next = 0;
    let number = |milestone: &Milestone| {
        let is_doubling = milestone.kind == MilestoneKind::Doubled;
        next += usize::from(!is_doubling);
        (!is_doubling).then_some(next)
    };
    milestones.iter().map(number).collect()
}

/// Formats the highest rate.
fn at_most(per_second: f64) -> String {
    if per_second > 0.0 { format!("at most {}", rate(per_second)) } else { "none".to_owned() }
}

/// Returns entries and exits between two times, over at least [`MIN_STEP`] each: two counts can be so close that their rate would
/// say nothing.
fn steps(points: &[CoursePoint], axis: TimeAxis) -> Vec<(BootTime, BootTime, u64, u64)> {
    let least = MIN_STEP.max(axis.to.since(axis.from) / MAX_STEPS);
    let mut steps: Vec<(BootTime, BootTime, u64, u64)> = Vec::new();
    for pair in points.windows(2) {
        let [before, point] = pair else { continue };
        match steps.last_mut() {
            Some((from, to, entered, left)) if to.since(*from) < least => {
                (*to, *entered, *left) = (point.at, *entered + point.entered, *left + point.left);
            }
            Some(_) | None => steps.push((before.at, point.at, point.entered, point.left)),
        }
    }
    // The rest after the last whole step belongs to that step.
    if let [.., (_, to, entered, left), rest] = &mut steps[..]
        && rest.1.since(rest.0) < least
    {
        (*to, *entered, *left) = (rest.1, *entered + rest.2, *left + rest.3);
        steps.pop();
    }
    steps.retain(|(from, to, ..)| from < to);
    steps
}

/// Label of a milestone in the chart.
struct ChartMark {
    /// Number in the table.
    number: usize,
    name: &'static str,
    /// Position, percent of the width.
    x: f64,
    row: usize,
    /// Whether the label ends at its position.
    ends: bool,
}

/// Returns the area between the earliest and the latest exhaustion, and the forecast itself.
fn cone(forecast: &FirstForecast, axis: TimeAxis, values: ValueAxis) -> Markup {
    let FirstForecast { made_at, used, most, exhausted_at, earliest, latest, .. } = *forecast;
    if !axis.contains(made_at) {
        return html! {};
    }
    // Times beyond the axis stay on their line: the chart clips it.
    let point = |time: BootTime, value: u64| {
        let all = axis.to.since(axis.from).as_secs_f64();
        (time.since(axis.from).as_secs_f64() / all.max(f64::MIN_POSITIVE) * WIDTH, values.y(value as f64))
    };
    let start = point(made_at, used);
    let slow = match latest {
        Some(latest) => vec![point(latest, most)],
        None => vec![(WIDTH, values.y(most as f64)), (WIDTH, start.1)],
    };
    let edge = [start, point(earliest, most)].into_iter().chain(slow);
    html! {
        path.cone d={ (scale::line(edge)) "Z" } {}
        path.forecast d=(scale::line([start, point(exhausted_at, most)])) {}
    }
}

fn grid(values: &ValueAxis, above: f64) -> Markup {
    let base = px(above + values.height);
    html! {
        @for (_, y) in values.ticks() {
            @let y = px(above + y);
            line.grid x1="0" x2="100%" y1=(y) y2=(y) {}
        }
        line.zero x1="0" x2="100%" y1=(base) y2=(base) {}
    }
}

fn grid_labels(values: &ValueAxis, above: f64) -> Markup {
    html! { @for (value, y) in values.ticks() { text.tick x="0" y=(px(above + y - 3.0)) { (format!("{value}")) } } }
}

pub(super) fn time_labels(axis: TimeAxis, anchor: TimeAnchor, top: f64) -> Markup {
    html! {
        @for (x, label) in axis.ticks(anchor) {
            @let x = percent(x);
            line.zero x1=(x) x2=(x) y1=(px(top)) y2=(px(top + 4.0)) {}
            text.tick x=(x) y=(px(top + 16.0)) text-anchor="middle" { (label) }
        }
    }
}

pub(super) fn swatch(class: &str, path: &str) -> Markup {
    html! { svg.swatch width="24" height="14" aria-hidden="true" { path class=(class) d=(path) {} } }
}

/// Returns fewer points of the same course: the first one, and the last of each of at most `most` parts.
pub(super) fn thin(points: &[CoursePoint], most: usize) -> Vec<CoursePoint> {
    let Some((first, rest)) = points.split_first() else { return Vec::new() };
    let parts = rest.chunks(rest.len().div_ceil(most).max(1)).filter_map(|part| {
        let mut merged = *part.last()?;
        merged.entered = part.iter().map(|point| point.entered).sum();
        merged.left = part.iter().map(|point| point.left).sum();
        merged.descriptors = part.iter().rev().find_map(|point| point.descriptors);
        merged.ages = part.iter().rev().find_map(|point| point.ages);
        Some(merged)
    });
    [*first].into_iter().chain(parts).collect()
}

pub(super) fn px(value: f64) -> String {
    format!("{value:.0}")
}

fn percent(value: f64) -> String {
    format!("{value:.2}%")
}

pub(super) fn view(height: f64) -> String {
    format!("0 0 {WIDTH} {height}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: u64) -> BootTime {
        BootTime(second * 1_000_000_000)
    }

    #[test]
    fn rates_are_measured_over_at_least_a_second() {
        let point = |millis: u64, entered: u64| CoursePoint {
            at: BootTime(millis * 1_000_000),
            entered,
            left: 1,
            ..CoursePoint::default()
        };
        let points = [point(0, 9), point(30, 1), point(1000, 19), point(2000, 20), point(2000, 5)];
        let axis = TimeAxis { from: second(0), to: second(2) };
        let all = steps(&points, axis);
        assert_eq!(all, [(second(0), second(1), 20, 2), (second(1), second(2), 25, 2)]);
        assert_eq!(steps(&points[..1], axis), []);
    }

    #[test]
    fn a_thinned_course_keeps_its_ends_and_all_entries() {
        let point =
            |at: u64| CoursePoint { at: second(at), count: at * 3, entered: 4, left: 1, ..CoursePoint::default() };
        let points: Vec<_> = (0..1001).map(point).collect();
        let thinned = thin(&points, MAX_POINTS);
        assert!(thinned.len() <= MAX_POINTS + 1, "{}", thinned.len());
        assert_eq!(
            (thinned.first(), thinned.last().map(|last| (last.at, last.count))),
            (points.first(), Some((second(1000), 3000)))
        );
        assert_eq!(
            thinned
                .iter()
                .map(|point| (point.entered, point.left))
                .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1)),
            (4004, 1001)
        );
        assert_eq!((thin(&points[..3], MAX_POINTS), thin(&[], MAX_POINTS)), (points[..3].to_vec(), vec![]));
    }
}
