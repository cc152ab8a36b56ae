//! Hostile surroundings: an exited namespace, many simultaneous exits, a connection that replaces itself, and another
//! clock of the agent.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream},
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
    agent::{Agent, Running, closewait, finish, run_command},
    clock::{Window, patience, poll_until, wall_seconds},
    leaving::check_dwell,
    many::{ten_thousand, wait_for_all},
    net::{Id, Namespace, Pair, V4},
    schema, socket,
};

#[test]
fn a_namespace_that_nobody_can_enter_any_more_is_watched_to_its_end() {
    let mut agent = begin("deleted", &["--stuck-after", "500ms"]);
    let ns = Namespace::new();
    let inode = ns.inode;
    let listener = ns.listen(V4);
    let address = listener.local_addr().unwrap();
    let (accepted, _fin) = ns.waiting(V4);
    let waits = ns.connect(address);
    let id = ns.id_of_peer(&waits);
    waits.shutdown(Shutdown::Write).unwrap();
    agent.agent.wait_for_socket("enter", &id);
    // The last handle was the only name of the namespace; the sockets inside live on.
    drop(ns);
    for id in [&id, &accepted.id] {
        let stuck = agent.agent.wait_for_socket("stuck", id);
        assert_eq!(stuck["socket"]["netns"], inode, "{stuck}");
    }
    drop(listener);
    assert_eq!(agent.agent.wait_for_socket("leave", &id)["how"], "listener_closed");
    drop(accepted.server);
    assert_eq!(agent.agent.wait_for_socket("leave", &accepted.id)["how"], "closed");
    // The namespace ends with its last sockets.
    drop((waits, accepted.client));
    assert_eq!(agent.listed(inode), Vec::<Value>::new());
    agent.check_no_loss();
}

#[test]
fn a_listener_that_is_closed_with_a_full_backlog_takes_all_in_it_along() {
    const BACKLOG: usize = 8;
    let mut agent = begin("backlog", &[]);
    let ns = Namespace::new();
    let listener = ns.listen(V4);
    socket::limit_backlog(&listener, BACKLOG);
    let address = listener.local_addr().unwrap();
    // The kernel accepts one more than the limit (`sk_acceptq_is_full`, include/net/sock.h at v5.10).
    let clients: Vec<TcpStream> = (0..=BACKLOG).map(|_| ns.connect(address)).collect();
    let refused = ns.run(|| TcpStream::connect_timeout(&address, Duration::from_millis(300)));
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::TimedOut, "the backlog is full");
    let ids: Vec<Id> = clients.iter().map(|client| ns.id_of_peer(client)).collect();
    clients.iter().for_each(|client| client.shutdown(Shutdown::Write).unwrap());
    for id in &ids {
        agent.agent.wait_for_socket("enter", id);
    }
    drop(listener);
    for id in &ids {
        let leave = agent.agent.wait_for_socket("leave", id);
        assert_eq!(
            (&leave["how"], &leave["socket"]["accepted"]),
            (&"listener_closed".into(), &false.into()),
            "{leave}"
        );
    }
    assert_eq!(agent.listed(ns.inode), Vec::<Value>::new());
    agent.check_no_loss();
}

#[test]
fn ten_thousand_leave_with_the_process_that_is_killed() {
    let mut agent = begin("killed", &[]);
    let ns = Namespace::new();
    let sockets = ten_thousand(&ns);
    wait_for_all(&mut agent.agent, "enter", &ns, sockets.len());
    let raw: Vec<RawFd> = sockets.iter().map(|one| one.server.as_raw_fd()).collect();
    let aborted = sockets.iter().filter(|one| one.unread_bytes > 1).count();
    let count = sockets.len();
    let mut owner = inherit(raw);
    drop(sockets);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(agent.listed(ns.inode).len(), count, "the child has them all");
    let pid = owner.pid();
    owner.end();
    wait_for_all(&mut agent.agent, "leave", &ns, count);
    assert_eq!(agent.listed(ns.inode), Vec::<Value>::new());
    let ended = agent.check_no_loss();
    let leaves: Vec<_> = ended
        .iter()
        .filter(|event| event["event"] == "leave" && event["socket"]["netns"] == ns.inode)
        .map(|event| (event["how"].as_str().unwrap(), event["closer"]["pid"].as_u64(), event["fd_open"].as_bool()))
        .collect();
    let of = |how| leaves.iter().filter(|leave| **leave == (how, Some(pid.into()), Some(false))).count();
    assert_eq!((of("closed"), of("aborted"), leaves.len()), (count - aborted, aborted, count), "{:?}", leaves.first());
}

