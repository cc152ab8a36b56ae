//! The facts that come in, one enum for each place they come from.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Counters, ExitCause, Listener, Owner, ProxyPeer, QueryId, Since, Socket, SocketKey, SocketLocation, Task};
use crate::{
    process::{Process, Tool},
    text::harmless_field,
    time::BootTime,
    workload::Workload,
};

/// Fact from outside, with the time at which it was true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Observation {
    /// A socket changed its state.
    Socket(SocketEvent),
    /// A scan found something.
    Scan(ScanFact),
    /// A scan ended.
    ScanEnd(ScanEnd),
    /// A refresh found a socket.
    Refresh(RefreshFact),
    /// A refresh ended.
    RefreshEnd(RefreshEnd),
    /// An inspection found something.
    Inspection(InspectionFact),
    /// An inspection ended.
    InspectionEnd(InspectionEnd),
    /// Something happened to a query.
    Query(QueryEvent),
    /// The agent read the kernel's counters, the answer to [`super::Output::ReadCounters`].
    Counters {
        /// Time at which the agent read the counters.
        at: BootTime,
        /// Since the program was loaded.
        counters: Box<Counters>,
    },
    /// The agent continues where an earlier one has stopped.
    Resumed {
        /// End of the last window of the histograms.
        reported: BootTime,
        /// The dwell times that the kernel had counted by then, see [`super::Counters::dwell`].
        dwell: Vec<u64>,
    },
}

/// Change of a socket's state, from the kernel's ring buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketEvent {
    /// A socket entered CLOSE_WAIT.
    Enter {
        /// The socket.
        key: SocketKey,
        /// Time of the entry.
        at: BootTime,
        /// Facts about the socket.
        socket: Socket,
    },
    /// A socket left CLOSE_WAIT.
    Leave {
        /// The socket.
        key: SocketKey,
        /// Time of the exit.
        at: BootTime,
        /// Time of the entry, if the kernel program saw it.
        entered: Option<BootTime>,
        /// Facts about the socket at its exit.
        socket: Socket,
        /// Cause of the exit.
        how: ExitCause,
        /// The task that closed it.
        closer: Option<Task>,
        /// Whether a program still has a descriptor for it.
        fd_open: Option<bool>,
        /// Whether the program sent data after the entry; `None` if the kernel program does not tell.
        #[serde(default)]
        wrote: Option<bool>,
    },
}

/// Part of the result of a scan: the one at the start, [`super::Output::ScanOwners`] or [`super::Output::Audit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScanFact {
    /// A socket in CLOSE_WAIT.
    Present {
        /// The socket.
        key: SocketKey,
        /// Time at which the scan found the socket.
        at: BootTime,
        /// Time of the entry, or its bounds.
        since: Since,
        /// Facts about the socket.
        socket: Socket,
    },
    /// A descriptor of a socket in CLOSE_WAIT, with the socket.
    Owned {
        /// The socket.
        key: SocketKey,
        /// Time at which the scan found the socket.
        at: BootTime,
        /// Time of the entry, or its bounds.
        since: Since,
        /// Facts about the socket.
        socket: Socket,
        /// The descriptor.
        #[serde(alias = "holder")]
        owner: Owner,
    },
    /// A descriptor of a socket that is tracked.
    Descriptor {
        /// The socket.
        key: SocketKey,
        /// Time at which the scan found the descriptor; `None` in recordings of older versions.
        at: Option<BootTime>,
        /// Inode of the socket.
        inode: u64,
        /// The descriptor.
        #[serde(alias = "holder")]
        owner: Owner,
    },
    /// A descriptor of a socket of which only the inode is known.
    InodeDescriptor {
        /// Inode of the socket.
        inode: u64,
        /// The descriptor.
        #[serde(alias = "holder")]
        owner: Owner,
    },
    /// A descriptor of a socket whose connection is over: out of CLOSE_WAIT, or found so.
    Lingering {
        /// The socket.
        key: SocketKey,
        /// Time at which the scan found the socket.
        at: BootTime,
        /// Facts about the socket.
        socket: Socket,
        /// Cause of the exit, as far as the socket's error still shows it.
        how: ExitCause,
        /// The descriptor.
        #[serde(alias = "holder")]
        owner: Owner,
    },
    /// A socket that listens.
    Listening {
        /// The socket.
        key: SocketKey,
        /// Time at which the scan found the listener.
        at: BootTime,
        /// Facts about the listener.
        listener: Listener,
        /// Descriptor of the listener, if the scan was one over open files.
        #[serde(alias = "holder")]
        owner: Option<Owner>,
    },
    /// A time of entry that the kernel stores.
    StoredEntry {
        /// The socket.
        key: SocketKey,
        /// Time of the entry.
        entered: BootTime,
    },
}

