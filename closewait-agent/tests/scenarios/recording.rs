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

/// Takes out what is about sockets of other network namespaces than that of the scenario, and where on this machine the
/// programs are.
pub(crate) fn keep_only(file: &Path, netns: u64) {
    let text = fs::read_to_string(file).expect("the recording");
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("a line of the recording"));
    let kept = lines.filter(|line: &Value| {
        let fact = line["fact"].as_object().and_then(|fact| fact.values().next()).unwrap_or(&Value::Null);
        let of = [&fact["socket"], &fact["listener"], &fact["leg"]["socket"]];
        of.iter().all(|part| part["netns"].is_null() || part["netns"] == netns)
    });
    let kept: String = kept.map(|line| format!("{}\n", without_folder(line))).collect();
    fs::write(file, kept).expect("the recording");
}

/// The program of a process, as if it were in the usual place.
fn without_folder(mut line: Value) -> Value {
    if let Some(Value::String(exe)) = line.pointer_mut("/fact/Process/process/exe") {
        let name = exe.rsplit('/').next().unwrap_or_default();
        *exe = format!("/usr/bin/{name}");
    }
    line
}
