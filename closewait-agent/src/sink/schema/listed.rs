//! JSON objects of `list`.

use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::{
    DwellMembers, EndpointObject, OwnerObject, ProcessObject, SCHEMA_VERSION, SocketObject, TaskObject, VerdictObject,
    how, seconds,
    socket::{PodObject, workload_members},
};
use closewait_engine::{
    diagnose::Seen,
    model::{Class, Exit, Listener},
    snapshot::groups::{Key, ListedGroup},
    snapshot::query::GroupBy,
    snapshot::view::Row,
    time::BootTime,
};

/// JSON object of one listed socket.
#[derive(Serialize)]
pub(in crate::sink) struct ListedObject<'a> {
    schema_version: u32,
    time: &'a str,
    socket: SocketObject<'a>,
    #[serde(flatten)]
    dwell: DwellMembers,
    owners: Option<Vec<OwnerObject<'a>>>,
    verdict: VerdictObject<'a>,
    listener: Option<ListenerObject<'a>>,
    waits_for: Option<EndpointObject>,
    conntrack_timeout_seconds: Option<f64>,
    fd_open: Option<bool>,
    left: Option<LeftObject<'a>>,
    process: Option<ProcessObject<'a>>,
}

#[derive(Serialize)]
struct ListenerObject<'a> {
    #[serde(flatten)]
    local: EndpointObject,
    backlog: u32,
    backlog_max: u32,
    owners: Vec<OwnerObject<'a>>,
}

#[derive(Serialize)]
struct LeftObject<'a> {
    how: &'static str,
    seconds_ago: Option<f64>,
    closer: Option<TaskObject<'a>>,
}

impl<'a> ListedObject<'a> {
    /// Creates the object of a row, in its state at `now`, which is `time` on the wall clock.
    pub(in crate::sink) fn new(row: &'a Row<'a>, now: BootTime, time: &'a str) -> Self {
        let owners = row.owners;
        Self {
            schema_version: SCHEMA_VERSION,
            time,
            socket: SocketObject::new(row.socket, now, row.workload),
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
                how: how(*left),
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

/// JSON object of a group of sockets.
#[derive(Serialize)]
pub(in crate::sink) struct GroupObject<'a> {
    schema_version: u32,
    time: &'a str,
    by: &'static str,
    #[serde(flatten)]
    key: KeyMembers<'a>,
    count: u32,
    oldest_seconds: Option<f64>,
    median_seconds: Option<f64>,
    verdicts: Verdicts<'a>,
    owners: Vec<TaskObject<'a>>,
    fds_open: Option<u64>,
    fds_limit: Option<u64>,
    zombies: u32,
}

/// Key of the group; `null` where there is none.
#[derive(Serialize)]
#[serde(untagged)]
enum KeyMembers<'a> {
    Process { process: Option<TaskObject<'a>> },
    Listener { netns: Option<u32>, listener: Option<EndpointObject> },
    Peer { peer: PeerObject },
    Cgroup { cgroup: Option<u64>, container: Option<&'a str>, unit: Option<&'a str>, pod: Option<PodObject<'a>> },
}

#[derive(Serialize)]
struct PeerObject {
    address: IpAddr,
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
