//! The table of `cargo xtask scenarios --stacks`, from the lines that the tests print.

use crate::markdown;
use crate::prelude::*;

/// Text before the JSON object of a row.
const MARK: &str = "stacks-row ";
/// Minimum share of the lines that are known to be shown right, in percent.
const MIN_RIGHT: usize = 95;

/// One row for each situation of a runtime.
#[derive(Default)]
pub(super) struct StacksTable {
    rows: Vec<Value>,
}

impl StacksTable {
    /// Adds a line of the tests' output, if it is a row.
    pub(super) fn add(&mut self, line: &str) -> Result<bool> {
        let Some((_before, object)) = line.split_once(MARK) else { return Ok(false) };
        let row: Value = serde_json::from_str(object).with_context(|| format!("not a row of stacks: {object:?}"))?;
        for name in ["runtime", "situation", "verdict", "class", "verdict_line", "verdict_match", "stacks_match"] {
            ensure!(row[name].is_string(), "`{name}` is not a text in {object}");
        }
        self.rows.push(row);
        Ok(true)
    }

    pub(super) fn markdown(&self) -> String {
        let header =
            "runtime | situation | verdict | line in verdicts | line of `closewait stacks` | idle threads | time";
        let mut rows: Vec<&Value> = self.rows.iter().collect();
        // The order within a runtime is that of its situations.
        rows.sort_by(|one, other| one["runtime"].as_str().cmp(&other["runtime"].as_str()));
        markdown::table(header, rows.into_iter().map(row))
    }

    /// Number of rows in which a line has to be shown, and of those in which `closewait stacks` and a verdict have shown the right one.
    fn known(&self) -> (usize, usize, usize) {
        let known: Vec<&Value> = self.rows.iter().filter(|row| row["known"] == true).collect();
        let right = |name: &str| known.iter().filter(|row| row[name] == "right").count();
        (known.len(), right("stacks_match"), right("verdict_match"))
    }

    /// Number of rows in which a wrong line is shown.
    fn wrong(&self) -> usize {
        self.rows.iter().filter(|row| row["verdict_match"] == "wrong" || row["stacks_match"] == "wrong").count()
    }

    /// Returns a line with the numbers of right lines.
    pub(super) fn summary(&self) -> String {
        let (known, stacks, verdicts) = self.known();
        let wrong = self.wrong();
        format!(
            "stacks: {known} situations have a line; `closewait stacks` shows the right one in {stacks}, a verdict in {verdicts}; \
             in {wrong} of {} situations a wrong one is shown",
            self.rows.len()
        )
    }

    /// Fails if a line is wrong, or if fewer than 95 % of those that are known are shown.
    pub(super) fn check(&self) -> Result<()> {
        let (known, right, _verdicts) = self.known();
        ensure!(self.wrong() == 0, "a wrong line is shown");
        ensure!(right * 100 >= known * MIN_RIGHT, "only {right} of {known} known lines are shown");
        Ok(())
    }
}

fn row(row: &Value) -> String {
    let text = |name: &str| row[name].as_str().unwrap_or_default();
    let line = |line: &str, compared: &str| match text(line) {
        "" => text(compared).to_owned(),
        shown => format!("`{shown}`: {}", text(compared)),
    };
    let verdict = match text("class") {
        "unknown" => text("verdict").to_owned(),
        class => format!("{}: {class}", text("verdict")),
    };
    let time = row["milliseconds"].as_f64().map_or_else(|| "not read".to_owned(), |time| format!("{time:.0} ms"));
    let idle = row["idle"].as_str().unwrap_or("not read").to_owned();
    let (in_verdict, in_stacks) = (line("verdict_line", "verdict_match"), line("stacks_line", "stacks_match"));
    let cells = [text("runtime").to_owned(), text("situation").to_owned(), verdict, in_verdict, in_stacks, idle, time];
    cells.map(|cell| markdown::cell(&cell)).join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, &str, bool)]) -> StacksTable {
        let mut table = StacksTable::default();
        for (verdict, stacks, known) in rows {
            let row = serde_json::json!({
                "runtime": "Go", "situation": "s", "verdict": "hung (blocked), low", "class": "right", "verdict_line": "main.f (f.go:1)",
                "verdict_match": verdict, "stacks_line": "", "stacks_match": stacks, "known": known, "idle": "1 of 2",
                "milliseconds": 12.3,
            });
            assert!(table.add(&format!("test a::b ... {MARK}{row}")).unwrap());
        }
        table
    }

    #[test]
    fn a_wrong_line_fails_and_so_do_too_few_right_ones() {
        let right = ("none", "right", true);
        table(&[right; 20]).check().unwrap();
        let mut rows = [right; 20];
        rows[7].1 = "none";
        table(&rows).check().unwrap();
        rows[8].1 = "none";
        table(&rows).check().unwrap_err();
        table(&[right, ("wrong", "right", true)]).check().unwrap_err();
        table(&[right, ("none", "wrong", false)]).check().unwrap_err();
        table(&[right, ("none", "none", false)]).check().unwrap();
    }

    #[test]
    fn a_row_has_lines_and_whether_they_are_right() {
        let table = table(&[("right", "none", true)]);
        let row = "| Go | s | hung (blocked), low: right | `main.f (f.go:1)`: right | none | 1 of 2 | 12 ms |\n";
        assert!(table.markdown().ends_with(row), "{}", table.markdown());
        assert!(!StacksTable::default().add("test a::b ... ok").unwrap());
        assert!(StacksTable::default().add(&format!("{MARK}{{}}")).is_err());
    }
}
