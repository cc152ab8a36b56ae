//! Histories of sockets, played through the whole engine: which incidents it reports.

use std::{collections::BTreeMap, net::Ipv4Addr};

use closewait_common::histogram::BUCKETS;
use proptest::prelude::*;

use super::*;
use crate::{
    Config, Engine,
    model::{
        Class, Counters, Endpoint, ExitCause, Finding, IncidentState, InspectionEnd, InspectionFact, Limit,
        Observation, Output, Pileup, PileupEnd, RefreshEnd, Role, ScanEnd, ScanFact, Socket, SocketEvent, SocketKey,
    },
    snapshot::query::{Filter, ReportContent},
    testing::{owner, process, socket_on_port},
};

mod accepting;
mod course;
mod metrics;

const STUCK_AFTER: Duration = Duration::from_secs(60);
const MILLI: u64 = 1_000_000;

/// Entry and exit of one socket, in milliseconds. The exit may be later than the end of the history.
#[derive(Clone, Debug)]
struct Life {
    socket: Socket,
    enters: u64,
    leaves: u64,
}

/// Reports of incidents and their ends, with their times in milliseconds.
#[derive(Debug, Default)]
struct Reports {
    pileups: Vec<(u64, Pileup)>,
    ends: Vec<(u64, PileupEnd)>,
    /// Engine at the end.
    engine: Option<Engine>,
}

impl Reports {
    fn counts(&self) -> (usize, usize) {
        (self.pileups.len(), self.ends.len())
    }

    /// Returns the first report of the only incident, with its time in seconds.
    fn only(&self) -> (f64, &Pileup) {
        let first: Vec<_> = self.pileups.iter().filter(|(_, pileup)| state(pileup) == IncidentState::Opened).collect();
        assert_eq!(first.len(), 1, "{first:?}");
        (first[0].0 as f64 / 1000.0, &first[0].1)
    }
}

fn state(pileup: &Pileup) -> IncidentState {
    pileup.incident.unwrap().state
}

/// Plays a history to `end` milliseconds.
fn play(lives: &[Life], end: u64) -> Reports {
    play_until_killed(lives, end, None)
}

/// Plays a history to `end` milliseconds, in which the program was killed at `killed` milliseconds.
fn play_until_killed(lives: &[Life], end: u64, killed: Option<u64>) -> Reports {
    let began = 1_000_000;
    let at = |millis: u64| BootTime((began + millis) * MILLI);
    let config = Config {
        stuck_after: STUCK_AFTER,
        max_tracked: usize::MAX,
        histogram_every: Duration::from_secs(3600),
        connection_limits: vec![(443, 400)],
        ..Config::default()
    };
    let mut engine = Engine::new(config, at(0));
    let mut records = BTreeMap::<(u64, u64, bool), SocketEvent>::new();
    for (number, life) in (0_u64..).zip(lives) {
        let (key, socket) = (SocketKey((1 << 63) + number), life.socket.clone());
        let enter = SocketEvent::Enter { key, at: at(life.enters), socket: socket.clone() };
        records.insert((life.enters, number, false), enter);
        let (entered, fd_open) = (Some(at(life.enters)), Some(false));
        let leave = SocketEvent::Leave {
            key,
            at: at(life.leaves),
            entered,
            socket,
            how: ExitCause::Closed,
            closer: None,
            fd_open,
            wrote: None,
            ended: killed.map(|killed| life.leaves == killed),
        };
        records.insert((life.leaves, number, true), leave);
    }
    let mut records = records.into_iter().peekable();
    let mut reports = Reports::default();
    let mut there = BTreeMap::<SocketKey, Socket>::new();
    loop {
        let record = records.peek().map(|((millis, ..), _)| *millis);
        let due = engine.poll_timeout().map(|due| (due.0 / MILLI + 1).saturating_sub(began));
        let Some(now) = record.into_iter().chain(due).min().filter(|now| *now <= end) else {
            return Reports { engine: Some(engine), ..reports };
        };
        while let Some(((millis, ..), _)) = records.peek()
            && *millis <= now
            && let Some((_, record)) = records.next()
        {
            match &record {
                SocketEvent::Enter { key, socket, .. } => drop(there.insert(*key, socket.clone())),
                SocketEvent::Leave { key, .. } | SocketEvent::Pass { key, .. } => drop(there.remove(key)),
            }
            engine.handle(record);
        }
        engine.handle_timeout(at(now));
        while let Some(output) = engine.poll_output() {
            let at = at(now);
            match output {
                Output::Refresh(_) => engine.handle(RefreshEnd::Inspection { at, lingering: true }),
                Output::ScanOwners { .. } => {
                    for (key, socket) in there.iter().filter(|(_, socket)| socket.accepted != Some(false)) {
                        let (key, inode) = (*key, socket.inode.unwrap());
                        engine.handle(ScanFact::Descriptor { key, at: None, inode, owner: owner("server", 7, 9) });
                    }
                    engine.handle(ScanEnd::Descriptors { began: at, blind: None, saw_listeners: true });
                }
                Output::InspectOwners(_) => {
                    let process = Box::new(process("server", 7, Some((20 + there.len() as u64, 1024))));
                    engine.handle(InspectionFact::Process { at, process });
                    engine.handle(InspectionEnd::Owners { at, worked: Duration::from_millis(1) });
                }
                Output::Finding(Finding::Pileup { pileup, .. }) => reports.pileups.push((now, *pileup)),
                Output::Finding(Finding::PileupEnd { end, .. }) => reports.ends.push((now, *end)),
                Output::ReadCounters => {
                    let counters = Box::new(Counters { dwell: vec![0; BUCKETS], ..Counters::default() });
                    engine.handle(Observation::Counters { at, counters });
                }
                Output::Audit { .. } => engine.handle(ScanEnd::Audit { began: at, at, complete: false, cost: None }),
                Output::RefreshSuspects(_) => engine.handle(RefreshEnd::Suspects { at, complete: false }),
                Output::StillStuck { .. }
                | Output::Finding(_)
                | Output::RefreshLingering(_)
                | Output::Forget(_)
                | Output::WatchPorts(_)
                | Output::Query(_) => {}
            }
        }
    }
}

