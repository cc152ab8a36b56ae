//! Line tables of code objects.

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

impl LineFormat {
    /// Returns the line of the instruction at `offset`, in bytes from the first instruction of a code object that begins at line `first`;
    /// `None` if the table gives it none or is damaged. An offset before the first instruction is that of a call that has not begun.
    pub(super) fn line(self, table: &[u8], first: u32, offset: i64) -> Option<u32> {
        let line = match self {
            _ if offset < 0 => Some(first.into()),
            Self::Deltas => Some(by_deltas(table, first.into(), offset)),
            Self::Ranges => by_ranges(table, first.into(), offset),
            Self::Locations => by_locations(table, first.into(), offset),
        };
        u32::try_from(line?).ok().filter(|line| *line != 0)
    }
}

/// See `PyCode_Addr2Line`, Objects/codeobject.c at v3.8.0.
fn by_deltas(table: &[u8], first: i64, offset: i64) -> i64 {
    let (mut line, mut at) = (first, 0);
    for pair in table.chunks_exact(2) {
        at += i64::from(pair[0]);
        if at > offset {
            break;
        }
        line += i64::from(pair[1].cast_signed());
    }
    line
}

/// See `_PyCode_CheckLineNumber`, Objects/codeobject.c at v3.10.0.
fn by_ranges(table: &[u8], first: i64, offset: i64) -> Option<i64> {
    let (mut line, mut end) = (first, 0);
    for pair in table.chunks_exact(2) {
        end += i64::from(pair[0]);
        let delta = pair[1].cast_signed();
        let has_line = delta != NO_LINE;
        if has_line {
            line += i64::from(delta);
        }
        if end > offset {
            return has_line.then_some(line);
        }
    }
    None
}

/// See `advance` and `get_line_delta`, Objects/codeobject.c at v3.11.0.
fn by_locations(table: &[u8], first: i64, offset: i64) -> Option<i64> {
    let mut bytes = table.iter().copied();
    let (mut line, mut end) = (first, 0);
    while let Some(head) = bytes.next() {
        if head & 0x80 == 0 {
            return None;
        }
        end += UNIT * (i64::from(head & 7) + 1);
        let mut has_line = true;
        let columns = match (head >> 3) & 15 {
            15 => {
                has_line = false;
                0
            }
            14 => {
                line = line.wrapping_add(signed(&mut bytes)?);
                for _ in 0..3 {
                    unsigned(&mut bytes)?;
                }
                0
            }
            13 => {
                line = line.wrapping_add(signed(&mut bytes)?);
                0
            }
            code @ 10..=12 => {
                line += i64::from(code - 10);
                2
            }
            _ => 1,
        };
        if end > offset {
            return has_line.then_some(line);
        }
        for _ in 0..columns {
            bytes.next()?;
        }
    }
    None
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

    #[test]
    fn deltas_count_until_the_instruction() {
        // Lines 10, 11 from byte 6, 9 from byte 20, 300 from byte 30: a large delta takes several pairs.
        let table = [6, 1, 14, 0xfe, 10, 127, 0, 127, 0, 37];
        let line = |offset| LineFormat::Deltas.line(&table, 10, offset);
        assert_eq!([0, 4, 6, 18, 20, 28, 30, 900].map(line), [10, 10, 11, 11, 9, 9, 300, 300].map(Some));
        assert_eq!(line(-1), Some(10));
        assert_eq!(LineFormat::Deltas.line(&[1, 0x81], 10, 8), None, "a line before the first one of the file");
    }

    #[test]
    fn ranges_can_have_no_line() {
        let table = [4, 0, 6, 2, 2, 0x80, 8, 0xff];
        let line = |offset| LineFormat::Ranges.line(&table, 10, offset);
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
        let line = |offset| LineFormat::Locations.line(&table, 10, offset);
        assert_eq!(line(0), None);
        assert_eq!([2, 4, 6, 8, 22, 24, 26].map(line), [10, 10, 12, 11, 11, 63, 63].map(Some));
        assert_eq!(line(28), None);
        assert_eq!(LineFormat::Locations.line(&[0x05], 10, 0), None, "an entry begins with its highest bit");
        assert_eq!(LineFormat::Locations.line(&[0xe8, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f], 10, 0), None);
    }
}
