//! What comes in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Counters, How, Listener, Owner, ProxyPeer, Since, Socket, SocketKey, SocketLocation, Task};
use crate::{process::Process, text::harmless_field, time::BootTime, workload::Workload};

/// One fact from outside, with the time at which it held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Observation {
    /// A socket entered CLOSE_WAIT.
    Enter {
        /// Which.
        key: SocketKey,
        /// When.
        at: BootTime,
        /// What is known of it.
        socket: Socket,
        /// The kernel still had an entry for this key: a leaving was missed.
        replaced: bool,
    },
    /// A socket left CLOSE_WAIT.
    Leave {
        /// Which.
        key: SocketKey,
        /// When.
        at: BootTime,
        /// When it entered, if the kernel saw that.
        entered: Option<BootTime>,
        /// What is known of it at the end.
        socket: Socket,
        /// How it left.
        how: How,
        /// Who closed it.
        closer: Option<Task>,
        /// Whether a program still has a descriptor for it.
        fd_open: Option<bool>,
    },
    /// A snapshot found a socket in CLOSE_WAIT.
    Present {
        /// Which.
        key: SocketKey,
        /// When it was found.
        at: BootTime,
        /// When it entered, as far as can be told.
        since: Since,
        /// What is known of it.
        socket: Socket,
    },
    /// A snapshot found a descriptor of a socket in CLOSE_WAIT.
    Held {
        /// Which socket.
        key: SocketKey,
        /// When it was found.
        at: BootTime,
        /// When it entered, as far as can be told.
        since: Since,
        /// What is known of it.
        socket: Socket,
        /// The descriptor.
        #[serde(rename = "holder")]
        owner: Owner,
    },
    /// A scan of open files found a descriptor of a socket that is known.
    Holds {
        /// Which socket.
        key: SocketKey,
        /// When it was found; `None` in recordings of older versions.
        #[serde(default)]
        at: Option<BootTime>,
        /// Its inode.
        inode: u64,
        /// The descriptor.
        #[serde(rename = "holder")]
        owner: Owner,
    },
    /// A scan of open files that knows nothing else of a socket than its inode found a descriptor.
    HeldInode {
        /// Of which socket.
        inode: u64,
        /// The descriptor.
        #[serde(rename = "holder")]
        owner: Owner,
    },
    /// A scan of open files found one of a socket whose connection is over: out of CLOSE_WAIT, or found so.
    Lingering {
        /// Which socket.
        key: SocketKey,
        /// When it was found.
        at: BootTime,
        /// What is known of it.
        socket: Socket,
        /// How its connection ended, as far as its error still tells.
        how: How,
        /// The descriptor; `None` if it was the answer to a look.
        #[serde(rename = "holder")]
        owner: Option<Owner>,
    },
    /// A scan found a socket that listens.
    Listening {
        /// Which.
        key: SocketKey,
        /// When it was found.
        at: BootTime,
        /// What is known of it.
        listener: Listener,
        /// A descriptor of it, if the scan was one over open files.
        #[serde(rename = "holder")]
        owner: Option<Owner>,
    },
    /// A scan of the open files of one process found another connection.
    #[serde(rename = "Leg")]
    ProxyPeer {
        /// Which.
        key: SocketKey,
        /// When it was found.
        at: BootTime,
        /// What is known of it.
        #[serde(rename = "leg")]
        peer: ProxyPeer,
        /// The descriptor.
        #[serde(rename = "holder")]
        owner: Owner,
    },
    /// The end of a scan of the open files of all processes, the answer to [`super::Output::ScanOwners`].
    #[serde(rename = "WalkEnded")]
    ScanEnded {
        /// When it began: a descriptor that was not found and is older than this is gone.
        began: BootTime,
        /// Why not all processes could be looked at, if so.
        #[serde(default, deserialize_with = "harmless_field")]
        blind: Option<String>,
        /// Whether it saw the listeners of all network namespaces.
        saw_listeners: bool,
    },
    /// The scan of open files that [`super::Output::ScanOwners`] asked for was not possible, or did not end in time.
    ScanFailed {
        /// When the agent gave it up.
        at: BootTime,
        /// The cause.
        #[serde(deserialize_with = "harmless_field")]
        why: String,
    },
    /// What a process is and does, part of the answer to [`super::Output::InspectOwners`].
    Process {
        /// When it was looked at.
        at: BootTime,
        /// What was seen.
        process: Box<Process>,
    },
    /// Which unit, container or pod a cgroup is.
    Cgroup {
        /// Its id.
        id: u64,
        /// What its path says.
        workload: Box<Workload>,
    },
    /// Settings of a network namespace.
    Namespace {
        /// Its inode.
        netns: u32,
        /// `net.netfilter.nf_conntrack_tcp_timeout_close_wait`; `None` where connections are not tracked.
        conntrack_close_wait: Option<Duration>,
    },
    /// Where a socket is that no process holds.
    Placed {
        /// Its inode.
        inode: u64,
        /// Where it is.
        place: SocketLocation,
    },
    /// The end of the answer to [`super::Output::InspectOwners`].
    #[serde(rename = "InquiredAll")]
    InspectedOwners {
        /// When.
        at: BootTime,
        /// How long the agent has worked for it since [`super::Output::Refresh`]: what it costs to inspect.
        worked: Duration,
    },
    /// A fresh look at one socket, part of the answer to [`super::Output::Refresh`].
    #[serde(rename = "Looked")]
    Refreshed {
        /// Which.
        key: SocketKey,
        /// When.
        at: BootTime,
        /// When it entered, as far as can be told at that moment; `None` in recordings of older versions.
        #[serde(default)]
        since: Option<Since>,
        /// What is known of it.
        socket: Socket,
    },
    /// The end of the answer to [`super::Output::Refresh`]: what could be looked at has been.
    #[serde(rename = "LookedAtAll")]
    RefreshedAll {
        /// When.
        at: BootTime,
    },
    /// All of [`crate::Engine::descriptors_left`] were looked at, each answer an [`Observation::Lingering`].
    #[serde(rename = "LookedAtGone")]
    RefreshedLingering {
        /// When that began.
        began: BootTime,
    },
    /// The agent goes on where one before it has stopped.
    Resumed {
        /// When the last window of the histograms ended.
        reported: BootTime,
        /// The dwell times that the kernel had counted by then, see [`super::Counters::dwell`].
        dwell: Vec<u64>,
    },
    /// A time of entry that the kernel keeps, part of the answer to [`super::Output::Audit`].
    Stored {
        /// Of which socket.
        key: SocketKey,
        /// When it entered.
        entered: BootTime,
    },
    /// The end of the answer to [`super::Output::Audit`].
    Audited {
        /// When the scan began.
        began: BootTime,
        /// When it ended.
        at: BootTime,
        /// Whether every network namespace could be looked into.
        complete: bool,
        /// CPU time that it took; `None` in recordings of older versions, which had waited for it.
        #[serde(default)]
        cost: Option<Duration>,
    },
    /// The end of the answer to [`super::Output::RefreshSuspects`].
    #[serde(rename = "LookedAtSuspects")]
    RefreshedSuspects {
        /// When.
        at: BootTime,
        /// Whether all that can be looked at by their address have been.
        complete: bool,
    },
    /// The kernel's counters, the answer to [`super::Output::ReadCounters`].
    Counters {
        /// When they were read.
        at: BootTime,
        /// Since the program was loaded.
        counters: Box<Counters>,
    },
}
