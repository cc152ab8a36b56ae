//! Groups that grow without closing: a server that hangs until its descriptors run out, a client that leaks, a burst.

use std::{
    collections::VecDeque,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, BorrowedFd, IntoRawFd as _, RawFd},
    process, thread,
    time::Duration,
};

use rustix::{
    io::{read, write},
    net::accept,
    process::{Resource, Rlimit, setrlimit},
};
use serde_json::{Value, json};

use crate::{
    ability::{Ability, can},
    agent::{Agent, Ended, closewait, finish},
    clock::{boot_seconds, slowness, wall_seconds},
    listing::list_at,
    net::{Namespace, V4},
    schema,
    socket::check,
};

/// Time between two requests.
const EVERY: Duration = Duration::from_millis(50);
/// Time after which a client without an answer gives up.
const CLIENT_PATIENCE: Duration = Duration::from_millis(100);
/// Number of descriptors of the server.
const DESCRIPTORS: u64 = 600;
/// Time for which the server works.
const WORKS: Duration = Duration::from_secs(5);

/// Child that serves, and hangs from some moment on: it accepts, and does nothing else. It ends when it has no
/// descriptor left.
struct Server(libc::pid_t);

impl Server {
    fn start(ns: &Namespace, listener: &TcpListener, hangs_at: f64) -> Self {
        let raw = listener.as_raw_fd();
        let pid = ns.run(|| {
            // SAFETY: the child makes only system calls, on its own stack: it neither allocates nor takes a lock, and
            // ends by _exit.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: this is the child.
                unsafe { serve(raw, hangs_at) };
            }
            pid
        });
        check(pid, "fork");
        Self(pid)
    }

    /// Waits for its end. Returns the time of it.
    fn ended(&self) -> f64 {
        // SAFETY: takes numbers, and no place for the status.
        let pid = unsafe { libc::waitpid(self.0, std::ptr::null_mut(), 0) };
        assert_eq!(pid, self.0, "waitpid");
        boot_seconds()
    }
}

/// Serves forever. Makes only system calls.
///
/// # Safety
///
/// Only for a child of fork: closes every descriptor but one.
unsafe fn serve(listener: RawFd, hangs_at: f64) -> ! {
    let limit = Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
    // SAFETY: takes numbers only; nothing in this child uses its standard input.
    let duplicate = unsafe { libc::dup2(listener, 0) };
    if duplicate < 0 || setrlimit(Resource::Nofile, limit).is_err() {
        // SAFETY: ends this process without running anything of its parent's.
        unsafe { libc::_exit(1) };
    }
    for fd in 1..4096 {
        // SAFETY: takes a number only; nothing in this child uses the descriptor.
        unsafe { libc::close(fd) };
    }
    // SAFETY: the listener was duplicated to this descriptor, which stays open until this process ends.
    let listener = unsafe { BorrowedFd::borrow_raw(0) };
    loop {
        let Ok(stream) = accept(listener) else {
            // SAFETY: ends this process without running anything of its parent's.
            unsafe { libc::_exit(0) };
        };
        if boot_seconds() < hangs_at {
            let mut byte = [0_u8];
            // A client that has gone is closed like one that was answered.
            let _ = read(&stream, &mut byte).and_then(|_| write(&stream, &byte)).and_then(|_| read(&stream, &mut byte));
        } else {
            // Stays open.
            let _raw = stream.into_raw_fd();
        }
    }
}

/// Sends requests at a steady rate until `done`. Returns the time at which the first client gave up.
fn ask(address: SocketAddr, done: impl Fn() -> bool) -> f64 {
    let mut first = None;
    let mut waiting = VecDeque::<(f64, TcpStream)>::new();
    let began = boot_seconds();
    for number in 1_u32.. {
        if done() {
            break;
        }
        // A server without descriptors ends, and its listener with it.
        let Ok(mut client) = TcpStream::connect(address) else { break };
        client.write_all(b"?").expect("write");
        client.set_nonblocking(true).expect("O_NONBLOCK");
        waiting.push_back((boot_seconds(), client));
        while let Some((asked, client)) = waiting.front_mut() {
            let answered = client.read(&mut [0]).is_ok();
            if !answered && boot_seconds() - *asked < CLIENT_PATIENCE.as_secs_f64() {
                break;
            }
            if !answered {
                first.get_or_insert_with(boot_seconds);
            }
            waiting.pop_front();
        }
        let next = began + (EVERY * number).as_secs_f64();
        thread::sleep(Duration::from_secs_f64((next - boot_seconds()).max(0.0)));
    }
    first.expect("no client gave up")
}

