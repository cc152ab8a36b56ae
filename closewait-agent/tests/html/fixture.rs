//! Reports for the tests of the page.

use std::{
    net::Ipv4Addr,
    time::{Duration, UNIX_EPOCH},
};

use closewait::{
    clock::TimeAnchor,
    sink::report::{ReportPage, ReportSource, html},
};
use closewait_engine::{
    model::{
        AgeCounts, Certainty, Class, CoursePoint, Dwell, Endpoint, FirstForecast, Forecast, Host, IncidentCourse,
        IncidentId, IncidentReport, IncidentState, IncidentStatus, Limit, Milestone, MilestoneKind, Oldest, Onset,
        Pileup, PileupGroup, ReadState, ReportedGroup, Role, Shape, Slope, Totals, count_age,
    },
    process::{Architecture, NextStep, Process, Syscall, ThreadGroup, ThreadState},
    testing::{owner, pileup, process, resolved},
    text::Comm,
    time::BootTime,
};

/// Second of the report.
const NOW: u64 = 5000;
/// Boot, seconds since 1970: the report is of 2026-11-25 22:48:33 UTC.
const BOOTED: u64 = 1_795_646_913 - NOW;

fn second(second: u64) -> BootTime {
    BootTime(second * 1_000_000_000)
}

/// Returns the page of a report.
pub(crate) fn page(report: &IncidentReport) -> String {
    let anchor = TimeAnchor::booted_at(UNIX_EPOCH + Duration::from_secs(BOOTED));
    let (version, source, notes, socket) = ("0.1.0", ReportSource::Host, &[], None);
    html::page(&ReportPage { report, version, anchor, source, notes, socket }).expect("the report is valid")
}

/// Returns a report without groups.
pub(crate) fn empty() -> IncidentReport {
    let totals = Totals { entered: 81, left: 81, ..Totals::default() };
    IncidentReport {
        at: second(NOW),
        host: Some("ux-1".to_owned()),
        watched: Some(Duration::from_secs(11_520)),
        stuck_after: Duration::from_secs(60),
        totals,
        untracked: 0,
        unseen: None,
        stack_frames: None,
        groups: Vec::new(),
        more: 0,
        matching: None,
        resolved: Vec::new(),
    }
}

/// Returns a report of a host with a hang whose descriptors are exhausted, a leak, a pool and a resolved incident.
pub(crate) fn incident() -> IncidentReport {
    let mut ended = resolved();
    let shift = |at: &mut BootTime| at.0 += second(NOW - 4000).0;
    ended.course.milestones.iter_mut().for_each(|one| shift(&mut one.at));
    ended.course.points.iter_mut().for_each(|one| shift(&mut one.at));
    for at in [&mut ended.at, &mut ended.end.began, &mut ended.end.onset] {
        shift(at);
    }
    if let (Some(forecast), Some(last)) = (&mut ended.course.forecast, &mut ended.end.last) {
        for at in [&mut forecast.made_at, &mut forecast.exhausted_at, &mut forecast.earliest, &mut last.at] {
            shift(at);
        }
        forecast.latest.iter_mut().for_each(shift);
    }
    let mut leak = group(Class::Leak, Certainty::High, 420, 25_020, ("python3", 12_784, Some("leaky.py")));
    leak.pileup.verdict.rule = "forgotten";
    leak.pileup.verdict.next =
        NextStep::command("find the path that returns without close()", "closewait list --pid 12784 --port 25020");
    leak.pileup.verdict.text =
        "python3[12784] serves other connections and has 420 sockets open whose peers closed up to 6m3s ago".to_owned();
    let mut pool = group(Class::Pool, Certainty::High, 6, 0, ("python3", 12_787, Some("pool.py")));
    let remote = Some(Endpoint { address: Ipv4Addr::LOCALHOST.into(), port: 25_030 });
    pool.pileup.verdict.rule = "pool";
    pool.pileup.group = PileupGroup { role: Some(Role::Client), local_port: None, remote, ..pool.pileup.group };
    let groups = vec![hang(), leak, pool];
    let totals = Totals { entered: 1675, left: 105, tracked: 1570, ..Totals::default() };
    IncidentReport { watched: Some(Duration::from_secs(91)), totals, groups, resolved: vec![ended], ..empty() }
}

