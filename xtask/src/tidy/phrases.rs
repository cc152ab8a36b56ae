//! Plain English in text that users see: help, messages, verdicts and documentation.
//!
//! The table is the check: a phrase per line, and what to write instead. Phrases are compared word by word, so a line break
//! within one does not hide it. String literals are found by their quotes, line by line; this is no lexer.

use super::{Files, Problem};

const WHY_IN_DOCS: &str = "a newcomer reads this, and CONTRIBUTING.md asks for plain English";
const WHY: &str = "users read this, and CONTRIBUTING.md asks for plain English";

/// Phrases, separated by `|`, and what to write instead.
const BANNED: [(&str, &str); 37] = [
    ("anew", "write `again`"),
    ("ask no|asks no", "write `do not query`"),
    ("closing now may not reach", "write `a FIN may no longer reach`"),
    ("comes to close|come to close|got round to|gets round to", "write `before its close() call`"),
    ("cures|cures nothing|no cure", "write `does not fix the cause`"),
    ("does not go round|not go round", "write `is not a ring`"),
    ("fault of closewait", "write `bug in closewait`"),
    ("finds no room|find no room|found no room|no room for|without room", "write `is dropped` or `over the limit`"),
    ("from here on", "write `now` or `from now on`"),
    ("gives up what", "write `drops`"),
    ("go on|goes on|went on|gone on|going on", "write `continue`"),
    ("goes without|go without|went without", "write `is dropped`"),
    ("half are over|one of ten", "write `p50` and `p90`"),
    ("holder|holders", "write `owner`"),
    ("in one piece|all that is known", "name the document"),
    ("is said|are said|was said|were said|be said|is told|are told|was told|were told|be told", "name the actor"),
    ("is given back|are given back|never given back", "write `released`"),
    ("less well", "write `degraded`"),
    ("look at|looks at|looked at|looking at", "write `inspect`, `check` or `read`"),
    ("look again|looks again|look around|looks around", "write `check again` or `scan`"),
    ("nobody", "name the actor"),
    ("not known", "write `unknown`"),
    ("nothing was touched|to do it", "write `nothing changed`"),
    ("of its kind|of their kind", "write `of the same group`"),
    ("of a plan is kept", "name what is evaluated again"),
    ("out of sight", "write `hidden`"),
    ("per cent", "write `percent`"),
    ("a pile up|pile ups", "write `incident`"),
    ("so many|so much", "write `number of`"),
    ("this kernel cannot", "write `unsupported kernel`"),
    ("walk|walks|walked|walking", "write `scan`"),
    ("whose leaving|leavings|the leaving of", "write `exit`"),
    ("who holds|who has it", "write `which process owns`"),
    ("as it is seen|is seen as", "write `looks like`"),
    ("dwell time in", "write `dwell, last 1m`"),
    ("that a filter selects", "write `matching`"),
    ("or forgets it|forgets it", "write `never makes the call`"),
];

/// Phrases that are refused in doc comments of product code, as in [`BANNED`]: only those without a technical meaning.
const BANNED_IN_DOCS: [(&str, &str); 5] = [
    ("anew", "write `again`"),
    ("comings and goings", "write `entries and exits`"),
    ("finds no room|find no room|found no room", "write `is dropped` or `over the limit`"),
    ("for want of", "write `because ... is missing`"),
    ("leavings", "write `exits`"),
];

/// Words that are no doc comment alone: they refer to the item before.
const INCOMPLETE: &str = "how when where which who whom why";

/// Beginnings of words in British spelling.
const BRITISH: &str = "behaviour cancelled catalogue centre colour favour initialis labelled licence neighbour normalis optimis \
    organis recognis serialis";

/// Where users read the string literals.
const LITERALS: [&str; 3] = ["closewait-agent/src/", "closewait-engine/src/diagnose/", "xtask/src/"];
/// Where users read the doc comments: clap prints them as help.
const HELP: [&str; 2] = ["closewait-agent/src/cli.rs", "xtask/src/"];
/// Product code, whose doc comments a newcomer reads.
const PRODUCT: [&str; 4] =
    ["closewait-agent/src/", "closewait-common/src/", "closewait-ebpf/src/", "closewait-engine/src/"];
/// This file quotes what it bans.
const EXEMPT: &str = "xtask/src/tidy/phrases.rs";

/// A word or a punctuation mark, in lowercase, with its line.
type Token = (usize, String);

/// Checks every text that users see.
pub(super) fn check(files: &Files) -> Vec<Problem> {
    let banned: Vec<(Vec<String>, &str)> = BANNED
        .iter()
        .flat_map(|(phrases, instead)| phrases.split('|').map(|phrase| (words(phrase), *instead)))
        .collect();
    let mut problems = Vec::new();
    for (file, text) in files.iter().filter(|(file, _text)| *file != EXEMPT) {
        let mut problem = |line, what, instead| {
            problems.push(Problem { file: file.clone(), line, what, why: WHY, instead });
        };
        let tokens = if file.ends_with(".md") && !file.starts_with('.') {
            tokens((1..).zip(text.lines()))
        } else if let Some(visible) = in_rust(file, text) {
            if visible.iter().filter(|(_line, text)| text == "\"").count() % 2 == 1 {
                problem(
                    1,
                    "a quote without its other half".to_owned(),
                    "write it so that this check can find the literals",
                );
            }
            tokens(visible.iter().map(|(line, text)| (*line, text.as_str())))
        } else {
            continue;
        };
        for (at, (line, word)) in tokens.iter().enumerate() {
            let mut report = |phrase: &str, instead| {
                problem(*line, format!("`{phrase}` in a text that users see"), instead);
            };
            for (phrase, instead) in &banned {
                let here = tokens.iter().skip(at).map(|(_line, word)| word);
                if here.take(phrase.len()).eq(phrase) {
                    report(&phrase.join(" "), instead);
                }
            }
            if BRITISH.split_whitespace().any(|start| word.starts_with(start)) {
                report(word, "write it as Americans do");
            }
        }
    }
    problems.extend(files.iter().flat_map(|(file, text)| in_docs(file, text)));
    problems
}