fn on_port(port: u16, enters: u64, leaves: u64) -> Life {
    let mut socket = Socket { inode: Some(enters + 1), ..socket_on_port(port) };
    socket.remote.port = u16::try_from(10_000 + enters % 50_000).unwrap();
    Life { socket, enters, leaves }
}

fn towards(last: u8, enters: u64, leaves: u64) -> Life {
    let remote = Endpoint { address: Ipv4Addr::new(10, 0, 1, last).into(), port: 443 };
    let life = on_port(40_000, enters, leaves);
    Life { socket: Socket { role: Some(Role::Client), remote, ..life.socket }, ..life }
}

const NEVER: u64 = u64::MAX / MILLI / 4;

/// Returns sockets that enter every `every` ms from `from` to `to`, each with a dwell time of `stays` ms.
fn steady(port: u16, from: u64, to: u64, every: u64, stays: u64) -> Vec<Life> {
    (from..to).step_by(usize::try_from(every).unwrap()).map(|enters| on_port(port, enters, enters + stays)).collect()
}

/// Returns the sockets of a server that gets 20 requests per second, answers within 30 ms, and hangs after 30 s.
fn hang(until: u64) -> Vec<Life> {
    [steady(80, 0, 30_000, 50, 30), steady(80, 30_000, until, 50, NEVER)].concat()
}

#[test]
fn a_hang_is_reported_within_seconds_with_rate_onset_and_forecast() {
    let reports = play(&hang(45_000), 45_000);
    let (seconds, pileup) = reports.only();
    assert!((35.0..=45.0).contains(&seconds), "{seconds}");
    let slope = pileup.slope.unwrap();
    assert!((18.0..=22.0).contains(&slope.per_second) && slope.error < 2.0, "{slope:?}");
    assert_eq!((pileup.shape, pileup.verdict.class), (Some(Shape::Linear), Class::Unknown), "{pileup:?}");
    let onset = pileup.onset.first_stuck.0 / MILLI - 1_000_000;
    assert_eq!((onset, pileup.onset.last_closed.map(|at| at.0 / MILLI - 1_000_000)), (30_000, Some(29_980)));
    assert_eq!(pileup.owners.as_ref().unwrap()[0].0.pid, 7);
    let forecast = pileup.forecast.unwrap();
    // 1,024 descriptors less 20, at 20 per second after second 30.
    let ends = seconds + forecast.left.as_secs_f64();
    assert!((76.0..=84.0).contains(&ends) && forecast.limit == Limit::Descriptors, "{ends} {forecast:?}");
    assert!(forecast.at_least <= forecast.left && forecast.at_most.is_some_and(|most| most >= forecast.left));
    assert_eq!(pileup.evidence.oldest[0].remote.port, 40_000, "the first stuck socket");
}

