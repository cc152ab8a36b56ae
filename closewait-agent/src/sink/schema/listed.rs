//! JSON objects of `list`.

use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::{
    DwellMembers, EndpointObject, OwnerObject, ProcessObject, SCHEMA_VERSION, SocketObject, TaskObject, VerdictObject,
    seconds,
    socket::{PodObject, workload_members},
};
#[cfg(test)]
use crate::sink::document::*;
use closewait_engine::{
    diagnose::Seen,
    model::{Class, Exit, Listener},
    snapshot::groups::{Key, ListedGroup},
    snapshot::query::GroupBy,
    snapshot::view::Row,
    time::BootTime,
};

/// Listed socket.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct ListedObject<'a> {
    /// Version of the schema.
    #[cfg_attr(test, schemars(with = "Version"))]
    schema_version: u32,
    /// Time of the list.
    #[cfg_attr(test, schemars(with = "Time"))]
    time: &'a str,
    /// Socket, as read at `time`.
    socket: SocketObject<'a>,
    #[serde(flatten)]
    dwell: DwellMembers,
    /// Every descriptor of the socket; `null` where the kernel does not provide it.
    owners: Option<Vec<OwnerObject<'a>>>,
    /// Diagnosis of the socket.
    verdict: VerdictObject<'a>,
    /// Listener that the socket waits at or came out of; `null` if there is none, or it is unknown.
    listener: Option<ListenerObject<'a>>,
    /// Remote end of the connection that this one waits for, if it is one leg of a proxied connection; otherwise
    /// `null`.
    waits_for: Option<EndpointObject>,
    /// Timeout of connections in CLOSE_WAIT in the connection tracking of the socket's network namespace, in seconds;
    /// `null` where connections are not tracked.
    conntrack_timeout_seconds: Option<f64>,
    /// Whether a process has a descriptor of the socket; `null` if unknown.
    fd_open: Option<bool>,
    /// Exit of a socket that exited CLOSE_WAIT while its descriptor is open: its dwell time ended with the exit; `null`
    /// for a socket in CLOSE_WAIT.
    left: Option<LeftObject<'a>>,
    /// First owner, or the owner of the listener for a socket that no program has accepted, as inspected within the
    /// last seconds; `null` if unknown.
    process: Option<ProcessObject<'a>>,
}

/// Listening socket.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct ListenerObject<'a> {
    #[serde(flatten)]
    local: EndpointObject,
    /// Number of connections that wait to be accepted (`ss`: Recv-Q).
    backlog: u32,
    /// Limit of `backlog` (`ss`: Send-Q).
    backlog_max: u32,
    /// Descriptors of the listener.
    owners: Vec<OwnerObject<'a>>,
}

/// Exit of a socket from CLOSE_WAIT.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct LeftObject<'a> {
    /// Cause of the exit.
    #[cfg_attr(test, schemars(with = "ExitName"))]
    how: &'static str,
    /// Time since the exit, in seconds; `null` if the agent missed the exit.
    seconds_ago: Option<f64>,
    /// Task in whose context the state changed; `null` if it was not the task's own work, or is unknown.
    closer: Option<TaskObject<'a>>,
}

impl<'a> ListedObject<'a> {
    /// Creates the object of a row, in its state at `now`, which is `time` on the wall clock.
    pub(in crate::sink) fn new(row: &'a Row<'a>, now: BootTime, time: &'a str) -> Self {
        let owners = row.owners.as_deref();
        Self {
            schema_version: SCHEMA_VERSION,
            time,
            socket: SocketObject::new(&row.socket, now, row.workload),
            dwell: row.dwell.into(),
            owners: owners.map(|owners| owners.iter().map(Into::into).collect()),
            verdict: (&row.verdict).into(),
            listener: row.listener.map(Into::into),
            waits_for: row.proxy_peer.map(|proxy_peer| proxy_peer.socket.remote.into()),
            conntrack_timeout_seconds: row.conntrack.map(seconds),
            fd_open: match (row.gone, owners, row.socket.accepted) {
                (Some(_), _, _) | (None, Some([_, ..]), _) => Some(true),
                (None, _, Some(false)) => Some(false),
                // The socket may be in transit to another process.
                (None, Some([]) | None, _) => None,
            },
            left: row.gone.map(|Exit { at, seen, how: left, closer, dwell: _ }| LeftObject {
                how: left.name(),
                seconds_ago: seen.then(|| seconds(now.since(*at))),
                closer: closer.as_ref().map(Into::into),
            }),
            process: row.process.map(Into::into),
        }
    }
}

