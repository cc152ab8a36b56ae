//! Parts of the page of `closewait status` that a live view shows, as plain lines.

use super::{
    Screen, StatusPage, blocks, headline, is_calm, label,
    rows::{self, RowTrend},
    wrap,
};
use crate::{
    clock::TimeAnchor,
    sink::{schema, table, text},
};
use closewait_engine::{
    model::{IncidentReport, Pileup},
    time::BootTime,
};

/// Returns the number of sockets and groups in one sentence.
pub fn summary(report: &IncidentReport) -> String {
    headline(report)
}

/// Returns the table of groups in lines of at most `width` columns, the heading first. Rows without a trend have no graph.
pub fn group_table(pileups: &[&Pileup], trends: &[RowTrend], report: &IncidentReport, width: usize) -> Vec<String> {
    let screen = Screen { width, height: None, color: false };
    let mut table = Vec::new();
    // Writing to a Vec cannot fail.
    let _infallible: std::io::Result<()> = rows::write(pileups, trends, report, screen, &[], &mut table);
    String::from_utf8_lossy(&table).lines().map(str::to_owned).collect()
}

/// Returns the class of a group as the table shows it.
pub fn class_label(pileup: &Pileup) -> String {
    label(pileup)
}

/// Returns the owner of a group, and its port or remote endpoint.
pub fn group_name(pileup: &Pileup) -> String {
    format!("{} {}", rows::who(pileup), rows::port(&pileup.group))
}

/// Whether a group needs no action, or it is too early to tell.
pub fn needs_no_action(pileup: &Pileup) -> bool {
    is_calm(pileup)
}

/// Lines about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDetails {
    /// Class, owner, port and times.
    pub title: Vec<String>,
    /// Reason of the verdict and evidence, the most important first.
    pub evidence: Vec<String>,
}

impl GroupDetails {
    /// Formats a group of `report` in lines of at most `width` columns.
    pub fn new(pileup: &Pileup, report: &IncidentReport, anchor: TimeAnchor, width: usize) -> Self {
        let page = StatusPage { report, anchor, is_root: true, notes: &[], socket: None };
        let evidence = text::pileup::evidence(pileup, report.at, None);
        // The command has its own place.
        let evidence = evidence.iter().filter(|line| !line.starts_with("    "));
        Self {
            title: wrap(&blocks::title(pileup, &page), width, ""),
            evidence: evidence.flat_map(|line| wrap(line, width, "  ")).collect(),
        }
    }
}

/// Returns the time of day in UTC: `22:45:20Z`.
pub fn time_of_day(at: BootTime, anchor: TimeAnchor) -> String {
    let time = schema::time(anchor.wall(at));
    format!("{}Z", time.get(11..19).unwrap_or_default())
}

/// Wraps text at words in lines of at most `width` columns.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    wrap(text, width.max(1), "")
}

/// Returns the number of columns that text takes on a terminal.
pub fn columns(text: &str) -> usize {
    table::width(text)
}
