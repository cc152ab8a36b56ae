//! One socket, and who has to do with it.

use std::{
    fmt,
    hash::Hasher as _,
    net::{IpAddr, SocketAddr},
};

use closewait_common::tcp::state;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::{text::Comm, time::BootTime};

/// Identity of a socket on one machine while it lives: the address of the kernel's `struct sock`, or for a scan without
/// kernel programs a number computed from the facts about the socket. Never shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SocketKey(pub u64);

impl SocketKey {
    /// Whether it was made by [`KeySecret::key`].
    pub fn is_of_ends(self) -> bool {
        self.0 >> 63 == 0
    }
}

/// Secret for keys that are computed from the ends of connections. Two sockets with the same key would be taken for
/// one; an attacker who does not know the secret cannot choose connections with equal keys.
///
/// The agent draws one at its start (`source::key_secret`). A recording contains it, as it contains the keys.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySecret(pub [u64; 2]);

impl KeySecret {
    /// The key of a socket of which only namespace and ends are known. Kernel addresses have the highest bit set, these
    /// keys have not. Of a million sockets, two have the same key with a probability of 1 to 18 million.
    pub fn key(self, netns: Option<u32>, local: Endpoint, remote: Endpoint) -> SocketKey {
        let [first, second] = self.0;
        let mut hasher = SipHasher13::new_with_keys(first, second);
        // By bytes: `Hash` of these types is the same only for one compiler and one machine.
        hasher.write(&[u8::from(netns.is_some())]);
        hasher.write(&netns.unwrap_or_default().to_le_bytes());
        for Endpoint { address, port } in [local, remote] {
            let (is_v4, octets) = match address {
                IpAddr::V4(v4) => (true, v4.to_ipv6_mapped().octets()),
                IpAddr::V6(v6) => (false, v6.octets()),
            };
            hasher.write(&[u8::from(is_v4)]);
            hasher.write(&octets);
            hasher.write(&port.to_le_bytes());
        }
        SocketKey(hasher.finish() & (u64::MAX >> 1))
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret(..)")
    }
}

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

/// Transport protocol of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP, subflows of Multipath TCP included.
    Tcp,
    /// Multipath TCP: the socket for which the program has a descriptor.
    Mptcp,
}

/// Side of the connection that a socket is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// A listener created the socket.
    Server,
    /// The program connected the socket.
    Client,
}

impl Role {
    /// The word that events use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// Facts about one socket. `None` is "unknown", never a stand-in for a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// The number that `SO_COOKIE` and `ss -e` show.
    pub cookie: Option<u64>,
    /// Inode of its network namespace, as `/proc/PID/ns/net` shows.
    pub netns: Option<u32>,
    /// TCP or MPTCP.
    pub protocol: Protocol,
    /// Local endpoint.
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
    /// Bytes sent that the peer has acknowledged, SYN and FIN not counted.
    pub acked_bytes: Option<u64>,
    /// Bytes written that the peer has not acknowledged: what `ss` shows as Send-Q.
    pub send_queue_bytes: Option<u32>,
    /// Time at which data last arrived, within a tick; the time of the connection if none ever did.
    pub last_received: Option<BootTime>,
    /// Time at which an ACK last arrived, within a tick. The FIN carries one.
    pub last_ack: Option<BootTime>,
    /// Time at which data was last sent, within a tick; the time of the connection if none ever was.
    pub last_sent: Option<BootTime>,
    /// The timer that runs, if one does.
    pub timer: Option<Timer>,
    /// The task that made the connection, as far as it was seen.
    pub opener: Option<Box<Opener>>,
}

impl Socket {
    /// Returns the socket without the facts that change while it is in CLOSE_WAIT, for sockets that the agent cannot
    /// refresh.
    pub fn without_what_changes(self) -> Self {
        Self {
            // Once accepted it stays so, and keeps its inode.
            accepted: self.accepted.filter(|accepted| *accepted),
            unread_bytes: None,
            received_bytes: None,
            sent_bytes: None,
            keepalive: None,
            acked_bytes: None,
            send_queue_bytes: None,
            last_received: None,
            last_ack: None,
            last_sent: None,
            timer: None,
            ..self
        }
    }

    /// Returns which part of the received data the program has read.
    pub fn read_state(&self) -> Option<ReadState> {
        /// Most unread bytes of a goodbye, such as a `close_notify` alert, a `GOAWAY` or a `408`: a server's last
        /// message before it closes is short.
        const GOODBYE_BYTES: u64 = 100;
        let (unread, received) = (u64::from(self.unread_bytes?), self.received_bytes?);
        Some(match unread {
            0 => ReadState::FinConsumed,
            1 if received <= 1 => ReadState::Probe,
            1 => ReadState::IdleFin,
            _ if unread >= received => ReadState::NeverRead,
            _ if unread <= GOODBYE_BYTES => ReadState::Goodbye,
            _ => ReadState::Partial,
        })
    }

    /// Whether anything was sent after the last data had come in. On a TLS connection the last data can be an alert.
    pub fn replied(&self) -> Option<bool> {
        if self.sent_bytes? == 0 {
            return Some(false);
        }
        Some(self.last_sent? >= self.last_received?)
    }
}

