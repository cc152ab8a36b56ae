//! `closewait kill` on real sockets: the ones that it destroys, and the ones that it must leave unchanged.
//!
//! Every command has `--pid` of this process among its filters, so that it cannot match a socket of another program.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    process::{self, Command, Stdio},
    thread,
    time::Duration,
};

use closewait::{
    clock,
    sink::answer::{AnswerCollector, AnswerItem, AnswerRow},
    source::{
        destroy::{act, plan},
        diag::exact::{self, DestroyError},
    },
};
use closewait_engine::{
    kill::{Outcome, Refusal, Selected, Target},
    model::Dwell,
    snapshot::query::Filter,
};
use serde_json::Value;

use crate::{
    ability::{Ability, can},
    agent::{Agent, Finished, closewait, finish},
    clock::{patience, poll_until},
    control::{AWHILE, Folder, answer_of, answer_once, gone_reader, items_of},
    leftovers,
    net::{Id, Namespace, Pair, V4, V6},
    schema,
    setup::{self, capability},
    socket,
};

#[test]
fn a_plan_says_what_would_happen_and_touches_nothing() {
    let ns = Namespace::inhabited();
    let (pair, _fin) = ns.waiting(V4);
    let shown = finish(&mut kill(&pair.id, &[]));
    assert_eq!(shown.code, Some(0), "{shown:?}");
    for words in
        ["1 socket to destroy, of 1 that matches", "RST", "ECONNABORTED", "not freed", "Dry run: nothing changed"]
    {
        assert!(shown.stdout.contains(words), "{words}: {shown:?}");
    }
    let object = the_only(&finish(&mut kill(&pair.id, &["--output", "json"])), &pair.id);
    assert_eq!((&object["plan"], &object["reason"]), (&"kill".into(), &Value::Null), "{object}");
    assert!(object.get("result").is_none(), "{object}");
    untouched(pair);
    leftovers::assert_none();
}

#[test]
fn a_socket_of_any_family_is_destroyed_and_its_descriptor_stays() {
    let ns = Namespace::inhabited();
    let both_families = ns.listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0));
    let mapped = SocketAddr::new(V4.ip(), both_families.local_addr().unwrap().port());
    let of_each_family: [&dyn Fn() -> Pair; 3] =
        [&|| ns.pair(V4), &|| ns.pair(V6), &|| ns.pair_at(&both_families, mapped)];
    for pair in of_each_family {
        let mut pair = pair();
        // Just before: after some seconds a peer that can still read is half-closed, and refused.
        pair.fin();
        let bystander = ns.waiting(V4).0;
        let object = the_only(&finish(&mut kill(&pair.id, &["--yes", "--output", "json"])), &pair.id);
        assert_eq!((&object["plan"], &object["result"]), (&"kill".into(), &"destroyed".into()), "{object}");
        let open = object["fds_open"].as_array().unwrap();
        assert_eq!(open.len(), 1, "{object}");
        assert_eq!((&open[0]["pid"], &open[0]["fd"]), (&process::id().into(), &pair.server.as_raw_fd().into()));

        let reset = pair.client.read(&mut [0; 8]).unwrap_err();
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset, "the peer got a RST");
        let aborted = pair.server.write(b"late").unwrap_err();
        assert_eq!(aborted.kind(), ErrorKind::ConnectionAborted, "the program learns of it");
        assert!(socket::inode(&pair.server) > 0, "and still has its descriptor");
        assert_eq!(pair.server.read(&mut [0; 8]).unwrap(), 0, "to a reader it is the end, as before");
        untouched(bystander);
    }
    leftovers::assert_none();
}

#[test]
fn text_tells_what_was_done_and_what_stays_open() {
    let ns = Namespace::inhabited();
    let pair = ns.waiting(V4).0;
    let done = finish(&mut kill(&pair.id, &["--yes"]));
    assert_eq!(done.code, Some(0), "{done:?}");
    let fd = format!("[{}] fd {}\n", process::id(), pair.server.as_raw_fd());
    for words in ["1 of 1 socket destroyed", "1 descriptor is still open", &fd] {
        assert!(done.stdout.contains(words), "{words}: {done:?}");
    }
    let again = finish(&mut kill(&pair.id, &["--yes"]));
    assert_eq!(again.code, Some(0), "nothing to do is no failure: {again:?}");
    assert!(!again.stdout.contains("1 of 1"), "{again:?}");
}

