//! Required privileges of the agent, and its messages without them.

use std::{
    os::unix::process::CommandExt as _,
    process::{self, Command},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    ability::{Ability, can},
    agent::{Agent, binary, closewait, finish, run_command},
    leftovers,
    net::{Id, Namespace, V4},
    schema,
    setup::{self, PublicBinary, capability},
};

/// Capabilities that docs/privileges.md lists.
const DOCUMENTED: [u32; 4] =
    [capability::BPF, capability::PERFMON, capability::SYS_PTRACE, capability::DAC_READ_SEARCH];
/// Capabilities that docs/privileges.md lists for kernels before 5.11.
const BEFORE_5_11: [u32; 5] = [
    capability::BPF,
    capability::PERFMON,
    capability::SYS_PTRACE,
    capability::DAC_READ_SEARCH,
    capability::SYS_RESOURCE,
];

#[test]
fn an_ordinary_user_gets_the_name_of_the_missing_capability() {
    let binary = PublicBinary::new();
    // The user nobody, in no group: the standard library drops the groups of root by itself.
    let ended = finish(Command::new(&binary.path).args(["run", "--output", "json"]).uid(65534).gid(65534));
    assert_eq!(ended.code, Some(77), "{ended:?}");
    assert!(ended.stderr.contains("CAP_BPF"), "{ended:?}");
    assert_eq!(ended.stdout, "");
    leftovers::assert_none();
}

#[test]
fn root_with_half_of_the_capabilities_gets_the_names_of_the_others() {
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
    setup::keep_only(&mut command, if can(Ability::Memcg) { &DOCUMENTED } else { &BEFORE_5_11 });
    let mut agent = Agent::spawn(&mut command);
    assert_eq!(agent.events[0]["hook"], "tp_btf");
    let pair = ns.pair(V4);
    pair.fin();
    drop(pair.server);
    agent.wait_for_socket("enter", &pair.id);
    agent.wait_for_socket("leave", &pair.id);
    // A socket with a descriptor is found in any namespace without entering it, where the kernel lists open files.
    if can(Ability::Files) {
        agent.wait_for_socket("stuck", &older.id);
    } else {
        assert!(agent.events[0]["degraded"].to_string().contains("network namespaces: "), "{}", agent.events[0]);
        agent.watch(Duration::from_millis(1500));
        assert!(agent.events.iter().all(|event| !older.id.is_in(event)), "{:?}", agent.events);
    }
    agent.stop().totals();
    leftovers::assert_none();
}

#[test]
fn where_maps_count_as_locked_memory_the_capability_that_raises_the_limit_is_named() {
    let mut command = run_command(&["--for", "0s"]);
    setup::keep_only(&mut command, &DOCUMENTED);
    // The limit of an ordinary process.
    setup::lock_memory(&mut command, 64 << 10);
    let ended = finish(&mut command);
    if can(Ability::Memcg) {
        assert_eq!(ended.code, Some(0), "{ended:?}");
    } else {
        assert_eq!(ended.code, Some(77), "{ended:?}");
        assert!(ended.stderr.contains("CAP_SYS_RESOURCE"), "{ended:?}");
    }
    leftovers::assert_none();
}

#[test]
fn without_privileges_list_shows_the_sockets_and_says_what_it_cannot_see() {
    let binary = PublicBinary::new();
    let ns = Namespace::new();
    let (pair, _fin) = ns.waiting(V4);
    let mut command = Command::new(&binary.path);
    command.args(["list", "--alone", "--output", "json"]).uid(65534).gid(65534);
    let ended = ns.run(|| finish(&mut command));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("CAP_BPF") && ended.stderr.contains("CAP_SYS_PTRACE"), "{ended:?}");
    let object = the_only(&ended.stdout, &pair.id);
    assert_eq!(object["owners"], Value::Null, "nobody could look: {object}");
    assert_eq!(object["socket"]["unread_bytes"], 1, "{object}");
    leftovers::assert_none();
}

#[test]
fn with_hidepid_owners_are_found_and_what_they_do_is_reported_to_be_hidden() {
    let ns = Namespace::new();
    let (pair, _fin) = ns.waiting(V4);
    let mut command = closewait(&["list", "--alone", "--output", "json"]);
    setup::hide_processes(&mut command);
    // Without it, hidepid treats root like any other user.
    setup::keep_only(
        &mut command,
        &[capability::BPF, capability::PERFMON, capability::SYS_ADMIN, capability::SYS_RESOURCE],
    );
    let ended = finish(&mut command);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    if !can(Ability::Files) {
        // Nor does it see the processes by which namespaces are found.
        assert_eq!(ended.stdout, "");
        assert!(ended.stderr.contains("CAP_SYS_PTRACE"), "{ended:?}");
        return;
    }
    let object = the_only(&ended.stdout, &pair.id);
    // The scan of open files does not use /proc.
    assert_eq!(object["owners"][0]["pid"], process::id(), "{object}");
    assert!(object["process"].is_null() || object["process"]["unseen"] != json!([]), "{object}");
    leftovers::assert_none();
}

#[test]
fn in_namespaces_of_its_own_list_does_not_say_that_there_is_no_socket() {
    let ns = Namespace::new();
    let (_pair, _fin) = ns.waiting(V4);
    for (arguments, text) in [(&["list"][..], true), (&["list", "--output", "json"], false), (&["report"], true)] {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--net", "--mount-proc"]).arg(binary());
        let ended = finish(command.args(arguments).arg("--alone"));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let told = if text { &ended.stdout } else { &ended.stderr };
        assert!(told.contains("sockets of other network namespaces are not seen"), "{arguments:?}: {ended:?}");
        assert!(told.contains("\nhint: ") && told.contains("--pid=host --net=host"), "{ended:?}");
        assert!(!ended.stdout.contains("no socket is in CLOSE_WAIT"), "{ended:?}");
        assert!(ended.stderr.contains("other network namespaces"), "{ended:?}");
    }
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--net", "--mount-proc"]).arg(binary());
    let ended =
        finish(command.args(["run", "--for", "0s", "--output", "json", "--socket", "/nonexistent/closewait.sock"]));
    let start: Value = serde_json::from_str(ended.stdout.lines().next().expect("`start`")).expect("JSON");
    assert!(start["degraded"].to_string().contains("existing sockets: those that are older"), "{start}");
    leftovers::assert_none();
}

/// Returns the object of a socket, which has to be once in the output.
fn the_only(output: &str, id: &Id) -> Value {
    let objects = output.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let mut ours: Vec<Value> = objects.filter(|object| id.is_in(object)).collect();
    assert_eq!(ours.len(), 1, "{output}");
    schema::check_listed(&ours[0]);
    ours.remove(0)
}

#[test]
fn without_proc_or_sys_every_command_says_what_to_mount() {
    for (covered, commands, mount) in [
        (&[c"/proc"][..], &[&["list"][..], &["status"], &["report"], &["run"]][..], "mount -t proc"),
        (&[c"/sys"], &[&["run"]], "mount -t sysfs"),
    ] {
        for &arguments in commands {
            let mut command = closewait(arguments);
            setup::cover(&mut command, covered);
            let ended = finish(&mut command);
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(69), ""), "{arguments:?}: {ended:?}");
            assert!(ended.stderr.contains(mount) && !ended.stderr.contains("CONFIG_"), "{arguments:?}: {ended:?}");
        }
    }
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