/// End of a scan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScanEnd {
    /// All descriptors were read that can be read.
    Descriptors {
        /// Start of the scan. A descriptor that is older and was not found is closed.
        began: BootTime,
        /// The reason why the descriptors of some processes were not read, if so.
        #[serde(default, deserialize_with = "harmless_field")]
        blind: Option<String>,
        /// Whether the scan saw the listeners of all network namespaces.
        saw_listeners: bool,
    },
    /// The scan was not possible, or did not end in time.
    Failed {
        /// The cause.
        #[serde(deserialize_with = "harmless_field")]
        why: String,
    },
    /// The scan for [`super::Output::ScanOwners`] is over: it ended, failed or was given up.
    Owners,
    /// The scan for [`super::Output::Audit`] is over.
    Audit {
        /// Start of the scan.
        began: BootTime,
        /// End of the scan.
        at: BootTime,
        /// Whether the scan saw every network namespace.
        complete: bool,
        /// CPU time that it took; `None` in recordings of older versions, which had waited for it.
        cost: Option<Duration>,
    },
}

/// State of one socket that was read again, part of the answer to one of the refreshes of [`super::Output`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefreshFact {
    /// The socket is in CLOSE_WAIT.
    Present {
        /// The socket.
        key: SocketKey,
        /// Time at which the agent read the socket.
        at: BootTime,
        /// Time of the entry, or its bounds, as known at `at`; `None` in recordings of older versions.
        since: Option<Since>,
        /// Facts about the socket.
        socket: Socket,
    },
    /// The connection of the socket is over, and a program still has a descriptor for it.
    Lingering {
        /// The socket.
        key: SocketKey,
        /// Time at which the agent read the socket.
        at: BootTime,
        /// Facts about the socket.
        socket: Socket,
    },
}

/// End of a refresh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefreshEnd {
    /// The answer to [`super::Output::Refresh`] is complete, as far as sockets can be read again.
    Inspection {
        /// End of the refresh.
        at: BootTime,
    },
    /// All sockets of which only a descriptor was left were read again, as [`super::QueryCommand::Refresh`] asks.
    Lingering {
        /// Start of the refresh.
        began: BootTime,
    },
    /// The answer to [`super::Output::RefreshSuspects`] is over.
    Suspects {
        /// End of the refresh.
        at: BootTime,
        /// Whether all sockets that have a kernel address were read.
        complete: bool,
    },
}

