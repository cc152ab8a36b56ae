use super::*;
use crate::{
    Config, Events,
    model::{Counters, ExitCause, Observation, RefreshEnd, RefreshFact, ScanEnd, ScanFact, SocketEvent},
    testing::socket,
};

const KEY: SocketKey = SocketKey(0xffff_8880_0000_1000);
const OTHER: SocketKey = SocketKey(0xffff_8880_0000_2000);

fn at(millis: u64) -> BootTime {
    BootTime(millis * 1_000_000)
}

fn engine() -> Engine {
    let config = Config {
        stuck_after: Duration::from_secs(3600),
        events: Events::All,
        histogram_every: Duration::from_secs(3600),
        max_tracked: 1_000,
        ..Config::default()
    };
    Engine::new(config, at(0))
}

fn enter(key: SocketKey, millis: u64) -> SocketEvent {
    SocketEvent::Enter { key, at: at(millis), socket: socket() }
}

fn present(key: SocketKey, millis: u64, since: Since) -> ScanFact {
    ScanFact::Present { key, at: at(millis), since, socket: socket() }
}

/// What the engine wants done, but for what it says and counts.
fn wanted(engine: &mut Engine) -> Vec<Output> {
    said_and_wanted(engine).1
}

fn said_and_wanted(engine: &mut Engine) -> (Vec<Finding>, Vec<Output>) {
    let (mut said, mut wanted) = (Vec::new(), Vec::new());
    while let Some(output) = engine.poll_output() {
        if let Output::Finding(finding) = output {
            said.push(finding);
        } else if output != Output::ReadCounters {
            wanted.push(output);
        }
    }
    (said, wanted)
}

/// An audit at `millis`, with what the scan and the refresh find.
fn audit(
    engine: &mut Engine,
    millis: u64,
    scan: Vec<ScanFact>,
    refresh: Vec<Observation>,
) -> (Vec<Finding>, Vec<Output>) {
    wanted(engine);
    engine.audit.hurry(at(millis));
    engine.handle_timeout(at(millis));
    assert_eq!(wanted(engine), [Output::Audit { sweep: true }]);
    scan.into_iter().for_each(|found| engine.handle(found));
    engine.handle(ScanEnd::Audit { began: at(millis), at: at(millis + 10), complete: false, cost: None });
    refresh.into_iter().for_each(|found| engine.handle(found));
    engine.handle(RefreshEnd::Suspects { at: at(millis + 20), complete: true });
    said_and_wanted(engine)
}

/// What was repaired and what was a phantom, as the health finding says.
fn health(said: &[Finding]) -> Option<(u64, u64)> {
    said.iter().find_map(|finding| {
        let Finding::Health { totals, .. } = finding else { return None };
        Some((totals.repaired, totals.phantom))
    })
}

#[test]
fn it_comes_by_itself_and_soon_after_a_loss_but_not_all_the_time() {
    let mut engine = engine();
    assert_eq!(engine.audit.poll_timeout(), Some(at(300_000)));
    let lose = |engine: &mut Engine, millis, ring_full| {
        let counters = Box::new(Counters { ring_full, ..Counters::default() });
        engine.handle(Observation::Counters { at: at(millis), counters });
    };
    lose(&mut engine, 5_000, 1);
    assert_eq!(engine.audit.poll_timeout(), Some(at(5_000)));
    audit(&mut engine, 5_000, vec![], vec![]);
    assert_eq!(engine.audit.poll_timeout(), Some(at(305_010)), "nothing more was lost");
    lose(&mut engine, 6_000, 2);
    assert_eq!(engine.audit.poll_timeout(), Some(at(15_010)));
    lose(&mut engine, 7_000, 3);
    assert_eq!(engine.audit.poll_timeout(), Some(at(15_010)));
}

#[test]
fn a_socket_that_was_missed_is_tracked_and_counted() {
    let mut engine = engine();
    let since = Since::Between { earliest: Some(at(1_000)), latest: at(2_000) };
    let (said, wanted) = audit(&mut engine, 9_000, vec![present(KEY, 9_001, since)], vec![]);
    assert_eq!((health(&said), engine.totals().tracked), (Some((1, 0)), 1));
    assert_eq!(wanted, [Output::RefreshSuspects(vec![])]);
    let (said, _) = audit(&mut engine, 30_000, vec![present(KEY, 30_001, since)], vec![]);
    assert_eq!((health(&said), engine.totals().repaired), (None, 1), "once");
}

