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

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use bytes::Buf as _;
use closewait_common::tcp::{AF_INET, AF_INET6, IPPROTO_TCP, state};
use thiserror::Error;

use crate::{
    engine::{
        decode::Decoder,
        kill::{Facts, Sent},
        model::{Endpoint, Listener, Observation, Protocol, Role, Since, Socket, Timer, TimerKind},
        time::Boot,
    },
    host::netns,
};

/// What could not be seen, one sentence each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blind {
    /// Why.
    pub reasons: Vec<String>,
}

/// Why `sock_diag` gave no answer.
#[derive(Debug, Error)]
pub enum DiagError {
    /// A system call failed.
    #[error("{call} on a sock_diag socket failed; load the module tcp_diag (`modprobe tcp_diag`)")]
    Call {
        /// Its name.
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

/// What to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// Sockets in CLOSE_WAIT.
    Waiting,
    /// Sockets that listen.
    Listeners,
    /// Both.
    Both,
}

impl List {
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
    Netlink::open()?.dump(AF_INET, List::Waiting).map(drop)
}

/// Every socket in CLOSE_WAIT of the network namespace of this thread. Each has a cookie after that, also where none had asked
/// for one before. What was sent is not among the facts.
///
/// # Errors
///
/// If the question cannot be asked or is not answered.
pub fn waiting() -> Result<Vec<Facts>, DiagError> {
    let netlink = Netlink::open()?;
    let mut found = netlink.dump(AF_INET, List::Waiting)?;
    found.extend(netlink.dump(AF_INET6, List::Waiting)?);
    Ok(found.iter().map(Found::facts).collect())
}

/// A socket that was listed.
#[derive(Debug)]
pub struct Listed {
    /// Its inode, `None` if nobody has accepted it.
    pub inode: Option<u64>,
    /// All of it.
    pub observation: Observation,
}

/// Hands the sockets of every network namespace that can be entered to `each`, as the kernel lists them: of many of them only
/// a part is in memory at a time.
pub fn take(list: List, decoder: Decoder, now: impl Fn() -> Boot + Sync, mut each: impl FnMut(Listed) + Send) -> Blind {
    let mut blind = Blind::default();
    for namespace in netns::all() {
        let listed = namespace.enter_and(|| {
            // One that lists cannot be asked meanwhile.
            let (lists, answers) = (Netlink::open()?, Netlink::open()?);
            let mut one = |mut one: Found, mut asked: (Boot, Boot)| {
                if one.inode == 0 && one.state == state::CLOSE_WAIT {
                    let before = now();
                    // It may have left meanwhile.
                    one.info = exact::info(&answers, &one).unwrap_or(None);
                    asked = (before, now());
                }
                let inode = (one.inode != 0).then_some(one.inode.into());
                each(Listed { inode, observation: one.observation(decoder, asked, namespace.inode) });
            };
            for family in [AF_INET, AF_INET6] {
                // The kernel makes a part when it is asked, or when the part before is received (`netlink_recvmsg`,
                // net/netlink/af_netlink.c at v5.10).
                let (mut made, mut received) = (now(), now());
                lists.exchange_each(&request(family, list), |part| {
                    let asked = (made, now());
                    part.into_iter().filter(|found| list.has(found.state)).for_each(|found| one(found, asked));
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
    fn add(&mut self, inode: u32, error: &anyhow::Error) {
        self.reasons.push(format!("sockets of network namespace {inode} cannot be listed: {error:#}"));
    }
}

/// One socket of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    state: u8,
    timer: u8,
    retries: u8,
    /// Until the timer expires.
    expires: Duration,
    local: Endpoint,
    remote: Endpoint,
    /// Index of the interface that it is bound to; 0: none.
    interface: u32,
    cookie: u64,
    inode: u32,
    /// Bytes that were not read; of a listener, connections that wait.
    receive_queue: u32,
    /// Bytes that were not acknowledged; of a listener, how many connections may wait.
    send_queue: u32,
    cgroup: Option<u64>,
    info: Option<Info>,
}

/// What is used of `struct tcp_info` (include/uapi/linux/tcp.h at v5.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Info {
    last_data_sent: Duration,
    last_data_recv: Duration,
    last_ack_recv: Duration,
    acked_bytes: Option<u64>,
    received_bytes: Option<u64>,
    sent_bytes: Option<u64>,
}

impl Found {
    /// `asked` is when the question was asked and when all answers were there: the kernel has looked at its clock between.
    fn observation(self, decoder: Decoder, asked: (Boot, Boot), netns: u32) -> Observation {
        let (at, after) = asked;
        let key = super::key_secret().key(Some(netns), self.local, self.remote);
        let inode = (self.inode != 0).then_some(self.inode.into());
        if self.state == state::LISTEN {
            let (local, backlog, backlog_max) = (self.local, self.receive_queue, self.send_queue);
            let listener = Listener { netns: Some(netns), local, backlog, backlog_max, inode };
            return Observation::Listening { key, at, listener, holder: None };
        }
        let ages = self.info.map(|info| (info.last_ack_recv, info.last_data_recv));
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
            received_bytes: self.info.and_then(|info| info.received_bytes),
            sent_bytes: self.info.and_then(|info| info.sent_bytes),
            keepalive: None,
            acked_bytes: self.info.and_then(|info| info.acked_bytes),
            send_queue_bytes: Some(self.send_queue),
            last_received: self.info.map(|info| at - info.last_data_recv),
            last_ack: self.info.map(|info| at - info.last_ack_recv),
            last_sent: self.info.map(|info| at - info.last_data_sent),
            timer: self.timer_kind().map(|kind| Timer { kind, expires: at + self.expires, retries: self.retries }),
            opener: None,
        };
        Observation::Present { key, at, since, socket }
    }

    fn facts(&self) -> Facts {
        let sent = self.info.and_then(|info| {
            Some(Sent { bytes: info.sent_bytes?, ago: info.last_data_sent, received_ago: info.last_data_recv })
        });
        Facts {
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
        // SAFETY: three integers go in, a descriptor or -1 comes out.
        let fd =
            unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG) };
        if fd < 0 {
            return Err(DiagError::Call { call: "socket", source: io::Error::last_os_error() });
        }
        // SAFETY: the descriptor was opened just now, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Asks for the sockets of one address family.
    fn dump(&self, family: u16, list: List) -> Result<Vec<Found>, DiagError> {
        let mut found = self.exchange(&request(family, list))?;
        found.retain(|one| list.has(one.state));
        Ok(found)
    }

    /// Asks, and takes in all that is answered.
    fn exchange(&self, request: &[u8]) -> Result<Vec<Found>, DiagError> {
        let mut found = Vec::new();
        self.exchange_each(request, |part| found.extend(part))?;
        Ok(found)
    }

    /// Asks, and hands each part of the answer to `each`.
    fn exchange_each(&self, request: &[u8], mut each: impl FnMut(Vec<Found>)) -> Result<(), DiagError> {
        let socket = &self.0;
        // SAFETY: pointer and length are of one live slice; a netlink socket without a name sends to the kernel.
        let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
        if sent < 0 {
            return Err(DiagError::Call { call: "send", source: io::Error::last_os_error() });
        }
        // The kernel's parts are at most 32 KiB (`netlink_dump`, net/netlink/af_netlink.c at v5.10).
        let mut answer = vec![0; 64 * 1024];
        loop {
            // SAFETY: pointer and length are of one live buffer.
            let received = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
            let Ok(received) = usize::try_from(received) else {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(DiagError::Call { call: "recv", source: error });
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

/// Numbers of netlink and `sock_diag` (include/uapi/linux/{netlink,sock_diag,inet_diag}.h).
mod nl {
    pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
    pub(super) const SOCK_DESTROY: u16 = 21;
    pub(super) const ERROR: u16 = 2;
    pub(super) const DONE: u16 = 3;
    /// `NLM_F_REQUEST | NLM_F_DUMP`.
    pub(super) const DUMP: u16 = 0x301;
    /// `NLM_F_REQUEST | NLM_F_ACK`.
    pub(super) const ONE: u16 = 5;
    pub(super) const ATTR_INFO: u16 = 2;
    pub(super) const ATTR_CGROUP: u16 = 21;
    /// `struct nlmsghdr`.
    pub(super) const HEADER: usize = 16;
    /// `struct inet_diag_msg`.
    pub(super) const MESSAGE: usize = 72;
}

/// A `struct nlmsghdr` and a `struct inet_diag_req_v2`.
fn request(family: u16, list: List) -> [u8; 72] {
    let mut request = [0; 72];
    request[..4].copy_from_slice(&72_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&nl::SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&nl::DUMP.to_ne_bytes());
    // Both fit into a byte: they are 2 or 10, and 6.
    request[16] = family as u8;
    request[17] = IPPROTO_TCP as u8;
    request[20..24].copy_from_slice(&list.states().to_ne_bytes());
    request
}

/// Reads one part of an answer. Returns whether it was the last.
fn parse(mut part: &[u8], found: &mut Vec<Found>) -> Result<bool, DiagError> {
    while part.len() >= nl::HEADER {
        let mut header = part;
        let length = usize::try_from(header.get_u32_ne()).unwrap_or(usize::MAX);
        let kind = header.get_u16_ne();
        let message = part.get(nl::HEADER..length).ok_or(DiagError::CutOff)?;
        match kind {
            nl::SOCK_DIAG_BY_FAMILY => found.extend(parse_socket(message)),
            nl::ERROR | nl::DONE => {
                let mut number = message;
                let errno = if number.remaining() >= 4 { number.get_i32_ne() } else { 0 };
                let error = io::Error::from_raw_os_error(errno.saturating_neg());
                return if errno < 0 { Err(DiagError::Refused(error)) } else { Ok(true) };
            }
            _ => {}
        }
        part = part.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

/// `None` for a message that is too short, or about something else.
fn parse_socket(message: &[u8]) -> Option<Found> {
    let (mut fixed, mut attributes) = message.split_at_checked(nl::MESSAGE)?;
    let family = u16::from(fixed.get_u8());
    let state = fixed.get_u8();
    if family != AF_INET && family != AF_INET6 {
        return None;
    }
    let (timer, retries) = (fixed.get_u8(), fixed.get_u8());
    let (local_port, remote_port) = (fixed.get_u16(), fixed.get_u16());
    let mut address = || {
        let mut bytes = [0; 16];
        fixed.copy_to_slice(&mut bytes);
        let v4 = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if family == AF_INET { IpAddr::from(v4) } else { Ipv6Addr::from(bytes).to_canonical() }
    };
    let (local, remote) = (address(), address());
    let interface = fixed.get_u32_ne();
    let cookie = u64::from(fixed.get_u32_ne()) | u64::from(fixed.get_u32_ne()) << 32;
    let expires = Duration::from_millis(fixed.get_u32_ne().into());
    let (receive_queue, send_queue) = (fixed.get_u32_ne(), fixed.get_u32_ne());
    // The user.
    fixed.advance(4);
    let inode = fixed.get_u32_ne();
    let mut one = Found {
        state,
        timer,
        retries,
        expires,
        local: Endpoint { address: local, port: local_port },
        remote: Endpoint { address: remote, port: remote_port },
        interface,
        cookie,
        inode,
        receive_queue,
        send_queue,
        cgroup: None,
        info: None,
    };
    while attributes.len() >= 4 {
        let mut header = attributes;
        let (length, kind) = (usize::from(header.get_u16_ne()), header.get_u16_ne());
        let Some(mut value) = attributes.get(4..length) else { break };
        match kind {
            nl::ATTR_INFO => one.info = parse_info(value),
            nl::ATTR_CGROUP if value.len() >= 8 => one.cgroup = Some(value.get_u64_ne()),
            _ => {}
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    Some(one)
}

/// Kernels give as much of `struct tcp_info` as they know.
fn parse_info(info: &[u8]) -> Option<Info> {
    let millis = |at: usize| Some(Duration::from_millis(info.get(at..at + 4)?.get_u32_ne().into()));
    let bytes = |at: usize| Some(info.get(at..at + 8)?.get_u64_ne());
    Some(Info {
        last_data_sent: millis(44)?,
        last_data_recv: millis(52)?,
        last_ack_recv: millis(56)?,
        acked_bytes: bytes(120),
        received_bytes: bytes(128),
        sent_bytes: bytes(200),
    })
}

/// Messages and attributes begin at multiples of four. Never 0, so that a walk always goes on.
fn aligned(length: usize) -> usize {
    length.max(1).next_multiple_of(4)
}

/// What the agent does with one part of an answer, for the fuzz target.
#[cfg(fuzzing)]
pub fn fuzz(part: &[u8], decoder: Decoder, asked: (Boot, Boot)) {
    let mut found = Vec::new();
    let _last = parse(part, &mut found);
    for one in found {
        if let Observation::Present { since: Since::Between { earliest, latest }, .. } =
            one.observation(decoder, asked, 1)
        {
            assert!(earliest.is_none_or(|earliest| earliest <= latest), "{earliest:?} {latest:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = u32::try_from(nl::HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    fn socket_message() -> Vec<u8> {
        let mut body = vec![2, state::CLOSE_WAIT, 4, 0];
        body.extend(8080_u16.to_be_bytes());
        body.extend(51_234_u16.to_be_bytes());
        for address in [[10, 0, 0, 5], [10, 0, 0, 9]] {
            body.extend(address);
            body.extend([0; 12]);
        }
        body.extend(3_u32.to_ne_bytes());
        body.extend(5_u32.to_ne_bytes());
        body.extend(1_u32.to_ne_bytes());
        for number in [0_u32, 17, 0, 0, 99] {
            body.extend(number.to_ne_bytes());
        }
        let mut info = [0; 208];
        info[44..48].copy_from_slice(&2000_u32.to_ne_bytes());
        info[52..56].copy_from_slice(&1800_u32.to_ne_bytes());
        info[56..60].copy_from_slice(&1000_u32.to_ne_bytes());
        info[128..136].copy_from_slice(&18_u64.to_ne_bytes());
        info[200..208].copy_from_slice(&300_u64.to_ne_bytes());
        body.extend(212_u16.to_ne_bytes());
        body.extend(nl::ATTR_INFO.to_ne_bytes());
        body.extend(info);
        message(nl::SOCK_DIAG_BY_FAMILY, &body)
    }

    #[test]
    fn a_socket_and_its_age_are_read() {
        let mut answer = socket_message();
        answer.extend(message(nl::DONE, &0_i32.to_ne_bytes()));
        let mut found = Vec::new();
        assert!(parse(&answer, &mut found).unwrap());
        let one = found.remove(0);
        assert_eq!((one.local.to_string(), one.remote.to_string()), ("10.0.0.5:8080".into(), "10.0.0.9:51234".into()));
        assert_eq!((one.cookie, one.inode, one.receive_queue), (5 | 1 << 32, 99, 17));
        let info = one.info.unwrap();
        assert_eq!((info.last_ack_recv.as_millis(), info.last_data_recv.as_millis()), (1000, 1800));
        assert_eq!(info.received_bytes, Some(18));
    }

    #[test]
    fn what_speaks_for_and_against_destroying_it_is_read() {
        let mut found = Vec::new();
        parse(&socket_message(), &mut found).unwrap();
        let facts = found.remove(0).facts();
        assert_eq!((facts.state, facts.cookie, facts.inode, facts.interface), (8, 5 | 1 << 32, 99, 3));
        assert_eq!((facts.timer, facts.send_queue_bytes), (Some(TimerKind::Persist), 0));
        let millis = Duration::from_millis;
        assert_eq!(facts.sent, Some(Sent { bytes: 300, ago: millis(2000), received_ago: millis(1800) }));
    }

    #[test]
    fn of_a_kernel_that_does_not_tell_nothing_is_made_up() {
        let mut found = Vec::new();
        // Without the attribute.
        let mut answer = socket_message();
        answer.truncate(nl::HEADER + nl::MESSAGE);
        answer[..4].copy_from_slice(&88_u32.to_ne_bytes());
        parse(&answer, &mut found).unwrap();
        assert_eq!(found.remove(0).facts().sent, None);
    }

    #[test]
    fn a_refusal_keeps_its_reason() {
        let error = parse(&message(nl::ERROR, &(-libc::ENOENT).to_ne_bytes()), &mut Vec::new()).unwrap_err();
        assert!(matches!(error, DiagError::Refused(source) if source.raw_os_error() == Some(libc::ENOENT)));
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer in prop::collection::vec(any::<u8>(), 0..400)) {
            let _any_result = parse(&answer, &mut Vec::new());
        }

        #[test]
        fn a_damaged_answer_does_not_either(at in 0_usize..300, with: u8) {
            let mut answer = socket_message();
            let at = at % answer.len();
            answer[at] = with;
            let _any_result = parse(&answer, &mut Vec::new());
        }
    }
}
