//! Screen of a state.

mod pages;
#[cfg(test)]
mod tests;

use std::time::Duration;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
};

use super::{
    messages::{SourceState, TopSnapshot},
    model::{InputLine, InputPurpose, TopModel, TopPage},
};
use crate::sink::status::live::{
    GroupDetails, class_label, columns, group_table, needs_no_action, summary, time_of_day, wrapped,
};
use closewait_engine::{
    model::{Pileup, ReportedGroup},
    snapshot::urgency::Severity,
    text::duration,
    time::BootTime,
};

/// Minimum height of a screen with details of the selected group, rows.
const MIN_HEIGHT_FOR_DETAILS: u16 = 14;
/// Minimum height of a screen with a line for errors and notes of its own, rows.
const MIN_HEIGHT_FOR_NOTES: u16 = 12;
/// Minimum height of a screen on which the number of groups can take two lines, rows.
const MIN_HEIGHT_FOR_WRAPPED: u16 = 20;
/// Maximum number of rows of a command.
const MAX_COMMAND_ROWS: usize = 4;
/// First line without privileges, and the command that has them.
const NOT_ROOT: &str = "not root: owners of other users are not seen; sudo closewait top";

/// Colors of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopTheme {
    /// Whether to use color. Without it, severity is a word, and the selection is reversed.
    pub color: bool,
}

impl TopTheme {
    fn severity(self, severity: Severity) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        match severity {
            Severity::Critical | Severity::Error if self.color => bold.fg(Color::Red),
            // Yellow alone cannot be read on a light background.
            Severity::Warning if self.color => bold.fg(Color::Yellow),
            Severity::Critical | Severity::Error | Severity::Warning => bold,
            Severity::Info => Style::new(),
        }
    }

    /// Style of a limit that is reached.
    fn full(self) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        if self.color { bold.fg(Color::White).bg(Color::Red) } else { bold }
    }
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);

/// Draws the state on the cells of `area`. Any size is valid; a small one shows less.
pub fn draw(model: &TopModel, theme: TopTheme, area: Rect, cells: &mut Buffer) {
    let mut rows = Rows { area, next: 0, cells };
    header(model, theme, &mut rows);
    let footer = footer(model, rows.width());
    let body = area.height.saturating_sub(rows.next).saturating_sub(footer.len() as u16);
    match &model.page {
        TopPage::Groups => groups(model, theme, body, &mut rows),
        TopPage::Help { offset } => pages::help(*offset, body, &mut rows),
        TopPage::Text(text) => pages::text(text, model, theme, body, &mut rows),
    }
    rows.next = area.height.saturating_sub(footer.len() as u16);
    footer.into_iter().for_each(|line| rows.push(line));
}

/// Rows of the screen, from the top.
struct Rows<'a> {
    area: Rect,
    /// Next row, from the top of the area.
    next: u16,
    cells: &'a mut Buffer,
}

impl Rows<'_> {
    fn width(&self) -> usize {
        self.area.width.into()
    }

    /// Draws a line, cut at the right edge.
    fn push(&mut self, line: Line<'_>) {
        if self.next < self.area.height {
            let y = self.area.y + self.next;
            self.cells.set_line(self.area.x, y, &line, self.area.width);
            self.next += 1;
        }
    }

    fn text(&mut self, text: &str, style: Style) {
        self.push(Line::styled(text, style));
    }

    fn separator(&mut self) {
        let line = "─".repeat(self.width());
        self.text(&line, DIM);
    }
}

/// Draws the source, the time, the number of groups, and errors.
fn header(model: &TopModel, theme: TopTheme, rows: &mut Rows<'_>) {
    let Some(shown) = &model.shown else {
        rows.text("closewait top", BOLD);
        match &model.error {
            Some(error) => error.lines().for_each(|line| rows.text(line, theme.severity(Severity::Error))),
            None => rows.text("waiting for the first answer", Style::new()),
        }
        return;
    };
    let state = match (model.is_paused, model.recording().is_some(), model.is_playing) {
        (true, _, _) => "PAUSED  ",
        (false, true, true) => "playing  ",
        (false, true, false) => "stopped  ",
        (false, false, _) => "",
    };
    let clock = format!("{state}{}", time_of_day(shown.report.at, shown.anchor));
    let source = format!("closewait top  {}", source(shown));
    let room = rows.width().saturating_sub(columns(&clock) + 1);
    let source = if columns(&source) > room { source.trim_start_matches("closewait top  ") } else { &source };
    let mut left = cut(source, room);
    left.push_str(&" ".repeat(room.saturating_sub(columns(&left)) + 1));
    let style = if model.is_paused { Style::new().add_modifier(Modifier::REVERSED) } else { BOLD };
    rows.push(Line::from(vec![Span::raw(left), Span::styled(clock, style)]));
    let note = note(model, shown);
    let has_room = rows.area.height >= MIN_HEIGHT_FOR_NOTES;
    if has_room || note.is_none() {
        let summary = summary(&shown.report);
        if rows.area.height >= MIN_HEIGHT_FOR_WRAPPED {
            wrapped(&summary, rows.width()).iter().take(2).for_each(|line| rows.text(line, Style::new()));
        } else {
            rows.text(&cut(&summary, rows.width()), Style::new());
        }
    }
    if let Some((note, is_error)) = note {
        let style = if is_error { theme.severity(Severity::Error) } else { BOLD };
        rows.text(&cut(&note, rows.width()), style);
    }
}

