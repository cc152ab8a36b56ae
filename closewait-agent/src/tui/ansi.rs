//! Cells as text.

use std::fmt::Write as _;

use ratatui::{
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
};

/// Returns the cells as lines without trailing blanks and empty lines; with escape sequences if `color` is set.
pub fn text_of(cells: &Buffer, color: bool) -> String {
    let mut text = String::new();
    let width = usize::from(cells.area.width).max(1);
    for row in cells.content.chunks(width) {
        let end = row.iter().rposition(|cell| cell.symbol() != " ").map_or(0, |last| last + 1);
        let (mut line, mut style) = (String::new(), String::new());
        let mut covered = 0;
        for cell in row.iter().take(end) {
            // A wide character covers the next cell.
            if covered > 0 {
                covered -= 1;
                continue;
            }
            let next = if color { sgr(cell) } else { String::new() };
            if next != style {
                // Writing to a String cannot fail.
                let _infallible: std::fmt::Result = write!(line, "\x1b[0{next}m");
                style = next;
            }
            line.push_str(cell.symbol());
            covered = crate::sink::status::live::columns(cell.symbol()).saturating_sub(1);
        }
        if !style.is_empty() {
            line.push_str("\x1b[0m");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.truncate(text.trim_end_matches('\n').len());
    text.push('\n');
    text
}

/// Returns the parameters of a cell's style, each behind a semicolon.
fn sgr(cell: &Cell) -> String {
    let mut text = String::new();
    for (modifier, number) in [(Modifier::BOLD, 1), (Modifier::DIM, 2), (Modifier::REVERSED, 7)] {
        if cell.modifier.contains(modifier) {
            text.push_str(&format!(";{number}"));
        }
    }
    let colors = [(Color::Red, 1), (Color::Yellow, 3), (Color::White, 7)];
    for (of, base) in [(cell.fg, 30), (cell.bg, 40)] {
        text.extend(colors.iter().filter(|(color, _)| *color == of).map(|(_, number)| format!(";{}", base + number)));
    }
    text
}
