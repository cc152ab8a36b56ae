//! Tables that fit a screen: cells are collected by column, then columns give way until a line fits.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Between columns.
const GAP: usize = 2;
/// The narrowest screen that a table is fitted to.
const NARROWEST: usize = 50;
const SPACES: &[u8] = &[b' '; 128];

/// How the cells of a column stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// What a table gives up, if its lines are too long.
#[derive(Clone, Copy, Debug)]
pub(super) enum Concession {
    /// The column of this name.
    Drop(&'static str),
    /// The width of the column of this name, down to this.
    Shrink(&'static str, usize),
}

/// One column: all its cells in one text, one after the other.
#[derive(Debug)]
pub(super) struct Column {
    name: &'static str,
    align: Align,
    text: String,
    cells: Vec<Cell>,
    /// Width of the widest cell, the name included.
    full: usize,
}

/// End of a cell, and its style.
#[derive(Clone, Copy, Debug)]
struct Cell {
    end: usize,
    /// From here to `rest` it must not be cut, if that can be helped.
    tail: usize,
    /// What is from here on goes first.
    rest: usize,
    width: usize,
    sgr: Option<&'static str>,
}

impl Column {
    /// An empty one for so many rows.
    pub(super) fn new(name: &'static str, align: Align, rows: usize) -> Self {
        let (text, cells) = (String::with_capacity(rows * 16), Vec::with_capacity(rows));
        Self { name, align, text, cells, full: name.len() }
    }

    /// What stands over it.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Its text, to add the next cell to.
    pub(super) fn text(&mut self) -> &mut String {
        &mut self.text
    }

    /// Ends a cell. One that is too wide is cut at its end.
    pub(super) fn end(&mut self) {
        self.end_keeping(0, 0);
    }

    /// Ends a cell of which the last `rest` bytes go first if it is too wide, and the `tail` bytes before them last.
    pub(super) fn end_keeping(&mut self, tail: usize, rest: usize) {
        let rest = self.text.len().saturating_sub(rest);
        self.end_with(rest.saturating_sub(tail), rest, None);
    }

    /// Ends a cell in a color.
    pub(super) fn end_in(&mut self, sgr: Option<&'static str>) {
        self.end_with(self.text.len(), self.text.len(), sgr);
    }

    fn end_with(&mut self, tail: usize, rest: usize, sgr: Option<&'static str>) {
        let start = self.cells.last().map_or(0, |cell| cell.end);
        let width = width(self.text.get(start..).unwrap_or_default());
        self.full = self.full.max(width);
        self.cells.push(Cell { end: self.text.len(), tail, rest, width, sgr });
    }

    /// Whether no cell says anything.
    pub(super) fn is_blank(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether all cells are the same.
    pub(super) fn is_monotonous(&self) -> bool {
        let mut start = 0;
        let mut first = None;
        self.cells.iter().all(|cell| {
            let text = self.text.get(start..cell.end);
            start = cell.end;
            first.get_or_insert(text) == &text
        })
    }
}

/// Writes the columns side by side, in lines of at most `width`.
pub(super) fn write(columns: &[Column], width: Option<usize>, concessions: &[Concession], to: &mut Vec<u8>) {
    let widths = widths(columns, width, concessions);
    let kept: Vec<(&Column, usize)> =
        columns.iter().zip(widths).filter_map(|(column, width)| Some((column, width?))).collect();
    for (at, (column, width)) in kept.iter().enumerate() {
        let cell = Cell { end: 0, tail: 0, rest: 0, width: column.name.len(), sgr: None };
        write_cell(column.name, cell, column.align, *width, at + 1 == kept.len(), to);
    }
    end_line(to);
    let rows = columns.first().map_or(0, |column| column.cells.len());
    let line: usize = kept.iter().map(|(_, width)| width + GAP).sum();
    to.reserve(line * rows);
    let mut starts = vec![0; kept.len()];
    let mut short = String::new();
    for row in 0..rows {
        for (at, ((column, width), start)) in kept.iter().zip(&mut starts).enumerate() {
            let Some(cell) = column.cells.get(row) else { continue };
            let text = column.text.get(*start..cell.end).unwrap_or_default();
            let (tail, rest) = (cell.tail.saturating_sub(*start), cell.rest.saturating_sub(*start));
            *start = cell.end;
            let is_last = at + 1 == kept.len();
            if cell.width <= *width {
                write_cell(text, *cell, column.align, *width, is_last, to);
            } else {
                short.clear();
                cut(text, tail, rest, *width, &mut short);
                let cell = Cell { width: self::width(&short), ..*cell };
                write_cell(&short, cell, column.align, *width, is_last, to);
            }
        }
        end_line(to);
    }
}

/// How wide each column is; `None`: it is left out.
fn widths(columns: &[Column], screen: Option<usize>, concessions: &[Concession]) -> Vec<Option<usize>> {
    let mut widths: Vec<_> = columns.iter().map(|column| Some(column.full)).collect();
    let Some(screen) = screen.map(|screen| screen.max(NARROWEST)) else { return widths };
    let total = |widths: &[Option<usize>]| {
        let kept = widths.iter().flatten();
        kept.map(|width| width + GAP).sum::<usize>().saturating_sub(GAP)
    };
    let find = |name: &str| columns.iter().position(|column| column.name == name);
    let mut given = Vec::new();
    for concession in concessions {
        let excess = total(&widths).saturating_sub(screen);
        if excess == 0 {
            break;
        }
        match *concession {
            Concession::Drop(name) => {
                if let Some(width) = find(name).and_then(|at| widths.get_mut(at)) {
                    *width = None;
                }
            }
            Concession::Shrink(name, floor) => {
                let Some(at) = find(name) else { continue };
                if let Some(Some(width)) = widths.get_mut(at) {
                    let less = excess.min(width.saturating_sub(floor.max(name.len())));
                    *width -= less;
                    given.push((at, less));
                }
            }
        }
    }
    // Where a column was dropped for a little, others get back what they gave, the last first.
    for (at, less) in given.into_iter().rev() {
        let room = screen.saturating_sub(total(&widths));
        if let Some(Some(width)) = widths.get_mut(at) {
            *width += less.min(room);
        }
    }
    widths
}

fn write_cell(text: &str, cell: Cell, align: Align, width: usize, is_last: bool, to: &mut Vec<u8>) {
    let pad = width.saturating_sub(cell.width);
    if align == Align::Right {
        spaces(pad, to);
    }
    match cell.sgr {
        Some(sgr) if !text.is_empty() => {
            for part in ["\x1b[", sgr, "m", text, "\x1b[0m"] {
                to.extend_from_slice(part.as_bytes());
            }
        }
        Some(_) | None => to.extend_from_slice(text.as_bytes()),
    }
    if !is_last {
        spaces(GAP + if align == Align::Left { pad } else { 0 }, to);
    }
}

fn spaces(mut count: usize, to: &mut Vec<u8>) {
    while count > 0 {
        let some = count.min(SPACES.len());
        to.extend_from_slice(SPACES.get(..some).unwrap_or_default());
        count -= some;
    }
}

fn end_line(to: &mut Vec<u8>) {
    while to.last() == Some(&b' ') {
        to.pop();
    }
    to.push(b'\n');
}

/// How many columns of a screen `text` takes.
pub(super) fn width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.width() }
}

/// `text` in `room` columns with an ellipsis where something was left out: what is from byte `rest` on, then the middle of
/// what is before byte `tail`, then everything at the end.
fn cut(text: &str, tail: usize, rest: usize, room: usize, to: &mut String) {
    let text = match text.split_at_checked(rest) {
        Some((text, rest)) if !rest.is_empty() => {
            if width(text) < room {
                to.push_str(text);
                to.push('…');
                return;
            }
            text
        }
        Some(_) | None => text,
    };
    if width(text) <= room {
        to.push_str(text);
        return;
    }
    let (head, tail) = text.split_at_checked(tail).unwrap_or((text, ""));
    match room.checked_sub(width(tail) + 1).filter(|room| *room > 0) {
        Some(room) if !tail.is_empty() => {
            let end = room / 3;
            push_start(head, room - end, to);
            to.push('…');
            to.push_str(end_of(head, end));
            to.push_str(tail);
        }
        Some(_) | None => {
            push_start(text, room.saturating_sub(1), to);
            to.push('…');
        }
    }
}

/// As much of the start of `text` as has room.
fn push_start(text: &str, room: usize, to: &mut String) {
    let mut used = 0;
    to.extend(text.chars().take_while(|character| {
        used += character.width().unwrap_or(0);
        used <= room
    }));
}

/// As much of the end of `text` as has room.
fn end_of(text: &str, room: usize) -> &str {
    let mut used = 0;
    let kept = text.char_indices().rev().take_while(|(_, character)| {
        used += character.width().unwrap_or(0);
        used <= room
    });
    let from = kept.last().map_or(text.len(), |(at, _)| at);
    text.get(from..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &'static str, align: Align, cells: &[&str]) -> Column {
        let mut column = Column::new(name, align, cells.len());
        for cell in cells {
            column.text().push_str(cell);
            column.end();
        }
        column
    }

    /// `parts`: what is cut in the middle, what is kept, what goes first.
    fn shortened(parts: [&str; 3], room: usize) -> String {
        let mut to = String::new();
        let (tail, rest) = (parts[0].len(), parts[0].len() + parts[1].len());
        cut(&parts.concat(), tail, rest, room, &mut to);
        assert!(width(&to) <= room, "{to}");
        to
    }

    fn written(columns: &[Column], width: Option<usize>, concessions: &[Concession]) -> String {
        let mut to = Vec::new();
        write(columns, width, concessions, &mut to);
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn columns_stand_under_their_names_and_no_line_ends_in_blanks() {
        let columns = [column("N", Align::Right, &["1", "234"]), column("NAME", Align::Left, &["日本", ""])];
        assert_eq!(written(&columns, None, &[]), "  N  NAME\n  1  日本\n234\n");
    }

    #[test]
    fn a_wide_character_takes_two_places() {
        let columns = [column("A", Align::Left, &["日本", "abcd"]), column("B", Align::Left, &["x", "y"])];
        assert_eq!(written(&columns, None, &[]), "A     B\n日本  x\nabcd  y\n");
    }

    #[test]
    fn what_is_cut_keeps_its_tail() {
        assert_eq!(shortened(["a-very-long-name", "[12345] fd 5", ""], 20), "a-ver…me[12345] fd 5");
        assert_eq!(shortened(["[2001:db8:1:2:3:4:5:6", "]:8080", ""], 20), "[2001:db8…:5:6]:8080");
        assert_eq!(shortened(["abcdefgh", "", ""], 5), "abcd…");
        assert_eq!(shortened(["日本日本日本", "", ""], 6), "日本…");
        assert_eq!(shortened(["abc", "[1234567890]", ""], 6), "abc[1…", "the tail alone is too long");
    }

    #[test]
    fn the_rest_goes_before_anything_is_cut() {
        let parts = ["name", "[12] fd 3", ", other[13] fd 4"];
        assert_eq!(shortened(parts, 20), "name[12] fd 3…");
        assert_eq!(shortened(parts, 13), "name[12] fd 3");
        assert_eq!(shortened(parts, 12), "na…[12] fd 3");
    }

    #[test]
    fn concessions_are_made_in_order_and_no_more_than_needed() {
        let long = "x".repeat(40);
        let columns = [
            column("A", Align::Left, &[&long]),
            column("B", Align::Left, &["0123456789"]),
            column("C", Align::Left, &[&long]),
        ];
        let concessions = [Concession::Shrink("A", 35), Concession::Drop("B"), Concession::Shrink("C", 10)];
        let fitted = |screen| widths(&columns, Some(screen), &concessions);
        assert_eq!(fitted(94), [Some(40), Some(10), Some(40)]);
        assert_eq!(fitted(92), [Some(38), Some(10), Some(40)]);
        // Five less of A were not enough, and without B they are not needed.
        assert_eq!(fitted(82), [Some(40), None, Some(40)]);
        assert_eq!(fitted(60), [Some(35), None, Some(23)]);
        assert_eq!(fitted(1), [Some(35), None, Some(NARROWEST - 37)]);
    }

    #[test]
    fn color_takes_no_place() {
        let mut column = Column::new("A", Align::Left, 1);
        column.text().push_str("red");
        column.end_in(Some("31"));
        let columns = [column, self::column("B", Align::Left, &["x"])];
        assert_eq!(written(&columns, None, &[]), "A    B\n\x1b[31mred\x1b[0m  x\n");
    }
}
