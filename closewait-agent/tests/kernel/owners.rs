//! Owners of a socket: every process and descriptor, for every way to get one.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{Shutdown, TcpStream},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::process::CommandExt as _,
    },
    process::{self, Command},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    ability::{Ability, can},
    agent::{Agent, Running, closewait, finish},
    clock::{poll_until, slowness},
    first_thread::FirstThreadEnded,
    listing::{list, of_namespace},
    net::{Namespace, V4, V6},
    schema, setup, socket,
};

/// Process and descriptor.
type Owner = (u64, u64);

#[test]
fn forks_and_duplicates_are_all_found_and_proc_agrees() {
    let ns = Namespace::new();
    let (pair, _fin) = ns.waiting(V4);
    let duplicate = pair.server.try_clone().expect("dup");
    let child = inherit(&pair.server);
    let listed = of_namespace(&list(), &ns).remove(&pair.id).expect("it is listed");
    let found = owners(&listed);
    let me = u64::from(process::id());
    let expected =
        BTreeSet::from([(me, fd(&pair.server)), (me, fd(&duplicate)), (u64::from(child.pid()), fd(&pair.server))]);
    assert_eq!(found, expected, "{listed}");
    assert_eq!(found, by_proc(listed["socket"]["inode"].as_u64().expect("an inode")));
}

#[test]
fn without_btf_the_same_owners_come_from_proc() {
    let ns = Namespace::new();
    let _inhabitant = ns.inhabit();
    let pairs: Vec<_> = [V4, V6, V4].into_iter().map(|address| ns.waiting(address).0).collect();
    let _child = inherit(&pairs[1].server);
    let with = of_namespace(&list(), &ns);
    let mut command = closewait(&["list", "--output", "json", "--alone"]);
    setup::cover(&mut command, &[c"/sys/kernel/btf"]);
    let finished = finish(&mut command);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let without: Vec<Value> = finished.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let without = of_namespace(&without, &ns);
    for pair in &pairs {
        assert!(!owners(&with[&pair.id]).is_empty());
        assert_eq!(owners(&with[&pair.id]), owners(&without[&pair.id]), "{}", pair.id);
    }
}

#[test]
fn a_process_whose_first_thread_has_ended_owns_each_descriptor_once() {
    let ns = Namespace::new();
    let _inhabitant = ns.inhabit();
    let (pair, _fin) = ns.waiting(V4);
    let other = FirstThreadEnded::start();
    let expected = [process::id(), other.pid()].map(|pid| (u64::from(pid), fd(&pair.server)));
    for covered in [&[][..], &[c"/sys/kernel/btf"]] {
        let mut command = closewait(&["list", "--output", "json", "--alone"]);
        setup::cover(&mut command, covered);
        let finished = finish(&mut command);
        let listed: Vec<Value> =
            finished.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let listed = of_namespace(&listed, &ns).remove(&pair.id).expect("it is listed");
        assert_eq!(owners(&listed), BTreeSet::from(expected), "{listed}");
        assert_eq!(listed["owners"].as_array().map(Vec::len), Some(expected.len()), "{listed}");
    }
    let finished = finish(&mut closewait(&["stacks", &other.pid().to_string(), "--output", "json"]));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let page: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    // The function of musl that makes the system call keeps its caller in a register of aarch64, which the kernel does not show.
    let group = &page["groups"][0];
    let is_cut = cfg!(target_arch = "aarch64") && group["cut"] == "link register unknown";
    assert!(is_cut || group["waits_for"] == "a period of time", "{page}");
    assert_eq!(group["count"], 1, "{page}");
}

#[test]
fn an_owner_in_another_pid_namespace_has_the_hosts_number() {
    let ns = Namespace::new();
    let (pair, _fin) = ns.waiting(V4);
    let raw = pair.server.as_raw_fd();
    let prepare = move || {
        keep_open(raw)?;
        // SAFETY: takes a number only; the next child of the calling process is the first of a new pid namespace.
        succeed(unsafe { libc::unshare(libc::CLONE_NEWPID) })
    };
    // The shell is outside of its new namespace, and its child inside.
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 1000 & wait"]);
    // SAFETY: between fork and exec, it makes system calls only.
    unsafe { command.pre_exec(prepare) };
    let shell = Running::spawn(&mut command);
    let inside = child_of(shell.pid());
    let listed = of_namespace(&list(), &ns).remove(&pair.id).expect("it is listed");
    assert!(owners(&listed).contains(&(u64::from(inside), fd(&pair.server))), "{listed}");
    // SAFETY: takes numbers only; the process is a child of our child, which still runs.
    unsafe { libc::kill(inside as libc::pid_t, libc::SIGKILL) };
}

#[test]
fn a_stuck_socket_is_reported_with_its_owners() {
    let ns = Namespace::new();
    let mut agent = Agent::start(&["--stuck-after", "100ms"]);
    let (pair, _fin) = ns.waiting(V4);
    let event = agent.wait_for_socket("stuck", &pair.id);
    assert_eq!(owners(&event), BTreeSet::from([(u64::from(process::id()), fd(&pair.server))]), "{event}");
}

#[test]
fn an_owner_that_comes_later_is_found_at_the_next_report() {
    let ns = Namespace::new();
    let mut agent = Agent::start(&["--stuck-after", "100ms"]);
    let (pair, _fin) = ns.waiting(V4);
    agent.wait_for_socket("stuck", &pair.id);
    let child = inherit(&pair.server);
    agent.wait_for("a report with the child", |event| {
        event["event"] == "stuck"
            && pair.id.is_in(event)
            && owners(event).contains(&(u64::from(child.pid()), fd(&pair.server)))
    });
}

