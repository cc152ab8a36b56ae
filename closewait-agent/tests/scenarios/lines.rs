//! The line of the program at which its threads wait, as the agent reads it from their stacks.

use std::{env, fs, path::Path};

use serde_json::Value;

use crate::{
    agent::{Agent, closewait, finish},
    schema,
    stage::{Stage, programs},
};

/// Returns the number of the first line of a program that contains this.
pub(crate) fn line(program: &str, text: &str) -> usize {
    let source = fs::read_to_string(programs().join(program)).expect("the program");
    1 + source.lines().position(|line| line.contains(text)).expect("the line")
}

/// Runs an agent until it judges a stuck socket, ends it, and returns the text of the verdict.
pub(crate) fn verdict(stage: &Stage, more: &[&str]) -> String {
    let mut agent = Agent::start(&[&["--stuck-after", "2s"], more].concat());
    let netns = Value::from(stage.ns.inode);
    let is_judged = |event: &Value| event["event"] == "stuck" && event["verdict"]["rule"] != "fresh";
    let stuck = agent.wait_for("a verdict", |event| is_judged(event) && event["socket"]["netns"] == netns);
    agent.stop();
    stuck["verdict"]["text"].as_str().expect("a text").to_owned()
}

/// Starts a pool of eight workers, three of which wait for a lock.
fn locked(stage: &mut Stage) -> String {
    stage.python_with("worker_pool.py", &["stuck"]);
    stage.listens(8080);
    drop([(); 3].map(|()| stage.ask(8080, "/order")));
    stage.has_waiting(3);
    format!("3 threads wait for a lock in work (worker_pool.py:{})", line("worker_pool.py", "with ledger:"))
}

#[test]
fn python_threads_that_wait_for_a_lock_have_a_line_also_in_reports_and_replays() {
    let mut stage = Stage::new("lines-python");
    let expected = locked(&mut stage);
    let recording = env::temp_dir().join(format!("closewait-lines-{}.recording", std::process::id()));
    let file = recording.to_str().expect("a path in UTF-8");
    let live = verdict(&stage, &["--stacks", "auto", "--record", file]);
    assert!(live.contains(&expected), "{live}");
    let report = finish(&mut closewait(&["report", file, "--output", "json"]));
    let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
    schema::check_reported(&report);
    let groups = report["groups"].as_array().expect("groups");
    let with_stacks = groups.iter().find(|group| group["verdict"]["text"] == live).expect("the group");
    let stacks = with_stacks["stacks"].as_array().expect("stacks");
    let waits = stacks.iter().find(|group| group["waits_for"] == "a lock").expect("the threads");
    assert_eq!((&waits["count"], &waits["language"]), (&3.into(), &"python".into()), "{waits:#}");
    let text = finish(&mut closewait(&["report", file])).stdout;
    assert!(text.contains(&format!("\n {expected}\n")), "{text}");
    fs::remove_file(Path::new(file)).expect("the recording");
}

#[test]
fn no_line_is_read_unless_stacks_are_on() {
    let mut stage = Stage::new("lines-never");
    let expected = locked(&mut stage);
    let text = verdict(&stage, &[]);
    assert!(!text.contains(&expected) && text.contains("threads wait in futex"), "{text}");
}

#[test]
fn goroutines_that_sleep_have_a_line() {
    let mut stage = Stage::new("lines-go");
    stage.go("go-server");
    stage.listens(8080);
    drop([(); 3].map(|()| stage.ask(8080, "/slow")));
    stage.has_waiting(3);
    let text = verdict(&stage, &["--stacks", "auto"]);
    let line = line("server.go", "time.Sleep(");
    assert!(
        text.contains(&format!("3 goroutines wait for a period of time in main.slow (server.go:{line})")),
        "{text}"
    );
}
