//! One line a part of a scenario on stdout, for the table of `cargo xtask scenarios`.

use serde_json::json;

use crate::scenario::{Part, Scenario};

/// xtask looks for it.
const MARK: &str = "scenario-row ";

/// What came out for one part.
#[derive(Default)]
pub(crate) struct Outcome {
    /// What `run` said.
    pub(crate) run: String,
    /// What `list` said.
    pub(crate) list: String,
    /// How sure `run` was.
    pub(crate) certainty: String,
    /// What is not as it should be.
    pub(crate) problems: Vec<String>,
}

#[expect(clippy::print_stdout, reason = "xtask reads it")]
pub(crate) fn write(scenario: &Scenario, part: &Part, outcome: &Outcome) {
    let row = json!({
        "program": scenario.program,
        "situation": part.situation,
        "healthy": scenario.healthy,
        "expected": if part.expected.is_empty() { "any".to_owned() } else { part.expected.join(" or ") },
        "run": outcome.run,
        "list": outcome.list,
        "certainty": outcome.certainty,
        "ok": outcome.problems.is_empty(),
    });
    println!("{MARK}{row}");
}
