//! `cargo xtask test`: everything that needs no root, then the kernel tests as root.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::{
    exec::{self, Workspace},
    faults, root, setup,
};

#[derive(Args)]
pub(crate) struct Options {
    /// Run only tests whose name contains this
    #[arg(last = true)]
    filter: Vec<OsString>,
}

/// The numbers of one `test result:` line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

/// Runs both kinds of tests, the second also when the first fails, and reports every failure.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run(workspace)?;
    let mut failures = Vec::new();
    let mut host = workspace.cargo("test");
    // The kernel program has no host build; everything else goes on after a failure, so that one run shows them all.
    host.args(["--workspace", "--exclude", "closewait-ebpf", "--no-fail-fast"]);
    if !options.filter.is_empty() {
        host.arg("--").args(&options.filter);
    }
    if let Err(error) = exec::run(&mut host) {
        failures.push(format!("{error:#}"));
    }
    if let Err(error) = kernel(workspace, &options.filter) {
        failures.push(format!("{error:#}"));
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

fn kernel(workspace: &Workspace, filter: &[OsString]) -> Result<()> {
    let executable = build(workspace, "kernel")?;
    // One at a time: they share the kernel's sockets and what is attached to it.
    let mut args = vec![OsString::from("--test-threads=1")];
    args.extend(filter.iter().cloned());
    let mut command = root::command(&executable, &args, "loading the test's programs into the kernel")?;
    // Where cargo would run it.
    command.current_dir(workspace.root.join("closewait-agent"));
    let (summary, success) = faults::watched(|| run_libtest(&mut command, |line| println!("{line}")))?;
    let Some(summary) = summary else {
        bail!("{} ended without a `test result:` line; its output is above", exec::shown(&command));
    };
    println!("kernel tests: {} run, {} failed", summary.passed + summary.failed, summary.failed);
    verdict(&summary, success, !filter.is_empty())
}

/// Builds one of the agent's test targets that need root, as the calling user, and returns its executable.
pub(crate) fn build(workspace: &Workspace, test: &str) -> Result<PathBuf> {
    let messages = exec::output(
        workspace
            .cargo("test")
            // The same packages as for the other tests: with others, cargo may choose other features and build anew.
            .args(["--workspace", "--exclude", "closewait-ebpf", "--test", test, "--no-run"])
            // Compiler errors stay readable on stderr; stdout has the artifacts.
            .arg("--message-format=json-render-diagnostics"),
    )?;
    executable(&messages, test, "test")
        .with_context(|| format!("cargo built no test named `{test}`; is closewait-agent/tests/{test}/main.rs there?"))
}

/// The executable of a target in cargo's messages; `kind` as in `test` or `bin`.
pub(crate) fn executable(messages: &str, name: &str, kind: &str) -> Option<PathBuf> {
    messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let target = &message["target"];
        let wanted = message["reason"] == "compiler-artifact"
            && target["name"] == name
            && target["kind"].as_array()?.iter().any(|one| one == kind);
        wanted.then(|| message["executable"].as_str())?.map(|path| Path::new(path).to_owned())
    })
}

/// Runs a test executable, hands on each line that it prints as it comes, and reads its summary.
pub(crate) fn run_libtest(command: &mut Command, mut show: impl FnMut(&str)) -> Result<(Option<Summary>, bool)> {
    let shown = exec::shown(command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {shown}"))?;
    let stdout = child.stdout.take().context("the child has no stdout although it was asked for")?;
    let mut summary = None;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.with_context(|| format!("cannot read the output of {shown}"))?;
        let line = String::from_utf8_lossy(&line);
        show(&line);
        // The last one counts: a test may print such a line of its own.
        summary = parse_summary(&line).or(summary);
    }
    let status = child.wait().with_context(|| format!("waiting for {shown} failed"))?;
    Ok((summary, status.success()))
}

/// Reads `test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
pub(crate) fn parse_summary(line: &str) -> Option<Summary> {
    let (_verdict, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| counts.split("; ").find_map(|part| part.strip_suffix(what)?.trim().parse().ok());
    Some(Summary { passed: count("passed")?, failed: count("failed")?, ignored: count("ignored")? })
}

/// A kernel test that did not run is a failure: nothing else would notice.
fn verdict(summary: &Summary, success: bool, filtered: bool) -> Result<()> {
    if !success || summary.failed > 0 {
        bail!("{} kernel tests failed; their output is above", summary.failed);
    }
    if summary.ignored > 0 {
        bail!(
            "{} kernel tests are #[ignore]d; take the attribute off, or let the test say why it skips",
            summary.ignored
        );
    }
    // With a filter that names host tests, none is what was asked for.
    if summary.passed == 0 && !filtered {
        bail!("no kernel test ran; closewait-agent/tests/kernel/main.rs must have some");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.20s";

    #[test]
    fn reads_libtest_s_summary() {
        assert_eq!(parse_summary(GOOD), Some(Summary { passed: 12, failed: 0, ignored: 0 }));
        let bad = "test result: FAILED. 1 passed; 2 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.0s";
        assert_eq!(parse_summary(bad), Some(Summary { passed: 1, failed: 2, ignored: 3 }));
        assert_eq!(parse_summary("test enter ... ok"), None);
    }

    #[test]
    fn what_did_not_run_is_a_failure() {
        let summary = |passed, failed, ignored| Summary { passed, failed, ignored };
        assert!(verdict(&summary(3, 0, 0), true, false).is_ok());
        assert!(verdict(&summary(0, 0, 0), true, false).is_err());
        assert!(verdict(&summary(0, 0, 0), true, true).is_ok());
        assert!(verdict(&summary(3, 0, 1), true, false).is_err());
        assert!(verdict(&summary(3, 1, 0), false, false).is_err());
        assert!(verdict(&summary(3, 0, 0), false, false).is_err(), "killed after its summary");
    }

    #[test]
    fn finds_the_executable_among_cargo_s_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"kernel\",\"kind\":[\"lib\"]},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"kernel\",\"kind\":[\"test\"]},\"executable\":\"/t/kernel-1\"}\n\
            {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages, "kernel", "test"), Some(PathBuf::from("/t/kernel-1")));
        assert_eq!(executable(messages, "scenarios", "test"), None);
        assert_eq!(executable("{\"reason\":\"build-finished\",\"success\":true}\n", "kernel", "test"), None);
    }
}
