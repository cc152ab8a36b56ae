//! Sockets that have moved from where they were accepted.

use std::{fs, io};

use crate::{
    play::play,
    row::{self, Outcome},
    scenario::{ANY, CAREFUL, LIKELY, Owner, Part, Scenario, Until},
    stage::Stage,
};

const HELPER: Scenario = Scenario {
    name: "hands-down",
    program: "Python server with a helper",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "a child of another program has inherited the sockets, the server has closed its own",
        expected: &["inherited"],
        certainties: LIKELY,
        owner: Owner::One("sleep"),
        ..Part::DEFAULT
    }],
};

#[test]
fn a_helper_has_inherited_the_sockets() {
    play(&HELPER, |stage| all_leave(stage, "hands_down.py", "handed down"));
}

const JOBS: Scenario = Scenario {
    name: "converts",
    program: "Python server that starts jobs in Python",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "jobs with another script have inherited the sockets and the listener, the server has closed its own",
        count: 4..=4,
        expected: &["inherited"],
        certainties: CAREFUL,
        mentions: Some("convert_job.py"),
        ..Part::DEFAULT
    }],
};

#[test]
fn jobs_have_inherited_sockets_and_listener() {
    play(&JOBS, |stage| {
        stage.python("converts.py");
        stage.listens(8080);
        let clients: Vec<_> = (0..4).map(|_number| stage.answered(8080, "/")).collect();
        stage.says("four jobs run");
        drop(clients);
        stage.has_waiting(4);
    });
}

const BOTH: Scenario = Scenario {
    name: "both-hold",
    program: "Python server that forks",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "parent and child both keep the sockets",
        expected: &["inherited"],
        certainties: CAREFUL,
        owner: Owner::Two("python3"),
        ..Part::DEFAULT
    }],
};

#[test]
fn parent_and_child_hold_the_sockets() {
    play(&BOTH, |stage| all_leave(stage, "both_hold.py", "forked"));
}

const IN_FLIGHT: Scenario = Scenario {
    name: "in-flight",
    program: "Python, SCM_RIGHTS",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "the sockets wait in a UNIX socket that no process reads",
        expected: &["unknown"],
        certainties: ANY,
        owner: Owner::Nobody,
        ..Part::DEFAULT
    }],
};

#[test]
fn sockets_in_flight_have_no_owner() {
    play(&IN_FLIGHT, |stage| all_leave(stage, "in_flight.py", "sent"));
}

const RING: Scenario = Scenario {
    name: "ring",
    program: "Python, io_uring",
    healthy: false,
    until: Until::Stuck(2),
    parts: &[Part {
        situation: "the sockets are direct descriptors of a ring",
        expected: &["unknown"],
        certainties: ANY,
        owner: Owner::Nobody,
        ..Part::DEFAULT
    }],
};

#[test]
fn sockets_of_a_ring_have_no_owner() {
    if ring_is_there() {
        play(&RING, |stage| all_leave(stage, "ring.py", "registered"));
    } else {
        let mut stage = Stage::new(RING.name);
        stage.python("ring.py");
        stage.says("no io_uring");
        let switched_off = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").map(|text| text.trim() == "2");
        assert!(switched_off.unwrap_or(true), "the kernel says that io_uring is there, and it is not");
        let absent = Outcome { run: "no io_uring".to_owned(), ..Outcome::default() };
        RING.parts.iter().for_each(|part| row::write(&RING, part, &absent));
    }
}

/// Runs twelve clients that get their answers, and leave once the program has printed that it is done.
fn all_leave(stage: &mut Stage, program: &str, word: &str) {
    stage.python(program);
    stage.listens(8080);
    let clients: Vec<_> = (0..12).map(|_number| stage.answered(8080, "/")).collect();
    stage.says(word);
    drop(clients);
    stage.has_waiting(12);
}

/// Whether the kernel has io_uring, and allows it for root.
fn ring_is_there() -> bool {
    // SAFETY: without parameters, the call creates nothing: it fails with EFAULT where it exists.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, std::ptr::null::<u8>()) };
    assert!(result < 0, "io_uring_setup without parameters succeeded");
    io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}
