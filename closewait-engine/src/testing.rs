//! Sockets and records for tests.

use std::{borrow::Cow, net::Ipv4Addr, time::Duration};

use closewait_common::{
    Detailed, Record,
    record::{DETAILED_SIZE, Detail, FORMAT, SIZE, flag, kind},
    tcp::{AF_INET, IPPROTO_TCP, RCV_SHUTDOWN, state},
};

use super::{
    model::{
        AgeCounts, Certainty, Class, CoursePoint, Dwell, Endpoint, Evidence, FirstForecast, Host, IncidentCourse,
        IncidentId, LastDiagnosis, Limit, Listener, Milestone, MilestoneKind, Onset, Owner, Pileup, PileupEnd,
        PileupGroup, Protocol, Recovery, ResolvedIncident, Role, Socket, Task, Verdict, count_age,
    },
    process::Process,
    snapshot::view::Row,
    stacks::{CodeFrame, CodeLanguage, CodeStack},
    text::Comm,
    time::BootTime,
    workload::Workload,
};

/// Returns an accepted IPv4 socket on port 8080.
pub fn socket() -> Socket {
    socket_on_port(8080)
}

/// Returns an accepted IPv4 socket on the given local port.
pub fn socket_on_port(port: u16) -> Socket {
    Socket {
        cookie: Some(7),
        netns: Some(4_026_531_840),
        protocol: Protocol::Tcp,
        local: Endpoint { address: Ipv4Addr::new(10, 0, 0, 5).into(), port },
        remote: Endpoint { address: Ipv4Addr::new(10, 0, 0, 9).into(), port: 51_234 },
        role: Some(Role::Server),
        inode: Some(99),
        cgroup: None,
        accepted: Some(true),
        unread_bytes: Some(1),
        received_bytes: Some(1),
        sent_bytes: Some(0),
        keepalive: Some(false),
        acked_bytes: None,
        send_queue_bytes: None,
        last_received: None,
        last_ack: None,
        last_sent: None,
        timer: None,
        opener: None,
    }
}

/// Returns an owner with one descriptor.
pub fn owner(comm: &str, pid: u32, fd: u32) -> Owner {
    Owner { task: Task { pid, comm: Comm::from_name(comm.as_bytes()) }, fd }
}

/// Returns a listener on every IPv4 address.
pub fn listener(port: u16, backlog: u32, backlog_max: u32) -> Listener {
    let local = Endpoint { address: Ipv4Addr::UNSPECIFIED.into(), port };
    Listener { netns: Some(4_026_531_840), local, backlog, backlog_max, inode: Some(50) }
}

/// Returns a verdict with this class and certainty.
pub fn verdict(class: Class, certainty: Certainty) -> Verdict {
    let (text, next) = ("this is why".to_owned(), crate::process::NextStep::command("do this", "this --now"));
    Verdict { class, rule: "slow", certainty, text, next }
}

/// Returns a group of `count` sockets on port 80, without further facts.
pub fn pileup(class: Class, certainty: Certainty, count: u64) -> Pileup {
    Pileup {
        group: PileupGroup { role: None, netns: None, cgroup: None, local_port: Some(80), remote: None },
        incident: None,
        count,
        ended: 0,
        owners: None,
        shape: None,
        slope: None,
        entered_per_second: None,
        left_per_second: None,
        stuck_permille: None,
        onset: Onset { first_stuck: BootTime(0), last_closed: None, unaccepted_since: None },
        forecast: None,
        verdict: verdict(class, certainty),
        evidence: Evidence {
            oldest: Vec::new(),
            median: Duration::ZERO,
            p90: Duration::ZERO,
            ages: [0; 13],
            reads: Vec::new(),
            unaccepted: 0,
            remotes: 0,
            top_remotes: Vec::new(),
            process: None,
            process_at: None,
            stacks: None,
            unread: None,
            connects: None,
            unix: None,
            workload: None,
            backlog: None,
            backlog_at: None,
            proxy_peer: None,
            history: Vec::new(),
        },
    }
}

/// Returns a row with a socket that has been in CLOSE_WAIT for 90 seconds, without any other facts.
pub fn row(socket: &Socket) -> Row<'_> {
    Row {
        socket: Cow::Borrowed(socket),
        dwell: Some(Dwell::Exact(Duration::from_secs(90))),
        gone: None,
        owners: None,
        listener: None,
        workload: None,
        conntrack: None,
        proxy_peer: None,
        process: None,
        verdict: verdict(Class::Hung, Certainty::High),
    }
}

/// Returns the workload of a container in a pod.
pub fn workload() -> Workload {
    let id = "4f5e6d7c8b9a".repeat(6);
    let json = serde_json::json!({
        "cgroup_path": format!("/kubepods.slice/kubepods-pod1234.slice/cri-containerd-{}.scope", &id[..64]),
        "unit": null,
        "container": { "id": &id[..64], "runtime": "containerd" },
        "pod": { "uid": "0b2c", "name": "shop-api-7d9f", "namespace": "shop", "container_name": "api" },
    });
    serde_json::from_value(json).expect("a process")
}

/// Returns a process with this number of open descriptors and this limit.
pub fn process(comm: &str, pid: u32, fds: Option<(u64, u64)>) -> Process {
    Process {
        fds_open: fds.map(|(open, _limit)| open),
        fds_limit: fds.map(|(_open, limit)| limit),
        ..Process::unread(pid, owner(comm, pid, 0).task.comm)
    }
}

