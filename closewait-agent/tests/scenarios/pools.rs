//! Clients whose idle connections the server has closed.

use crate::{
    play::play,
    scenario::{ANY, GUESS, LIKELY, Owner, Part, Scenario, Until},
    stage::Stage,
};

const REQUESTS: Scenario = Scenario {
    name: "requests",
    program: "requests, one session",
    healthy: true,
    until: Until::Stuck(4),
    parts: &[Part {
        situation: "the server closes what was idle",
        expected: &["pool"],
        certainties: LIKELY,
        owner: Owner::One("python3"),
        ..Part::DEFAULT
    }],
};

#[test]
fn a_pool_of_requests_is_idle() {
    play(&REQUESTS, |stage| {
        stage.python("idle_server.py");
        stage.listens(8080);
        stage.venv("python3", &["keepalive_pool.py"]);
        stage.has_waiting(12);
    });
}

const TLS: Scenario = Scenario {
    name: "tls",
    program: "urllib3 over TLS, one pool",
    healthy: true,
    until: Until::Stuck(4),
    parts: &[Part {
        situation: "the server says goodbye and closes what was idle",
        unread: 25..=32,
        expected: &["pool"],
        certainties: LIKELY,
        owner: Owner::One("python3"),
        ..Part::DEFAULT
    }],
};

#[test]
fn a_pool_of_tls_connections_is_idle() {
    play(&TLS, |stage| {
        stage.go("go-tls-server");
        stage.listens(8443);
        stage.venv("python3", &["tls_pool.py"]);
        stage.has_waiting(12);
    });
}

const GROWING: Scenario = Scenario {
    name: "pool-per-request",
    program: "urllib3, a pool for each request",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "the server closes what was idle; the number grows",
        count: 12..=60,
        // A pool that is created for each request and never closed is a leak of pools.
        expected: &["leak", "pool"],
        // For a minute, a pool that is full looks the same.
        certainties: GUESS,
        owner: Owner::One("python3"),
        ..Part::DEFAULT
    }],
};

#[test]
fn a_client_makes_a_pool_for_each_request() {
    play(&GROWING, |stage| {
        stage.python("idle_server.py");
        stage.listens(8080);
        stage.venv("python3", &["pool_per_request.py"]);
        stage.has_waiting(12);
    });
}

/// Expectation for the eight connections of a pool whose threads wait.
const BORROWED: Part = Part { count: 8..=8, owner: Owner::One("python3"), ..Part::DEFAULT };

const EXHAUSTED: Scenario = Scenario {
    name: "exhausted",
    program: "urllib3, 12 threads and a pool of 8",
    healthy: false,
    until: Until::Stuck(8),
    parts: &[Part {
        situation: "no connection is released, every thread waits for one",
        // The body of the response.
        unread: 1..=4,
        // From outside, this looks like an idle pool: only the stacks of the threads decide.
        expected: &["leak", "hung", "unknown", "pool"],
        certainties: GUESS,
        ..BORROWED
    }],
};

#[test]
fn a_pool_is_exhausted() {
    play(&EXHAUSTED, |stage| borrow(stage, "leak"));
}

const IDLE: Scenario = Scenario {
    name: "exhausted-not",
    program: "urllib3, 12 threads and a pool of 8",
    healthy: true,
    until: Until::Stuck(8),
    parts: &[Part {
        situation: "all connections are released, every thread waits for work",
        expected: &["pool", "unknown"],
        certainties: ANY,
        ..BORROWED
    }],
};

#[test]
fn a_pool_of_the_same_size_is_idle() {
    play(&IDLE, |stage| borrow(stage, "idle"));
}

fn borrow(stage: &mut Stage, mode: &str) {
    stage.python("idle_server.py");
    stage.listens(8080);
    stage.venv("python3", &["borrowers.py", mode]);
    stage.has_waiting(8);
}

const TLS_LEAK: Scenario = Scenario {
    name: "tls-forgets",
    program: "urllib3 over TLS, responses are kept",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "no response is read, closed or released; the server closes what was idle",
        count: 12..=40,
        unread: 1000..=60_000,
        expected: &["leak"],
        certainties: ANY,
        owner: Owner::One("python3"),
        ..Part::DEFAULT
    }],
};

#[test]
fn responses_over_tls_are_forgotten() {
    play(&TLS_LEAK, |stage| {
        stage.go("go-tls-server");
        stage.listens(8443);
        stage.venv("python3", &["tls_forgets.py"]);
        stage.has_waiting(12);
    });
}
