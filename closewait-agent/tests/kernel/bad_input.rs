//! The agent's messages on wrong usage or a closed output, and its clean-up in the kernel then.

use std::{
    fs::OpenOptions,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use crate::{
    ability::{Ability, can},
    agent::{Agent, Running, closewait, finish, read_in_background, run_command},
    leftovers,
    net::{Namespace, V4},
};

#[test]
fn wrong_usage_is_exit_code_2_and_names_the_option() {
    for (arguments, named) in [
        (&["run", "--no-such-option"][..], "--no-such-option"),
        (&["run", "--stuck-after", "soon"], "--stuck-after"),
        (&["run", "--stuck-after=-1s"], "--stuck-after"),
        (&["run", "--for", "5 parsecs"], "--for"),
        (&["run", "--histogram-every", ""], "--histogram-every"),
        (&["run", "--events", "some"], "--events"),
        (&["run", "--hook", "kprobe"], "--hook"),
        (&["run", "--output", "xml"], "--output"),
        (&["run", "--ring-buffer", "1000"], "--ring-buffer"),
        (&["run", "--ring-buffer", "12288"], "--ring-buffer"),
        (&["run", "--ring-buffer", "0"], "--ring-buffer"),
        (&["run", "--max-sockets", "0"], "--max-sockets"),
        (&["run", "--max-sockets=-5"], "--max-sockets"),
        (&["run", "extra"], "extra"),
        (&["no-such-command"], "no-such-command"),
    ] {
        let ended = finish(&mut closewait(arguments));
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(named), "{arguments:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{arguments:?}");
    }
    leftovers::assert_none();
}

#[test]
fn a_reader_that_has_gone_ends_the_agent_quietly() {
    let ns = Namespace::new();
    let mut child = Running::spawn(&mut run_command(&["--events", "all"]));
    let stderr = read_in_background(child.0.stderr.take().unwrap());
    let mut line = String::new();
    // Like `head -n1`.
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("\"start\""), "{line}");
    let pair = ns.pair(V4);
    pair.fin();
    assert_eq!(child.wait().code(), Some(0));
    let stderr = stderr.join().unwrap();
    for word in ["panic", "closewait: error", "roken pipe", "EPIPE"] {
        assert!(!stderr.contains(word), "{stderr}");
    }
    leftovers::assert_none();
}

#[test]
fn a_stdout_that_takes_nothing_is_exit_code_1_and_names_the_reason() {
    let mut command = run_command(&[]);
    command.stdout(OpenOptions::new().write(true).open("/dev/full").unwrap()).stderr(Stdio::piped());
    let mut child = Running(command.spawn().unwrap());
    let stderr = read_in_background(child.0.stderr.take().unwrap());
    assert_eq!(child.wait().code(), Some(1));
    let stderr = stderr.join().unwrap();
    assert!(stderr.contains("No space left on device"), "{stderr}");
    leftovers::assert_none();
}

#[test]
fn an_agent_that_has_ended_leaves_nothing_in_the_kernel() {
    for (hook, signal, code) in [
        ("btf", libc::SIGINT, Some(0)),
        ("btf", libc::SIGKILL, None),
        ("classic", libc::SIGTERM, Some(0)),
        ("classic", libc::SIGKILL, None),
    ] {
        if hook == "btf" && !can(Ability::Types) {
            assert_eq!(finish(&mut run_command(&["--hook", hook])).code, Some(69));
            continue;
        }
        let agent = Agent::start(&["--hook", hook]);
        // Otherwise the agent could leave nothing behind.
        assert!(leftovers::programs_held_by(agent.pid()) > 0, "{hook}");
        agent.signal(signal);
        assert_eq!(agent.join().code, code);
        leftovers::assert_none();
    }
}
