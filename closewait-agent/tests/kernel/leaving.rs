//! Exits from CLOSE_WAIT: every way, each with the facts that only it has.

use std::{
    io::Write as _,
    net::{Shutdown, TcpStream},
    os::fd::OwnedFd,
    process::{self, Command},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    agent::{Agent, Running},
    clock::{Window, apart, patience, poll_until},
    net::{Namespace, V4},
    socket,
};

/// Name of the thread that closes sockets.
const CLOSER: &str = "cw-closer";

#[test]
fn close_is_closed_and_names_the_thread_that_closed() {
    let (mut agent, ns) = begin();
    let pair = ns.waiting(V4).0;
    as_closer(|| drop(pair.server));
    let leave = agent.wait_for_socket("leave", &pair.id);
    check(&leave, "closed", false);
    check_closer(&leave);
}

#[test]
fn closing_one_of_two_descriptors_is_not_leaving() {
    let (mut agent, ns) = begin();
    let pair = ns.waiting(V4).0;
    let copy = pair.server.try_clone().unwrap();
    drop(pair.server);
    thread::sleep(Duration::from_millis(300));
    let (closing, ()) = Window::around(|| drop(copy));
    let leave = agent.wait_for_socket("leave", &pair.id);
    check(&leave, "closed", false);
    let dwell = leave["dwell_seconds"].as_f64().unwrap();
    assert!(dwell >= 0.3, "left with the first of two descriptors: {leave}, closed within {closing:?}");
    assert_eq!(agent.stop().of_socket("leave", &pair.id).len(), 1);
}

#[test]
fn shutdown_with_the_descriptor_kept_is_shutdown() {
    let (mut agent, ns) = begin();
    let pair = ns.waiting(V4).0;
    as_closer(|| pair.server.shutdown(Shutdown::Write).unwrap());
    let leave = agent.wait_for_socket("leave", &pair.id);
    check(&leave, "shutdown", true);
    check_closer(&leave);

    // It has exited CLOSE_WAIT: the close that follows is no second exit.
    drop(pair.server);
    agent.watch(Duration::from_millis(200));
    assert_eq!(agent.stop().of_socket("leave", &pair.id).len(), 1);
}

#[test]
fn shutdown_and_then_close_at_once_is_one_leaving() {
    let (mut agent, ns) = begin();
    let pair = ns.waiting(V4).0;
    pair.server.shutdown(Shutdown::Both).unwrap();
    drop(pair.server);
    check(&agent.wait_for_socket("leave", &pair.id), "shutdown", true);
    assert_eq!(agent.stop().of_socket("leave", &pair.id).len(), 1);
}

#[test]
fn close_with_unread_data_is_aborted() {
    let (mut agent, ns) = begin();
    let mut pair = ns.pair(V4);
    pair.client.write_all(b"unread").unwrap();
    pair.fin();
    as_closer(|| drop(pair.server));
    let leave = agent.wait_for_socket("leave", &pair.id);
    check(&leave, "aborted", false);
    check_closer(&leave);
    assert_eq!(leave["socket"]["unread_bytes"], 7, "six and the FIN: {leave}");
}

#[test]
fn close_with_a_linger_of_zero_is_aborted() {
    let (mut agent, ns) = begin();
    let pair = ns.waiting(V4).0;
    socket::linger_zero(&pair.server);
    as_closer(|| drop(pair.server));
    let leave = agent.wait_for_socket("leave", &pair.id);
    check(&leave, "aborted", false);
    check_closer(&leave);
}

#[test]
fn connecting_to_nothing_is_aborted_with_the_descriptor_kept() {
    let (mut agent, ns) = begin();
    let pair = ns.waiting(V4).0;
    as_closer(|| socket::disconnect(&pair.server));
    let leave = agent.wait_for_socket("leave", &pair.id);
    check(&leave, "aborted", true);
    check_closer(&leave);
}

