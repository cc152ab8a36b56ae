//! JSON object of a socket, in all outputs.

use serde::Serialize;

use super::{EndpointObject, seconds};
use closewait_engine::{
    model::{Opener, Protocol, ReadState, Role, Socket, Timer, TimerKind},
    time::BootTime,
    workload::Workload,
};

#[derive(Serialize)]
pub(in crate::sink) struct SocketObject<'a> {
    cookie: Option<u64>,
    netns: Option<u32>,
    family: &'static str,
    protocol: &'static str,
    local: EndpointObject,
    remote: EndpointObject,
    role: Option<&'static str>,
    inode: Option<u64>,
    cgroup: Option<u64>,
    container: Option<&'a str>,
    unit: Option<&'a str>,
    pod: Option<PodObject<'a>>,
    accepted: Option<bool>,
    unread_bytes: Option<u32>,
    received_bytes: Option<u64>,
    sent_bytes: Option<u64>,
    acked_bytes: Option<u64>,
    send_queue_bytes: Option<u32>,
    read_state: Option<&'static str>,
    replied: Option<bool>,
    keepalive: Option<bool>,
    timer: Option<TimerObject>,
    opener: Option<OpenerObject<'a>>,
}

#[derive(Serialize)]
pub(in crate::sink) struct PodObject<'a> {
    uid: &'a str,
    name: Option<&'a str>,
    namespace: Option<&'a str>,
    container: Option<&'a str>,
}

#[derive(Serialize)]
struct TimerObject {
    kind: &'static str,
    expires_seconds: f64,
    retries: u8,
}

#[derive(Serialize)]
struct OpenerObject<'a> {
    pid: u32,
    comm: &'a str,
    seconds_ago: f64,
}

impl<'a> SocketObject<'a> {
    /// Creates the object at `at`; `workload` is that of its cgroup, if it was read.
    pub(in crate::sink) fn new(socket: &'a Socket, at: BootTime, workload: Option<&'a Workload>) -> Self {
        let (container, unit, pod) = workload_members(workload);
        Self {
            cookie: socket.cookie,
            netns: socket.netns,
            family: if socket.local.address.is_ipv4() { "ipv4" } else { "ipv6" },
            protocol: match socket.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Mptcp => "mptcp",
            },
            local: socket.local.into(),
            remote: socket.remote.into(),
            role: socket.role.map(Role::name),
            inode: socket.inode,
            cgroup: socket.cgroup,
            container,
            unit,
            pod,
            accepted: socket.accepted,
            unread_bytes: socket.unread_bytes,
            received_bytes: socket.received_bytes,
            sent_bytes: socket.sent_bytes,
            acked_bytes: socket.acked_bytes,
            send_queue_bytes: socket.send_queue_bytes,
            read_state: socket.read_state().map(read_state),
            replied: socket.replied(),
            keepalive: socket.keepalive,
            timer: socket.timer.map(|Timer { kind, expires, retries }| TimerObject {
                kind: timer(kind),
                expires_seconds: seconds(expires.since(at)),
                retries,
            }),
            opener: socket.opener.as_deref().map(|Opener { task, at: opened }| OpenerObject {
                pid: task.pid,
                comm: task.comm.as_str(),
                seconds_ago: seconds(at.since(*opened)),
            }),
        }
    }
}

/// Returns `container`, `unit` and `pod`.
pub(super) fn workload_members(workload: Option<&Workload>) -> (Option<&str>, Option<&str>, Option<PodObject<'_>>) {
    let Some(Workload { unit, container, pod, .. }) = workload else { return (None, None, None) };
    let pod = pod.as_ref().map(|pod| PodObject {
        uid: &pod.uid,
        name: pod.name.as_deref(),
        namespace: pod.namespace.as_deref(),
        container: pod.container_name.as_deref(),
    });
    (container.as_ref().map(|container| container.id.as_str()), unit.as_deref(), pod)
}

pub(in crate::sink) fn read_state(state: ReadState) -> &'static str {
    match state {
        ReadState::NeverRead => "never_read",
        ReadState::Probe => "probe",
        ReadState::IdleFin => "idle_fin",
        ReadState::Goodbye => "goodbye",
        ReadState::Partial => "partial",
        ReadState::FinConsumed => "fin_consumed",
    }
}

/// Returns the name of a timer in `ss -o`.
pub(in crate::sink) fn timer(kind: TimerKind) -> &'static str {
    match kind {
        TimerKind::On => "on",
        TimerKind::Keepalive => "keepalive",
        TimerKind::Persist => "persist",
    }
}
