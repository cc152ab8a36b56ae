//! Slow servers that close everything in the end.

use std::collections::VecDeque;

use crate::{
    play::play,
    scenario::{ANY, Owner, Part, Scenario, Until},
    stage::{Stage, pause, unread},
};

const SLOW: Scenario = Scenario {
    name: "slow-handler",
    program: "Python http.server",
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "an answer takes 6 s, clients give up after 1 s",
        count: 28..=28,
        expected: &["transient"],
        certainties: ANY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
fn a_slow_handler_comes_to_its_end() {
    play(&SLOW, |stage| {
        stage.python("slow_handler.py");
        stage.listens(8080);
        steady(stage, 28, 4);
    });
}

const GO: Scenario = Scenario {
    name: "go-slow",
    program: "Go server",
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "an answer takes 22 s, the clients give up after 1 s; they are few beside the threads of an idle runtime",
        count: 4..=4,
        // It reads the FIN while it works.
        unread: 0..=1,
        expected: &["transient"],
        certainties: ANY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn a_go_server_is_slow() {
    play(&GO, |stage| {
        stage.go("go-server");
        stage.listens(8080);
        drop(stage.answered(8080, "/"));
        for _ in 0..4 {
            let client = stage.ask(8080, "/slow");
            pause(1000);
            drop(client);
        }
    });
}

const FORKS: Scenario = Scenario {
    name: "forks",
    program: "Python server, a process for each connection",
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "the child takes 5 s, clients give up after 1 s",
        count: 28..=28,
        expected: &["transient"],
        certainties: ANY,
        owner: Owner::One("python3"),
        ..Part::DEFAULT
    }],
};

#[test]
fn a_child_handles_and_closes() {
    play(&FORKS, |stage| {
        stage.python("forks.py");
        stage.listens(8080);
        steady(stage, 28, 4);
    });
}

const BURST: Scenario = Scenario {
    name: "burst",
    program: "Python server with one thread",
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "a burst of clients leaves while they are queued; the server continues",
        // The first are served before they get stuck.
        count: 20..=40,
        unread: 0..=unread("/"),
        expected: &["transient", "never_accepted"],
        certainties: ANY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
fn a_burst_drains() {
    play(&BURST, |stage| {
        stage.python("slow_acceptor.py");
        stage.listens(8080);
        let clients: Vec<_> = (0..40).map(|_number| stage.ask(8080, "/")).collect();
        drop(clients);
    });
}

/// Starts a client every quarter of a second; `patience` of them wait at the same time, then the oldest gives up.
fn steady(stage: &Stage, count: usize, patience: usize) {
    let mut clients = VecDeque::new();
    for _ in 0..count {
        clients.push_back(stage.ask(8080, "/"));
        if clients.len() > patience {
            clients.pop_front();
        }
        pause(250);
    }
}
