//! Clients that have closed one direction and use the other.

use crate::{
    play::play,
    scenario::{ANY, LIKELY, Owner, Part, Scenario, Until},
};

const STREAMS: Scenario = Scenario {
    name: "streams",
    program: "Python server, nc -N",
    healthy: true,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "a long answer to a client that has closed its sending side",
        count: 10..=10,
        unread: 0..=0,
        expected: &["half_close"],
        certainties: LIKELY,
        ..Part::DEFAULT
    }],
};

#[test]
fn a_server_streams_to_half_closed_clients() {
    play(&STREAMS, |stage| {
        stage.python("streams.py");
        stage.listens(8080);
        for _ in 0..10 {
            stage.start("sh", &["-c", "printf 'all, please\\n' | nc.openbsd -N 127.0.0.1 8080 >/dev/null"]);
        }
        stage.has_waiting(10);
    });
}

const READS_SLOWLY: Scenario = Scenario {
    name: "slow-reader",
    program: "Python client",
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "reads an answer slowly, the server has sent all and closed",
        count: 10..=10,
        unread: 1..=42_000,
        certainties: ANY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
fn a_client_reads_slowly() {
    play(&READS_SLOWLY, |stage| {
        stage.go("go-server");
        stage.listens(8080);
        stage.python("slow_reader.py");
        stage.has_waiting(10);
    });
}
