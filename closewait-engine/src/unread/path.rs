//! Paths of requests, without what looks like a value.

use serde::Deserializer;

use crate::text::harmless_field;

/// Maximum length of a path, characters.
pub(super) const MAX_PATH: usize = 128;
/// Minimum length of a part of a path that can be a token, bytes.
const MIN_TOKEN: usize = 16;
/// Maximum number of characters of a token for each digit in it.
const CHARACTERS_PER_DIGIT: usize = 8;
/// Minimum length of a hexadecimal number, bytes.
const MIN_HEX: usize = 8;
/// Maximum length of a part of a path that is a name, bytes.
const MAX_NAME: usize = 64;
/// Replacement for a value.
const VALUE: &str = "*";

/// Returns the path in a request target (RFC 9112, section 3.2) without query, fragment and parameters; `None` if it is no target. The
/// authority of an absolute target, which can contain a password, is left out.
pub(super) fn of_target(target: &[u8]) -> Option<String> {
    if target.is_empty() || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return None;
    }
    if target == b"*" {
        return Some("*".to_owned());
    }
    let path = if target.starts_with(b"/") { target } else { behind_authority(target)? };
    // An encoded question mark is part of the path, and yet a query follows it more often than not.
    let is_end = |at: &usize| {
        let rest = path.get(*at..).unwrap_or_default();
        rest.starts_with(b"?")
            || rest.starts_with(b"#")
            || rest.get(..3).is_some_and(|of| of.eq_ignore_ascii_case(b"%3f"))
    };
    let end = (0..path.len()).find(is_end).unwrap_or(path.len());
    let path = path.get(..end).unwrap_or_default();
    let mut shown = String::with_capacity(path.len().min(MAX_PATH) + 1);
    for (number, part) in path.split(|byte| *byte == b'/').enumerate() {
        if number > 0 {
            shown.push('/');
        }
        let name = part.split(|byte| *byte == b';').next().unwrap_or_default();
        shown.push_str(plain_name(name).unwrap_or(VALUE));
        if shown.len() > MAX_PATH {
            break;
        }
    }
    if shown.is_empty() {
        shown.push('/');
    }
    Some(short(shown))
}

/// Returns the path of an absolute target, such as `http://host/path`; `None` without a scheme.
fn behind_authority(target: &[u8]) -> Option<&[u8]> {
    let scheme = target.iter().position(|byte| *byte == b':')?;
    let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let (name, rest) = target.split_at_checked(scheme)?;
    let rest = rest.strip_prefix(b"://").filter(|_| !name.is_empty() && name.iter().all(is_scheme))?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    rest.get(end..)
}

/// Returns a part of a path if it looks like a name that the program's authors chose, and not like a value.
fn plain_name(part: &[u8]) -> Option<&str> {
    let is_plain =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'~' | b'+' | b',' | b'!');
    let name = str::from_utf8(part).ok().filter(|_| part.iter().all(is_plain))?;
    let digits = part.iter().filter(|byte| byte.is_ascii_digit()).count();
    let is_number = digits > 0 && part.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b','));
    let is_hex =
        digits > 0 && part.len() >= MIN_HEX && part.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    let is_token = part.len() >= MIN_TOKEN && digits * CHARACTERS_PER_DIGIT >= part.len();
    (!is_number && !is_hex && !is_token && part.len() <= MAX_NAME).then_some(name)
}

/// Cuts a path after [`MAX_PATH`] characters.
fn short(mut path: String) -> String {
    if let Some((end, _)) = path.char_indices().nth(MAX_PATH) {
        path.truncate(end);
        path.push('…');
        path.shrink_to_fit();
    }
    path
}

/// Reads the path of a recording, which any program may have written.
pub(super) fn short_field<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let path: String = harmless_field(deserializer)?;
    // One that was cut has one character more.
    Ok(if path.chars().count() <= MAX_PATH + 1 { path } else { short(path) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_names_and_no_values() {
        for (target, expected) in [
            ("/", Some("/")),
            ("/orders", Some("/orders")),
            ("/orders/?a=b", Some("/orders/")),
            ("/orders#part", Some("/orders")),
            ("/orders%3Ftoken=abc", Some("/orders")),
            ("/orders/17", Some("/orders/*")),
            ("/v1/orders/17/items", Some("/v1/orders/*/items")),
            ("/users/3f2b9c4e-8d0a-4e55-b1a7-0c2f6a9d7e10", Some("/users/*")),
            ("/users/deadbeef01", Some("/users/*")),
            ("/reset/Zm9vYmFy12Zm9vYmFyZm9", Some("/reset/*")),
            ("/oauth2-callback-v2", Some("/oauth2-callback-v2")),
            ("/api;jsessionid=0123/list;v=1", Some("/api/list")),
            ("/mail/a@b.example", Some("/mail/*")),
            ("/search/two%20words", Some("/search/*")),
            ("/caf\u{e9}/menu", Some("/*/menu")),
            ("/a=b", Some("/*")),
            ("*", Some("*")),
            ("http://user:secret@host:80/path?q", Some("/path")),
            ("https://host", Some("/")),
            ("https://host?q", Some("/")),
            ("host:443", None),
            ("", None),
            ("orders", None),
            ("/a b", None),
            ("/a\x1b[2J", None),
        ] {
            assert_eq!(of_target(target.as_bytes()).as_deref(), expected, "{target:?}");
        }
    }

    #[test]
    fn a_long_path_is_cut() {
        let path = of_target("/name".repeat(400).as_bytes()).unwrap();
        assert_eq!((path.chars().count(), path.chars().last()), (MAX_PATH + 1, Some('…')));
        assert_eq!(of_target(&[&b"/"[..], &[b'x'; 65]].concat()).as_deref(), Some("/*"));
    }
}
