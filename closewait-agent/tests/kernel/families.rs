//! Observed sockets: every family, protocol, namespace and side of a connection.

use std::{
    fs,
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    ability::{Ability, can, tell},
    agent::{Agent, run_command},
    clock::Window,
    leaving::check_dwell,
    net::{Id, Namespace, Pair, V4, V6},
    socket,
};

#[test]
fn ipv4_is_seen_with_all_that_names_it() {
    let ns = Namespace::new();
    let enter = whole_life(&ns, &ns.listen(V4), V4);
    assert_eq!(enter["socket"]["family"], "ipv4", "{enter}");
}

#[test]
fn ipv6_is_seen_with_all_that_names_it() {
    let ns = Namespace::new();
    let enter = whole_life(&ns, &ns.listen(V6), V6);
    assert_eq!(enter["socket"]["family"], "ipv6", "{enter}");
}

#[test]
fn an_ipv4_mapped_address_is_shown_as_ipv4() {
    let ns = Namespace::new();
    let both_families = ns.listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0));
    let enter = whole_life(&ns, &both_families, V4);
    assert_eq!(enter["socket"]["family"], "ipv4", "{enter}");
    assert_eq!(enter["socket"]["local"]["address"], "127.0.0.1", "{enter}");
}

#[test]
fn a_client_whose_server_closes_first_is_seen_and_not_called_a_server() {
    let mut agent = Agent::start(&["--events", "all"]);
    let ns = Namespace::new();
    let pair = ns.pair(V4);
    let id = ns.id(&pair.client);
    socket::fin(&pair.client, || pair.server.shutdown(Shutdown::Write).unwrap());
    let enter = agent.wait_for_socket("enter", &id);
    // Nothing in the kernel identifies a client for certain, so its role may be unknown.
    assert_ne!(enter["socket"]["role"], "server", "{enter}");
    drop(pair.client);
    let leave = agent.wait_for_socket("leave", &id);
    assert_eq!(leave["how"], "closed", "{leave}");
    assert_ne!(leave["socket"]["role"], "server", "{leave}");
}

#[test]
fn a_server_whose_listener_has_no_backlog_is_not_called_a_client() {
    let mut agent = Agent::start(&["--events", "all"]);
    let ns = Namespace::new();
    let listener = ns.listen(V4);
    // SAFETY: takes numbers only; a second listen changes the backlog.
    let result = unsafe { libc::listen(listener.as_raw_fd(), 0) };
    socket::check(result, "listen");
    let pair = ns.pair_at(&listener, listener.local_addr().unwrap());
    pair.fin();
    let enter = agent.wait_for_socket("enter", &pair.id);
    assert_ne!(enter["socket"]["role"], "client", "{enter}");
}

#[test]
fn an_agent_in_one_namespace_sees_its_own_and_every_other() {
    let (own, other) = (Namespace::new(), Namespace::new());
    let mut agent = own.run(|| Agent::spawn(&mut run_command(&["--events", "all"])));
    for ns in [&own, &other] {
        let pair = ns.pair(V4);
        pair.fin();
        drop(pair.server);
        agent.wait_for_socket("enter", &pair.id);
        agent.wait_for_socket("leave", &pair.id);
    }
}

#[test]
fn the_same_addresses_in_two_namespaces_are_two_sockets() {
    let mut agent = Agent::start(&["--events", "all"]);
    let near = SocketAddr::new(V4.ip(), 7001);
    let far = SocketAddr::new(V4.ip(), 7002);
    let pairs = [Namespace::new(), Namespace::new()].map(|ns| {
        let pair = ns.pair_between(near, far);
        let fin = pair.fin();
        thread::sleep(Duration::from_millis(100));
        (pair, fin)
    });
    let ids = pairs.each_ref().map(|(pair, _fin)| pair.id.clone());
    assert_eq!(ids[0].in_any_namespace(), ids[1].in_any_namespace());
    let cookies =
        pairs.each_ref().map(|(pair, _fin)| check_cookie(&agent.wait_for_socket("enter", &pair.id), &pair.server));
    assert_ne!(cookies[0], cookies[1]);
    for ((pair, fin), cookie) in pairs.into_iter().zip(&cookies) {
        let (closing, ()) = Window::around(|| drop(pair.server));
        let leave = agent.wait_for_socket("leave", &pair.id);
        assert_eq!(leave["socket"]["cookie"], *cookie);
        check_dwell(&leave, fin.until(closing));
    }
    let ended = agent.stop();
    for id in &ids {
        assert_eq!((ended.of_socket("enter", id).len(), ended.of_socket("leave", id).len()), (1, 1), "{id}");
    }
}