impl<'a> From<&'a Seen<Listener>> for ListenerObject<'a> {
    fn from(seen: &'a Seen<Listener>) -> Self {
        let Listener { local, backlog, backlog_max, .. } = seen.what;
        Self { local: local.into(), backlog, backlog_max, owners: seen.owners.iter().map(Into::into).collect() }
    }
}

/// Group of sockets.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct GroupObject<'a> {
    /// Version of the schema.
    #[cfg_attr(test, schemars(with = "Version"))]
    schema_version: u32,
    /// Time of the list.
    #[cfg_attr(test, schemars(with = "Time"))]
    time: &'a str,
    /// Property that the sockets of the group share. The member of this name has its value.
    #[cfg_attr(test, schemars(with = "GroupByName"))]
    by: &'static str,
    #[serde(flatten)]
    key: KeyMembers<'a>,
    /// Number of sockets in CLOSE_WAIT.
    count: u32,
    /// Longest certain dwell time, in seconds; `null` without sockets in CLOSE_WAIT.
    oldest_seconds: Option<f64>,
    /// Median of the certain dwell times, in seconds; `null` without sockets in CLOSE_WAIT.
    median_seconds: Option<f64>,
    /// Number of sockets in CLOSE_WAIT for each class that occurs.
    #[cfg_attr(test, schemars(with = "VerdictCounts"))]
    verdicts: Verdicts<'a>,
    /// Processes that own the sockets.
    owners: Vec<TaskObject<'a>>,
    /// Number of open descriptors of the process; `null` if the group is not a process, or the number is unknown.
    fds_open: Option<u64>,
    /// Limit of open descriptors of the process; `null` if the group is not a process, or the limit is unknown.
    fds_limit: Option<u64>,
    /// Number of sockets that exited CLOSE_WAIT while a descriptor is open; not included in `count`.
    zombies: u32,
}

/// Key of the group; `null` where there is none.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(untagged)]
enum KeyMembers<'a> {
    Process {
        /// Process that owns the sockets, or their listener; `null` for the sockets without a known owner.
        process: Option<TaskObject<'a>>,
    },
    Listener {
        /// Inode of the network namespace of `listener`; `null` if unknown.
        netns: Option<u32>,
        /// Listener that the sockets wait at or came out of; `null` for the sockets without one.
        listener: Option<EndpointObject>,
    },
    Peer {
        /// Remote address of the sockets, with the port where the peer is the server.
        peer: PeerObject,
    },
    Cgroup {
        /// Id of the cgroup v2 of the sockets; `null` for the sockets without a known one.
        cgroup: Option<u64>,
        /// Id of the container of the cgroup; `null` if there is none, or it is unknown.
        container: Option<&'a str>,
        /// Systemd unit of the cgroup; `null` if there is none, or it is unknown.
        unit: Option<&'a str>,
        /// Pod of the cgroup; `null` if there is none, or it is unknown.
        pod: Option<PodObject<'a>>,
    },
}

/// Remote address, with the port of a server.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct PeerObject {
    /// IP address of the peers.
    address: IpAddr,
    /// Port of the peer, where the peer is the server; otherwise `null`.
    port: Option<u16>,
}

struct Verdicts<'a>(&'a [(Class, u32)]);

impl Serialize for Verdicts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(class, count)| (class.name(), count)))
    }
}

impl<'a> GroupObject<'a> {
    /// Creates the object for a line of `list --by`.
    pub(in crate::sink) fn new(group: &'a ListedGroup, by: GroupBy, time: &'a str) -> Self {
        let key = match group.key {
            Key::Process(_) => KeyMembers::Process { process: group.owners.first().map(Into::into) },
            Key::NoProcess | Key::AnyProcess => KeyMembers::Process { process: None },
            Key::Listener { netns, local } => KeyMembers::Listener { netns, listener: Some(local.into()) },
            Key::NoListener => KeyMembers::Listener { netns: None, listener: None },
            Key::Peer(address, port) => KeyMembers::Peer { peer: PeerObject { address, port } },
            Key::Cgroup(_) | Key::NoCgroup => {
                let (container, unit, pod) = workload_members(group.workload.as_ref());
                let id = if let Key::Cgroup(id) = group.key { Some(id) } else { None };
                KeyMembers::Cgroup { cgroup: id, container, unit, pod }
            }
        };
        Self {
            schema_version: SCHEMA_VERSION,
            time,
            by: by.name(),
            key,
            count: group.count,
            oldest_seconds: group.oldest.map(seconds),
            median_seconds: group.median.map(seconds),
            verdicts: Verdicts(&group.verdicts),
            owners: group.owners.iter().map(Into::into).collect(),
            fds_open: group.fds.0,
            fds_limit: group.fds.1,
            zombies: group.gone,
        }
    }
}
