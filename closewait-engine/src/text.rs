//! Text from untrusted sources, made harmless once, where it enters the model.

use std::{borrow::Cow, cmp::Ordering, fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Name of a task. The process chooses it, so it can contain any bytes. The type stores it as text in which every character is safe
/// to print to a terminal and to a log.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Comm(Name);

/// Text of a name. Short text is inline, without an allocation: every owner of a socket has a name, and all names without escapes
/// are short.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Name {
    /// Inline text; bytes beyond the length are zero.
    Short(u8, [u8; Name::SHORT]),
    Long(Box<str>),
}

impl Name {
    /// Maximum length of inline text, bytes. With it, the enum is not larger than a `Box<str>` and its tag.
    const SHORT: usize = 22;

    fn new(text: &str) -> Self {
        let mut bytes = [0; Self::SHORT];
        match (u8::try_from(text.len()), bytes.get_mut(..text.len())) {
            (Ok(length), Some(to)) => {
                to.copy_from_slice(text.as_bytes());
                Self::Short(length, bytes)
            }
            _ => Self::Long(text.into()),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            // The bytes were valid text when they were stored, so the default is never used.
            Self::Short(length, bytes) => {
                bytes.get(..usize::from(*length)).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or_default()
            }
            Self::Long(text) => text,
        }
    }
}

impl PartialOrd for Comm {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Comm {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Comm").field(&self.as_str()).finish()
    }
}

impl Comm {
    /// Converts the kernel's 16 bytes, up to the first zero if there is one.
    pub fn from_kernel(bytes: &[u8; 16]) -> Self {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Self(Name::new(&harmless(&bytes[..end])))
    }

    /// Converts a name from elsewhere, such as `/proc`; only the kernel's 16 bytes count.
    pub fn from_name(name: &[u8]) -> Self {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(name) {
            *to = *from;
        }
        Self::from_kernel(&bytes)
    }

    /// Returns the harmless text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Returns the name for texts, with parentheses in place of brackets: the pid that follows is in brackets, and a name like `sshd[1]`
    /// would pretend to be another process.
    pub fn shown(&self) -> Cow<'_, str> {
        let name = self.as_str();
        if name.contains(['[', ']']) { name.replace('[', "(").replace(']', ")").into() } else { name.into() }
    }
}

impl fmt::Display for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.shown())
    }
}

impl Serialize for Comm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Comm {
    /// Reads a name from a recording, which any user may have written: escapes it again if it is not harmless.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        harmless_field(deserializer).map(|text: String| Self(Name::new(&text)))
    }
}

/// Returns text that should already be harmless: unchanged if it is, otherwise made harmless.
pub fn still_harmless(text: String) -> String {
    // Nearly all text is ASCII. Compilers vectorize a loop without an early exit.
    let is_plain = text.bytes().fold(true, |all, byte| all & matches!(byte, b' '..=b'~'));
    if is_plain || !text.chars().any(is_harmful) { text } else { harmless(text.as_bytes()) }
}

/// Makes a path harmless as [`harmless`] does, but keeps a backslash single in text that needs no other escape: systemd
/// writes them into the names of units and cgroups (`system-serial\x2dgetty.slice`), and users paste those names into
/// commands. Different paths can become equal.
pub fn harmless_path(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(is_harmful) => text.to_owned(),
        Ok(_) | Err(_) => harmless(bytes),
    }
}

/// Maximum length of a text in a recording, bytes. No text of the agent is longer: paths have at most 4,096 bytes, with at most six
/// characters for each. Longer ones are from a forged file, and every page would repeat them.
const MAX_FIELD: usize = 24 << 10;

/// Reads a field of a recording that contains harmless text: `#[serde(deserialize_with = "harmless_field")]`.
pub fn harmless_field<'de, D: Deserializer<'de>, T: StillHarmless>(deserializer: D) -> Result<T, D::Error> {
    T::Raw::deserialize(deserializer).map(T::from_raw)
}

/// Reads a field as [`harmless_field`] does, but leaves its line breaks.
pub fn harmless_lines<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let line = |line: &str| still_harmless(line.to_owned());
    Ok(text.map(|text| text.lines().map(line).collect::<Vec<_>>().join("\n")))
}

/// Type that [`harmless_field`] can read.
pub trait StillHarmless: Sized {
    /// Type of the field in the recording.
    type Raw: for<'de> Deserialize<'de>;

    /// Converts the recorded value and makes it harmless.
    fn from_raw(raw: Self::Raw) -> Self;
}

impl StillHarmless for String {
    type Raw = Self;

    fn from_raw(mut raw: Self) -> Self {
        if raw.len() > MAX_FIELD {
            raw.truncate(raw.floor_char_boundary(MAX_FIELD));
            raw.push('…');
            raw.shrink_to_fit();
        }
        still_harmless(raw)
    }
}

