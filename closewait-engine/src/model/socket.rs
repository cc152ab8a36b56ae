//! Facts about one socket, its owners, its listener and its peers.

use std::{
    fmt,
    hash::Hasher as _,
    net::{IpAddr, SocketAddr},
};

use closewait_common::tcp::state;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::{
    text::Comm,
    time::{BootTime, TICK},
};

/// Identity of a socket on one host while the socket exists: the address of the kernel's `struct sock`, or, for a scan without
/// kernel programs, a number computed from the socket's endpoints. The output never contains it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SocketKey(pub u64);

impl SocketKey {
    /// Whether [`KeySecret::key`] computed the key.
    pub fn is_of_ends(self) -> bool {
        self.0 >> 63 == 0
    }
}

/// Secret for keys that are computed from the endpoints of connections. The engine takes two sockets with the same key for one; an
/// attacker who does not know the secret cannot choose connections with equal keys.
///
/// The agent generates a secret at its start (`source::key_secret`). A recording contains it, because it contains the keys.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySecret(pub [u64; 2]);

impl KeySecret {
    /// Returns the key of a socket of which only the namespace and the endpoints are known. The highest bit is set in kernel
    /// addresses and clear in these keys. Of a million sockets, two have the same key with a probability of 1 to 18 million.
    pub fn key(self, netns: Option<u32>, local: Endpoint, remote: Endpoint) -> SocketKey {
        let [first, second] = self.0;
        let mut hasher = SipHasher13::new_with_keys(first, second);
        // Write the bytes: the result of `Hash` for these types depends on the compiler and the machine.
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

/// Address and port of one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Address; an IPv4-mapped IPv6 address is stored as IPv4.
    pub address: IpAddr,
    /// Port, in host byte order.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    /// Writes `address:port`, with brackets around an IPv6 address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// Transport protocol of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP, including subflows of Multipath TCP.
    Tcp,
    /// Multipath TCP: the socket of which the program has a descriptor.
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
    /// Returns the name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// Facts about one socket. `None` means unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// Number that `SO_COOKIE` and `ss -e` show.
    pub cookie: Option<u64>,
    /// Inode of the network namespace, as in `/proc/PID/ns/net`.
    pub netns: Option<u32>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Local endpoint.
    pub local: Endpoint,
    /// Remote endpoint.
    pub remote: Endpoint,
    /// Accepting or connecting side.
    pub role: Option<Role>,
    /// Inode of the socket, as in `/proc/PID/fd`; `None` also while no program has accepted the socket.
    pub inode: Option<u64>,
    /// Id of the cgroup v2.
    pub cgroup: Option<u64>,
    /// Whether a program has or had a descriptor of the socket; `Some(false)` if it waits in a listener's backlog.
    pub accepted: Option<bool>,
    /// Number of received bytes that the program has not read, with the FIN as one byte: Recv-Q in `ss`.
    pub unread_bytes: Option<u32>,
    /// Number of bytes received since the connection began, with the FIN as one byte.
    pub received_bytes: Option<u64>,
    /// Number of bytes sent since the connection began, including retransmissions.
    pub sent_bytes: Option<u64>,
    /// Whether `SO_KEEPALIVE` is set.
    pub keepalive: Option<bool>,
    /// Number of sent bytes that the peer has acknowledged, without SYN and FIN.
    pub acked_bytes: Option<u64>,
    /// Number of written bytes that the peer has not acknowledged: Send-Q in `ss`.
    pub send_queue_bytes: Option<u32>,
    /// Time at which data last arrived, to the tick; the start of the connection if none arrived.
    pub last_received: Option<BootTime>,
    /// Time at which an ACK last arrived, to the tick. A FIN carries one, too.
    pub last_ack: Option<BootTime>,
    /// Time at which data was last sent, to the tick; the start of the connection if none was sent.
    pub last_sent: Option<BootTime>,
    /// Running timer; `None` also if no timer runs.
    pub timer: Option<Timer>,
    /// Task that opened the connection.
    pub opener: Option<Box<Opener>>,
}

impl Socket {
    /// Returns the socket without the facts that change while it is in CLOSE_WAIT, for sockets that the agent cannot
    /// refresh.
    pub fn without_changing_facts(self) -> Self {
        Self {
            // An accepted socket remains accepted and keeps its inode.
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

    /// Returns the facts that the record of the socket's entry has, from those of its exit.
    pub(crate) fn at_entry(&self) -> Self {
        // The kernel program reads the cgroup of connecting sockets only, and no fact about a descriptor.
        let cgroup = self.cgroup.filter(|_| self.role != Some(Role::Server));
        Self { accepted: None, inode: None, cgroup, ..self.clone().without_changing_facts() }
    }

    /// Returns the part of the received data that the program has read.
    pub fn read_state(&self) -> Option<ReadState> {
        ReadState::of(self.unread_bytes, self.received_bytes)
    }

    /// Whether the program sent data after the last data had arrived. On a TLS connection, the last data can be an alert.
    pub fn replied(&self) -> Option<bool> {
        if self.sent_bytes? == 0 {
            return Some(false);
        }
        Some(self.last_sent? >= self.last_received?)
    }

    /// Whether the program has answered, and has read the FIN: nothing waits for it on this socket but the close.
    pub fn is_served(&self) -> bool {
        self.read_state() == Some(ReadState::FinConsumed) && self.replied() == Some(true)
    }

    /// Whether the peer sent nothing but the FIN: no request waits for an answer.
    pub fn asked_nothing(&self) -> Option<bool> {
        self.received_bytes.map(|received| received <= 1)
    }

    /// Whether the program sent data more than a tick after the last data had arrived; `None` if the times are too close to tell.
    pub fn answered(&self) -> Option<bool> {
        if self.sent_bytes? == 0 {
            return Some(false);
        }
        let (sent, received) = (self.last_sent?, self.last_received?);
        if sent > received + TICK {
            return Some(true);
        }
        (received > sent + TICK).then_some(false)
    }
}

/// Process, with the name of one of its tasks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Task {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Name of the task, made harmless.
    pub comm: Comm,
}

impl fmt::Display for Task {
    /// Writes `name[pid]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.comm, self.pid)
    }
}

/// Task that opened a connection with `connect()`.
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

/// Part of the received data that a program has read, computed from the numbers of received and unread bytes (the FIN counts as one
/// byte in both).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ReadState {
    /// The program read none of the data.
    NeverRead,
    /// Only the FIN arrived, and the program has not read it.
    Probe,
    /// The program read all data, and has not read the FIN.
    IdleFin,
    /// The program read all data except for a short rest, such as a peer's last message before it closes.
    Goodbye,
    /// The program read some of the data.
    Partial,
    /// A read consumed the FIN; that read need not have returned 0.
    FinConsumed,
}

