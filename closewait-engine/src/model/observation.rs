//! Inputs of the engine: an enum of facts for each source.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Counters, ExitCause, Listener, Owner, PassedSockets, ProxyPeer, QueryEvent, Since, Socket, SocketKey,
    SocketLocation, Task, UnixConnections,
};
use crate::{
    process::{Process, Tool},
    stacks::{ConnectSamples, ProcessStacks},
    text::harmless_field,
    time::BootTime,
    unread::UnreadRequest,
    workload::Workload,
};

/// Input of the engine, with the time at which it was true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Observation {
    /// A socket changed its state.
    Socket(SocketEvent),
    /// The agent took counts of sockets that had no records.
    Passed(Box<PassedSockets>),
    /// A scan found a socket or descriptor.
    Scan(ScanFact),
    /// A scan ended.
    ScanEnd(ScanEnd),
    /// A refresh read a socket.
    Refresh(RefreshFact),
    /// A refresh ended.
    RefreshEnd(RefreshEnd),
    /// An inspection read a fact.
    Inspection(InspectionFact),
    /// An inspection ended.
    InspectionEnd(InspectionEnd),
    /// A query began, or a step of it ended.
    Query(QueryEvent),
    /// The agent read the kernel's counters for [`super::Output::ReadCounters`].
    Counters {
        /// Time at which the agent read the counters.
        at: BootTime,
        /// Counts since the kernel program was loaded.
        counters: Box<Counters>,
    },
    /// The agent continues after an earlier one, whose kernel program kept running.
    Resumed {
        /// End of the last window of the histograms.
        reported: BootTime,
        /// Dwell times that the kernel program had counted at `reported`, see [`super::Counters::dwell`].
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
    /// A socket exited CLOSE_WAIT.
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
        /// Task that closed the socket.
        closer: Option<Task>,
        /// Whether a program still has a descriptor of the socket.
        fd_open: Option<bool>,
        /// Whether the program sent data after the entry; `None` if the kernel program does not report it.
        #[serde(default)]
        wrote: Option<bool>,
        /// Whether the kernel closed the descriptor because the closer ended; `None` if unknown.
        #[serde(default)]
        ended: Option<bool>,
    },
    /// A socket entered and exited CLOSE_WAIT, with one record for both. [`SocketEvent::split`] has the two events; the engine handles
    /// this one as it handles them, with less work. Recordings have the two.
    Pass {
        /// The socket.
        key: SocketKey,
        /// Time of the entry.
        entered: BootTime,
        /// Time of the exit.
        at: BootTime,
        /// Facts about the socket at its exit.
        socket: Socket,
        /// Cause of the exit.
        how: ExitCause,
        /// Task that closed the socket.
        closer: Option<Task>,
        /// Whether a program still has a descriptor of the socket.
        fd_open: Option<bool>,
        /// Whether the program sent data after the entry; `None` if the kernel program does not report it.
        wrote: Option<bool>,
        /// Whether the kernel closed the descriptor because the closer ended; `None` if unknown.
        ended: Option<bool>,
    },
}

impl SocketEvent {
    /// Returns the entry of an event that has both, and the rest: the exit, or any other event.
    pub fn split(self) -> (Option<Self>, Self) {
        let Self::Pass { key, entered, at, socket, how, closer, fd_open, wrote, ended } = self else {
            return (None, self);
        };
        let enter = Self::Enter { key, at: entered, socket: socket.at_entry() };
        (Some(enter), Self::Leave { key, at, entered: Some(entered), socket, how, closer, fd_open, wrote, ended })
    }
}

/// Part of the result of a scan: the scan at the start, [`super::Output::ScanOwners`] or [`super::Output::Audit`].
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
    /// A descriptor of a tracked socket.
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
    /// A descriptor of a socket whose connection has ended.
    Lingering {
        /// The socket.
        key: SocketKey,
        /// Time at which the scan found the socket.
        at: BootTime,
        /// Facts about the socket.
        socket: Socket,
        /// Cause of the exit, from the socket's error; `Unknown` if the error does not show it.
        how: ExitCause,
        /// The descriptor.
        #[serde(alias = "holder")]
        owner: Owner,
    },
    /// A listener.
    Listening {
        /// The socket.
        key: SocketKey,
        /// Time at which the scan found the listener.
        at: BootTime,
        /// Facts about the listener.
        listener: Listener,
        /// Descriptor of the listener, if the scan read open files.
        #[serde(alias = "holder")]
        owner: Option<Owner>,
    },
    /// An entry time in the kernel's map.
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
    /// The scan read all descriptors that the agent can read.
    Descriptors {
        /// Start of the scan. A descriptor that is older and that the scan did not find is closed.
        began: BootTime,
        /// Reason why the scan could not read the descriptors of some processes; `None` if it read all.
        #[serde(default, deserialize_with = "harmless_field")]
        blind: Option<String>,
        /// Whether the scan saw the listeners of all network namespaces.
        saw_listeners: bool,
    },
    /// The scan was not possible, or did not end in time.
    Failed {
        /// Reason of the failure.
        #[serde(deserialize_with = "harmless_field")]
        why: String,
    },
    /// The scan for [`super::Output::ScanOwners`] ended, failed or was canceled.
    Owners,
    /// The scan for [`super::Output::Audit`] ended.
    Audit {
        /// Start of the scan.
        began: BootTime,
        /// End of the scan.
        at: BootTime,
        /// Whether the scan saw every network namespace.
        complete: bool,
        /// CPU time of the scan; `None` in recordings of older versions, which waited for the scan.
        cost: Option<Duration>,
    },
}