fn of_port(event: &Value, kind: &str, port: u16) -> bool {
    event["event"] == kind && event["group"]["local_port"] == port
}

fn pileups(ended: &Ended) -> Vec<&Value> {
    ended.events.iter().filter(|event| event["event"] == "pileup").collect()
}

#[test]
fn a_server_that_hangs_is_reported_within_15_seconds_with_its_rate_and_when_its_descriptors_run_out() {
    let files = temporary("hang");
    let [socket, recording] = files.each_ref().map(String::as_str);
    let mut agent = Agent::start(&["--events", "all", "--socket", socket, "--record", recording]);
    let ns = Namespace::new();
    let listener = ns.listen(V4);
    let address = listener.local_addr().expect("the listener's address");
    let port = address.port();
    let hangs_at = boot_seconds() + WORKS.as_secs_f64();
    let server = Server::start(&ns, &listener, hangs_at);
    drop(listener);
    let (first, exhausted) = thread::scope(|scope| {
        let server = &server;
        let clients = scope.spawn(|| ns.run(|| ask(address, || false)));
        let end = scope.spawn(|| server.ended());
        // It serves, hangs, and has no descriptor left.
        while !end.is_finished() {
            agent.watch(Duration::from_millis(200));
        }
        (clients.join().expect("the clients"), end.join().expect("the server"))
    });
    let end = agent.wait_for("`pileup_end`", |event| of_port(event, "pileup_end", port));
    // Without types, the records do not say that a process ends.
    let how = if can(Ability::Types) { "process_ended" } else { "drained" };
    assert_eq!(end["how"], how, "{end}");
    let pileup = agent.wait_for("`pileup`", |event| of_port(event, "pileup", port));
    let report = lines(&["report", "--output", "json", "--socket", socket]).remove(0);
    let ended = agent.stop();
    ended.totals();
    check_resolved(&report, &ended, port);
    // The same input gives the same courses.
    let replayed = lines(&["report", "--output", "json", recording]).remove(0);
    assert_eq!(without_times(&replayed["resolved"]), without_times(&report["resolved"]));
    fs::remove_file(recording).expect("the recording");
    let first_ones: Vec<_> = pileups(&ended).into_iter().filter(|event| event["again"] == false).collect();
    assert_eq!(first_ones.len(), 1, "{first_ones:?}");

    let to_boot = boot_seconds() - wall_seconds();
    let told = schema::wall_seconds(&pileup) + to_boot;
    assert!(told - first <= 15.0 * f64::from(slowness()), "{} s after the first", told - first);
    let slope = pileup["slope_per_second"].as_f64().expect("a slope");
    assert!((18.0..=22.0).contains(&slope), "{pileup}");
    assert_eq!((&pileup["group"]["role"], &pileup["stuck_share"]), (&"server".into(), &1.0.into()), "{pileup}");
    if can(Ability::Files) {
        assert_eq!(pileup["owners"][0]["pid"], server.0, "{pileup}");
    }
    let exhaustion = &pileup["exhaustion"];
    assert_eq!((&exhaustion["limit"], &exhaustion["most"]), (&"descriptors".into(), &DESCRIPTORS.into()), "{pileup}");
    let (forecast, real) = (pileup["exhaustion_seconds"].as_f64().expect("a forecast"), exhausted - told);
    assert!((forecast - real).abs() <= real * 0.2, "{forecast} s forecast, {real} s real: {pileup}");
    // Where the program's other connections cannot be read, its threads decide nothing in the first 15 s.
    let at_first = if can(Ability::Legs) { "hung" } else { "unknown" };
    assert_eq!(pileup["verdict"]["class"], at_first, "{pileup}");
    let last = pileups(&ended).into_iter().rfind(|event| of_port(event, "pileup", port)).expect("an event");
    assert_eq!(last["verdict"]["class"], "hung", "{last}");
}

