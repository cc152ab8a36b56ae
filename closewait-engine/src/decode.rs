//! Decoder of the kernel program's records. It does not trust their bytes.

use std::{
    mem::offset_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use bytes::Buf as _;
use closewait_common::{
    Record,
    record::{DETAILED_SIZE, Detail, FORMAT, HOLD_SIZE, SIZE, flag, kind, timer},
    tcp::{AF_INET, AF_INET6, IPPROTO_MPTCP, IPPROTO_TCP, SEND_SHUTDOWN, state},
};
use thiserror::Error;

use super::{
    model::{
        Connection, Endpoint, ExitCause, InspectionFact, Listener, Observation, Opener, Owner, Protocol, ProxyPeer,
        RefreshFact, Role, ScanFact, Since, Socket, SocketEvent, SocketKey, Task, Timer, TimerKind,
    },
    text::Comm,
    time::BootTime,
};

/// Reason why bytes are not a valid record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Wrong number of bytes.
    #[error("a record has {SIZE} bytes, or {DETAILED_SIZE} with details; this has {0}")]
    Length(usize),
    /// Format of another version.
    #[error("the record has format {0}, this agent reads {FORMAT}")]
    Format(u16),
    /// Kind that is not one of [`kind`].
    #[error("unknown kind of record {0}")]
    Kind(u8),
    /// Address family other than IPv4 and IPv6.
    #[error("unknown address family {0}")]
    Family(u16),
    /// Protocol other than TCP and MPTCP.
    #[error("unknown protocol {0}")]
    Protocol(u16),
    /// Socket states that do not fit the kind of record.
    #[error("a record of kind {kind} cannot be about state {old} -> {new}")]
    States {
        /// Kind of the record.
        kind: u8,
        /// State before.
        old: u8,
        /// State after.
        new: u8,
    },
    /// Fields that contradict each other, such as an exit before its entry.
    #[error("the record contradicts itself: {0}")]
    Contradiction(&'static str),
}

/// Decoder of records, with the facts about the host that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoder {
    /// Length of a kernel tick (`1 / CONFIG_HZ`).
    pub tick: Duration,
    /// Time for which the machine has been suspended since boot. TCP's timestamps stop during a suspend, so a socket that a scan
    /// finds can be older by this time.
    pub suspended: Duration,
}

impl Decoder {
    /// Decodes one record.
    ///
    /// # Errors
    ///
    /// Returns an error if `bytes` are not exactly one valid record.
    pub fn decode(&self, bytes: &[u8]) -> Result<Observation, DecodeError> {
        if bytes.get(offset_of!(Record, kind)) == Some(&kind::HOLDS) {
            return hold(bytes);
        }
        let (record, detail) = read(bytes)?;
        let key = SocketKey(record.sk);
        let at = BootTime(record.time_ns);
        let states = |fits: bool| {
            let Record { kind, old_state: old, new_state: new, .. } = record;
            if fits { Ok(()) } else { Err(DecodeError::States { kind, old, new }) }
        };
        // The records of changes have no details, which the compiler can omit.
        let is_change = record.kind == kind::ENTER || record.kind == kind::LEAVE;
        let socket = if is_change { self.socket(&record, &Detail::EMPTY) } else { self.socket(&record, &detail) }?;
        match record.kind {
            kind::ENTER => {
                states(record.new_state == state::CLOSE_WAIT)?;
                Ok(SocketEvent::Enter { key, at, socket }.into())
            }
            kind::LEAVE => {
                states(record.old_state == state::CLOSE_WAIT)?;
                if record.entered_ns > record.time_ns {
                    return Err(DecodeError::Contradiction("the exit is earlier than the entry"));
                }
                let entered = (record.entered_ns != 0).then_some(BootTime(record.entered_ns));
                let (how, fd_open) = how_left(&record);
                let wrote = record.has(flag::WROTE_KNOWN).then(|| record.has(flag::WROTE));
                let (closer, ended) =
                    (task(&record), record.has(flag::TASK_ENDS_KNOWN).then(|| record.has(flag::TASK_ENDS)));
                Ok(match (record.has(flag::ENTERED), entered) {
                    (false, _) => SocketEvent::Leave { key, at, entered, socket, how, closer, fd_open, wrote, ended },
                    (true, Some(entered)) => {
                        SocketEvent::Pass { key, entered, at, socket, how, closer, fd_open, wrote, ended }
                    }
                    (true, None) => return Err(DecodeError::Contradiction("an entry without its time")),
                }
                .into())
            }
            kind::PRESENT => {
                states(record.new_state == state::CLOSE_WAIT)?;
                Ok(ScanFact::Present { key, at, since: self.since(&record, &detail), socket }.into())
            }
            kind::HELD => {
                states(record.new_state == state::CLOSE_WAIT)?;
                let owner = owner(&record).ok_or(DecodeError::Contradiction("a descriptor without an owner"))?;
                Ok(ScanFact::Owned { key, at, since: self.since(&record, &detail), socket, owner }.into())
            }
            kind::LISTENING => {
                states(record.new_state == state::LISTEN)?;
                let Socket { netns, local, inode, .. } = socket;
                let Detail { backlog, backlog_max, .. } = detail;
                if !record.has(flag::LISTENER) {
                    return Err(DecodeError::Contradiction("a listener without a backlog"));
                }
                let listener = Listener { netns, local, backlog, backlog_max, inode };
                Ok(ScanFact::Listening { key, at, listener, owner: owner(&record) }.into())
            }
            kind::LINGERING => {
                states(record.new_state == state::CLOSE || record.new_state == state::LAST_ACK)?;
                let (how, _fd_open) = how_left(&record);
                // A socket without an error may never have been in CLOSE_WAIT: this side can have closed first.
                let how = if record.new_state == state::CLOSE && record.sk_err == 0 { ExitCause::Unknown } else { how };
                Ok(match owner(&record) {
                    Some(owner) => ScanFact::Lingering { key, at, socket, how, owner }.into(),
                    None => RefreshFact::Lingering { key, at, socket }.into(),
                })
            }
            kind::PROXY_PEER => {
                let state = Connection::from_state(record.new_state);
                states(state.is_some())?;
                let state = state.ok_or(DecodeError::Contradiction("a proxy peer without a connection"))?;
                let owner = owner(&record).ok_or(DecodeError::Contradiction("a descriptor without an owner"))?;
                Ok(InspectionFact::ProxyPeer { peer: Box::new(ProxyPeer { state, socket }), owner }.into())
            }
            kind::REFRESHED => {
                states(record.new_state == state::CLOSE_WAIT)?;
                Ok(RefreshFact::Present { key, at, since: Some(self.since(&record, &detail)), socket }.into())
            }
            unknown => Err(DecodeError::Kind(unknown)),
        }
    }

