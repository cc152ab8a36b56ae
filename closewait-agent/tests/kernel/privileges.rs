//! What the agent needs to be allowed, and what it says when it is not.

use std::{os::unix::process::CommandExt as _, process::Command};

use crate::{
    agent::{Agent, finish, run_command},
    leftovers,
    net::{Namespace, V4},
    setup::{self, PublicBinary, capability},
};

#[test]
fn an_ordinary_user_is_told_the_missing_capability() {
    let binary = PublicBinary::new();
    // Nobody, and in no group: the standard library leaves the groups of root by itself.
    let ended = finish(Command::new(&binary.path).args(["run", "--output", "json"]).uid(65534).gid(65534));
    assert_eq!(ended.code, Some(77), "{ended:?}");
    assert!(ended.stderr.contains("CAP_BPF"), "{ended:?}");
    assert_eq!(ended.stdout, "");
    leftovers::assert_none();
}

#[test]
fn root_with_half_of_the_capabilities_is_told_the_other_half() {
    for (kept, missing) in [
        (&[capability::BPF, capability::SYS_PTRACE, capability::DAC_READ_SEARCH][..], "CAP_PERFMON"),
        (&[capability::PERFMON, capability::SYS_PTRACE, capability::DAC_READ_SEARCH], "CAP_BPF"),
    ] {
        let mut command = run_command(&[]);
        setup::keep_only(&mut command, kept);
        let ended = finish(&mut command);
        assert_eq!(ended.code, Some(77), "{missing}: {ended:?}");
        assert!(ended.stderr.contains(missing), "{ended:?}");
        assert_eq!(ended.stdout, "");
        leftovers::assert_none();
    }
}

#[test]
fn the_four_documented_capabilities_are_enough() {
    let ns = Namespace::new();
    let older = ns.pair(V4);
    older.fin();
    let mut command = run_command(&["--events", "all", "--stuck-after", "300ms"]);
    setup::keep_only(
        &mut command,
        &[capability::BPF, capability::PERFMON, capability::SYS_PTRACE, capability::DAC_READ_SEARCH],
    );
    let mut agent = Agent::spawn(&mut command);
    assert_eq!(agent.events[0]["hook"], "tp_btf");
    let pair = ns.pair(V4);
    pair.fin();
    drop(pair.server);
    agent.wait_for_socket("enter", &pair.id);
    agent.wait_for_socket("leave", &pair.id);
    // One with a descriptor is found in any namespace without entering it.
    agent.wait_for_socket("stuck", &older.id);
    agent.stop().totals();
    leftovers::assert_none();
}

#[test]
fn with_neither_btf_nor_tracefs_the_agent_says_what_it_lacks() {
    let mut command = run_command(&[]);
    setup::cover(&mut command, &[c"/sys/kernel/btf", c"/sys/kernel/tracing", c"/sys/kernel/debug"]);
    // It cannot mount tracefs itself.
    setup::drop_only(&mut command, capability::SYS_ADMIN);
    let ended = finish(&mut command);
    assert!(matches!(ended.code, Some(69 | 77)), "{ended:?}");
    let message = ended.stderr.to_ascii_lowercase();
    assert!(message.contains("btf") && message.contains("tracefs"), "{ended:?}");
    assert_eq!(ended.stdout, "");
    leftovers::assert_none();
}