/// A task, as it named itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Name of the task, made harmless.
    pub comm: Comm,
}

/// The task that made a connection: called `connect()`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opener {
    /// Task that opened the socket.
    pub task: Task,
    /// Time at which the task opened the socket.
    pub at: BootTime,
}

/// Process with an open descriptor of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The process.
    pub task: Task,
    /// Number of the descriptor.
    pub fd: u32,
}

/// Part of the received data that a program has read, computed from bytes received and bytes unread (the FIN counts as
/// one in both).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ReadState {
    /// Data arrived, and the program never read a byte of it.
    NeverRead,
    /// No data arrived, only the FIN, and it is unread.
    Probe,
    /// The program read all data, and has not read since the FIN.
    IdleFin,
    /// The program read all but a short rest, such as a peer's last message before it closes.
    Goodbye,
    /// Some of the data was read.
    Partial,
    /// The FIN was consumed by a read; that need not mean that a read returned 0.
    FinConsumed,
}

/// Running timer of a socket, named as in `ss -o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TimerKind {
    /// Retransmission, loss probe or reordering.
    On,
    /// `SO_KEEPALIVE`.
    Keepalive,
    /// Zero window probe.
    Persist,
}

/// A timer of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timer {
    /// Running timer.
    pub kind: TimerKind,
    /// Time at which the timer expires.
    pub expires: BootTime,
    /// Retransmissions or probes so far.
    pub retries: u8,
}

/// A socket that listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Inode of its network namespace.
    pub netns: Option<u32>,
    /// Local endpoint of the listener.
    pub local: Endpoint,
    /// Connections that wait to be accepted: what `ss` shows as Recv-Q.
    pub backlog: u32,
    /// Limit of the backlog: Send-Q in `ss`.
    pub backlog_max: u32,
    /// Inode of the listener.
    pub inode: Option<u64>,
}

impl Listener {
    /// Whether connections to `local` in `netns` come to it.
    pub fn serves(&self, netns: Option<u32>, local: Endpoint) -> bool {
        let any = self.local.address.is_unspecified();
        // A socket on `[::]` takes IPv4 too, one on `0.0.0.0` no IPv6.
        let family = any && (self.local.address.is_ipv6() || local.address.is_ipv4());
        (self.netns.is_none() || netns.is_none() || self.netns == netns)
            && self.local.port == local.port
            && (family || self.local.address == local.address)
    }
}

/// State of a connection that is not in CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Connection {
    /// `ESTABLISHED`.
    Established,
    /// `FIN_WAIT1`: the program has closed its sending side, the peer has not acknowledged that.
    FinWait1,
    /// `FIN_WAIT2`: the peer has acknowledged that and has not closed.
    FinWait2,
}

impl Connection {
    /// Converts the kernel's number of a state; `None` for any other state.
    pub fn from_state(number: u8) -> Option<Self> {
        match number {
            state::ESTABLISHED => Some(Self::Established),
            state::FIN_WAIT1 => Some(Self::FinWait1),
            state::FIN_WAIT2 => Some(Self::FinWait2),
            _ => None,
        }
    }
}

/// Another connection of a process that owns a socket in CLOSE_WAIT: perhaps the other side of a proxied connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyPeer {
    /// TCP state of the connection.
    pub state: Connection,
    /// Facts about the connection.
    pub socket: Socket,
}

/// Location of a socket that no process has a descriptor for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketLocation {
    /// A direct descriptor of an io_uring instance of this process.
    IoUring(Task),
    /// A message (`SCM_RIGHTS`) that waits in a UNIX socket, perhaps of one of these processes.
    InFlight(Vec<Task>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(address: &str) -> Endpoint {
        let address: SocketAddr = address.parse().unwrap();
        Endpoint { address: address.ip(), port: address.port() }
    }

    #[test]
    fn a_key_of_ends_depends_on_all_of_them_and_on_the_secret() {
        let (one, other) = (end("10.0.0.5:80"), end("10.0.0.9:51234"));
        let secret = KeySecret([1, 2]);
        let keys = [
            secret.key(Some(1), one, other),
            secret.key(Some(1), other, one),
            secret.key(Some(2), one, other),
            secret.key(None, one, other),
            secret.key(Some(0), one, other),
            secret.key(Some(1), end("10.0.0.5:81"), other),
            secret.key(Some(1), end("[::ffff:10.0.0.5]:80"), other),
            KeySecret([1, 3]).key(Some(1), one, other),
            KeySecret([2, 2]).key(Some(1), one, other),
        ];
        let distinct: std::collections::BTreeSet<SocketKey> = keys.into_iter().collect();
        assert_eq!(distinct.len(), keys.len(), "{keys:?}");
        assert!(keys.iter().all(|key| key.is_of_ends()));
        assert_eq!(secret.key(Some(1), one, other), keys[0], "the same each time");
    }

    #[test]
    fn the_secret_is_not_in_the_log() {
        assert_eq!(format!("{:?}", KeySecret([12_345, 67_890])), "KeySecret(..)");
    }
}
