//! Proxies that wait for a backend, while their clients have left.

use std::fs;

use crate::{
    play::play,
    scenario::{ANY, LIKELY, Owner, Part, Scenario, Until},
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
        stage.has_waiting(12);
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
        stage.has_waiting(12);
    });
}

const QUEUE: Scenario = Scenario {
    name: "haproxy-queue",
    program: "HAProxy, maxconn 1",
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "one request after the other goes to the backend, which takes 1.2 s for each",
        count: 6..=12,
        unread: 0..=1,
        expected: &["transient", "proxy_wait", "unknown"],
        certainties: ANY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
fn haproxy_s_queue_moves() {
    play(&QUEUE, |stage| queue(stage, "one_at_a_time.py"));
}

const STUCK_QUEUE: Scenario = Scenario {
    name: "haproxy-queue-stuck",
    program: "HAProxy, maxconn 1",
    // The backend is at fault, not HAProxy.
    healthy: true,
    until: Until::Stuck(8),
    parts: &[Part {
        situation: "one request is with the backend, which never answers, the others wait in the queue",
        unread: 0..=1,
        expected: &["proxy_wait", "unknown"],
        certainties: ANY,
        owner: Owner::One("haproxy"),
        ..Part::DEFAULT
    }],
};

#[test]
fn haproxy_s_queue_waits_for_a_backend() {
    play(&STUCK_QUEUE, |stage| queue(stage, "silent.py"));
}

fn queue(stage: &mut Stage, backend: &str) {
    stage.python(backend);
    stage.listens(9000);
    stage.start("haproxy", &["-db", "-f", "haproxy_queue.cfg"]);
    clients_give_up(stage);
    stage.has_waiting(8);
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
}
