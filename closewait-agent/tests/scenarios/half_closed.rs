//! Clients that have closed one direction and use the other.

use crate::{
    play::play,
    scenario::{ANY, CAREFUL, LIKELY, Owner, Part, Scenario, Until},
    stage::Stage,
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

const UPLOADS: Scenario = Scenario {
    name: "uploads",
    program: "Python server for uploads",
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "works on an upload for 20 s; the clients have closed their sending side and wait for the answer",
        unread: 0..=0,
        expected: &["half_close", "transient"],
        certainties: ANY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn uploads_are_answered_late() {
    play(&UPLOADS, |stage| upload(stage, "20", "60"));
}

const STUCK_UPLOADS: Scenario = Scenario {
    name: "uploads-stuck",
    program: "Python server for uploads",
    healthy: false,
    until: Until::Stuck(8),
    parts: &[Part {
        situation: "waits for a lock that is never released; the clients have gone",
        unread: 0..=0,
        expected: &["hung", "unknown"],
        certainties: CAREFUL,
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn uploads_are_stuck_and_their_clients_have_gone() {
    play(&STUCK_UPLOADS, |stage| upload(stage, "stuck", "1"));
}

fn upload(stage: &mut Stage, mode: &str, patience: &str) {
    stage.python_with("uploads.py", &[mode]);
    stage.listens(8080);
    stage.python_with("uploader.py", &["12", patience]);
    stage.has_waiting(12);
}

const BACKUPS: Scenario = Scenario {
    name: "backups",
    program: "Python client that only writes",
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "the server has closed its sending side and reads slowly",
        count: 10..=10,
        unread: 0..=1,
        expected: &["transient", "half_close"],
        certainties: ANY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn a_writer_is_slow() {
    play(&BACKUPS, |stage| write(stage, "400"));
}

const STUCK_BACKUPS: Scenario = Scenario {
    name: "backups-stuck",
    program: "Python client that only writes",
    healthy: false,
    until: Until::Stuck(8),
    parts: &[Part {
        situation: "the server has closed its sending side and reads nothing; every thread waits in sendall()",
        count: 10..=10,
        // The FIN may come with the greeting.
        unread: 0..=1,
        expected: &["unknown", "hung"],
        certainties: CAREFUL,
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn a_writer_is_stuck() {
    play(&STUCK_BACKUPS, |stage| write(stage, "stuck"));
}

fn write(stage: &mut Stage, mode: &str) {
    stage.python_with("archive.py", &[mode]);
    stage.listens(8080);
    stage.python("backups.py");
    stage.has_waiting(10);
}