/// Checks the doc comments of a file of product code, without the test module.
fn in_docs(file: &str, text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !PRODUCT.iter().any(|folder| file.starts_with(folder)) || !file.ends_with(".rs") || is_test(file) {
        return problems;
    }
    let end = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let mut comment: Vec<Token> = Vec::new();
    // The blank line ends the last comment.
    for (line, content) in (1..).zip(text.get(..end).unwrap_or(text).lines().chain([""])) {
        let trimmed = content.trim_start();
        if let Some(part) = trimmed.strip_prefix("///").or_else(|| trimmed.strip_prefix("//!")) {
            comment.extend(words(part).into_iter().map(|word| (line, word)));
            continue;
        }
        let mut report = |line, phrase: &str, instead| {
            let what = format!("`{phrase}` in a doc comment");
            problems.push(Problem { file: file.to_owned(), line, what, why: WHY_IN_DOCS, instead });
        };
        if let [(line, word), (_, dot)] = comment.as_slice()
            && dot == "."
            && INCOMPLETE.split_whitespace().any(|incomplete| incomplete == word)
        {
            report(*line, word, "name the thing and its unit");
        }
        for (at, (line, _word)) in comment.iter().enumerate() {
            for (phrases, instead) in BANNED_IN_DOCS {
                for phrase in phrases.split('|') {
                    let phrase_words = words(phrase);
                    let here = comment.iter().skip(at).map(|(_line, word)| word);
                    if here.take(phrase_words.len()).eq(&phrase_words) {
                        report(*line, phrase, instead);
                    }
                }
            }
        }
        comment.clear();
    }
    problems
}

fn is_test(file: &str) -> bool {
    file.ends_with("tests.rs") || file.contains("/tests/") || file.ends_with("testing.rs")
}

/// Text in a Rust file that users see, by line, without the test module. `None`: a file without such text.
fn in_rust(file: &str, text: &str) -> Option<Vec<(usize, String)>> {
    let starts = |folders: &[&str]| folders.iter().any(|folder| file.starts_with(folder));
    if !file.ends_with(".rs") || is_test(file) || !starts(&LITERALS) {
        return None;
    }
    let end = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let mut visible = Vec::new();
    let mut in_string = false; // Goes over the ends of lines.
    for (line, content) in (1..).zip(text.get(..end)?.lines()) {
        let trimmed = content.trim_start();
        if !in_string && trimmed.starts_with("//") {
            let help = trimmed.strip_prefix("///").filter(|_help| starts(&HELP));
            visible.push((line, help.unwrap_or(";").to_owned()));
            continue;
        }
        let content = content.replace("'\"'", "").replace("\\\\", "").replace("\\\"", "");
        for (at, part) in content.split('"').enumerate() {
            if at > 0 {
                in_string = !in_string;
                visible.push((line, "\"".to_owned()));
            }
            if in_string {
                visible.push((line, part.replace("\\n", " ")));
            } else if part.contains("// ") {
                break;
            }
        }
    }
    Some(visible)
}

fn tokens<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Vec<Token> {
    lines.flat_map(|(line, text)| words(text).into_iter().map(move |word| (line, word))).collect()
}

/// Words and punctuation marks of a text. A hyphen is a space, and so is the backslash at the end of a line of a literal.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut within = false;
    for letter in text.chars() {
        let is_word = letter.is_alphanumeric() || letter == '_' || letter == '\'';
        if is_word && within {
            words.last_mut().expect("a word has begun").extend(letter.to_lowercase());
        } else if !letter.is_whitespace() && !"-\\".contains(letter) {
            words.push(letter.to_lowercase().to_string());
        }
        within = is_word;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(file: &str, text: &str) -> Vec<usize> {
        check(&Files::from([(file.to_owned(), text.to_owned())])).iter().map(|problem| problem.line).collect()
    }

    #[test]
    fn every_banned_phrase_is_found_in_a_page() {
        for phrase in BANNED.iter().flat_map(|(phrases, _instead)| phrases.split('|')) {
            assert_eq!(lines("docs/a.md", &format!("Fine.\nx {phrase} y\n")).first(), Some(&2), "{phrase}");
        }
        for start in BRITISH.split_whitespace() {
            assert_eq!(lines("docs/a.md", &format!("{start}ed")), [1], "{start}");
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
        let docs = "//! Read\n//! anew.\n\n    /// Which.\n    a: u8,\n    /// Which of them: for want\n    /// of another.\n    b: u8,\n";
        assert_eq!(lines("closewait-engine/src/track/tracker.rs", docs), [2, 4, 6]);
        assert_eq!(lines("closewait-ebpf/src/a.rs", docs), [2, 4, 6]);
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
            "f(\"it goes\", \"on\");\n",
            "const A: &str = \"\\n\";\n",
            "\n#[cfg(test)]\nmod tests {\n    \"nobody\"\n}\n",
        ] {
            assert_eq!(lines("closewait-agent/src/host/a.rs", good), [0; 0], "{good}");
        }
    }

    #[test]
    fn a_file_whose_literals_cannot_be_found_is_reported() {
        assert_eq!(lines("xtask/src/a.rs", "f(r#\"one \" more\"#);"), [1]);
    }

    #[test]
    fn words_are_compared_whole() {
        assert_eq!(lines("README.md", "A stakeholder walkway, gone. On `nobody_x`.\nAn analysis.\n"), [0; 0]);
    }
}
