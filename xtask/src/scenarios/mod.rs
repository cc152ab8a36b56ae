//! `cargo xtask scenarios`: real programs that leave sockets in CLOSE_WAIT, and what the agent says of them.

mod programs;
mod table;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    exec::{self, Workspace},
    faults, root, setup,
    test::{self, Summary},
};
use table::Table;

/// The page that `--bless` writes.
const PAGE: &str = "docs/scenarios.md";
/// The tests record in this folder all that the agent observes.
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

/// Makes the programs ready, plays the scenarios, prints the table and fails if anything was not as expected.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run(workspace)?;
    programs::bring(workspace)?;
    let executable = test::build(workspace, "scenarios")?;
    let mut table = Table::default();
    let mut failures = Vec::new();
    let (mut played, mut failed) = (0, 0);
    for round in 1..=options.times {
        let (summary, success) = faults::watched(|| play(workspace, &executable, options.filter.as_ref(), &mut table))?;
        played += summary.passed + summary.failed;
        failed += summary.failed;
        if let Some(failure) = failure(&summary, success) {
            failures.push(format!("round {round}: {failure}"));
        }
    }
    println!("\n{}", table.markdown());
    println!("scenarios: {played} played, {failed} failed");
    if options.bless {
        let path = workspace.root.join(PAGE);
        let page = table.page(&kernel()?);
        fs::write(&path, page).with_context(|| format!("cannot write {}; is it yours?", path.display()))?;
        println!("wrote {PAGE}");
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

fn play(
    workspace: &Workspace,
    executable: &Path,
    filter: Option<&OsString>,
    table: &mut Table,
) -> Result<(Summary, bool)> {
    // One at a time: the programs would wait for each other, and that is just what is measured.
    let mut args = vec![OsString::from("--test-threads=1"), OsString::from("--nocapture")];
    args.extend(filter.cloned());
    let mut program = executable.to_owned();
    if let Some(folder) = env::var_os(RECORD) {
        // sudo hands on no variables.
        let mut setting = OsString::from(format!("{RECORD}="));
        setting.push(absolute(&folder)?);
        args.splice(0..0, [setting, program.into_os_string()]);
        program = exec::which("env").context("there is no program `env`; install coreutils")?;
    }
    let mut command = root::command(&program, &args, "playing scenarios in network namespaces")?;
    // Where cargo would run it.
    command.current_dir(workspace.root.join("closewait-agent"));
    let mut unreadable = None;
    let (summary, success) = test::run_libtest(&mut command, |line| match table.add(line) {
        Ok(true) => {}
        Ok(false) => println!("{line}"),
        Err(error) => unreadable = Some(error),
    })?;
    if let Some(error) = unreadable {
        return Err(error);
    }
    match summary {
        Some(summary) => Ok((summary, success)),
        None => bail!("{} ended without a `test result:` line; its output is above", exec::shown(&command)),
    }
}

/// What did not run is a failure, too: nothing else would notice.
fn failure(summary: &Summary, success: bool) -> Option<String> {
    if !success || summary.failed > 0 {
        return Some(format!("{} scenarios failed; their output is above the table", summary.failed));
    }
    if summary.ignored > 0 {
        return Some(format!("{} scenarios are #[ignore]d; take the attribute off", summary.ignored));
    }
    (summary.passed == 0).then(|| "no scenario was played; does the filter fit any?".to_owned())
}

fn absolute(folder: &OsString) -> Result<PathBuf> {
    std::path::absolute(folder).with_context(|| format!("{RECORD} is {}, which is no path", folder.display()))
}

/// `Linux 6.18.1`.
fn kernel() -> Result<String> {
    exec::quiet(Command::new("uname").arg("-sr")).map(|name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_played_is_a_failure() {
        let summary = |passed, failed, ignored| Summary { passed, failed, ignored };
        assert_eq!(failure(&summary(3, 0, 0), true), None);
        for (bad, success) in
            [(summary(0, 0, 0), true), (summary(3, 1, 0), false), (summary(3, 0, 1), true), (summary(3, 0, 0), false)]
        {
            assert!(failure(&bad, success).is_some(), "{bad:?} {success}");
        }
    }
}
