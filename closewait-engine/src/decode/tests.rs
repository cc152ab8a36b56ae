use closewait_common::{Detailed, record::Hold};
use proptest::prelude::*;

use super::*;
use crate::testing::{detailed_bytes, record, record_bytes as bytes};

const DECODER: Decoder = Decoder { tick: Duration::from_millis(4), suspended: Duration::ZERO };

fn decode(record: &Record) -> Result<Observation, DecodeError> {
    DECODER.decode(&bytes(record))
}

fn exit(new_state: u8, sk_err: i32, shutdown: u8, flags: u32) -> (ExitCause, Option<bool>) {
    let flags = flag::SOCK | flags;
    let left =
        Record { kind: kind::LEAVE, old_state: state::CLOSE_WAIT, new_state, sk_err, shutdown, flags, ..record() };
    let Ok(Observation::Socket(SocketEvent::Leave { how, fd_open, .. })) = decode(&left) else {
        panic!("{left:?} is an exit")
    };
    (how, fd_open)
}

#[test]
fn an_entry_is_read_field_by_field() {
    let Ok(Observation::Socket(SocketEvent::Enter { key, at, socket })) = decode(&record()) else { panic!("an entry") };
    assert_eq!((key, at), (SocketKey(0xffff_8880_0000_1000), BootTime(5_000_000_000)));
    let expected = Socket {
        cookie: Some(77),
        netns: Some(4_026_531_840),
        protocol: Protocol::Tcp,
        local: Endpoint { address: [10, 0, 0, 5].into(), port: 8080 },
        remote: Endpoint { address: [10, 0, 0, 9].into(), port: 51_234 },
        role: Some(Role::Server),
        inode: Some(99),
        cgroup: None,
        accepted: Some(true),
        unread_bytes: Some(6),
        received_bytes: Some(6),
        sent_bytes: Some(0),
        keepalive: Some(false),
        acked_bytes: None,
        send_queue_bytes: None,
        last_received: None,
        last_ack: None,
        last_sent: None,
        timer: None,
        opener: None,
    };
    assert_eq!(socket, expected);
}

#[test]
fn the_decoder_reads_the_fields_where_the_struct_has_them() {
    let all = Record { pid: 7, comm: *b"0123456789abcdef", shutdown: 3, sk_err: -5, _pad: 9, opened_ns: 3, ..record() };
    assert_eq!(read(&bytes(&all)), Ok((all, Detail::EMPTY)));
    let record = Record { kind: kind::REFRESHED, ..all };
    let detail = Detail {
        acked_bytes: 1,
        send_queue_bytes: 2,
        last_sent_ticks: 3,
        last_ack_ticks: 9,
        last_data_ticks: 10,
        timer_ticks: -4,
        backlog: 5,
        backlog_max: 6,
        timer: 7,
        timer_retries: 8,
        _pad: [9, 10],
    };
    assert_eq!(read(&detailed_bytes(&Detailed { record, detail })), Ok((record, detail)));
}

#[test]
fn a_field_without_its_flag_is_unknown() {
    let bare = Record { flags: 0, cookie: 0, netns: 0, inode: 0, ..record() };
    let Ok(Observation::Socket(SocketEvent::Enter { socket, .. })) = decode(&bare) else { panic!("an entry") };
    let Socket { cookie, netns, role, inode, cgroup, accepted, unread_bytes, keepalive, .. } = socket;
    assert_eq!((cookie, netns, role, inode), (None, None, None, None));
    assert_eq!((cgroup, accepted, unread_bytes, keepalive), (None, None, None, None));
}

#[test]
fn an_ipv6_address_stays_and_a_mapped_one_becomes_ipv4() {
    let mut six = record();
    six.family = AF_INET6;
    six.local_address = Ipv6Addr::LOCALHOST.octets();
    let Ok(Observation::Socket(SocketEvent::Enter { socket, .. })) = decode(&six) else { panic!("an entry") };
    assert_eq!(socket.local.address, IpAddr::V6(Ipv6Addr::LOCALHOST));
    assert_eq!(socket.remote.address, IpAddr::from([10, 0, 0, 9]));
}