    /// Returns the bounds of the entry of a socket that was found at `at`, from the ages of its last ACK and its last data.
    ///
    /// The FIN carries an ACK, and `tcp_ack` sets `rcv_tstamp`, so the FIN arrived no later than the last ACK. Only segments with
    /// data set `lrcvtime` (`tcp_event_data_recv`, net/ipv4/tcp_input.c at v5.10), and none can follow the FIN, so the FIN arrived
    /// no earlier than the last data. The kernel counts both in ticks, rounded down.
    pub fn between(&self, at: BootTime, ages: Option<(Duration, Duration)>) -> Since {
        let Some((last_ack, last_data)) = ages else { return Since::Between { earliest: None, latest: at } };
        let at_least = last_ack.saturating_sub(self.tick);
        let at_most = last_data.saturating_add(self.tick).saturating_add(self.suspended).max(at_least);
        Since::Between { earliest: Some(at - at_most), latest: at - at_least }
    }

    fn since(&self, record: &Record, detail: &Detail) -> Since {
        let ages = (self.tick.saturating_mul(detail.last_ack_ticks), self.tick.saturating_mul(detail.last_data_ticks));
        let between = self.between(BootTime(record.time_ns), record.has(flag::AGES).then_some(ages));
        let entered = BootTime(record.entered_ns);
        // Otherwise data arrived after the stored entry, so the entry is that of an earlier socket with this address, whose exit the
        // kernel program missed.
        let is_of_this_stay = !between.is_after(entered);
        if entered != BootTime(0) && entered <= BootTime(record.time_ns) && is_of_this_stay {
            return Since::Exact(entered);
        }
        between
    }

