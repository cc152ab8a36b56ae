//! `cargo xtask test`: everything that needs no root, then the kernel tests as root.

pub(crate) mod emulated;

use std::{
    env,
    ffi::OsString,
    io::{BufRead as _, BufReader},
};

use crate::prelude::*;
use crate::{dist::Arch, faults, root, setup, venv::Venv};

/// Packages that are tested and linted: the kernel program has no standard library and does not build for the host.
/// Commands that name the same packages get the same features, so cargo builds them once.
pub(crate) const PACKAGES: [&str; 3] = ["--workspace", "--exclude", "closewait-ebpf"];

#[derive(Args)]
pub(crate) struct Options {
    /// Run the tests without root of a build for another architecture, in an emulator
    #[arg(long, value_name = "ARCH")]
    arch: Option<Arch>,
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
    if let Some(arch) = options.arch.filter(|arch| !arch.is_of_this_machine()) {
        return emulated::run(workspace, arch, options);
    }
    setup::run(workspace)?;
    root::install(workspace, "browser")?;
    root::install(workspace, "engines")?;
    root::install(workspace, "shells")?;
    let mut host = workspace.cargo("test");
    host.args(PACKAGES).arg("--no-fail-fast").env("PATH", path_with_receivers(workspace)?);
    if !options.filter.is_empty() {
        host.arg("--").args(&options.filter);
    }
    let results = [exec::run(&mut host), kernel(workspace, &options.filter)];
    all_of(results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")))
}

/// Returns PATH with the receivers of OTLP in front. Without them their tests say that they are skipped, but not in CI.
fn path_with_receivers(workspace: &Workspace) -> Result<OsString> {
    match Venv::Engines.install(workspace) {
        Ok(programs) => exec::path_with(&programs),
        Err(error) if env::var_os("CLOSEWAIT_REQUIRE_ENGINES").is_none_or(|value| value != "1") => {
            eprintln!("xtask: the receivers of OTLP cannot be installed: {error:#}");
            Ok(env::var_os("PATH").unwrap_or_default())
        }
        Err(error) => Err(error),
    }
}

/// One error with all `failures`, if there are any.
pub(crate) fn all_of(failures: impl Iterator<Item = String>) -> Result<()> {
    let failures: Vec<_> = failures.collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn kernel(workspace: &Workspace, filter: &[OsString]) -> Result<()> {
    let program = [build(workspace, "kernel")?.into_os_string()];
    let why = "loading the test's programs into the kernel";
    let (summary, success) = run_as_root(workspace, &program, filter, why, |line| println!("{line}"))?;
    println!("kernel tests: {} run, {} failed", summary.run(), summary.failed);
    // A filter may name host tests only.
    summary.check("kernel test", success, filter.is_empty())
}

/// Builds one of the agent's test targets that need root, as the calling user, and returns its executable.
pub(crate) fn build(workspace: &Workspace, test: &str) -> Result<PathBuf> {
    // Compiler errors stay readable on stderr; stdout has the artifacts.
    let no_run = ["--test", test, "--no-run", "--message-format=json-render-diagnostics"];
    let messages = exec::output(workspace.cargo("test").args(PACKAGES).args(no_run))?;
    executable(&messages, test, "test")
}

/// The executable of a target in cargo's messages; `kind` is `test` or `bin`.
pub(crate) fn executable(messages: &str, name: &str, kind: &str) -> Result<PathBuf> {
    let found = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let target = &message["target"];
        let wanted = message["reason"] == "compiler-artifact"
            && target["name"] == name
            && target["kind"].as_array()?.iter().any(|one| one == kind);
        wanted.then(|| message["executable"].as_str())?.map(PathBuf::from)
    });
    found.with_context(|| format!("cargo built no {kind} named `{name}`; does closewait-agent/Cargo.toml have it?"))
}

