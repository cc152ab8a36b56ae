//! Comparison of what was shown with what is true.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    cast::{Place, Runtime, Situation},
    line::ShownLine,
};
use crate::net::Id;

/// Text before a row, which xtask searches for.
const MARK: &str = "stacks-row ";

/// Port of the program.
const PORT: u16 = 8080;

/// Stacks as `closewait stacks` shows them at the end.
pub(super) struct Sampled {
    /// Number of open descriptors of the process before.
    pub(super) open: usize,
    /// Line of most threads.
    pub(super) line: Option<ShownLine>,
    /// Number of idle threads and of all; `None` if nothing was read.
    pub(super) idle: Option<(u64, u64)>,
    /// Median time of the whole command, seconds.
    pub(super) seconds: f64,
    /// Standard error of the command.
    pub(super) error: String,
}

/// What was shown of a situation.
pub(super) struct Outcome<'a> {
    runtime: &'a Runtime,
    situation: &'a Situation,
    /// Most frequent last verdict of the accepted sockets: class, rule and certainty.
    verdict: String,
    /// Class of that verdict.
    class: String,
    /// Wrong verdicts with certainty `high` or `fact`, at any time.
    wrong_verdicts: BTreeSet<String>,
    /// Lines in verdicts, at any time.
    lines: BTreeSet<ShownLine>,
    /// Line in the last verdict that has one.
    last_line: Option<ShownLine>,
    sampled: Sampled,
}

/// Comparison of lines with the one that is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    Right,
    /// The wait for work of a pool that is idle: what its threads do, but not why sockets are not closed.
    Idle,
    Wrong,
    /// No line is shown.
    None,
}

impl Match {
    const fn name(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Idle => "idle threads",
            Self::Wrong => "wrong",
            Self::None => "none",
        }
    }
}

impl<'a> Outcome<'a> {
    /// Compares the events of a situation and a sample of its stacks.
    pub(super) fn new(runtime: &'a Runtime, situation: &'a Situation, events: &[&Value], sampled: Sampled) -> Self {
        let mut last: BTreeMap<Id, &Value> = BTreeMap::new();
        let (mut wrong_verdicts, mut lines, mut last_line) = (BTreeSet::new(), BTreeSet::new(), None);
        for event in events {
            let verdict = &event["verdict"];
            let Some(class) = verdict["class"].as_str() else { continue };
            // The other sockets are those of the clients and of the backend.
            if event["socket"].is_object() && event["socket"]["local"]["port"] != PORT {
                continue;
            }
            if event["event"] == "stuck" && event["socket"]["accepted"] == true {
                last.extend(Id::of_event(event).map(|id| (id, verdict)));
            }
            // `fresh` only says that it is too early to judge, and judges the socket again.
            if verdict["rule"] == "fresh" {
                continue;
            }
            let is_sure = verdict["certainty"] == "high" || verdict["certainty"] == "fact";
            if is_sure && !is_right(situation, class) {
                wrong_verdicts.insert(verdict.to_string());
            }
            if let Some(line) = verdict["text"].as_str().and_then(ShownLine::of_text) {
                lines.insert(line.clone());
                last_line = Some(line);
            }
        }
        let mut counts: BTreeMap<String, (usize, &Value)> = BTreeMap::new();
        for verdict in last.values().copied() {
            let member = |name: &str| verdict[name].as_str().unwrap_or_default();
            let text = format!("{} ({}), {}", member("class"), member("rule"), member("certainty"));
            counts.entry(text).or_insert((0, verdict)).0 += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, (count, _))| *count);
        let class =
            most.as_ref().and_then(|(_, (_, verdict))| verdict["class"].as_str()).unwrap_or_default().to_owned();
        let verdict = most.map_or_else(|| "no verdict".to_owned(), |(text, _)| text);
        Self { runtime, situation, verdict, class, wrong_verdicts, lines, last_line, sampled }
    }

    /// Compares lines with the right one. If all threads wait for work, the only right line is that of the wait for work.
    fn compare<'l>(&self, lines: impl IntoIterator<Item = &'l ShownLine>) -> Match {
        let right = self.runtime.line(self.situation.place.unwrap_or(Place::Work));
        let mut result = Match::None;
        for line in lines {
            let is_right =
                line.place == right && (self.situation.place.is_some() || line.waits_for == "another thread");
            if !is_right {
                return Match::Wrong;
            }
            result = if self.situation.place.is_some() { Match::Right } else { Match::Idle };
        }
        result
    }

    /// Writes the row of `cargo xtask scenarios --stacks`.
    #[expect(clippy::print_stdout, reason = "xtask reads it")]
    pub(super) fn write_row(&self) {
        let place = |line: &Option<ShownLine>| line.as_ref().map_or_else(String::new, |line| line.place.clone());
        let class = match self.class.as_str() {
            "unknown" | "" => "unknown",
            class if is_right(self.situation, class) => "right",
            _ => "wrong",
        };
        let row = json!({
            "runtime": self.runtime.name,
            "situation": self.situation.name,
            "verdict": self.verdict,
            "class": class,
            "expected": self.situation.place.map(|place| self.runtime.line(place)),
            "known": self.runtime.is_known(self.situation),
            "verdict_line": place(&self.last_line),
            "verdict_match": self.compare(&self.lines).name(),
            "stacks_line": place(&self.sampled.line),
            "stacks_match": self.compare(&self.sampled.line).name(),
            "idle": self.sampled.idle.map(|(idle, all)| format!("{idle} of {all}")),
            "milliseconds": self.sampled.idle.map(|_| self.sampled.seconds * 1e3),
        });
        println!("{MARK}{row}");
    }

    /// Returns what must not be: wrong lines, and wrong verdicts with certainty `high`.
    pub(super) fn problems(&self) -> Vec<String> {
        let of = format!("{}, {}", self.runtime.name, self.situation.name);
        let right = self.situation.place.map(|place| self.runtime.line(place));
        let mut problems: Vec<String> =
            self.wrong_verdicts.iter().map(|verdict| format!("{of}: a wrong verdict: {verdict}")).collect();
        if self.compare(&self.lines) == Match::Wrong {
            problems.push(format!("{of}: a wrong line in a verdict: {:?}, not {right:?}", self.lines));
        }
        if self.compare(&self.sampled.line) == Match::Wrong {
            problems.push(format!("{of}: a wrong line in the stacks: {:?}, not {right:?}", self.sampled.line));
        }
        if self.class.is_empty() {
            problems.push(format!("{of}: no accepted socket got stuck"));
        }
        if self.situation.is_exhausted && !self.runtime.is_full(self.sampled.open) {
            problems.push(format!("{of}: only {} descriptors are open", self.sampled.open));
        }
        if self.runtime.is_known(self.situation) && self.sampled.idle.is_none() {
            problems.push(format!("{of}: the stacks were not read: {}", self.sampled.error));
        }
        problems
    }
}

/// Whether a class of verdicts is right, or says nothing.
fn is_right(situation: &Situation, class: &str) -> bool {
    class == "unknown" || class.is_empty() || situation.classes.contains(&class)
}