    #[inline(always)]
    fn socket(&self, record: &Record, detail: &Detail) -> Result<Socket, DecodeError> {
        let protocol = match record.protocol {
            IPPROTO_TCP => Protocol::Tcp,
            IPPROTO_MPTCP => Protocol::Mptcp,
            other => return Err(DecodeError::Protocol(other)),
        };
        if record.family != AF_INET && record.family != AF_INET6 {
            return Err(DecodeError::Family(record.family));
        }
        let endpoint = |address: [u8; 16], port| {
            // One comparison, because this is done twice for each record.
            let bits = u128::from_be_bytes(address);
            let is_mapped = bits >> 32 == 0xffff;
            let v4 = Ipv4Addr::from_bits(bits as u32);
            Endpoint { address: if is_mapped { IpAddr::V4(v4) } else { IpAddr::V6(Ipv6Addr::from_bits(bits)) }, port }
        };
        let (known, tcp, queue) = (record.has(flag::SOCK), record.has(flag::TCP), record.has(flag::SEND_QUEUE));
        let at = BootTime(record.time_ns);
        let ago = |flag, ticks| record.has(flag).then(|| at - self.tick.saturating_mul(ticks));
        let opener = record.has(flag::OPENER).then(|| {
            let task = Task { pid: record.pid, comm: Comm::from_kernel(&record.comm) };
            Box::new(Opener { task, at: BootTime(record.opened_ns) })
        });
        // A socket without a backlog is the connecting side, or its listener called `listen(fd, 0)`.
        let in_backlog = known && !record.has(flag::ACCEPTED) && record.new_state == state::CLOSE_WAIT;
        let role = if record.has(flag::BACKLOG) || in_backlog {
            Some(Role::Server)
        } else {
            opener.as_ref().map(|_| Role::Client)
        };
        Ok(Socket {
            cookie: (record.cookie != 0).then_some(record.cookie),
            netns: (record.netns != 0).then_some(record.netns),
            protocol,
            local: endpoint(record.local_address, record.local_port),
            remote: endpoint(record.remote_address, record.remote_port),
            role,
            inode: (record.inode != 0).then_some(record.inode),
            cgroup: record.has(flag::CGROUP).then_some(record.cgroup),
            accepted: known.then_some(record.has(flag::ACCEPTED)),
            unread_bytes: tcp.then_some(record.unread_bytes),
            received_bytes: tcp.then_some(record.received_bytes),
            sent_bytes: tcp.then_some(record.sent_bytes),
            keepalive: known.then_some(record.has(flag::KEEPALIVE)),
            acked_bytes: queue.then_some(detail.acked_bytes),
            send_queue_bytes: queue.then_some(detail.send_queue_bytes),
            last_received: ago(flag::AGES, detail.last_data_ticks),
            last_ack: ago(flag::AGES, detail.last_ack_ticks),
            last_sent: ago(flag::SENT, detail.last_sent_ticks),
            timer: self.timer(record, detail),
            opener,
        })
    }

    fn timer(&self, record: &Record, detail: &Detail) -> Option<Timer> {
        if !record.has(flag::TIMER) {
            return None;
        }
        let kind = match detail.timer {
            timer::ON => TimerKind::On,
            timer::KEEPALIVE => TimerKind::Keepalive,
            timer::PERSIST => TimerKind::Persist,
            _ => return None,
        };
        let left = self.tick.saturating_mul(u32::try_from(detail.timer_ticks).unwrap_or(0));
        Some(Timer { kind, expires: BootTime(record.time_ns) + left, retries: detail.timer_retries })
    }
}

/// Returns the cause of an exit, and whether a descriptor of the socket is still open (the table in docs/events.md).
fn how_left(record: &Record) -> (ExitCause, Option<bool>) {
    /// Errnos of Linux, positive as in `sk_err`.
    mod errno {
        pub(super) const EPIPE: i32 = 32;
        pub(super) const ENETUNREACH: i32 = 101;
        pub(super) const ECONNABORTED: i32 = 103;
        pub(super) const ECONNRESET: i32 = 104;
        pub(super) const ETIMEDOUT: i32 = 110;
        pub(super) const EHOSTUNREACH: i32 = 113;
    }
    let known = record.has(flag::SOCK);
    let accepted = record.has(flag::ACCEPTED);
    let fd_open =
        if known && !accepted { Some(false) } else { record.has(flag::FILE).then_some(!record.has(flag::FILE_GONE)) };
    let how = match (record.new_state, record.sk_err) {
        // A close and a shutdown of the sending side have the same states; only the file distinguishes them.
        (state::LAST_ACK, _) if fd_open == Some(true) || record.kind == kind::LINGERING => ExitCause::Shutdown,
        (state::LAST_ACK, _) => ExitCause::Closed,
        (state::CLOSE, _) if !known => ExitCause::Unknown,
        (state::CLOSE, 0) if accepted => ExitCause::Aborted,
        (state::CLOSE, 0) => ExitCause::ListenerClosed,
        // `tcp_reset` turns a reset in CLOSE_WAIT into EPIPE (net/ipv4/tcp_input.c at v5.10).
        (state::CLOSE, errno::EPIPE | errno::ECONNRESET) => ExitCause::Reset,
        // `tcp_write_err` prefers the error that a router reported to the plain timeout (net/ipv4/tcp_timer.c at v5.10).
        (state::CLOSE, errno::ETIMEDOUT | errno::EHOSTUNREACH | errno::ENETUNREACH) => ExitCause::Timeout,
        (state::CLOSE, errno::ECONNABORTED) => ExitCause::Destroyed,
        _ => ExitCause::Unknown,
    };
    // Without the file, the shutdown flags still show an abort in close(): it shuts down both directions, `connect` to AF_UNSPEC
    // does not (`__tcp_close` and `tcp_disconnect`, net/ipv4/tcp.c at v5.10).
    let fd_open = match how {
        ExitCause::Aborted => fd_open.or(Some(record.shutdown & SEND_SHUTDOWN == 0)),
        ExitCause::Closed
        | ExitCause::Shutdown
        | ExitCause::Reset
        | ExitCause::Timeout
        | ExitCause::Destroyed
        | ExitCause::ListenerClosed
        | ExitCause::Unknown => fd_open,
    };
    (how, fd_open)
}

