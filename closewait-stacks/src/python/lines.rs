//! Line tables of code objects.

use std::cell::RefCell;

/// Format of the line table of a code object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineFormat {
    /// Pairs of an address delta and a signed line delta: `co_lnotab` of 3.8 and 3.9 (Objects/lnotab_notes.txt at v3.8.0).
    Deltas,
    /// Pairs of a length and a signed line delta: `co_linetable` of 3.10 (Objects/lnotab_notes.txt at v3.10.0).
    Ranges,
    /// Location table of 3.11 and later (Objects/locations.md at v3.11.0, InternalDocs/code_objects.md at v3.14.0).
    Locations,
}

/// Size of an instruction unit, bytes (`_Py_CODEUNIT`).
const UNIT: i64 = 2;
/// Line delta that stands for "no line" (`retreat` and `advance`, Objects/codeobject.c at v3.10.0).
const NO_LINE: i8 = -128;

/// Number of bytes of a table between two places from which a search can start.
const MARK_INTERVAL: usize = 4096;

/// Line table of a code object that begins at line `first`.
#[derive(Debug)]
pub(super) struct LineTable {
    format: LineFormat,
    bytes: Vec<u8>,
    first: u32,
    /// Places that earlier searches have passed, so that no search decodes a large table as a whole again.
    marks: RefCell<Vec<LineState>>,
}

/// State before an entry of a table.
#[derive(Clone, Copy, Debug)]
struct LineState {
    /// Offset of the entry in the table.
    at: usize,
    /// End of the instructions before it, bytes from the first one.
    end: i64,
    line: i64,
}

/// Result of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FoundLine {
    /// Line; `None` if the table gives it none or is damaged.
    pub(super) line: Option<u32>,
    /// Number of entries that were decoded.
    pub(super) steps: u64,
}

impl LineTable {
    pub(super) const fn new(format: LineFormat, bytes: Vec<u8>, first: u32) -> Self {
        Self { format, bytes, first, marks: RefCell::new(Vec::new()) }
    }

    /// Returns the line of the instruction at `offset`, in bytes from the first instruction of the code object. An offset before it is
    /// that of a call that has not begun.
    pub(super) fn line(&self, offset: i64) -> FoundLine {
        let (line, steps) = if offset < 0 { (Some(self.first.into()), 0) } else { self.search(offset) };
        FoundLine { line: line.and_then(|line| u32::try_from(line).ok()).filter(|line| *line != 0), steps }
    }

    fn search(&self, offset: i64) -> (Option<i64>, u64) {
        let mut marks = self.marks.borrow_mut();
        let before = marks.partition_point(|mark| mark.end <= offset).checked_sub(1);
        let start = LineState { at: 0, end: 0, line: self.first.into() };
        let mut state = before.and_then(|last| marks.get(last)).copied().unwrap_or(start);
        let mut steps = 0;
        loop {
            if state.at >= (marks.len() + 1) * MARK_INTERVAL {
                marks.push(state);
            }
            steps += 1;
            // The last entry of a table of deltas has no end.
            let Some(has_line) = self.format.step(&self.bytes, &mut state) else { return (None, steps) };
            if state.end > offset {
                return (has_line, steps);
            }
        }
    }
}

impl LineFormat {
    /// Decodes the entry at a state, and moves the state behind it. Returns the line of its instructions, which may be none; `None` at the
    /// end of the table, or if it is damaged.
    fn step(self, table: &[u8], state: &mut LineState) -> Option<Option<i64>> {
        let rest = table.get(state.at..).unwrap_or_default();
        match self {
            Self::Deltas => Some(Some(by_deltas(rest, state))),
            Self::Ranges => by_ranges(rest, state),
            Self::Locations => by_locations(rest, state),
        }
    }
}

/// See `PyCode_Addr2Line`, Objects/codeobject.c at v3.8.0.
fn by_deltas(rest: &[u8], state: &mut LineState) -> i64 {
    let line = state.line;
    match rest.first_chunk() {
        Some([len, delta]) => {
            state.end += i64::from(*len);
            state.line += i64::from(delta.cast_signed());
            state.at += 2;
        }
        None => state.end = i64::MAX,
    }
    line
}

/// See `_PyCode_CheckLineNumber`, Objects/codeobject.c at v3.10.0.
fn by_ranges(rest: &[u8], state: &mut LineState) -> Option<Option<i64>> {
    let [len, delta] = rest.first_chunk()?;
    let delta = delta.cast_signed();
    let has_line = delta != NO_LINE;
    if has_line {
        state.line += i64::from(delta);
    }
    state.end += i64::from(*len);
    state.at += 2;
    Some(has_line.then_some(state.line))
}

