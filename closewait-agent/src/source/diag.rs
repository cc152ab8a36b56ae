//! Sockets in CLOSE_WAIT and listeners, from `sock_diag`, as `ss` lists them.
//!
//! `sock_diag` reports everything about a socket except its address in the kernel, so these observations are
//! identified by their endpoints. [`exact`] queries one socket, and destroys it.
//!
//! A dump never requests `INET_DIAG_INFO`: for that the kernel takes the lock of each socket (`tcp_get_info`,
//! net/ipv4/tcp.c at v5.10) and waits for it uninterruptibly. A program can hold that lock forever while it sends
//! from, or receives into, memory that is mapped from a file system that does not answer. No program can hold the
//! lock of a socket that it has not accepted. Only for those sockets the ages are queried, one by one.

pub mod exact;
pub mod peers;
pub(super) mod unix;
mod wire;

use std::{io, os::fd::OwnedFd};

use closewait_common::tcp::{AF_INET, AF_INET6, state};
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with},
};
use thiserror::Error;

use self::wire::{DiagSocket, parse, request};
use crate::host::{error_text::in_one_line, netns};
use closewait_engine::{
    decode::Decoder,
    kill::{CurrentSocket, Sent},
    model::{Listener, Protocol, Role, ScanFact, Since, Socket, Timer, TimerKind},
    time::BootTime,
};

/// Gaps of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blind {
    /// Reasons why sockets of a namespace could not be listed.
    pub reasons: Vec<String>,
    /// Whether there may be namespaces that were not found.
    pub missed_namespaces: bool,
}

/// Reason why `sock_diag` gave no answer.
#[derive(Debug, Error)]
pub enum DiagError {
    /// A system call failed.
    #[error("{call} on a sock_diag socket failed\nhint: load the module tcp_diag (`modprobe tcp_diag`)")]
    Call {
        /// Name of the call.
        call: &'static str,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// The kernel answered with an error.
    #[error("the kernel refused to list its sockets\nhint: load the module tcp_diag (`modprobe tcp_diag`)")]
    Refused(#[source] io::Error),
    /// The answer is shorter than its own length field.
    #[error("the kernel's answer is cut off\nhint: report this with the output of `closewait doctor`")]
    CutOff,
}

/// States of the sockets to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiagQuery {
    /// Sockets in CLOSE_WAIT.
    Waiting,
    /// Sockets that listen.
    Listeners,
    /// Both.
    Both,
}

impl DiagQuery {
    /// Whether sockets in this state are listed.
    fn has(self, state: u8) -> bool {
        self.states() & 1_u32.checked_shl(state.into()).unwrap_or(0) != 0
    }

    /// A bit for each state, as in `idiag_states`.
    fn states(self) -> u32 {
        match self {
            Self::Waiting => 1 << state::CLOSE_WAIT,
            Self::Listeners => 1 << state::LISTEN,
            Self::Both => 1 << state::CLOSE_WAIT | 1 << state::LISTEN,
        }
    }
}

/// Queries the IPv4 sockets in CLOSE_WAIT of this network namespace, to check that `sock_diag` answers. May load the
/// module `tcp_diag`, as `ss` does.
///
/// # Errors
///
/// If the question cannot be asked or is not answered.
pub fn probe() -> Result<(), DiagError> {
    Netlink::open()?.dump(AF_INET, DiagQuery::Waiting).map(drop)
}

/// Returns every socket in CLOSE_WAIT of the network namespace of this thread. The query gives each socket a cookie,
/// even if it had none before. The facts do not include sent bytes.
///
/// # Errors
///
/// If the question cannot be asked or is not answered.
pub fn waiting() -> Result<Vec<CurrentSocket>, DiagError> {
    let netlink = Netlink::open()?;
    let mut found = netlink.dump(AF_INET, DiagQuery::Waiting)?;
    found.extend(netlink.dump(AF_INET6, DiagQuery::Waiting)?);
    Ok(found.iter().map(DiagSocket::facts).collect())
}

/// Listed socket that is not decoded yet.
#[derive(Debug)]
pub struct ListedSocket {
    found: DiagSocket,
    /// Times at which the query was sent and its answer received.
    asked: (BootTime, BootTime),
    netns: u32,
}

impl ListedSocket {
    /// Inode of the socket; `None` if it is not accepted yet.
    pub fn inode(&self) -> Option<u64> {
        (self.found.inode != 0).then_some(self.found.inode.into())
    }

