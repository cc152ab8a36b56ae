//! Recordings of what the agent observes, for tests that play them again without a kernel (`tests/replay.rs`).

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::scenario::Scenario;

/// If this is set, all that the agent observes is recorded in files of this folder.
const RECORD: &str = "CLOSEWAIT_RECORD";

/// Where the recording of a scenario goes, if one is wanted.
pub(crate) fn file(scenario: &Scenario) -> Option<PathBuf> {
    let folder = env::var_os(RECORD)?;
    fs::create_dir_all(&folder).expect("a folder for recordings");
    let kind = if scenario.healthy { "healthy-" } else { "" };
    Some(Path::new(&folder).join(format!("{kind}{}.jsonl", scenario.name)))
}

/// Takes out what is about sockets of other network namespaces than that of the scenario.
pub(crate) fn keep_only(file: &Path, netns: u64) {
    let text = fs::read_to_string(file).expect("the recording");
    let kept = text.lines().filter(|line| {
        let line: Value = serde_json::from_str(line).expect("a line of the recording");
        let fact = line["fact"].as_object().and_then(|fact| fact.values().next()).unwrap_or(&Value::Null);
        let of = [&fact["socket"], &fact["listener"], &fact["leg"]["socket"]];
        of.iter().all(|part| part["netns"].is_null() || part["netns"] == netns)
    });
    let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
    fs::write(file, kept).expect("the recording");
}