#[test]
fn an_incident_ends_once_and_is_reported_again_only_when_it_has_doubled() {
    let mut lives = hang(90_000);
    for life in &mut lives {
        life.leaves = life.leaves.min(90_000);
    }
    lives.extend(steady(80, 91_000, 200_000, 50, 30));
    let reports = play(&lives, 200_000);
    reports.only();
    let again: Vec<_> = reports.pileups.iter().map(|(_, pileup)| (state(pileup), pileup.count)).collect();
    let doubled: Vec<_> = again.iter().filter(|(state, _)| *state != IncidentState::Exhausted).collect();
    assert!(doubled.len() > 1 && doubled.windows(2).all(|pair| pair[1].1 >= 2 * pair[0].1), "{again:?}");
    assert_eq!(reports.ends.len(), 1, "{:?}", reports.ends);
    let (at, end) = &reports.ends[0];
    assert!((90_000..110_000).contains(at) && end.how == Recovery::Drained && end.most >= 1150, "{at} {end:?}");
    let reports = play_until_killed(&lives, 200_000, Some(90_000));
    let (at, end) = &reports.ends[0];
    assert_eq!((reports.ends.len(), end.how), (1, Recovery::ProcessEnded));
    let text = end.summary(BootTime((1_000_000 + at) * MILLI));
    assert!(text.starts_with("resolved: server :80, process ended after "), "{text}");
}

#[test]
fn an_incident_is_reported_when_a_limit_is_near_and_when_it_is_reached() {
    // One socket in two seconds: 400 connections are the limit of port 443.
    let leak: Vec<_> = (0..900_u64).map(|number| towards(9, number * 2000, NEVER)).collect();
    let reports = play(&leak, 1_700_000);
    let of = |wanted: IncidentState| {
        reports.pileups.iter().filter(move |(_, pileup)| state(pileup) == wanted).collect::<Vec<_>>()
    };
    let forecast = |pileup: &Pileup| pileup.forecast.unwrap();
    assert!(forecast(&of(IncidentState::Opened)[0].1).left > NEAR_LIMIT);
    let near = of(IncidentState::Updated);
    let near: Vec<_> = near.iter().filter(|(_, one)| forecast(one).left <= NEAR_LIMIT).collect();
    // 150 sockets before the limit; the count doubles shortly after.
    assert!((495_000..515_000).contains(&near[0].0) && forecast(&near[0].1).left >= NEAR_LIMIT * 9 / 10, "{near:?}");
    let reached = of(IncidentState::Exhausted);
    assert!(forecast(&reached[0].1).is_reached() && forecast(&reached[0].1).left.is_zero(), "{reached:?}");
    assert!((798_000..806_000).contains(&reached[0].0), "{reached:?}");
    // Later reports are doublings, which are exhausted as well.
    assert!(reached.len() <= 3 && reached[1..].iter().all(|(_, pileup)| pileup.count > 420), "{reached:?}");
    let ids: std::collections::BTreeSet<_> = reports.pileups.iter().map(|(_, one)| one.incident.unwrap().id).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert!(reports.pileups.iter().all(|(_, one)| one.summary().chars().count() <= crate::model::MAX_SUMMARY_CHARS));
}

#[test]
fn the_end_has_the_identity_and_the_last_diagnosis_of_its_incident() {
    let mut lives = hang(60_000);
    for life in &mut lives {
        life.leaves = life.leaves.min(60_000);
    }
    let reports = play(&lives, 90_000);
    let ((told, first), (at, end)) = (reports.pileups.last().unwrap(), &reports.ends[0]);
    assert_eq!((end.id, end.began), (first.incident.unwrap().id, first.incident.unwrap().began));
    assert_eq!((end.service.clone(), end.onset), (first.service().label(), first.onset.first_stuck));
    let last = end.last.as_ref().unwrap();
    assert_eq!((last.class, last.rule), (first.verdict.class, first.verdict.rule));
    assert!(last.at.0 / MILLI - 1_000_000 <= *told && told < at, "{last:?}");
    assert!(end.summary(BootTime((1_000_000 + at) * MILLI)).starts_with("resolved: server :80, drained after "));
}

