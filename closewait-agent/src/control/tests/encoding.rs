//! Encoding of an answer, which contains no member names.

use std::{
    borrow::Cow,
    time::{Duration, UNIX_EPOCH},
};

use super::super::PROTOCOL;
use crate::{
    clock::TimeAnchor,
    sink::answer::{AnswerHeader, AnswerItem, AnswerRow, ItemFrame},
};
use closewait_engine::{
    Config, Engine,
    diagnose::{RULES, Seen},
    model::{
        Certainty, Class, Connection, CoursePoint, Dwell, Exit, ExitCause, Forecast, Limit, Opener, ProxyPeer, Slope,
        Socket, SocketEvent, SocketKey, Timer, TimerKind, UnixBackend,
    },
    snapshot::groups::{Key, ListedGroup},
    snapshot::hints::Hint,
    snapshot::summary::ListSummary,
    snapshot::urgency::UrgencyCounts,
    stacks::ConnectStacks,
    testing,
    time::BootTime,
    unread::{HttpMethod, UnreadRequest, UnreadRequests},
};

/// Members are encoded by position. Any change of them needs a new version of the protocol.
#[test]
fn the_encoding_is_that_of_this_version_of_the_protocol() {
    let mut frame = ItemFrame::default();
    sample().iter().for_each(|item| frame.add(item).unwrap());
    let text: String =
        frame.bytes().iter().flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect();
    assert_eq!((PROTOCOL, text.as_str()), (19, ENCODED.trim_end()), "raise PROTOCOL, and change the bytes");
}

/// A client refuses a row whose rule it does not know.
#[test]
fn the_rules_are_those_of_this_version_of_the_protocol() {
    let mut names: Vec<&str> = RULES.iter().map(|rule| rule.about().name).collect();
    names.sort_unstable();
    assert_eq!((PROTOCOL, names.as_slice()), (19, &NAMES[..]), "raise PROTOCOL, and change the names");
}

/// Names of all rules for present sockets.
const NAMES: [&str; 31] = [
    "accept_stopped",
    "accumulates",
    "backend_stuck",
    "blocked",
    "busy_thread",
    "child_keeps",
    "client_blocked",
    "client_undecided",
    "forgotten",
    "fresh",
    "gone",
    "half_close",
    "inherited",
    "never_accepted",
    "no_demand",
    "own_pool",
    "owner_stopped",
    "partly_blocked",
    "peers_wait",
    "pool",
    "proxy_wait",
    "queue",
    "reads_slowly",
    "sending",
    "serves_others",
    "shared",
    "slow",
    "too_early",
    "unheld",
    "unread_response",
    "working",
];

/// Encoding of [`sample`].
const ENCODED: &str = include_str!("encoded.txt");

