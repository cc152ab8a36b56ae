//! Events of incidents, as a hook gets them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use serde_json::{Value, json};
use tests_support::{agent::closewait, schema};

/// Returns the folder with recordings.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings")
}

/// Returns the `pileup` events of all recorded incidents, with the name of the recording.
pub(crate) fn recorded() -> &'static [(String, Value)] {
    // Playing all recordings takes most of the time of these tests.
    static EVENTS: LazyLock<Vec<(String, Value)>> = LazyLock::new(|| {
        let mut names: Vec<_> = fs::read_dir(folder())
            .expect("recordings")
            .map(|entry| entry.expect("a file").file_name().into_string().expect("UTF-8"))
            .filter_map(|name| name.strip_suffix(".recording").map(str::to_owned))
            .collect();
        names.sort();
        let events: Vec<_> = names.iter().flat_map(|name| played(name).map(|event| (name.clone(), event))).collect();
        assert!(events.len() >= 10, "{} incidents", events.len());
        events
    });
    &EVENTS
}

/// Plays a recording, and returns its `pileup` events.
fn played(name: &str) -> impl Iterator<Item = Value> {
    let path = folder().join(name).with_extension("recording");
    let played = closewait(&["replay", path.to_str().expect("UTF-8"), "--output", "json"]).output().expect("closewait");
    let lines = String::from_utf8(played.stdout).expect("UTF-8");
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    events.into_iter().filter(|event| event["event"] == "pileup")
}

/// Returns one incident of a recording, on a host with a name.
pub(crate) fn incident() -> Value {
    static EVENT: LazyLock<Value> = LazyLock::new(|| {
        let mut event = played("forgets").next().expect("an incident");
        event["host"] = json!("web-1");
        event
    });
    EVENT.clone()
}

/// Returns the events of an incident's life: opened, updated, exhausted and resolved.
pub(crate) fn life(report: &Value) -> [Value; 4] {
    let mut opened = report.clone();
    opened["state"] = json!("opened");
    let mut updated = opened.clone();
    updated["state"] = json!("updated");
    updated["severity"] = json!("critical");
    updated["verdict"]["class"] = json!("hung");
    let mut exhausted = updated.clone();
    exhausted["state"] = json!("exhausted");
    let end = end_of(&opened);
    [opened, updated, exhausted, end]
}

/// Returns the `pileup_end` event of an incident. No recording has one: they end while the incident is open.
fn end_of(opened: &Value) -> Value {
    let verdict = &opened["verdict"];
    let end = json!({
        "schema_version": 1, "seq": 99, "host": opened["host"], "event": "pileup_end", "time": opened["time"],
        "id": opened["id"], "state": "resolved", "severity": "info", "service": opened["service"],
        "summary": "resolved after 24s: port 8080, 0 of 561 are left", "group": opened["group"], "began": opened["began"],
        "lasted_seconds": 24.0, "how": "drained", "count": 0, "most": opened["count"], "slope_per_second": null,
        "onset": {"first_stuck": opened["onset"]["first_stuck"]}, "exhaustion": null, "verdict": null, "evidence": null, "stacks": null,
        "unread_requests": null,
        "command": null, "runbook": opened["runbook"],
        "last_verdict": {"time": opened["time"], "class": verdict["class"], "rule": verdict["rule"],
            "certainty": verdict["certainty"]},
    });
    schema::check_event(&end);
    end
}
