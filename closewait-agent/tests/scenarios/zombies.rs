//! Sockets that exit CLOSE_WAIT, and are not closed.

use std::net::Shutdown;

use serde_json::Value;

use crate::{
    play::play,
    scenario::{Owner, Part, Scenario, Until},
    socket,
    stage::pause,
};

const ZOMBIES: Scenario = Scenario {
    name: "zombies",
    program: "Python server that keeps everything",
    healthy: false,
    until: Until::Left,
    parts: &[
        Part {
            situation: "it shuts down what it sends",
            of: |socket| has_port(socket, 8080),
            owner: Owner::Changing,
            leave: Some(("shutdown", true)),
            ..Part::DEFAULT
        },
        Part {
            situation: "the client resets",
            of: |socket| has_port(socket, 8081),
            owner: Owner::One("python3"),
            leave: Some(("reset", true)),
            ..Part::DEFAULT
        },
    ],
};

#[test]
fn descriptors_stay_open_after_shutdown_and_after_a_reset() {
    play(&ZOMBIES, |stage| {
        stage.python("keeps.py");
        [8080, 8081, 8082].iter().for_each(|port| stage.listens(*port));
        let half_closed = |port| {
            let clients: Vec<_> = (0..12).map(|_number| stage.answered(port, "/")).collect();
            clients.iter().for_each(|client| client.shutdown(Shutdown::Write).expect("a FIN"));
            clients
        };
        let [patient, impatient] = [8080, 8081].map(half_closed);
        stage.has_waiting(24);
        pause(3000);
        let word = stage.visit(8082, "");
        impatient.iter().for_each(socket::linger_zero);
        drop(impatient);
        (patient, word)
    });
}

fn has_port(socket: &Value, port: u16) -> bool {
    socket["local"]["port"] == port
}
