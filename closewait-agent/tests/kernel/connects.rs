//! `run --stacks auto`: the code that opens the connections of an incident.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    process::{self, Command},
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

/// Time between two connections.
const EVERY: Duration = Duration::from_millis(200);
/// Maximum number of connections.
const MAX_CONNECTIONS: usize = 200;

/// Function that the agent has to name.
#[inline(never)]
fn open_backend(address: SocketAddr) -> TcpStream {
    let connected = TcpStream::connect(address);
    // Code behind the call, so that it is no jump.
    connected.expect("connect")
}

/// Function that calls the one that connects.
#[inline(never)]
fn fetch(sockets: &mut Vec<TcpStream>, address: SocketAddr) {
    sockets.push(open_backend(address));
}

/// Connects to a peer that closes, until the agent reports an incident that `is_enough`.
fn until(agent: &mut Agent, is_enough: impl Fn(&Value) -> bool) -> Value {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    // Another process connects to the same port, and closes.
    let script = format!("while :; do : 3<>/dev/tcp/127.0.0.1/{}; sleep 0.1; done", address.port());
    let _unwatched = Running::spawn(Command::new("bash").args(["-c", &script]));
    // It ends with this process.
    thread::spawn(move || listener.incoming().for_each(drop));
    let is_ours = |event: &Value| {
        event["event"] == "pileup" && event["group"]["remote"]["port"] == address.port() && is_enough(event)
    };
    let mut sockets = Vec::new();
    while !agent.events.iter().any(&is_ours) {
        assert!(sockets.len() < MAX_CONNECTIONS, "no such incident after {MAX_CONNECTIONS} connections");
        fetch(&mut sockets, address);
        agent.watch(EVERY);
    }
    let event = agent.wait_for("the incident", is_ours);
    schema::check_event(&event);
    event
}

/// Returns the functions of a stack, those of this module without their paths.
fn functions(stack: &Value) -> Vec<&str> {
    let frames = stack["frames"].as_array().expect("frames").iter();
    frames.filter_map(|frame| frame["function"].as_str()?.rsplit("connects::").next()).collect()
}

/// Checks that an incident names the functions that opened its connections.
fn assert_opened_in(event: &Value) {
    let opened = &event["evidence"]["opened_in"];
    let stacks = opened["stacks"].as_array().expect("stacks");
    let sampled = opened["sampled"].as_u64().expect("a number");
    assert!(sampled >= 1 && sampled <= opened["connects"].as_u64().expect("a number"), "{opened}");
    let stack = &stacks[0];
    let functions = functions(stack);
    let at = functions.iter().position(|name| *name == "open_backend").unwrap_or_else(|| panic!("{functions:?}"));
    assert_eq!(functions.get(at + 1), Some(&"fetch"), "{functions:?}");
    assert!(functions.iter().any(|name| name.contains("opened") || name.contains("until")), "{functions:?}");
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
    let event = until(&mut agent, |event| event["evidence"]["opened_in"] != Value::Null);
    assert_opened_in(&event);
    agent.stop().totals();
    let all = connects(recording.facts());
    assert!(!all.is_empty() && all.iter().all(|of| of.pid == process::id()), "another process: {all:?}");
    let most = all.iter().map(|of| of.samples.len()).max();
    assert!(most <= Some(4), "no more than the limit: {most:?}");

    let replay = finish(&mut closewait(&["replay", "--output", "json", recording.path()]));
    assert_eq!(replay.code, Some(0), "{}", replay.stderr);
    let mut replayed = replay.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let opened = |event: &Value| event["evidence"]["opened_in"].clone();
    assert!(replayed.any(|again| opened(&again) == opened(&event)), "{}", replay.stdout);
    let text = finish(&mut closewait(&["replay", recording.path()]));
    assert!(text.stdout.contains("opened in ") && text.stdout.contains("open_backend"), "{}", text.stdout);
}

#[test]
fn the_classic_tracepoint_samples_connections_too() {
    if !can(Ability::UserStacks) {
        return;
    }
    let mut agent = Agent::start(&["--stuck-after", "1s", "--stacks", "auto", "--hook", "classic"]);
    let event = until(&mut agent, |event| event["evidence"]["opened_in"] != Value::Null);
    assert_opened_in(&event);
    agent.stop().totals();
}

#[test]
fn without_stacks_no_connection_is_sampled() {
    let recording = Recording::new("no-connects");
    let mut agent = Agent::start(&["--stuck-after", "1s", "--record", recording.path()]);
    let event = until(&mut agent, |_any| true);
    assert_eq!(event["evidence"].get("opened_in"), Some(&Value::Null), "{event}");
    agent.stop().totals();
    assert!(connects(recording.facts()).is_empty());
}
