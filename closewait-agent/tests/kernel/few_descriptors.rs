//! Commands with few file descriptors, or with a soft limit below the hard one.

use std::{fs, os::unix::process::CommandExt as _, process::Command};

use crate::{
    agent::{Agent, closewait, finish, run_command},
    clock::{patience, poll_until},
    leftovers,
};

/// More descriptors than a command needs.
const ENOUGH: u64 = 100;

/// Sets these limits on open files for the command.
fn limit(command: &mut Command, soft: u64, hard: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    let work = move || {
        // SAFETY: the pointer is to a whole rlimit that outlives the call.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec, `work` makes only one system call.
    unsafe { command.pre_exec(work) };
}

#[test]
fn with_few_descriptors_every_command_ends_with_an_error_and_a_hint() {
    // Built in, because guests have only the tests of the repository.
    let file = std::env::temp_dir().join(format!("closewait-test-few-{}.recording", std::process::id()));
    fs::write(&file, include_bytes!("../recordings/ring.recording")).expect("a recording");
    let recording = file.to_str().expect("UTF-8");
    let commands: [&[&str]; 7] = [
        &["run", "--for", "0s", "--socket", "/nonexistent/closewait.sock"],
        &["list"],
        &["list", "--alone"],
        &["kill", "--alone", "--port", "1"],
        &["report", "--alone"],
        &["doctor"],
        &["replay", recording],
    ];
    for arguments in commands {
        // With fewer than four the dynamic linker finds no library.
        for count in (4..=40).chain([50, 60, ENOUGH]) {
            let mut command = closewait(arguments);
            limit(&mut command, count, count);
            let ended = finish(&mut command);
            let what = format!("{arguments:?} with {count} descriptors: {ended:?}");
            assert!(!ended.stderr.contains("panicked"), "{what}");
            if count == ENOUGH || arguments[0] == "replay" {
                assert_eq!(ended.code, Some(0), "{what}");
                continue;
            }
            assert_eq!(ended.code, Some(1), "{what}");
            assert!(ended.stdout.is_empty(), "{what}");
            assert!(ended.stderr.contains("\nhint: raise the limit on open files"), "{what}");
            assert!(ended.stderr.contains("LimitNOFILE="), "{what}");
        }
    }
    fs::remove_file(file).expect("the recording is removed");
    leftovers::assert_none();
}

#[test]
fn an_agent_takes_as_many_descriptors_as_it_may_and_hooks_get_as_many_as_it_got() {
    let hook = std::env::temp_dir().join(format!("closewait-test-limit-hook-{}", std::process::id()));
    fs::write(&hook, "#!/bin/sh\n:\n").expect("a hook");
    fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("permissions");
    let mut command = run_command(&["--on-stuck", hook.to_str().expect("UTF-8")]);
    limit(&mut command, 300, 5000);
    let agent = Agent::spawn(&mut command);
    assert_eq!(soft_and_hard(agent.pid()), (5000, 5000));
    let children = format!("/proc/{pid}/task/{pid}/children", pid = agent.pid());
    let mut helper = None;
    poll_until(patience(), || {
        let text = fs::read_to_string(&children).expect("the children of the agent");
        helper = text.split_whitespace().next().map(|pid| pid.parse::<u32>().expect("a number"));
        helper.is_some()
    });
    assert_eq!(soft_and_hard(helper.expect("a helper")), (300, 5000));
    agent.stop().totals();
    fs::remove_file(&hook).expect("the hook");
}

/// Returns the limits on open files of a process.
fn soft_and_hard(pid: u32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a line");
    let mut numbers = line.split_whitespace().map(|number| number.parse().expect("a number"));
    let mut next = || numbers.next().expect("two numbers");
    (next(), next())
}
