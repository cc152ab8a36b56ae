//! Pages with text that the user scrolls.

use ratatui::style::Style;

use super::{BOLD, DIM, Rows, TopTheme};
use crate::tui::model::{SocketText, TopModel, kill_command};
use closewait_engine::snapshot::urgency::Severity;

/// Keys, and what they do.
const KEYS: [(&str, &str); 20] = [
    ("↑ ↓  k j", "select a group; the selection stays on it when rows move"),
    ("g G  PgUp PgDn", "first, last, ten up, ten down"),
    ("Enter", "sockets of the selected group"),
    ("/", "show only groups whose class, owner or port contains a text"),
    ("Esc", "clear the filter, or go back"),
    ("s", "sort by urgency, sockets, growth, age, name"),
    ("p  space", "pause the screen, or play a recording"),
    ("y", "copy the command to the terminal's clipboard (OSC 52)"),
    ("K", "plan of closewait kill; acts when you type the number"),
    ("r", "ask again now"),
    ("← →", "in a recording: one second back, forward"),
    ("[ ]", "in a recording: one minute back, forward"),
    ("t", "in a recording: go to a time"),
    ("Ctrl-L", "draw the screen again"),
    ("Ctrl-Z", "stop; fg continues"),
    ("q  Ctrl-C", "end"),
    ("", ""),
    ("GROWS", "sockets per second; without an agent, those of this session"),
    ("TREND", "number of sockets over the session"),
    ("LIMIT, FULL IN", "descriptors (or backlog) in use, time to exhaustion"),
];

/// Draws the keys on `height` rows.
pub(super) fn help(offset: usize, height: u16, rows: &mut Rows<'_>) {
    rows.text("", Style::new());
    let height = usize::from(height).saturating_sub(1);
    let first = offset.min(KEYS.len().saturating_sub(height));
    for (key, use_of_it) in KEYS.iter().skip(first).take(height) {
        rows.text(&format!(" {key:<15} {use_of_it}"), Style::new());
    }
}

/// Draws sockets, or the plan to destroy them, on `height` rows.
pub(super) fn text(text: &SocketText, model: &TopModel, theme: TopTheme, height: u16, rows: &mut Rows<'_>) {
    let before = rows.next;
    if text.is_plan {
        let command = kill_command(&text.filter, &model.settings.agent_options);
        rows.text(&format!("plan to destroy sockets of {}", text.title), theme.severity(Severity::Error));
        rows.text(&format!("  {command}"), BOLD);
    } else {
        rows.text(&format!("sockets of {}", text.title), BOLD);
    }
    rows.separator();
    let Some(lines) = &text.lines else {
        rows.text("waiting for the answer", DIM);
        return;
    };
    let height = usize::from(height.saturating_sub(rows.next - before));
    for line in lines.iter().skip(text.offset).take(height) {
        rows.text(line, Style::new());
    }
}
