//! Counts of sockets that had no records.

use proptest::prelude::*;

use super::{
    twins::{Delivery, Step, Twins, counts_of, step},
    *,
};
use crate::{
    flow::group_key::FlowKey,
    model::{PassedSockets, PileupGroup, Task},
    testing::owner,
};
use closewait_common::histogram::{BUCKETS, index};

/// Returns steps of all kinds, among them many sockets that their programs close within moments, and times without any, after which flows
/// are forgotten.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pass = (0..8_u64, 1..4_u16, 0..100_u64).prop_map(|(slot, port, millis)| {
        vec![Step::Enter { slot, port, overflows: false }, Step::Millis(millis), Step::Leave { slot, how: 0 }]
    });
    let some = prop_oneof![
        160 => step().prop_map(|step| vec![step]),
        240 => pass,
        1 => Just(vec![Step::Millis(150_000)]),
    ];
    prop::collection::vec(some, 1..80).prop_map(|steps| steps.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counts_instead_of_records_change_no_finding_and_no_answer(steps in steps()) {
        let mut twins = Twins::new(Delivery::Counted);
        steps.into_iter().for_each(|step| twins.step(step));
        twins.stop();
    }
}

fn server() -> Socket {
    socket().at_entry()
}

fn client() -> Socket {
    Socket { role: Some(Role::Client), cgroup: Some(3), ..socket() }.at_entry()
}

fn flow_of(socket: &Socket) -> FlowKey {
    engine(Events::Stuck).group_keys.flow(socket)
}

/// Returns the exit at `millis` of a socket that its program closed after `dwell` milliseconds.
fn pass(socket: Socket, millis: u64, dwell: u64) -> SocketEvent {
    let (how, fd_open) = (ExitCause::Closed, Some(false));
    let (entered, at) = (at(millis - dwell), at(millis));
    SocketEvent::Pass { key: KEY, entered, at, socket, how, closer: None, fd_open, wrote: None, ended: None }
}

/// Returns the exit at `millis` of a socket that the kernel closed because this process ended.
fn end(millis: u64, pid: u32) -> SocketEvent {
    let SocketEvent::Pass { key, entered, at, socket, how, fd_open, wrote, .. } = pass(server(), millis, 1) else {
        unreachable!()
    };
    let closer = Some(Task { pid, ..owner("worker", pid, 3).task });
    SocketEvent::Pass { key, entered, at, socket, how, closer, fd_open, wrote, ended: Some(true) }
}

/// Returns the counts of sockets of one flow: the time of each exit, and the dwell time.
fn counted(socket: &Socket, exits: &[(u64, u64)]) -> PassedSockets {
    let last = exits.iter().map(|(exit, _)| at(*exit)).max().unwrap();
    let longest = exits.iter().map(|(_, dwell)| Duration::from_millis(*dwell)).max().unwrap();
    let bucket = |dwell: u64| u16::try_from(index(dwell * 1_000_000)).unwrap();
    let dwell = exits.iter().map(|(_, dwell)| (bucket(*dwell), 1)).collect();
    let flow = flow_of(socket).group();
    PassedSockets { at: last + Duration::from_millis(1), flow, since: last, last, longest, dwell }
}

/// Ends the window of an engine, and returns its findings.
fn window(engine: &mut Engine, counters: Counters) -> Vec<Finding> {
    engine.handle_timeout(at(60_000));
    engine.handle(Observation::Counters { at: at(60_000), counters: Box::new(counters) });
    let found = outputs(engine)
        .into_iter()
        .filter_map(|output| if let Output::Finding(finding) = output { Some(finding) } else { None });
    found.collect()
}

#[test]
fn counts_have_the_effects_of_as_many_records() {
    let exits: Vec<_> = (0..40).map(|number| (5_000 + number * 7, number * number % 300)).collect();
    let all: Vec<_> = exits.iter().chain(&exits).map(|(_, dwell)| *dwell).collect();
    let [mut records, mut counts] = [engine(Events::Stuck), engine(Events::Stuck)];
    for socket in [server(), client()] {
        exits.iter().for_each(|(exit, dwell)| records.handle(pass(socket.clone(), *exit, *dwell)));
        let (early, late) = exits.split_at(25);
        [early, late].into_iter().for_each(|exits| counts.handle(counted(&socket, exits)));
    }
    assert_eq!(records.exits.counts(), counts.exits.counts());
    let of_both = |engine: &mut Engine| {
        let flows = [server(), client()].map(|socket| counts_of(engine, flow_of(&socket), at(30_000)));
        (flows, window(engine, dwelt(&all)), engine.totals())
    };
    let (of_records, of_counts) = (of_both(&mut records), of_both(&mut counts));
    assert_eq!(of_records, of_counts);
    let flows = counts.flows.as_ref().unwrap();
    let flow = flows.flow(flow_of(&client()), None, at(30_000)).unwrap();
    assert_eq!((flow.entered, flow.closed, flow.last_closed), (40, 40, Some(at(5_273))));
    assert_eq!((flow.old_entered, flow.old_present), (40, 0));
    let longest = Some(Duration::from_millis(289));
    assert_eq!((flow.longest_closed, flows.longest_healthy(flow_of(&client()))), (longest, longest));
    let scopes: Vec<_> = of_counts
        .1
        .iter()
        .filter_map(|finding| {
            let Finding::Histogram { scope, finished, .. } = finding else { return None };
            Some((*scope, finished.count, finished.max))
        })
        .collect();
    assert_eq!(scopes, [(Scope::All, 80, longest), (Scope::LocalPort(8080), 40, longest), (Scope::Other, 40, longest)]);
}