/// Returns the record of the entry of an accepted IPv4 socket.
pub fn record() -> Record {
    let v4 = |last| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last];
    Record {
        format: FORMAT,
        kind: kind::ENTER,
        old_state: state::ESTABLISHED,
        new_state: state::CLOSE_WAIT,
        shutdown: RCV_SHUTDOWN,
        family: AF_INET,
        protocol: IPPROTO_TCP,
        local_port: 8080,
        remote_port: 51_234,
        _pad: 0,
        flags: flag::SOCK | flag::TCP | flag::ACCEPTED | flag::BACKLOG,
        sk_err: 0,
        time_ns: 5_000_000_000,
        entered_ns: 5_000_000_000,
        sk: 0xffff_8880_0000_1000,
        cookie: 77,
        inode: 99,
        cgroup: 1,
        received_bytes: 6,
        sent_bytes: 0,
        netns: 4_026_531_840,
        unread_bytes: 6,
        opened_ns: 0,
        pid: 0,
        fd: -1,
        local_address: v4(5),
        remote_address: v4(9),
        comm: [0; 16],
    }
}

/// Returns the bytes of a record as the kernel program writes them: with details, except for entries and exits.
pub fn record_bytes(record: &Record) -> Vec<u8> {
    let detailed = detailed_bytes(&Detailed { record: *record, detail: Detail::EMPTY });
    let is_change = matches!(record.kind, kind::ENTER | kind::LEAVE);
    detailed[..if is_change { SIZE } else { DETAILED_SIZE }].to_vec()
}

/// Returns the bytes of a record with details.
pub fn detailed_bytes(detailed: &Detailed) -> Vec<u8> {
    // SAFETY: a `repr(C)` struct of integers and byte arrays without unnamed padding: every byte is set.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(detailed).cast::<u8>(), DETAILED_SIZE) }.to_vec()
}

/// Returns the course of an incident from second 1, with one milestone of each kind.
pub fn course() -> IncidentCourse {
    let second = |seconds: u64| BootTime(seconds * 1_000_000_000);
    let limit = Limit::Descriptors;
    let group = pileup(Class::Hung, Certainty::High, 0).group;
    let kinds = [
        (1, MilestoneKind::LastClosed, None, None),
        (2, MilestoneKind::FirstStuck, None, None),
        (15, MilestoneKind::Detected, Some(324), Some((limit, 368, 1024))),
        (31, MilestoneKind::Doubled, Some(648), Some((limit, 692, 1024))),
        (32, MilestoneKind::LimitNear(limit), Some(660), Some((limit, 704, 1024))),
        (48, MilestoneKind::FirstUnaccepted, None, None),
        (50, MilestoneKind::LimitReached(limit), Some(1000), Some((limit, 1024, 1024))),
        (90, MilestoneKind::Resolved(Recovery::Drained), Some(0), None),
    ];
    let milestones = kinds.map(|(at, kind, count, used)| Milestone { at: second(at), kind, count, used });
    let ages = |at: u64| {
        (2..at).fold(AgeCounts::default(), |mut ages, entered| {
            count_age(&mut ages, Duration::from_secs(at - entered), 20);
            ages
        })
    };
    let point = |at: u64| CoursePoint {
        at: second(at),
        ages: Some(ages(at)),
        count: at.saturating_sub(2) * 20,
        stuck: at.saturating_sub(62) * 20,
        entered: if at > 1 { 20 } else { 0 },
        left: 0,
        descriptors: (at == 15).then_some(368),
    };
    IncidentCourse {
        id: IncidentId::new(&Host::default(), &group, second(2)),
        milestones: milestones.to_vec(),
        forecast: Some(FirstForecast {
            made_at: second(15),
            limit,
            used: 368,
            most: 1024,
            exhausted_at: second(52),
            earliest: second(51),
            latest: Some(second(53)),
        }),
        points: (1..=50).map(point).collect(),
    }
}

/// Returns a resolved incident with the course of [`course`].
pub fn resolved() -> ResolvedIncident {
    let (course, second) = (course(), |seconds: u64| BootTime(seconds * 1_000_000_000));
    let last = LastDiagnosis::new(second(50), &verdict(Class::Hung, Certainty::High));
    let end = PileupEnd {
        id: course.id,
        group: pileup(Class::Hung, Certainty::High, 0).group,
        service: Some("java[23415] ShopApi".to_owned()),
        began: second(15),
        onset: second(2),
        last: Some(last),
        count: 0,
        most: 1000,
        how: Recovery::Drained,
    };
    ResolvedIncident { at: second(90), end, course }
}

/// Returns the stack of a thread of Python, with the function, file and line of each frame, innermost first.
pub fn python_stack(tid: u32, lines: &[(&str, &str, u32)]) -> CodeStack {
    let frame = |(function, file, line): &(&str, &str, u32)| CodeFrame {
        function: Some((*function).to_owned()),
        file: Some((*file).to_owned()),
        line: Some(*line),
        object: None,
    };
    let (language, frames) = (CodeLanguage::Python, lines.iter().map(frame).collect());
    CodeStack { language, tid: Some(tid), name: None, state: None, lock_owner: None, frames, cut: None }
}