#[test]
fn a_connection_that_comes_back_over_itself_ends_the_old_one_and_is_a_new_one() {
    let mut agent = begin("again", &[]);
    let ns = Namespace::new();
    let listener = ns.listen(V4);
    let far = listener.local_addr().unwrap();
    let near = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 40_000);
    let connect = || {
        ns.run(|| {
            let client = socket::open(libc::AF_INET, 0).expect("a socket");
            socket::bind(&client, near);
            socket::connect(&client, far);
            TcpStream::from(client)
        })
    };
    let client = connect();
    let server = listener.accept().unwrap().0;
    let old = Pair { id: ns.id(&server), client, server };
    let fin = old.fin();
    agent.agent.wait_for_socket("enter", &old.id);
    // The client is gone as after a power failure: its reset does not arrive.
    ns.cut();
    socket::linger_zero(&old.client);
    drop(old.client);
    ns.mend();
    // Its SYN is answered with an ACK of the old connection, on which it resets that one (RFC 5961, section 4), and
    // tries again a second later.
    let (again, client) = Window::around(connect);
    let leave = agent.agent.wait_for_socket("leave", &old.id);
    assert_eq!((&leave["how"], &leave["fd_open"]), (&"reset".into(), &true.into()), "{leave}");
    check_dwell(&leave, fin.until(again));
    let server = listener.accept().unwrap().0;
    let new = Pair { id: ns.id(&server), client, server };
    assert_eq!(new.id, old.id);
    let fin = new.fin();
    let mut seen = 0;
    agent.agent.wait_for("a second `enter` of the same ends", |event| {
        seen += u32::from(event["event"] == "enter" && new.id.is_in(event));
        seen == 2
    });
    // The old socket still has a descriptor, and has exited CLOSE_WAIT; the new one has entered.
    let states = || agent.listed(ns.inode).into_iter().map(|one| one["fd_open"].as_bool()).collect::<Vec<_>>();
    let both = poll_until(patience(), || states().len() == 2);
    assert!(both, "{:?}", agent.listed(ns.inode));
    let (closing, ()) = Window::around(|| drop(new.server));
    let mut leaves = Vec::new();
    agent.agent.wait_for("a second `leave`", |event| {
        if event["event"] == "leave" && new.id.is_in(event) {
            leaves.push(event.clone());
        }
        leaves.len() == 2
    });
    assert_eq!(leaves[1]["how"], "closed", "{}", leaves[1]);
    check_dwell(&leaves[1], fin.until(closing));
    drop(old.server);
    agent.check_no_loss();
}

#[test]
fn an_agent_in_a_time_namespace_tells_the_same_times() {
    let mut command = run_command(&["--events", "all", "--stuck-after", "300ms", "--socket", &path("time")]);
    enter_time_namespace(&mut command);
    let mut agent = Agent::spawn(&mut command);
    let ns = Namespace::new();
    let (pair, fin) = ns.waiting(V4);
    let stuck = agent.wait_for_socket("stuck", &pair.id);
    let age = stuck["dwell_seconds"].as_f64().unwrap();
    assert!((0.3..patience().as_secs_f64()).contains(&age), "{stuck}");
    let told = schema::wall_seconds(&stuck);
    assert!((told - wall_seconds()).abs() < patience().as_secs_f64(), "{stuck}");
    let (closing, ()) = Window::around(|| drop(pair.server));
    check_dwell(&agent.wait_for_socket("leave", &pair.id), fin.until(closing));
}

/// Agent with its own control socket.
struct QueriedAgent {
    agent: Agent,
    path: String,
}

fn path(name: &str) -> String {
    let path = std::env::temp_dir().join(format!("closewait-{name}-{}.sock", process::id()));
    path.to_str().expect("UTF-8").to_owned()
}

fn begin(name: &str, arguments: &[&str]) -> QueriedAgent {
    let path = path(name);
    let agent = Agent::start(&[&["--events", "all", "--socket", &path], arguments].concat());
    QueriedAgent { agent, path }
}

impl QueriedAgent {
    /// Returns the agent's sockets of one namespace.
    fn listed(&self, netns: u64) -> Vec<Value> {
        let finished = finish(&mut closewait(&["list", "--output", "json", "--socket", &self.path]));
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let objects = finished.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        objects.filter(|object: &Value| object["socket"]["netns"] == netns).collect()
    }

    /// Ends the agent and returns its events. Checks that nothing was lost, so that they are complete.
    fn check_no_loss(self) -> Vec<Value> {
        let ended = self.agent.stop();
        let totals = ended.totals();
        for name in ["lost_ring_full", "lost_map_full", "undecodable", "unwritten"] {
            assert_eq!(totals[name], 0, "{totals}");
        }
        ended.events
    }
}

/// Starts a process that also owns these sockets, by the same numbers.
fn inherit(raw: Vec<RawFd>) -> Running {
    let mut command = Command::new("sleep");
    command.arg("1000");
    let keep_open = move || {
        for raw in &raw {
            // SAFETY: takes numbers only.
            succeed(unsafe { libc::fcntl(*raw, libc::F_SETFD, 0) })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec, it makes only system calls: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(keep_open) };
    Running::spawn(&mut command)
}

/// Sets the command's clocks that count from boot ahead of the kernel's: by eleven days, and by another time.
fn enter_time_namespace(command: &mut Command) {
    const OFFSETS: &[u8] = b"boottime 1000000 5\nmonotonic 2000 0\n";
    let work = || {
        // SAFETY: takes a number only.
        succeed(unsafe { libc::unshare(libc::CLONE_NEWTIME) })?;
        // SAFETY: a text that ends in a zero, and numbers.
        let offsets = unsafe { libc::open(c"/proc/self/timens_offsets".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
        succeed(offsets)?;
        // SAFETY: pointer and length are of one text that lives for good.
        let written = unsafe { libc::write(offsets, OFFSETS.as_ptr().cast(), OFFSETS.len()) };
        succeed(if written < 0 { -1 } else { 0 })?;
        // Before Linux 6.1 only children were in it.
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        // SAFETY: a text that ends in a zero, and numbers.
        let namespace = unsafe { libc::open(c"/proc/self/ns/time_for_children".as_ptr(), flags) };
        succeed(namespace)?;
        // SAFETY: takes numbers only, and moves this process, which has one thread.
        succeed(unsafe { libc::setns(namespace, libc::CLONE_NEWTIME) })
    };
    // SAFETY: between fork and exec, `work` makes only system calls: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(work) };
}

fn succeed(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