#[test]
fn a_socket_of_the_own_namespace_needs_no_right_to_enter_others() {
    let ns = Namespace::inhabited();
    let pair = ns.waiting(V6).0;
    let mut command = kill(&pair.id, &["--yes", "--output", "json"]);
    setup::drop_only(&mut command, capability::SYS_ADMIN);
    let object = the_only(&ns.run(|| finish(&mut command)), &pair.id);
    assert_eq!(object["result"], "destroyed", "{object}");
}

#[test]
fn with_an_agent_ages_are_exact_and_only_what_is_old_enough_is_meant() {
    let path = socket_path("ages");
    let mut agent = Agent::start(&["--stuck-after", "300ms", "--socket", &path]);
    let ns = Namespace::inhabited();
    let (old, young) = (ns.waiting(V4).0, ns.waiting(V4).0);
    agent.wait_for_socket("stuck", &old.id);
    let ask = |id: &Id, age: &str| {
        let port = id.remote.port().to_string();
        let arguments = ["kill", "--yes", "--output", "json", "--pid", &pid(), "--port", &port, "--older-than", age];
        finish(closewait(&arguments).args(["--socket", &path]))
    };
    let nothing = ask(&young.id, "1h");
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(0), ""), "{nothing:?}");
    let object = the_only(&ask(&old.id, "200ms"), &old.id);
    assert_eq!((&object["exact"], &object["result"]), (&true.into(), &"destroyed".into()), "{object}");
    let leave = agent.wait_for_socket("leave", &old.id);
    assert_eq!((&leave["how"], &leave["fd_open"]), (&"destroyed".into(), &true.into()), "{leave}");
    untouched(young);

    // The agent lists the remaining descriptor, once it knows its owner, and that is nothing to destroy.
    let mut left = ask(&old.id, "1ms");
    assert!(poll_until(patience(), || {
        left = ask(&old.id, "1ms");
        !left.stdout.is_empty()
    }));
    let left = the_only(&left, &old.id);
    assert_eq!((&left["plan"], &left["result"]), (&"refuse".into(), &Value::Null), "{left}");
    agent.stop().totals();
}

#[test]
fn one_that_nobody_has_accepted_is_refused_and_keeps_its_place() {
    let ns = Namespace::inhabited();
    let listener = ns.listen(V4);
    let client = ns.connect(listener.local_addr().unwrap());
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let id = ns.id_of_peer(&client);
    let object = the_only(&finish(&mut kill(&id, &["--yes", "--output", "json"])), &id);
    assert_eq!((&object["plan"], &object["result"]), (&"refuse".into(), &Value::Null), "{object}");
    assert!(object["reason"].as_str().unwrap().contains("accepted"), "{object}");
    let (server, _address) = listener.accept().unwrap();
    untouched(Pair { id: ns.id(&server), client, server });
}

#[test]
fn a_half_closed_connection_in_use_is_refused_with_and_without_an_agent() {
    let path = socket_path("half");
    let agent = Agent::start(&["--stuck-after", "300ms", "--socket", &path]);
    let ns = Namespace::inhabited();
    let mut seen = ns.waiting(V4).0;
    thread::sleep(Duration::from_millis(100));
    socket::exchange(&mut seen.server, &mut seen.client, b"still reading");
    for (arguments, words) in [
        (&["--socket", &path][..], "after the peer's FIN, and the peer acknowledged it"),
        (&["--alone"], "the agent did not see whether the peer's FIN came before"),
    ] {
        let port = seen.id.remote.port().to_string();
        let mut command = closewait(&["kill", "--yes", "--output", "json", "--pid", &pid(), "--port", &port]);
        let object = the_only(&finish(command.args(arguments)), &seen.id);
        assert_eq!(object["plan"], "refuse", "{object}");
        assert!(object["reason"].as_str().unwrap().contains(words), "{object}");
    }
    untouched(seen);
    agent.stop().totals();
}

#[test]
fn an_answer_before_the_fin_is_no_half_close_to_an_agent() {
    let path = socket_path("answer");
    let mut agent = Agent::start(&["--stuck-after", "300ms", "--socket", &path]);
    let ns = Namespace::inhabited();
    let mut pair = ns.pair(V4);
    socket::exchange(&mut pair.client, &mut pair.server, b"request");
    socket::exchange(&mut pair.server, &mut pair.client, b"response");
    thread::sleep(Duration::from_millis(50));
    pair.fin();
    agent.wait_for_socket("stuck", &pair.id);
    let port = pair.id.remote.port().to_string();
    let mut command = closewait(&["kill", "--output", "json", "--pid", &pid(), "--port", &port, "--socket", &path]);
    let object = the_only(&finish(&mut command), &pair.id);
    assert_eq!(object["plan"], "kill", "{object}");
    agent.stop().totals();
}

