//! Output on stdout with one line per part of a scenario, for the table of `cargo xtask scenarios`.

use serde_json::json;

use crate::scenario::{Part, Scenario};

/// Prefix that xtask searches for.
const MARK: &str = "scenario-row ";

/// Outcome for one part.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Verdict of `run`.
    pub(crate) run: String,
    /// Verdict of `list`.
    pub(crate) list: String,
    /// Certainty of `run`.
    pub(crate) certainty: String,
    /// Differences from the expectation.
    pub(crate) problems: Vec<String>,
}

#[expect(clippy::print_stdout, reason = "xtask reads it")]
pub(crate) fn write(scenario: &Scenario, part: &Part, outcome: &Outcome) {
    let row = json!({
        "program": scenario.program,
        "situation": part.situation,
        "healthy": if scenario.healthy { "yes" } else { "no" },
        "expected": if part.expected.is_empty() { "any".to_owned() } else { part.expected.join(" or ") },
        "run": outcome.run,
        "list": outcome.list,
        "certainty": outcome.certainty,
        "ok": outcome.problems.is_empty(),
    });
    println!("{MARK}{row}");
}