#[test]
fn every_exit_cause_is_decoded() {
    const FILE: u32 = flag::ACCEPTED | flag::FILE;
    const GONE: u32 = FILE | flag::FILE_GONE;
    let rows = [
        (exit(9, 0, 3, GONE), (ExitCause::Closed, Some(false))),
        (exit(9, 0, 3, FILE), (ExitCause::Shutdown, Some(true))),
        (exit(9, 0, 3, flag::ACCEPTED), (ExitCause::Closed, None)),
        (exit(7, 0, 3, GONE), (ExitCause::Aborted, Some(false))),
        (exit(7, 0, 1, FILE), (ExitCause::Aborted, Some(true))),
        (exit(7, 32, 1, FILE), (ExitCause::Reset, Some(true))),
        (exit(7, 110, 1, FILE), (ExitCause::Timeout, Some(true))),
        (exit(7, 113, 1, FILE), (ExitCause::Timeout, Some(true))),
        (exit(7, 103, 1, FILE), (ExitCause::Destroyed, Some(true))),
        (exit(7, 103, 1, 0), (ExitCause::Destroyed, Some(false))),
        (exit(7, 0, 1, 0), (ExitCause::ListenerClosed, Some(false))),
        (exit(7, 1, 1, FILE), (ExitCause::Unknown, Some(true))),
    ];
    for (got, expected) in rows {
        assert_eq!(got, expected);
    }
}

#[test]
fn the_end_of_the_closing_task_is_read_if_it_is_known() {
    let ended = |flags| {
        let left = Record { kind: kind::LEAVE, old_state: 8, new_state: 9, flags, ..record() };
        let Ok(Observation::Socket(SocketEvent::Leave { ended, .. })) = decode(&left) else { panic!("an exit") };
        ended
    };
    assert_eq!(ended(flag::TASK), None);
    assert_eq!(ended(flag::TASK | flag::TASK_ENDS_KNOWN), Some(false));
    assert_eq!(ended(flag::TASK | flag::TASK_ENDS_KNOWN | flag::TASK_ENDS), Some(true));
}

#[test]
fn without_offsets_only_the_states_show_the_exit_cause() {
    let left = |new_state| Record { kind: kind::LEAVE, old_state: 8, new_state, flags: 0, ..record() };
    for (new_state, expected) in [(9, ExitCause::Closed), (7, ExitCause::Unknown)] {
        let Ok(Observation::Socket(SocketEvent::Leave { how, fd_open, closer, .. })) = decode(&left(new_state)) else {
            panic!("an exit")
        };
        assert_eq!((how, fd_open, closer), (expected, None, None));
    }
}

#[test]
fn the_age_of_an_older_socket_is_an_interval() {
    let record = Record { kind: kind::PRESENT, entered_ns: 0, flags: flag::SOCK | flag::AGES, ..record() };
    let detail = Detail { last_ack_ticks: 250, last_data_ticks: 450, ..Detail::EMPTY };
    let found = detailed_bytes(&Detailed { record, detail });
    let decoder = Decoder { suspended: Duration::from_secs(1), ..DECODER };
    let Ok(Observation::Scan(ScanFact::Present { at, since, .. })) = decoder.decode(&found) else {
        panic!("a socket found")
    };
    let millis = Duration::from_millis;
    assert_eq!(since, Since::Between { earliest: Some(at - millis(1804 + 1000)), latest: at - millis(996) });
    let unknown = Record { flags: flag::SOCK, ..record };
    let Ok(Observation::Scan(ScanFact::Present { since, .. })) = decode(&unknown) else { panic!("a socket found") };
    assert_eq!(since, Since::Between { earliest: None, latest: at });
}

#[test]
fn an_owner_is_read() {
    let comm = *b"worker\0\0\0\0\0\0\0\0\0\0";
    let held = Record { kind: kind::HELD, flags: flag::SOCK | flag::TASK, pid: 42, fd: 7, comm, ..record() };
    let Ok(Observation::Scan(ScanFact::Owned { owner, .. })) = decode(&held) else { panic!("a descriptor") };
    assert_eq!((owner.task.pid, owner.fd, owner.task.comm.as_str()), (42, 7, "worker"));
}

