//! Five situations for each runtime whose stacks closewait reads: a lock, a slow backend, an idle pool, a forgotten close, and exhausted
//! descriptors. Each has a line of the program that is right; the agent may show no other one.
//!
//! `cargo xtask scenarios --stacks` plays them: five programs of a runtime at the same time, before one agent, for more than three
//! minutes, because that is how long a verdict with certainty `high` takes.

mod cast;
mod line;
mod outcome;

use std::{
    env, fs,
    process::{self, Command},
    time::Duration,
};

use serde_json::Value;

use self::{
    cast::{Runtime, SITUATIONS, Situation},
    line::ShownLine,
    outcome::{Outcome, Sampled},
};
use crate::{
    agent::{Agent, closewait, finish},
    clock::boot_seconds,
    play::concerns,
    schema,
    stage::Stage,
};

/// Time for which the agent watches, seconds: the oldest sockets are then old enough for any verdict.
const WATCHED: u32 = 215;
/// Time for which clients come, seconds: on a busy machine, the stacks of the last program are read long after the agent's time.
const TRAFFIC: u32 = WATCHED + 150;
/// Number of reads of a process for the time of one.
const READS: usize = 5;

#[test]
#[ignore = "stacks"]
fn go() {
    play(&cast::GO);
}

#[test]
#[ignore = "stacks"]
fn python() {
    play(&cast::PYTHON);
}

#[test]
#[ignore = "stacks"]
fn asyncio() {
    play(&cast::ASYNCIO);
}

#[test]
#[ignore = "stacks"]
fn ruby() {
    play(&cast::RUBY);
}

#[test]
#[ignore = "stacks"]
fn c() {
    play(&cast::C);
}

#[test]
#[ignore = "stacks"]
fn java() {
    play(&cast::JAVA);
}

/// Plays all situations of a runtime, writes a row for each, and fails if a line or a sure verdict is wrong.
fn play(runtime: &Runtime) {
    let socket = env::temp_dir().join(format!("closewait-runtimes-{}-{}.sock", process::id(), runtime.name));
    let socket = socket.to_str().expect("a path in UTF-8");
    let mut arguments = vec!["--stuck-after", "2s", "--stacks", "auto", "--socket", socket];
    arguments.extend(runtime.agent_options.iter().copied().filter(|option| is_option_of_run(option)));
    let mut agent = Agent::start(&arguments);
    // One after the other: many interpreters that start at once keep a small machine busy for long.
    let stages: Vec<(&Situation, Stage)> =
        SITUATIONS.iter().map(|situation| (situation, runtime.stage(situation))).collect();
    agent.watch(Duration::from_secs(WATCHED.into()));
    let sampled: Vec<Sampled> = stages.iter().map(|(_, stage)| sample(runtime, stage)).collect();
    let ended = agent.stop();
    let mut problems = Vec::new();
    for ((situation, stage), sampled) in stages.iter().zip(sampled) {
        let of_stage = |event: &&Value| concerns(event, stage.ns.inode);
        let events: Vec<&Value> = ended.events.iter().filter(of_stage).collect();
        let outcome = Outcome::new(runtime, situation, &events, sampled);
        outcome.write_row();
        problems.extend(outcome.problems());
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Whether `run` has this option.
fn is_option_of_run(option: &str) -> bool {
    finish(&mut closewait(&["run", "--help"])).stdout.contains(option)
}

/// Reads the stacks of a program as a user does.
fn sample(runtime: &Runtime, stage: &Stage) -> Sampled {
    let pid = stage.first().to_string();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count();
    let command =
        || -> Command { closewait(&[&["stacks", &pid, "--output", "json"], runtime.stacks_options].concat()) };
    let mut seconds = Vec::new();
    let mut last = finish(&mut command());
    for _ in 0..READS {
        let began = boot_seconds();
        last = finish(&mut command());
        seconds.push(boot_seconds() - began);
    }
    seconds.sort_by(f64::total_cmp);
    let page: Option<Value> = (last.code == Some(0)).then(|| serde_json::from_str(&last.stdout).expect("JSON"));
    if let Some(page) = &page {
        schema::conforms("stacks", page);
    }
    Sampled {
        open,
        line: page.as_ref().and_then(ShownLine::of_page),
        idle: page.as_ref().map(line::idle_of_page),
        seconds: seconds[READS / 2],
        error: last.stderr,
    }
}
