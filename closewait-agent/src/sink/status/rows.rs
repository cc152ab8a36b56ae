//! Table of groups.

use std::io;

use super::{
    super::{
        list::rows::push_endpoint,
        table::{self, Align, Column, Concession},
    },
    Screen, is_calm, label, sgr,
};
use closewait_engine::{
    model::{Dwell, IncidentReport, Limit, Pileup, PileupGroup, Shape, Slope},
    snapshot::urgency::NEAR_LIMIT,
    text::{self, duration, rate},
};

/// Order in which columns give way on a narrow screen. Letters of the owner come last, except those of extreme names.
const CONCESSIONS: [Concession; 10] = [
    Concession::Shrink("WHO", 48),
    Concession::Drop("LIMIT"),
    Concession::Drop("OLDEST"),
    Concession::Shrink("PORT", 14),
    Concession::Drop("GROWS"),
    Concession::Shrink("WHO", 30),
    Concession::Drop("FULL IN"),
    Concession::Shrink("PORT", 8),
    Concession::Shrink("WHO", 12),
    Concession::Drop("PORT"),
];
/// Order in which columns give way beside graphs.
const LIVE_CONCESSIONS: [Concession; 11] = [
    Concession::Shrink("WHO", 48),
    Concession::Drop("LIMIT"),
    Concession::Drop("OLDEST"),
    Concession::Shrink("PORT", 14),
    Concession::Shrink("PORT", 8),
    Concession::Drop("TREND"),
    Concession::Drop("GROWS"),
    Concession::Shrink("WHO", 30),
    Concession::Drop("FULL IN"),
    Concession::Shrink("WHO", 12),
    Concession::Drop("PORT"),
];
/// Minimum change of the count, as a multiple of its possible error, that is shown for a group that is not old enough to have a shape
/// that grows.
const CLEAR: f64 = 2.0;
/// Color of a limit that is reached.
pub(in crate::sink) const FULL: &str = "1;37;41";

/// Course of a group's count that a live view adds to its row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowTrend {
    /// Graph of the counts, one character each.
    pub graph: String,
    /// Growth that the view has measured itself; `None` to show that of the agent.
    pub growth: Option<String>,
}

/// Headings of all columns but the first, which has none.
pub(in crate::sink) const HEADINGS: [&str; 7] = ["WHO", "PORT", "SOCKETS", "GROWS", "OLDEST", "LIMIT", "FULL IN"];

/// Writes the table, with its heading. Rows without a trend have no graph. If `chosen` is not empty, it has the headings of the columns behind the first.
///
/// # Errors
///
/// If `to` fails.
pub(super) fn write(
    pileups: &[&Pileup],
    trends: &[RowTrend],
    report: &IncidentReport,
    screen: Screen,
    chosen: &[String],
    to: &mut impl io::Write,
) -> io::Result<()> {
    let column = |name, align| Column::new(name, align, pileups.len());
    let (mut class, mut owner, mut ports) =
        (column("", Align::Left), column("WHO", Align::Left), column("PORT", Align::Left));
    let (mut sockets, mut grows, mut oldest) =
        (column("SOCKETS", Align::Right), column("GROWS", Align::Right), column("OLDEST", Align::Right));
    let mut graph = column("TREND", Align::Left);
    let (mut limit, mut full_in) = (column("LIMIT", Align::Right), column("FULL IN", Align::Right));
    for (at, pileup) in pileups.iter().enumerate() {
        let trend = trends.get(at);
        // A line of a calm group is dim as a whole.
        let colored = screen.color && !is_calm(pileup);
        class.text().push_str(&label(pileup));
        class.end_in(if colored { sgr(pileup.severity()) } else { None });
        let (tail, rest) = push_who(owner.text(), pileup);
        owner.end_keeping(tail, rest);
        let text = port(&pileup.group);
        ports.text().push_str(&text);
        ports.end_keeping(text.rfind(':').map_or(0, |colon| text.len() - colon), 0);
        sockets.text().push_str(&pileup.count.to_string());
        sockets.end();
        graph.text().push_str(trend.map_or("", |trend| &trend.graph));
        graph.end();
        let measured = trend.and_then(|trend| trend.growth.clone());
        grows.text().push_str(&measured.unwrap_or_else(|| growth(pileup)));
        grows.end();
        oldest.text().push_str(&age(pileup, report));
        oldest.end();
        limit.text().push_str(&usage(pileup));
        limit.end();
        let (text, color) = time_left(pileup);
        full_in.text().push_str(&text);
        full_in.end_in(if colored { color } else { None });
    }
    let columns = [class, owner, ports, sockets, graph, grows, oldest, limit, full_in].into_iter();
    let is_chosen = !chosen.is_empty();
    let columns: Vec<Column> = columns.filter(|column| is_chosen || !column.is_blank()).collect();
    let columns = if is_chosen {
        let chosen: Vec<String> = std::iter::once(String::new()).chain(chosen.iter().cloned()).collect();
        table::choose(columns, &chosen)
    } else {
        columns
    };
    let concessions: &[Concession] = if trends.is_empty() { &CONCESSIONS } else { &LIVE_CONCESSIONS };
    table::write(&columns, Some(screen.width), &table::sparing(concessions, is_chosen), to)
}

