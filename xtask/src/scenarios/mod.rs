//! `cargo xtask scenarios`: real programs that leave sockets in CLOSE_WAIT, and the agent's verdicts on them.

mod stacks;
mod table;

use std::{env, ffi::OsString, mem};

use crate::prelude::*;
use crate::{root, setup, test};
use stacks::StacksTable;
use table::Table;
use test::Summary;

/// The page that `--bless` writes.
const PAGE: &str = "docs/scenarios.md";
/// The tests record all that the agent observes in the folder that this variable names.
const RECORD: &str = "CLOSEWAIT_RECORD";
/// Module of the tests that `--stacks` runs, and nothing else.
const RUNTIMES: &str = "runtimes::";

#[derive(Args)]
pub(crate) struct Options {
    /// Play only scenarios whose name contains this, the long ones included
    #[arg(conflicts_with = "bless")]
    filter: Option<OsString>,
    /// Play the long scenarios, too
    #[arg(long)]
    all: bool,
    /// Play all of them, and write the table to docs/scenarios.md
    #[arg(long)]
    bless: bool,
    /// Instead of them, play five situations for each runtime whose stacks are read, four minutes in all, and compare the lines of the
    /// programs that the agent shows; FILTER is a runtime: asyncio, c, go, java, python or ruby
    #[arg(long, conflicts_with_all = ["all", "bless"])]
    stacks: bool,
}

/// Installs the programs, plays the scenarios, prints the table and fails if any result was unexpected.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run(workspace)?;
    root::install(workspace, "scenarios")?;
    if options.stacks {
        root::install(workspace, "stacks-scenarios")?;
        return play_stacks(workspace, options);
    }
    // Long scenarios are tests with `#[ignore]`.
    let with_long = options.all || options.bless || options.filter.is_some();
    if with_long {
        root::install(workspace, "long-scenarios")?;
    }
    let build = workspace.root.join("closewait-agent/tests/scenarios/programs/build");
    exec::quiet(Command::new(build).arg(workspace.target.join("scenarios")))?;
    let executable = test::build(workspace, "scenarios")?.into_os_string();
    let mut program = vec![executable];
    if let Some(folder) = env::var_os(RECORD) {
        let folder = std::path::absolute(&folder).with_context(|| format!("{RECORD} is not a path"))?;
        let mut setting = OsString::from(format!("{RECORD}="));
        setting.push(folder);
        // sudo does not pass variables on.
        let env = exec::find("env")?;
        program.splice(0..0, [env.into(), setting]);
    }
    let long = with_long.then(|| "--include-ignored".into());
    let args: Vec<_> = ["--nocapture", "--skip", RUNTIMES]
        .map(OsString::from)
        .into_iter()
        .chain(long)
        .chain(options.filter.clone())
        .collect();
    let mut table = Table::default();
    let (mut summary, success) = play(workspace, &program, &args, |line| table.add(line))?;
    println!("\n{}", table.markdown());
    let left_out = if with_long { 0 } else { mem::take(&mut summary.ignored) };
    println!("scenarios: {} played, {} failed, {left_out} long ones left out", summary.run(), summary.failed);
    if options.bless {
        let kernel = exec::quiet(Command::new("uname").arg("-sr"))?;
        fs::write(workspace.root.join(PAGE), table.page(kernel.trim()))?;
        println!("wrote {PAGE}");
    }
    summary.check("scenario", success, true)
}

/// Runs the tests, hands each line of their output to `add`, and prints those that it does not take.
fn play(
    workspace: &Workspace,
    program: &[OsString],
    args: &[OsString],
    mut add: impl FnMut(&str) -> Result<bool>,
) -> Result<(Summary, bool)> {
    let mut unreadable = Ok(());
    let show = |line: &str| match add(line) {
        Ok(true) => {}
        Ok(false) => println!("{line}"),
        Err(error) => unreadable = Err(error),
    };
    let played = test::run_as_root(workspace, program, args, "playing scenarios in network namespaces", show)?;
    unreadable?;
    Ok(played)
}

/// Plays the situations of each runtime at the same time, and fails if a line is wrong, or too few are shown.
fn play_stacks(workspace: &Workspace, options: &Options) -> Result<()> {
    let build = workspace.root.join("closewait-agent/tests/scenarios/programs/stacks/build");
    exec::quiet(Command::new(build).arg(workspace.target.join("scenarios")))?;
    let program = [test::build(workspace, "scenarios")?.into_os_string()];
    let mut filter = OsString::from(RUNTIMES);
    filter.push(options.filter.clone().unwrap_or_default());
    // They mostly wait.
    let args = ["--nocapture", "--ignored", "--test-threads=6"].map(OsString::from);
    let args = [&args[..], &[filter]].concat();
    let mut table = StacksTable::default();
    let (summary, success) = play(workspace, &program, &args, |line| table.add(line))?;
    println!("\n{}\n{}", table.markdown(), table.summary());
    summary.check("runtime", success, true)?;
    table.check()
}
