//! Redis, which serves all its clients in one thread, and a program that waits for it.

use crate::{
    play::play,
    scenario::{ANY, LIKELY, Owner, Part, Scenario, Until},
    stage::{Clients, Stage},
};

const PORT: u16 = 6379;
/// Bytes of `PING` that no program has read, and the FIN.
const PING: u64 = 7;

const SCRIPT: Scenario = Scenario {
    name: "redis-script",
    program: "Redis",
    healthy: false,
    until: Until::Stuck(8),
    parts: &[Part {
        situation: "a script never ends",
        unread: PING..=PING,
        expected: &["hung"],
        certainties: ANY,
        owner: Owner::One("redis-server"),
        ..Part::DEFAULT
    }],
};

#[test]
fn a_script_blocks_redis() {
    play(&SCRIPT, |stage| script(stage, "forever"));
}

const LONG_SCRIPT: Scenario = Scenario {
    name: "redis-long-script",
    program: "Redis",
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "a script takes 8 s, clients give up after 1 s",
        unread: 0..=PING,
        expected: &["transient"],
        certainties: ANY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
fn a_script_delays_redis() {
    play(&LONG_SCRIPT, |stage| script(stage, "8"));
}

const BLOCKED_BACKEND: Scenario = Scenario {
    name: "redis-jobs-stuck",
    program: "Python server that asks Redis",
    // Redis is at fault, not the server.
    healthy: true,
    until: Until::Stuck(8),
    parts: &[Part {
        situation: "each request waits for Redis, in which a script never ends",
        expected: &["proxy_wait", "unknown"],
        certainties: ANY,
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn a_server_waits_for_a_blocked_redis() {
    play(&BLOCKED_BACKEND, |stage| {
        redis(stage);
        stage.python_with("redis_client.py", &["forever", "0"]);
        stage.says("the script runs");
        jobs(stage);
    });
}

const LONG_POLL: Scenario = Scenario {
    name: "redis-jobs",
    program: "Python server that asks Redis",
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "each request waits up to 20 s for a job in Redis, clients give up after 1 s",
        unread: 0..=1,
        expected: &["transient", "proxy_wait"],
        certainties: LIKELY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn a_server_polls_redis_for_long() {
    play(&LONG_POLL, |stage| {
        redis(stage);
        jobs(stage);
    });
}

/// Starts Redis, without its default to answer other clients with an error once a script has taken 5 s.
fn redis(stage: &mut Stage) {
    stage.start("redis-server", &["--port", "6379", "--bind", "127.0.0.1", "--save", "", "--lua-time-limit", "0"]);
    stage.listens(PORT);
}

/// Lets twelve clients leave while Redis runs a script.
fn script(stage: &mut Stage, time: &str) {
    redis(stage);
    stage.python_with("redis_client.py", &[time, "12"]);
    stage.has_waiting(12);
}

/// Lets twelve clients leave a server that asks Redis.
fn jobs(stage: &mut Stage) {
    stage.python("redis_jobs.py");
    stage.listens(8080);
    stage.clients(&Clients { port: 8080, path: "/job", count: 12, every: 0.2, patience: 1.0 });
    stage.has_waiting(12);
}
