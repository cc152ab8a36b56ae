//! Facts with any times, in any order, as from a clock that goes back, stops, or has reached its end.

use proptest::prelude::*;

use super::*;
use crate::{
    model::{KeySecret, Listener, PassedSockets, Role},
    testing::owner,
};

fn time() -> impl Strategy<Value = BootTime> {
    let second = 1_000_000_000_u64;
    prop_oneof![
        4 => (0..40_u64).prop_map(move |seconds| BootTime(seconds * second)),
        1 => (0..4_u64).prop_map(BootTime),
        1 => (0..4_u64).prop_map(|before| BootTime(u64::MAX - before)),
        1 => any::<u64>().prop_map(BootTime),
    ]
}

fn since() -> impl Strategy<Value = Since> {
    prop_oneof![
        time().prop_map(Since::Exact),
        // The decoder returns ordered bounds.
        (prop::option::of(time()), time()).prop_map(|(earliest, latest)| Since::Between {
            earliest: earliest.map(|earliest| earliest.min(latest)),
            latest,
        }),
    ]
}

/// Returns one of a few sockets, with its kernel address or the key of its endpoints.
fn named() -> impl Strategy<Value = (SocketKey, Socket)> {
    let netns = prop::option::of(1..3_u32);
    (0..4_u64, any::<bool>(), 1..3_u16, netns, prop::option::of(1..3_u64)).prop_map(
        |(n, by_ends, port, netns, cookie)| {
            let socket = Socket { netns, cookie, inode: Some(n % 2), ..socket_on_port(port) };
            let ends = KeySecret::default().key(netns, socket.local, socket.remote);
            (if by_ends { ends } else { SocketKey(KEY.0 + n) }, socket)
        },
    )
}

fn how() -> impl Strategy<Value = ExitCause> {
    prop_oneof![
        Just(ExitCause::Closed),
        Just(ExitCause::Reset),
        Just(ExitCause::Unknown),
        Just(ExitCause::ListenerClosed)
    ]
}

fn socket_event() -> impl Strategy<Value = SocketEvent> {
    let fd_open = || prop::option::of(any::<bool>());
    prop_oneof![
        (named(), time()).prop_map(|((key, socket), at)| SocketEvent::Enter { key, at, socket }),
        (named(), time(), prop::option::of(time()), how(), fd_open()).prop_map(
            |((key, socket), at, entered, how, fd_open)| {
                // The decoder refuses an exit before its entry.
                let entered = entered.map(|entered| entered.min(at));
                SocketEvent::Leave { key, at, entered, socket, how, closer: None, fd_open, wrote: None, ended: None }
            }
        ),
    ]
}

/// Returns counts of one of a few flows, with buckets that exist and others.
fn passed() -> impl Strategy<Value = PassedSockets> {
    let bucket = prop_oneof![0..100_u16, any::<u16>()];
    let number = prop_oneof![0..3_u32, any::<u32>()];
    let dwell = prop::collection::vec((bucket, number), 0..4);
    let client = prop_oneof![Just(None), Just(Some(Role::Server)), Just(Some(Role::Client))];
    (named(), client, [time(), time(), time()], any::<u64>(), dwell).prop_map(
        |((_, socket), role, times, longest, dwell)| {
            let [at, since, last] = times;
            let flow = GroupKeys::default().flow(&Socket { role, ..socket }).group();
            PassedSockets { at, flow, since, last, longest: Duration::from_nanos(longest), dwell }
        },
    )
}

fn scan_fact() -> impl Strategy<Value = ScanFact> {
    prop_oneof![
        2 => (named(), time(), since())
            .prop_map(|((key, socket), at, since)| ScanFact::Present { key, at, since, socket }),
        1 => (named(), time(), since()).prop_map(|((key, socket), at, since)| {
            ScanFact::Owned { key, at, since, socket, owner: owner("x", 1, 3) }
        }),
        1 => (named(), prop::option::of(time()), 0..3_u64)
            .prop_map(|((key, _), at, inode)| ScanFact::Descriptor { key, at, inode, owner: owner("y", 2, 3) }),
        1 => (0..3_u64).prop_map(|inode| ScanFact::InodeDescriptor { inode, owner: owner("z", 3, 3) }),
        1 => (named(), time(), how()).prop_map(|((key, socket), at, how)| {
            ScanFact::Lingering { key, at, socket, how, owner: owner("x", 1, 4) }
        }),
        1 => (named(), time(), 0..9_u32, 0..9_u32).prop_map(|((key, socket), at, backlog, backlog_max)| {
            let Socket { netns, local, inode, .. } = socket;
            let listener = Listener { netns, local, backlog, backlog_max, inode };
            ScanFact::Listening { key, at, listener, owner: None }
        }),
        1 => (named(), time()).prop_map(|((key, _), entered)| ScanFact::StoredEntry { key, entered }),
    ]
}

fn scan_end() -> impl Strategy<Value = ScanEnd> {
    prop_oneof![
        (time(), any::<bool>(), any::<bool>()).prop_map(|(began, blind, saw_listeners)| {
            ScanEnd::Descriptors { began, blind: blind.then(|| "blind".to_owned()), saw_listeners }
        }),
        (time(), time(), any::<bool>()).prop_map(|(began, at, complete)| ScanEnd::Audit {
            began,
            at,
            complete,
            cost: None
        }),
    ]
}