    /// Decodes the socket.
    pub fn observation(self, decoder: Decoder) -> ScanFact {
        self.found.observation(decoder, self.asked, self.netns)
    }
}

/// Hands the sockets of every accessible network namespace to `each`, in the kernel's batches: only a part of many
/// sockets is in memory at a time.
pub fn take(
    list: DiagQuery,
    now: impl Fn() -> BootTime + Sync,
    mut each: impl FnMut(Vec<ListedSocket>) + Send,
) -> Blind {
    let found = netns::find();
    let mut blind = Blind { reasons: Vec::new(), missed_namespaces: found.denied.is_some() };
    for namespace in found.namespaces {
        let listed = namespace.enter_and(|| {
            // A netlink socket that receives a list accepts no second query meanwhile.
            let (lists, answers) = (Netlink::open()?, Netlink::open()?);
            let one = |mut found: DiagSocket, mut asked: (BootTime, BootTime)| {
                if found.inode == 0 && found.state == state::CLOSE_WAIT {
                    let before = now();
                    // The socket may have left CLOSE_WAIT meanwhile.
                    found.info = exact::info(&answers, &found).unwrap_or(None);
                    asked = (before, now());
                }
                ListedSocket { found, asked, netns: namespace.inode }
            };
            for family in [AF_INET, AF_INET6] {
                // The kernel makes a batch when the query arrives, or when the batch before it is received
                // (`netlink_recvmsg`, net/netlink/af_netlink.c at v5.10).
                let (mut made, mut received) = (now(), now());
                lists.exchange_each(&request(family, list), |part| {
                    let asked = (made, now());
                    each(
                        part.into_iter().filter(|found| list.has(found.state)).map(|found| one(found, asked)).collect(),
                    );
                    (made, received) = (received, now());
                })?;
            }
            Ok::<(), DiagError>(())
        });
        match listed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => blind.add(namespace.inode, error),
            Err(error) => blind.add(namespace.inode, error),
        }
    }
    blind
}

impl Blind {
    /// Whether the sockets of every network namespace were listed.
    pub fn saw_all(&self) -> bool {
        self.reasons.is_empty() && !self.missed_namespaces
    }

    fn add(&mut self, inode: u32, error: impl Into<anyhow::Error>) {
        let error = in_one_line(error);
        self.reasons.push(format!("sockets of network namespace {inode} cannot be listed: {error}"));
    }
}

impl DiagSocket {
    /// `asked` is the time of the query and of its answer: the kernel read its clock between the two.
    fn observation(self, decoder: Decoder, asked: (BootTime, BootTime), netns: u32) -> ScanFact {
        let (at, after) = asked;
        let key = super::key_secret().key(Some(netns), self.local, self.remote);
        let inode = (self.inode != 0).then_some(self.inode.into());
        if self.state == state::LISTEN {
            let (local, backlog, backlog_max) = (self.local, self.receive_queue, self.send_queue);
            let listener = Listener { netns: Some(netns), local, backlog, backlog_max, inode };
            return ScanFact::Listening { key, at, listener, owner: None };
        }
        let info = self.info.as_deref();
        let ages = info.map(|info| (info.last_ack_recv, info.last_data_recv));
        let since = match (decoder.between(at, ages), decoder.between(after, ages)) {
            (Since::Between { earliest, .. }, Since::Between { latest, .. }) => Since::Between { earliest, latest },
            (exact, _) => exact,
        };
        let socket = Socket {
            cookie: (self.cookie != 0).then_some(self.cookie),
            netns: Some(netns),
            protocol: Protocol::Tcp,
            local: self.local,
            remote: self.remote,
            role: (self.inode == 0).then_some(Role::Server),
            inode,
            cgroup: self.cgroup,
            accepted: Some(self.inode != 0),
            unread_bytes: Some(self.receive_queue),
            received_bytes: info.and_then(|info| info.received_bytes),
            sent_bytes: info.and_then(|info| info.sent_bytes),
            keepalive: None,
            acked_bytes: info.and_then(|info| info.acked_bytes),
            send_queue_bytes: Some(self.send_queue),
            last_received: info.map(|info| at - info.last_data_recv),
            last_ack: info.map(|info| at - info.last_ack_recv),
            last_sent: info.map(|info| at - info.last_data_sent),
            timer: self.timer_kind().map(|kind| Timer { kind, expires: at + self.expires, retries: self.retries }),
            opener: None,
        };
        ScanFact::Present { key, at, since, socket }
    }

