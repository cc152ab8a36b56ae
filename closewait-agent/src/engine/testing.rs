//! Sockets for tests.

use std::net::Ipv4Addr;

use super::{
    model::{Endpoint, Holder, Protocol, Role, Socket, Task},
    text::Comm,
};

/// A plain one.
pub(crate) fn socket() -> Socket {
    socket_on_port(8080)
}

/// A plain one on a given local port.
pub(crate) fn socket_on_port(port: u16) -> Socket {
    Socket {
        cookie: Some(7),
        netns: Some(4_026_531_840),
        protocol: Protocol::Tcp,
        local: Endpoint { address: Ipv4Addr::new(10, 0, 0, 5).into(), port },
        remote: Endpoint { address: Ipv4Addr::new(10, 0, 0, 9).into(), port: 51_234 },
        role: Some(Role::Server),
        inode: Some(99),
        cgroup: None,
        accepted: Some(true),
        unread_bytes: Some(1),
        received_bytes: Some(1),
        sent_bytes: Some(0),
        keepalive: Some(false),
        acked_bytes: None,
        send_queue_bytes: None,
        last_received: None,
        last_ack: None,
        last_sent: None,
        timer: None,
        opener: None,
    }
}

/// A descriptor of a process.
pub(crate) fn holder(pid: u32, fd: u32) -> Holder {
    Holder { task: Task { pid, comm: Comm::from_kernel(b"worker\0\0\0\0\0\0\0\0\0\0") }, fd }
}