#[test]
fn counts_are_no_findings_even_if_each_socket_is_one() {
    let mut engine = engine(Events::All);
    engine.handle(counted(&server(), &[(5_000, 3)]));
    assert_eq!((findings(&mut engine), engine.totals().tracked), (Vec::new(), 0));
}

#[test]
fn counts_of_no_socket_have_no_effect() {
    let mut engine = engine(Events::Stuck);
    let before = (engine.poll_timeout(), engine.exits.counts());
    for dwell in [vec![], vec![(7, 0)]] {
        engine.handle(PassedSockets { dwell, ..counted(&server(), &[(5_000, 3)]) });
    }
    assert_eq!((engine.poll_timeout(), engine.exits.counts()), before);
    assert_eq!(counts_of(&engine, flow_of(&server()), at(30_000)), counts_of(&engine, FlowKey::Rest, at(30_000)));
    let scopes: Vec<_> = window(&mut engine, Counters::default());
    assert!(matches!(scopes[..], [Finding::Histogram { scope: Scope::All, .. }]), "{scopes:?}");
}

#[test]
fn the_counters_are_read_a_second_after_the_last_of_the_sockets() {
    let mut engine = engine(Events::Stuck);
    engine.handle(counted(&server(), &[(5_000, 3), (5_010, 3)]));
    assert_eq!(engine.check_counters, Some(at(6_010)));
}

/// The kernel program does not know cohorts. These sockets are young in one and old in the other engine for one cohort, 5 s here.
#[test]
fn sockets_count_in_the_cohort_of_the_last_exit() {
    let [mut records, mut counts] = [engine(Events::Stuck), engine(Events::Stuck)];
    records.handle(pass(server(), 5_010, 20));
    counts.handle(counted(&server(), &[(5_010, 20)]));
    let old = |engine: &Engine, seconds: u64| {
        let flow = engine.flows.as_ref().unwrap().flow(flow_of(&server()), None, at(seconds * 1_000)).unwrap();
        (flow.old_entered, flow.old_present)
    };
    assert_eq!([14, 15, 20].map(|seconds| old(&records, seconds)), [(0, 0), (1, 0), (1, 0)]);
    assert_eq!([14, 15, 20].map(|seconds| old(&counts, seconds)), [(0, 0), (0, 0), (1, 0)]);
}

#[test]
fn a_close_that_is_reported_after_the_end_of_a_process_remains_the_last_one() {
    let [mut in_order, mut late] = [engine(Events::Stuck), engine(Events::Stuck)];
    in_order.handle(pass(server(), 5_000, 3));
    in_order.handle(end(5_010, 7));
    late.handle(end(5_010, 7));
    late.handle(counted(&server(), &[(5_000, 3)]));
    for engine in [&mut in_order, &mut late] {
        // The process has not finished its sockets.
        engine.handle(end(5_011, 7));
        let flow = engine.flows.as_ref().unwrap().flow(flow_of(&server()), None, at(6_000)).unwrap();
        assert_eq!((flow.entered, flow.closed, flow.last_closed), (3, 1, Some(at(5_000))));
    }
}

#[test]
fn impossible_counts_of_a_damaged_recording_cause_no_panic() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    let none = PileupGroup { role: None, netns: None, cgroup: None, local_port: None, remote: None };
    for flow in [flow_of(&server()).group(), flow_of(&client()).group(), none] {
        for last in [BootTime(u64::MAX), BootTime(0)] {
            let dwell = (0..=u16::MAX).map(|bucket| (bucket, u32::MAX)).collect();
            let longest = Duration::MAX;
            let since = BootTime(u64::MAX - last.0);
            engine.handle(PassedSockets { at: BootTime(0), flow: flow.clone(), since, last, longest, dwell });
        }
    }
    // As after more such counts than a test has time for.
    engine.flows.as_mut().unwrap().passed(FlowKey::Rest, &counted(&server(), &[(5, 3)]), u64::MAX);
    engine.exits.closed(u64::MAX);
    for millis in [2_000, 12_000, 30_000] {
        engine.handle(leave(millis - 1, Some(0)));
        engine.handle(enter(millis));
        time_comes(&mut engine, millis);
    }
    let _answer = (engine.report(at(40_000)), engine.view(at(40_000)).rows.len());
    let each = u64::from(u32::MAX) * (u64::from(u16::MAX) + 1);
    let found = window(&mut engine, Counters::default());
    let port = found.iter().find_map(|finding| {
        let Finding::Histogram { scope: Scope::LocalPort(8080), finished, .. } = finding else { return None };
        finished.buckets.last().map(|(_, count)| (finished.count, *count))
    });
    // The three exits above had records. Buckets that do not exist count in the last one.
    let last = u64::from(u32::MAX) * (u64::from(u16::MAX) + 2 - BUCKETS as u64);
    assert_eq!(port, Some((2 * each + 3, 2 * last)));
    assert!(engine.totals().ungrouped >= u64::MAX / 8);
}
