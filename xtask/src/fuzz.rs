//! `cargo xtask fuzz`: the targets in `fuzz/fuzz_targets`, one after the other, and one table of what came of it.
//!
//! They are built as cargo-fuzz would build them, but without a sanitizer: what they run is safe Rust, in which a fault is a
//! panic, and so nothing is needed beyond the stable compiler. What a run finds is kept below the target folder; the few
//! inputs in `fuzz/corpus` are where the first one begins.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::exec::{self, Workspace};

/// A target, and what is particular to it.
struct Target {
    name: &'static str,
    /// Longest input, bytes: enough to hold some of whatever it reads.
    longest: u32,
    /// A folder of files that serve as first inputs too.
    fixtures: Option<&'static str>,
}

const TARGETS: [Target; 7] = [
    Target { name: "records", longest: 4096, fixtures: None },
    Target { name: "btf", longest: 4096, fixtures: None },
    Target { name: "tracepoint", longest: 4096, fixtures: Some("closewait-agent/src/host/tracefs") },
    Target { name: "proc", longest: 2048, fixtures: None },
    Target { name: "netlink", longest: 4096, fixtures: None },
    Target { name: "recording", longest: 8192, fixtures: Some("closewait-agent/tests/recordings") },
    Target { name: "cli", longest: 1024, fixtures: None },
];

/// Lets libFuzzer see which ways the code goes and what it compares: the options of cargo-fuzz.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // The counters of one crate have to be in one piece.
    "-Ccodegen-units=1",
    "--cfg",
    "fuzzing",
];

/// One input that takes longer than this, in seconds, is a fault.
const TIMEOUT: &str = "-timeout=10";
/// And one that takes more memory, in MiB.
const MEMORY: &str = "-rss_limit_mb=1024";

#[derive(Args)]
pub(crate) struct Options {
    /// Targets; all if none is given
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// For how long each runs; 0: only what is in the corpus
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
}

/// What came of one target.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    target: &'static str,
    seconds: u64,
    executions: u64,
    /// Inputs that each go a way of their own.
    corpus: u64,
    /// Inputs that ended in a panic, took too long, or took too much memory; libFuzzer stops at the first.
    crashes: usize,
}

/// Builds the targets, runs each, and fails if one crashed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let chosen = chosen(&options.targets)?;
    let binaries = build(workspace)?;
    let mut outcomes = Vec::new();
    for target in chosen {
        outcomes.push(fuzz(workspace, &binaries, target, options.seconds)?);
    }
    print!("{}", table(&outcomes));
    let crashed: Vec<_> = outcomes.iter().filter(|one| one.crashes > 0).map(|one| one.target).collect();
    if !crashed.is_empty() {
        let folder = workspace.target.join("fuzz/crashes");
        bail!(
            "crashes in {}; each input is in {}, and the target runs it alone when it is given as its only argument",
            crashed.join(", "),
            folder.display()
        );
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Target>> {
    if names.is_empty() {
        return Ok(TARGETS.iter().collect());
    }
    let find = |name: &String| {
        let known = || TARGETS.map(|target| target.name).join(", ");
        TARGETS
            .iter()
            .find(|target| target.name == name)
            .with_context(|| format!("no target {name}; there are {}", known()))
    };
    names.iter().map(find).collect()
}

/// Returns the folder of the binaries.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = exec::output(Command::new(rustc).arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("`rustc -vV` shows no host; is rustc a compiler from rust-lang.org?")?;
    // With a target, even if it is this machine, the flags are not for build scripts, which have no libFuzzer.
    let folder = workspace.target.join("fuzz");
    exec::run(
        workspace
            .cargo("build")
            .args(["--release", "--quiet", "--target", host, "--manifest-path"])
            .arg(workspace.root.join("fuzz/Cargo.toml"))
            .arg("--target-dir")
            .arg(&folder)
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
            // Flags of the caller are for other builds.
            .env_remove("RUSTFLAGS"),
    )
    .context("building the fuzz targets failed; libFuzzer needs a C++ compiler (`g++`)")?;
    Ok(folder.join(host).join("release"))
}

