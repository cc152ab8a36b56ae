//! Proxies that wait for a backend, while their clients have left.

use std::fs;

use crate::{
    play::play,
    scenario::{LIKELY, Owner, Part, Scenario, Until},
    stage::{Stage, pause, programs, ready},
};

const BACKEND: &str = "127.0.0.1:9000";

const HAPROXY: Scenario = Scenario {
    name: "haproxy",
    program: "HAProxy",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "the backend accepts and never answers",
        // Reading after the request depends on its version.
        unread: 0..=1,
        expected: &["proxy_wait"],
        certainties: LIKELY,
        mentions: Some(BACKEND),
        owner: Owner::One("haproxy"),
        ..Part::DEFAULT
    }],
};

#[test]
fn haproxy_waits_for_a_backend() {
    play(&HAPROXY, |stage| {
        stage.python("silent.py");
        stage.listens(9000);
        stage.start("haproxy", &["-db", "-f", "haproxy.cfg"]);
        clients_give_up(stage);
    });
}

const NGINX: Scenario = Scenario {
    name: "nginx",
    program: "nginx, proxy_ignore_client_abort",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "the backend accepts and never answers",
        expected: &["proxy_wait"],
        certainties: LIKELY,
        mentions: Some(BACKEND),
        owner: Owner::One("nginx"),
        ..Part::DEFAULT
    }],
};

#[test]
fn nginx_waits_for_a_backend() {
    play(&NGINX, |stage| {
        stage.python("silent.py");
        stage.listens(9000);
        let prefix = ready().join("nginx");
        fs::create_dir_all(&prefix).expect("a folder for nginx");
        let source = programs().join("nginx.conf");
        let [prefix, source] = [prefix, source].map(|path| path.to_str().expect("a path in UTF-8").to_owned());
        stage.start("nginx", &["-p", &prefix, "-e", "stderr", "-c", &source]);
        clients_give_up(stage);
    });
}

fn clients_give_up(stage: &Stage) {
    stage.listens(8080);
    let come = |_number| {
        let client = stage.ask(8080, "/");
        pause(50);
        client
    };
    let clients: Vec<_> = (0..12).map(come).collect();
    pause(300);
    drop(clients);
    stage.has_waiting(12);
}
