//! Plain English: phrases of a private dialect are refused in pages, messages and help, and some also in doc comments.
//!
//! phrases.txt has the phrases, and what to write instead. They are compared word by word, so a line break within one does not
//! hide it.

use proc_macro2::{TokenStream, TokenTree};

use super::{Files, Problem, source};
use crate::prelude::*;

const PHRASES: &str = include_str!("phrases.txt");
const WHY: &str = "users or newcomers read this, and CONTRIBUTING.md asks for plain English";

/// Words that are no doc comment alone: they refer to the item before.
const INCOMPLETE: &str = "how when where which who whom why";

/// First words of a doc comment that describes a thing by a question.
const QUESTIONS: &str = "how its what who whom why";

/// Where users read the string literals.
const LITERALS: [&str; 3] = ["closewait-agent/src/", "closewait-engine/src/diagnose/", "xtask/src/"];
/// Where users read the doc comments: clap prints them as help.
const HELP: [&str; 2] = ["closewait-agent/src/cli.rs", "xtask/src/"];
/// Product code, whose doc comments a newcomer reads.
const PRODUCT: [&str; 4] =
    ["closewait-agent/src/", "closewait-common/src/", "closewait-ebpf/src/", "closewait-engine/src/"];

/// A line of phrases.txt.
struct Entry {
    /// The words of each phrase.
    phrases: Vec<Vec<String>>,
    instead: &'static str,
    /// Whether the doc comments of product code may not contain them either.
    in_docs: bool,
}

/// A word or a punctuation mark, in lowercase, with its line.
type Word = (usize, String);

/// A page, a string literal or a doc comment: no phrase goes over its end.
struct Text {
    words: Vec<Word>,
    is_doc: bool,
}

/// Checks every text that users see, and the doc comments of product code.
pub(super) fn check(files: &Files) -> Result<Vec<Problem>> {
    let entries = entries()?;
    let mut problems = Vec::new();
    for (file, text) in files {
        let starts = |folders: &[&str]| folders.iter().any(|folder| file.starts_with(folder));
        let (literals, help, product) = (starts(&LITERALS), starts(&HELP), starts(&PRODUCT));
        let texts = if file.ends_with(".md") && !file.starts_with('.') {
            let words = (1..).zip(text.lines()).flat_map(|(line, text)| words(line, text));
            vec![Text { words: words.collect(), is_doc: false }]
        } else if file.ends_with(".rs") && !source::is_test(file) && (literals || product) {
            let mut texts = Vec::new();
            in_rust(source::tokens(file, source::without_tests(text))?, &mut texts);
            texts
        } else {
            continue;
        };
        for Text { words, is_doc } in &texts {
            let is_seen = if *is_doc { help } else { literals || file.ends_with(".md") };
            let place = if is_seen { "a text that users see" } else { "a doc comment" };
            let mut report = |line, phrase: &str, instead| {
                problems.push(Problem::new(file, line, format!("`{phrase}` in {place}"), WHY, instead));
            };
            for entry in entries.iter().filter(|entry| is_seen || *is_doc && product && entry.in_docs) {
                for (at, (line, _word)) in words.iter().enumerate() {
                    for phrase in entry.phrases.iter().filter(|phrase| begins(&words[at..], phrase)) {
                        report(*line, &phrase.join(" "), entry.instead);
                    }
                }
            }
            if let ([(line, word), (_, dot)], true) = (words.as_slice(), *is_doc && product)
                && dot == "."
                && INCOMPLETE.split(' ').any(|incomplete| incomplete == word)
            {
                report(*line, word, "name the thing and its unit");
            }
            if let (Some((line, word)), true) = (words.first(), *is_doc && product)
                && QUESTIONS.split(' ').any(|question| question == word)
            {
                report(*line, word, "begin with a noun, or with a verb in the third person");
            }
        }
    }
    Ok(problems)
}

fn entries() -> Result<Vec<Entry>> {
    let entry = |line: &'static str| {
        let (phrases, instead) =
            line.split_once(" = ").with_context(|| format!("phrases.txt has no ` = ` in {line:?}"))?;
        let in_docs = phrases.starts_with("* ");
        let split = |phrase: &str| words(0, phrase).into_iter().map(|(_line, word)| word).collect();
        let phrases = phrases.trim_start_matches("* ").split('|').map(split).collect();
        Ok(Entry { phrases, instead, in_docs })
    };
    PHRASES.lines().filter(|line| !line.starts_with('#')).map(entry).collect()
}

/// Returns whether a text begins with a phrase, whose last word may end in `~`: then that of the text may be longer.
fn begins(text: &[Word], phrase: &[String]) -> bool {
    let is_same = |(word, (_line, seen)): (&String, &Word)| match word.strip_suffix('~') {
        Some(start) => seen.starts_with(start),
        None => word == seen,
    };
    text.len() >= phrase.len() && phrase.iter().zip(text).all(is_same)
}

