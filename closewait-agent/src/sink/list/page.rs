//! Text of `closewait list`: first the answer in one line, then rows, then causes, on one screen.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use super::{
    super::{
        Form,
        answer::{AnswerHeader, Listing},
        headline::{ended, urgencies},
        status::{self, Screen},
        table::width,
    },
    ListShape, SortBy, grouped, missing, none,
};
use crate::clock::TimeAnchor;
use closewait_engine::{
    model::{IncidentReport, Pileup, PileupGroup, ReportedGroup},
    snapshot::{hints::Hint, hints::OmittedCauses, summary::ListSummary, urgency::UrgencyCounts},
    text::count,
};

/// Minimum number of rows of the table, if there are more than fit.
const MIN_ROWS: usize = 3;
/// Minimum number of rows of a screen that a page is fitted to.
const MIN_HEIGHT: usize = 12;
/// Number of rows that every page has: an empty line, the heading of the table, and the prompt of the shell.
const FRAME_ROWS: usize = 3;

/// Writes the answer in one line, the table or the reason why it is empty, causes, and notes on missing sockets.
pub(super) fn write(listing: Listing<'_>, shape: &ListShape, to: &mut impl Write) -> io::Result<()> {
    let Listing { header, table, groups, hints, summary, .. } = listing;
    let AnswerHeader { total, untracked, unseen, .. } = header;
    let wrapped = |text: &str| wrapped(text, shape.style.width);
    let notes: Vec<String> = missing(untracked, unseen.as_deref()).flat_map(|note| paragraph(wrapped(&note))).collect();
    let table = table.filter(|table| table.len() > 0);
    let rows = table.as_ref().map_or(groups.len(), |table| table.len());
    if rows == 0 {
        let why = no_row(total, untracked, unseen.as_deref());
        return lines(wrapped(&why).into_iter().chain(notes), to);
    }
    let head = wrapped(&headline(&summary.unwrap_or_default(), total));
    let room = height(shape).map(|height| height.saturating_sub(head.len() + notes.len() + FRAME_ROWS));
    let (count, hints) = fit(rows, &hints, room, &wrapped);
    lines(head, to)?;
    writeln!(to)?;
    match (shape.by, table) {
        (Some(by), _) => grouped::write(groups.get(..count).unwrap_or_default(), by, shape, to)?,
        (None, Some(table)) => table.write_rows(count, None, to)?,
        (None, None) => {}
    }
    lines(omitted(rows - count, if shape.by.is_some() { "group" } else { "socket" }), to)?;
    lines(hints.into_iter().chain(notes), to)
}

/// Writes the groups of a report: in text one line each, as JSON one object each.
///
/// # Errors
///
/// If `to` fails, or a value cannot be written as JSON.
pub fn groups_of_report(
    report: &IncidentReport,
    anchor: TimeAnchor,
    shape: &ListShape,
    to: &mut impl Write,
) -> io::Result<()> {
    let groups = sorted(report, shape);
    match shape.form {
        Form::Json => status::group_objects(&groups, report, anchor, to),
        Form::Text => table_of_report(&groups, report, shape, to),
    }
}

/// Returns the groups in the requested order; without one, the most urgent first.
fn sorted<'r>(report: &'r IncidentReport, shape: &ListShape) -> Vec<&'r ReportedGroup> {
    let mut groups: Vec<&ReportedGroup> = report.groups.iter().collect();
    match shape.order.by {
        Some(SortBy::Age) => groups.sort_by_key(|group| group.pileup.onset.first_stuck),
        Some(SortBy::Port) => groups.sort_by_key(|group| {
            let PileupGroup { local_port, remote, .. } = group.pileup.group;
            (local_port.is_none(), local_port, remote.map(|remote| remote.port))
        }),
        Some(SortBy::Owner) => groups.sort_by_cached_key(|group| {
            let name = group.pileup.service().name();
            (name.is_none(), name)
        }),
        Some(SortBy::RecvQ | SortBy::SendQ | SortBy::Verdict) | None => {}
    }
    if shape.order.reverse {
        groups.reverse();
    }
    groups
}

/// Returns the reason why no row is shown, of `total` sockets without the filters.
fn no_row(total: u64, untracked: u64, unseen: Option<&str>) -> Cow<'static, str> {
    match total {
        0 => none(untracked, unseen).into(),
        others => format!("no socket matches; {others} without the filters").into(),
    }
}

fn table_of_report(
    groups: &[&ReportedGroup],
    report: &IncidentReport,
    shape: &ListShape,
    to: &mut impl Write,
) -> io::Result<()> {
    let IncidentReport { untracked, unseen, more, .. } = report;
    let wrapped = |text: &str| wrapped(text, shape.style.width);
    let notes: Vec<String> =
        missing(*untracked, unseen.as_deref()).flat_map(|note| paragraph(wrapped(&note))).collect();
    if groups.is_empty() {
        let why = no_row(report.totals.tracked, *untracked, unseen.as_deref());
        return lines(wrapped(&why).into_iter().chain(notes), to);
    }
    let mut counts = UrgencyCounts { others: *more, ..UrgencyCounts::default() };
    groups.iter().for_each(|group| counts.add(group.pileup.urgency()));
    let sockets = groups.iter().map(|group| group.pileup.in_close_wait()).sum();
    let gone = groups.iter().map(|group| group.pileup.ended).sum();
    let head = wrapped(&headline(&ListSummary { sockets, gone, groups: counts }, sockets));
    let less_urgent =
        (*more > 0).then(|| format!("and {}: narrow the filters to see them", count(*more, "less urgent group")));
    let taken = head.len() + notes.len() + usize::from(less_urgent.is_some()) + FRAME_ROWS;
    let room = height(shape).map(|height| height.saturating_sub(taken));
    let (count, _hints) = fit(groups.len(), &[], room, &wrapped);
    lines(head, to)?;
    writeln!(to)?;
    let pileups: Vec<&Pileup> = groups.iter().take(count).map(|group| &group.pileup).collect();
    let width = shape.style.width.map_or(usize::MAX, usize::from);
    let screen = Screen { width, height: None, color: shape.style.color };
    status::groups(&pileups, report, screen, &shape.columns, to)?;
    lines(omitted(groups.len() - count, "group"), to)?;
    lines(less_urgent.into_iter().chain(notes), to)
}