impl ReadState {
    /// Returns the part that a program has read of a socket's received data, from the numbers of bytes.
    pub(crate) fn of(unread_bytes: Option<u32>, received_bytes: Option<u64>) -> Option<Self> {
        /// Maximum number of unread bytes of a goodbye: a server's last message before it closes, such as a `close_notify` alert, a
        /// `GOAWAY` or a `408`, is short.
        const GOODBYE_BYTES: u64 = 100;
        let (unread, received) = (u64::from(unread_bytes?), received_bytes?);
        Some(match unread {
            0 => Self::FinConsumed,
            1 if received <= 1 => Self::Probe,
            1 => Self::IdleFin,
            _ if unread >= received => Self::NeverRead,
            _ if unread <= GOODBYE_BYTES => Self::Goodbye,
            _ => Self::Partial,
        })
    }
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

/// Running timer of a socket, with its expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timer {
    /// Kind of the timer.
    pub kind: TimerKind,
    /// Time at which the timer expires.
    pub expires: BootTime,
    /// Number of retransmissions or probes so far.
    pub retries: u8,
}

/// Listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Inode of the network namespace.
    pub netns: Option<u32>,
    /// Local endpoint of the listener.
    pub local: Endpoint,
    /// Number of connections that wait to be accepted: Recv-Q in `ss`.
    pub backlog: u32,
    /// Limit of the backlog: Send-Q in `ss`.
    pub backlog_max: u32,
    /// Inode of the listener.
    pub inode: Option<u64>,
}

impl Listener {
    /// Whether the listener gets the connections to `local` in `netns`.
    pub fn serves(&self, netns: Option<u32>, local: Endpoint) -> bool {
        let any = self.local.address.is_unspecified();
        // A listener on `[::]` also gets IPv4 connections, one on `0.0.0.0` only those.
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
    /// `FIN_WAIT1`: the program has closed its sending side, and the peer has not acknowledged the FIN.
    FinWait1,
    /// `FIN_WAIT2`: the peer has acknowledged the FIN and has not closed.
    FinWait2,
}

impl Connection {
    /// Converts the kernel's number of a state; returns `None` for any other state.
    pub fn from_state(number: u8) -> Option<Self> {
        match number {
            state::ESTABLISHED => Some(Self::Established),
            state::FIN_WAIT1 => Some(Self::FinWait1),
            state::FIN_WAIT2 => Some(Self::FinWait2),
            _ => None,
        }
    }
}

/// Another connection of a process that owns a socket in CLOSE_WAIT, which may be the other side of a proxied connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyPeer {
    /// TCP state of the connection.
    pub state: Connection,
    /// Facts about the connection.
    pub socket: Socket,
}

/// Location of a socket of which no process has a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketLocation {
    /// Direct descriptor of an io_uring instance of this process.
    IoUring(Task),
    /// Message (`SCM_RIGHTS`) in a UNIX socket, perhaps of one of these processes.
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
    fn a_key_depends_on_all_of_its_input_and_on_the_secret() {
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
        assert_eq!(secret.key(Some(1), one, other), keys[0], "the key is the same each time");
    }

    #[test]
    fn a_socket_is_served_if_it_was_answered_and_its_end_was_read() {
        let at = |second: u64| Some(BootTime(second * 1_000_000_000));
        let mut socket = crate::testing::socket_on_port(80);
        (socket.unread_bytes, socket.received_bytes, socket.sent_bytes) = (Some(0), Some(31), Some(32));
        (socket.last_received, socket.last_sent) = (at(1), at(2));
        assert!(socket.is_served());
        assert!(!Socket { unread_bytes: Some(1), ..socket.clone() }.is_served(), "the end was not read");
        assert!(!Socket { last_received: at(3), ..socket.clone() }.is_served(), "it was asked again");
        assert!(!Socket { sent_bytes: None, ..socket }.is_served(), "unknown");
    }

    #[test]
    fn the_secret_is_not_in_the_log() {
        assert_eq!(format!("{:?}", KeySecret([12_345, 67_890])), "KeySecret(..)");
    }
}
