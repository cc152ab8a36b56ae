//! Text and JSON of `closewait explain`. The texts are those of the rules, as in docs/diagnoses.md.

mod columns;
#[cfg(test)]
mod tests;
mod words;

use std::{fmt::Write as _, io};

use serde::Serialize;
use textwrap::{Options, WordSplitter};

use self::{
    columns::COLUMNS,
    words::{WORDS, Word},
};
use super::{Form, json, schema::SCHEMA_VERSION};
#[cfg(test)]
use crate::sink::document::*;
use closewait_engine::{
    diagnose::{About, VerdictSource, evidence::CounterEvidence, verdict_sources},
    model::Class,
};

/// Minimum width of text, columns: below it, indented text would have no space.
const MIN_WIDTH: usize = 30;
/// Width of the column of names, columns.
const NAME_WIDTH: usize = 18;
/// SGR code of a heading.
const BOLD: &str = "1";

/// Classes, rules, columns and words to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    classes: Vec<Class>,
    rules: Vec<VerdictSource>,
    columns: Vec<&'static Word>,
    words: Vec<&'static Word>,
    /// Whether this is the list of all names, one entry each.
    is_list: bool,
}

impl Topics {
    /// Returns every class, rule, column and word, as a list.
    pub fn all() -> Self {
        let (columns, words) = (COLUMNS.iter().collect(), WORDS.iter().collect());
        Self { classes: Class::ALL.to_vec(), rules: verdict_sources().collect(), columns, words, is_list: true }
    }

    /// Returns the classes, rules, columns and words that have this name; `None` if there are none. Upper case, `-` for `_`, and the words and
    /// question marks of screens make no difference.
    pub fn named(name: &str) -> Option<Self> {
        let normal = Self::normal(name);
        let name = normal.trim_end_matches('?');
        let is_guess = name != normal;
        let columns: Vec<_> = COLUMNS.iter().filter(|column| column.is(name)).collect();
        let words: Vec<_> =
            WORDS.iter().filter(|word| word.is(name) || (is_guess && word.name == "certainty")).collect();
        // Screens have shorter words.
        let name = match name {
            "unaccepted" => "never_accepted",
            "grows" => "growth",
            name => name,
        };
        let classes: Vec<_> = Class::ALL.into_iter().filter(|class| class.name() == name).collect();
        let rules: Vec<_> = verdict_sources().filter(|source| source.about.name == name).collect();
        let is_known = !classes.is_empty()
            || !rules.is_empty()
            || !columns.is_empty()
            || words.iter().any(|word| word.is(&normal) || word.is(name));
        is_known.then_some(Self { classes, rules, columns, words, is_list: false })
    }

    /// Returns the names of all classes, rules, columns and words. A name of two of them occurs twice.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let rules = verdict_sources().map(|source| source.about.name);
        Class::ALL.into_iter().map(Class::name).chain(rules).chain(COLUMNS.iter().chain(&WORDS).map(|word| word.name))
    }

    /// Returns a name as classes, rules and most words are written.
    pub fn normal(name: &str) -> String {
        name.trim().to_lowercase().replace(['-', ' '], "_")
    }
}

/// Returns the sources that can give a class, in their order of evaluation.
fn sources_of(class: Class) -> impl Iterator<Item = VerdictSource> {
    verdict_sources().filter(move |source| source.about.class.contains(&class))
}

/// Explains topics as text of this `width` in columns, or as JSON objects, one per line.
///
/// # Errors
///
/// If a value cannot be written as JSON.
pub fn render(topics: &Topics, form: Form, width: usize, color: bool) -> io::Result<Vec<u8>> {
    match form {
        Form::Json => objects(topics),
        Form::Text => {
            let mut page = Page { text: String::new(), width: width.max(MIN_WIDTH), color };
            if topics.is_list {
                page.list(topics)
            } else {
                page.topics(topics)
            }
            Ok(page.text.into_bytes())
        }
    }
}

/// Text for people.
struct Page {
    text: String,
    width: usize,
    color: bool,
}

impl Page {
    fn list(&mut self, topics: &Topics) {
        self.heading("Classes");
        for class in &topics.classes {
            self.named(class.name(), class.meaning());
        }
        self.blank();
        self.heading("Rules, in their order of evaluation, and other sources of verdicts");
        for VerdictSource { about, .. } in &topics.rules {
            self.named(about.name, about.says);
        }
        self.blank();
        for (heading, words) in [("Columns of list, status and top", &topics.columns), ("Words", &topics.words)] {
            self.heading(heading);
            for Word { name, meaning, .. } in words {
                self.named(name, meaning);
            }
            self.blank();
        }
        self.paragraph("", "Conditions, evidence, similar cases and the next step of one of them:");
        self.text.push_str("  closewait explain NAME\n");
    }