#[test]
fn data_that_goes_out_after_the_plan_stops_it() {
    let ns = Namespace::inhabited();
    let mut pair = ns.waiting(V4).0;
    let targets = planned(&pair.id);
    ns.cut();
    pair.server.write_all(b"on its way").unwrap();
    assert_eq!(act(&targets, &own(), clock::now), [Outcome::Refused(Refusal::Unacknowledged(10))]);
    assert_eq!(plan(&selected(&pair.id), &own(), clock::now), [Err(Refusal::Unacknowledged(10))]);
    ns.mend();
    let mut read = [0; 10];
    pair.client.read_exact(&mut read).unwrap();
    untouched(pair);
}

#[test]
fn a_socket_that_has_taken_the_place_of_a_planned_one_is_left_alone() {
    let ns = Namespace::inhabited();
    for (near, far) in [("127.0.0.1:7001", "127.0.0.1:7002"), ("127.0.0.1:7003", "127.0.0.1:7004")] {
        let (near, far) = (near.parse().unwrap(), far.parse().unwrap());
        let first = ns.pair_between(near, far);
        first.fin();
        let targets = planned(&first.id);
        // A reset leaves no TIME_WAIT, so the same endpoints are free again.
        for end in [first.server, first.client] {
            socket::linger_zero(&end);
        }
        let second = ns.pair_between(near, far);
        assert_eq!(second.id, first.id);
        assert_eq!(act(&targets, &own(), clock::now), [Outcome::Replaced], "established");
        second.fin();
        assert_ne!(socket::cookie(&second.server), targets[0].cookie);
        assert_eq!(act(&targets, &own(), clock::now), [Outcome::Replaced], "in CLOSE_WAIT, as the one before");
        // Even if it came after the last query: the kernel destroys no other socket.
        let destroyed = ns.run(|| exact::destroy(&targets[0]));
        assert!(matches!(destroyed, Err(DestroyError::Gone)), "{destroyed:?}");
        untouched(second);
    }
}

#[test]
fn one_that_has_gone_since_the_plan_is_reported_to_have_gone() {
    let ns = Namespace::inhabited();
    let closed = ns.waiting(V6).0;
    let targets = planned(&closed.id);
    drop(closed);
    assert_eq!(act(&targets, &own(), clock::now), [Outcome::GoneBefore]);

    let shut = ns.waiting(V4).0;
    let targets = planned(&shut.id);
    shut.server.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(act(&targets, &own(), clock::now), [Outcome::GoneBefore], "it is out of CLOSE_WAIT");
}

#[test]
fn one_that_was_listed_without_a_cookie_is_found_by_its_inode() {
    let ns = Namespace::inhabited();
    let pair = ns.waiting(V4).0;
    let mut selected = selected(&pair.id);
    selected[0].socket.cookie = None;
    let targets: Vec<Target> = plan(&selected, &own(), clock::now).into_iter().map(Result::unwrap).collect();
    assert_eq!(targets[0].cookie, socket::cookie(&pair.server));
    selected[0].socket.inode = Some(socket::inode(&pair.client));
    assert_eq!(plan(&selected, &own(), clock::now), [Err(Refusal::Replaced)]);
    assert_eq!(act(&targets, &own(), clock::now), [Outcome::Destroyed]);
    assert_eq!(act(&targets, &own(), clock::now), [Outcome::GoneBefore]);
}

#[test]
fn sockets_with_the_same_ends_in_two_namespaces_are_not_mixed_up() {
    let ends = (SocketAddr::new(V4.ip(), 7001), SocketAddr::new(V4.ip(), 7002));
    let [first, second] = [Namespace::inhabited(), Namespace::inhabited()].map(|ns| {
        let pair = ns.pair_between(ends.0, ends.1);
        pair.fin();
        (ns, pair)
    });
    let targets = planned(&first.1.id);
    assert_eq!(targets.len(), 1);
    assert_eq!(act(&targets, &own(), clock::now), [Outcome::Destroyed]);
    untouched(second.1);
    drop(second.0);
}

#[test]
fn without_a_filter_that_leaves_something_out_it_is_a_usage_error() {
    for arguments in
        [&["kill", "--yes"][..], &["kill", "--yes", "--older-than", "0s"], &["kill", "--yes", "--cgroup", ""]]
    {
        let refused = finish(&mut closewait(arguments));
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{refused:?}");
        assert!(refused.stderr.contains("--"), "{refused:?}");
    }
}

