//! `cargo xtask scenarios`: real programs that leave sockets in CLOSE_WAIT, and the agent's verdicts on them.

mod programs;
mod table;
mod tomcat;

use std::{env, ffi::OsString};

use crate::prelude::*;
use crate::{setup, test};
use table::Table;

/// The page that `--bless` writes.
const PAGE: &str = "docs/scenarios.md";
/// The tests record all that the agent observes in the folder that this variable names.
const RECORD: &str = "CLOSEWAIT_RECORD";

#[derive(Args)]
pub(crate) struct Options {
    /// Play only scenarios whose name contains this
    #[arg(conflicts_with = "bless")]
    filter: Option<OsString>,
    /// Play all of them this often
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Write the table to docs/scenarios.md
    #[arg(long)]
    bless: bool,
}

/// Installs the programs, plays the scenarios, prints the table and fails if any result was unexpected.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run(workspace)?;
    programs::bring(workspace)?;
    let executable = test::build(workspace, "scenarios")?.into_os_string();
    let mut program = vec![executable];
    if let Some(folder) = env::var_os(RECORD) {
        let folder = std::path::absolute(&folder).with_context(|| format!("{RECORD} is not a path"))?;
        let mut setting = OsString::from(format!("{RECORD}="));
        setting.push(folder);
        // sudo does not pass variables on.
        let env = exec::which("env").context("there is no program `env`; install coreutils")?;
        program.splice(0..0, [env.into(), setting]);
    }
    let args: Vec<_> = std::iter::once("--nocapture".into()).chain(options.filter.clone()).collect();
    let mut table = Table::default();
    let mut failures = Vec::new();
    let (mut played, mut failed) = (0, 0);
    for round in 1..=options.times {
        let mut unreadable = Ok(());
        let show = |line: &str| match table.add(line) {
            Ok(true) => {}
            Ok(false) => println!("{line}"),
            Err(error) => unreadable = Err(error),
        };
        let why = "playing scenarios in network namespaces";
        let (summary, success) = test::run_as_root(workspace, &program, &args, why, show)?;
        unreadable?;
        played += summary.run();
        failed += summary.failed;
        failures.extend(summary.check("scenario", success, true).err().map(|error| format!("round {round}: {error}")));
    }
    println!("\n{}", table.markdown());
    println!("scenarios: {played} played, {failed} failed");
    if options.bless {
        let kernel = exec::quiet(Command::new("uname").arg("-sr"))?;
        fs::write(workspace.root.join(PAGE), table.page(kernel.trim()))?;
        println!("wrote {PAGE}");
    }
    test::all_of(failures.into_iter())
}