/// Lets a client leak ten connections a second, which the server closes, until the incident is open. Returns the connections, and
/// the event.
pub(crate) fn leak(
    ns: &Namespace,
    listener: &TcpListener,
    agent: &mut Agent,
    is_open: impl Fn(&Value) -> bool,
) -> (Vec<TcpStream>, Value) {
    let address = listener.local_addr().expect("the listener's address");
    let mut leaked = Vec::new();
    for _ in 0..200 {
        leaked.push(ns.connect(address));
        let (server, _address) = listener.accept().expect("accept");
        drop(server);
        agent.watch(Duration::from_millis(100));
        if agent.events.iter().any(&is_open) {
            break;
        }
    }
    let opened = agent.wait_for("`pileup`", is_open);
    (leaked, opened)
}

#[test]
fn a_client_that_leaks_piles_up_towards_its_server_and_ends_when_it_closes() {
    let files = temporary("leak");
    let [socket, recording] = files.each_ref().map(String::as_str);
    let mut agent = Agent::start(&["--stuck-after", "1s", "--socket", socket, "--record", recording]);
    let ns = Namespace::new();
    let listener = ns.listen(V4);
    let address = listener.local_addr().expect("the listener's address");
    let is_ours = |event: &Value, kind: &str| event["event"] == kind && is_group(event, address.port());
    let began = boot_seconds();
    let (leaked, pileup) = leak(&ns, &listener, &mut agent, |event| is_ours(event, "pileup"));
    // At most ten a second, and fewer where a connection takes long; not at the same rate all the time.
    let rates = leaked.len() as f64 / (boot_seconds() - began) * 0.75..=11.0;
    let slope = pileup["slope_per_second"].as_f64().expect("a slope");
    assert!(rates.contains(&slope), "{rates:?}: {pileup}");
    let group = &pileup["group"];
    assert_eq!((&group["role"], &group["local_port"]), (&Value::Null, &Value::Null), "{pileup}");
    // All sockets that entered count for the cgroup that the refresh finds.
    let entered = pileup["entered_per_second"].as_f64().expect("a rate");
    assert!(rates.contains(&entered), "{rates:?}: {pileup}");
    let listed = list_at(socket).into_iter().find(|row| row["socket"]["remote"]["port"] == address.port());
    assert_eq!(listed.map(|row| row["socket"]["cgroup"].clone()), Some(group["cgroup"].clone()), "{pileup}");

    let report = lines(&["report", "--output", "json", "--socket", socket]);
    let group = report[0]["groups"].as_array().expect("a list").iter().find(|group| is_group(group, address.port()));
    let group = group.unwrap_or_else(|| panic!("{report:?}"));
    // Without the times of their opening, a pool whose idle connections the server closed looks the same.
    let class = if can(Ability::Openers) { "leak" } else { "unknown" };
    assert_eq!(group["verdict"]["class"], class, "{group}");
    let since = schema::wall_seconds(&json!({ "time": group["piles_up_since"] }));
    assert!((since - schema::wall_seconds(&pileup)).abs() < 0.01, "{group}");
    assert!(group["count"].as_u64() >= pileup["count"].as_u64(), "{group}");
    let milestones = group["course"]["milestones"].as_array().expect("milestones");
    let detected = milestones.iter().find(|one| one["kind"] == "detected").expect("the first report");
    assert!(is_same_time(detected, &pileup) && detected["count"] == pileup["count"], "{group}");
    for format in ["text", "md"] {
        let finished = finish(&mut closewait(&["report", "--output", format, "--socket", socket]));
        assert!(finished.code == Some(0) && finished.stdout.contains("incident detected"), "{finished:?}");
    }

    drop(leaked);
    agent.wait_for("`pileup_end`", |event| is_ours(event, "pileup_end"));
    agent.stop().totals();
    // A report of a recording includes resolved incidents.
    let report = lines(&["report", "--output", "json", recording]);
    let [report] = report.as_slice() else { panic!("one object: {report:?}") };
    let resolved = report["resolved"].as_array().expect("a list").iter().find(|end| is_group(end, address.port()));
    assert_eq!(resolved.map(|end| &end["id"]), Some(&pileup["id"]), "{report:?}");
    fs::remove_file(recording).expect("the recording");
}