/// Returns the hang of a server: 20 sockets a second enter from 75 s before the report on, and none exits.
pub(crate) fn hang() -> ReportedGroup {
    let mut group = group(Class::Hung, Certainty::Medium, 1144, 25_140, ("java", 23_415, Some("ShopApi")));
    group.stuck = 300;
    let ReportedGroup { pileup, course, .. } = &mut group;
    let start = NOW - 75;
    pileup.onset = Onset {
        first_stuck: second(start),
        last_closed: Some(second(start - 3)),
        unaccepted_since: Some(second(start + 50)),
    };
    (pileup.shape, pileup.slope) = (Some(Shape::Linear), Some(Slope { per_second: 20.1, error: 0.2 }));
    pileup.verdict.rule = "blocked";
    pileup.verdict.text = "since the oldest of 1144 sockets entered 1m15s ago, java[23415] has served no other connection of \
                           port 25140, while 1498 arrived; 25 of 27 threads wait without a timeout, and most of the sockets \
                           were never read"
        .to_owned();
    pileup.verdict.next = NextStep::command(
        "see where the threads of java[23415] are; jcmd needs a free descriptor, and there is none",
        "kill -QUIT 23415",
    );
    let limit = Limit::Descriptors;
    let zero = Duration::ZERO;
    let (used, most) = (1024, 1024);
    pileup.forecast =
        Some(Forecast { limit, used, most, read_at: second(NOW - 3), left: zero, at_least: zero, at_most: Some(zero) });
    let count = |second: u64| second.saturating_sub(start) * 20;
    let capped = |second: u64| count(second).min(1016);
    pileup.count = 1144;
    let evidence = &mut pileup.evidence;
    (evidence.median, evidence.p90) = (Duration::from_secs(36), Duration::from_secs(68));
    evidence.ages = [12, 40, 140, 402, 430, 120, 0, 0, 0, 0, 0, 0, 0];
    evidence.reads = vec![(ReadState::NeverRead, 1129), (ReadState::FinConsumed, 8), (ReadState::Partial, 3)];
    (evidence.unaccepted, evidence.backlog, evidence.remotes) = (129, Some((129, 128)), 1);
    evidence.top_remotes = vec![(Ipv4Addr::LOCALHOST.into(), 1144)];
    evidence.process = Some(Box::new(Process {
        script: Some("ShopApi".to_owned()),
        threads: Some(27),
        threads_seen: 27,
        groups: vec![
            threads(8, Some(202), "pool-1-thread-1"),
            threads(17, Some(202), "GC Thread"),
            threads(2, None, "java"),
        ],
        ..process("java", 23_415, Some((1024, 1024)))
    }));
    evidence.oldest = (0..5)
        .map(|at| Oldest {
            remote: Endpoint { address: Ipv4Addr::LOCALHOST.into(), port: 54_804 + at * 12 },
            cookie: Some(4711 + u64::from(at)),
            dwell: Dwell::Exact(Duration::from_secs(75)),
            read: Some(ReadState::FinConsumed),
            owners: Some(vec![owner("java", 23_415, 5 + u32::from(at))]),
        })
        .collect();
    let used = |second: u64| Some((limit, (count(second) + 44).min(1024), 1024));
    let milestone = |at: u64, kind: MilestoneKind| {
        let has_count =
            !matches!(kind, MilestoneKind::LastClosed | MilestoneKind::FirstStuck | MilestoneKind::FirstUnaccepted);
        Milestone {
            at: second(at),
            kind,
            count: has_count.then(|| capped(at)),
            used: has_count.then(|| used(at)).flatten(),
        }
    };
    let milestones = vec![
        milestone(start - 3, MilestoneKind::LastClosed),
        milestone(start, MilestoneKind::FirstStuck),
        milestone(start + 16, MilestoneKind::Detected),
        milestone(start + 29, MilestoneKind::LimitNear(limit)),
        milestone(start + 32, MilestoneKind::Doubled),
        milestone(start + 49, MilestoneKind::LimitReached(limit)),
        milestone(start + 50, MilestoneKind::FirstUnaccepted),
    ];
    let ages = |at: u64| {
        (start..at).fold(AgeCounts::default(), |mut ages, entered| {
            count_age(&mut ages, Duration::from_secs(at - entered), 20);
            ages
        })
    };
    let point = |at: u64| CoursePoint {
        at: second(at),
        ages: Some(ages(at)),
        count: if at < start { (at * 7) % 4 } else { count(at).min(1144) },
        stuck: count(at.saturating_sub(60)),
        entered: if at < start { 18 + at % 5 } else { 20 },
        left: if at < start { 18 + (at + 2) % 5 } else { 0 },
        descriptors: used(at).map(|(_, used, _)| used),
    };
    let host = Host { name: Some("ux-1".to_owned()), boot: None };
    let id = IncidentId::new(&host, &pileup.group, second(start));
    pileup.incident = Some(IncidentStatus { id, state: IncidentState::Exhausted, began: second(start + 16) });
    *course = Some(IncidentCourse {
        id,
        milestones,
        forecast: Some(FirstForecast {
            made_at: second(start + 16),
            limit,
            used: 364,
            most: 1024,
            exhausted_at: second(start + 52),
            earliest: second(start + 46),
            latest: Some(second(start + 62)),
        }),
        points: (start - 20..=NOW).map(point).collect(),
    });
    group
}