    fn topics(&mut self, topics: &Topics) {
        for class in &topics.classes {
            self.class(*class);
        }
        for source in &topics.rules {
            if !self.text.is_empty() {
                self.blank();
            }
            self.rule(source);
        }
        let columns = topics.columns.iter().map(|column| (column, "column"));
        for (Word { name, meaning, .. }, kind) in columns.chain(topics.words.iter().map(|word| (word, "word"))) {
            if !self.text.is_empty() {
                self.blank();
            }
            self.heading(&format!("{name} ({kind})"));
            self.paragraph("  ", &sentence(meaning));
        }
    }

    fn class(&mut self, class: Class) {
        self.heading(&format!("{} (class)", class.name()));
        self.paragraph("  ", &sentence(class.meaning()));
        let sources: Vec<_> = sources_of(class).collect();
        self.part("Rules that give it, in their order of evaluation, with the next step");
        for VerdictSource { about, .. } in &sources {
            self.named(about.name, about.says);
            self.paragraph(&" ".repeat(NAME_WIDTH + 2), &format!("next: {}", about.next));
        }
        let kinds = CounterEvidence::ALL.into_iter();
        let kinds: Vec<_> =
            kinds.filter(|kind| sources.iter().any(|source| source.counter_evidence.contains(kind))).collect();
        self.counter_evidence(&kinds);
        // A rule that can give several classes may mean another one.
        let mut others = Vec::new();
        for about in sources.iter().map(|source| source.about).filter(|about| matches!(about.class, [_])) {
            for other in about.not.iter().filter(|other| !others.contains(*other)).collect::<Vec<_>>() {
                others.push(*other);
            }
        }
        self.others(&others);
        // The rule of the same name follows.
        let example = sources.iter().map(|source| source.about.name).find(|name| *name != class.name());
        if let Some(example) = example {
            self.blank();
            self.paragraph("", "Conditions and certainty of a rule:");
            let _infallible: std::fmt::Result = writeln!(self.text, "  closewait explain {example}");
        }
    }

    fn rule(&mut self, source: &VerdictSource) {
        let VerdictSource { about, counter_evidence } = source;
        let About { name, when: _, class, certainty, says, next, not, seen } = about;
        let classes: Vec<&str> = class.iter().map(|class| class.name()).collect();
        self.heading(&format!("{name} (rule of {})", classes.join(", ")));
        self.paragraph("  ", &sentence(says));
        let conditions: Vec<&str> = about.conditions().collect();
        match conditions.as_slice() {
            [only] => {
                self.part("Applies when");
                self.paragraph("  ", only);
            }
            all => {
                self.part("Applies when all of these are true");
                self.items(all);
            }
        }
        self.part("Certainty");
        for (certainty, condition) in *certainty {
            self.named(certainty.name(), condition);
        }
        self.counter_evidence(counter_evidence);
        self.part("Next step");
        self.paragraph("  ", next);
        self.others(not);
        if !seen.is_empty() {
            self.part("Seen in");
            self.paragraph("  ", &seen.join(", "));
        }
    }

    fn counter_evidence(&mut self, kinds: &[CounterEvidence]) {
        if kinds.is_empty() {
            return;
        }
        self.part("Evidence against it: if present, the rule does not apply; if it cannot be read, the certainty is at most medium");
        for kind in kinds {
            self.named(kind.name(), &format!("{}; source: {}", kind.meaning(), kind.source()));
        }
    }

    fn others(&mut self, others: &[&str]) {
        if !others.is_empty() {
            self.part("Not to be confused with");
            self.items(others);
        }
    }

    fn heading(&mut self, heading: &str) {
        for line in textwrap::wrap(heading, self.options("", "")) {
            let line = if self.color { format!("\x1b[{BOLD}m{line}\x1b[0m") } else { line.into_owned() };
            self.text.push_str(&line);
            self.text.push('\n');
        }
    }

    /// Begins a part of an explanation.
    fn part(&mut self, heading: &str) {
        self.blank();
        self.heading(heading);
    }

    fn items(&mut self, items: &[&str]) {
        for item in items {
            self.wrapped(item, "  - ", "    ");
        }
    }

    /// Adds a name, and its meaning in a column beside it.
    fn named(&mut self, name: &str, meaning: &str) {
        self.wrapped(meaning, &format!("  {name:<NAME_WIDTH$}"), &" ".repeat(NAME_WIDTH + 2));
    }

    fn paragraph(&mut self, indent: &str, text: &str) {
        self.wrapped(text, indent, indent);
    }

    fn wrapped(&mut self, text: &str, first: &str, other: &str) {
        self.text.push_str(&textwrap::fill(text, self.options(first, other)));
        self.text.push('\n');
    }