#[test]
fn who_connected_a_client_is_known_where_the_kernel_can_keep_it() {
    let ns = Namespace::new();
    let mut agent = Agent::start(&["--stuck-after", "100ms", "--openers"]);
    let pair = ns.pair(V4);
    let id = ns.id_of_peer(&pair.server);
    socket::fin(&pair.client, || pair.server.shutdown(Shutdown::Write).expect("shutdown"));
    let event = agent.wait_for_socket("stuck", &id);
    assert_eq!(event["socket"]["role"], "client", "{event}");
    if can(Ability::Openers) {
        assert_eq!(event["socket"]["opener"]["pid"], process::id(), "{event}");
    } else {
        assert_eq!(event["socket"]["opener"], Value::Null, "{event}");
        assert!(agent.events[0]["degraded"].to_string().contains("openers: "), "{}", agent.events[0]);
    }
}

#[test]
fn a_descriptor_that_is_left_behind_is_listed_until_it_is_closed() {
    let ns = Namespace::new();
    let path = std::env::temp_dir().join(format!("closewait-lingering-{}.sock", process::id()));
    let path = path.to_str().expect("UTF-8");
    let mut agent = Agent::start(&["--stuck-after", "100ms", "--socket", path]);
    let pair = ns.pair(V4);
    pair.fin();
    agent.wait_for_socket("stuck", &pair.id);
    // Bytes that the peer can no longer receive: its kernel answers with a reset.
    let id = pair.id.clone();
    socket::linger_zero(&pair.client);
    let server = pair.server;
    drop(pair.client);
    let left = agent.wait_for_socket("leave", &id);
    assert_eq!((&left["how"], &left["fd_open"]), (&Value::from("reset"), &Value::from(true)), "{left}");
    let by_agent = || ask(path, &ns).into_iter().find(|object| id.is_in(object));
    let mut listed = None;
    poll_until(Duration::from_millis(1200) * slowness(), || {
        listed = by_agent();
        listed.is_some()
    });
    let listed = listed.expect("it is listed");
    assert_eq!(listed["fd_open"], true, "{listed}");
    assert_eq!(listed["left"]["how"], "reset", "{listed}");
    drop(server);
    let gone = poll_until(Duration::from_millis(2500) * slowness(), || by_agent().is_none());
    assert!(gone, "its descriptor is closed");
    // The agent finds a socket that it did not observe by its error.
    let (pair, _fin) = ns.waiting(V4);
    socket::linger_zero(&pair.client);
    drop(pair.client);
    thread::sleep(Duration::from_millis(50));
    let cold = of_namespace(&list(), &ns).remove(&pair.id);
    // The socket is in no list of sockets any more, only among open files.
    if !can(Ability::Files) {
        assert_eq!(cold, None);
        return;
    }
    let cold = cold.expect("it is listed");
    assert_eq!((&cold["fd_open"], &cold["left"]["how"]), (&Value::from(true), &Value::from("reset")), "{cold}");
}

#[test]
fn processes_that_come_and_go_meanwhile_do_no_harm() {
    let ns = Namespace::new();
    let (pair, _fin) = ns.waiting(V4);
    let mine = (u64::from(process::id()), fd(&pair.server));
    thread::scope(|scope| {
        let busy = scope.spawn(|| {
            for _ in 0..60 {
                let mut child = inherit(&pair.server);
                child.end();
            }
        });
        while !busy.is_finished() {
            let listed = of_namespace(&list(), &ns).remove(&pair.id).expect("it is listed");
            assert!(owners(&listed).contains(&mine), "{listed}");
        }
    });
}

/// Returns the sockets of one namespace from the agent at `path`.
fn ask(path: &str, ns: &Namespace) -> Vec<Value> {
    let finished = finish(&mut closewait(&["list", "--output", "json", "--socket", path]));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let objects = finished.stdout.lines().map(|line| {
        let object = serde_json::from_str(line).expect("JSON");
        schema::check_listed(&object);
        object
    });
    objects.filter(|object: &Value| object["socket"]["netns"] == ns.inode).collect()
}

/// Starts a process that also owns the socket, by the same number.
fn inherit(socket: &TcpStream) -> Running {
    let raw = socket.as_raw_fd();
    let mut command = Command::new("sleep");
    command.arg("1000");
    // SAFETY: between fork and exec, it makes one system call only.
    unsafe { command.pre_exec(move || keep_open(raw)) };
    Running::spawn(&mut command)
}

/// Keeps the descriptor open across exec.
fn keep_open(raw: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers only.
    succeed(unsafe { libc::fcntl(raw, libc::F_SETFD, 0) })
}

fn succeed(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns the one child of a process, once it has one.
fn child_of(pid: u32) -> u32 {
    let path = format!("/proc/{pid}/task/{pid}/children");
    for _ in 0..200 {
        if let Ok(text) = fs::read_to_string(&path)
            && let Some(child) = text.split_whitespace().next()
        {
            return child.parse().expect("a pid");
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("process {pid} has no child");
}

fn fd(socket: &TcpStream) -> u64 {
    socket.as_raw_fd().try_into().expect("a descriptor")
}

fn owners(object: &Value) -> BTreeSet<Owner> {
    let owners = object["owners"].as_array().unwrap_or_else(|| panic!("no owners: {object}"));
    owners.iter().map(|owner| (owner["pid"].as_u64().expect("pid"), owner["fd"].as_u64().expect("fd"))).collect()
}

/// Returns the owners of the inode, by the test's own scan of `/proc`.
fn by_proc(inode: u64) -> BTreeSet<Owner> {
    let wanted = format!("socket:[{inode}]");
    let mut owners = BTreeSet::new();
    for process in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        for file in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            if fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()) {
                let fd = file.file_name().to_str().and_then(|name| name.parse().ok()).expect("a descriptor");
                owners.insert((pid, fd));
            }
        }
    }
    owners
}
