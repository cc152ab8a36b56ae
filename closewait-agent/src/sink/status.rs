//! Text and JSON of `closewait status`: all groups on one screen, the most urgent first.

mod blocks;
pub(super) mod json;
pub mod live;
mod rows;
#[cfg(test)]
pub(crate) mod tests;

use std::{fmt::Write as _, io, path::Path};

use self::blocks::Block;
pub use self::rows::RowTrend;
pub(super) use self::{
    json::group_objects,
    rows::{FULL, HEADINGS, age, growth, port, used_limit, who},
};
use super::{
    Form,
    command::flag,
    headline::{ended, urgencies},
    list::{missing, none, still_open},
    table,
};
use crate::clock::TimeAnchor;
use closewait_engine::{
    model::{IncidentReport, Pileup},
    snapshot::urgency::{Severity, Urgency, UrgencyCounts},
    text::{count, duration},
};

/// Minimum number of lines of groups, if there are more groups than fit.
const MIN_ROWS: usize = 3;
/// Minimum number of lines that all groups together are fitted into: fewer would not hold one problem.
const MIN_HEIGHT: usize = 12;
/// First line without privileges, and the command that has them.
const NOT_ROOT: &str = "not root: owners of other users are not seen; sudo closewait";

/// Screen that a page is fitted to.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Number of columns.
    pub width: usize,
    /// Number of rows; `None` to omit nothing.
    pub height: Option<usize>,
    /// Whether to use color.
    pub color: bool,
}

/// Content of the page.
#[derive(Clone, Copy, Debug)]
pub struct StatusPage<'a> {
    /// All groups.
    pub report: &'a IncidentReport,
    /// Relation of the kernel's clock and the wall clock.
    pub anchor: TimeAnchor,
    /// Whether the user is root.
    pub is_root: bool,
    /// Sentences about missing sockets, owners or agents.
    pub notes: &'a [String],
    /// Control socket that the user has given.
    pub socket: Option<&'a Path>,
}

/// Writes the page.
///
/// # Errors
///
/// If it cannot be written as JSON.
pub fn render(page: &StatusPage<'_>, form: Form, screen: Screen, to: &mut Vec<u8>) -> io::Result<()> {
    match form {
        Form::Json => json::write(page.report, page.anchor, to),
        Form::Text => text(page, screen, to),
    }
}

/// Severity of text, as color.
pub(super) fn sgr(severity: Severity) -> Option<&'static str> {
    match severity {
        Severity::Critical | Severity::Error => Some("1;31"),
        // Yellow alone cannot be read on a light background.
        Severity::Warning => Some("1;33"),
        Severity::Info => None,
    }
}

/// Returns the class of a group in capitals, with a question mark if it is a guess, or in small letters if no action is needed.
pub(super) fn label(pileup: &Pileup) -> String {
    if is_calm(pileup) { pileup.verdict.class.name().to_owned() } else { pileup.class_label().to_uppercase() }
}

/// Whether no action is needed, or it is too early to tell.
pub(super) fn is_calm(pileup: &Pileup) -> bool {
    matches!(pileup.urgency(), Urgency::Undecided(_) | Urgency::Normal(_))
}

/// Lines of the page.
pub(super) struct Lines {
    pub(super) screen: Screen,
    pub(super) text: String,
    /// Number of rows that the lines take on the screen.
    rows: usize,
}

impl Lines {
    pub(super) fn new(screen: Screen) -> Self {
        Self { screen, text: String::new(), rows: 0 }
    }

    /// Adds a line, which a narrow terminal can wrap.
    pub(super) fn push(&mut self, line: &str, sgr: Option<&str>) {
        self.rows += rows_of(line, self.screen.width);
        // Writing to a String cannot fail.
        let _infallible: std::fmt::Result = match sgr.filter(|_| self.screen.color && !line.is_empty()) {
            Some(sgr) => writeln!(self.text, "\x1b[{sgr}m{line}\x1b[0m"),
            None => writeln!(self.text, "{line}"),
        };
    }

    /// Adds text, wrapped at words.
    pub(super) fn wrapped(&mut self, text: &str, sgr: Option<&str>) {
        for line in wrap(text, self.screen.width, "") {
            self.push(&line, sgr);
        }
    }
}

