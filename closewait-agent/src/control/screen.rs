//! Removes from an answer what could act on a terminal: an agent is another program, and names in its answer are those of
//! further programs.

use closewait_engine::text::is_harmful;

/// Longest color sequence, bytes: `ESC [ 38 ; 5 ; 208 m` and some room.
const MAX_SGR: usize = 16;
/// Number of bytes that are scanned at once.
const CHUNK: usize = 64;

/// A table or a report: lines of text, in color if it was asked for. Everything else that is not a visible character is
/// written out as an escape.
pub fn harmless_text(text: Vec<u8>) -> Vec<u8> {
    harmless(text, true, |to, character| to.extend(character.escape_unicode().map(|ascii| ascii as u8)))
}

/// JSON: lines without any control character. One that is there nevertheless is written as JSON does it.
pub fn harmless_json(text: Vec<u8>) -> Vec<u8> {
    harmless(text, false, |to, character| {
        for unit in character.encode_utf16(&mut [0; 2]) {
            to.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
        }
    })
}

fn harmless(text: Vec<u8>, color: bool, escape: impl Fn(&mut Vec<u8>, char)) -> Vec<u8> {
    // Nearly every answer is harmless as a whole, and is not copied.
    let Some(first) = first_harmful(&text, color) else { return text };
    let (plain, rest) = text.split_at(first);
    let mut to = plain.to_vec();
    // What is not UTF-8 becomes the character for that.
    let rest = String::from_utf8_lossy(rest);
    let mut rest: &str = &rest;
    while !rest.is_empty() {
        let end = first_harmful(rest.as_bytes(), color).unwrap_or(rest.len());
        let (plain, after) = rest.split_at(end);
        to.extend_from_slice(plain.as_bytes());
        let mut after = after.chars();
        if let Some(character) = after.next() {
            escape(&mut to, character);
        }
        rest = after.as_str();
    }
    to
}

/// Where the first byte is that belongs to something harmful.
fn first_harmful(text: &[u8], color: bool) -> Option<usize> {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n');
    let mut at = 0;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        // Whole chunks without a branch for each byte: compilers make vector instructions of that.
        let all_plain = |chunk: &&[u8]| chunk.iter().fold(true, |all, byte| all & plain(byte));
        at += rest.chunks(CHUNK).take_while(all_plain).map(<[u8]>::len).sum::<usize>();
        let rest = text.get(at..).unwrap_or_default();
        at += rest.iter().position(|byte| !plain(byte))?;
        let rest = text.get(at..).unwrap_or_default();
        let length = match rest.first() {
            Some(0x1b) if color => sgr(rest),
            Some(0x80..) => character(rest).filter(|(character, _)| !is_harmful(*character)).map(|(_, length)| length),
            Some(_) | None => None,
        };
        match length {
            Some(length) => at += length,
            None => return Some(at),
        }
    }
}

/// The character that bytes begin with, and its length.
fn character(bytes: &[u8]) -> Option<(char, usize)> {
    let first = bytes.get(..bytes.len().min(4)).unwrap_or_default();
    let valid = first.utf8_chunks().next()?.valid();
    let character = valid.chars().next()?;
    Some((character, character.len_utf8()))
}

/// The length of the color sequence that bytes begin with: `ESC [`, digits and semicolons, `m`.
fn sgr(bytes: &[u8]) -> Option<usize> {
    let parameters = bytes.strip_prefix(b"\x1b[")?;
    let end = parameters.iter().take(MAX_SGR).position(|byte| !matches!(byte, b'0'..=b'9' | b';'))?;
    (parameters.get(end) == Some(&b'm')).then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(from: &[u8]) -> String {
        String::from_utf8(harmless_text(from.to_vec())).unwrap()
    }

    fn json(from: &[u8]) -> String {
        String::from_utf8(harmless_json(from.to_vec())).unwrap()
    }

    #[test]
    fn what_closewait_writes_stays_as_it_is() {
        for ours in ["", "AGE  OWNER\n≥1m24s  grün 日本…\n", "\x1b[1;31mkill\x1b[0m  \x1b[2mx\x1b[m\n", "a\\u{1b}b\n"]
        {
            assert_eq!(text(ours.as_bytes()), ours);
        }
        let object = "{\"comm\":\"a\\\\u{1b}\",\"x\":\"日本\"}\n";
        assert_eq!(json(object.as_bytes()), object);
    }

    #[test]
    fn other_sequences_and_control_characters_are_written_out() {
        assert_eq!(text(b"\x1b]0;owned\x07\x1b[2Jno\n"), "\\u{1b}]0;owned\\u{7}\\u{1b}[2Jno\n");
        assert_eq!(text(b"a\rb\tc\x7f\0"), "a\\u{d}b\\u{9}c\\u{7f}\\u{0}");
        assert_eq!(text("x\u{9b}31m \u{202e}y".as_bytes()), "x\\u{9b}31m \\u{202e}y");
        assert_eq!(text(b"\xff\x1b[31mred\xfe\n"), "\u{fffd}\x1b[31mred\u{fffd}\n");
        for cut in [&b"\x1b"[..], b"\x1b[", b"\x1b[3", b"\x1b[?25l", b"\x1b[1;1H", b"\x1b[11111111111111111111m"] {
            assert!(!text(cut).contains('\x1b'), "{cut:?}");
        }
    }

    #[test]
    fn in_json_there_is_no_color_and_what_is_written_out_is_json_again() {
        assert_eq!(json(b"{\"a\":\"\x1b[31m\"}\n"), "{\"a\":\"\\u001b[31m\"}\n");
        let read: serde_json::Value = serde_json::from_str(&json("\"\u{202e}\u{e0001}\x07\"".as_bytes())).unwrap();
        assert_eq!(read, "\u{202e}\u{e0001}\u{7}");
    }

    proptest! {
        #[test]
        fn nothing_is_left_that_acts_on_a_terminal(bytes: Vec<u8>, escapes in prop::collection::vec(0_usize..40, 0..4)) {
            let mut bytes = bytes;
            for at in escapes {
                let at = at.min(bytes.len());
                bytes.splice(at..at, *b"\x1b[1m");
            }
            let shown = text(&bytes);
            let mut rest = shown.as_str();
            while let Some(at) = rest.find(|character: char| is_harmful(character) && character != '\n') {
                let length = sgr(&rest.as_bytes()[at..]);
                prop_assert!(length.is_some(), "{shown:?}");
                rest = &rest[at + length.unwrap()..];
            }
            prop_assert!(!json(&bytes).chars().any(|character| is_harmful(character) && character != '\n'));
        }
    }
}
