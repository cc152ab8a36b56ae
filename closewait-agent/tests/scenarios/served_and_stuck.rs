//! Servers with a part that is stuck: some threads, one process, or all of it, stopped by a signal.

use crate::{
    play::play,
    scenario::{ANY, CAREFUL, FIRM, Owner, Part, Scenario, Until},
    stage::{Clients, Stage},
};

/// Clients that get their answers all the time.
const SERVED: Clients = Clients { port: 8080, path: "/", count: 250, every: 0.1, patience: 5.0 };
/// Clients that wait for a report for a second.
const REPORTS: Clients = Clients { port: 8080, path: "/report", count: 6, every: 0.3, patience: 1.0 };

/// Expectation for sockets that the program closes in the end.
const SLOW: Part = Part {
    count: 6..=6,
    unread: 0..=1,
    expected: &["transient"],
    certainties: ANY,
    owner: Owner::Changing,
    ..Part::DEFAULT
};

const A_PATH: Scenario = Scenario {
    name: "reports",
    program: "Python server that closes first",
    healthy: false,
    until: Until::Stuck(8),
    parts: &[Part {
        situation: "six threads wait for a lock that is never released, the others serve their clients",
        count: 6..=6,
        // Nothing shows whether the six hang or are slow; the server as a whole does not hang.
        expected: &["hung", "unknown"],
        certainties: CAREFUL,
        ..Part::DEFAULT
    }],
};

#[test]
fn some_threads_are_stuck_and_others_serve() {
    play(&A_PATH, |stage| some_reports(stage, "stuck"));
}

const A_SLOW_PATH: Scenario = Scenario {
    name: "reports-slow",
    program: "Python server that closes first",
    healthy: true,
    until: Until::Left,
    parts: &[Part { situation: "six reports take 20 s, clients give up after 1 s; the others are served", ..SLOW }],
};

#[test]
#[ignore = "long"]
fn some_threads_are_slow_and_others_serve() {
    play(&A_SLOW_PATH, |stage| some_reports(stage, "20"));
}

const A_WORKER: Scenario = Scenario {
    name: "prefork",
    program: "Python server, 3 worker processes",
    healthy: false,
    until: Until::Stuck(8),
    parts: &[Part {
        situation: "all threads of one process wait for a lock, the other processes serve",
        count: 8..=8,
        expected: &["hung"],
        certainties: CAREFUL,
        mentions: Some("worker-2["),
        owner: Owner::One("worker-2"),
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn one_worker_process_is_stuck() {
    play(&A_WORKER, |stage| workers(stage, "stuck"));
}

const A_SLOW_WORKER: Scenario = Scenario {
    name: "prefork-slow",
    program: "Python server, 3 worker processes",
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "the requests of one process take 20 s, the other processes serve",
        count: 8..=16,
        ..SLOW
    }],
};

#[test]
#[ignore = "long"]
fn one_worker_process_is_slow() {
    play(&A_SLOW_WORKER, |stage| workers(stage, "20"));
}

const STOPPED: Scenario = Scenario {
    name: "stopped",
    program: "Python server that closes first",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "a signal has stopped the process",
        count: 6..=6,
        expected: &["hung"],
        certainties: FIRM,
        mentions: Some("stopped"),
        advises: Some("kill -CONT"),
        ..Part::DEFAULT
    }],
};

#[test]
fn a_signal_has_stopped_the_owner() {
    play(&STOPPED, |stage| {
        only_reports(stage);
        stage.stop();
    });
}

const FROZEN: Scenario = Scenario {
    name: "frozen",
    program: "Python server that closes first",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "its cgroup is frozen, as that of a paused container",
        count: 6..=6,
        expected: &["hung"],
        certainties: FIRM,
        mentions: Some("frozen"),
        advises: Some("thaw"),
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn the_cgroup_of_the_owner_is_frozen() {
    play(&FROZEN, |stage| {
        only_reports(stage);
        stage.freeze();
    });
}

const NOT_STOPPED: Scenario = Scenario {
    name: "stopped-not",
    program: "Python server that closes first",
    healthy: true,
    until: Until::Left,
    parts: &[Part { situation: "six reports take 20 s, clients give up after 1 s; no others come", ..SLOW }],
};

#[test]
#[ignore = "long"]
fn reports_without_other_clients_are_slow() {
    play(&NOT_STOPPED, only_reports);
}

fn some_reports(stage: &mut Stage, mode: &str) {
    stage.python_with("reports.py", &[mode]);
    stage.listens(8080);
    stage.clients(&SERVED);
    stage.clients(&REPORTS);
    stage.has_waiting(6);
}

fn only_reports(stage: &mut Stage) {
    stage.python_with("reports.py", &["20"]);
    stage.listens(8080);
    for _ in 0..5 {
        drop(stage.answered(8080, "/"));
    }
    stage.clients(&REPORTS);
    stage.has_waiting(6);
}

fn workers(stage: &mut Stage, mode: &str) {
    stage.python_with("prefork.py", &[mode]);
    stage.listens(8080);
    stage.clients(&Clients { patience: 1.0, ..SERVED });
    stage.has_waiting(8);
}
