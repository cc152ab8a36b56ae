use super::*;
use crate::{
    Config, Events,
    model::{Counters, ExitCause, KeySecret, Observation, RefreshEnd, RefreshFact, ScanEnd, ScanFact, SocketEvent},
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

/// Returns the commands of the engine, except for those to read counters.
fn commands(engine: &mut Engine) -> Vec<Output> {
    outputs(engine).1
}

/// Returns the findings and the commands of the engine.
fn outputs(engine: &mut Engine) -> (Vec<Finding>, Vec<Output>) {
    let (mut findings, mut commands) = (Vec::new(), Vec::new());
    while let Some(output) = engine.poll_output() {
        if let Output::Finding(finding) = output {
            findings.push(finding);
        } else if output != Output::ReadCounters {
            commands.push(output);
        }
    }
    (findings, commands)
}

/// Performs an audit at `millis` with these results of the scan and the refresh. Returns the findings and the commands.
fn audit(
    engine: &mut Engine,
    millis: u64,
    scan: Vec<ScanFact>,
    refresh: Vec<Observation>,
) -> (Vec<Finding>, Vec<Output>) {
    commands(engine);
    engine.audit.hurry(at(millis));
    engine.handle_timeout(at(millis));
    assert_eq!(commands(engine), [Output::Audit { sweep: true }]);
    scan.into_iter().for_each(|found| engine.handle(found));
    engine.handle(ScanEnd::Audit { began: at(millis), at: at(millis + 10), complete: false, cost: None });
    refresh.into_iter().for_each(|found| engine.handle(found));
    engine.handle(RefreshEnd::Suspects { at: at(millis + 20), complete: true });
    outputs(engine)
}

/// Returns the numbers of repaired sockets and phantoms in the health finding.
fn health(findings: &[Finding]) -> Option<(u64, u64)> {
    findings.iter().find_map(|finding| {
        let Finding::Health { totals, .. } = finding else { return None };
        Some((totals.repaired, totals.phantom))
    })
}

#[test]
fn audits_are_periodic_and_soon_after_a_loss_but_not_too_frequent() {
    let mut engine = engine();
    assert_eq!(engine.audit.poll_timeout(), Some(at(300_000)));
    let lose = |engine: &mut Engine, millis, ring_full| {
        let counters = Box::new(Counters { ring_full, ..Counters::default() });
        engine.handle(Observation::Counters { at: at(millis), counters });
    };
    lose(&mut engine, 5_000, 1);
    assert_eq!(engine.audit.poll_timeout(), Some(at(5_000)));
    audit(&mut engine, 5_000, vec![], vec![]);
    assert_eq!(engine.audit.poll_timeout(), Some(at(305_010)), "there was no further loss");
    lose(&mut engine, 6_000, 2);
    assert_eq!(engine.audit.poll_timeout(), Some(at(15_010)));
    lose(&mut engine, 7_000, 3);
    assert_eq!(engine.audit.poll_timeout(), Some(at(15_010)));
}

#[test]
fn a_missed_socket_is_tracked_and_counted() {
    let mut engine = engine();
    let since = Since::Between { earliest: Some(at(1_000)), latest: at(2_000) };
    let (findings, commands) = audit(&mut engine, 9_000, vec![present(KEY, 9_001, since)], vec![]);
    assert_eq!((health(&findings), engine.totals().tracked), (Some((1, 0)), 1));
    assert_eq!(commands, [Output::RefreshSuspects(vec![])]);
    let (findings, _) = audit(&mut engine, 30_000, vec![present(KEY, 30_001, since)], vec![]);
    assert_eq!((health(&findings), engine.totals().repaired), (None, 1), "once");
}

#[test]
fn a_socket_whose_record_is_not_read_yet_was_not_missed() {
    let mut engine = engine();
    let (findings, _) = audit(&mut engine, 9_000, vec![present(KEY, 9_001, Since::Exact(at(8_950)))], vec![]);
    engine.handle(enter(KEY, 8_950));
    assert_eq!((health(&findings), engine.totals().tracked), (None, 1));
}

#[test]
fn a_phantom_is_removed_and_its_exit_reported() {
    let mut engine = engine();
    engine.handle(enter(KEY, 1_000));
    engine.handle(enter(OTHER, 1_000));
    let scan = vec![present(OTHER, 9_001, Since::Exact(at(1_000)))];
    let (findings, commands) = audit(&mut engine, 9_000, scan, vec![]);
    assert_eq!(
        commands,
        [Output::RefreshSuspects(vec![KEY]), Output::Forget(vec![(KEY, at(1_000))])],
        "its entry time is deleted from the kernel's map"
    );
    assert!(
        findings.iter().any(|one| matches!(one, Finding::Leave { how: ExitCause::Unknown, dwell: None, .. })),
        "{findings:?}"
    );
    assert_eq!((health(&findings), engine.totals().tracked), (Some((0, 1)), 1));
}

#[test]
fn a_socket_that_the_refresh_finds_remains_tracked() {
    let mut engine = engine();
    engine.handle(enter(KEY, 1_000));
    let refresh = vec![RefreshFact::Present { key: KEY, at: at(9_015), since: None, socket: socket() }.into()];
    let (findings, _) = audit(&mut engine, 9_000, vec![], refresh);
    assert_eq!((health(&findings), engine.totals().tracked), (None, 1));
}

#[test]
fn without_a_refresh_only_a_scan_of_all_namespaces_proves_a_phantom() {
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
fn a_socket_that_exits_or_enters_during_an_audit_is_no_phantom() {
    for entered in [None, Some(9_012)] {
        let mut engine = engine();
        engine.handle(enter(KEY, 1_000));
        let mut refresh = vec![
            SocketEvent::Leave {
                key: KEY,
                at: at(9_011),
                entered: Some(at(1_000)),
                socket: socket(),
                how: ExitCause::Closed,
                closer: None,
                fd_open: Some(false),
                wrote: None,
                ended: None,
            }
            .into(),
        ];
        refresh.extend(entered.map(|millis| enter(KEY, millis).into()));
        let (findings, _) = audit(&mut engine, 9_000, vec![], refresh);
        assert_eq!((health(&findings), engine.totals().tracked), (None, u64::from(entered.is_some())));
    }
}

#[test]
fn an_unknown_entry_time_counts_only_if_a_refresh_finds_the_socket() {
    for there in [true, false] {
        let mut engine = engine();
        let scan = vec![ScanFact::StoredEntry { key: KEY, entered: at(1_000) }];
        let refresh = if there {
            vec![RefreshFact::Present { key: KEY, at: at(9_015), since: None, socket: socket() }.into()]
        } else {
            vec![]
        };
        let (findings, commands) = audit(&mut engine, 9_000, scan, refresh);
        if there {
            assert_eq!(engine.tracker.get(KEY).unwrap().since(), Since::Exact(at(1_000)));
            assert_eq!((health(&findings), commands.len()), (Some((1, 0)), 1));
        } else {
            assert_eq!(commands, [Output::RefreshSuspects(vec![KEY]), Output::Forget(vec![(KEY, at(1_000))])]);
            assert_eq!((health(&findings), engine.totals().tracked), (Some((0, 1)), 0));
        }
    }
}

#[test]
fn an_entry_time_of_a_socket_that_is_tracked_by_its_endpoints_was_not_missed() {
    let mut engine = engine();
    let ends = KeySecret::default().key(socket().netns, socket().local, socket().remote);
    engine.handle(present(ends, 500, Since::Between { earliest: None, latest: at(500) }));
    let scan = vec![present(ends, 9_001, Since::Exact(at(400))), ScanFact::StoredEntry { key: KEY, entered: at(400) }];
    let refresh = vec![RefreshFact::Present { key: KEY, at: at(9_015), since: None, socket: socket() }.into()];
    let (findings, _) = audit(&mut engine, 9_000, scan, refresh);
    assert_eq!((health(&findings), engine.totals().tracked, engine.totals().repaired), (None, 1, 0));
    assert!(engine.tracker.get(KEY).is_some(), "the kernel's address replaces the endpoints");
}

#[test]
fn a_recent_entry_time_is_that_of_a_record_to_come() {
    let mut engine = engine();
    let (findings, commands) =
        audit(&mut engine, 9_000, vec![ScanFact::StoredEntry { key: KEY, entered: at(8_950) }], vec![]);
    assert_eq!((health(&findings), commands.len()), (None, 1));
}

#[test]
fn a_socket_that_its_namespace_no_longer_has_is_a_phantom_unless_it_was_seen_since() {
    let of_ends = SocketKey(7);
    let mut engine = engine();
    engine.handle(present(of_ends, 100, Since::Between { earliest: Some(at(0)), latest: at(100) }));
    commands(&mut engine);
    engine.handle(RefreshFact::Gone { key: of_ends, at: at(90) });
    engine.handle(RefreshFact::Gone { key: OTHER, at: at(200) });
    assert_eq!((outputs(&mut engine).0, engine.totals().phantom), (vec![], 0));
    engine.handle(RefreshFact::Gone { key: of_ends, at: at(200) });
    let (findings, _) = outputs(&mut engine);
    assert!(matches!(findings[..], [Finding::Leave { how: ExitCause::Unknown, dwell: None, .. }]), "{findings:?}");
    assert_eq!((engine.totals().phantom, engine.totals().tracked), (1, 0));
}