impl<T: StillHarmless> StillHarmless for Option<T> {
    type Raw = Option<T::Raw>;

    fn from_raw(raw: Self::Raw) -> Self {
        raw.map(T::from_raw)
    }
}

impl<T: StillHarmless> StillHarmless for Vec<T> {
    type Raw = Vec<T::Raw>;

    fn from_raw(raw: Self::Raw) -> Self {
        raw.into_iter().map(T::from_raw).collect()
    }
}

/// Converts `bytes` to text without characters that act on a terminal or reorder their surroundings. Bytes that are not
/// UTF-8, control characters, line and paragraph separators, bidirectional and other invisible format characters become
/// `\xNN` or `\u{N}`, and so does the backslash itself, so that a name cannot forge an escape.
pub fn harmless(bytes: &[u8]) -> String {
    // Nearly every name is plain, and every socket that closes has one.
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'\\';
    if bytes.iter().all(plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_harmful(character) {
                text.extend(character.escape_unicode());
            } else if character == '\\' {
                text.push_str("\\\\");
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Whether a character is a control character, a separator of lines or paragraphs, or a format character (general category Cf)
/// that is invisible or changes the display of its neighbors.
pub fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
            | '\u{115f}'..='\u{1160}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Formats a duration for people, truncated to two or three digits: `850us`, `1.2ms`, `850ms`, `4.3s`, `37s`, `1m11s`, `5h31m`,
/// `3d4h`. JSON has the exact number.
pub fn duration(duration: Duration) -> String {
    let mut text = String::with_capacity(8);
    push_duration(&mut text, duration);
    text
}

/// Formats the time until a forecast event, in the format of [`duration`]; `<1s` for less than a second, since no forecast is as exact.
pub fn time_left(left: Duration) -> String {
    if left < Duration::from_secs(1) { "<1s".to_owned() } else { duration(left) }
}

/// Appends a duration to `to`, in the format of [`duration`].
pub fn push_duration(to: &mut String, duration: Duration) {
    let (seconds, millis, micros) = (duration.as_secs(), duration.subsec_millis(), duration.subsec_micros());
    match seconds {
        0 if millis == 0 => push_unit(to, micros.into(), "us"),
        0 if millis < 10 => push_tenths(to, (micros / 100).into(), "ms"),
        0 => push_unit(to, millis.into(), "ms"),
        1..10 => push_tenths(to, seconds * 10 + u64::from(millis / 100), "s"),
        10..60 => push_unit(to, seconds, "s"),
        60..3600 => push_pair(to, (seconds / 60, "m"), (seconds % 60, "s")),
        3600..86400 => push_pair(to, (seconds / 3600, "h"), (seconds / 60 % 60, "m")),
        86400.. => push_pair(to, (seconds / 86400, "d"), (seconds / 3600 % 24, "h")),
    }
}

fn push_unit(to: &mut String, number: u64, unit: &str) {
    push_number(to, number);
    to.push_str(unit);
}

/// Appends a number of tenths; a decimal of 0 is omitted.
fn push_tenths(to: &mut String, tenths: u64, unit: &str) {
    push_number(to, tenths / 10);
    if !tenths.is_multiple_of(10) {
        to.push('.');
        push_number(to, tenths % 10);
    }
    to.push_str(unit);
}

/// Appends two units; a smaller unit of 0 is omitted.
fn push_pair(to: &mut String, (large, large_unit): (u64, &str), (small, small_unit): (u64, &str)) {
    push_unit(to, large, large_unit);
    if small != 0 {
        push_unit(to, small, small_unit);
    }
}

/// Formats a count: `1 socket`, `3 sockets`.
pub fn count(number: impl Into<u64>, one: &str) -> String {
    match number.into() {
        1 => format!("1 {one}"),
        many => format!("{many} {one}s"),
    }
}

/// Formats a rate for people: `20/s`, `1.2/s`, `0.05/s`.
pub fn rate(per_second: f64) -> String {
    let decimals = match per_second.abs() {
        9.95.. => 0,
        0.995.. => 1,
        _ => 2,
    };
    format!("{per_second:.decimals$}/s")
}

/// Words around the bounds of a duration.
#[derive(Clone, Copy, Debug)]
pub struct BoundWords {
    /// Word before a lower bound without an upper one.
    pub at_least: &'static str,
    /// Word before a lower bound with an upper one.
    pub from: &'static str,
    /// Word between both bounds.
    pub to: &'static str,
}

impl BoundWords {
    /// Words for sentences: `at least 2m16s`, `2m16s to 3h00m`.
    pub const PROSE: Self = Self { at_least: "at least ", from: "", to: " to " };
    /// Words for tables: `≥2m16s`, `≥2m16s ≤3h00m`.
    pub const TABLE: Self = Self { at_least: "≥", from: "≥", to: " ≤" };
}

/// Appends the bounds of a duration to `to`. If both have the same text, it is written once, without a word. Returns the length
/// of the upper bound with the word before it, bytes.
pub fn push_bounds(to: &mut String, at_least: Duration, at_most: Option<Duration>, words: BoundWords) -> usize {
    let start = to.len();
    let Some(at_most) = at_most else {
        to.push_str(words.at_least);
        push_duration(to, at_least);
        return 0;
    };
    to.push_str(words.from);
    let low = to.len();
    push_duration(to, at_least);
    let before = to.len();
    to.push_str(words.to);
    let high = to.len();
    push_duration(to, at_most);
    if to.get(low..before) == to.get(high..) {
        to.truncate(before);
        to.replace_range(start..low, "");
        return 0;
    }
    to.len() - before
}

/// Formats the bounds of a duration for a sentence.
pub fn bounds(at_least: Duration, at_most: Option<Duration>) -> String {
    let mut text = String::new();
    push_bounds(&mut text, at_least, at_most, BoundWords::PROSE);
    text
}

/// Appends the digits of `number` to `to`. Faster than the formatting macros, because tables have many numbers.
pub fn push_number(to: &mut String, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    to.push_str(str::from_utf8(&digits[first..]).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_stay_lines_and_are_harmless() {
        let read = |json: &str| harmless_lines(&mut serde_json::Deserializer::from_str(json)).unwrap();
        assert_eq!(read("null"), None);
        assert_eq!(read(r#""why\u001b\nhint: do""#).as_deref(), Some("why\\u{1b}\nhint: do"));
    }

    #[test]
    fn a_forged_text_is_not_longer_than_any_of_the_agent() {
        let read = |text: &str| harmless_field::<_, String>(&mut serde_json::Deserializer::from_str(text)).unwrap();
        let cut = read(&format!("\"{}\"", "é".repeat(100_000)));
        assert_eq!((cut.chars().count(), cut.ends_with("é…")), (MAX_FIELD / 2 + 1, true));
        let path = "\u{1}".repeat(4_096);
        let longest = harmless(path.as_bytes());
        assert_eq!(read(&serde_json::to_string(&longest).unwrap()), longest);
    }

    #[test]
    fn a_plain_name_is_unchanged() {
        assert_eq!(Comm::from_kernel(b"nginx\0\0\0\0\0\0\0\0\0\0\0").as_str(), "nginx");
    }

    #[test]
    fn no_name_pretends_to_be_another_process() {
        let comm = Comm::from_name(b"sshd[1], a");
        assert_eq!((comm.as_str(), comm.to_string().as_str()), ("sshd[1], a", "sshd(1), a"));
        assert_eq!(format!("{:>9}", Comm::from_name(b"nginx")), "    nginx");
    }

    #[test]
    fn a_name_without_a_terminator_is_read_whole() {
        assert_eq!(Comm::from_kernel(b"abcdefghijklmnop").as_str(), "abcdefghijklmnop");
    }

    #[test]
    fn a_name_with_many_escapes_compares_like_any_other() {
        let long = Comm::from_kernel(&[1; 16]);
        assert_eq!(long.as_str(), "\\u{1}".repeat(16));
        let short = Comm::from_name("日本語日本".as_bytes());
        assert_eq!((short.as_str(), short == short.clone()), ("日本語日本", true));
        assert!(Comm::from_name(b"b") > Comm::from_name(b"a-longer-name-x") && long < short);
        assert_eq!(size_of::<Comm>(), 24);
    }

    #[test]
    fn bytes_after_the_terminator_are_not_shown() {
        assert_eq!(Comm::from_kernel(b"sh\0secretsecret\0").as_str(), "sh");
    }

    #[test]
    fn escapes_newlines_bidi_marks_and_stray_bytes_are_written_out() {
        assert_eq!(harmless(b"\x1b[2Jx"), "\\u{1b}[2Jx");
        assert_eq!(harmless(b"a\nb\tc"), "a\\u{a}b\\u{9}c");
        assert_eq!(harmless("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        assert_eq!(harmless("a\u{9b}31m".as_bytes()), "a\\u{9b}31m");
        assert_eq!(harmless(b"a\xff"), "a\\xff");
        assert_eq!(harmless(b"a\\u{1b}"), "a\\\\u{1b}");
        assert_eq!(harmless("grün 日本".as_bytes()), "grün 日本");
    }

    proptest! {
        #[test]
        fn no_harmful_character_remains(bytes: Vec<u8>) {
            prop_assert!(!harmless(&bytes).chars().any(is_harmful));
        }

        #[test]
        fn different_bytes_give_different_text(a: Vec<u8>, b: Vec<u8>) {
            prop_assert_eq!(a == b, harmless(&a) == harmless(&b));
        }
    }
}
