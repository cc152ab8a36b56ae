//! What the engine knows, takes in and gives out. Every other part of the agent speaks in these types.

use std::{
    fmt,
    hash::BuildHasher as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{histogram::Summary, text::Comm, time::Boot};

/// Tells the sockets of one machine apart while they live: the address of the kernel's `struct sock`, or for a snapshot
/// without kernel programs a number made from what is known. Never shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketKey(pub u64);

impl SocketKey {
    /// A key for a socket of which only namespace and ends are known. Kernel addresses have the highest bit set, these
    /// have not.
    pub fn of_ends(netns: Option<u32>, local: Endpoint, remote: Endpoint) -> Self {
        let hash = foldhash::fast::FixedState::with_seed(0).hash_one((netns, local, remote));
        Self(hash & (u64::MAX >> 1))
    }

    /// Whether it was made by [`SocketKey::of_ends`].
    pub fn is_of_ends(self) -> bool {
        self.0 >> 63 == 0
    }
}

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// IPv4-mapped IPv6 addresses appear as IPv4.
    pub address: IpAddr,
    /// Host byte order.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    /// `address:port`, with brackets round an IPv6 address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// Which transport protocol the socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, subflows of Multipath TCP included.
    Tcp,
    /// The socket that a program holds of a Multipath TCP connection.
    Mptcp,
}

/// Which end of the connection the socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It came out of a listener.
    Server,
    /// It was connected by its program.
    Client,
}

/// What is known of one socket. `None` is "unknown", never a stand-in for a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The number that `SO_COOKIE` and `ss -e` show.
    pub cookie: Option<u64>,
    /// Inode of its network namespace, as `/proc/PID/ns/net` shows.
    pub netns: Option<u32>,
    /// TCP or MPTCP.
    pub protocol: Protocol,
    /// This end.
    pub local: Endpoint,
    /// The peer.
    pub remote: Endpoint,
    /// Accepting or connecting side.
    pub role: Option<Role>,
    /// Inode of the socket, as `/proc/PID/fd` shows; `None` also while it waits to be accepted.
    pub inode: Option<u64>,
    /// Id of its cgroup v2.
    pub cgroup: Option<u64>,
    /// Whether a program has, or had, a descriptor for it; `Some(false)`: it waits in a listener's backlog.
    pub accepted: Option<bool>,
    /// Bytes that came in and were not read, the FIN counted as one: what `ss` shows as Recv-Q.
    pub unread_bytes: Option<u32>,
    /// Bytes that came in since the connection began, the FIN counted as one.
    pub received_bytes: Option<u64>,
    /// Bytes sent since the connection began, retransmissions included.
    pub sent_bytes: Option<u64>,
    /// `SO_KEEPALIVE`.
    pub keepalive: Option<bool>,
}

impl Socket {
    /// The same without what changes while it stays, for when nobody could look again.
    pub fn without_what_changes(self) -> Self {
        Self {
            // Once accepted it stays so, and keeps its inode.
            accepted: self.accepted.filter(|accepted| *accepted),
            unread_bytes: None,
            received_bytes: None,
            sent_bytes: None,
            keepalive: None,
            ..self
        }
    }
}

/// A task, as it named itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Its name, made harmless.
    pub comm: Comm,
}

/// A process that holds a descriptor of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub task: Task,
    /// Number of the descriptor.
    pub fd: u32,
}

/// How long a socket has been in CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dwell {
    /// Its entry was seen.
    Exact(Duration),
    /// It is older than the agent.
    Between {
        /// It has been there at least so long.
        at_least: Duration,
        /// And at most so long, where anything bounds it.
        at_most: Option<Duration>,
    },
}

impl Dwell {
    /// The time that is certain.
    pub fn at_least(self) -> Duration {
        match self {
            Self::Exact(dwell) => dwell,
            Self::Between { at_least, .. } => at_least,
        }
    }
}

/// When a socket entered CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Its entry was seen.
    Exact(Boot),
    /// It was found later.
    Between {
        /// Not before this, where anything bounds it.
        earliest: Option<Boot>,
        /// Not after this.
        latest: Boot,
    },
}

impl Since {
    /// How long ago that is at `now`.
    pub fn dwell(self, now: Boot) -> Dwell {
        match self {
            Self::Exact(entered) => Dwell::Exact(now.since(entered)),
            Self::Between { earliest, latest } => {
                Dwell::Between { at_least: now.since(latest), at_most: earliest.map(|earliest| now.since(earliest)) }
            }
        }
    }

    /// The moment from which on it certainly was in CLOSE_WAIT.
    pub fn latest(self) -> Boot {
        match self {
            Self::Exact(entered) => entered,
            Self::Between { latest, .. } => latest,
        }
    }
}

/// How a socket left CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// The program closed it; its FIN went out.
    Closed,
    /// The program shut down its sending side and keeps the descriptor.
    Shutdown,
    /// The program ended it with a reset: unread data, `SO_LINGER` of 0, or a `connect` to `AF_UNSPEC`.
    Aborted,
    /// The peer reset it.
    Reset,
    /// Keepalive or retransmission gave up.
    Timeout,
    /// `SOCK_DESTROY`, as by `ss -K`.
    Destroyed,
    /// Its listener was closed while it waited to be accepted.
    ListenerClosed,
    /// Nothing tells.
    Unknown,
}

