//! `closewait tail`: the events of a running agent.

use std::{
    ffi::c_int,
    io::{BufRead as _, BufReader},
    sync::mpsc::{self, Receiver},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;

use crate::{
    agent::{Agent, Running, closewait, finish, read_in_background},
    clock::{boot_seconds, patience, slowness},
    control::Folder,
    listing::list_at,
    many::ten_thousand,
    net::{Id, Namespace, V4},
    schema,
    socket::check,
};

/// Running `closewait tail --output json`.
struct Tail {
    child: Running,
    lines: Receiver<String>,
    stderr: JoinHandle<String>,
}

impl Tail {
    fn start(socket: &str, arguments: &[&str]) -> Self {
        let mut command = closewait(&["tail", "--output", "json", "--socket", socket]);
        let mut child = Running::spawn(command.args(arguments));
        let stdout = BufReader::new(child.0.stdout.take().expect("stdout is a pipe"));
        let stderr = read_in_background(child.0.stderr.take().expect("stderr is a pipe"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, stderr }
    }

    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(patience()).expect("a line");
        let event: Value = serde_json::from_str(&line).expect("JSON");
        if event["event"] != "missed" {
            schema::check_event(&event);
        }
        event
    }

    /// Returns all events up to the first for which `wanted` is true.
    fn until(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            events.push(self.next());
            if events.last().is_some_and(&wanted) {
                return events;
            }
        }
    }

    fn signal(&self, signal: c_int) {
        // SAFETY: takes numbers only; the child has not been waited for, so the number is still its own.
        check(unsafe { libc::kill(self.child.pid() as libc::pid_t, signal) }, "kill");
    }

    /// Waits for the end. Returns the exit code and standard error.
    fn join(mut self) -> (Option<i32>, String) {
        (self.child.wait().code(), self.stderr.join().expect("stderr"))
    }
}

fn is(kind: &'static str, id: &Id) -> impl Fn(&Value) -> bool {
    move |event| event["event"] == kind && id.is_in(event)
}

#[test]
fn past_events_come_first_then_new_ones_until_the_agent_ends() {
    let folder = Folder::new("tail");
    let path = folder.socket();
    let mut agent = Agent::start(&["--stuck-after", "100ms", "--socket", &path]);
    let ns = Namespace::new();
    let (past, new) = (ns.pair(V4), ns.pair(V4));
    past.fin();
    let stuck = agent.wait_for_socket("stuck", &past.id);

    let tail = Tail::start(&path, &["--since", "1h"]);
    let events = tail.until(is("stuck", &past.id));
    assert_eq!(events[0]["event"], "start");
    assert_eq!(events.last(), Some(&stuck), "the same object as in the output of the agent");
    let later = Tail::start(&path, &[]);
    let incidents = Tail::start(&path, &["--since", "1h", "--events", "incidents"]);
    assert_eq!(incidents.next()["event"], "start");
    // A client that follows gets only new events: it has to follow before they come.
    thread::sleep(Duration::from_millis(500) * slowness());
    new.fin();
    let stuck = agent.wait_for_socket("stuck", &new.id);
    assert_eq!(tail.until(is("stuck", &new.id)).last(), Some(&stuck));
    let events = later.until(is("stuck", &new.id));
    assert!(
        !events
            .iter()
            .any(|event| event["event"] == "start"
                || past.id.is_in(event) && event["dwell_seconds"].as_f64() < Some(0.2))
    );

    let text = closewait(&["tail", "--socket", &path, "--since", "1h", "--events", "stuck"]);
    let text = thread::spawn(move || finish(&mut { text }));
    let interrupted = Tail::start(&path, &["--since", "1h"]);
    interrupted.next();
    interrupted.signal(libc::SIGINT);
    assert_eq!(interrupted.join().0, Some(0));
    thread::sleep(Duration::from_millis(500) * slowness());
    agent.stop().totals();
    for tail in [tail, later, incidents] {
        assert_eq!(
            tail.until(|event| event["event"] == "stop").iter().filter(|event| event["event"] == "enter").count(),
            0
        );
        let (code, stderr) = tail.join();
        assert!(code == Some(0) && stderr.contains("the agent has ended"), "{code:?} {stderr}");
    }
    let text = text.join().expect("the command");
    assert_eq!(text.code, Some(0), "{}", text.stderr);
    assert!(text.stdout.contains(" stuck ") && text.stdout.contains(" stop "), "{}", text.stdout);
}

#[test]
fn a_stopped_reader_misses_events_and_gets_their_number_and_holds_up_nobody() {
    let folder = Folder::new("slow-tail");
    let path = folder.socket();
    let agent = Agent::start(&["--events", "all", "--socket", &path]);
    let slow = Tail::start(&path, &["--since", "1h", "--events", "all"]);
    assert_eq!(slow.next()["event"], "start");
    let other = Tail::start(&path, &["--since", "1h", "--events", "all"]);
    assert_eq!(other.next()["event"], "start");
    slow.signal(libc::SIGSTOP);

    let ns = Namespace::new();
    let sockets = ten_thousand(&ns);
    let last = sockets.last().expect("a socket").id.clone();
    let began = boot_seconds();
    list_at(&path);
    let took = boot_seconds() - began;
    assert!(took < 4.0 * f64::from(slowness()), "another client got its answer after {took} s");
    drop(sockets);
    let seen = other.until(is("leave", &last));
    assert!(seen.len() > 10_000, "{}", seen.len());

    slow.signal(libc::SIGCONT);
    // Events after the stop, which come without a gap.
    let marker = ns.pair(V4);
    marker.fin();
    let events = slow.until(is("enter", &marker.id));
    let missed: u64 =
        events.iter().filter_map(|event| event["count"].as_u64().filter(|_| event["event"] == "missed")).sum();
    assert!(missed > 1000, "{missed}");
    for around in events.windows(3) {
        let [before, missed, after] = around else { unreachable!() };
        if missed["event"] == "missed" {
            let gap = after["seq"].as_u64().unwrap() - before["seq"].as_u64().unwrap() - 1;
            assert_eq!(missed["count"], gap, "{missed}");
        }
    }
    let ended = agent.stop();
    let order = ended.events.iter().position(is("enter", &marker.id)).expect("the event");
    let got = events.len() - events.iter().filter(|event| event["event"] == "missed").count();
    assert_eq!(1 + got as u64 + missed, order as u64 + 1, "every event came or was counted");
    ended.totals();
}

#[test]
fn without_an_agent_there_is_nothing_to_follow() {
    let folder = Folder::new("no-tail");
    let finished = finish(&mut closewait(&["tail", "--socket", &folder.socket()]));
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.stderr.contains("no agent answers at") && finished.stderr.contains("hint: "),
        "{}",
        finished.stderr
    );
}

#[test]
fn an_agent_that_is_killed_is_an_error_and_only_so_many_clients_follow() {
    let folder = Folder::new("cut-tail");
    let path = folder.socket();
    let agent = Agent::start(&["--socket", &path]);
    let followers: Vec<Tail> = (0..16).map(|_| Tail::start(&path, &["--since", "1h"])).collect();
    followers.iter().for_each(|tail| assert_eq!(tail.next()["event"], "start"));
    let (code, stderr) = Tail::start(&path, &[]).join();
    assert!(code == Some(1) && stderr.contains("16 clients follow"), "{code:?} {stderr}");
    // Others are still served.
    list_at(&path);
    agent.signal(libc::SIGKILL);
    for tail in followers {
        let (code, stderr) = tail.join();
        assert!(code == Some(1) && stderr.contains("the stream ended early"), "{code:?} {stderr}");
    }
    drop(agent);
}