/// Returns the name of the owner, and the number of other owners.
pub(in crate::sink) fn who(pileup: &Pileup) -> String {
    let mut text = String::new();
    push_who(&mut text, pileup);
    text
}

/// Adds the owner. Returns the number of bytes to keep when the cell is cut, and the number of bytes behind them to cut first.
fn push_who(to: &mut String, pileup: &Pileup) -> (usize, usize) {
    let before = to.len();
    match pileup.service().name() {
        Some(name) => to.push_str(&name),
        None if pileup.owners.is_some() => to.push_str("no process"),
        None => to.push('?'),
    }
    let others = pileup.owners.as_deref().map_or(0, <[_]>::len).saturating_sub(1);
    if others > 0 {
        to.push_str(&format!(" +{others}"));
    }
    let name = to.get(before..).unwrap_or_default();
    let length = name.len();
    // Of `python3[12782] orders.py`, the pid is cut last. Of a path, its end is.
    match (name.find('['), name.find(']')) {
        (Some(pid), Some(end)) if pid < end => (end + 1 - pid, length - end - 1),
        _ => (length.min(10), 0),
    }
}

/// Formats the port of a server, or the remote endpoint of a client: `:8080`, `>10.0.0.7:443`.
pub(in crate::sink) fn port(group: &PileupGroup) -> String {
    match (group.local_port, group.remote) {
        (Some(port), _) => format!(":{port}"),
        (None, Some(remote)) => {
            let mut text = ">".to_owned();
            push_endpoint(&mut text, remote);
            text
        }
        (None, None) => "*".to_owned(),
    }
}

/// Formats the growth: `-` if no agent watched, or not for long enough.
pub(in crate::sink) fn growth(pileup: &Pileup) -> String {
    let Some((Slope { per_second, error }, shape)) = pileup.slope.zip(pileup.shape) else { return "-".to_owned() };
    let is_level = match shape {
        Shape::Linear | Shape::Accelerating | Shape::Recovering => false,
        // Few sockets may be old enough for an incident yet, although their number grows.
        Shape::Plateau | Shape::Transient => per_second.abs() <= error * CLEAR,
    };
    if is_level {
        return "0".to_owned();
    }
    let sign = if per_second > 0.0 { "+" } else { "" };
    format!("{sign}{}", rate(per_second))
}

/// Formats the age of the oldest socket, with a sign if only a lower bound is known.
pub(in crate::sink) fn age(pileup: &Pileup, report: &IncidentReport) -> String {
    match pileup.evidence.oldest.first().map(|oldest| oldest.dwell) {
        Some(Dwell::Exact(age)) => duration(age),
        Some(Dwell::Between { at_least, .. }) => format!("≥{}", duration(at_least)),
        None => duration(report.at.since(pileup.onset.first_stuck)),
    }
}

/// Limit that a group uses up, with the used amount and the maximum.
pub(in crate::sink) fn used_limit(pileup: &Pileup) -> Option<(Limit, u64, u64)> {
    let evidence = &pileup.evidence;
    let backlog = evidence.backlog.map(|(used, most)| (Limit::Backlog, used.into(), most.into()));
    let descriptors = evidence.process.as_deref().and_then(|process| process.descriptors());
    let descriptors = descriptors.map(|(used, most)| (Limit::Descriptors, used, most));
    let waits = u64::from(evidence.unaccepted) * 2 > pileup.count;
    match pileup.reached_limit().or(pileup.forecast.map(|forecast| forecast.limit)) {
        Some(Limit::Connections) => pileup.forecast.map(|forecast| (forecast.limit, forecast.used, forecast.most)),
        Some(Limit::Backlog) => backlog,
        Some(Limit::Descriptors) => descriptors,
        None => backlog.filter(|_| waits).or(descriptors),
    }
}

/// Formats the used part of a limit: `3285/20k` descriptors, `129/128 backlog`.
fn usage(pileup: &Pileup) -> String {
    let Some((limit, used, most)) = used_limit(pileup) else { return String::new() };
    let what = match limit {
        Limit::Descriptors => "",
        Limit::Backlog => " backlog",
        Limit::Connections => " conns",
    };
    format!("{}/{}{what}", short(used), short(most))
}

/// Formats a number with at most four digits: `9999`, `20k`, `1.0M`.
fn short(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..999_500 => format!("{:.0}k", number as f64 / 1e3),
        _ => format!("{:.1}M", number as f64 / 1e6),
    }
}

/// Formats the time to exhaustion, and returns its color.
fn time_left(pileup: &Pileup) -> (String, Option<&'static str>) {
    if pileup.reached_limit().is_some() {
        return ("FULL".to_owned(), Some(FULL));
    }
    let Some(left) = pileup.forecast.filter(|_| !is_calm(pileup)).map(|forecast| forecast.left) else {
        return (String::new(), None);
    };
    (text::time_left(left), (left < NEAR_LIMIT).then_some("1;31"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_short() {
        for (number, text) in [(9999, "9999"), (20_000, "20k"), (65_536, "66k"), (999_499, "999k"), (1 << 20, "1.0M")] {
            assert_eq!(short(number), text);
        }
    }
}
