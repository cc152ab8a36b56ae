//! Requests to `sock_diag` and its answers, as bytes.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use bytes::Buf as _;
use closewait_common::tcp::{AF_INET, AF_INET6, IPPROTO_TCP};

use super::{DiagError, DiagQuery};
use closewait_engine::model::Endpoint;

/// Socket in a `sock_diag` answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiagSocket {
    pub(super) state: u8,
    pub(super) timer: u8,
    pub(super) retries: u8,
    /// Time until the timer expires.
    pub(super) expires: Duration,
    pub(super) local: Endpoint,
    pub(super) remote: Endpoint,
    /// Index of the interface that the socket is bound to; 0 if none.
    pub(super) interface: u32,
    pub(super) cookie: u64,
    pub(super) inode: u32,
    /// Unread bytes; for a listener, connections in the accept queue.
    pub(super) receive_queue: u32,
    /// Unacknowledged bytes; for a listener, the limit of its accept queue.
    pub(super) send_queue: u32,
    pub(super) cgroup: Option<u64>,
    /// Details from `struct tcp_info`. A dump does not request them.
    pub(super) info: Option<Box<Info>>,
}

/// Fields of `struct tcp_info` that the agent uses (include/uapi/linux/tcp.h at v5.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) last_data_sent: Duration,
    pub(super) last_data_recv: Duration,
    pub(super) last_ack_recv: Duration,
    pub(super) acked_bytes: Option<u64>,
    pub(super) received_bytes: Option<u64>,
    pub(super) sent_bytes: Option<u64>,
}

/// Constants of netlink and `sock_diag` (include/uapi/linux/{netlink,sock_diag,inet_diag}.h).
pub(super) mod nl {
    pub(in super::super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
    pub(in super::super) const SOCK_DESTROY: u16 = 21;
    pub(in super::super) const ERROR: u16 = 2;
    pub(in super::super) const DONE: u16 = 3;
    /// `NLM_F_REQUEST | NLM_F_DUMP`.
    pub(in super::super) const DUMP: u16 = 0x301;
    /// `NLM_F_REQUEST | NLM_F_ACK`.
    pub(in super::super) const ONE: u16 = 5;
    pub(in super::super) const ATTR_INFO: u16 = 2;
    pub(in super::super) const ATTR_CGROUP: u16 = 21;
    /// Size of `struct nlmsghdr`, bytes.
    pub(in super::super) const HEADER: usize = 16;
    /// Size of `struct inet_diag_msg`, bytes.
    pub(in super::super) const MESSAGE: usize = 72;
}

/// Builds a `struct nlmsghdr` and a `struct inet_diag_req_v2` for a dump.
pub(super) fn request(family: u16, list: DiagQuery) -> [u8; 72] {
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

/// Parses one batch of an answer about TCP sockets. Returns whether it was the last.
pub(super) fn parse(part: &[u8], found: &mut Vec<DiagSocket>) -> Result<bool, DiagError> {
    messages(part, |message| found.extend(parse_socket(message)))
}

/// Hands the message about each socket in one batch of an answer to `each`. Returns whether it was the last batch.
pub(super) fn messages(mut part: &[u8], mut each: impl FnMut(&[u8])) -> Result<bool, DiagError> {
    while part.len() >= nl::HEADER {
        let mut header = part;
        let length = usize::try_from(header.get_u32_ne()).unwrap_or(usize::MAX);
        let kind = header.get_u16_ne();
        let message = part.get(nl::HEADER..length).ok_or(DiagError::CutOff)?;
        match kind {
            nl::SOCK_DIAG_BY_FAMILY => each(message),
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

/// Parses one socket. `None` for a message that is too short or of another type.
fn parse_socket(message: &[u8]) -> Option<DiagSocket> {
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
    // Skips the user.
    fixed.advance(4);
    let inode = fixed.get_u32_ne();
    let mut one = DiagSocket {
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
            nl::ATTR_INFO => one.info = parse_info(value).map(Box::new),
            nl::ATTR_CGROUP if value.len() >= 8 => one.cgroup = Some(value.get_u64_ne()),
            _ => {}
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    Some(one)
}

/// Parses a `struct tcp_info`. Each kernel sends the part of it that it has.
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

/// Rounds up to a multiple of four, where the next message or attribute begins. Never 0, so that a scan always
/// advances.
pub(super) fn aligned(length: usize) -> usize {
    length.max(1).next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use closewait_common::tcp::state;
    use proptest::prelude::*;

    use super::*;
    use closewait_engine::{kill::Sent, model::TimerKind};

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
    fn facts_that_the_kernel_omits_are_unknown() {
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
