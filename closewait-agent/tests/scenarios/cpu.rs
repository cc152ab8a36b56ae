//! A server that computes with a quarter of a CPU: some time, or forever.

use crate::{
    play::play,
    scenario::{ANY, CAREFUL, FIRM, Owner, Part, Scenario, Until, accepted, queued},
    stage::{Clients, Stage},
};

const PROGRAM: &str = "Python server with one thread, 25 % of a CPU";

/// Clients that wait for a result for a second.
const CLIENTS: Clients = Clients { port: 8080, path: "/count", count: 13, every: 0.2, patience: 1.0 };

const FOREVER: Scenario = Scenario {
    name: "cpu",
    program: PROGRAM,
    healthy: false,
    until: Until::Stuck(8),
    parts: &[
        Part {
            situation: "a computation never ends",
            of: accepted,
            count: 1..=1,
            expected: &["hung"],
            certainties: CAREFUL,
            ..Part::DEFAULT
        },
        Part {
            situation: "its clients in the backlog",
            of: queued,
            count: 12..=12,
            unread: 1..=100,
            expected: &["never_accepted"],
            certainties: FIRM,
            owner: Owner::Nobody,
            ..Part::DEFAULT
        },
    ],
};

#[test]
#[ignore = "long"]
fn a_computation_never_ends() {
    play(&FOREVER, |stage| compute(stage, "forever"));
}

const SLOW: Scenario = Scenario {
    name: "cpu-slow",
    program: PROGRAM,
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "each result takes 0.4 s of CPU time, and is sent in the end",
        count: 6..=13,
        unread: 0..=100,
        expected: &["transient", "never_accepted"],
        certainties: ANY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn computations_are_slow() {
    play(&SLOW, |stage| compute(stage, "0.4"));
}

fn compute(stage: &mut Stage, mode: &str) {
    stage.python_with("counts.py", &[mode]);
    stage.listens(8080);
    for _ in 0..5 {
        drop(stage.answered(8080, "/"));
    }
    stage.limit_cpu(25);
    stage.clients(&CLIENTS);
    stage.has_waiting(8);
}