/// Returns the origin of the groups.
fn source(shown: &TopSnapshot) -> String {
    match &shown.source {
        SourceState::Agent => match shown.report.watched {
            Some(watched) => format!("agent, watched {}", duration(watched)),
            None => "agent".to_owned(),
        },
        SourceState::Scans(interval) => {
            format!("no agent: a scan every {}; growth is that of this session", duration(*interval))
        }
        SourceState::Recording { name, begin, end } => {
            let since = |at: BootTime| match at.since(*begin) {
                Duration::ZERO => "0s".to_owned(),
                since => duration(since),
            };
            format!("{} of {}  {name}", since(shown.report.at), since(*end))
        }
    }
}

/// Returns the most important sentence about missing data, and whether it is an error.
fn note(model: &TopModel, shown: &TopSnapshot) -> Option<(String, bool)> {
    if let Some(error) = &model.error {
        return Some((error.replace('\n', "; "), true));
    }
    let unseen = shown.report.unseen.as_ref();
    let note = shown.notes.first().or(unseen).map(|note| note.lines().next().unwrap_or_default().to_owned());
    let is_here = model.recording().is_none();
    note.map(|note| (if is_here && !model.settings.is_root { NOT_ROOT.to_owned() } else { note }, false))
}

/// Draws the table of groups and the details of the selected one on `height` rows.
fn groups(model: &TopModel, theme: TopTheme, height: u16, rows: &mut Rows<'_>) {
    let Some(shown) = &model.shown else { return };
    let (height, groups) = (usize::from(height), model.groups());
    let details = model.selected().map(|pileup| GroupDetails::new(pileup, &shown.report, shown.anchor, rows.width()));
    let command = model.command().map(|command| command_lines(&command, rows.width())).unwrap_or_default();
    // Heading, one group and the command come first.
    let with_details = rows.area.height >= MIN_HEIGHT_FOR_DETAILS;
    let below = if with_details { (height / 2).max(command.len() + 3) } else { command.len() };
    let table = (groups.len().max(1) + 1).min(height.saturating_sub(below).max(2));
    table_rows(model, theme, &groups, table, rows);
    let left = height.saturating_sub(table);
    let Some(details) = details.filter(|_| left >= command.len()) else { return };
    if with_details {
        rows.separator();
        let style = model.selected().map_or(BOLD, |pileup| theme.severity(pileup.severity()));
        let room = left.saturating_sub(1 + command.len());
        let title = details.title.iter().map(|line| (line, style));
        let evidence = details.evidence.iter().map(|line| (line, Style::new()));
        let all = details.title.len() + details.evidence.len();
        for (at, (line, style)) in title.chain(evidence).take(room).enumerate() {
            let is_cut = at + 1 == room && room < all;
            let line = if is_cut { format!("{}…", cut(line, rows.width().saturating_sub(1))) } else { line.clone() };
            rows.text(&line, style);
        }
    }
    command.iter().for_each(|line| rows.text(line, BOLD));
}

/// Returns the lines of a command, which can be selected and pasted.
fn command_lines(command: &str, width: usize) -> Vec<String> {
    let mut lines = wrapped(&format!("  {command}"), width);
    lines.truncate(MAX_COMMAND_ROWS);
    lines
}

