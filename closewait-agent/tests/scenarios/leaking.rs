//! Programs that continue, and never close some of their connections.

use crate::{
    play::play,
    scenario::{ANY, CAREFUL, Owner, Part, Scenario, Until},
    stage::Stage,
};

const GO_SERVER: Scenario = Scenario {
    name: "go-server",
    program: "Go server",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "a third of the connections is hijacked, answered and forgotten",
        count: 12..=60,
        // From outside, a waiting goroutine is a slow or a forgotten one.
        expected: &["transient", "unknown", "leak"],
        certainties: CAREFUL,
        owner: Owner::One("go-server"),
        ..Part::DEFAULT
    }],
};

#[test]
fn a_go_server_forgets_hijacked_connections() {
    play(&GO_SERVER, |stage| {
        stage.go("go-server");
        stage.listens(8080);
        a_third_is_forgotten(stage);
    });
}

const GO_CLIENT: Scenario = Scenario {
    name: "go-client",
    program: "Go client",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "bodies of responses are not closed",
        count: 12..=60,
        unread: 1000..=40000,
        expected: &["leak"],
        certainties: ANY,
        owner: Owner::One("go-client"),
        ..Part::DEFAULT
    }],
};

#[test]
fn a_go_client_does_not_close_bodies() {
    play(&GO_CLIENT, |stage| {
        stage.go("go-server");
        stage.listens(8080);
        stage.go("go-client");
        stage.has_waiting(12);
    });
}

const PYTHON: Scenario = Scenario {
    name: "forgets",
    program: "Python server with threads",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "one path answers and does not close",
        count: 12..=60,
        expected: &["leak"],
        certainties: CAREFUL,
        ..Part::DEFAULT
    }],
};

#[test]
fn a_python_server_forgets_to_close_on_one_path() {
    play(&PYTHON, |stage| {
        stage.python("forgets.py");
        stage.listens(8080);
        a_third_is_forgotten(stage);
    });
}

/// Makes requests that are all answered, and continue.
fn a_third_is_forgotten(stage: &mut Stage) {
    stage.python("visitor.py");
    stage.has_waiting(12);
}