/// State of one refreshed socket, part of the result of a refresh that [`super::Output`] requested.
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
    /// The socket is in CLOSE_WAIT, with the facts of its last refresh.
    Unchanged {
        /// The socket.
        key: SocketKey,
        /// Time before the agent read the socket.
        at: BootTime,
    },
    /// The connection has ended, and a program still has a descriptor of the socket.
    Lingering {
        /// The socket.
        key: SocketKey,
        /// Time at which the agent read the socket.
        at: BootTime,
        /// Facts about the socket.
        socket: Socket,
    },
    /// A socket whose key is of its ends ([`SocketKey::is_of_ends`]) is not in CLOSE_WAIT, in the network namespace in which a scan
    /// found it.
    Gone {
        /// The socket.
        key: SocketKey,
        /// Time before the agent read the sockets of the namespace.
        at: BootTime,
    },
}

/// End of a refresh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefreshEnd {
    /// The refresh for [`super::Output::Refresh`] ended.
    Inspection {
        /// End of the refresh.
        at: BootTime,
        /// Whether the one for [`super::Output::RefreshLingering`] before it read all its sockets, so that those without a record are closed.
        #[serde(default = "all_read")]
        lingering: bool,
    },
    /// The refresh of all exited sockets with a descriptor ended, as [`super::QueryCommand::Refresh`] requested.
    Lingering {
        /// Start of the refresh.
        began: BootTime,
    },
    /// The refresh for [`super::Output::RefreshSuspects`] ended.
    Suspects {
        /// End of the refresh.
        at: BootTime,
        /// Whether the refresh read all sockets that have a kernel address.
        complete: bool,
    },
}

/// Value of a recording that does not say it.
const fn all_read() -> bool {
    true
}

/// Part of the result of an inspection for [`super::Output::InspectOwners`].
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
        /// `net.netfilter.nf_conntrack_tcp_timeout_close_wait`; `None` if connections are not tracked.
        conntrack_close_wait: Option<Duration>,
    },
    /// The agent has read the other connections of a process, up to its limit.
    ConnectionsRead {
        /// The process.
        pid: u32,
        /// Time of the read.
        at: BootTime,
    },
    /// Closes of a watched port, see [`super::InspectionRequest::closes_of`].
    Closes(PortCloses),
    /// State of a socket's peer, looked up on this host.
    PeerEnd {
        /// The socket in CLOSE_WAIT.
        key: SocketKey,
        /// Time of the look-up.
        at: BootTime,
        /// State of the peer.
        end: PeerEnd,
    },
    /// Result of the search for the tools that next steps run.
    Tools {
        /// Time of the search.
        at: BootTime,
        /// Tools that exist on this host.
        tools: BTreeSet<Tool>,
        /// Tools that do not exist there; empty in recordings of earlier versions.
        #[serde(default)]
        missing: BTreeSet<Tool>,
    },
    /// An owner had ended when the agent wanted to read it.
    Ended {
        /// The process.
        pid: u32,
    },
    /// Stacks of an owner's threads.
    Stacks(Box<ProcessStacks>),
    /// First request in a socket's receive queue, which no program has read.
    Unread {
        /// The socket.
        key: SocketKey,
        /// Time at which the agent peeked.
        at: BootTime,
        /// Request; `None` for bytes of no protocol that closewait knows.
        request: Option<UnreadRequest>,
    },
    /// Connections of a process that the agent watches, see [`super::InspectionRequest::connects_of`].
    Connects(Box<ConnectSamples>),
    /// Connections of a process over UNIX sockets.
    UnixConnections(Box<UnixConnections>),
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
    /// Inode of the network namespace; `None` if records do not contain it.
    pub netns: Option<u32>,
    /// Local port of a server, or remote port of clients.
    pub port: u16,
    /// Whether the port is a remote one. For remote ports, the kernel program stores the time at which each connection was opened.
    pub remote: bool,
    /// Onset: entry of the oldest socket that is still in CLOSE_WAIT.
    pub since: BootTime,
}

/// Closes of a watched port: connections that the program ended, in any state, and on which it had sent data after the onset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCloses {
    /// Watched port. Data that was sent after its `since` counts.
    pub port: WatchedPort,
    /// Number of closes.
    pub count: u64,
    /// Time of the latest close; `None` if there was none.
    pub last: Option<BootTime>,
}

/// State of a connection's peer socket on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerEnd {
    /// The agent did not find the peer: it is on another host or behind address translation, it is closed, or its namespace could
    /// not be read.
    NotFound,
    /// The peer has closed its sending side, and a program still has its descriptor and can read.
    HalfClosed,
    /// No program has a descriptor of the peer.
    Closed,
}

/// End of an inspection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InspectionEnd {
    /// The inspection for [`super::Output::InspectOwners`] ended.
    Owners {
        /// End of the inspection.
        at: BootTime,
        /// CPU time that the agent has used for this inspection since [`super::Output::Refresh`].
        worked: Duration,
    },
}

/// Implements the conversion of each part to an [`Observation`].
macro_rules! parts {
    ($($part:ident = $type:ty),+ $(,)?) => {
        $(impl From<$type> for Observation {
            fn from(part: $type) -> Self {
                Self::$part(part)
            }
        })+
    };
}

impl From<PassedSockets> for Observation {
    fn from(passed: PassedSockets) -> Self {
        Self::Passed(Box::new(passed))
    }
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
