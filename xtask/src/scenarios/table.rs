//! The table of verdicts, from the lines that the tests print.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::markdown;

/// Situations that were played once, by people who had not read the rules.
const BLIND: &str = include_str!("blind.md");

/// Text before the JSON object of a row.
const MARK: &str = "scenario-row ";

/// Members of the object, in the order of the table's columns. The first two identify a row.
const CELLS: [&str; 6] = ["program", "situation", "expected", "run", "list", "certainty"];

/// One row, for all sockets with the same expected verdict.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    cells: [String; CELLS.len()],
    /// Number of rounds with the expected verdict.
    good: u32,
    rounds: u32,
}

#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Adds a line of the tests' output, if it is a row. Of several rounds the last unexpected one is shown.
    pub(super) fn add(&mut self, line: &str) -> Result<bool> {
        let Some((_before, object)) = line.split_once(MARK) else { return Ok(false) };
        let new = parse(object).with_context(|| format!("not a row of scenarios: {object:?}"))?;
        match self.rows.iter_mut().find(|row| row.cells[..2] == new.cells[..2]) {
            None => self.rows.push(new),
            Some(old) => {
                let (good, rounds) = (old.good + new.good, old.rounds + new.rounds);
                if new.good == 0 || old.good == old.rounds {
                    *old = new;
                }
                (old.good, old.rounds) = (good, rounds);
            }
        }
        Ok(true)
    }

    pub(super) fn markdown(&self) -> String {
        let row = |row: &Row| {
            let ok = match (row.good, row.rounds) {
                (1, 1) => "yes".to_owned(),
                (0, 1) => "NO".to_owned(),
                (good, rounds) => format!("{good}/{rounds}"),
            };
            format!("{} | {ok}", row.cells.join(" | "))
        };
        let header = "program | situation | expected | `run` | `list --alone` | certainty | ok";
        markdown::table(header, self.rows.iter().map(row))
    }

    /// The whole of docs/scenarios.md.
    pub(super) fn page(&self, kernel: &str) -> String {
        format!(
            "<!-- Written by `cargo xtask scenarios --bless`; change the scenarios in closewait-agent/tests/scenarios/. -->\n\n\
             # Scenarios\n\n\
             Real programs that leave sockets in CLOSE_WAIT, and what closewait says of them: the class of the verdict on most of\n\
             a program's sockets, and the rules that gave it. `run` is the last word of `closewait run --stuck-after 2s`, which had\n\
             watched from the beginning; `list --alone` is one scan without an agent, and knows less.\n\n\
             No socket of a healthy program may ever get the verdict hung or leak with certainty `medium`, `high` or `fact`; this is\n\
             checked of every event. The owners are compared with `/proc`. As of {kernel}:\n\n{}{BLIND}",
            self.markdown()
        )
    }
}

fn parse(object: &str) -> Result<Row> {
    let object: Value = serde_json::from_str(object).context("not JSON")?;
    let mut row = Row { cells: Default::default(), good: 0, rounds: 1 };
    for (cell, name) in row.cells.iter_mut().zip(CELLS) {
        *cell = markdown::cell(object[name].as_str().with_context(|| format!("`{name}` is not a text"))?);
    }
    row.good = u32::from(object["ok"].as_bool().context("`ok` is not a flag")?);
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(run: &str, ok: bool) -> String {
        format!(
            "test a::b ... {MARK}{{\"program\":\"p\",\"situation\":\"s\",\"expected\":\"hung\",\"run\":\"{run}\",\
            \"list\":\"unknown\",\"certainty\":\"high\",\"ok\":{ok}}}"
        )
    }

    #[test]
    fn other_lines_are_left_alone() {
        let mut table = Table::default();
        assert!(!table.add("test a::b ... ok").unwrap());
        assert!(table.add(&format!("{MARK}{{}}")).is_err());
        assert_eq!(table.markdown().lines().count(), 2);
    }

    #[test]
    fn one_round_is_a_yes_or_a_no() {
        let mut table = Table::default();
        assert!(table.add(&line("hung", true)).unwrap());
        assert!(table.markdown().ends_with("| p | s | hung | hung | unknown | high | yes |\n"), "{}", table.markdown());
    }

    #[test]
    fn a_round_that_went_wrong_is_the_one_to_be_shown() {
        let mut table = Table::default();
        for (run, ok) in [("hung", true), ("leak", false), ("hung", true)] {
            table.add(&line(run, ok)).unwrap();
        }
        assert!(table.markdown().ends_with("| p | s | hung | leak | unknown | high | 2/3 |\n"), "{}", table.markdown());
    }
}