#[test]
fn a_descriptor_is_read_only_from_a_whole_record() {
    let comm = *b"worker\0\0\0\0\0\0\0\0\0\0";
    let hold = Hold {
        format: FORMAT,
        kind: kind::HOLDS,
        _pad: 0,
        fd: 7,
        sk: 5,
        inode: 99,
        time_ns: 8,
        pid: 42,
        _more_pad: 0,
        comm,
    };
    let bytes = |hold: &Hold| {
        // SAFETY: a `repr(C)` struct of integers and byte arrays without unnamed padding: every byte is set.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(hold).cast::<u8>(), HOLD_SIZE) }.to_vec()
    };
    let Ok(Observation::Scan(ScanFact::Descriptor { key, at, inode, owner })) = DECODER.decode(&bytes(&hold)) else {
        panic!("a descriptor")
    };
    assert_eq!((key, at, inode, owner.task.pid, owner.fd), (SocketKey(5), Some(BootTime(8)), 99, 42, 7));
    assert_eq!(owner.task.comm.as_str(), "worker");
    assert_eq!(DECODER.decode(&bytes(&hold)[..40]), Err(DecodeError::Length(40)));
    assert_eq!(DECODER.decode(&bytes(&Hold { format: 1, ..hold })), Err(DecodeError::Format(1)));
    assert!(matches!(DECODER.decode(&bytes(&Hold { fd: -1, ..hold })), Err(DecodeError::Contradiction(_))));
}

#[test]
fn contradictory_records_are_refused() {
    let refused = |record: Record| decode(&record).expect_err("an error");
    assert_eq!(refused(Record { format: 1, ..record() }), DecodeError::Format(1));
    assert_eq!(refused(Record { kind: 10, ..record() }), DecodeError::Kind(10));
    assert_eq!(refused(Record { kind: 0, ..record() }), DecodeError::Kind(0));
    assert_eq!(refused(Record { family: 1, ..record() }), DecodeError::Family(1));
    assert_eq!(refused(Record { protocol: 132, ..record() }), DecodeError::Protocol(132));
    assert_eq!(refused(Record { new_state: 7, ..record() }), DecodeError::States { kind: 1, old: 1, new: 7 });
    assert_eq!(refused(Record { kind: kind::LEAVE, ..record() }), DecodeError::States { kind: 2, old: 1, new: 8 });
    let early = Record { kind: kind::LEAVE, old_state: 8, new_state: 9, time_ns: 1, entered_ns: 2, ..record() };
    assert!(matches!(refused(early), DecodeError::Contradiction(_)));
    let unowned = Record { kind: kind::HELD, fd: 3, ..record() };
    assert!(matches!(refused(unowned), DecodeError::Contradiction(_)));
    let negative = Record { kind: kind::HELD, flags: flag::SOCK | flag::TASK, fd: -1, ..record() };
    assert!(matches!(refused(negative), DecodeError::Contradiction(_)));
}

#[test]
fn truncated_and_oversized_records_are_refused() {
    let whole = bytes(&record());
    for length in 0..SIZE {
        assert_eq!(DECODER.decode(&whole[..length]), Err(DecodeError::Length(length)));
    }
    let mut longer = whole;
    longer.push(0);
    assert_eq!(DECODER.decode(&longer), Err(DecodeError::Length(SIZE + 1)));
}

#[test]
fn records_of_entries_and_exits_have_no_details_and_others_have_them() {
    let refused = |kind| DECODER.decode(&bytes(&Record { kind, ..record() })[..SIZE]);
    assert_eq!(refused(kind::REFRESHED), Err(DecodeError::Length(SIZE)));
    let long = detailed_bytes(&Detailed { record: record(), detail: Detail::EMPTY });
    assert_eq!(DECODER.decode(&long), Err(DecodeError::Length(DETAILED_SIZE)));
}

#[test]
fn times_of_the_connection_and_its_timer_are_read() {
    let flags = flag::SOCK | flag::TCP | flag::AGES | flag::SENT | flag::SEND_QUEUE | flag::TIMER;
    let record = Record { kind: kind::REFRESHED, flags, sent_bytes: 5, ..record() };
    let detail = Detail {
        last_sent_ticks: 15,
        last_ack_ticks: 10,
        last_data_ticks: 20,
        send_queue_bytes: 3,
        acked_bytes: 2,
        timer: timer::KEEPALIVE,
        timer_ticks: 25,
        timer_retries: 1,
        ..Detail::EMPTY
    };
    let Ok(Observation::Refresh(RefreshFact::Present { at, socket, .. })) =
        DECODER.decode(&detailed_bytes(&Detailed { record, detail }))
    else {
        panic!("a refresh")
    };
    let millis = Duration::from_millis;
    let (received, acked, sent) = (at - millis(80), at - millis(40), at - millis(60));
    assert_eq!((socket.last_received, socket.last_ack, socket.last_sent), (Some(received), Some(acked), Some(sent)));
    assert_eq!((socket.send_queue_bytes, socket.acked_bytes, socket.replied()), (Some(3), Some(2), Some(true)));
    let timer = Timer { kind: TimerKind::Keepalive, expires: at + millis(100), retries: 1 };
    assert_eq!(socket.timer, Some(timer));
}