fn task(record: &Record) -> Option<Task> {
    record.has(flag::TASK).then(|| Task { pid: record.pid, comm: Comm::from_kernel(&record.comm) })
}

/// Decodes a descriptor of a tracked socket.
fn hold(bytes: &[u8]) -> Result<Observation, DecodeError> {
    if bytes.len() != HOLD_SIZE {
        return Err(DecodeError::Length(bytes.len()));
    }
    let mut buf = bytes;
    let format = buf.get_u16_ne();
    if format != FORMAT {
        return Err(DecodeError::Format(format));
    }
    // Skip the kind and the padding.
    buf.advance(2);
    let fd = u32::try_from(buf.get_i32_ne());
    let fd = fd.map_err(|_negative| DecodeError::Contradiction("its descriptor is below zero"))?;
    let (key, inode, at) = (SocketKey(buf.get_u64_ne()), buf.get_u64_ne(), Some(BootTime(buf.get_u64_ne())));
    let pid = buf.get_u32_ne();
    buf.advance(4);
    let comm = Comm::from_kernel(&array(&mut buf));
    Ok(ScanFact::Descriptor { key, at, inode, owner: Owner { task: Task { pid, comm }, fd } }.into())
}

fn owner(record: &Record) -> Option<Owner> {
    Some(Owner { task: task(record)?, fd: u32::try_from(record.fd).ok()? })
}

/// Reads the fields in the order of [`Record`] and [`Detail`].
fn read(bytes: &[u8]) -> Result<(Record, Detail), DecodeError> {
    let wrong_length = DecodeError::Length(bytes.len());
    // With a length that the compiler knows, it can omit the bounds check of each field.
    let (record, mut detail) = bytes.split_first_chunk::<SIZE>().ok_or(wrong_length)?;
    if !detail.is_empty() && bytes.len() != DETAILED_SIZE {
        return Err(wrong_length);
    }
    let mut buf = record.as_slice();
    let format = buf.get_u16_ne();
    if format != FORMAT {
        return Err(DecodeError::Format(format));
    }
    let record = Record {
        format,
        kind: buf.get_u8(),
        old_state: buf.get_u8(),
        new_state: buf.get_u8(),
        shutdown: buf.get_u8(),
        family: buf.get_u16_ne(),
        protocol: buf.get_u16_ne(),
        local_port: buf.get_u16_ne(),
        remote_port: buf.get_u16_ne(),
        _pad: buf.get_u16_ne(),
        flags: buf.get_u32_ne(),
        sk_err: buf.get_i32_ne(),
        time_ns: buf.get_u64_ne(),
        entered_ns: buf.get_u64_ne(),
        sk: buf.get_u64_ne(),
        cookie: buf.get_u64_ne(),
        inode: buf.get_u64_ne(),
        cgroup: buf.get_u64_ne(),
        received_bytes: buf.get_u64_ne(),
        sent_bytes: buf.get_u64_ne(),
        netns: buf.get_u32_ne(),
        unread_bytes: buf.get_u32_ne(),
        opened_ns: buf.get_u64_ne(),
        pid: buf.get_u32_ne(),
        fd: buf.get_i32_ne(),
        local_address: array(&mut buf),
        remote_address: array(&mut buf),
        comm: array(&mut buf),
    };
    let is_change = record.kind == kind::ENTER || record.kind == kind::LEAVE;
    if is_change != detail.is_empty() {
        return Err(wrong_length);
    }
    Ok((record, if is_change { Detail::EMPTY } else { read_detail(&mut detail) }))
}

fn read_detail(buf: &mut &[u8]) -> Detail {
    Detail {
        acked_bytes: buf.get_u64_ne(),
        send_queue_bytes: buf.get_u32_ne(),
        last_sent_ticks: buf.get_u32_ne(),
        last_ack_ticks: buf.get_u32_ne(),
        last_data_ticks: buf.get_u32_ne(),
        timer_ticks: buf.get_i32_ne(),
        backlog: buf.get_u32_ne(),
        backlog_max: buf.get_u32_ne(),
        timer: buf.get_u8(),
        timer_retries: buf.get_u8(),
        _pad: array(buf),
    }
}

fn array<const N: usize>(buf: &mut &[u8]) -> [u8; N] {
    let mut to = [0; N];
    buf.copy_to_slice(&mut to);
    to
}

#[cfg(test)]
mod tests;
