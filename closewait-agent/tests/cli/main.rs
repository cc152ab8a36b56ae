//! The command line as users see it: the help of each command, and errors that need neither root nor the kernel.
//!
//! The texts are in this folder. `SNAPSHOTS=overwrite cargo test --test cli` writes them again.

use std::{
    fmt::Write as _,
    fs::File,
    process::{Command, Stdio},
};

use snapbox::{assert_data_eq, file};

/// Command lines with an error, separated by line breaks.
const WRONG: &str = "\
closewait watch
closewait --port 80 list
closewait --socket /nowhere/agent.sock tail
closewait --socket /nowhere/agent.sock doctor
closewait --alone tail
closewait --redact check
closewait status --port 80
closewait top --at 5s
closewait top --alone --replay recording
closewait top --replay /nowhere/recording
closewait top --replay Cargo.toml
closewait run extra
closewait run --stuck-after soon
closewait run --stuck-after 0s
closewait run --ring-buffer 5000
closewait run --max-sockets 0
closewait run --record-max 1K
closewait run --record-max 1.5M
closewait run --connection-limit 8080
closewait run --hook kprobe
closewait list --verdict stuck
closewait list --peer example.org
closewait list --pid orders.py
closewait list --older-than 1
closewait stacks 0
closewait list --port 70000
closewait list --by port
closewait list --cgroup a,
closewait list --ouptut json
closewait list --sort size
closewait list --by process --sort recv-q
closewait list --columns age,colour
closewait list --by group --columns age
closewait list --output json --columns age
closewait list --watch 0
closewait report --port 80 recording
closewait check --warn 50
closewait check --warn stuck=0
closewait check --crit stuck=1,stuck=2
closewait check --grace 1s
closewait check --port 80 -- true
closewait check true
closewait explain hnug
closewait explain xyz
closewait explain certainity
closewait completions
closewait completions csh
closewait kill --max 0
closewait tail --since soon
closewait tail --socket /nowhere/agent.sock
closewait replay
closewait replay --speed fast recording
closewait replay /nowhere/recording
closewait replay Cargo.toml
closewait report /nowhere/recording
closewait report Cargo.toml
closewait run --config /nowhere/closewait.toml
closewait run --config src
closewait run --config tests/cli/wrong.toml
closewait config
closewait config check /nowhere/closewait.toml
closewait config check tests/cli/wrong.toml
closewait config check --output json tests/cli/wrong.toml
closewait config check --config tests/cli/incomplete.toml
closewait run --config tests/cli/incomplete.toml
closewait config show -- --stuck-after soon";

/// Runs command lines on a screen of 100 columns. Returns the output of each, and its exit code if that is not 0.
fn transcript(lines: &str) -> String {
    transcript_at(100, lines)
}

/// Runs command lines on a screen with this number of columns.
fn transcript_at(columns: usize, lines: &str) -> String {
    let mut transcript = String::new();
    for line in lines.lines() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_closewait"));
        command
            .args(line.split(' ').skip(1))
            .env("COLUMNS", columns.to_string())
            .env_remove("CLOSEWAIT_LOG")
            // A configuration of this host must not change the output.
            .env("CLOSEWAIT_CONFIG", "tests/cli/empty.toml")
            .stdin(Stdio::null());
        let output = command.output().expect("closewait");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        write!(transcript, "$ {line}\n{}{}", text(output.stdout), text(output.stderr)).expect("a string");
        match output.status.code() {
            Some(0) => transcript.push('\n'),
            code => writeln!(transcript, "exit code: {}\n", code.expect("it ends by itself")).expect("a string"),
        }
    }
    transcript
}

#[test]
fn help_is_as_written() {
    assert_data_eq!(transcript("closewait --help"), file!["help.txt"]);
    assert_data_eq!(transcript("closewait status --help"), file!["help-status.txt"]);
    assert_data_eq!(transcript("closewait top --help"), file!["help-top.txt"]);
    assert_data_eq!(transcript("closewait run --help"), file!["help-run.txt"]);
    assert_data_eq!(transcript("closewait list --help"), file!["help-list.txt"]);
    assert_data_eq!(transcript("closewait tail --help"), file!["help-tail.txt"]);
    assert_data_eq!(transcript("closewait kill --help"), file!["help-kill.txt"]);
    assert_data_eq!(transcript("closewait report --help"), file!["help-report.txt"]);
    assert_data_eq!(transcript("closewait replay --help"), file!["help-replay.txt"]);
    assert_data_eq!(transcript("closewait check --help"), file!["help-check.txt"]);
    assert_data_eq!(transcript("closewait explain --help"), file!["help-explain.txt"]);
    assert_data_eq!(transcript("closewait doctor --help"), file!["help-doctor.txt"]);
    assert_data_eq!(transcript("closewait stacks --help"), file!["help-stacks.txt"]);
    assert_data_eq!(transcript("closewait completions --help"), file!["help-completions.txt"]);
    let config = "closewait config --help\nclosewait config check --help\nclosewait config show --help";
    assert_data_eq!(transcript(config), file!["help-config.txt"]);
}

#[test]
fn a_help_text_that_cannot_be_written_is_an_error() {
    for argument in ["--help", "--version"] {
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let mut command = Command::new(env!("CARGO_BIN_EXE_closewait"));
        let output = command.arg(argument).stdin(Stdio::null()).stdout(full).output().expect("closewait");
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(error.contains("writing standard output failed: No space left on device"), "{argument}: {error}");
        assert_eq!(output.status.code(), Some(1), "{argument}");
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(transcript("closewait --version"), format!("$ closewait --version\nclosewait {version}\n\n"));
}

#[test]
fn explanations_are_as_written() {
    let lines = "\
closewait explain
closewait explain leak
closewait explain never-accepted
closewait explain stuck
closewait explain HUNG?
closewait explain --output json low
closewait explain --output json owner_stopped";
    assert_data_eq!(transcript(lines), file!["explain.txt"]);
}

#[test]
fn explanations_fit_every_screen() {
    let lines = "\
closewait explain
closewait explain hung
closewait explain blocked";
    let all = [80, 120, 200].map(|columns| {
        let text = transcript_at(columns, lines);
        assert!(text.lines().all(|line| line.chars().count() <= columns), "{text}");
        format!("== {columns} columns\n{text}")
    });
    assert_data_eq!(all.concat(), file!["explain-sizes.txt"]);
}

#[test]
fn settings_have_a_value_and_a_source() {
    let lines = "\
closewait config show --config tests/cli/right.toml -- --kernel-log --stuck-after 5s
closewait config show --config tests/cli/right.toml --output json
closewait config check tests/cli/right.toml
closewait config example";
    let text = transcript(lines);
    let objects = text.lines().filter(|line| line.starts_with('{'));
    objects.for_each(|line| tests_support::schema::conforms("config", &serde_json::from_str(line).expect("JSON")));
    assert_data_eq!(text, file!["config.txt"]);
}

#[test]
fn errors_are_as_written() {
    assert_data_eq!(transcript(WRONG), file!["errors.txt"]);
}

/// A binary without its kernel program reports that first.
#[cfg(kernel_program)]
#[test]
fn the_error_of_kill_without_a_filter_is_as_written() {
    assert_data_eq!(transcript("closewait kill"), file!["errors-complete.txt"]);
}
