//! Tables that fit a screen: cells are collected by column, then columns give way until a line fits.

use std::io::{self, Write};

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Number of spaces between columns.
const GAP: usize = 2;
/// Minimum width of a screen that a table is fitted to, columns.
const MIN_WIDTH: usize = 38;
const SPACES: &[u8] = &[b' '; 128];
/// Size at which complete lines are written, bytes.
const WRITE: usize = 64 * 1024;

/// Alignment of the cells of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Step of making a table narrower.
#[derive(Clone, Copy, Debug)]
pub(super) enum Concession {
    /// Drops the column of this name.
    Drop(&'static str),
    /// Narrows the column of this name, at most to this width.
    Shrink(&'static str, usize),
}

/// Column: all its cells in one text, one after the other.
#[derive(Debug)]
pub(super) struct Column {
    name: &'static str,
    align: Align,
    text: String,
    cells: Vec<Cell>,
    /// Colors of the cells that have one, by the number of the cell.
    colors: Vec<(u32, &'static str)>,
    /// Width of the widest cell or of the name, columns.
    full: usize,
}

/// End of a cell, and its format. Small, because a table has ten of them per line.
#[derive(Clone, Copy, Debug)]
struct Cell {
    end: u32,
    /// Start of the part that is cut last; it ends at `rest`.
    tail: u32,
    /// Start of the part that is cut first.
    rest: u32,
    width: u32,
}

impl Column {
    /// Creates an empty column for `rows` rows.
    pub(super) fn new(name: &'static str, align: Align, rows: usize) -> Self {
        let (text, cells) = (String::with_capacity(rows * 16), Vec::with_capacity(rows));
        Self { name, align, text, cells, colors: Vec::new(), full: name.len() }
    }

    /// Returns the heading.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the text, to add the next cell to.
    pub(super) fn text(&mut self) -> &mut String {
        &mut self.text
    }

    /// Ends a cell. If it is too wide, it is cut at its end.
    pub(super) fn end(&mut self) {
        self.end_keeping(0, 0);
    }

    /// Ends a cell. If it is too wide, its last `rest` bytes are cut first, and the `tail` bytes before them last.
    pub(super) fn end_keeping(&mut self, tail: usize, rest: usize) {
        let rest = self.text.len().saturating_sub(rest);
        self.end_with(rest.saturating_sub(tail), rest);
    }

    /// Ends a cell in a color.
    pub(super) fn end_in(&mut self, sgr: Option<&'static str>) {
        self.colors.extend(sgr.map(|sgr| (short(self.cells.len()), sgr)));
        self.end_with(self.text.len(), self.text.len());
    }

    fn end_with(&mut self, tail: usize, rest: usize) {
        let start = self.cells.last().map_or(0, |cell| cell.end as usize);
        let width = width(self.text.get(start..).unwrap_or_default());
        self.full = self.full.max(width);
        let (end, tail, rest, width) = (short(self.text.len()), short(tail), short(rest), short(width));
        self.cells.push(Cell { end, tail, rest, width });
    }

    /// Returns the column with only the cells of these rows, in this order.
    pub(super) fn of_rows(&self, rows: &[u32]) -> Self {
        let mut of_rows = Self::new(self.name, self.align, rows.len());
        for row in rows {
            let at = *row as usize;
            let Some(cell) = self.cells.get(at) else { continue };
            let start = at.checked_sub(1).and_then(|before| self.cells.get(before)).map_or(0, |before| before.end);
            let moved = short(of_rows.text.len());
            let place = |place: u32| moved + place.saturating_sub(start);
            of_rows.text.push_str(self.text.get(start as usize..cell.end as usize).unwrap_or_default());
            if let Ok(color) = self.colors.binary_search_by_key(row, |(of, _)| *of)
                && let Some((_, sgr)) = self.colors.get(color)
            {
                of_rows.colors.push((short(of_rows.cells.len()), sgr));
            }
            of_rows.full = of_rows.full.max(cell.width as usize);
            let (end, tail, rest) = (place(cell.end), place(cell.tail), place(cell.rest));
            of_rows.cells.push(Cell { end, tail, rest, width: cell.width });
        }
        of_rows
    }

    /// Whether all cells are empty.
    pub(super) fn is_blank(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether all cells are equal.
    pub(super) fn is_monotonous(&self) -> bool {
        let mut start = 0;
        let mut first = None;
        self.cells.iter().all(|cell| {
            let text = self.text.get(start..cell.end as usize);
            start = cell.end as usize;
            first.get_or_insert(text) == &text
        })
    }
}

/// Returns the columns whose headings are `chosen`, in that order: in lower case, with a hyphen in place of a space.
pub(super) fn choose(columns: Vec<Column>, chosen: &[String]) -> Vec<Column> {
    let mut columns: Vec<Option<Column>> = columns.into_iter().map(Some).collect();
    let mut take = |heading: &String| {
        let is_it = |column: &&mut Option<Column>| {
            column.as_ref().is_some_and(|column| column.name.replace(' ', "-").eq_ignore_ascii_case(heading))
        };
        columns.iter_mut().find(is_it).and_then(Option::take)
    };
    chosen.iter().filter_map(&mut take).collect()
}

/// Returns the concessions; if the user has `chosen` the columns, those that drop one come last.
pub(super) fn sparing(concessions: &[Concession], chosen: bool) -> Vec<Concession> {
    let mut concessions = concessions.to_vec();
    if chosen {
        concessions.sort_by_key(|concession| matches!(concession, Concession::Drop(_)));
    }
    concessions
}

/// Converts a position in the text of a column. No answer exceeds the range.
fn short(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// Writes the columns side by side, in lines of at most `width`.
///
/// # Errors
///
/// If `to` fails.
pub(super) fn write(
    columns: &[Column],
    width: Option<usize>,
    concessions: &[Concession],
    to: &mut impl Write,
) -> io::Result<()> {
    let widths = widths(columns, width, concessions);
    let kept: Vec<(&Column, usize)> =
        columns.iter().zip(widths).filter_map(|(column, width)| Some((column, width?))).collect();
    let mut lines = Vec::with_capacity(WRITE + WRITE / 4);
    for (at, (column, width)) in kept.iter().enumerate() {
        let name = CellText { text: column.name, width: column.name.len(), sgr: None };
        write_cell(name, column.align, *width, at + 1 == kept.len(), &mut lines);
    }
    end_line(&mut lines);
    let rows = columns.first().map_or(0, |column| column.cells.len());
    let mut places: Vec<_> = kept.iter().map(|(column, _)| (0, column.colors.iter().peekable())).collect();
    let mut cut_text = String::new();
    for row in 0..rows {
        for (at, ((column, width), (start, colors))) in kept.iter().zip(&mut places).enumerate() {
            let Some(cell) = column.cells.get(row) else { continue };
            let (end, tail, rest) = (cell.end as usize, cell.tail as usize, cell.rest as usize);
            let text = column.text.get(*start..end).unwrap_or_default();
            let (tail, rest) = (tail.saturating_sub(*start), rest.saturating_sub(*start));
            *start = end;
            let sgr = colors.next_if(|(of, _)| *of as usize == row).map(|(_, sgr)| *sgr);
            let mut shown = CellText { text, width: cell.width as usize, sgr };
            if shown.width > *width {
                cut_text.clear();
                cut(text, tail, rest, *width, &mut cut_text);
                (shown.text, shown.width) = (&cut_text, self::width(&cut_text));
            }
            write_cell(shown, column.align, *width, at + 1 == kept.len(), &mut lines);
        }
        end_line(&mut lines);
        if lines.len() >= WRITE {
            to.write_all(&lines)?;
            lines.clear();
        }
    }
    to.write_all(&lines)
}

/// Written part of a cell.
#[derive(Clone, Copy)]
struct CellText<'a> {
    text: &'a str,
    width: usize,
    sgr: Option<&'static str>,
}

/// Computes the width of each column; `None` for a dropped one.
fn widths(columns: &[Column], screen: Option<usize>, concessions: &[Concession]) -> Vec<Option<usize>> {
    let mut widths: Vec<_> = columns.iter().map(|column| Some(column.full)).collect();
    let Some(screen) = screen.map(|screen| screen.max(MIN_WIDTH)) else { return widths };
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
    // If a dropped column has freed more than needed, narrowed ones get space back, the last first.
    for (at, less) in given.into_iter().rev() {
        let room = screen.saturating_sub(total(&widths));
        if let Some(Some(width)) = widths.get_mut(at) {
            *width += less.min(room);
        }
    }
    widths
}

fn write_cell(cell: CellText<'_>, align: Align, width: usize, is_last: bool, to: &mut Vec<u8>) {
    let CellText { text, sgr, .. } = cell;
    let pad = width.saturating_sub(cell.width);
    if align == Align::Right {
        spaces(pad, to);
    }
    match sgr {
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

/// Returns the number of screen columns of `text`.
pub(super) fn width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.width() }
}

/// Adds `text` in `room` columns, with an ellipsis in place of cut parts: first the bytes from `rest` on, then the
/// middle of the bytes before `tail`, then everything at the end.
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

/// Returns `text` in `room` columns, with an ellipsis in place of an end that does not fit.
pub(super) fn shortened(text: &str, room: usize) -> String {
    let mut to = String::new();
    cut(text, text.len(), text.len(), room, &mut to);
    to
}

/// Adds as much of the start of `text` as fits.
fn push_start(text: &str, room: usize, to: &mut String) {
    let mut used = 0;
    to.extend(text.chars().take_while(|character| {
        used += character.width().unwrap_or(0);
        used <= room
    }));
}

/// Returns as much of the end of `text` as fits.
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

    /// Shortens three `parts`: the one to cut in the middle, the one to keep, the one to cut first.
    fn shortened(parts: [&str; 3], room: usize) -> String {
        let mut to = String::new();
        let (tail, rest) = (parts[0].len(), parts[0].len() + parts[1].len());
        cut(&parts.concat(), tail, rest, room, &mut to);
        assert!(width(&to) <= room, "{to}");
        to
    }

    fn written(columns: &[Column], width: Option<usize>, concessions: &[Concession]) -> String {
        let mut to = Vec::new();
        write(columns, width, concessions, &mut to).unwrap();
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn columns_stand_under_their_names_and_no_line_ends_in_blanks() {
        let columns = [column("N", Align::Right, &["1", "234"]), column("NAME", Align::Left, &["日本", ""])];
        assert_eq!(written(&columns, None, &[]), "  N  NAME\n  1  日本\n234\n");
    }

    #[test]
    fn rows_can_be_selected_in_any_order() {
        let mut column = Column::new("A", Align::Left, 3);
        for (name, pid, sgr) in [("first-long-name", "[1]", None), ("b", "[22]", Some("31")), ("c", "[3]", None)] {
            column.text().push_str(name);
            column.text().push_str(pid);
            match sgr {
                Some(sgr) => column.end_in(Some(sgr)),
                None => column.end_keeping(pid.len(), 0),
            }
        }
        let text = |rows: &[u32]| written(&[column.of_rows(rows)], None, &[]);
        assert_eq!(text(&[2, 1]), "A\nc[3]\n\x1b[31mb[22]\x1b[0m\n");
        assert_eq!(text(&[1, 0, 9]), "A\n\x1b[31mb[22]\x1b[0m\nfirst-long-name[1]\n");
        assert_eq!(text(&[0, 1, 2]), written(&[column.of_rows(&[0, 1, 2])], None, &[]));
        let narrow = column.of_rows(&[2, 0]);
        assert_eq!((narrow.full, column.of_rows(&[2]).full), (18, 4), "only the width of its own cells");
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
        assert_eq!(fitted(1), [Some(35), None, Some(10)]);
        assert_eq!(fitted(1), fitted(MIN_WIDTH));
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