#[test]
fn an_agent_that_starts_later_gives_the_same_identity() {
    // One of ten requests hangs, and takes one of eight workers with it; the others are answered until the last worker hangs. An
    // hour before, one socket was left behind.
    let hours = 3_600_000;
    let slow_end = (0..80_u64).map(|number| {
        let enters = hours + number * 50;
        on_port(80, enters, if number % 10 == 0 { NEVER } else { enters + 30 })
    });
    let healthy = steady(80, hours - 60_000, hours, 50, 30);
    let mut lives = [healthy, slow_end.collect(), steady(80, hours + 4_000, hours + 120_000, 50, NEVER)].concat();
    lives.insert(0, on_port(80, 0, NEVER));
    let (_at, before) = play(&lives, hours + 40_000).pileups.remove(0);
    // The later agent knows only the present sockets.
    lives.retain(|life| life.leaves >= NEVER);
    let (_at, after) = play(&lives, hours + 120_000).pileups.remove(0);
    assert_eq!(before.incident.unwrap().id, after.incident.unwrap().id);
    assert_ne!(before.onset.first_stuck, after.onset.first_stuck, "only one of them has seen the last close");
}

#[test]
fn a_count_at_its_limit_is_not_over() {
    // 1,004 sockets and 20 other descriptors are all that the process can open, and they stay for 20 minutes.
    let lives: Vec<_> = hang(200_000).into_iter().filter(|life| life.leaves < NEVER || life.enters < 80_200).collect();
    let reports = play(&lives, 1_300_000);
    assert_eq!(state(&reports.pileups.last().unwrap().1), IncidentState::Exhausted);
    assert_eq!(reports.ends, []);
}

#[test]
fn a_leak_of_one_in_twenty_is_a_leak_with_its_own_rate() {
    // Of 20 sockets per second, 1 is never closed.
    let lives: Vec<_> = steady(80, 0, 300_000, 50, 30)
        .into_iter()
        .enumerate()
        .map(|(number, life)| if number % 20 == 0 { Life { leaves: NEVER, ..life } } else { life })
        .collect();
    let reports = play(&lives, 300_000);
    let (seconds, pileup) = reports.only();
    assert!(seconds < 200.0, "{seconds}");
    let slope = pileup.slope.unwrap();
    assert!((0.9..=1.1).contains(&slope.per_second), "{slope:?}");
    assert!(pileup.stuck_permille.unwrap() < 100, "{pileup:?}");
    assert_ne!(pileup.verdict.class, Class::Hung, "{:?}", pileup.verdict);
}

#[test]
fn a_leak_of_one_socket_per_minute_is_reported_after_an_hour() {
    let lives = steady(80, 0, 6 * 3_600_000, 60_000, NEVER);
    let (seconds, pileup) = {
        let reports = play(&lives, 6 * 3_600_000);
        let (seconds, pileup) = reports.only();
        (seconds, pileup.clone())
    };
    assert!(seconds < 3600.0 * 1.5, "{seconds}");
    let slope = pileup.slope.unwrap();
    assert!((0.014..=0.019).contains(&slope.per_second), "{slope:?}");
}

#[test]
fn a_burst_a_plateau_and_a_pool_are_no_incidents() {
    // A burst of 400 sockets, closed every 40 ms.
    let burst: Vec<_> = (0..400).map(|number| on_port(80, 10_000 + number, 10_400 + 40 * number)).collect();
    let burst = [steady(80, 0, 60_000, 50, 30), burst].concat();
    assert_eq!(play(&burst, 120_000).counts(), (0, 0));
    // A pool that keeps 300 sockets, and a few others that exit soon.
    let pool: Vec<_> = (0..300_u64).map(|number| towards(1, 20_000 + number, NEVER)).collect();
    let pool = [pool, (0..600).map(|number| towards(1, number * 1000, number * 1000 + 20)).collect()].concat();
    assert_eq!(play(&pool, 600_000).counts(), (0, 0));
    // Slow handlers from the beginning: each socket has a dwell time of 30 s.
    assert_eq!(play(&steady(80, 0, 300_000, 50, 30_000), 300_000).counts(), (0, 0));
}