/// Returns the number of rows that a line takes.
fn rows_of(line: &str, width: usize) -> usize {
    table::width(line).div_ceil(width.max(1)).max(1)
}

/// Writes the table of these groups, with the columns that the user has `chosen` by their headings; the usual ones if it is empty.
///
/// # Errors
///
/// If `to` fails.
pub(super) fn groups(
    pileups: &[&Pileup],
    report: &IncidentReport,
    screen: Screen,
    chosen: &[String],
    to: &mut impl io::Write,
) -> io::Result<()> {
    rows::write(pileups, &[], report, screen, chosen, to)
}

/// Wraps text at words. All lines but the first begin with `indent`.
pub(super) fn wrap(text: &str, width: usize, indent: &str) -> Vec<String> {
    let options = textwrap::Options::new(width)
        .subsequent_indent(indent)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit);
    textwrap::wrap(text, options).into_iter().map(|line| line.trim_end().to_owned()).collect()
}

fn text(page: &StatusPage<'_>, screen: Screen, to: &mut Vec<u8>) -> io::Result<()> {
    let StatusPage { report, is_root, notes, .. } = *page;
    let mut lines = Lines::new(screen);
    let is_limited = !is_root && (!notes.is_empty() || report.unseen.is_some());
    if is_limited {
        lines.wrapped(NOT_ROOT, Some("1"));
    }
    lines.wrapped(&headline(report), None);
    let problems = report.groups.iter().take_while(|group| !is_calm(&group.pileup)).count();
    let pileups: Vec<&Pileup> = report.groups.iter().map(|group| &group.pileup).collect();
    let (problems, calm) = pileups.split_at(problems);
    let end = end(page, (problems, calm), is_limited, screen);
    if !pileups.is_empty() {
        let shown = if problems.is_empty() { calm } else { problems };
        // The prompt of the shell takes the last row, and two lines are empty.
        let taken = lines.rows + end.rows + 4;
        let room = screen.height.map(|height| height.max(MIN_HEIGHT).saturating_sub(taken));
        body(page, shown, room, &mut lines)?;
    }
    lines.text.push_str(&end.text);
    to.extend_from_slice(lines.text.as_bytes());
    Ok(())
}

/// Adds the table of `shown` groups and the blocks of those that are problems, in `room` rows, without the heading of the table.
fn body(page: &StatusPage<'_>, shown: &[&Pileup], room: Option<usize>, lines: &mut Lines) -> io::Result<()> {
    let screen = lines.screen;
    let blocks: Vec<Block> = shown
        .iter()
        .zip(1..)
        .filter(|(pileup, _)| !is_calm(pileup))
        .map(|(pileup, number)| Block::new(number, pileup, page, screen.width))
        .collect();
    let rows = match room {
        None => shown.len(),
        Some(room) => {
            let first = blocks.first().map_or(0, Block::full_height);
            // Causes get at least half of the room.
            let half = if blocks.is_empty() { room } else { room / 2 };
            let most = room.saturating_sub(first).min(half).max(MIN_ROWS);
            // One line counts the groups that do not fit.
            if shown.len() <= most { shown.len() } else { most - 1 }
        }
    };
    lines.push("", None);
    let (kept, others) = shown.split_at(rows);
    let mut table = Vec::new();
    rows::write(kept, &[], page.report, screen, &[], &mut table)?;
    for (line, group) in String::from_utf8_lossy(&table).lines().zip(std::iter::once(None).chain(kept.iter().map(Some)))
    {
        let dim = group.is_some_and(|pileup| is_calm(pileup)).then_some("2");
        lines.push(line, dim);
    }
    if !others.is_empty() {
        let sockets: u64 = others.iter().map(|pileup| pileup.count).sum();
        lines.wrapped(
            &format!("and {} with {}", count(others.len() as u64, "more group"), count(sockets, "socket")),
            None,
        );
    }
    let used = kept.len() + usize::from(!others.is_empty());
    let heights = blocks::fit(&blocks, room.map(|room| room.saturating_sub(used)));
    if heights.iter().any(|height| height.is_some()) {
        lines.push("", None);
    }
    for (block, height) in blocks.iter().zip(&heights) {
        if let Some(height) = height {
            block.push(*height, lines);
        }
    }
    let omitted = heights.iter().filter(|height| height.is_none()).count();
    if omitted > 0 {
        lines.wrapped(&format!("{} in the report", count(omitted as u64, "more cause")), None);
    }
    Ok(())
}

