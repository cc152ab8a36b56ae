//! Abilities of this kernel: the agent finds those that its version has, and no others.

use std::{net::Shutdown, thread, time::Duration};

use serde_json::Value;

use crate::{
    ability::{Ability, can, tell, tell_whether},
    agent::{Agent, closewait, finish},
    listing::{list, of_namespace},
    net::{Id, Namespace, V4},
    schema, socket,
};

#[test]
fn doctor_finds_what_a_kernel_of_this_version_has() {
    let finished = finish(&mut closewait(&["doctor", "--output", "json"]));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let lines: Vec<Value> = finished.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    lines.iter().for_each(|line| schema::conforms("doctor", line));
    let found = |check: &str| {
        let line = lines.iter().find(|line| line["check"] == check);
        let found = line.unwrap_or_else(|| panic!("no check {check}: {lines:?}"))["state"] == "ok";
        tell_whether(check, found);
        found
    };
    assert!(found("ring buffer"));
    for (check, expected) in [
        ("btf", Ability::Types),
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
fn a_socket_is_read_again_before_it_is_called_stuck() {
    let mut agent = Agent::start(&["--events", "all", "--stuck-after", "300ms"]);
    let ns = Namespace::new();
    let listener = ns.listen(V4);
    let client = ns.connect(listener.local_addr().expect("the listener's address"));
    client.shutdown(Shutdown::Write).expect("shutdown");
    let id = name(&ns.id_of_peer(&client));
    agent.wait_for_socket("enter", &id);
    // No change of state, so the kernel program gets no event.
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
    // Closed, because a waiting client's end would be a proxy peer in this process, too.
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

/// Returns the identity in events, which lack the namespace without the kernel's types.
fn name(id: &Id) -> Id {
    if can(Ability::Types) { id.clone() } else { id.in_any_namespace() }
}