#[test]
fn a_known_opener_makes_the_socket_a_client() {
    let entered = Record {
        flags: flag::OPENER,
        pid: 7,
        comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
        opened_ns: 1_000_000_000,
        ..record()
    };
    let Ok(Observation::Socket(SocketEvent::Enter { socket, .. })) = decode(&entered) else { panic!("an entry") };
    let opener = socket.opener.expect("its opener");
    assert_eq!((opener.task.pid, opener.task.comm.as_str(), opener.at), (7, "curl", BootTime(1_000_000_000)));
    assert_eq!(socket.role, Some(Role::Client));
}

#[test]
fn listeners_proxy_peers_and_lingering_descriptors_are_decoded() {
    let of = |kind, new_state, flags| Record { kind, new_state, flags: flags | flag::SOCK, pid: 42, fd: 7, ..record() };
    let listening = of(kind::LISTENING, 10, flag::LISTENER);
    let detail = Detail { backlog: 3, backlog_max: 128, ..Detail::EMPTY };
    let bytes = detailed_bytes(&Detailed { record: listening, detail });
    let Ok(Observation::Scan(ScanFact::Listening { listener, owner, .. })) = DECODER.decode(&bytes) else {
        panic!("a listener")
    };
    assert_eq!((listener.backlog, listener.backlog_max, listener.local.port, owner), (3, 128, 8080, None));
    let held = of(kind::LISTENING, 10, flag::LISTENER | flag::TASK);
    assert!(matches!(decode(&held), Ok(Observation::Scan(ScanFact::Listening { owner: Some(_), .. }))));
    for state in [state::CLOSE, state::LAST_ACK] {
        let lingering = of(kind::LINGERING, state, flag::TASK);
        assert!(matches!(decode(&lingering), Ok(Observation::Scan(ScanFact::Lingering { .. }))));
        let refreshed = of(kind::LINGERING, state, 0);
        assert!(matches!(decode(&refreshed), Ok(Observation::Refresh(RefreshFact::Lingering { .. }))));
    }
    let record = of(kind::PROXY_PEER, state::FIN_WAIT2, flag::TASK);
    let Ok(Observation::Inspection(InspectionFact::ProxyPeer { peer, .. })) = decode(&record) else {
        panic!("a proxy peer")
    };
    assert_eq!(peer.state, Connection::FinWait2);
    for (kind, state) in [(kind::LISTENING, 1), (kind::LINGERING, 1), (kind::PROXY_PEER, 8)] {
        let refused = decode(&of(kind, state, flag::TASK | flag::LISTENER));
        assert_eq!(refused, Err(DecodeError::States { kind, old: 1, new: state }));
    }
}

proptest! {
    #[test]
    fn garbage_causes_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..2 * DETAILED_SIZE)) {
        let _any_result = DECODER.decode(&bytes);
    }

    #[test]
    fn a_damaged_record_causes_no_panic(damage in prop::collection::vec((0..SIZE, any::<u8>()), 1..8), kind in 1_u8..=8) {
        let mut bytes = bytes(&Record { kind, old_state: 8, ..record() });
        for (at, with) in damage {
            bytes[at] = with;
        }
        let _any_result = DECODER.decode(&bytes);
    }
}

#[test]
fn one_record_can_report_an_entry_and_its_exit() {
    let exit = Record { kind: kind::LEAVE, old_state: 8, new_state: 9, time_ns: 9_000_000_000, ..record() };
    let both = Record { flags: exit.flags | flag::ENTERED, ..exit };
    let decode = |record: &Record| DECODER.decode(&bytes(record));
    let Ok(Observation::Socket(event)) = decode(&both) else { panic!("it is an event") };
    let (Some(SocketEvent::Enter { key, at, socket }), leave) = event.split() else { panic!("it has an entry") };
    assert_eq!((key, at, socket.local.port), (SocketKey(exit.sk), BootTime(5_000_000_000), 8080));
    assert_eq!((socket.inode, socket.unread_bytes), (None, None), "as at an entry");
    assert_eq!(decode(&exit), Ok(leave.into()));
    let without_time = Record { entered_ns: 0, ..both };
    assert_eq!(decode(&without_time), Err(DecodeError::Contradiction("an entry without its time")));
}