#[test]
fn a_reset_from_the_peer_is_reset() {
    let (mut agent, ns) = begin();
    let pair = ns.waiting(V4).0;
    socket::linger_zero(&pair.client);
    as_closer(|| drop(pair.client));
    check_error(&pair.server, libc::EPIPE);
    let leave = agent.wait_for_socket("leave", &pair.id);
    check(&leave, "reset", true);
    // On the loopback, the thread that sent the reset also runs the receiver's side: it is not the closer.
    assert_eq!(leave["closer"], Value::Null, "{leave}");
}

#[test]
fn an_answer_that_the_peer_refuses_is_reset() {
    let (mut agent, ns) = begin();
    let mut pair = ns.pair(V4);
    // Closed, not half-closed: the peer accepts no more data.
    socket::fin(&pair.server, || drop(pair.client));
    pair.server.write_all(b"too late").unwrap();
    check_error(&pair.server, libc::EPIPE);
    let leave = agent.wait_for_socket("leave", &pair.id);
    check(&leave, "reset", true);
    assert_eq!(leave["closer"], Value::Null, "{leave}");
}

#[test]
fn a_peer_that_is_not_heard_any_more_is_timeout() {
    let (mut agent, ns) = begin();
    let mut unanswered = ns.waiting(V4).0;
    let probed = ns.waiting(V4).0;
    let limit_ms = 500_u32;
    socket::set_option(&unanswered.server, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, limit_ms);
    for (level, name) in [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    ] {
        socket::set_option(&probed.server, level, name, 1_i32);
    }
    ns.cut();
    unanswered.server.write_all(b"into the void").unwrap();
    for (pair, keepalive) in [(unanswered, false), (probed, true)] {
        check_error(&pair.server, libc::ETIMEDOUT);
        let leave = agent.wait_for_socket("leave", &pair.id);
        check(&leave, "timeout", true);
        assert_eq!(leave["closer"], Value::Null, "{leave}");
        assert_eq!(leave["socket"]["keepalive"], keepalive, "{leave}");
    }
}

#[test]
fn sock_destroy_is_destroyed() {
    let (mut agent, ns) = begin();
    let pair = ns.waiting(V4).0;
    let port = pair.id.local.port().to_string();
    let killed = ns.run(|| Command::new("ss").args(["-K", "-tn", "state", "close-wait", "sport", "=", &port]).output());
    check_error(&pair.server, libc::ECONNABORTED);
    assert!(killed.unwrap().status.success());
    let leave = agent.wait_for_socket("leave", &pair.id);
    check(&leave, "destroyed", true);
    assert_eq!(leave["closer"], Value::Null, "{leave}");
}

#[test]
fn closing_the_listener_is_listener_closed_for_those_not_accepted() {
    let (mut agent, ns) = begin();
    let listener = ns.listen(V4);
    let client = ns.connect(listener.local_addr().unwrap());
    let id = ns.id_of_peer(&client);
    client.shutdown(Shutdown::Write).unwrap();
    agent.wait_for_socket("enter", &id);
    drop(listener);
    let leave = agent.wait_for_socket("leave", &id);
    assert_eq!(leave["how"], "listener_closed", "{leave}");
    assert_eq!(leave["socket"]["accepted"], false, "{leave}");
    assert_ne!(leave["fd_open"], true, "there never was a descriptor: {leave}");
}

#[test]
fn a_reset_before_accept_is_reset() {
    let (mut agent, ns) = begin();
    let listener = ns.listen(V4);
    let client = ns.connect(listener.local_addr().unwrap());
    let id = ns.id_of_peer(&client);
    client.shutdown(Shutdown::Write).unwrap();
    agent.wait_for_socket("enter", &id);
    socket::linger_zero(&client);
    drop(client);
    let leave = agent.wait_for_socket("leave", &id);
    assert_eq!(leave["how"], "reset", "{leave}");
    assert_eq!(leave["socket"]["accepted"], false, "{leave}");
    assert_ne!(leave["fd_open"], true, "there never was a descriptor: {leave}");
}