    /// Words are not split at their hyphens: `--stuck-after` stays in one piece.
    fn options<'a>(&self, first: &'a str, other: &'a str) -> Options<'a> {
        Options::new(self.width)
            .initial_indent(first)
            .subsequent_indent(other)
            .word_splitter(WordSplitter::NoHyphenation)
            .break_words(false)
    }

    fn blank(&mut self) {
        self.text.push('\n');
    }
}

/// Returns a text as a sentence.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(characters).chain(['.']).collect()
}

#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(tag = "kind", rename_all = "lowercase")]
enum TopicObject {
    /// Class of causes.
    Class {
        /// Name of the class, as in `class` of a verdict.
        #[cfg_attr(test, schemars(with = "ClassName"))]
        name: &'static str,
        /// Meaning of the class.
        meaning: &'static str,
        /// Names of the rules that can give it, in their order of evaluation.
        rules: Vec<&'static str>,
    },
    /// Rule, or another source of verdicts.
    Rule(RuleObject),
    /// Column of a table.
    Column {
        /// Name of the column, as `--columns` takes it.
        name: &'static str,
        /// Meaning of the column.
        meaning: &'static str,
    },
    /// Word of the output.
    Word {
        /// The word, in small letters.
        name: &'static str,
        /// Meaning of the word.
        meaning: &'static str,
    },
}

/// Rule, or another source of verdicts.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct RuleObject {
    /// Name of the rule, as in `rule` of a verdict.
    name: &'static str,
    /// Classes that the rule can give.
    #[cfg_attr(test, schemars(with = "Vec<ClassName>"))]
    classes: Vec<&'static str>,
    /// Conclusion from the conditions.
    conclusion: &'static str,
    /// Conditions, all of which have to be true.
    conditions: Vec<&'static str>,
    /// Certainties that the rule can give, the highest first.
    certainty: Vec<CertaintyObject>,
    /// Evidence against the conclusion: if present, the rule does not apply; if it cannot be read, the certainty is at
    /// most `medium`.
    counter_evidence: Vec<CounterEvidenceObject>,
    /// Next step.
    next: &'static str,
    /// Similar cases that have another cause.
    not_to_be_confused_with: &'static [&'static str],
    /// Programs in which the case was seen.
    seen_in: &'static [&'static str],
}

/// Certainty that a rule can give.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "RuleCertainty"))]
struct CertaintyObject {
    /// Certainty.
    #[cfg_attr(test, schemars(with = "CertaintyName"))]
    certainty: &'static str,
    /// Condition for this certainty.
    condition: &'static str,
}

/// Evidence that would speak against a rule.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct CounterEvidenceObject {
    /// Name of the evidence.
    name: &'static str,
    /// Meaning of the evidence.
    meaning: &'static str,
    /// Source that the agent reads it from.
    source: &'static str,
}

/// Line of `closewait explain`.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) struct TopicLine {
    /// Version of the schema.
    #[cfg_attr(test, schemars(with = "Version"))]
    schema_version: u32,
    #[serde(flatten)]
    topic: TopicObject,
}

fn objects(topics: &Topics) -> io::Result<Vec<u8>> {
    let classes = topics.classes.iter().map(|class| TopicObject::Class {
        name: class.name(),
        meaning: class.meaning(),
        rules: sources_of(*class).map(|source| source.about.name).collect(),
    });
    let rules = topics.rules.iter().map(|source| TopicObject::Rule(rule_object(source)));
    let columns = topics.columns.iter().map(|Word { name, meaning, .. }| TopicObject::Column { name, meaning });
    let words = topics.words.iter().map(|Word { name, meaning, .. }| TopicObject::Word { name, meaning });
    let mut lines = Vec::new();
    classes
        .chain(rules)
        .chain(columns)
        .chain(words)
        .try_for_each(|topic| json::write_line(&TopicLine { schema_version: SCHEMA_VERSION, topic }, &mut lines))?;
    Ok(lines)
}

fn rule_object(source: &VerdictSource) -> RuleObject {
    let VerdictSource { about, counter_evidence } = source;
    let About { name, when: _, class, certainty, says, next, not, seen } = about;
    let certainty = certainty.iter();
    RuleObject {
        name,
        classes: class.iter().map(|class| class.name()).collect(),
        conclusion: says,
        conditions: about.conditions().collect(),
        certainty: certainty
            .map(|(certainty, condition)| CertaintyObject { certainty: certainty.name(), condition })
            .collect(),
        counter_evidence: counter_evidence
            .iter()
            .map(|kind| CounterEvidenceObject { name: kind.name(), meaning: kind.meaning(), source: kind.source() })
            .collect(),
        next,
        not_to_be_confused_with: not,
        seen_in: seen,
    }
}