#[test]
fn more_than_expected_is_refused_as_a_whole() {
    let ns = Namespace::inhabited();
    let listener = ns.listen(V4);
    let address = listener.local_addr().unwrap();
    let pairs: Vec<Pair> = (0..3).map(|_| ns.pair_at(&listener, address)).collect();
    for pair in &pairs {
        pair.fin();
    }
    let port = address.port().to_string();
    let with_max = |arguments: &[&str]| {
        let mut command = closewait(&["kill", "--alone", "--pid", &pid(), "--port", &port, "--max", "2"]);
        finish(command.args(arguments))
    };
    let shown = with_max(&[]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.stdout.contains("--yes would fail"), "{shown:?}");
    let refused = with_max(&["--yes"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("--max 3"), "{refused:?}");
    pairs.into_iter().for_each(untouched);
}

#[test]
fn a_missing_capability_is_named_and_nothing_is_touched() {
    let ns = Namespace::inhabited();
    let without = |capability, arguments: &[&str]| {
        // Just before: after some seconds a peer that can still read is half-closed, and refused for that.
        let pair = ns.waiting(V4).0;
        let mut command = kill(&pair.id, arguments);
        setup::drop_only(&mut command, capability);
        let finished = finish(&mut command);
        untouched(pair);
        finished
    };
    let warned = without(capability::NET_ADMIN, &[]);
    assert_eq!(warned.code, Some(0), "{warned:?}");
    assert!(warned.stdout.contains("--yes needs CAP_NET_ADMIN, which is missing"), "{warned:?}");
    let denied = without(capability::NET_ADMIN, &["--yes"]);
    assert_eq!(denied.code, Some(77), "{denied:?}");
    assert!(denied.stderr.contains("CAP_NET_ADMIN") && denied.stdout.contains("0 of 1"), "{denied:?}");
    // Where the namespace cannot be entered, only the scan of open files finds the socket.
    if can(Ability::Files) {
        let denied = without(capability::SYS_ADMIN, &["--yes"]);
        assert_eq!(denied.code, Some(77), "{denied:?}");
        assert!(denied.stderr.contains("CAP_SYS_ADMIN"), "{denied:?}");
    }
}

#[test]
fn an_answer_does_not_select_what_is_destroyed() {
    let folder = Folder::new("liar");
    let ns = Namespace::inhabited();
    let pair = ns.waiting(V4).0;
    let port = pair.id.remote.port().to_string();
    let other = ns.inhabit();
    let items = items_of(&pair.id);
    thread::sleep(AWHILE);
    let with = |change: &dyn Fn(&mut AnswerRow<'static>)| {
        let mut items = items.clone();
        for item in &mut items {
            if let AnswerItem::Row(row) = item {
                change(row);
            }
        }
        items
    };
    let old = with(&|row| row.dwell = Some(Dwell::Exact(Duration::from_secs(3600))));
    let of_other = with(&|row| {
        if let Some(owner) = row.owners.as_mut().and_then(|owners| owners.to_mut().first_mut()) {
            owner.task.pid = other.pid();
        }
    });
    let elsewhere = with(&|row| row.socket.to_mut().remote.port = 1);
    let other = other.pid().to_string();
    let asked = |items: &[AnswerItem<'static>], filter: &[&str]| finish_as(&folder, items, filter);
    // Sockets that the filter does not match: kill trusts nothing in that answer.
    for filter in [
        &["--port", "1"][..],
        &["--pid", &other],
        &["--peer", "10.0.0.0/8"],
        &["--older-than", "1h"],
        &["--verdict", "proxy_wait"],
    ] {
        let refused = asked(&items, filter);
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{filter:?}: {refused:?}");
        assert!(refused.stderr.contains("its answer is wrong: nothing changed"), "{refused:?}");
    }
    // Sockets that the answer describes wrongly.
    let (mine, kept) = (pid(), "younger than --older-than");
    for (items, filter, why) in [
        (&old, &["--port", &port, "--pid", &mine, "--older-than", "1h"][..], kept),
        (&of_other, &["--port", &port, "--pid", &other], "no process of --pid has a descriptor"),
    ] {
        let refused = the_only(&asked(items, filter), &pair.id);
        assert_eq!((&refused["plan"], &refused["result"]), (&"refuse".into(), &Value::Null), "{refused}");
        assert!(refused["reason"].as_str().unwrap().contains(why), "{refused}");
    }
    let refused = asked(&elsewhere, &["--port", "1", "--pid", &mine]);
    assert!(refused.stdout.contains("\"plan\":\"refuse\""), "its ends are those of no socket: {refused:?}");
    untouched(pair);
}

fn finish_as(folder: &Folder, items: &[AnswerItem<'_>], filter: &[&str]) -> Finished {
    let answering = answer_once(&folder.socket(), answer_of(items));
    let done = finish(closewait(&["kill", "--yes", "--output", "json", "--socket", &folder.socket()]).args(filter));
    answering.join().expect("the answer");
    done
}

#[test]
fn what_cannot_be_written_is_never_a_success() {
    let ns = Namespace::inhabited();
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full").into();
    let outputs: [(&str, &dyn Fn() -> Stdio); 2] = [("Broken pipe", &gone_reader), ("No space left", &full)];
    for (why, output) in outputs {
        // The plan comes first, so nothing is done.
        let pair = ns.waiting(V4).0;
        let (code, said) = with_output(&mut kill(&pair.id, &["--yes"]), output());
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(why) && said.contains("nothing was destroyed"), "{said}");
        untouched(pair);

        // Objects have plan and result, so it is done, and reported.
        let mut pair = ns.waiting(V4).0;
        let (code, said) = with_output(&mut kill(&pair.id, &["--yes", "--output", "json"]), output());
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(why) && said.contains("1 of 1 sockets were destroyed"), "{said}");
        assert_eq!(pair.server.write(b"late").unwrap_err().kind(), ErrorKind::ConnectionAborted);
    }
    // No reader can have seen a plan, but no write fails.
    let pair = ns.waiting(V4).0;
    let open = |write| fs::OpenOptions::new().read(true).write(write).open("/dev/null").expect("/dev/null");
    for (why, write) in [("not open for writing", false), ("standard output is closed", true)] {
        for format in ["text", "json"] {
            let mut command = kill(&pair.id, &["--yes", "--output", format]);
            let (code, said) = with_output(&mut command, open(write).into());
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains(why) && said.contains("nothing changed"), "{said}");
        }
    }
    untouched(pair);
    // A command that changes nothing ends quietly when its reader has gone.
    let pair = ns.waiting(V4).0;
    let (code, said) = with_output(&mut kill(&pair.id, &[]), gone_reader());
    assert_eq!(code, Some(0), "{said}");
    untouched(pair);
}

