//! Programs that get their connection as standard input and output, from xinetd.

use std::fs;

use crate::{
    play::play,
    scenario::{ANY, CAREFUL, Owner, Part, Scenario, Until},
    stage::{Stage, pause, programs, ready},
};

const PROGRAM: &str = "xinetd and a shell script";

const JOB: Scenario = Scenario {
    name: "inetd",
    program: PROGRAM,
    healthy: true,
    until: Until::Left,
    parts: &[Part {
        situation: "the script works for 20 s, clients give up after 1 s",
        unread: 0..=1,
        expected: &["transient"],
        certainties: ANY,
        owner: Owner::Changing,
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn a_script_has_inherited_its_connection() {
    play(&JOB, |stage| connections(stage, "slow\n"));
}

const DAEMON: Scenario = Scenario {
    name: "inetd-daemon",
    program: PROGRAM,
    healthy: false,
    until: Until::Stuck(8),
    parts: &[Part {
        situation: "the script has started a daemon, which has inherited the connection, and has ended",
        expected: &["inherited", "unknown"],
        certainties: CAREFUL,
        owner: Owner::One("sleep"),
        ..Part::DEFAULT
    }],
};

#[test]
#[ignore = "long"]
fn a_daemon_has_inherited_the_connection_of_a_script() {
    play(&DAEMON, |stage| connections(stage, "daemon\n"));
}

/// Starts xinetd, and twelve clients that send a line and leave after a second.
fn connections(stage: &mut Stage, line: &str) {
    let [script, config, pid] = [programs().join("cgi.sh"), ready().join("xinetd.conf"), ready().join("xinetd.pid")]
        .map(|path| path.to_str().expect("a path in UTF-8").to_owned());
    let service = format!(
        "defaults\n{{\ninstances = 100\nper_source = 100\ncps = 1000 1\n}}\n\
         service job\n{{\ntype = UNLISTED\nport = 8080\nbind = 127.0.0.1\nsocket_type = stream\nprotocol = tcp\n\
         wait = no\nuser = root\nserver = /bin/sh\nserver_args = {script}\n}}\n"
    );
    fs::write(&config, service).expect("the configuration of xinetd");
    stage.start("xinetd", &["-dontfork", "-stayalive", "-f", &config, "-pidfile", &pid]);
    stage.listens(8080);
    let clients: Vec<_> = (0..12).map(|_number| stage.visit(8080, line)).collect();
    pause(1000);
    drop(clients);
    stage.has_waiting(12);
}
