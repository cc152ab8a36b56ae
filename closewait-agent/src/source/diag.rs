//! The sockets that are in CLOSE_WAIT now and those that listen, asked of `sock_diag` as `ss` does.
//!
//! It knows everything of a socket but its address in the kernel, so these observations are named by their ends. [`exact`]
//! asks for one socket, and has it destroyed.
//!
//! A dump never asks for `INET_DIAG_INFO`: for that the kernel takes the lock of each socket (`tcp_get_info`,
//! net/ipv4/tcp.c at v5.10), and waits for it without a way to be interrupted. A program can hold the lock for ever: while it
//! sends from, or receives into, memory that is mapped from a file system that does not answer. Only of sockets that nobody
//! has accepted, whose lock no program can hold, the ages are asked for one by one.

pub mod exact;
pub mod peers;
mod wire;

use std::{io, os::fd::OwnedFd};

use closewait_common::tcp::{AF_INET, AF_INET6, state};
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with},
};
use thiserror::Error;

use self::wire::{DiagSocket, parse, request};
use crate::host::netns;
use closewait_engine::{
    decode::Decoder,
    kill::{CurrentSocket, Sent},
    model::{Listener, Protocol, Role, ScanFact, Since, Socket, Timer, TimerKind},
    time::BootTime,
};

/// What could not be seen.
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
    #[error("{call} on a sock_diag socket failed; load the module tcp_diag (`modprobe tcp_diag`)")]
    Call {
        /// Name of the call.
        call: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel answered with an error.
    #[error("the kernel refused to show its sockets; load the module tcp_diag (`modprobe tcp_diag`)")]
    Refused(#[source] io::Error),
    /// The answer is shorter than it says.
    #[error("the kernel's answer is cut off; report this with the output of `closewait doctor`")]
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

/// Asks for the IPv4 sockets in CLOSE_WAIT of this network namespace, to see whether there is an answer. May load the
/// module `tcp_diag`, as `ss` does.
///
/// # Errors
///
/// If the question cannot be asked or is not answered.
pub fn probe() -> Result<(), DiagError> {
    Netlink::open()?.dump(AF_INET, DiagQuery::Waiting).map(drop)
}

/// Every socket in CLOSE_WAIT of the network namespace of this thread. Each has a cookie after that, also where none had asked
/// for one before. What was sent is not among the facts.
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
    /// When the kernel was asked, and when its answer was there.
    asked: (BootTime, BootTime),
    netns: u32,
}

impl ListedSocket {
    /// Inode of the socket; `None` if it is not accepted yet.
    pub fn inode(&self) -> Option<u64> {
        (self.found.inode != 0).then_some(self.found.inode.into())
    }

    /// Everything that is known of the socket.
    pub fn observation(self, decoder: Decoder) -> ScanFact {
        self.found.observation(decoder, self.asked, self.netns)
    }
}

/// Hands the sockets of every network namespace that can be entered to `each`, in the parts in which the kernel lists them:
/// of many sockets only a part is in memory at a time.
pub fn take(
    list: DiagQuery,
    now: impl Fn() -> BootTime + Sync,
    mut each: impl FnMut(Vec<ListedSocket>) + Send,
) -> Blind {
    let found = netns::find();
    let mut blind = Blind { reasons: Vec::new(), missed_namespaces: found.denied.is_some() };
    for namespace in found.namespaces {
        let listed = namespace.enter_and(|| {
            // One that lists cannot be asked meanwhile.
            let (lists, answers) = (Netlink::open()?, Netlink::open()?);
            let one = |mut found: DiagSocket, mut asked: (BootTime, BootTime)| {
                if found.inode == 0 && found.state == state::CLOSE_WAIT {
                    let before = now();
                    // It may have left meanwhile.
                    found.info = exact::info(&answers, &found).unwrap_or(None);
                    asked = (before, now());
                }
                ListedSocket { found, asked, netns: namespace.inode }
            };
            for family in [AF_INET, AF_INET6] {
                // The kernel makes a part when it is asked, or when the part before is received (`netlink_recvmsg`,
                // net/netlink/af_netlink.c at v5.10).
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
            Ok(Err(error)) => blind.add(namespace.inode, &anyhow::Error::from(error)),
            Err(error) => blind.add(namespace.inode, &anyhow::Error::from(error)),
        }
    }
    blind
}

impl Blind {
    /// Whether the sockets of every network namespace were listed.
    pub fn saw_all(&self) -> bool {
        self.reasons.is_empty() && !self.missed_namespaces
    }

    fn add(&mut self, inode: u32, error: &anyhow::Error) {
        self.reasons.push(format!("sockets of network namespace {inode} cannot be listed: {error:#}"));
    }
}

impl DiagSocket {
    /// `asked` is when the question was asked and when all answers were there: the kernel has looked at its clock between.
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

    /// As `inet_sk_diag_fill` numbers them (net/ipv4/inet_diag.c at v5.10).
    fn timer_kind(&self) -> Option<TimerKind> {
        match self.timer {
            1 => Some(TimerKind::On),
            2 => Some(TimerKind::Keepalive),
            4 => Some(TimerKind::Persist),
            _ => None,
        }
    }
}

/// A socket to `sock_diag` of one network namespace.
#[derive(Debug)]
struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one to the namespace of this thread.
    fn open() -> Result<Self, DiagError> {
        let protocol = Some(netlink::SOCK_DIAG);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol);
        socket.map(Self).map_err(|errno| DiagError::Call { call: "socket", source: errno.into() })
    }

    /// Asks for the sockets of one address family.
    fn dump(&self, family: u16, list: DiagQuery) -> Result<Vec<DiagSocket>, DiagError> {
        let mut found = self.exchange(&request(family, list))?;
        found.retain(|one| list.has(one.state));
        Ok(found)
    }

    /// Asks, and takes in all that is answered.
    fn exchange(&self, request: &[u8]) -> Result<Vec<DiagSocket>, DiagError> {
        let mut found = Vec::new();
        self.exchange_each(request, |part| found.extend(part))?;
        Ok(found)
    }

    /// Asks, and hands each part of the answer to `each`.
    fn exchange_each(&self, request: &[u8], mut each: impl FnMut(Vec<DiagSocket>)) -> Result<(), DiagError> {
        let socket = &self.0;
        // A netlink socket without a name sends to the kernel.
        send(socket, request, SendFlags::empty())
            .map_err(|errno| DiagError::Call { call: "send", source: errno.into() })?;
        // The kernel's parts are at most 32 KiB (`netlink_dump`, net/netlink/af_netlink.c at v5.10).
        let mut answer = vec![0; 64 * 1024];
        loop {
            let received = match recv(socket, &mut answer[..], RecvFlags::empty()) {
                Ok((received, _length)) => received,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(DiagError::Call { call: "recv", source: errno.into() }),
            };
            let mut part = Vec::new();
            let is_last = parse(&answer[..received], &mut part)?;
            each(part);
            if is_last {
                return Ok(());
            }
        }
    }
}

/// What the agent does with one part of an answer, for the fuzz target.
#[cfg(fuzzing)]
pub fn fuzz(part: &[u8], decoder: Decoder, asked: (BootTime, BootTime)) {
    let mut found = Vec::new();
    let _last = parse(part, &mut found);
    for one in found {
        if let ScanFact::Present { since: Since::Between { earliest, latest }, .. } = one.observation(decoder, asked, 1)
        {
            assert!(earliest.is_none_or(|earliest| earliest <= latest), "{earliest:?} {latest:?}");
        }
    }
}
