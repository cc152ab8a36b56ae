//! Programs that continue, and never close some of their connections.

use crate::{
    play::play,
    scenario::{ANY, CAREFUL, Owner, Part, Scenario, Until},
    stage::{Clients, Stage},
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

const HEARTBEATS: Scenario = Scenario {
    name: "subscribers",
    program: "Python server with subscribers",
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "12 subscribers leave at once, the next heartbeat notices it after up to 20 s",
        expected: &["transient"],
        certainties: ANY,
        ..Part::DEFAULT
    }],
};

#[test]
fn a_heartbeat_notices_who_has_left() {
    play(&HEARTBEATS, |stage| {
        stage.python_with("subscribers.py", &["20"]);
        stage.listens(8080);
        let subscribers: Vec<_> = (0..12).map(|_number| stage.answered(8080, "/")).collect();
        drop(subscribers);
        stage.has_waiting(12);
    });
}

const NO_HEARTBEATS: Scenario = Scenario {
    name: "subscribers-lost",
    program: "Python server with subscribers",
    healthy: false,
    until: Until::Stuck(8),
    parts: &[Part {
        situation: "the thread that sends heartbeats has died; subscribers come and leave",
        count: 12..=40,
        expected: &["leak"],
        certainties: CAREFUL,
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn no_heartbeat_notices_who_has_left() {
    play(&NO_HEARTBEATS, |stage| {
        stage.python_with("subscribers.py", &["lost"]);
        stage.listens(8080);
        stage.clients(&Clients { port: 8080, path: "/", count: 40, every: 0.5, patience: 5.0 });
        stage.has_waiting(12);
    });
}

/// Requests that are all answered, and go on.
fn a_third_is_forgotten(stage: &mut Stage) {
    stage.python("visitor.py");
    stage.has_waiting(12);
}
