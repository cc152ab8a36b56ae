//! Player of a scenario while the agent watches.

use std::{
    collections::BTreeMap,
    env,
    panic::{self, AssertUnwindSafe},
    process,
    time::Duration,
};

use serde_json::Value;

use crate::{
    agent::{Agent, closewait, finish},
    check,
    clock::boot_seconds,
    net::Id,
    proc::{self, Ends, Holders},
    recording,
    row::{self, Outcome},
    scenario::{Scenario, Until},
    schema,
    stage::Stage,
};

/// Arguments of `closewait run` beside the output format.
const RUN: &[&str] = &["--stuck-after", "2s"];
/// Value of `--stuck-after` in [`RUN`], seconds.
const STUCK_AFTER: f64 = 2.0;
/// Arguments of `closewait list` without a running agent.
const LIST: &[&str] = &["list", "--alone", "--output", "json"];
/// Maximum time for sockets to exit that are expected to, seconds.
const LEAVING: f64 = 90.0;
/// Time before the end at which the sockets are counted, seconds: those of clients that are served have exited by then.
const PASSING: f64 = 2.0;

/// Output of the agent about a scenario's sockets.
pub(crate) struct Seen {
    /// Events in order, without those of other namespaces.
    pub(crate) events: Vec<Value>,
    pub(crate) listed: BTreeMap<Id, Listed>,
    /// Sockets of /proc in CLOSE_WAIT before and after `list`.
    pub(crate) waiting: [Vec<Ends>; 2],
}

/// Output of `list` about a socket.
pub(crate) struct Listed {
    pub(crate) object: Value,
    /// Owners in /proc before and after `list`.
    pub(crate) holders: [Holders; 2],
}

/// Starts an agent outside, lets `act` start programs and clients in a namespace, watches, and compares.
pub(crate) fn play<T>(scenario: &Scenario, act: impl FnOnce(&mut Stage) -> T) {
    play_with(scenario, &[], act);
}

/// The same with further arguments of the agent.
pub(crate) fn play_with<T>(scenario: &Scenario, arguments: &[&str], act: impl FnOnce(&mut Stage) -> T) {
    let watched = panic::catch_unwind(AssertUnwindSafe(|| watch(scenario, arguments, act)));
    let seen = watched.unwrap_or_else(|cause| {
        let failed = || Outcome { run: "failed".to_owned(), problems: vec![String::new()], ..Outcome::default() };
        scenario.parts.iter().for_each(|part| row::write(scenario, part, &failed()));
        panic::resume_unwind(cause)
    });
    let whole = check::whole(scenario, &seen);
    let mut problems = whole.clone();
    for part in scenario.parts {
        let mut outcome = check::part(scenario, part, &seen);
        // No row is right if something is wrong with the whole.
        let of_part =
            outcome.problems.iter().map(|problem| format!("{}: {problem}", part.situation)).collect::<Vec<_>>();
        outcome.problems.extend(whole.iter().cloned());
        row::write(scenario, part, &outcome);
        problems.extend(of_part);
    }
    let events: Vec<String> = seen.events.iter().rev().take(5).rev().map(Value::to_string).collect();
    let (events, problems, count) = (events.join("\n"), problems.join("\n"), problems.len());
    assert!(count == 0, "{}:\n{problems}\nthe last events:\n{events}", scenario.program);
}