/// Runs a test executable (the last word of `program`) as root, one test at a time unless `args` has another number, with the watch on
/// the kernel's log.
/// `show` gets each line of its output.
pub(crate) fn run_as_root(
    workspace: &Workspace,
    program: &[OsString],
    args: &[OsString],
    why: &str,
    show: impl FnMut(&str),
) -> Result<(Summary, bool)> {
    let (first, more) = program.split_first().context("there is no program to run; this is a bug")?;
    // Tests share the kernel's sockets and what is attached to it, and scenarios measure waiting times.
    let one = [OsString::from("--test-threads=1")];
    let is_chosen = args.iter().any(|arg| arg.to_string_lossy().starts_with("--test-threads"));
    let threads: &[OsString] = if is_chosen { &[] } else { &one };
    let args = [more, threads, args].concat();
    let mut command = root::command(first.as_ref(), &args, why)?;
    // cargo runs tests in this folder, too.
    command.current_dir(workspace.root.join("closewait-agent"));
    faults::watched(|| run_libtest(&mut command, show))
}

fn run_libtest(command: &mut Command, mut show: impl FnMut(&str)) -> Result<(Summary, bool)> {
    let mut child = exec::start(command.stdout(Stdio::piped()))?;
    let stdout = child.stdout.take().context("the child has no stdout although it was asked for")?;
    let mut summary = None;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.with_context(|| format!("cannot read the output of {}", exec::shown(command)))?;
        let line = String::from_utf8_lossy(&line);
        show(&line);
        // The last such line counts: a test may print one of its own.
        summary = parse_summary(&line).or(summary);
    }
    let status = child.wait().with_context(|| format!("waiting for {} failed", exec::shown(command)))?;
    let missing = || format!("{} ended without a `test result:` line; its output is above", exec::shown(command));
    Ok((summary.with_context(missing)?, status.success()))
}

/// Reads `test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
pub(crate) fn parse_summary(line: &str) -> Option<Summary> {
    let (_verdict, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| counts.split("; ").find_map(|part| part.strip_suffix(what)?.trim().parse().ok());
    Some(Summary { passed: count("passed")?, failed: count("failed")?, ignored: count("ignored")? })
}

impl Summary {
    pub(crate) fn run(&self) -> u64 {
        self.passed + self.failed
    }

    /// Fails if a test failed or did not run: nothing else would notice.
    pub(crate) fn check(&self, what: &str, success: bool, some_must_run: bool) -> Result<()> {
        if !success || self.failed > 0 {
            bail!("{} {what}s failed; their output is above", self.failed);
        }
        if self.ignored > 0 {
            bail!("{} {what}s are #[ignore]d; remove the attribute, or let the test say why it skips", self.ignored);
        }
        ensure!(self.passed > 0 || !some_must_run, "no {what} ran; does the filter match any?");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_libtest_s_summary() {
        let good = "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.20s";
        assert_eq!(parse_summary(good), Some(Summary { passed: 12, failed: 0, ignored: 0 }));
        let bad = "test result: FAILED. 1 passed; 2 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.0s";
        assert_eq!(parse_summary(bad), Some(Summary { passed: 1, failed: 2, ignored: 3 }));
        assert_eq!(parse_summary("test enter ... ok"), None);
    }

    #[test]
    fn a_test_that_did_not_run_is_a_failure() {
        let check = |passed, failed, ignored, success, some_must_run| {
            Summary { passed, failed, ignored }.check("test", success, some_must_run).is_ok()
        };
        assert!(check(3, 0, 0, true, true) && check(0, 0, 0, true, false));
        assert!(!check(0, 0, 0, true, true) && !check(3, 0, 1, true, true) && !check(3, 1, 0, false, true));
        assert!(!check(3, 0, 0, false, true), "killed after its summary");
    }

    #[test]
    fn finds_the_executable_among_cargo_s_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"kernel\",\"kind\":[\"lib\"]},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"kernel\",\"kind\":[\"test\"]},\"executable\":\"/t/kernel-1\"}\n\
            {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages, "kernel", "test").unwrap(), PathBuf::from("/t/kernel-1"));
        assert!(executable(messages, "scenarios", "test").is_err());
    }
}