#[test]
fn a_slow_recovery_ends_once_and_a_plateau_ends_as_one() {
    let mut lives = hang(90_000);
    // The program continues, and closes the oldest sockets at 30 per second while 20 per second enter.
    for (number, life) in lives.iter_mut().filter(|life| life.leaves >= NEVER).enumerate() {
        life.leaves = life.leaves.min(90_000 + number as u64 * 33);
    }
    let reports = play(&lives, 600_000);
    reports.only();
    assert_eq!(reports.ends.len(), 1);
    assert_eq!(reports.ends[0].1.how, Recovery::Drained);
    let reports = play(&hang(60_000), 1_500_000);
    reports.only();
    assert_eq!((reports.ends.len(), reports.ends[0].1.how), (1, Recovery::Level), "{:?}", reports.ends);
}

#[test]
fn retries_accelerate() {
    let waves = (0..40_u64)
        .map(|second| steady(80, 30_000 + second * 1000, 31_000 + second * 1000, 100 / (1 + second / 4), NEVER));
    let lives = [steady(80, 0, 30_000, 50, 30)].into_iter().chain(waves).collect::<Vec<_>>().concat();
    let reports = play(&lives, 70_000);
    assert!(
        reports.pileups.iter().any(|(_, pileup)| pileup.shape == Some(Shape::Accelerating)),
        "{:?}",
        reports.pileups.iter().map(|(at, one)| (at, one.shape)).collect::<Vec<_>>()
    );
}

#[test]
fn two_causes_in_one_process_are_two_incidents() {
    let leak: Vec<_> = (0..200_u64).map(|number| towards(9, number * 1000, NEVER)).collect();
    let reports = play(&[hang(90_000), leak].concat(), 200_000);
    let groups: std::collections::BTreeSet<_> = reports
        .pileups
        .iter()
        .map(|(_, pileup)| (pileup.group.local_port, pileup.group.remote.map(|remote| remote.port)))
        .collect();
    assert_eq!(groups.into_iter().collect::<Vec<_>>(), [(None, Some(443)), (Some(80), None)]);
}

#[test]
fn a_hung_program_among_others_with_the_same_peer_is_identified_by_its_cgroup() {
    let of = |cgroup: u64, enters: u64, leaves: u64| {
        let life = towards(9, enters, leaves);
        Life { socket: Socket { cgroup: Some(cgroup), ..life.socket }, ..life }
    };
    let others = (0..4000_u64).map(|number| of(1 + number % 9, number * 20, number * 20 + 15));
    let hangs = (0..160_u64).map(|number| of(10, number * 500, if number < 100 { number * 500 + 15 } else { NEVER }));
    let reports = play(&others.chain(hangs).collect::<Vec<_>>(), 80_000);
    let (seconds, pileup) = reports.only();
    assert!((60.0..=70.0).contains(&seconds), "{seconds}");
    assert_eq!((pileup.group.cgroup, pileup.stuck_permille), (Some(10), Some(1000)));
    let slope = pileup.slope.unwrap();
    assert!((1.9..=2.1).contains(&slope.per_second), "{slope:?}");
}

#[test]
fn the_limit_that_is_exhausted_first_is_reported() {
    let leak: Vec<_> = (0..200_u64).map(|number| towards(9, number * 1000, NEVER)).collect();
    let reports = play(&leak, 200_000);
    let (_, leak) = reports.only();
    let (forecast, slope) = (leak.forecast.unwrap(), leak.slope.unwrap());
    // The limit of 400 connections comes before that of 1,024 descriptors.
    assert_eq!((forecast.limit, forecast.used, forecast.most), (Limit::Connections, leak.count, 400));
    let expected = (400 - leak.count) as f64 / slope.per_second;
    assert!((forecast.left.as_secs_f64() - expected).abs() < 1.0, "{forecast:?} {slope:?}");
}