/// The kind of cause that keeps a socket in CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// It waits in a listener's backlog.
    NeverAccepted,
    /// Nothing tells.
    Unknown,
}

/// How sure a verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// The kernel says so.
    Fact,
    /// A guess.
    Low,
}

/// Why a socket stays in CLOSE_WAIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The kind of cause.
    pub class: Class,
    /// Name of the rule that says so; `none` if no rule does.
    pub rule: &'static str,
    /// How sure that is.
    pub certainty: Certainty,
    /// The evidence, in a sentence.
    pub text: String,
    /// What a person should do.
    pub next: String,
}

/// One fact from outside, with the time at which it held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A socket entered CLOSE_WAIT.
    Enter {
        /// Which.
        key: SocketKey,
        /// When.
        at: Boot,
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
        at: Boot,
        /// When it entered, if the kernel saw that.
        entered: Option<Boot>,
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
        at: Boot,
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
        at: Boot,
        /// When it entered, as far as can be told.
        since: Since,
        /// What is known of it.
        socket: Socket,
        /// The descriptor.
        holder: Holder,
    },
    /// A fresh look at one socket, part of the answer to [`Output::Look`].
    Looked {
        /// Which.
        key: SocketKey,
        /// When.
        at: Boot,
        /// What is known of it.
        socket: Socket,
    },
    /// The end of the answer to [`Output::Look`]: what could be looked at has been.
    LookedAtAll,
    /// The kernel's counters, the answer to [`Output::ReadCounters`].
    Counters {
        /// When they were read.
        at: Boot,
        /// Since the program was loaded.
        counters: Box<Counters>,
    },
}

/// The kernel's counters over all CPUs, since the program was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sockets that entered CLOSE_WAIT.
    pub entered: u64,
    /// Sockets that left CLOSE_WAIT.
    pub left: u64,
    /// Of those, the ones whose entry the kernel program had not seen.
    pub left_unseen: u64,
    /// Records that found no room in the ring buffer.
    pub ring_full: u64,
    /// Entry times that found no room in the map.
    pub map_full: u64,
    /// Entries overwritten because the leaving before was missed.
    pub replaced: u64,
    /// Runs that the kernel skipped because the program was already running on that CPU; `None` where the kernel does
    /// not count them (before Linux 5.12).
    pub skipped: Option<u64>,
    /// Count of dwell times for each bucket of [`closewait_common::histogram`], nanoseconds.
    pub dwell: Vec<u64>,
}

/// Everything that was counted since the agent began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sockets that entered CLOSE_WAIT.
    pub entered: u64,
    /// Sockets that left CLOSE_WAIT.
    pub left: u64,
    /// Of those, the ones whose entry was not seen: older than the agent, or missed.
    pub left_unseen: u64,
    /// Records lost because the ring buffer was full.
    pub lost_ring_full: u64,
    /// Entry times lost because the map was full.
    pub lost_map_full: u64,
    /// Leavings that were missed, noticed because the socket entered again.
    pub replaced: u64,
    /// Runs of the kernel program that the kernel skipped; `None` where it does not count them.
    pub skipped_by_kernel: Option<u64>,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Lines that were dropped because standard output was not read fast enough.
    pub unwritten: u64,
    /// Sockets in CLOSE_WAIT now, as far as the agent knows.
    pub tracked: u64,
}

/// Which sockets a [`Finding::Histogram`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All of the machine.
    All,
    /// Those of one local port, on the accepting side.
    LocalPort(u16),
    /// All that have no scope of their own: connecting sides, and ports beyond the limit.
    Other,
}

/// What the engine has found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A socket entered CLOSE_WAIT.
    Enter {
        /// When.
        at: Boot,
        /// Which.
        socket: Socket,
    },
    /// A socket has been in CLOSE_WAIT for the threshold, or for another doubling of it.
    Stuck {
        /// When this was found.
        at: Boot,
        /// Which.
        socket: Socket,
        /// Its age.
        dwell: Dwell,
        /// Why it stays.
        verdict: Verdict,
    },
    /// A socket left CLOSE_WAIT.
    Leave {
        /// When.
        at: Boot,
        /// Which.
        socket: Socket,
        /// How long it stayed; `None` if its entry is unknown.
        dwell: Option<Dwell>,
        /// How it left.
        how: How,
        /// Who closed it.
        closer: Option<Task>,
        /// Whether a program still has a descriptor for it.
        fd_open: Option<bool>,
    },
    /// Dwell times of one window.
    Histogram {
        /// When the window ended.
        at: Boot,
        /// Which sockets.
        scope: Scope,
        /// Length of the window.
        window: Duration,
        /// Sockets that left in the window and whose entry was seen.
        finished: Summary,
        /// Ages of those that are still there.
        unfinished: Summary,
    },
    /// Something was lost.
    Health {
        /// When this was found.
        at: Boot,
        /// All counts so far.
        totals: Totals,
    },
    /// The end.
    Stop {
        /// When.
        at: Boot,
        /// All counts.
        totals: Totals,
    },
}

/// What the engine wants done.
#[expect(clippy::large_enum_variant, reason = "nearly all are findings, and a box would cost each an allocation")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Show this.
    Finding(Finding),
    /// Look at these sockets anew and hand in what is found as [`Observation::Looked`], at the end
    /// [`Observation::LookedAtAll`].
    Look(Vec<SocketKey>),
    /// Read the kernel's counters and hand them in as [`Observation::Counters`].
    ReadCounters,
}
