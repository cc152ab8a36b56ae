//! Events, answers and settings with odd values in each place: no hook ends as one with a bug (70).
//!
//! `odd.py` runs the hooks in one process: some 9,000 runs, for which starting a process each would take minutes.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;

use super::events::{incident, life};

/// Program that runs the hooks.
const PROGRAM: &str = include_str!("odd.py");

/// Runs one part of the program.
fn run(part: &str) {
    let [opened, _, _, end] = life(&incident());
    let mut client = opened.clone();
    client["group"]["remote"] = json!({"address": "::1", "port": 8080});
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/hooks");
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-IB", "-c", PROGRAM]).arg(hooks).arg(part).env_clear();
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python3");
    let input = json!([client, end]).to_string();
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("a reader");
    let output = child.wait_with_output().expect("its end");
    let [said, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success() && said.starts_with("as expected: "), "{said}\n{errors}");
}

#[test]
fn odd_members_of_an_event_are_unknown_or_refused() {
    run("events");
}

#[test]
fn odd_answers_are_failures_of_the_service() {
    run("answers");
}

#[test]
fn odd_settings_are_refused() {
    run("settings");
}

#[test]
fn a_bug_shows_no_part_of_the_secret() {
    run("bugs");
}

#[test]
fn a_part_of_a_secret_is_found_in_any_layers_of_escapes() {
    run("layers");
}