fn refresh_fact() -> impl Strategy<Value = RefreshFact> {
    prop_oneof![
        (named(), time()).prop_map(|((key, socket), at)| RefreshFact::Present { key, at, since: None, socket }),
        (named(), time()).prop_map(|((key, _), at)| RefreshFact::Unchanged { key, at }),
        (named(), time()).prop_map(|((key, socket), at)| RefreshFact::Lingering { key, at, socket }),
    ]
}

fn refresh_end() -> impl Strategy<Value = RefreshEnd> {
    prop_oneof![
        time().prop_map(|at| RefreshEnd::Inspection { at, lingering: true }),
        time().prop_map(|began| RefreshEnd::Lingering { began }),
        (time(), any::<bool>()).prop_map(|(at, complete)| RefreshEnd::Suspects { at, complete }),
    ]
}

/// Returns any fact except for those about owners, whose state does not depend on the order of times.
fn fact() -> impl Strategy<Value = Observation> {
    prop_oneof![
        6 => socket_event().prop_map(Observation::from).boxed(),
        2 => passed().prop_map(Observation::from).boxed(),
        7 => scan_fact().prop_map(Observation::from).boxed(),
        2 => scan_end().prop_map(Observation::from).boxed(),
        2 => refresh_fact().prop_map(Observation::from).boxed(),
        3 => refresh_end().prop_map(Observation::from).boxed(),
        1 => (time(), any::<u64>()).prop_map(|(at, worked)| {
            InspectionEnd::Owners { at, worked: Duration::from_nanos(worked) }.into()
        }),
        1 => time().prop_map(|reported| Observation::Resumed { reported, dwell: vec![1, 2] }),
        1 => (time(), 0..3_u64).prop_map(|(at, ring_full)| {
            Observation::Counters { at, counters: Box::new(Counters { ring_full, ..Counters::default() }) }
        }),
    ]
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Fact(Box<Observation>),
    Time(BootTime),
    Undecodable(BootTime),
    View(BootTime),
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        9 => fact().prop_map(|fact| Step::Fact(Box::new(fact))),
        4 => time().prop_map(Step::Time),
        1 => time().prop_map(Step::Undecodable),
        1 => time().prop_map(Step::View),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_facts_with_any_times_leave_everything_consistent(
        steps in prop::collection::vec(step(), 1..60),
        began in time(),
        stuck_after in prop_oneof![Just(Duration::from_secs(10)), Just(Duration::MAX), Just(Duration::from_nanos(1))],
    ) {
        let mut engine = Engine::new(Config { stuck_after, reads_progress: true, ..config(Events::All) }, began);
        for step in steps {
            match step {
                Step::Fact(fact) => engine.handle(*fact),
                Step::Time(now) => engine.handle_timeout(now),
                Step::Undecodable(at) => engine.undecodable(at),
                Step::View(now) => prop_assert!(engine.view(now).rows.len() >= engine.tracker.len()),
            }
            engine.tracker.check();
            for output in outputs(&mut engine) {
                let Output::Finding(Finding::Leave { dwell: Some(dwell), at, .. } | Finding::Stuck { dwell, at, .. }) =
                    output
                else {
                    continue;
                };
                // No dwell time can be longer than the time since boot.
                let longest = Duration::from_nanos(at.0);
                match dwell {
                    Dwell::Exact(dwell) => prop_assert!(dwell <= longest),
                    Dwell::Between { at_least, at_most } => {
                        prop_assert!(at_least <= longest);
                        prop_assert!(at_most.is_none_or(|at_most| at_least <= at_most && at_most <= longest));
                    }
                }
            }
        }
    }
}

/// Returns events of many sockets: key, port, whether the socket enters, time.
fn crowd() -> impl Strategy<Value = Vec<(u64, u16, bool, u64)>> {
    prop::collection::vec((0..40_u64, 1..20_u16, any::<bool>(), 0..30_u64), 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// The tables of each engine have their own seeds, so the memory layouts of two engines differ for the same input.
    #[test]
    fn findings_do_not_depend_on_the_seeds_of_tables(crowd in crowd()) {
        let run = || {
            let mut engine = Engine::new(Config { max_tracked: 20, reads_progress: true, ..config(Events::All) }, BootTime(0));
            let mut found = Vec::new();
            for (number, port, enters, at) in &crowd {
                let at = BootTime(at * 1_000_000_000);
                let mut socket = Socket { role: Some(Role::Client), netns: Some(1), ..socket_on_port(*port) };
                socket.remote.port = 1000 + port;
                let key = SocketKey(KEY.0 + number);
                engine.handle(if *enters {
                    SocketEvent::Enter { key, at, socket }
                } else {
                    let (how, fd_open) = (ExitCause::Closed, Some(true));
                    SocketEvent::Leave { key, at, entered: None, socket, how, closer: None, fd_open, wrote: None, ended: None }
                });
                engine.handle_timeout(at);
                found.extend(outputs(&mut engine));
            }
            let now = BootTime(500_000_000_000);
            engine.handle_timeout(now);
            engine.handle(RefreshEnd::Inspection { at: now, lingering: true });
            engine.handle(ScanEnd::Descriptors { began: now, blind: None, saw_listeners: true });
            engine.handle(InspectionEnd::Owners { at: now, worked: Duration::ZERO });
            engine.handle(Observation::Counters { at: now, counters: Box::default() });
            found.extend(outputs(&mut engine));
            (format!("{found:?} {:?}", engine.report(now)), engine.totals())
        };
        prop_assert_eq!(run(), run());
    }
}