#[test]
fn the_death_of_the_owner_is_closed_by_the_owner() {
    let (mut agent, ns) = begin();
    let pair = ns.waiting(V4).0;
    // The child's stdin is the socket: when the command is dropped, only the child owns it.
    let mut child = Command::new("sleep");
    child.arg("1000").stdin(OwnedFd::from(pair.server));
    let mut owner = Running(child.spawn().unwrap());
    drop(child);
    let pid = owner.pid();
    owner.end();
    let leave = agent.wait_for_socket("leave", &pair.id);
    check(&leave, "closed", false);
    assert_eq!((&leave["closer"]["pid"], &leave["closer"]["comm"]), (&pid.into(), &"sleep".into()), "{leave}");
}

#[test]
fn a_name_full_of_control_characters_is_made_harmless() {
    let (mut agent, ns) = begin();
    let pair = ns.waiting(V4).0;
    // An escape sequence, a line break, the right-to-left override, and a byte that is no UTF-8.
    let name = c"a\x1b[2J\n\u{202e}\xff";
    thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: the name is a text that ends in a zero and outlives the call, which copies 16 bytes at most.
            let result = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
            socket::check(result, "prctl(PR_SET_NAME)");
            drop(pair.server);
        });
    });
    let leave = agent.wait_for_socket("leave", &pair.id);
    let shown = leave["closer"]["comm"].as_str().unwrap();
    assert!(shown.starts_with('a'), "{leave}");
    assert!(!shown.chars().any(|shown| shown.is_control() || shown == '\u{202e}'), "{leave}");
}

#[test]
fn the_dwell_time_is_that_of_the_clock() {
    let (mut agent, ns) = begin();
    let mut sockets = Vec::new();
    for dwell_ms in [800, 400, 200, 100, 50, 20, 5, 1, 0] {
        let (pair, fin) = ns.waiting(V4);
        sockets.push((dwell_ms, pair, fin));
    }
    // The sockets with the shortest dwell times enter last and exit first.
    for (dwell_ms, pair, fin) in sockets.into_iter().rev() {
        let rest = fin.from + f64::from(dwell_ms) / 1e3 - crate::clock::boot_seconds();
        thread::sleep(Duration::from_secs_f64(rest.max(0.0)));
        let (closing, ()) = Window::around(|| drop(pair.server));
        let leave = agent.wait_for_socket("leave", &pair.id);
        check(&leave, "closed", false);
        check_dwell(&leave, fin.until(closing));
    }
}

/// Checks for an exact dwell time that is at most 5 ms outside of the possible range, or more on a slow machine.
pub(crate) fn check_dwell(leave: &Value, (shortest, longest): (f64, f64)) {
    let dwell = leave["dwell_seconds"].as_f64().expect("a dwell time");
    assert_eq!(leave["exact"], true, "{leave}");
    assert!((shortest - apart()..=longest + apart()).contains(&dwell), "not within {shortest}..{longest}: {leave}");
}

fn begin() -> (Agent, Namespace) {
    (Agent::start(&["--events", "all"]), Namespace::new())
}

/// Runs `work` on a thread named [`CLOSER`].
fn as_closer(work: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(CLOSER.to_owned()).spawn_scoped(scope, work);
        thread.expect("a thread").join().expect("the work of the closer");
    });
}

fn check(leave: &Value, how: &str, fd_open: bool) {
    assert_eq!((&leave["how"], &leave["fd_open"]), (&how.into(), &fd_open.into()), "{leave}");
    assert_eq!(leave["socket"]["accepted"], true, "{leave}");
}

fn check_closer(leave: &Value) {
    let expected = (&process::id().into(), &CLOSER.into());
    assert_eq!((&leave["closer"]["pid"], &leave["closer"]["comm"]), expected, "{leave}");
}

/// Waits until the connection has failed with this error.
fn check_error(server: &TcpStream, expected: i32) {
    socket::wait_for_end(server);
    let mut seen = None;
    poll_until(patience(), || {
        seen = server.take_error().expect("SO_ERROR").and_then(|error| error.raw_os_error());
        seen.is_some()
    });
    assert_eq!(seen, Some(expected));
}
