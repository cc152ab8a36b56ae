//! Sockets in CLOSE_WAIT that no program has accepted yet, or only after their FIN.

use std::net::{Shutdown, TcpListener, TcpStream};

use serde_json::Value;

use crate::{
    agent::Agent,
    net::{Id, Namespace, V4},
    socket,
};

#[test]
fn a_socket_that_nobody_accepts_is_stuck_without_a_descriptor() {
    let (mut agent, _ns, _listener, _client, id) = in_the_backlog();
    for kind in ["enter", "stuck"] {
        let event = agent.wait_for_socket(kind, &id);
        assert_eq!(event["socket"]["accepted"], false, "{event}");
        assert_eq!(event["socket"]["inode"], Value::Null, "{event}");
        assert_eq!(event["socket"]["role"], "server", "{event}");
    }
}

#[test]
fn a_socket_accepted_after_its_fin_is_accepted_when_it_leaves() {
    let (mut agent, _ns, listener, _client, id) = in_the_backlog();
    agent.wait_for_socket("enter", &id);
    let (server, _address) = listener.accept().unwrap();
    let inode = socket::inode(&server);
    drop(server);
    let leave = agent.wait_for_socket("leave", &id);
    assert_eq!((&leave["how"], &leave["fd_open"]), (&"closed".into(), &false.into()), "{leave}");
    assert_eq!(leave["socket"]["accepted"], true, "{leave}");
    assert_eq!(leave["socket"]["inode"], inode, "{leave}");
    assert_eq!(leave["closer"]["pid"], std::process::id(), "{leave}");
}

#[test]
fn a_socket_accepted_after_its_fin_is_not_called_never_accepted() {
    let (mut agent, _ns, listener, _client, id) = in_the_backlog();
    agent.wait_for_socket("enter", &id);
    let (server, _address) = listener.accept().unwrap();
    // accept() is no event of the kernel program: the agent has to refresh the socket before it reports.
    let stuck = agent.wait_for_socket("stuck", &id);
    assert_ne!(stuck["socket"]["accepted"], false, "{stuck}");
    if !stuck["socket"]["inode"].is_null() {
        assert_eq!(stuck["socket"]["inode"], socket::inode(&server), "{stuck}");
    }
}

/// Returns a connection in the backlog whose FIN has arrived.
fn in_the_backlog() -> (Agent, Namespace, TcpListener, TcpStream, Id) {
    let agent = Agent::start(&["--events", "all", "--stuck-after", "300ms"]);
    let ns = Namespace::new();
    let listener = ns.listen(V4);
    let client = ns.connect(listener.local_addr().expect("the listener's address"));
    let id = ns.id_of_peer(&client);
    client.shutdown(Shutdown::Write).expect("shutdown");
    (agent, ns, listener, client, id)
}
