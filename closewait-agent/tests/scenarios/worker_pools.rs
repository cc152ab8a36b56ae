//! A pool of worker threads with a queue of accepted connections before it: stuck in a lock, or merely slow.

use crate::{
    play::play,
    scenario::{ANY, CAREFUL, LIKELY, Owner, Part, Scenario, Until},
    stage::{Clients, Stage},
};

const PROGRAM: &str = "Python server, 8 worker threads";

/// Requests for orders of clients that give up after a second.
const ORDERS: Clients = Clients { port: 8080, path: "/order", count: 36, every: 0.1, patience: 1.0 };

/// Expectation for a pool in which no thread makes progress.
const STUCK: Part = Part {
    situation: "all threads wait for a lock that is never released; later requests are accepted and queued",
    count: 12..=100,
    // Eight requests have been read.
    unread: 1..=100,
    expected: &["hung"],
    ..Part::DEFAULT
};

/// Expectation for a pool that answers every request, late.
const SLOW: Part = Part {
    situation: "each order holds the lock for 0.5 s, clients give up after 1 s",
    count: 12..=36,
    unread: 0..=100,
    expected: &["transient"],
    certainties: ANY,
    owner: Owner::Changing,
    ..Part::DEFAULT
};

const ALL_STUCK: Scenario = Scenario {
    name: "worker-pool",
    program: PROGRAM,
    healthy: false,
    until: Until::Stuck(8),
    parts: &[Part { certainties: CAREFUL, ..STUCK }],
};

#[test]
fn every_worker_waits_for_a_lock() {
    play(&ALL_STUCK, |stage| pool(stage, "stuck", &Clients { every: 0.5, ..ORDERS }));
}

const ALL_SLOW: Scenario =
    Scenario { name: "worker-pool-slow", program: PROGRAM, healthy: true, until: Until::Left, parts: &[SLOW] };

#[test]
fn every_worker_is_slow() {
    play(&ALL_SLOW, |stage| pool(stage, "0.5", &ORDERS));
}

const YOUNG: Scenario = Scenario {
    name: "worker-pool-young",
    program: PROGRAM,
    healthy: false,
    until: Until::Young,
    parts: &[Part {
        situation: "all threads wait for a lock that is never released, for 2 s",
        count: 8..=100,
        // Without blame: it is too early.
        expected: &["hung", "transient", "unknown"],
        ..STUCK
    }],
};

#[test]
fn nothing_is_blamed_after_two_seconds() {
    play(&YOUNG, |stage| pool(stage, "stuck", &ORDERS));
}

const A_MINUTE: Scenario = Scenario {
    name: "worker-pool-minute",
    program: PROGRAM,
    healthy: false,
    until: Until::Stuck(32),
    parts: &[Part {
        situation: "all threads wait for a lock that is never released, for more than a minute",
        certainties: LIKELY,
        ..STUCK
    }],
};

#[test]
#[ignore = "long"]
fn a_hang_of_a_minute_is_likely() {
    play(&A_MINUTE, |stage| pool(stage, "stuck", &Clients { count: 80, every: 1.0, ..ORDERS }));
}

const SLOW_FOR_A_MINUTE: Scenario = Scenario {
    name: "worker-pool-slow-minute",
    program: PROGRAM,
    healthy: true,
    until: Until::Left,
    parts: &[Part { situation: "each order holds the lock for 9 s, clients give up after 1 s", count: 8..=8, ..SLOW }],
};

#[test]
#[ignore = "long"]
fn orders_of_nine_seconds_are_slow() {
    play(&SLOW_FOR_A_MINUTE, |stage| pool(stage, "9", &Clients { count: 8, ..ORDERS }));
}

/// Starts the server, which serves other requests first, and clients for its orders.
fn pool(stage: &mut Stage, mode: &str, orders: &Clients) {
    stage.python_with("worker_pool.py", &[mode]);
    stage.listens(8080);
    for _ in 0..5 {
        drop(stage.answered(8080, "/"));
    }
    stage.clients(orders);
    stage.has_waiting(8);
}