fn watch<T>(scenario: &Scenario, arguments: &[&str], act: impl FnOnce(&mut Stage) -> T) -> Seen {
    // A separate path, because other agents may run on the machine.
    let socket = env::temp_dir().join(format!("closewait-scenarios-{}.sock", process::id()));
    let mut arguments: Vec<String> = RUN.iter().chain(arguments).map(|argument| (*argument).to_owned()).collect();
    arguments.extend(["--socket".to_owned(), socket.to_str().expect("a path in UTF-8").to_owned()]);
    let record = recording::file(scenario);
    if let Some(file) = &record {
        arguments.extend(["--record".to_owned(), file.to_str().expect("a path in UTF-8").to_owned()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut stage = Stage::new(scenario.name);
    let mut agent = Agent::start(&arguments);
    // Clients that stay connected do so until the end.
    let _clients = act(&mut stage);
    let (listed, waiting) = match scenario.until {
        Until::Stuck(multiple) => {
            wait_until_stuck(&mut agent, &stage, f64::from(multiple) * STUCK_AFTER);
            list(&stage)
        }
        Until::Young => {
            wait_until_stuck(&mut agent, &stage, STUCK_AFTER);
            list(&stage)
        }
        Until::Left => {
            agent.watch(Duration::from_secs_f64(STUCK_AFTER * 1.1));
            let found = list(&stage);
            wait_until_left(&mut agent, &stage);
            found
        }
    };
    let ended = agent.stop();
    if let Some(file) = &record {
        recording::keep_only(file, stage.ns.inode);
    }
    let events = ended.events.into_iter().filter(|event| concerns(event, stage.ns.inode)).collect();
    Seen { events, listed, waiting }
}

fn wait_until_stuck(agent: &mut Agent, stage: &Stage, age: f64) {
    let mut missing = proc::close_wait(&stage.ns);
    agent.watch(Duration::from_secs_f64((age - PASSING).max(PASSING / 2.0)));
    // The agent reports no socket that left before it was stuck.
    missing = &missing & &proc::close_wait(&stage.ns);
    assert!(!missing.is_empty(), "no socket is in CLOSE_WAIT");
    agent.wait_for(&format!("`stuck` of every socket at {age} s"), |event| {
        let old = event["dwell_seconds"].as_f64().is_some_and(|dwell| dwell >= age);
        let is_done = event["event"] == "leave" || (event["event"] == "stuck" && old);
        if let Some(id) = Id::of_event(event).filter(|id| is_done && id.netns == Some(stage.ns.inode)) {
            missing.remove(&(id.local, id.remote));
        }
        missing.is_empty()
    });
}

fn wait_until_left(agent: &mut Agent, stage: &Stage) {
    let end = boot_seconds() + LEAVING;
    while !proc::close_wait(&stage.ns).is_empty() {
        assert!(boot_seconds() < end, "these do not leave: {:?}", proc::close_wait(&stage.ns));
        agent.watch(Duration::from_millis(100));
    }
    agent.watch(Duration::from_millis(500));
}

/// Runs `list` between two scans of /proc.
fn list(stage: &Stage) -> (BTreeMap<Id, Listed>, [Vec<Ends>; 2]) {
    let look = || (proc::close_wait(&stage.ns).into_iter().collect(), proc::holders());
    let (waiting_before, holders_before) = look();
    let output = finish(&mut closewait(LIST));
    let (waiting_after, holders_after) = look();
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let mut listed = BTreeMap::new();
    for line in output.stdout.lines() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON: {error}: {line:?}"));
        schema::check_listed(&object);
        if object["socket"]["netns"] == stage.ns.inode {
            let id = Id::of_event(&object).expect("two ends");
            let of_socket = |holders: &BTreeMap<u64, Holders>| {
                let inode = object["socket"]["inode"].as_u64();
                inode.and_then(|inode| holders.get(&inode).cloned()).unwrap_or_default()
            };
            let holders = [&holders_before, &holders_after].map(of_socket);
            assert!(listed.insert(id, Listed { object, holders }).is_none(), "a second time: {line}");
        }
    }
    (listed, [waiting_before, waiting_after])
}

/// Whether the event has the namespace anywhere.
pub(crate) fn concerns(event: &Value, netns: u64) -> bool {
    match event {
        Value::Object(members) => {
            members.iter().any(|(name, value)| (name == "netns" && *value == netns) || concerns(value, netns))
        }
        Value::Array(elements) => elements.iter().any(|element| concerns(element, netns)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