fn fuzz(workspace: &Workspace, binaries: &Path, target: &'static Target, seconds: u64) -> Result<Outcome> {
    let folder = workspace.target.join("fuzz");
    let (corpus, crashes) = (folder.join("corpus").join(target.name), folder.join("crashes").join(target.name));
    for folder in [&corpus, &crashes] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}; is it yours?", folder.display()))?;
    }
    let log = folder.join(format!("{}.log", target.name));
    let file = File::create(&log).with_context(|| format!("cannot create {}; is it yours?", log.display()))?;
    let before = count(&crashes)?;
    let mut command = Command::new(binaries.join(target.name));
    // What is found goes into the first folder.
    command.arg(&corpus).arg(workspace.root.join("fuzz/corpus").join(target.name));
    command.args(target.fixtures.map(|fixtures| workspace.root.join(fixtures)));
    command.arg(if seconds == 0 { "-runs=0".to_owned() } else { format!("-max_total_time={seconds}") });
    command.args([TIMEOUT, MEMORY, "-print_final_stats=1"]).arg(format!("-max_len={}", target.longest));
    command.arg(format!("-artifact_prefix={}/", crashes.display()));
    eprintln!("fuzz: {} for {seconds} s", target.name);
    let begun = exec::now();
    let status = command.stderr(file).status().with_context(|| format!("cannot start {}", exec::shown(&command)))?;
    let took = begun.elapsed().as_secs();
    let text = fs::read(&log).with_context(|| format!("cannot read {}; is it yours?", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    let (executions, found) = numbers(&text);
    let crashes = count(&crashes)?.saturating_sub(before);
    if !status.success() {
        let first = text.lines().position(|line| line.contains("panicked at") || line.contains("ERROR: libFuzzer"));
        text.lines().skip(first.unwrap_or(0)).take(20).for_each(|line| eprintln!("{line}"));
        // The same input again leaves no new file.
        return Ok(Outcome { target: target.name, seconds: took, executions, corpus: found, crashes: crashes.max(1) });
    }
    Ok(Outcome { target: target.name, seconds: took, executions, corpus: found, crashes })
}

fn count(folder: &Path) -> Result<usize> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}; is it yours?", folder.display()))?;
    Ok(entries.count())
}

/// Executions and size of the corpus, from the last of libFuzzer's lines `#123\tNEW    cov: 4 ft: 5 corp: 6/78b …`.
fn numbers(log: &str) -> (u64, u64) {
    let leading = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    let after = |name: &str| {
        log.lines().rev().filter(|line| line.starts_with('#')).find_map(|line| leading(line.split_once(name)?.1))
    };
    let total = log.lines().find_map(|line| leading(line.strip_prefix("stat::number_of_executed_units: ")?));
    (total.or_else(|| after("#")).unwrap_or(0), after(" corp: ").unwrap_or(0))
}

/// As Markdown.
fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| Target | Seconds | Executions | Executions per second | Corpus | Crashes |\n|---|---|---|---|---|---|\n",
    );
    for Outcome { target, seconds, executions, corpus, crashes } in outcomes {
        let rate = executions / (*seconds).max(1);
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "| {target} | {seconds} | {executions} | {rate} | {corpus} | {crashes} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "INFO: seed corpus: files: 3\n#4\tINITED cov: 9 ft: 9 corp: 3/40b exec/s: 0 rss: 27Mb\n\
        #77\tNEW    cov: 12 ft: 15 corp: 5/99b lim: 40 exec/s: 0 rss: 27Mb L: 1/2 MS: 1 InsertByte-\n";

    #[test]
    fn executions_and_corpus_are_those_of_the_last_line() {
        assert_eq!(numbers(LOG), (77, 5));
        let done = format!("{LOG}#90\tDONE   cov: 12 ft: 15 corp: 6/99b lim: 40\nstat::number_of_executed_units: 91\n");
        assert_eq!(numbers(&done), (91, 6));
        assert_eq!(numbers("nothing\n"), (0, 0));
    }

    #[test]
    fn the_table_has_a_line_for_each_target() {
        let outcome = Outcome { target: "btf", seconds: 10, executions: 1234, corpus: 7, crashes: 1 };
        assert!(table(&[outcome]).ends_with("|---|\n| btf | 10 | 1234 | 123 | 7 | 1 |\n"));
    }

    #[test]
    fn an_unknown_target_is_refused_with_those_that_there_are() {
        assert_eq!(chosen(&[]).unwrap().len(), TARGETS.len());
        assert_eq!(chosen(&["cli".to_owned()]).unwrap()[0].name, "cli");
        let error = chosen(&["x".to_owned()]).err().unwrap();
        assert!(error.to_string().contains("there are records, btf"), "{error}");
    }

    #[test]
    fn every_target_is_in_the_manifest_and_has_first_inputs() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
        let named: Vec<_> = manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")).collect();
        assert_eq!(named, TARGETS.map(|target| format!("{}.rs\"", target.name)));
        for target in &TARGETS {
            assert!(count(&root.join("fuzz/corpus").join(target.name)).unwrap() > 0, "{}", target.name);
        }
    }
}
