//! What this kernel can do, by its version: each boundary is asserted from both sides.
//!
//! The version is where the kernel's sources say that something came; the agent finds out in ways of its own, and so one
//! checks the other.

use std::{
    env, fs,
    io::{Write as _, stdout},
    net::Shutdown,
    path::Path,
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    agent::{Agent, closewait, finish},
    listing::{list, of_namespace},
    net::{Id, Namespace, V4},
    socket,
};

/// Something that not every kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ability {
    /// Its types are readable (`CONFIG_DEBUG_INFO_BTF`).
    Types,
    /// `iter/task_file` and `bpf_sock_from_file`.
    Files,
    /// `bpf_sk_storage_get` in tracing programs.
    Openers,
    /// `bpf_get_socket_cookie` in tracing programs.
    Cookie,
    /// `iter/task_file` of one process.
    Legs,
    /// Maps are accounted to the memory of the cgroup, no more to the limit of locked memory.
    Memcg,
}

/// Whether this kernel can.
pub(crate) fn can(ability: Ability) -> bool {
    let since = match ability {
        Ability::Types => (0, 0),
        Ability::Files | Ability::Openers | Ability::Memcg => (5, 11),
        Ability::Cookie => (5, 12),
        Ability::Legs => (6, 1),
    };
    let has_types = Path::new("/sys/kernel/btf/vmlinux").exists();
    (has_types || ability == Ability::Memcg) && version() >= since
}

/// Says what was found, for the table of `cargo xtask vm`.
pub(crate) fn tell(what: &str, found: &str) {
    if env::var_os("CLOSEWAIT_TEST_TELL").is_some() {
        // Not println!: libtest keeps that back when a test passes.
        writeln!(stdout(), "closewait-can: {what}: {found}").expect("stdout");
    }
}

fn tell_whether(what: &str, found: bool) {
    tell(what, if found { "yes" } else { "no" });
}

#[test]
fn doctor_finds_what_a_kernel_of_this_version_has() {
    let finished = finish(&mut closewait(&["doctor", "--output", "json"]));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let lines: Vec<Value> = finished.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let found = |check: &str| {
        let line = lines.iter().find(|line| line["check"] == check);
        let found = line.unwrap_or_else(|| panic!("no check {check}: {lines:?}"))["state"] == "ok";
        tell_whether(check, found);
        found
    };
    assert!(found("ring buffer"));
    for (check, expected) in [
        ("btf", Ability::Types),
        ("iter/tcp", Ability::Types),
        ("iter/task_file", Ability::Files),
        ("socket storage", Ability::Openers),
        ("socket cookie", Ability::Cookie),
    ] {
        assert_eq!(found(check), can(expected), "{check}: {lines:?}");
    }
    let hook = if can(Ability::Types) { "tp_btf" } else { "tracepoint" };
    assert_eq!(lines.last().expect("a summary")["hook"], hook);
    assert_eq!(Agent::start(&[]).events[0]["hook"], hook);
    tell("hook", hook);
    tell("owners from", if can(Ability::Files) { "the kernel" } else { "/proc" });
    tell_whether("openers", can(Ability::Openers));
    tell_whether("cookie", can(Ability::Cookie));
}

#[test]
fn a_socket_is_read_anew_before_it_is_called_stuck() {
    let mut agent = Agent::start(&["--events", "all", "--stuck-after", "300ms"]);
    let ns = Namespace::new();
    let listener = ns.listen(V4);
    let client = ns.connect(listener.local_addr().expect("the listener's address"));
    client.shutdown(Shutdown::Write).expect("shutdown");
    let id = name(&ns.id_of_peer(&client));
    agent.wait_for_socket("enter", &id);
    // No change of state: the kernel program does not hear of it.
    let (server, _address) = listener.accept().expect("accept");
    let stuck = agent.wait_for_socket("stuck", &id);
    let (accepted, inode) = if can(Ability::Types) {
        (Value::from(true), Value::from(socket::inode(&server)))
    } else {
        (Value::Null, Value::Null)
    };
    assert_eq!((&stuck["socket"]["accepted"], &stuck["socket"]["inode"]), (&accepted, &inode), "{stuck}");
    tell_whether("look", can(Ability::Types));
}

#[test]
fn the_other_leg_of_a_proxied_connection_is_named_where_the_kernel_lists_the_files_of_one_process() {
    let ns = Namespace::new();
    let backend = ns.listen(V4);
    let mut inbound = ns.pair(V4);
    socket::exchange(&mut inbound.client, &mut inbound.server, b"request");
    let outbound = ns.connect(backend.local_addr().expect("the backend's address"));
    let (mut answering, _address) = backend.accept().expect("accept");
    let mut asking = &outbound;
    socket::exchange(&mut asking, &mut answering, b"request");
    // Closed, for a client's end that waits would be a leg of this process, too.
    let (server, id) = (inbound.server, inbound.id);
    socket::fin(&server, || drop(inbound.client));
    thread::sleep(Duration::from_millis(200));
    let listed = of_namespace(&list(), &ns).remove(&id).expect("it is listed");
    let expected = if can(Ability::Legs) {
        Value::from(backend.local_addr().expect("the backend's address").port())
    } else {
        Value::Null
    };
    assert_eq!(listed["waits_for"]["port"], expected, "{listed}");
    tell_whether("legs", can(Ability::Legs));
}

#[test]
fn the_backlog_that_a_socket_waits_in_is_counted() {
    let ns = Namespace::new();
    let _inhabitant = ns.inhabit();
    let listener = ns.listen(V4);
    let client = ns.connect(listener.local_addr().expect("the listener's address"));
    client.shutdown(Shutdown::Write).expect("shutdown");
    thread::sleep(Duration::from_millis(100));
    let listed = of_namespace(&list(), &ns).remove(&ns.id_of_peer(&client)).expect("it is listed");
    assert_eq!(listed["listener"]["backlog"], 1, "{listed}");
    tell_whether("backlog", true);
}

/// As events name it: without the kernel's types they do not know the namespace.
fn name(id: &Id) -> Id {
    if can(Ability::Types) { id.clone() } else { id.in_any_namespace() }
}

fn version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the release");
    let mut numbers = release.split(['.', '-', '+']).map(|number| number.trim().parse().expect("a number"));
    (numbers.next().expect("a major version"), numbers.next().expect("a minor version"))
}