#[test]
fn one_whose_record_is_under_way_was_not_missed() {
    let mut engine = engine();
    let (said, _) = audit(&mut engine, 9_000, vec![present(KEY, 9_001, Since::Exact(at(8_950)))], vec![]);
    engine.handle(enter(KEY, 8_950));
    assert_eq!((health(&said), engine.totals().tracked), (None, 1));
}

#[test]
fn a_phantom_is_removed_and_its_leaving_told() {
    let mut engine = engine();
    engine.handle(enter(KEY, 1_000));
    engine.handle(enter(OTHER, 1_000));
    let walk = vec![present(OTHER, 9_001, Since::Exact(at(1_000)))];
    let (said, wanted) = audit(&mut engine, 9_000, walk, vec![]);
    assert_eq!(
        wanted,
        [Output::RefreshSuspects(vec![KEY]), Output::Forget(vec![(KEY, at(1_000))])],
        "the kernel is to forget it too"
    );
    assert!(
        said.iter().any(|one| matches!(one, Finding::Leave { how: ExitCause::Unknown, dwell: None, .. })),
        "{said:?}"
    );
    assert_eq!((health(&said), engine.totals().tracked), (Some((0, 1)), 1));
}

#[test]
fn one_that_only_the_walk_could_not_see_stays() {
    let mut engine = engine();
    engine.handle(enter(KEY, 1_000));
    let look = vec![RefreshFact::Present { key: KEY, at: at(9_015), since: None, socket: socket() }.into()];
    let (said, _) = audit(&mut engine, 9_000, vec![], look);
    assert_eq!((health(&said), engine.totals().tracked), (None, 1));
}

#[test]
fn without_a_look_only_a_walk_through_all_namespaces_proves_a_phantom() {
    for (complete, removed) in [(true, 1), (false, 0)] {
        let mut engine = engine();
        engine.handle(enter(KEY, 1_000));
        engine.audit.hurry(at(9_000));
        engine.handle_timeout(at(9_000));
        engine.handle(ScanEnd::Audit { began: at(9_000), at: at(9_010), complete, cost: None });
        engine.handle(RefreshEnd::Suspects { at: at(9_020), complete: false });
        assert_eq!((engine.totals().phantom, engine.totals().tracked), (removed, 1 - removed), "{complete}");
    }
}

#[test]
fn one_that_leaves_or_enters_meanwhile_is_no_phantom() {
    for entered in [None, Some(9_012)] {
        let mut engine = engine();
        engine.handle(enter(KEY, 1_000));
        let mut look = vec![
            SocketEvent::Leave {
                key: KEY,
                at: at(9_011),
                entered: Some(at(1_000)),
                socket: socket(),
                how: ExitCause::Closed,
                closer: None,
                fd_open: Some(false),
                wrote: None,
            }
            .into(),
        ];
        look.extend(entered.map(|millis| enter(KEY, millis).into()));
        let (said, _) = audit(&mut engine, 9_000, vec![], look);
        assert_eq!((health(&said), engine.totals().tracked), (None, u64::from(entered.is_some())));
    }
}

#[test]
fn a_time_of_entry_that_nobody_knows_is_believed_only_if_a_socket_is_there() {
    for there in [true, false] {
        let mut engine = engine();
        let walk = vec![ScanFact::StoredEntry { key: KEY, entered: at(1_000) }];
        let look = if there {
            vec![RefreshFact::Present { key: KEY, at: at(9_015), since: None, socket: socket() }.into()]
        } else {
            vec![]
        };
        let (said, wanted) = audit(&mut engine, 9_000, walk, look);
        if there {
            assert_eq!(engine.tracker.get(KEY).unwrap().since, Since::Exact(at(1_000)));
            assert_eq!((health(&said), wanted.len()), (Some((1, 0)), 1));
        } else {
            assert_eq!(wanted, [Output::RefreshSuspects(vec![KEY]), Output::Forget(vec![(KEY, at(1_000))])]);
            assert_eq!((health(&said), engine.totals().tracked), (Some((0, 1)), 0));
        }
    }
}

#[test]
fn a_time_of_entry_just_stored_belongs_to_a_record_that_comes() {
    let mut engine = engine();
    let (said, wanted) =
        audit(&mut engine, 9_000, vec![ScanFact::StoredEntry { key: KEY, entered: at(8_950) }], vec![]);
    assert_eq!((health(&said), wanted.len()), (None, 1));
}
