//! Counts of groups over the session, and their graphs.

use std::{collections::VecDeque, time::Duration};

use closewait_engine::{
    model::{IncidentReport, Pileup, PileupGroup},
    text::rate,
    time::BootTime,
};

/// Maximum number of counts of a group. Over it, every second one is dropped, so that the whole session remains.
const MAX_POINTS: usize = 240;
/// Time over which growth is measured.
const GROWTH_SPAN: Duration = Duration::from_secs(60);
/// Minimum time between the counts that growth is measured with.
const MIN_GROWTH_SPAN: Duration = Duration::from_secs(5);
/// Characters of a graph, in ascending order.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Number of sockets at one time.
type CountPoint = (BootTime, u64);

/// Counts of all groups of the last report, since the session began.
#[derive(Clone, Debug, Default)]
pub(super) struct SessionCounts {
    groups: Vec<(PileupGroup, VecDeque<CountPoint>)>,
}

impl SessionCounts {
    /// Adds the counts of a report. Forgets groups that have ended.
    pub(super) fn add(&mut self, report: &IncidentReport) {
        let mut before = std::mem::take(&mut self.groups);
        for reported in &report.groups {
            let Pileup { group, count, .. } = &reported.pileup;
            let known = before.iter().position(|(of, _)| of == group);
            let (_, mut points) = known.map_or_else(|| (group.clone(), VecDeque::new()), |at| before.swap_remove(at));
            if points.back().is_none_or(|(at, _)| *at < report.at) {
                points.push_back((report.at, *count));
            }
            if points.len() > MAX_POINTS {
                let mut number = 0_usize;
                points.retain(|_| {
                    number += 1;
                    number % 2 == 1
                });
            }
            self.groups.push((group.clone(), points));
        }
    }

    fn points(&self, group: &PileupGroup) -> impl Iterator<Item = CountPoint> + '_ {
        let found = self.groups.iter().find(|(of, _)| of == group);
        found.into_iter().flat_map(|(_, points)| points.iter().copied())
    }

    /// Returns a graph of the counts of a group until `at`, at most `width` characters.
    pub(super) fn graph(&self, pileup: &Pileup, at: BootTime, width: usize) -> String {
        let session: Vec<CountPoint> = self.points(&pileup.group).filter(|(of, _)| *of < at).collect();
        let first = session.first().map_or(at, |(first, _)| *first);
        // The agent has counts from before the session.
        let history = pileup.evidence.history.iter().map(|moment| (moment.at, moment.count));
        let mut points: Vec<CountPoint> = history.filter(|(of, _)| *of < first).collect();
        points.extend(session);
        points.push((at, pileup.count));
        graph(&points, width)
    }

    /// Returns the growth of a group per second over the last minute; `None` if it was counted for less than 5 s.
    pub(super) fn growth(&self, group: &PileupGroup) -> Option<f64> {
        let points: Vec<CountPoint> = self.points(group).collect();
        let (at, count) = points.last()?;
        let (since, before) = points.iter().find(|(of, _)| at.since(*of) <= GROWTH_SPAN)?;
        let span = at.since(*since);
        (span >= MIN_GROWTH_SPAN).then(|| (*count as f64 - *before as f64) / span.as_secs_f64())
    }
}

/// Formats growth for a table.
pub(super) fn growth_text(per_second: f64) -> String {
    match per_second {
        0.0 => "0".to_owned(),
        0.0.. => format!("+{}", rate(per_second)),
        _ => rate(per_second),
    }
}

/// Returns the graph of counts at even intervals; empty for fewer than two counts. A level count is a line in the middle.
fn graph(points: &[CountPoint], width: usize) -> String {
    let [(begin, _), .., (end, _)] = points else { return String::new() };
    let (highest, lowest) =
        (points.iter().map(|(_, count)| *count).max(), points.iter().map(|(_, count)| *count).min());
    let highest = highest.unwrap_or_default();
    let span = end.0.saturating_sub(begin.0);
    let level = |column: usize| {
        let until = begin.0 + (u128::from(span) * (column as u128 + 1) / width.max(1) as u128) as u64;
        let count = points.iter().take_while(|(at, _)| at.0 <= until).last().map_or(0, |(_, count)| *count);
        let most = LEVELS.len() as u64 - 1;
        if lowest == Some(highest) { most / 2 } else { count * most / highest.max(1) }
    };
    (0..width).map(|column| LEVELS.get(level(column) as usize).copied().unwrap_or('█')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(counts: &[u64]) -> Vec<CountPoint> {
        counts.iter().zip(1..).map(|(count, second)| (BootTime(second * 1_000_000_000), *count)).collect()
    }

    #[test]
    fn a_graph_rises_from_zero() {
        assert_eq!(graph(&points(&[0, 1, 2, 3, 4, 5, 6, 7]), 7), "▂▃▄▅▆▇█");
        assert_eq!(graph(&points(&[100, 50, 0]), 2), "▄▁");
        assert_eq!(graph(&points(&[6, 6, 6]), 4), "▄▄▄▄");
        assert_eq!(graph(&points(&[6]), 4), "");
    }

    #[test]
    fn a_long_session_keeps_its_beginning_and_its_end() {
        let mut counts = SessionCounts::default();
        let mut report = super::super::tests::report(vec![super::super::tests::hung(1, 80)]);
        for second in 1..=1000 {
            report.at = BootTime(second * 1_000_000_000);
            report.groups[0].pileup.count = second;
            counts.add(&report);
        }
        let kept: Vec<CountPoint> = counts.points(&report.groups[0].pileup.group).collect();
        assert!(kept.len() <= MAX_POINTS, "{}", kept.len());
        assert_eq!((kept[0].1, kept[kept.len() - 1].1), (1, 1000));
        assert_eq!(counts.growth(&report.groups[0].pileup.group), Some(1.0));
        report.groups.clear();
        counts.add(&report);
        assert!(counts.groups.is_empty(), "ended groups are forgotten");
    }
}
