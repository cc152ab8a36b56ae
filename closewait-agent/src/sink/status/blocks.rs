//! Block of one problem: title, evidence, next step and command.

use super::{
    Lines, StatusPage, label, rows,
    rows::{port, used_limit},
    rows_of, sgr, wrap,
};
use crate::sink::{command::with_socket, schema, table::shortened};
use closewait_engine::{
    model::{Limit, Pileup},
    snapshot::urgency::NEAR_LIMIT,
    stacks::ConnectStacks,
    text::{duration, time_left},
    unread::UnreadRequests,
};

/// Indent of evidence, and of a command.
const INDENT: &str = "   ";
const COMMAND_INDENT: &str = "     ";
/// Age from which on a time has a date, seconds.
const DAY: u64 = 86_400;

/// Lines of a problem.
pub(super) struct Block {
    title: Vec<String>,
    /// Evidence and next step. They are cut if there is no room.
    evidence: Vec<String>,
    command: String,
    command_rows: usize,
    color: Option<&'static str>,
}

impl Block {
    /// Formats the problem with the number `number` for a screen of `width` columns.
    pub(super) fn new(number: usize, pileup: &Pileup, page: &StatusPage<'_>, width: usize) -> Self {
        let verdict = &pileup.verdict;
        let text = |text: &str| wrap(&format!("{INDENT}{text}"), width, INDENT);
        let mut evidence = text(&verdict.text);
        evidence.extend(pileup.evidence.unread.as_ref().map(|unread| unread_line(unread, width)));
        let opened = pileup.evidence.connects.as_ref().and_then(ConnectStacks::text);
        evidence.extend(opened.map(|text| shortened(&format!("{INDENT}opened in {text}"), width)));
        evidence.extend(text(&format!("next: {}", verdict.next.text)));
        let command = format!("{COMMAND_INDENT}{}", with_socket(&pileup.command(), page.socket));
        Self {
            title: wrap(&format!("{number}  {}", title(pileup, page)), width, INDENT),
            evidence,
            command_rows: rows_of(&command, width),
            command,
            color: sgr(pileup.severity()),
        }
    }

    /// Returns the number of rows of the whole block.
    pub(super) fn full_height(&self) -> usize {
        self.least_height() + self.evidence.len()
    }

    /// Returns the number of rows of title and command.
    fn least_height(&self) -> usize {
        self.title.len() + self.command_rows
    }

    /// Adds the block in `height` rows.
    pub(super) fn push(&self, height: usize, lines: &mut Lines) {
        for (at, line) in self.title.iter().enumerate() {
            lines.push(line, self.color.filter(|_| at == 0));
        }
        let room = height.saturating_sub(self.least_height());
        let cut = room < self.evidence.len();
        for (at, line) in self.evidence.iter().take(room).enumerate() {
            if cut && at + 1 == room {
                let (mut line, width) = (line.clone(), lines.screen.width);
                while rows_of(&line, width) > 1 || crate::sink::table::width(&line) + 1 > width {
                    line.pop();
                }
                lines.push(&format!("{line}…"), None);
            } else {
                lines.push(line, None);
            }
        }
        lines.push(&self.command, Some("1"));
    }
}

/// Returns the unread requests in one line.
fn unread_line(unread: &UnreadRequests, width: usize) -> String {
    shortened(&format!("{INDENT}unread: {}", unread.text()), width)
}

/// Returns the height of each block in `room` rows; `None` for a block that does not fit. The first block comes first, then title
/// and command of the others, then their evidence. One line counts the blocks that do not fit.
pub(super) fn fit(blocks: &[Block], room: Option<usize>) -> Vec<Option<usize>> {
    let Some(mut room) = room else { return blocks.iter().map(|block| Some(block.full_height())).collect() };
    let mut heights = Vec::with_capacity(blocks.len());
    for (at, block) in blocks.iter().enumerate() {
        let rest = usize::from(at + 1 < blocks.len());
        let wanted = if at == 0 { block.full_height() } else { block.least_height() };
        // The most urgent problem always has its command.
        let height = if at == 0 { wanted.min(room.saturating_sub(rest)).max(block.least_height()) } else { wanted };
        if at > 0 && height + rest > room {
            break;
        }
        room = room.saturating_sub(height);
        heights.push(Some(height));
    }
    let omitted = blocks.len() - heights.len();
    room = room.saturating_sub(usize::from(omitted > 0));
    for (block, height) in blocks.iter().zip(&mut heights) {
        let Some(height) = height else { continue };
        let more = (block.full_height() - *height).min(room);
        *height += more;
        room -= more;
    }
    heights.resize(blocks.len(), None);
    heights
}

/// Returns the title: class, owner, port, beginning, last close and limit.
pub(super) fn title(pileup: &Pileup, page: &StatusPage<'_>) -> String {
    let (report, onset) = (page.report, &pileup.onset);
    let name = pileup.service().name();
    let process = pileup.service().process().filter(|process| Some(process) != name.as_ref());
    let process = process.map(|process| format!(" ({process})")).unwrap_or_default();
    let mut title = format!("{}  {}{process} {}", label(pileup), rows::who(pileup), port(&pileup.group));
    let since = report.at.since(onset.first_stuck);
    let time = schema::time(page.anchor.wall(onset.first_stuck));
    let (day, clock) = (time.get(..10).unwrap_or_default(), time.get(11..19).unwrap_or_default());
    let date = if since.as_secs() >= DAY { format!("{day} ") } else { String::new() };
    title.push_str(&format!(" since {date}{clock}Z"));
    if report.watched.is_some() {
        match onset.last_closed {
            Some(closed) => title.push_str(&format!(", last close {} ago", duration(report.at.since(closed)))),
            None => title.push_str(", no close seen"),
        }
    }
    // The table has the others.
    let near = pileup.forecast.filter(|forecast| forecast.left < NEAR_LIMIT);
    let forecast = near.map(|forecast| format!("full in {}", time_left(forecast.left)));
    let outlook = pileup.reached_limit().map(|_| "full".to_owned()).or(forecast);
    if let Some((outlook, (limit, used, most))) = outlook.zip(used_limit(pileup)) {
        let what = match limit {
            Limit::Descriptors => "descriptors",
            Limit::Backlog => "backlog",
            Limit::Connections => "connection limit",
        };
        title.push_str(&format!(", {what} {outlook} ({used} of {most})"));
    }
    title
}