/// Part of the result of an inspection, the answer to [`super::Output::InspectOwners`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InspectionFact {
    /// Identity of a process, and the state of its threads.
    Process {
        /// Time at which the agent read the process.
        at: BootTime,
        /// Facts about the process.
        process: Box<Process>,
    },
    /// Another connection of a process: one side of a proxied connection, or an open connection to a port that the process
    /// serves.
    ProxyPeer {
        /// Facts about the connection.
        #[serde(alias = "leg")]
        peer: Box<ProxyPeer>,
        /// The descriptor.
        #[serde(alias = "holder")]
        owner: Owner,
    },
    /// Unit, container or pod of a cgroup.
    Cgroup {
        /// Id of the cgroup.
        id: u64,
        /// Workload that the cgroup's path names.
        workload: Box<Workload>,
    },
    /// Settings of a network namespace.
    Namespace {
        /// Inode of the namespace.
        netns: u32,
        /// `net.netfilter.nf_conntrack_tcp_timeout_close_wait`; `None` where connections are not tracked.
        conntrack_close_wait: Option<Duration>,
    },
    /// All other connections of a process were read, or as many of them as are read at a time.
    ConnectionsRead {
        /// The process.
        pid: u32,
        /// Time of the read.
        at: BootTime,
    },
    /// Closes of a port that is watched, see [`super::InspectionRequest::closes_of`].
    Closes(PortCloses),
    /// The other end of a socket, looked up on this host.
    PeerEnd {
        /// The socket in CLOSE_WAIT.
        key: SocketKey,
        /// Time of the look-up.
        at: BootTime,
        /// What was found.
        end: PeerEnd,
    },
    /// Which of the tools that next steps run exist on this host.
    Tools {
        /// Time of the search.
        at: BootTime,
        /// Those that exist.
        tools: BTreeSet<Tool>,
    },
    /// Location of a socket without an owner.
    Location {
        /// Inode of the socket.
        inode: u64,
        /// Location of the socket.
        place: SocketLocation,
    },
}

/// Port that the kernel program watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WatchedPort {
    /// Network namespace; `None` where records do not tell.
    pub netns: Option<u32>,
    /// Local port of a server, or remote port of clients.
    pub port: u16,
    /// Whether it is a remote port: of those, the kernel program keeps when each connection was opened.
    pub remote: bool,
    /// Onset: entry of the oldest socket that is still in CLOSE_WAIT.
    pub since: BootTime,
}

/// Closes of a watched port: of connections that the program ended, in any state, and on which it had sent data
/// since the onset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCloses {
    /// The port. `since` is the onset from which on data counts.
    pub port: WatchedPort,
    /// Number of closes.
    pub count: u64,
    /// Time of the last one; `None` if there was none.
    pub last: Option<BootTime>,
}

/// The other end of a connection, as far as it is on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerEnd {
    /// It was not found in the namespaces that were read: on another host, behind address translation, or closed.
    NotFound,
    /// It has closed its sending side, and a program still has a descriptor of it: it can still read.
    HalfClosed,
    /// It is closed: no program has a descriptor of it.
    Closed,
}

/// End of an inspection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InspectionEnd {
    /// The answer to [`super::Output::InspectOwners`] is complete.
    Owners {
        /// End of the inspection.
        at: BootTime,
        /// CPU time that the agent has used for this inspection since [`super::Output::Refresh`].
        worked: Duration,
    },
}

/// Step of a query that has begun or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueryEvent {
    /// A user asks.
    Asked {
        /// The query.
        query: QueryId,
        /// Time at which the user sent the query.
        at: BootTime,
        /// Whether one of [`crate::Engine::owner_pids`] has ended.
        owner_ended: bool,
    },
    /// The answer to [`super::QueryCommand::ScanAll`] is complete.
    ScannedAll {
        /// The query.
        query: QueryId,
    },
    /// The answer to [`super::QueryCommand::Refresh`] is complete, as far as sockets can be read again.
    Refreshed {
        /// The query.
        query: QueryId,
    },
    /// The answer to [`super::QueryCommand::Inspect`] is complete.
    Inspected {
        /// The query.
        query: QueryId,
    },
}

/// Makes an [`Observation`] of each of its parts.
macro_rules! parts {
    ($($part:ident = $type:ty),+ $(,)?) => {
        $(impl From<$type> for Observation {
            fn from(part: $type) -> Self {
                Self::$part(part)
            }
        })+
    };
}

parts! {
    Socket = SocketEvent,
    Scan = ScanFact,
    ScanEnd = ScanEnd,
    Refresh = RefreshFact,
    RefreshEnd = RefreshEnd,
    Inspection = InspectionFact,
    InspectionEnd = InspectionEnd,
    Query = QueryEvent,
}
