//! How many records the engine takes in a second.

use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::Value;

use crate::{
    build,
    exec::{self, Workspace},
};

/// Plays the records.
const EXAMPLE: &str = "engine";
/// Sockets and the groups that they are in.
const SIZES: [(u32, u32); 4] = [(1000, 10), (10_000, 100), (100_000, 1000), (1_000_000, 4000)];

#[derive(Args)]
pub(crate) struct Options {
    /// Records of each size
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,
    /// How often each size is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// Builds, measures and prints.
pub(super) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    build::release(workspace)?;
    build::example(workspace, EXAMPLE)?;
    let example = workspace.closewait().with_file_name("examples").join(EXAMPLE);
    println!("| sockets | groups | records a second, median | least | most |\n|---|---|---|---|---|");
    for (sockets, groups) in SIZES {
        let measure = |_round| -> Result<f64> {
            let mut command = Command::new(&example);
            command.args([sockets, groups, options.events].map(|number| number.to_string()));
            let result: Value =
                serde_json::from_str(&exec::quiet(&mut command)?).context("the example printed no JSON")?;
            anyhow::ensure!(result["tracked_at_the_end"] == sockets, "sockets were lost: {result}");
            result["events_per_second"].as_f64().with_context(|| format!("no rate in {result}"))
        };
        let mut rates = (0..options.rounds).map(measure).collect::<Result<Vec<_>>>()?;
        rates.sort_unstable_by(f64::total_cmp);
        let million = |rate: Option<&f64>| rate.map_or("?".to_owned(), |rate| format!("{:.2} million", rate / 1e6));
        let [median, least, most] = [rates.get(rates.len() / 2), rates.first(), rates.last()].map(million);
        println!("| {sockets} | {groups} | {median} | {least} | {most} |");
    }
    Ok(())
}