fn threads(count: u32, syscall: Option<i32>, comm: &str) -> ThreadGroup {
    ThreadGroup {
        count,
        state: if syscall.is_some() { ThreadState::Sleeping } else { ThreadState::Running },
        syscall: syscall.map(|number| Syscall::new(Architecture::X86_64, number)),
        arg: None,
        limit: None,
        own: false,
        wchan: None,
        comms: vec![Comm::from_name(comm.as_bytes())],
        busiest_permille: None,
        main_permille: None,
        has_main: false,
        busiest_wanted_permille: None,
        main_wanted_permille: None,
    }
}

/// Returns a group of a process without growth.
fn group(
    class: Class,
    certainty: Certainty,
    count: u64,
    port: u16,
    (comm, pid, script): (&str, u32, Option<&str>),
) -> ReportedGroup {
    let mut pileup: Pileup = pileup(class, certainty, count);
    pileup.group = PileupGroup { role: Some(Role::Server), local_port: Some(port), ..pileup.group };
    pileup.owners = Some(vec![(owner(comm, pid, 3).task, u32::try_from(count).unwrap_or(u32::MAX))]);
    let script = script.map(str::to_owned);
    pileup.evidence.process = Some(Box::new(Process { script, ..process(comm, pid, Some((count + 15, 20_000))) }));
    pileup.evidence.ages[5] = u32::try_from(count).unwrap_or(u32::MAX);
    pileup.onset = Onset { first_stuck: second(NOW - 363), last_closed: Some(second(NOW - 2)), unaccepted_since: None };
    (pileup.shape, pileup.slope) = (Some(Shape::Plateau), Some(Slope::default()));
    ReportedGroup { piles_up_since: None, stuck: count, pileup, course: None }
}

/// Text that a program or a host could have as a name, to leave its place in the page.
pub(crate) const HOSTILE: &str =
    "</script></title></style><img src=x onerror=alert(1)>\"'`&<!--<script>alert(2)</script>\u{202e}\u{7}\\";

/// Returns the report of [`incident`] with hostile text in every place that takes text from the host.
pub(crate) fn hostile() -> IncidentReport {
    let mut report = incident();
    let text = || HOSTILE.to_owned();
    report.host = Some(text());
    report.unseen = Some(text());
    for ReportedGroup { pileup, .. } in &mut report.groups {
        pileup.verdict.text = text();
        pileup.verdict.next = NextStep { text: text(), command: Some(text()) };
        if let Some(process) = &mut pileup.evidence.process {
            process.comm = Comm::from_name(b"<b onclick=alert");
            (process.script, process.exe, process.frozen_by) = (Some(text()), Some(text()), Some(text()));
            process.unseen = vec![text()];
            for threads in &mut process.groups {
                (threads.syscall, threads.wchan) = (None, Some(text()));
            }
        }
        for owner in pileup.owners.iter_mut().flatten() {
            owner.0.comm = Comm::from_name(b"\"><svg onload=a>");
        }
        for oldest in &mut pileup.evidence.oldest {
            oldest.owners = Some(vec![owner("'><i onclick=a>", 1, 2)]);
        }
    }
    report.resolved.iter_mut().for_each(|one| one.end.service = Some(text()));
    report
}

/// Returns the largest report: 64 groups with full courses, and as many resolved incidents.
pub(crate) fn largest() -> IncidentReport {
    let mut report = hostile();
    let (mut group, ended) = (report.groups[0].clone(), report.resolved[0].clone());
    let long = HOSTILE.repeat(20);
    (group.pileup.verdict.text, group.pileup.verdict.next.text) = (long.clone(), long);
    if let Some(course) = &mut group.course {
        let (first, all) = (course.points[0], 600);
        course.points = (0..all)
            .map(|at| CoursePoint { at: first.at + Duration::from_secs(at), count: at * 1_000_003, ..first })
            .collect();
        course.milestones = course.milestones.iter().cycle().take(64).copied().collect();
        course.milestones.sort_by_key(|milestone| milestone.at);
    }
    report.groups = vec![group; 64];
    report.resolved = vec![ended; 64];
    report.more = 1000;
    report
}