#[test]
fn flows_over_the_limit_are_reported_as_one() {
    let towards = |group: u64, enters: u64| {
        let remote =
            Endpoint { address: Ipv4Addr::from_bits(0x0a01_0000 + u32::try_from(group).unwrap()).into(), port: 443 };
        let life = on_port(40_000, enters, NEVER);
        Life { socket: Socket { role: Some(Role::Client), remote, ..life.socket }, ..life }
    };
    // Ten thousand flows with one socket each, and ten that grow: five within the limit and five over it.
    let mut lives: Vec<_> = (0..10_000).map(|group| towards(group, group / 10)).collect();
    for step in 0..100_u64 {
        lives.extend((0..5).chain(9_995..10_000).map(|group| towards(group, 10_000 + step * 500 + group % 7)));
    }
    let reports = play(&lives, 150_000);
    let first: Vec<_> = reports.pileups.iter().filter(|(_, pileup)| state(pileup) == IncidentState::Opened).collect();
    assert_eq!(first.iter().filter(|(_, pileup)| pileup.group.remote.is_some()).count(), 5);
    assert_eq!(first.len(), 6, "five flows, and all others together");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any number of entries gives no incident if each socket exits before it is stuck, and most exit before they are mature.
    #[test]
    fn there_is_no_incident_while_exits_keep_up(
        arrivals in prop::collection::vec((0..400_u64, 1..4_900_u64), 1..1500),
        bursts in prop::collection::vec((0..100_000_u64, 1..300_u64, 1..4_900_u64), 0..4),
        slow in prop::collection::vec((0..200_000_u64, 5_000..59_000_u64), 0..200),
    ) {
        let mut now = 0;
        let mut lives = Vec::new();
        for (wait, stays) in arrivals {
            now += wait;
            lives.push(on_port(80, now, now + stays));
        }
        for (at, count, stays) in bursts {
            lives.extend((0..count).map(|number| on_port(80, at, at + stays + number % 7)));
        }
        let slow = slow.into_iter().take(lives.len() / 4);
        lives.extend(slow.map(|(at, stays)| on_port(80, at, at + stays)));
        let reports = play(&lives, 400_000);
        prop_assert_eq!(reports.counts(), (0, 0), "{:?}", reports.pileups.first());
    }

    /// A hang is reported once, after any history.
    #[test]
    fn a_hang_is_reported_once(
        before in 0..60_000_u64,
        every in 50..400_u64,
        stays in 1..1_500_u64,
    ) {
        let onset = before + 5_000;
        let lives = [steady(80, 0, onset, every, stays), steady(80, onset, onset + 90_000, every, NEVER)].concat();
        let reports = play(&lives, onset + 90_000);
        let (seconds, _pileup) = reports.only();
        prop_assert!(seconds * 1000.0 < onset as f64 + 80_000.0, "{seconds}");
        prop_assert_eq!(reports.ends.len(), 0);
    }
}

#[test]
fn a_report_with_a_filter_counts_the_matching_sockets_and_which_are_stuck() {
    let mut engine = Engine::new(Config { stuck_after: STUCK_AFTER, ..Config::default() }, BootTime(MILLI));
    let second = |seconds: u64| BootTime(seconds * 1000 * MILLI);
    for (number, (port, entered)) in (1..).zip([(80, 1), (80, 1), (80, 50), (81, 50)]) {
        let socket = Socket { role: Some(Role::Server), ..socket_on_port(port) };
        engine.handle(SocketEvent::Enter { key: SocketKey((1 << 63) + number), at: second(entered), socket });
    }
    let report = |filter: Filter| {
        let report = engine.report_of(second(70), &filter, ReportContent::Groups);
        let groups: Vec<_> = report
            .groups
            .iter()
            .map(|group| (group.pileup.group.local_port, group.pileup.count, group.stuck))
            .collect();
        assert_eq!(report.more, 0);
        groups
    };
    let ports = |ports: &[u16]| Filter { ports: ports.to_vec(), ..Filter::default() };
    let mut all = report(Filter::default());
    all.sort_unstable();
    assert_eq!(all, [(Some(80), 3, 2), (Some(81), 1, 0)]);
    assert_eq!(report(ports(&[80])), [(Some(80), 3, 2)]);
    assert_eq!(report(ports(&[9])), []);
    assert_eq!(report(Filter { older_than: Some(STUCK_AFTER), ..Filter::default() }), [(Some(80), 2, 2)]);
    assert_eq!(report(Filter { verdicts: vec![Class::Pool], ..Filter::default() }), []);
    assert_eq!(engine.report(second(70)).groups.len(), 2);
}
