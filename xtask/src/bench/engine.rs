//! Records a second through the engine.

use super::summary;
use crate::build;
use crate::prelude::*;

/// The agent's example that plays the records.
const EXAMPLE: &str = "engine";
/// Sockets, and the groups that they are in.
const SIZES: [(u32, u32); 4] = [(1000, 10), (10_000, 100), (100_000, 1000), (1_000_000, 4000)];

#[derive(Args)]
pub(crate) struct Engine {
    /// Records of each size
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,
    /// Number of measurements of each size
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

impl Engine {
    /// Builds, measures and prints.
    pub(super) fn run(&self, workspace: &Workspace) -> Result<()> {
        build::release(workspace)?;
        build::example(workspace, EXAMPLE)?;
        let example = workspace.closewait().with_file_name("examples").join(EXAMPLE);
        print!("{}", markdown::table("sockets | groups | records a second, median | least | most", []));
        for (sockets, groups) in SIZES {
            let measure = |_round| -> Result<f64> {
                let mut command = Command::new(&example);
                command.args([sockets, groups, self.events].map(|number| number.to_string()));
                let result = exec::json(&mut command)?;
                ensure!(result["tracked_at_the_end"] == sockets, "sockets were lost: {result}");
                result["events_per_second"].as_f64().with_context(|| format!("no rate in {result}"))
            };
            let rates = (0..self.rounds).map(measure).collect::<Result<Vec<_>>>()?;
            let rates = summary(&rates).context("no rounds; this is a bug")?;
            let [least, median, most] = rates.map(|rate| format!("{:.2} million", rate / 1e6));
            println!("| {sockets} | {groups} | {median} | {least} | {most} |");
        }
        Ok(())
    }
}