    fn facts(&self) -> CurrentSocket {
        let sent = self.info.as_deref().and_then(|info| {
            Some(Sent { bytes: info.sent_bytes?, ago: info.last_data_sent, received_ago: info.last_data_recv })
        });
        CurrentSocket {
            state: self.state,
            local: self.local,
            remote: self.remote,
            cookie: self.cookie,
            inode: self.inode,
            interface: self.interface,
            send_queue_bytes: self.send_queue,
            timer: self.timer_kind(),
            sent,
        }
    }

    /// Returns the timer by its number in `inet_sk_diag_fill` (net/ipv4/inet_diag.c at v5.10).
    fn timer_kind(&self) -> Option<TimerKind> {
        match self.timer {
            1 => Some(TimerKind::On),
            2 => Some(TimerKind::Keepalive),
            4 => Some(TimerKind::Persist),
            _ => None,
        }
    }
}

/// `sock_diag` socket of one network namespace.
#[derive(Debug)]
struct Netlink(OwnedFd);

impl Netlink {
    /// Opens a socket in the namespace of this thread.
    fn open() -> Result<Self, DiagError> {
        let protocol = Some(netlink::SOCK_DIAG);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol);
        socket.map(Self).map_err(|errno| DiagError::Call { call: "socket", source: errno.into() })
    }

    /// Returns the sockets of one address family.
    fn dump(&self, family: u16, list: DiagQuery) -> Result<Vec<DiagSocket>, DiagError> {
        let mut found = self.exchange(&request(family, list))?;
        found.retain(|one| list.has(one.state));
        Ok(found)
    }

    /// Sends a request, and returns the whole answer.
    fn exchange(&self, request: &[u8]) -> Result<Vec<DiagSocket>, DiagError> {
        let mut found = Vec::new();
        self.exchange_each(request, |part| found.extend(part))?;
        Ok(found)
    }

    /// Sends a request, and hands each batch of the answer to `each`.
    fn exchange_each(&self, request: &[u8], mut each: impl FnMut(Vec<DiagSocket>)) -> Result<(), DiagError> {
        self.exchange_parts(request, |bytes| {
            let mut part = Vec::new();
            let is_last = parse(bytes, &mut part)?;
            each(part);
            Ok(is_last)
        })
    }

    /// Sends a request, and hands each batch of the answer to `parse`, which returns whether it was the last.
    fn exchange_parts(
        &self,
        request: &[u8],
        mut parse: impl FnMut(&[u8]) -> Result<bool, DiagError>,
    ) -> Result<(), DiagError> {
        let socket = &self.0;
        // A netlink socket without an address sends to the kernel.
        send(socket, request, SendFlags::empty())
            .map_err(|errno| DiagError::Call { call: "send", source: errno.into() })?;
        // The kernel's batches are at most 32 KiB (`netlink_dump`, net/netlink/af_netlink.c at v5.10).
        let mut answer = vec![0; 64 * 1024];
        loop {
            let received = match recv(socket, &mut answer[..], RecvFlags::empty()) {
                Ok((received, _length)) => received,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(DiagError::Call { call: "recv", source: errno.into() }),
            };
            if parse(&answer[..received])? {
                return Ok(());
            }
        }
    }
}

/// Processes one batch of an answer as the agent does, for the fuzz target.
#[cfg(fuzzing)]
pub fn fuzz(part: &[u8], decoder: Decoder, asked: (BootTime, BootTime)) {
    unix::fuzz(part);
    let mut found = Vec::new();
    let _last = parse(part, &mut found);
    for one in found {
        if let ScanFact::Present { since: Since::Between { earliest, latest }, .. } = one.observation(decoder, asked, 1)
        {
            assert!(earliest.is_none_or(|earliest| earliest <= latest), "{earliest:?} {latest:?}");
        }
    }
}
