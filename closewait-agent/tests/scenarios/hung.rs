//! Servers that make no progress: their clients give up.

use std::net::TcpStream;

use crate::{
    play::play,
    scenario::{CAREFUL, FIRM, Owner, Part, Scenario, Until, accepted, queued},
    stage::{Stage, pause, ready, unread},
};

const BLOCK: u64 = unread("/block");

const GUNICORN: Scenario = Scenario {
    name: "gunicorn",
    program: "gunicorn, sync workers",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[
        Part {
            situation: "every worker waits for a lock",
            of: accepted,
            count: 3..=3,
            expected: &["hung"],
            // Fifteen seconds would be needed for more certainty.
            certainties: CAREFUL,
            owner: Owner::One("gunicorn"),
            ..Part::DEFAULT
        },
        Part {
            situation: "its clients in the backlog",
            of: queued,
            count: 12..=12,
            unread: BLOCK..=BLOCK,
            expected: &["never_accepted"],
            certainties: FIRM,
            owner: Owner::Nobody,
            ..Part::DEFAULT
        },
    ],
};

#[test]
fn gunicorn_s_workers_all_block() {
    play(&GUNICORN, |stage| {
        let arguments = ["--workers=3", "--bind=127.0.0.1:8080", "--timeout=150", "gunicorn_app:application"];
        stage.venv("gunicorn", &arguments);
        stage.listens(8080);
        answer_some(stage);
        let workers = one_by_one(stage, 3);
        let others = one_by_one(stage, 12);
        pause(500);
        leave_one_by_one(workers);
        leave_one_by_one(others);
        stage.has_waiting(15);
    });
}

const JDK: Scenario = Scenario {
    name: "jdk",
    program: "JDK HttpServer, 4 threads",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "every thread waits; later requests are accepted and queued",
        count: 16..=16,
        // Four have been read.
        unread: 1..=BLOCK,
        expected: &["hung"],
        certainties: CAREFUL,
        owner: Owner::One("java"),
        ..Part::DEFAULT
    }],
};

#[test]
fn the_jdk_s_workers_all_block() {
    play(&JDK, |stage| {
        let classes = ready().join("java");
        let classes = classes.to_str().expect("a path in UTF-8");
        stage.start("java", &["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classes, "Blocked"]);
        stage.listens(8080);
        answer_some(stage);
        let clients = one_by_one(stage, 16);
        pause(500);
        leave_one_by_one(clients);
        stage.has_waiting(16);
    });
}

const NODE: Scenario = Scenario {
    name: "node",
    program: "Node.js",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[
        Part {
            situation: "a handler loops for ever",
            of: accepted,
            count: 1..=1,
            expected: &["hung"],
            // Fifteen seconds would be needed for more certainty.
            certainties: CAREFUL,
            owner: Owner::One("node"),
            ..Part::DEFAULT
        },
        Part {
            situation: "its clients in the backlog",
            of: queued,
            count: 12..=12,
            unread: BLOCK..=BLOCK,
            expected: &["never_accepted"],
            certainties: FIRM,
            owner: Owner::Nobody,
            ..Part::DEFAULT
        },
    ],
};

#[test]
fn node_s_event_loop_is_blocked() {
    play(&NODE, |stage| {
        stage.start("node", &["blocked.js"]);
        stage.listens(8080);
        answer_some(stage);
        let first = stage.ask(8080, "/block");
        pause(500);
        let others = one_by_one(stage, 12);
        pause(300);
        drop(first);
        leave_one_by_one(others);
        stage.has_waiting(13);
    });
}

const PROBED: Scenario = Scenario {
    name: "probed",
    program: "Python server with a selector",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "probes that connect and leave, among clients that are answered",
        count: 24..=24,
        expected: &["leak"],
        certainties: CAREFUL,
        ..Part::DEFAULT
    }],
};

#[test]
fn probes_are_not_noticed() {
    play(&PROBED, |stage| {
        stage.python("probed.py");
        stage.listens(8080);
        for _ in 0..12 {
            drop(stage.visit(8080, ""));
            pause(250);
            drop(stage.visit(8080, ""));
            drop(stage.answered(8080, "/"));
            pause(250);
        }
        stage.has_waiting(24);
    });
}

/// Makes some requests that get their answers.
fn answer_some(stage: &Stage) {
    for _ in 0..5 {
        drop(stage.answered(8080, "/"));
    }
}

/// Ends the clients one after the other: a program that gets repeated requests and does not answer.
fn leave_one_by_one(clients: Vec<TcpStream>) {
    for client in clients {
        drop(client);
        pause(200);
    }
}

fn one_by_one(stage: &Stage, count: usize) -> Vec<TcpStream> {
    let come = |_number| {
        let client = stage.ask(8080, "/block");
        pause(50);
        client
    };
    (0..count).map(come).collect()
}
