//! `cargo xtask fuzz`: the targets in `fuzz/fuzz_targets`, one after the other, and one table of the results.
//!
//! `build` does what `cargo fuzz build --sanitizer none` does: the targets run safe Rust, in which a fault is a panic. cargo-fuzz
//! (0.13.2) works on the stable compiler too, and `fuzz/` has the layout that it wants. It is not used here because it would
//! be one more program to install, in place of eight flags; folders, limits and the table would stay. What a run finds is kept
//! below the target folder; the few inputs in `fuzz/corpus` are where the first run begins.

use crate::prelude::*;

/// Targets in the order in which they run, each with its longest input in bytes, enough for several of whatever it reads, and
/// a folder of files that serve as first inputs, too.
const TARGETS: [(&str, u32, Option<&str>); 14] = [
    ("records", 4096, None),
    ("btf", 4096, None),
    ("tracepoint", 4096, Some("closewait-agent/src/host/tracefs")),
    ("proc", 2048, None),
    ("netlink", 4096, None),
    ("recording", 8192, Some("closewait-agent/tests/recordings")),
    ("config", 2048, Some("contrib")),
    ("cli", 1024, None),
    ("goroutines", 512, None),
    ("python_frames", 512, None),
    ("script_frames", 512, None),
    ("jvm_dump", 16_384, Some("closewait-stacks/tests/dumps")),
    ("native_frames", 512, None),
    ("unread", 4096, None),
];

/// Shows libFuzzer which paths the code takes and what it compares: the options of cargo-fuzz.
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

/// An input that takes longer than this, in seconds, is a fault.
const TIMEOUT: &str = "-timeout=10";
/// So is one that takes more memory, in MiB.
const MEMORY: &str = "-rss_limit_mb=1024";

#[derive(Args)]
pub(crate) struct Options {
    /// Targets; all if none is given
    #[arg(value_name = "TARGET", value_parser = TARGETS.map(|(name, ..)| name))]
    targets: Vec<String>,
    /// Seconds for each target; 0: run only the corpus
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
}

/// Builds the targets, runs each, and fails if one crashed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let binaries = build(workspace)?;
    let (mut rows, mut crashed) = (Vec::new(), Vec::new());
    for (target, max_len, fixtures) in TARGETS {
        if options.targets.is_empty() || options.targets.iter().any(|chosen| chosen == target) {
            let mut command = Command::new(binaries.join(target));
            command.arg(format!("-max_len={max_len}"));
            let fixtures = fixtures.map(|fixtures| workspace.root.join(fixtures));
            let (row, has_crashed) = fuzz(workspace, target, command, fixtures, options.seconds)?;
            rows.push(row);
            crashed.extend(has_crashed.then_some(target));
        }
    }
    let header = "Target | Seconds | Executions | Executions per second | Corpus | Crashes";
    print!("{}", markdown::table(header, rows));
    ensure!(
        crashed.is_empty(),
        "crashes in {}; each input is in {}, and the target runs it alone when it is given as its only argument",
        crashed.join(", "),
        workspace.target.join("fuzz/crashes").display()
    );
    Ok(())
}

/// Returns the folder of the binaries.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let host = exec::output(Command::new(rustc).args(["--print", "host-tuple"]))?;
    let host = host.trim();
    // With `--target`, even for this machine, build scripts do not get the flags: they have no libFuzzer.
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

/// Runs one target. Returns its row of the table, and whether an input ended in a panic, took too long, or took too much
/// memory: libFuzzer stops at the first.
fn fuzz(
    workspace: &Workspace,
    target: &str,
    mut command: Command,
    fixtures: Option<PathBuf>,
    seconds: u64,
) -> Result<(String, bool)> {
    let folder = workspace.target.join("fuzz");
    let (corpus, crashes) = (folder.join("corpus").join(target), folder.join("crashes").join(target));
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&crashes)?;
    let log = folder.join(format!("{target}.log"));
    let file = fs::File::create(&log)?.into_parts().0;
    // libFuzzer writes what it finds into the first folder.
    command.arg(&corpus).arg(workspace.root.join("fuzz/corpus").join(target));
    command.args(fixtures).arg(if seconds == 0 { "-runs=0".to_owned() } else { format!("-max_total_time={seconds}") });
    command.args([TIMEOUT, MEMORY, "-print_final_stats=1"]);
    command.arg(format!("-artifact_prefix={}/", crashes.display()));
    eprintln!("fuzz: {target} for {seconds} s");
    let begun = exec::now();
    let status = exec::start(command.stderr(file))?.wait().context("waiting for a fuzz target failed")?;
    let seconds = begun.elapsed().as_secs();
    let text = fs::read(&log)?;
    let text = String::from_utf8_lossy(&text);
    let (executions, corpus) = numbers(&text);
    let crashed = !status.success();
    if crashed {
        let first = text.lines().position(|line| line.contains("panicked at") || line.contains("ERROR: libFuzzer"));
        text.lines().skip(first.unwrap_or(0)).take(20).for_each(|line| eprintln!("{line}"));
    }
    let rate = executions / seconds.max(1);
    Ok((format!("{target} | {seconds} | {executions} | {rate} | {corpus} | {}", u8::from(crashed)), crashed))
}

/// Returns executions, from libFuzzer's final statistics, and the number of inputs that each take a path of their own, from the
/// last of its lines `#123\tNEW    cov: 4 ft: 5 corp: 6/78b …`.
fn numbers(log: &str) -> (u64, u64) {
    let after = |name: &str| {
        let rest = log.lines().rev().find_map(|line| Some(line.split_once(name)?.1))?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    (after("stat::number_of_executed_units: ").unwrap_or(0), after(" corp: ").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "INFO: seed corpus: files: 3\n#4\tINITED cov: 9 ft: 9 corp: 3/40b exec/s: 0 rss: 27Mb\n\
        #77\tNEW    cov: 12 ft: 15 corp: 5/99b lim: 40 exec/s: 0 rss: 27Mb L: 1/2 MS: 1 InsertByte-\n";

    #[test]
    fn executions_and_corpus_are_those_of_the_last_line() {
        assert_eq!(numbers(LOG), (0, 5));
        let done = format!("{LOG}#90\tDONE   cov: 12 ft: 15 corp: 6/99b lim: 40\nstat::number_of_executed_units: 91\n");
        assert_eq!(numbers(&done), (91, 6));
        assert_eq!(numbers("nothing\n"), (0, 0));
    }

    #[test]
    fn every_target_is_in_the_manifest_and_has_first_inputs() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
        let named: Vec<_> = manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")).collect();
        assert_eq!(named, TARGETS.map(|(target, ..)| format!("{target}.rs\"")));
        for (target, ..) in TARGETS {
            assert!(fs::read_dir(root.join("fuzz/corpus").join(target)).unwrap().count() > 0, "{target}");
        }
    }
}
