//! The table of verdicts, from the lines that the tests print.

use crate::markdown;
use crate::prelude::*;

/// The page docs/scenarios.md around the table. Its last part is about situations that were played once, by people who had
/// not read the rules.
const PAGE: &str = include_str!("page.md");
/// Text before the JSON object of a row.
const MARK: &str = "scenario-row ";
/// Members of the object, in the order of the table's columns.
const CELLS: [&str; 7] = ["program", "situation", "healthy", "expected", "run", "list", "certainty"];

/// One row for all sockets with the same expected verdict.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<String>,
}

impl Table {
    /// Adds a line of the tests' output, if it is a row.
    pub(super) fn add(&mut self, line: &str) -> Result<bool> {
        let Some((_before, object)) = line.split_once(MARK) else { return Ok(false) };
        self.rows.push(row(object).with_context(|| format!("not a row of scenarios: {object:?}"))?);
        Ok(true)
    }

    pub(super) fn markdown(&self) -> String {
        let header = "program | situation | healthy | expected | `run` | `list --alone` | certainty | ok";
        markdown::table(header, self.rows.iter().cloned())
    }

    /// The whole of docs/scenarios.md.
    pub(super) fn page(&self, kernel: &str) -> String {
        PAGE.replace("{kernel}", kernel).replace("{table}", &self.markdown())
    }
}

fn row(object: &str) -> Result<String> {
    let object: Value = serde_json::from_str(object).context("not JSON")?;
    let cell = |name| Ok(markdown::cell(object[name].as_str().with_context(|| format!("`{name}` is not a text"))?));
    let cells = CELLS.iter().map(cell).collect::<Result<Vec<_>>>()?;
    let ok = if object["ok"].as_bool().context("`ok` is not a flag")? { "yes" } else { "NO" };
    Ok(format!("{} | {ok}", cells.join(" | ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_lines_are_left_alone() {
        let mut table = Table::default();
        assert!(!table.add("test a::b ... ok").unwrap());
        assert!(table.add(&format!("{MARK}{{}}")).is_err());
        assert_eq!(table.markdown().lines().count(), 2);
    }

    #[test]
    fn a_row_ends_with_a_yes_or_a_no() {
        let mut table = Table::default();
        for ok in [true, false] {
            let row = serde_json::json!({
                "program": "p", "situation": "s", "healthy": "no", "expected": "hung", "run": "hung", "list": "unknown", "certainty": "high", "ok": ok,
            });
            assert!(table.add(&format!("test a::b ... {MARK}{row}")).unwrap());
        }
        let rows =
            "| p | s | no | hung | hung | unknown | high | yes |\n| p | s | no | hung | hung | unknown | high | NO |\n";
        assert!(table.markdown().ends_with(rows) && table.page("Linux").contains(rows), "{}", table.markdown());
        assert!(table.page("Linux").contains("As of Linux:\n\n| program "), "{}", table.page("Linux"));
    }
}