#[test]
fn mptcp_is_seen_where_the_kernel_has_it() {
    let ns = Namespace::new();
    let mut agent = Agent::start(&["--events", "all"]);
    let Some((pair, fin)) = waiting_mptcp(&ns) else { return };
    agent.wait_for("`enter` of an mptcp socket", of_mptcp("enter", &pair.id));
    let (closing, ()) = Window::around(|| drop(pair.server));
    let leave = agent.wait_for("`leave` of an mptcp socket", of_mptcp("leave", &pair.id));
    assert_eq!(leave["how"], "closed", "{leave}");
    check_dwell(&leave, fin.until(closing));
}

#[test]
fn an_older_mptcp_socket_is_no_younger_and_no_older_than_said() {
    let ns = Namespace::new();
    let Some((pair, fin)) = waiting_mptcp(&ns) else { return };
    thread::sleep(Duration::from_millis(300));
    let mut agent = Agent::start(&["--events", "all"]);
    let (closing, ()) = Window::around(|| drop(pair.server));
    let leave = agent.wait_for("`leave` of an mptcp socket", of_mptcp("leave", &pair.id));
    assert_eq!(leave["exact"], false, "{leave}");
    let (youngest, oldest) = fin.until(closing);
    assert!(leave["dwell_seconds"].as_f64().is_none_or(|low| low <= oldest), "at most {oldest}: {leave}");
    assert!(
        leave["dwell_at_most_seconds"].as_f64().is_none_or(|high| high >= youngest),
        "at least {youngest}: {leave}"
    );
}

/// Returns a Multipath TCP connection whose server entered CLOSE_WAIT within the window. `None` if the kernel has no
/// such connections, which this checks.
fn waiting_mptcp(ns: &Namespace) -> Option<(Pair, Window)> {
    let open = || ns.run(|| socket::open(libc::AF_INET, libc::IPPROTO_MPTCP));
    // A setting of the own namespace.
    let switch = ns.run(|| fs::read_to_string("/proc/sys/net/mptcp/enabled"));
    if !switch.as_ref().is_ok_and(|switch| switch.trim() == "1") {
        skip(&format!("net.mptcp.enabled is {switch:?}: checked only that there are no such sockets"));
        let error = open().expect_err("a Multipath TCP socket of a kernel without it");
        assert!(matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::ENOPROTOOPT)), "{error}");
        tell("MPTCP", "no");
        return None;
    }
    let listener = TcpListener::from(open().expect("a Multipath TCP socket"));
    socket::bind(&listener, V4);
    socket::listen(&listener);
    let client = TcpStream::from(open().expect("a Multipath TCP socket"));
    socket::connect(&client, listener.local_addr().expect("the listener's address"));
    let (server, _address) = listener.accept().expect("accept");
    let pair = Pair { id: ns.id(&server), client, server };
    let fin = pair.fin();
    tell("MPTCP", "yes");
    Some((pair, fin))
}

#[expect(clippy::print_stderr, reason = "a test that skips something says why")]
fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

fn of_mptcp<'a>(kind: &'a str, id: &'a Id) -> impl Fn(&Value) -> bool + 'a {
    move |event| event["event"] == kind && id.is_in(event) && event["socket"]["protocol"] == "mptcp"
}

/// Checks the socket's cookie in the event of its entry, if the kernel program can read it. The test reads it now; if
/// it is the first, the kernel assigns it now.
fn check_cookie(enter: &Value, server: &TcpStream) -> u64 {
    let cookie = socket::cookie(server);
    let expected = if can(Ability::Cookie) { cookie.into() } else { Value::Null };
    assert_eq!(enter["socket"]["cookie"], expected, "{enter}");
    cookie
}

/// Makes a connection to `address` enter and exit. Returns the event of its entry.
fn whole_life(ns: &Namespace, listener: &TcpListener, address: SocketAddr) -> Value {
    let mut agent = Agent::start(&["--events", "all"]);
    let port = listener.local_addr().expect("the listener's address").port();
    let pair = ns.pair_at(listener, SocketAddr::new(address.ip(), port));
    let fin = pair.fin();
    let enter = agent.wait_for_socket("enter", &pair.id);
    let shown = &enter["socket"];
    assert_eq!(shown["protocol"], "tcp", "{enter}");
    assert_eq!(shown["role"], "server", "{enter}");
    assert_eq!(shown["netns"], ns.inode, "{enter}");
    assert_eq!(shown["accepted"], true, "{enter}");
    assert_eq!(shown["inode"], socket::inode(&pair.server), "{enter}");
    let cookie = check_cookie(&enter, &pair.server);

    let (closing, ()) = Window::around(|| drop(pair.server));
    let leave = agent.wait_for_socket("leave", &pair.id);
    assert_eq!((&leave["how"], &leave["socket"]["cookie"]), (&"closed".into(), &cookie.into()), "{leave}");
    check_dwell(&leave, fin.until(closing));
    let ended = agent.stop();
    assert_eq!((ended.of_socket("enter", &pair.id).len(), ended.of_socket("leave", &pair.id).len()), (1, 1));
    enter
}