/// Returns one item of each type, with a value for nearly each member.
fn sample() -> Vec<AnswerItem<'static>> {
    let (now, anchor) = (BootTime(100_000_000_000), TimeAnchor::booted_at(UNIX_EPOCH));
    let task = || testing::owner("app", 7, 5).task;
    let socket = Socket {
        cgroup: Some(1),
        acked_bytes: Some(2),
        send_queue_bytes: Some(3),
        last_received: Some(BootTime(4)),
        last_ack: Some(BootTime(5)),
        last_sent: Some(BootTime(6)),
        timer: Some(Timer { kind: TimerKind::Persist, expires: now, retries: 1 }),
        opener: Some(Box::new(Opener { task: task(), at: BootTime(7) })),
        ..testing::socket()
    };
    let mut engine = Engine::new(Config::default(), BootTime(0));
    let key = SocketKey((1 << 63) + 1);
    engine.handle(SocketEvent::Enter { key, at: BootTime(1_000_000_000), socket: testing::socket() });
    let mut report = engine.report(now);
    let mut group = report.groups.pop().unwrap();
    report.host = Some("web-1".to_owned());
    report.resolved = vec![testing::resolved()];
    report.resolved[0].course.points.truncate(1);
    let mut course = testing::course();
    course.points = vec![CoursePoint {
        at: BootTime(1),
        count: 2,
        stuck: 3,
        entered: 4,
        left: 5,
        descriptors: Some(6),
        ages: Some([7; 13]),
    }];
    group.course = Some(course);
    group.pileup.verdict = testing::verdict(Class::Hung, Certainty::High);
    group.pileup.slope = Some(Slope { per_second: 0.5, error: 0.25 });
    let limit = Forecast {
        limit: Limit::Backlog,
        used: 1,
        most: 2,
        read_at: BootTime(4),
        left: Duration::from_secs(3),
        at_least: Duration::from_secs(2),
        at_most: None,
    };
    group.pileup.forecast = Some(limit);
    let hello = UnreadRequest::Tls { server_name: Some("a.example".to_owned()) };
    let get = UnreadRequest::Http { method: HttpMethod::Get, path: "/orders".to_owned() };
    group.pileup.evidence.unread = Some(UnreadRequests { requests: vec![(hello, 3), (get, 2)], others: 1 });
    group.pileup.evidence.unix = Some(vec![UnixBackend {
        path: "/a".to_owned(),
        connections: 4,
        queued: 3,
        waiting: 2,
        program: Some(task()),
        processes: 1,
        activity: None,
    }]);
    group.pileup.evidence.connects = Some(ConnectStacks { groups: Vec::new(), others: 2, connects: 3 });
    let row = AnswerRow {
        socket: Cow::Owned(socket.clone()),
        dwell: Some(Dwell::Between { at_least: Duration::from_secs(1), at_most: None }),
        gone: Some(Box::new(Cow::Owned(Exit {
            at: now,
            seen: true,
            how: ExitCause::Reset,
            closer: Some(task()),
            dwell: None,
        }))),
        owners: Some(Cow::Owned(vec![testing::owner("app", 7, 5)])),
        listener: Some(0),
        workload: Some(0),
        conntrack: Some(Duration::from_secs(60)),
        proxy_peer: Some(Box::new(Cow::Owned(ProxyPeer { state: Connection::FinWait2, socket }))),
        process: Some(7),
        verdict: testing::verdict(Class::Leak, Certainty::Medium),
    };
    let listed = ListedGroup {
        key: Key::Listener { netns: Some(1), local: testing::listener(80, 1, 2).local },
        count: 2,
        gone: 3,
        oldest: Some(Duration::from_secs(4)),
        median: Some(Duration::from_secs(5)),
        verdicts: vec![(Class::Leak, 6)],
        owners: vec![task()],
        workload: Some(testing::workload()),
        fds: (Some(7), Some(8)),
    };
    let oldest = Duration::from_secs(9);
    let hint = Hint::Backlog { owner: Some(task()), listener: testing::listener(80, 1, 2), count: 10, oldest };
    let counts = UrgencyCounts { full: 3, growing: 4, stuck: 5, undecided: 6, normal: 7, others: 8 };
    let version = "0.1.0".to_owned();
    let header = AnswerHeader { version, at: now, anchor, total: 1, untracked: 2, unseen: Some("why".to_owned()) };
    let seen = Seen { what: testing::listener(80, 1, 2), at: now, owners: vec![testing::owner("app", 7, 5)] };
    vec![
        AnswerItem::Header(header),
        AnswerItem::Listener(Cow::Owned(seen)),
        AnswerItem::Workload(Cow::Owned(testing::workload())),
        AnswerItem::Process(Cow::Owned(testing::process("app", 7, Some((5, 1024))))),
        AnswerItem::Row(Box::new(row)),
        AnswerItem::Report(Box::new(report)),
        AnswerItem::Group(Box::new(group)),
        AnswerItem::ListedGroup(Box::new(listed)),
        AnswerItem::Hint(Box::new(hint)),
        AnswerItem::Summary(ListSummary { sockets: 1, gone: 2, groups: counts }),
    ]
}
