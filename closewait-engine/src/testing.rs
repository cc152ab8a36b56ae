//! Sockets for tests.

use std::{net::Ipv4Addr, time::Duration};

use super::{
    model::{Certainty, Class, Dwell, Endpoint, Listener, Owner, Protocol, Role, Socket, Task, Verdict},
    process::Process,
    snapshot::view::Row,
    text::Comm,
    workload::Workload,
};

/// A plain one.
pub fn socket() -> Socket {
    socket_on_port(8080)
}

/// A plain one on a given local port.
pub fn socket_on_port(port: u16) -> Socket {
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

/// A descriptor.
pub fn owner(comm: &str, pid: u32, fd: u32) -> Owner {
    Owner { task: Task { pid, comm: Comm::from_name(comm.as_bytes()) }, fd }
}

/// A listener on every address.
pub fn listener(port: u16, backlog: u32, backlog_max: u32) -> Listener {
    let local = Endpoint { address: Ipv4Addr::UNSPECIFIED.into(), port };
    Listener { netns: Some(4_026_531_840), local, backlog, backlog_max, inode: Some(50) }
}

/// A verdict.
pub fn verdict(class: Class, certainty: Certainty) -> Verdict {
    let (text, next) = ("this is why".to_owned(), "do this".to_owned());
    Verdict { class, rule: "close_missing", certainty, text, next }
}

/// A socket and nothing around it, 90 seconds in CLOSE_WAIT.
pub fn row(socket: &Socket) -> Row<'_> {
    Row {
        socket,
        dwell: Some(Dwell::Exact(Duration::from_secs(90))),
        gone: None,
        owners: None,
        listener: None,
        workload: None,
        conntrack: None,
        proxy_peer: None,
        process: None,
        verdict: verdict(Class::Hung, Certainty::High),
    }
}

/// A container of a pod.
pub fn workload() -> Workload {
    let id = "4f5e6d7c8b9a".repeat(6);
    let json = serde_json::json!({
        "cgroup_path": format!("/kubepods.slice/kubepods-pod1234.slice/cri-containerd-{}.scope", &id[..64]),
        "unit": null,
        "container": { "id": &id[..64], "runtime": "containerd" },
        "pod": { "uid": "0b2c", "name": "shop-api-7d9f", "namespace": "shop", "container_name": "api" },
    });
    serde_json::from_value(json).expect("a process")
}

/// A process with some descriptors open.
pub fn process(comm: &str, pid: u32, fds: Option<(u64, u64)>) -> Process {
    Process {
        fds_open: fds.map(|(open, _limit)| open),
        fds_limit: fds.map(|(_open, limit)| limit),
        ..Process::unread(pid, owner(comm, pid, 0).task.comm)
    }
}