/// Draws the heading and as many groups as fit on `height` rows, with the selected one among them.
fn table_rows(model: &TopModel, theme: TopTheme, groups: &[&ReportedGroup], height: usize, rows: &mut Rows<'_>) {
    let Some(shown) = &model.shown else { return };
    if groups.is_empty() {
        let text = if model.filter.is_empty() { "" } else { "no group matches the filter" };
        rows.text(text, DIM);
        return;
    }
    let visible = height.saturating_sub(1);
    let selected = model.position();
    let first = selected.unwrap_or(0).saturating_sub(visible / 2).min(groups.len().saturating_sub(visible));
    // The mark of the selection takes a column.
    let width = rows.width().saturating_sub(1);
    let graph = match width {
        ..110 => 8,
        110..150 => 20,
        _ => 40,
    };
    let pileups: Vec<&Pileup> = groups.iter().map(|group| &group.pileup).collect();
    let trends: Vec<_> = pileups.iter().map(|pileup| model.trend(pileup, graph)).collect();
    let table = group_table(&pileups, &trends, &shown.report, width);
    let (heading, lines) = table.split_first().map_or(("", &[][..]), |(heading, lines)| (heading.as_str(), lines));
    // A table has a minimum width. Half a column would be misread.
    let shown_width = match heading.split_at_checked(width) {
        Some((shown, rest)) if !rest.is_empty() && !rest.starts_with(' ') => shown.rfind("  ").unwrap_or(width),
        Some(_) | None => width,
    };
    rows.text(&format!(" {}", heading.get(..shown_width).unwrap_or(heading)), DIM);
    for (at, (line, pileup)) in lines.iter().zip(&pileups).enumerate().skip(first).take(visible) {
        let is_selected = selected == Some(at);
        let line = group_line(&fitted(line, shown_width), pileup, theme, is_selected);
        rows.push(line);
    }
}

/// Returns the line of a group: its class in the color of its severity.
fn group_line(line: &str, pileup: &Pileup, theme: TopTheme, is_selected: bool) -> Line<'static> {
    let mark = if is_selected { "▶" } else { " " };
    let label = class_label(pileup);
    let (label, rest) = line.split_at_checked(label.len()).unwrap_or((line, ""));
    let (rest, full) = match rest.strip_suffix("FULL") {
        Some(rest) => (rest, "FULL"),
        None => (rest, ""),
    };
    let of_row = if needs_no_action(pileup) { DIM } else { Style::new() };
    let spans = vec![
        Span::raw(mark),
        Span::styled(label.to_owned(), of_row.patch(theme.severity(pileup.severity()))),
        Span::styled(rest.to_owned(), of_row),
        Span::styled(full, theme.full()),
    ];
    let line = Line::from(spans);
    if is_selected { line.patch_style(Style::new().add_modifier(Modifier::REVERSED)) } else { line }
}

/// Returns the last lines: what the user types, the result of the last key, or the keys.
fn footer(model: &TopModel, width: usize) -> Vec<Line<'static>> {
    if let Some(InputLine { purpose, text }) = &model.input {
        let prompt = match (purpose, &model.page) {
            (InputPurpose::Filter, _) => "filter by class, owner or port (Enter, Esc: none): ".to_owned(),
            (InputPurpose::Time, _) => "time since the start (1m30s) or of the day, UTC (22:45:20): ".to_owned(),
            (InputPurpose::Count, TopPage::Text(text)) => {
                let planned = text.planned.map_or(0, |(count, _)| count);
                format!("type {planned} and Enter to destroy them, Esc to change nothing: ")
            }
            (InputPurpose::Count, TopPage::Groups | TopPage::Help { .. }) => String::new(),
        };
        let typed = Line::from(vec![Span::styled(prompt, BOLD), Span::raw(text.clone()), Span::raw("_")]);
        // A message can belong to the plan.
        return model.message.iter().map(|message| Line::raw(message.clone())).chain([typed]).collect();
    }
    if let Some(message) = &model.message {
        return vec![Line::styled(message.clone(), BOLD)];
    }
    let keys: &[&str] = match (&model.page, model.recording().is_some()) {
        (TopPage::Groups, false) => {
            &["? help", "q quit", "⏎ sockets", "/ filter", "s sort", "p pause", "y copy", "K kill plan", "↑↓ group"]
        }
        (TopPage::Groups, true) => {
            &["? help", "q quit", "space play", "←→ step", "t time", "⏎ sockets", "/ filter", "s sort", "y copy"]
        }
        (TopPage::Help { .. }, _) => &["Esc back", "↑↓ scroll"],
        (TopPage::Text(text), _) if text.is_plan => &["Esc back", "↑↓ scroll", "r again", "y copy the command"],
        (TopPage::Text(_), _) => &["Esc back", "↑↓ scroll", "r again"],
    };
    let filter = (!model.filter.is_empty()).then(|| format!("filter: {}", model.filter));
    let mut line = String::new();
    for part in filter.as_deref().into_iter().chain(keys.iter().copied()) {
        let gap = if line.is_empty() { "" } else { "  " };
        if columns(&line) + gap.len() + columns(part) > width {
            break;
        }
        line.push_str(gap);
        line.push_str(part);
    }
    vec![Line::styled(line, DIM)]
}

/// Returns the beginning of a line that fits `width` columns.
fn fitted(line: &str, width: usize) -> String {
    let mut kept = line.to_owned();
    while columns(&kept) > width {
        kept.pop();
    }
    kept
}

/// Returns the beginning of a text that fits `width` columns, with an ellipsis if something is missing.
fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    if width > 0 { fitted(text, width - 1) + "…" } else { String::new() }
}