/// Collects the string literals and the doc comments of Rust source.
fn in_rust(tokens: TokenStream, texts: &mut Vec<Text>) {
    for token in tokens {
        match token {
            TokenTree::Literal(literal) => texts.push(Text { words: literal_words(&literal), is_doc: false }),
            TokenTree::Group(group) => match (doc_line(group.stream()), texts.last_mut()) {
                (None, _) => in_rust(group.stream(), texts),
                (Some(line), Some(last)) if last.is_doc && last.is_just_before(&line) => last.words.extend(line),
                (Some(words), _) => texts.push(Text { words, is_doc: true }),
            },
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
}

impl Text {
    /// Returns whether a line follows the last line of this text.
    fn is_just_before(&self, line: &[Word]) -> bool {
        self.words.last().zip(line.first()).is_some_and(|((last, _), (next, _))| last + 1 == *next)
    }
}

/// Returns the words of the attribute `doc = "LINE"`, which is a line of a comment.
fn doc_line(attribute: TokenStream) -> Option<Vec<Word>> {
    let mut tokens = attribute.into_iter();
    match (tokens.next()?, tokens.next()?, tokens.next()?) {
        (TokenTree::Ident(name), TokenTree::Punct(_), TokenTree::Literal(line)) if name == "doc" => {
            Some(literal_words(&line))
        }
        _ => None,
    }
}

fn literal_words(literal: &proc_macro2::Literal) -> Vec<Word> {
    let text = literal.to_string().replace("\\n", " ").replace("\\\"", "\"");
    let text = text.trim_matches('"');
    (literal.span().start().line..).zip(text.lines()).flat_map(|(line, text)| words(line, text)).collect()
}

/// Words and punctuation marks of a line. A hyphen is a space, and so is the backslash at the end of a line of a literal.
fn words(line: usize, text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut within = false;
    for letter in text.chars() {
        let is_word = letter.is_alphanumeric() || "_'~".contains(letter);
        if is_word && within {
            words.last_mut().expect("a word has begun").1.extend(letter.to_lowercase());
        } else if !letter.is_whitespace() && !"-\\".contains(letter) {
            words.push((line, letter.to_lowercase().to_string()));
        }
        within = is_word;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(file: &str, text: &str) -> Vec<usize> {
        let problems = check(&Files::from([(file.to_owned(), text.to_owned())])).unwrap();
        problems.iter().map(|problem| problem.line).collect()
    }

    #[test]
    fn every_banned_phrase_is_found_in_a_page() {
        for phrase in entries().unwrap().iter().flat_map(|entry| &entry.phrases) {
            let phrase = phrase.join(" ").replace('~', "ed");
            assert_eq!(lines("docs/a.md", &format!("Fine.\nx {phrase} y\n")).first(), Some(&2), "{phrase}");
        }
    }

    #[test]
    fn help_and_messages_are_checked() {
        let cli = "/// Runs it, so\n/// many times.\npub x: u8,\n// nobody\n";
        assert_eq!(lines("closewait-agent/src/cli.rs", cli), [1]);
        assert_eq!(lines("closewait-agent/src/sink/text.rs", cli), [0; 0]);
        let message = "const A: &str = \"fine\";\n    log::warn!(\n        \"it \\\n         goes \\\n on\");\n";
        assert_eq!(lines("closewait-agent/src/host/a.rs", message), [4]);
        assert_eq!(lines("closewait-engine/src/diagnose/a.rs", message), [4]);
        assert_eq!(lines("closewait-engine/src/track/tracker.rs", message), [0; 0]);
    }

    #[test]
    fn doc_comments_of_product_code_are_checked() {
        let docs = "//! Read\n//! anew.\n\n    /// Which.\n    a: u8,\n    /// Which of them: for want\n    /// of another.\n    b: u8,\n    /// What it is.\n    c: u8,\n";
        assert_eq!(lines("closewait-engine/src/track/tracker.rs", docs), [2, 4, 6, 9]);
        assert_eq!(lines("closewait-ebpf/src/a.rs", docs), [2, 4, 6, 9]);
        assert_eq!(lines("closewait-engine/src/track/tests.rs", docs), [0; 0]);
        assert_eq!(lines("tests-support/src/a.rs", docs), [0; 0]);
        assert_eq!(lines("closewait-common/src/a.rs", "// anew\nlet a = \"anew\";\n"), [0; 0]);
    }

    #[test]
    fn code_comments_and_tests_are_not_checked() {
        for good in [
            "let holder = x; // \"nobody\n",
            "    // \"goes on\n    f(\"a\");\n",
            "f('\"', \"a\\\"b\", holder);\n",
            "f(\"it goes\", \"on\", r#\"one \" more\"#);\n",
            "const A: &str = \"\\n\";\n",
            "\n#[cfg(test)]\nmod tests {\n    \"nobody\"\n}\n",
        ] {
            assert_eq!(lines("closewait-agent/src/host/a.rs", good), [0; 0], "{good}");
        }
    }

    #[test]
    fn words_are_compared_whole() {
        assert_eq!(lines("README.md", "A stakeholder walkway, gone. On `nobody_x`.\nAn analysis.\n"), [0; 0]);
    }
}
