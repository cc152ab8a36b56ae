//! Rust text as names and marks, without comments, strings and characters.

/// What of the text matters for finding paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A name or a keyword.
    Name(String),
    /// `::`
    PathSep,
    /// Any other mark.
    Mark(char),
}

/// The tokens of a file, each with its line.
pub(super) fn tokens(text: &str) -> Vec<(Token, usize)> {
    let mut scanner = Scanner { rest: text, line: 1 };
    let mut tokens = Vec::new();
    while let Some(found) = scanner.next_token() {
        tokens.push(found);
    }
    tokens
}

struct Scanner<'a> {
    rest: &'a str,
    line: usize,
}

impl Scanner<'_> {
    fn next_token(&mut self) -> Option<(Token, usize)> {
        loop {
            let first = self.rest.chars().next()?;
            let line = self.line;
            if self.skip_silent(first) {
                continue;
            }
            if first.is_alphabetic() || first == '_' {
                let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
                let name = self.rest[..end].to_owned();
                self.skip(end);
                return Some((Token::Name(name), line));
            }
            if self.rest.starts_with("::") {
                self.skip(2);
                return Some((Token::PathSep, line));
            }
            self.skip(first.len_utf8());
            if !first.is_whitespace() && !first.is_ascii_digit() {
                return Some((Token::Mark(first), line));
            }
        }
    }

    /// Skips a comment, string, character or lifetime that starts here.
    fn skip_silent(&mut self, first: char) -> bool {
        let rest = self.rest;
        if rest.starts_with("//") {
            self.skip(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.skip(block_comment_len(rest));
        } else if let Some(len) = raw_string_len(rest) {
            self.skip(len);
        } else if rest.starts_with("r#") {
            // A raw identifier: the name follows.
            self.skip(2);
        } else if first == '"' || rest.starts_with("b\"") || rest.starts_with("c\"") {
            self.skip(string_len(rest));
        } else if let Some(len) = quote_len(rest) {
            self.skip(len);
        } else {
            return false;
        }
        true
    }

    fn skip(&mut self, len: usize) {
        self.line += self.rest[..len].matches('\n').count();
        self.rest = &self.rest[len..];
    }
}

/// Block comments nest.
fn block_comment_len(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// `r"..."`, `r#"..."#`, also with `b` or `c` in front.
fn raw_string_len(text: &str) -> Option<usize> {
    let body = text.strip_prefix(['b', 'c']).unwrap_or(text).strip_prefix('r')?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let inner = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - inner.len();
    Some(inner.find(&end).map_or(text.len(), |at| start + at + end.len()))
}

fn string_len(text: &str) -> usize {
    let open = text.find('"').unwrap_or(0) + 1;
    escaped_len(&text[open..], '"').map_or(text.len(), |len| open + len)
}

/// A character, a byte or a lifetime.
fn quote_len(text: &str) -> Option<usize> {
    let quoted = text.strip_prefix("b'").or_else(|| text.strip_prefix('\''))?;
    let open = text.len() - quoted.len();
    let mut chars = quoted.chars();
    let first = chars.next()?;
    if first == '\\' || chars.next() == Some('\'') {
        return escaped_len(quoted, '\'').map(|len| open + len);
    }
    let name = quoted.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(quoted.len());
    Some(open + name)
}

/// Up to and with the closing quote.
fn escaped_len(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(at + c.len_utf8()),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let name = |(token, _line)| match token {
            Token::Name(name) => Some(name),
            Token::PathSep | Token::Mark(_) => None,
        };
        tokens(text).into_iter().filter_map(name).collect()
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        assert_eq!(names("a // b\n/* c /* d */ e */ f"), ["a", "f"]);
        assert_eq!(names(r##"a("b \" c", r#"d " e"#, b"f", br"g", c"h") i"##), ["a", "i"]);
        assert_eq!(names(r"'a' b'c' '\'' '\u{1F}' d 'static e<'f>"), ["d", "e"]);
        assert_eq!(names("r#type b"), ["type", "b"]);
    }

    #[test]
    fn lines_are_counted_through_everything() {
        let found = tokens("/* 1\n2 */ \"3\n\" a::\n b");
        let lines: Vec<_> = found.iter().map(|(_token, line)| *line).collect();
        assert_eq!(found[1].0, Token::PathSep);
        assert_eq!(lines, [3, 3, 4]);
    }

    #[test]
    fn unfinished_text_ends_quietly() {
        for text in ["\"abc", "/* abc", "r#\"abc", "'", "b'", "'\\"] {
            assert!(tokens(text).len() <= 2, "{text}");
        }
    }
}
