//! Budget of instructions per connection, a file of the repository.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::prelude::*;

/// Path of the budget.
pub(super) const FILE: &str = "xtask/budget/instructions.json";
/// A figure fails from this percentage of its budget on.
const LIMIT_PERCENT: u64 = 105;

/// Name of a load, and of a kernel program or the agent.
pub(super) type Key = (String, String);

/// Figures, and the kernel that they are for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// Release of the guest's kernel.
    pub(super) kernel: String,
    /// Instructions per connection.
    pub(super) figures: BTreeMap<Key, u64>,
}

impl Budget {
    /// Reads the file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        Self::parse(&fs::read_to_string(path)?).with_context(|| format!("{} is no budget", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        let kernel = value["kernel"].as_str().context("it names no kernel")?.to_owned();
        let mut figures = BTreeMap::new();
        for (load, of) in value["instructions"].as_object().context("it has no object `instructions`")? {
            for (what, figure) in of.as_object().with_context(|| format!("{load} is no object"))? {
                let figure = figure.as_u64().with_context(|| format!("{load}: {what} is no count"))?;
                figures.insert((load.clone(), what.clone()), figure);
            }
        }
        Ok(Self { kernel, figures })
    }

    /// Returns the text of the file.
    pub(super) fn text(&self) -> Result<String> {
        let mut loads: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
        for ((load, what), figure) in &self.figures {
            loads.entry(load).or_default().insert(what, *figure);
        }
        let value = json!({ "kernel": self.kernel, "instructions": loads });
        Ok(format!("{}\n", serde_json::to_string_pretty(&value)?))
    }

    /// Compares measured figures with this budget. Returns a sentence for each that is 5 % or more over its budget, that has no
    /// budget, or that is missing.
    pub(super) fn problems(&self, measured: &BTreeMap<Key, u64>) -> Vec<String> {
        let keys: BTreeSet<&Key> = self.figures.keys().chain(measured.keys()).collect();
        let problem = |key: &&Key| {
            let (load, what) = key;
            match (self.figures.get(*key), measured.get(*key)) {
                (Some(budget), Some(figure)) if is_over(*figure, *budget) => Some(format!(
                    "{what} ({load}): {figure} instructions per connection, {} over the budget of {budget}",
                    change(*figure, *budget)
                )),
                (None, Some(figure)) => {
                    Some(format!("{what} ({load}): {figure} instructions per connection, without a budget"))
                }
                (Some(_), None) => Some(format!("{what} ({load}): it has a budget, but did not run")),
                (Some(_), Some(_)) | (None, None) => None,
            }
        };
        keys.iter().filter_map(problem).collect()
    }
}

fn is_over(figure: u64, budget: u64) -> bool {
    figure.saturating_mul(100) >= budget.saturating_mul(LIMIT_PERCENT)
}

/// Returns the difference from the budget in percent, with one digit behind the point.
pub(super) fn change(figure: u64, budget: u64) -> String {
    if budget == 0 {
        return "-".to_owned();
    }
    format!("{:+.1} %", (figure as f64 / budget as f64 - 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(what: &str) -> Key {
        ("accepted".to_owned(), what.to_owned())
    }

    fn problems_of(budget: u64, figure: u64) -> Vec<String> {
        let budget = Budget { kernel: "7.3".to_owned(), figures: [(key("program"), budget)].into() };
        budget.problems(&[(key("program"), figure)].into())
    }

    #[test]
    fn a_program_that_grew_by_5_percent_is_over_its_budget() {
        let over = problems_of(2000, 2100);
        assert_eq!(over, ["program (accepted): 2100 instructions per connection, +5.0 % over the budget of 2000"]);
        assert!(problems_of(2000, 2099).is_empty());
        assert!(problems_of(2000, 500).is_empty());
        // A small budget has no margin below one instruction.
        assert_eq!((problems_of(9, 10).len(), problems_of(0, 1).len()), (1, 1));
    }

    #[test]
    fn a_program_without_a_budget_or_without_a_figure_is_a_problem() {
        let budget = Budget { kernel: "7.3".to_owned(), figures: [(key("old"), 10)].into() };
        let problems = budget.problems(&[(key("new"), 10)].into());
        assert_eq!(
            problems,
            [
                "new (accepted): 10 instructions per connection, without a budget",
                "old (accepted): it has a budget, but did not run"
            ]
        );
    }

    #[test]
    fn a_written_budget_is_read_again() {
        let figures = [(key("a"), 1), (key("b"), 2), (("connected".to_owned(), "a".to_owned()), 3)];
        let budget = Budget { kernel: "7.3.4".to_owned(), figures: figures.into() };
        assert_eq!(Budget::parse(&budget.text().unwrap()).unwrap(), budget);
        for broken in ["{}", "[]", r#"{"kernel":"7.3","instructions":{"accepted":{"a":-1}}}"#] {
            assert!(Budget::parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn the_repository_has_a_budget() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let budget = Budget::read(&root.join(FILE)).unwrap();
        assert!(budget.figures.values().all(|figure| *figure > 0) && !budget.figures.is_empty(), "{budget:?}");
    }
}
