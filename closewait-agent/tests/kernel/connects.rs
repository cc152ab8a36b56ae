//! `run --stacks auto`: the code that opens the connections of an incident.

use std::{
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
    time::Duration,
};

use closewait_engine::{model::InspectionFact, stacks::ConnectSamples};
use serde_json::Value;

use crate::{
    ability::{Ability, can},
    agent::{Agent, Running, closewait, finish},
    confinement::LASTING,
    progress::Recording,
    schema,
    setup::{self, PublicBinary},
};

/// Time between two checks.
const EVERY: Duration = Duration::from_millis(200);
/// Maximum number of checks.
const MAX_TRIES: usize = 300;

/// Has a shell connect to a peer that closes, until the agent reports an incident that `is_enough`. Returns the event and the shell's
/// process id.
fn until(agent: &mut Agent, is_enough: impl Fn(&Value) -> bool) -> (Value, u32) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    let script = format!("while :; do exec {{fd}}<>/dev/tcp/127.0.0.1/{}; sleep 0.2; done", address.port());
    let shell = Running::spawn(Command::new("bash").args(["-c", &script]));
    // It ends with this process.
    thread::spawn(move || listener.incoming().for_each(drop));
    let is_ours = |event: &Value| {
        event["event"] == "pileup" && event["group"]["remote"]["port"] == address.port() && is_enough(event)
    };
    let mut tries = 0;
    while !agent.events.iter().any(&is_ours) {
        assert!(tries < MAX_TRIES, "no such incident");
        tries += 1;
        // A process without stuck sockets connects to the same port.
        drop(TcpStream::connect(address).expect("connect"));
        agent.watch(EVERY);
    }
    let event = agent.wait_for("the incident", is_ours);
    schema::check_event(&event);
    (event, shell.pid())
}

/// Checks that an incident names the functions of the shell that opened its connections.
fn assert_opened_in(event: &Value) {
    let opened = &event["evidence"]["opened_in"];
    let stacks = opened["stacks"].as_array().expect("stacks");
    let sampled = opened["sampled"].as_u64().expect("a number");
    assert!(sampled >= 1 && sampled <= opened["connects"].as_u64().expect("a number"), "{opened}");
    let frames = stacks[0]["frames"].as_array().expect("frames").iter();
    let functions: Vec<&str> = frames.filter_map(|frame| frame["function"].as_str()).collect();
    let place = |wanted: &str| functions.iter().position(|name| *name == wanted);
    let (open, redirect) = (place("netopen"), place("do_redirections"));
    assert!(open.is_some() && open < redirect && redirect < place("execute_command"), "{functions:?}");
}

fn connects(facts: Vec<InspectionFact>) -> Vec<ConnectSamples> {
    let of = |fact| if let InspectionFact::Connects(samples) = fact { Some(*samples) } else { None };
    facts.into_iter().filter_map(of).collect()
}

#[test]
fn an_incident_names_the_code_that_opens_its_connections() {
    if !can(Ability::UserStacks) {
        return;
    }
    let recording = Recording::new("connects");
    // The four capabilities of a running agent are enough, for a program of another user.
    let binary = PublicBinary::new();
    let mut command = Command::new(&binary.path);
    command.args(["run", "--output", "json", "--stuck-after", "1s", "--stacks", "auto", "--record", recording.path()]);
    setup::become_nobody(&mut command, &LASTING);
    let mut agent = Agent::spawn(&mut command);
    let (event, shell) = until(&mut agent, |event| event["evidence"]["opened_in"] != Value::Null);
    assert_opened_in(&event);
    agent.stop().totals();
    let all = connects(recording.facts());
    assert!(!all.is_empty() && all.iter().all(|of| of.pid == shell), "another process: {all:?}");
    let most = all.iter().map(|of| of.samples.len()).max();
    assert!(most <= Some(4), "no more than the limit: {most:?}");

    let replay = finish(&mut closewait(&["replay", "--output", "json", recording.path()]));
    assert_eq!(replay.code, Some(0), "{}", replay.stderr);
    let mut replayed = replay.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let opened = |event: &Value| event["evidence"]["opened_in"].clone();
    assert!(replayed.any(|again| opened(&again) == opened(&event)), "{}", replay.stdout);
    let report = finish(&mut closewait(&["report", recording.path()]));
    // Lines are wrapped.
    let words: Vec<&str> = report.stdout.split_whitespace().collect();
    let text = words.join(" ");
    assert!(text.contains("opened in netopen (bash) < do_redirections (bash)"), "{}", report.stdout);
}

#[test]
fn the_classic_tracepoint_samples_connections_too() {
    if !can(Ability::UserStacks) {
        return;
    }
    let mut agent = Agent::start(&["--stuck-after", "1s", "--stacks", "auto", "--hook", "classic"]);
    let (event, _shell) = until(&mut agent, |event| event["evidence"]["opened_in"] != Value::Null);
    assert_opened_in(&event);
    agent.stop().totals();
}

#[test]
fn without_stacks_no_connection_is_sampled() {
    let recording = Recording::new("no-connects");
    let mut agent = Agent::start(&["--stuck-after", "1s", "--record", recording.path()]);
    let (event, _shell) = until(&mut agent, |_any| true);
    assert_eq!(event["evidence"].get("opened_in"), Some(&Value::Null), "{event}");
    agent.stop().totals();
    assert!(connects(recording.facts()).is_empty());
}
