//! CPU time of an agent's answers, without a kernel: only the engine and the encoding.

use crate::build;
use crate::prelude::*;

/// The agent's example that makes the answers.
const EXAMPLE: &str = "answers";
/// Sockets, and the groups that they are in.
const SIZES: [(u32, u32); 4] = [(12_000, 10), (12_000, 1000), (100_000, 1000), (1_000_000, 4000)];
/// Column and member of the example's JSON.
const COLUMNS: [(&str, &str); 8] = [
    ("Copy of the state", "copy_ms"),
    ("list, no match", "list_none_ms"),
    ("list, one port", "list_one_port_ms"),
    ("list", "list_ms"),
    ("list, JSON", "list_json_ms"),
    ("list --by process", "list_by_process_ms"),
    ("status, no match", "status_none_ms"),
    ("status", "status_ms"),
];

#[derive(Args)]
pub(crate) struct Answers {
    /// Number of sockets of a run instead of all sizes
    #[arg(long)]
    sockets: Option<u32>,
}

impl Answers {
    /// Builds, measures and prints.
    pub(super) fn run(&self, workspace: &Workspace) -> Result<()> {
        build::release(workspace)?;
        build::example(workspace, EXAMPLE)?;
        let example = workspace.closewait().with_file_name("examples").join(EXAMPLE);
        let names: Vec<_> = COLUMNS.iter().map(|(name, _)| *name).collect();
        println!("CPU ms of each, medians of 9.\n");
        print!("{}", markdown::table(&format!("sockets | groups | {}", names.join(" | ")), []));
        let wanted = |(sockets, _): &(u32, u32)| self.sockets.is_none_or(|only| only == *sockets);
        for (sockets, groups) in SIZES.into_iter().filter(wanted) {
            let result = exec::json(Command::new(&example).args([sockets, groups].map(|number| number.to_string())))?;
            println!("| {sockets} | {groups} | {} |", cells(&result)?.join(" | "));
        }
        Ok(())
    }
}

/// The numbers of one size.
fn cells(result: &Value) -> Result<Vec<String>> {
    let cell = |(_, member): &(&str, &str)| -> Result<String> {
        let number = result[*member].as_f64().with_context(|| format!("no {member} in {result}"))?;
        Ok(format!("{number:.2}"))
    };
    COLUMNS.iter().map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_number_is_an_error() {
        let mut result = Value::Null;
        for (number, (_, member)) in COLUMNS.iter().enumerate() {
            assert!(cells(&result).is_err());
            result[*member] = number.into();
        }
        assert_eq!(cells(&result).unwrap()[1], "1.00");
    }
}