/// Runs the command with this standard output. Returns its exit code and its standard error.
fn with_output(command: &mut Command, output: Stdio) -> (Option<i32>, String) {
    let done = command.stdout(output).stderr(Stdio::piped()).output().expect("the command");
    (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
}

/// Returns `closewait kill` for the sockets of this process with the remote port of this one.
fn kill(id: &Id, arguments: &[&str]) -> Command {
    let mut command = closewait(&["kill", "--alone", "--pid", &pid(), "--port", &id.remote.port().to_string()]);
    command.args(arguments);
    command
}

fn pid() -> String {
    process::id().to_string()
}

/// Returns the filter of every command here.
fn own() -> Filter {
    Filter { pids: vec![process::id()], ..Filter::default() }
}

fn socket_path(name: &str) -> String {
    std::env::temp_dir().join(format!("closewait-kill-{}-{name}.sock", process::id())).display().to_string()
}

/// Returns the object of the socket, which has to be the only one.
fn the_only(finished: &Finished, id: &Id) -> Value {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let mut objects: Vec<Value> =
        finished.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(objects.len(), 1, "{finished:?}");
    schema::check_killed(&objects[0]);
    assert!(id.is_in(&objects[0]), "{finished:?}");
    objects.remove(0)
}

/// Returns the sockets as the command selects them.
fn selected(id: &Id) -> Vec<Selected> {
    let mut collector = AnswerCollector::default();
    items_of(id).into_iter().try_for_each(|item| collector.add(item)).expect("an answer");
    let listing = collector.listing().expect("a list");
    listing.rows().map(|row| Selected::new(&row, listing.header.at)).collect()
}

/// Returns the targets as the command plans them.
fn planned(id: &Id) -> Vec<Target> {
    plan(&selected(id), &own(), clock::now)
        .into_iter()
        .map(|planned| planned.expect("nothing speaks against it"))
        .collect()
}

/// Checks that the connection still works in its open direction.
fn untouched(pair: Pair) {
    let Pair { mut client, mut server, .. } = pair;
    assert_eq!(take_error(&server), None);
    socket::exchange(&mut server, &mut client, b"untouched");
}

fn take_error(stream: &TcpStream) -> Option<ErrorKind> {
    stream.take_error().expect("SO_ERROR").map(|error| error.kind())
}