/// Formats the number of sockets and groups.
pub(super) fn headline(report: &IncidentReport) -> String {
    let IncidentReport { totals, untracked, unseen, groups, more, matching, watched, .. } = report;
    let watched_for = watched.map(duration);
    let all = totals.tracked + untracked;
    if groups.is_empty() && matching.is_some() {
        let of_host = match watched_for {
            Some(watched) => format!("{all}; watched {watched}, {} entered and {} exited", totals.entered, totals.left),
            None => all.to_string(),
        };
        return format!("no matching socket is in CLOSE_WAIT (all of this host: {of_host})");
    }
    if groups.is_empty() {
        let none = none(*untracked, unseen.as_deref());
        return match watched_for {
            Some(watched) => format!("{none} (watched {watched}; {} entered, {} exited)", totals.entered, totals.left),
            None => none.to_owned(),
        };
    }
    let mut counts = UrgencyCounts { others: *more, ..UrgencyCounts::default() };
    groups.iter().for_each(|group| counts.add(group.pileup.urgency()));
    let matching = matching.unwrap_or(all);
    let without_filters = if matching < all { format!(" (of {all} without the filters)") } else { String::new() };
    let ended = ended(report.ended());
    let sockets = if matching == 0 { "no socket".to_owned() } else { count(matching, "socket") };
    format!(
        "{sockets} in CLOSE_WAIT{without_filters}{ended}, {}: {}",
        count(counts.total(), "group"),
        urgencies(counts)
    )
}

/// Returns the lines below the groups: calm groups, gaps, and the next commands.
fn end(page: &StatusPage<'_>, (problems, calm): (&[&Pileup], &[&Pileup]), is_limited: bool, screen: Screen) -> Lines {
    let StatusPage { report, notes, .. } = *page;
    let mut lines = Lines::new(screen);
    let has_groups = !problems.is_empty() || !calm.is_empty();
    if has_groups {
        lines.push("", None);
    }
    if !problems.is_empty() && !calm.is_empty() {
        lines.push(&calm_line(calm, screen.width), Some("2"));
    }
    let unseen = report.unseen.as_deref().filter(|_| !is_limited);
    let untracked = missing(report.untracked, unseen);
    let notes = notes.iter().filter(|_| !is_limited).cloned();
    for note in still_open(report).into_iter().chain(untracked).chain(notes) {
        lines.wrapped(&note, None);
    }
    if report.watched.is_none() && has_groups {
        lines.wrapped("without an agent, growth is unknown, and ages are lower bounds", Some("2"));
    }
    if has_groups {
        match page.socket {
            None => lines.wrapped("next: closewait top | report | list", None),
            socket => lines.wrapped(&format!("next: closewait top | report | list, with{}", flag(socket)), None),
        }
    }
    lines
}

/// Returns one line with as many calm groups as fit, and the number of the others.
fn calm_line(calm: &[&Pileup], width: usize) -> String {
    let mut line = "also: ".to_owned();
    for (at, pileup) in calm.iter().enumerate() {
        let comma = if at > 0 { ", " } else { "" };
        let next = format!("{comma}{} {} {} {}", pileup.count, label(pileup), who(pileup), port(&pileup.group));
        // The number of the groups behind this one has to fit, too.
        let tail = more_groups(calm.len() - at - 1, true);
        if table::width(&line) + table::width(&next) + table::width(&tail) > width {
            line.push_str(&more_groups(calm.len() - at, at > 0));
            return line;
        }
        line.push_str(&next);
    }
    line
}

/// Formats the number of groups that are not shown; empty for none.
fn more_groups(number: usize, behind_others: bool) -> String {
    match (number, behind_others) {
        (0, _) => String::new(),
        (_, true) => format!(" and {}", count(number as u64, "more group")),
        (_, false) => count(number as u64, "group"),
    }
}
