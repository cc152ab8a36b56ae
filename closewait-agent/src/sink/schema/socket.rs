//! JSON object of a socket, in all outputs.

use serde::Serialize;

use super::{EndpointObject, seconds};
#[cfg(test)]
use crate::sink::document::*;
use closewait_engine::{
    model::{Opener, Protocol, ReadState, Role, Socket, Timer, TimerKind},
    time::BootTime,
    workload::Workload,
};

/// Socket, in its state at the `time` of the object.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct SocketObject<'a> {
    /// Number that `SO_COOKIE` and `ss -e` show; it is unique until the host restarts; `null` if unknown.
    cookie: Option<u64>,
    /// Inode of the network namespace; `null` if unknown.
    netns: Option<u32>,
    /// Address family. IPv4-mapped IPv6 addresses count as IPv4.
    #[cfg_attr(test, schemars(with = "FamilyName"))]
    family: &'static str,
    /// Transport protocol.
    #[cfg_attr(test, schemars(with = "ProtocolName"))]
    protocol: &'static str,
    /// Local endpoint.
    local: EndpointObject,
    /// Remote endpoint.
    remote: EndpointObject,
    /// Side of the connection: `server` if the socket came out of a listener; `client` if the agent saw a task connect
    /// it, or no program listens on its port; `null` if neither is known.
    #[cfg_attr(test, schemars(with = "Option<RoleName>"))]
    role: Option<&'static str>,
    /// Inode of the socket, as in `/proc/PID/fd`; `null` if unknown.
    inode: Option<u64>,
    /// Id of the cgroup v2 of the socket; `null` if unknown.
    cgroup: Option<u64>,
    /// Id of the container whose cgroup the socket is in; `null` if there is none, or it is unknown.
    container: Option<&'a str>,
    /// Systemd unit whose cgroup the socket is in; `null` if there is none, or it is unknown.
    unit: Option<&'a str>,
    /// Pod whose cgroup the socket is in; `null` if there is none, or it is unknown.
    pod: Option<PodObject<'a>>,
    /// Whether a program has called `accept()` for the socket; `null` if unknown.
    accepted: Option<bool>,
    /// Bytes that the program has not read, where the FIN counts as one (`ss`: Recv-Q); `null` if unknown.
    unread_bytes: Option<u32>,
    /// Bytes that came in, where the FIN counts as one; `null` if unknown.
    received_bytes: Option<u64>,
    /// Bytes that were sent, including retransmissions; `null` if unknown.
    sent_bytes: Option<u64>,
    /// Bytes of `sent_bytes` that the peer has acknowledged; `null` if unknown.
    acked_bytes: Option<u64>,
    /// Bytes that the program has written and the peer has not acknowledged (`ss`: Send-Q); `null` if unknown.
    send_queue_bytes: Option<u32>,
    /// Part of the received data that the program has read; `null` if unknown.
    #[cfg_attr(test, schemars(with = "Option<ReadStateName>"))]
    read_state: Option<&'static str>,
    /// Whether the program sent anything after the last data came in; `null` if unknown.
    replied: Option<bool>,
    /// Whether `SO_KEEPALIVE` is on; `null` if unknown.
    keepalive: Option<bool>,
    /// Running timer, as `ss -o` shows it; `null` if none runs, or it is unknown.
    timer: Option<TimerObject>,
    /// Task that called `connect()`, if the agent saw it (`--openers`); otherwise `null`.
    opener: Option<OpenerObject<'a>>,
}

/// Pod of Kubernetes.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct PodObject<'a> {
    /// UID of the pod.
    uid: &'a str,
    /// Name of the pod; `null` if unknown.
    name: Option<&'a str>,
    /// Namespace of the pod; `null` if unknown.
    namespace: Option<&'a str>,
    /// Name of the container in the pod; `null` if unknown.
    container: Option<&'a str>,
}

/// Running timer of a socket.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct TimerObject {
    /// Kind of the timer.
    #[cfg_attr(test, schemars(with = "TimerKindName"))]
    kind: &'static str,
    /// Time until the timer expires, in seconds.
    expires_seconds: f64,
    /// Number of retransmissions or probes so far.
    retries: u8,
}

/// Task that called `connect()`.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct OpenerObject<'a> {
    /// PID in the pid namespace of the agent.
    pid: u32,
    /// Name that the kernel has for it (`comm`, 15 bytes at most), with control characters escaped.
    comm: &'a str,
    /// Time since the call, in seconds.
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
            protocol: protocol(socket.protocol),
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

pub(in crate::sink) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Mptcp => "mptcp",
    }
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
