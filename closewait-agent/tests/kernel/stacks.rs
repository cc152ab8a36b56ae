//! `closewait stacks` of a running process, which is not stopped, signaled or changed.

use std::{fs, process::Command, time::Duration};

use serde_json::Value;

use crate::{
    agent::{Running, closewait, finish},
    clock,
    fuse::FileSystem,
};

/// Lines of `/proc/PID/status` that a debugger or a signal would change.
fn untouched(pid: u32) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let kept = [
        "State:",
        "TracerPid:",
        "SigQ:",
        "SigPnd:",
        "ShdPnd:",
        "nonvoluntary_ctxt_switches:",
        "voluntary_ctxt_switches:",
    ];
    status.lines().filter(|line| kept.iter().any(|name| line.starts_with(name))).map(str::to_owned).collect()
}

#[test]
fn the_stack_of_a_process_that_sleeps_is_read_while_it_sleeps() {
    let sleeper = Running::spawn(Command::new("sleep").arg("1000"));
    let pid = sleeper.pid();
    sleeper.wait_for_sleep();
    let before = untouched(pid);
    // A guest's `sleep` is a part of a program without names and without tables for unwinding.
    let has_names = !fs::read_link(format!("/proc/{pid}/exe")).expect("its program").ends_with("busybox");
    for _ in 0..5 {
        let finished = finish(&mut closewait(&["stacks", &pid.to_string(), "--output", "json"]));
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let page: Value = serde_json::from_str(&finished.stdout).expect("JSON");
        let group = &page["groups"][0];
        assert_eq!(group["tids"][0], pid, "{page}");
        let waits_for = if has_names { Value::from("a period of time") } else { Value::Null };
        assert_eq!(group["waits_for"], waits_for, "{page}");
    }
    assert_eq!(untouched(pid), before, "it was neither stopped nor woken");
}

#[test]
fn no_page_is_asked_of_a_file_system_that_hangs() {
    /// Time after which the file system answers again: a process that waits for it cannot be killed.
    const HANGS: Duration = Duration::from_secs(10);
    let Some(files) = FileSystem::mount("stacks") else { return };
    let sleeper = Running::spawn(&mut files.command());
    sleeper.wait_for_sleep();
    files.hang_for(HANGS);
    let began = clock::boot_seconds();
    let finished = finish(&mut closewait(&["stacks", &sleeper.pid().to_string()]));
    let took = clock::boot_seconds() - began;
    assert_eq!(files.unanswered(), 0, "{finished:?}");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stdout.contains("not read further: its code is on fuse"), "{}", finished.stdout);
    assert!(finished.stdout.contains("not read: code on fuse, which may not answer"), "{}", finished.stdout);
    assert!(took < f64::from(clock::slowness()), "{took} s");
}

#[test]
fn a_process_that_is_not_there_is_an_error() {
    let finished = finish(&mut closewait(&["stacks", &u32::MAX.to_string()]));
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("there is no process"), "{}", finished.stderr);
}
