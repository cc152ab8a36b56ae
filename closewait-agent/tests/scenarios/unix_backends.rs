//! Proxies before a program behind a UNIX socket: it no longer answers, or it is merely slow.

use std::fs;

use crate::{
    play::{play, play_with},
    scenario::{ANY, GUESS, Owner, Part, Scenario, Until},
    stage::{Clients, Stage, programs, ready},
};

const PROGRAM: &str = "nginx, proxy_pass to a UNIX socket";

/// The namespace of a scenario is newer than the agent, which enters it only if it may.
const ENTERS: [&str; 1] = ["--enter-namespaces"];

/// Requests of clients that give up after half a second.
const CLIENTS: Clients = Clients { port: 8080, path: "/", count: 24, every: 0.2, patience: 0.5 };

/// Expectation for a backend whose five threads never answer.
const STUCK: Part = Part {
    situation: "all five threads of the backend wait for a lock that is never released",
    count: 12..=100,
    certainties: GUESS,
    mentions: Some("app.sock (python3["),
    advises: Some("closewait stacks"),
    owner: Owner::One("nginx"),
    ..Part::DEFAULT
};

const NAMED: Scenario = Scenario {
    name: "nginx-unix",
    program: PROGRAM,
    // The backend is at fault, not nginx.
    healthy: true,
    until: Until::Stuck(8),
    parts: &[Part { expected: &["proxy_wait"], ..STUCK }],
};

#[test]
fn the_program_behind_a_unix_socket_is_named() {
    play_with(&NAMED, &ENTERS, |stage| proxy(stage, NAMED.name, "stuck", &CLIENTS));
}

const A_MINUTE: Scenario = Scenario {
    name: "nginx-unix-minute",
    program: PROGRAM,
    healthy: false,
    until: Until::Stuck(32),
    parts: &[Part { expected: &["proxy_wait"], ..STUCK }],
};

#[test]
#[ignore = "long"]
fn after_a_minute_without_an_answer_it_needs_attention() {
    play_with(&A_MINUTE, &ENTERS, |stage| {
        proxy(stage, A_MINUTE.name, "stuck", &Clients { count: 30, every: 0.5, ..CLIENTS })
    });
}

const SLOW: Scenario = Scenario {
    name: "nginx-unix-slow",
    program: PROGRAM,
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "each request takes 3 s in one of five threads of the backend, clients give up after half a second",
        count: 12..=24,
        expected: &["transient", "proxy_wait", "unknown"],
        certainties: ANY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
fn a_slow_program_behind_a_unix_socket_answers() {
    play(&SLOW, |stage| proxy(stage, SLOW.name, "3", &CLIENTS));
}

/// Starts a backend, nginx before it, and clients.
fn proxy(stage: &mut Stage, name: &str, mode: &str, clients: &Clients) {
    let prefix = ready().join(name);
    fs::create_dir_all(&prefix).expect("a folder for nginx");
    let text = |name: &str| prefix.join(name).to_str().expect("a path in UTF-8").to_owned();
    let (socket, config) = (text("app.sock"), text("nginx.conf"));
    let settings = fs::read_to_string(programs().join("nginx.conf")).expect("the configuration");
    let settings = settings.replace("http://127.0.0.1:9000", &format!("http://unix:{socket}"));
    fs::write(&config, settings.replace("worker_connections 100", "worker_connections 400")).expect("a configuration");
    stage.python_with("unix_app.py", &[&socket, mode]);
    stage.says("listens at");
    stage.start("nginx", &["-p", &text(""), "-e", "stderr", "-c", &config]);
    stage.listens(8080);
    stage.clients(clients);
    stage.has_waiting(8);
}