/// Checks the course of the resolved incident of a port in a report: its milestones are the events of the stream.
fn check_resolved(report: &Value, ended: &Ended, port: u16) {
    let resolved = report["resolved"].as_array().expect("a list");
    let resolved = resolved.iter().find(|end| end["group"]["local_port"] == port);
    let resolved = resolved.unwrap_or_else(|| panic!("{report}"));
    let milestones = resolved["course"]["milestones"].as_array().expect("milestones");
    let of_kind = |kind: &str| milestones.iter().filter(|one| one["kind"] == kind).collect::<Vec<_>>();
    let events: Vec<&Value> = pileups(ended).into_iter().filter(|event| of_port(event, "pileup", port)).collect();
    let opened = events.iter().find(|event| event["state"] == "opened").expect("the first report");
    for kind in ["last_closed", "first_stuck", "detected", "resolved"] {
        assert_eq!(of_kind(kind).len(), 1, "{kind}: {resolved}");
    }
    assert!(is_same_time(of_kind("detected")[0], opened), "{resolved}");
    let doubled = of_kind("doubled");
    let is_told = |milestone: &Value| events.iter().any(|event| is_same_time(milestone, event));
    assert!(!doubled.is_empty() && doubled.iter().all(|milestone| is_told(milestone)), "{doubled:?}: {events:?}");
    let ordered: Vec<&str> = milestones.iter().map(|one| one["time"].as_str().expect("a time")).collect();
    assert!(ordered.is_sorted(), "{ordered:?}");
    let points = resolved["course"]["points"].as_array().expect("points");
    let most = points.iter().filter_map(|point| point["count"].as_u64()).max();
    assert!(most > Some(DESCRIPTORS / 2), "{resolved}");
    assert_eq!(points[0]["count"], 0, "the chart begins before the incident: {resolved}");
    assert!(points.iter().any(|point| point["fds_open"].as_u64() > Some(0)) || !can(Ability::Files), "{resolved}");
}

/// Whether two objects have the same time. Each answer reads both clocks again, so the wall clock differs by less than 1 ms.
fn is_same_time(one: &Value, other: &Value) -> bool {
    (schema::wall_seconds(one) - schema::wall_seconds(other)).abs() < 1e-3
}

/// Returns a value without texts that are times.
fn without_times(value: &Value) -> Value {
    match value {
        Value::Array(values) => values.iter().map(without_times).collect(),
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), without_times(value))).collect(),
        Value::String(text) if text.ends_with('Z') && text.contains('T') => Value::Null,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Returns paths for a socket and a recording.
fn temporary(name: &str) -> [String; 2] {
    ["socket", "recording"].map(|kind| {
        std::env::temp_dir().join(format!("closewait-pileup-{name}-{}.{kind}", process::id())).display().to_string()
    })
}

/// Returns the output of a command, as JSON.
fn lines(arguments: &[&str]) -> Vec<Value> {
    let finished = finish(&mut closewait(arguments));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let lines: Vec<_> = finished.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    lines.iter().for_each(schema::check_reported);
    lines
}

fn is_group(group: &Value, port: u16) -> bool {
    group["group"]["remote"]["port"] == port
}

#[test]
fn a_burst_that_drains_is_no_pileup() {
    let mut agent = Agent::start(&["--stuck-after", "10s"]);
    let ns = Namespace::new();
    let listener = ns.listen(V4);
    let address = listener.local_addr().expect("the listener's address");
    let clients: Vec<_> = (0..100).map(|_| ns.connect(address)).collect();
    drop(clients);
    for _ in 0..100 {
        drop(listener.accept().expect("accept"));
        agent.watch(Duration::from_millis(80));
    }
    agent.watch(Duration::from_secs(3));
    let ended = agent.stop();
    assert_eq!(pileups(&ended), Vec::<&Value>::new());
    assert!(ended.totals()["left"].as_u64() >= Some(100));
}