/// Returns the number of rows of the screen that the page is fitted to; `None` to omit nothing.
fn height(shape: &ListShape) -> Option<usize> {
    shape.height.filter(|_| !shape.style.wide).map(|height| height.max(MIN_HEIGHT))
}

/// Formats the answer: `571 sockets in CLOSE_WAIT, 5 groups: 3 grow, 1 needs attention, 1 is normal`.
fn headline(summary: &ListSummary, total: u64) -> String {
    let ListSummary { sockets, gone, groups } = summary;
    let mut text = match (sockets, gone) {
        (0, _) => "no socket in CLOSE_WAIT".to_owned(),
        _ => format!("{} in CLOSE_WAIT", count(*sockets, "socket")),
    };
    if *sockets < total {
        text.push_str(&format!(" (of {total} without the filters)"));
    }
    if groups.total() > 0 {
        text.push_str(&format!(", {}: {}", count(groups.total(), "group"), urgencies(*groups)));
    }
    text.push_str(&ended(*gone));
    text
}

/// Returns the number of rows of the table and the lines of hints that fit into `room` rows.
fn fit(
    rows: usize,
    hints: &[Hint],
    room: Option<usize>,
    wrapped: &impl Fn(&str) -> Vec<String>,
) -> (usize, Vec<String>) {
    let blocks: Vec<Vec<String>> = hints.iter().map(|hint| wrapped(&hint.to_string())).collect();
    let all: usize = blocks.iter().map(Vec::len).sum();
    let all = all + usize::from(all > 0);
    let Some(room) = room.filter(|room| rows + all > *room) else {
        return (rows, paragraph(blocks.concat()));
    };
    // The first cause, with its command, comes first.
    let first = hints.iter().position(|hint| matches!(hint, Hint::Cause { .. })).unwrap_or(0);
    let (hints, mut blocks) = (in_front(hints, first), blocks);
    blocks.get_mut(..=first).into_iter().for_each(|before| before.rotate_right(1));
    // Causes get at least half of the room, and what the table leaves.
    let room_of_hints = (room / 2).max(room.saturating_sub(rows));
    // One empty line before them, and one that counts the causes without a hint.
    let (mut used, mut shown, mut more) = (2, Vec::new(), OmittedCauses::default());
    for (hint, block) in hints.into_iter().zip(blocks) {
        let is_first = shown.is_empty() && used + block.len() + MIN_ROWS < room;
        if !matches!(hint, Hint::More { .. }) && (is_first || used + block.len() <= room_of_hints) {
            used += block.len();
            shown.extend(block);
        } else {
            more.add(hint);
        }
    }
    if more.causes > 0 {
        shown.extend(wrapped(&Hint::More { causes: more.causes, sockets: more.sockets }.to_string()));
    }
    let hints = paragraph(shown);
    let room_of_rows = room.saturating_sub(hints.len()).max(MIN_ROWS);
    // One line counts the rows that do not fit.
    (if rows <= room_of_rows { rows } else { room_of_rows - 1 }, hints)
}

/// Returns the hints, with this one in front of the others.
fn in_front(hints: &[Hint], first: usize) -> Vec<&Hint> {
    let mut hints: Vec<&Hint> = hints.iter().collect();
    hints.get_mut(..=first).into_iter().for_each(|before| before.rotate_right(1));
    hints
}

/// Returns the line on rows that do not fit.
fn omitted(number: usize, what: &str) -> Option<String> {
    (number > 0).then(|| format!("and {} (--all shows them)", count(number as u64, &format!("more {what}"))))
}

/// Puts an empty line before the first line.
fn paragraph(lines: Vec<String>) -> Vec<String> {
    if lines.is_empty() { lines } else { std::iter::once(String::new()).chain(lines).collect() }
}

/// Wraps each line of a text at words, except commands, which have an indent of four columns. Continued lines have the indent of
/// their line.
fn wrapped(text: &str, screen: Option<u16>) -> Vec<String> {
    let screen = screen.map_or(usize::MAX, usize::from);
    let wrap = |line: &str| {
        if line.starts_with("    ") || width(line) <= screen {
            return vec![line.to_owned()];
        }
        let indent = if line.starts_with("  ") { "  " } else { "" };
        status::wrap(line, screen, indent)
    };
    text.lines().flat_map(wrap).collect()
}

fn lines(lines: impl IntoIterator<Item = String>, to: &mut impl Write) -> io::Result<()> {
    lines.into_iter().try_for_each(|line| writeln!(to, "{line}"))
}