/// See `advance` and `get_line_delta`, Objects/codeobject.c at v3.11.0.
fn by_locations(rest: &[u8], state: &mut LineState) -> Option<Option<i64>> {
    let mut bytes = rest.iter().copied();
    let head = bytes.next()?;
    if head & 0x80 == 0 {
        return None;
    }
    let mut has_line = true;
    let columns = match (head >> 3) & 15 {
        15 => {
            has_line = false;
            0
        }
        14 => {
            state.line = state.line.wrapping_add(signed(&mut bytes)?);
            for _ in 0..3 {
                unsigned(&mut bytes)?;
            }
            0
        }
        13 => {
            state.line = state.line.wrapping_add(signed(&mut bytes)?);
            0
        }
        code @ 10..=12 => {
            state.line += i64::from(code - 10);
            2
        }
        _ => 1,
    };
    state.end += UNIT * (i64::from(head & 7) + 1);
    // The columns of the last entry may be missing: nothing is behind them.
    state.at += rest.len() - bytes.len() + columns;
    Some(has_line.then_some(state.line))
}

/// Returns a number in groups of 6 bits, the lowest ones first; `None` if it has more than 36 bits.
fn unsigned(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let mut number = 0;
    for shift in (0..36).step_by(6) {
        let byte = bytes.next()?;
        number |= i64::from(byte & 0x3f) << shift;
        if byte & 0x40 == 0 {
            return Some(number);
        }
    }
    None
}

/// Returns a number whose lowest bit is its sign.
fn signed(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let number = unsigned(bytes)?;
    Some(if number & 1 == 0 { number >> 1 } else { -(number >> 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the line of an instruction of a code object that begins at line 10.
    fn line(format: LineFormat, table: &[u8], offset: i64) -> Option<u32> {
        LineTable::new(format, table.to_vec(), 10).line(offset).line
    }

    #[test]
    fn a_large_table_is_decoded_as_a_whole_only_once() {
        // An entry of one unit and one more line.
        let table = LineTable::new(LineFormat::Locations, [0x80 | (11 << 3), 0, 0].repeat(350_000), 1);
        let offsets: Vec<i64> = (0..1000).map(|number| (number * 7919 % 1000) * 699).collect();
        let found: Vec<_> = offsets.iter().map(|offset| table.line(*offset)).collect();
        for (offset, found) in offsets.iter().zip(&found) {
            assert_eq!(found.line.map(i64::from), Some(offset / 2 + 2), "{offset}");
        }
        let steps: u64 = found.iter().map(|found| found.steps).sum();
        // Without marks they are 175 million.
        assert!(steps < 350_000 + 1000 * 2 * MARK_INTERVAL as u64 / 3, "{steps}");
    }

    #[test]
    fn deltas_count_until_the_instruction() {
        // Lines 10, 11 from byte 6, 9 from byte 20, 300 from byte 30: a large delta takes several pairs.
        let table = [6, 1, 14, 0xfe, 10, 127, 0, 127, 0, 37];
        let of = |table: &[u8], offset| line(LineFormat::Deltas, table, offset);
        let line = |offset| of(&table, offset);
        assert_eq!([0, 4, 6, 18, 20, 28, 30, 900].map(line), [10, 10, 11, 11, 9, 9, 300, 300].map(Some));
        assert_eq!(line(-1), Some(10));
        assert_eq!(of(&[1, 0x81], 8), None, "a line before the first one of the file");
    }

    #[test]
    fn ranges_can_have_no_line() {
        let table = [4, 0, 6, 2, 2, 0x80, 8, 0xff];
        let line = |offset| line(LineFormat::Ranges, &table, offset);
        assert_eq!(
            [0, 2, 4, 8, 10, 12, 18].map(line),
            [10, 10, 12, 12, 0, 11, 11].map(|at| Some(at).filter(|at| *at > 0))
        );
        assert_eq!(line(20), None, "after the end");
    }

    #[test]
    fn locations_have_four_forms() {
        let table = [
            0x80 | (15 << 3), // 1 unit without a line
            0x80 | (3 << 3) | 1,
            0x12, // 2 units of the same line, short form
            0x80 | (12 << 3),
            1,
            2, // 1 unit, 2 lines on
            0x80 | (13 << 3) | 7,
            3, // 8 units, 1 line back, no columns
            0x80 | (14 << 3),
            0x40 | 0x28,
            1,
            0,
            0,
            0,    // 1 unit, 52 lines on, long form
            0x80, // 1 unit of the same line, without its byte of columns
        ];
        let of = |table: &[u8]| line(LineFormat::Locations, table, 0);
        let line = |offset| line(LineFormat::Locations, &table, offset);
        assert_eq!(line(0), None);
        assert_eq!([2, 4, 6, 8, 22, 24, 26].map(line), [10, 10, 12, 11, 11, 63, 63].map(Some));
        assert_eq!(line(28), None);
        assert_eq!(of(&[0x05]), None, "an entry begins with its highest bit");
        assert_eq!(of(&[0xe8, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f]), None);
    }
}
