//! Reports of due sockets while a scan or an inspection does not end.

use super::*;
use crate::testing::owner;

/// Returns the sockets that are reported as stuck: their age in milliseconds, and whether their owners are known.
fn reports(engine: &mut Engine) -> Vec<(u128, bool)> {
    let of = |output| {
        let Output::Finding(Finding::Stuck { dwell, owners, .. }) = output else { return None };
        Some((dwell.at_least().as_millis(), owners.is_some()))
    };
    outputs(engine).into_iter().filter_map(of).collect()
}

/// Returns an engine with one due and refreshed socket, while a scan for owners does not end.
fn scanning() -> Engine {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    engine.handle_timeout(at(10_000));
    engine.handle(RefreshFact::Present { key: KEY, at: at(10_000), since: None, socket: socket() });
    engine.handle(RefreshEnd::Inspection { at: at(10_000), lingering: true });
    assert!(words(&mut engine).contains(&"scan for owners".to_owned()));
    engine
}

#[test]
fn a_report_is_at_most_a_second_late_during_a_long_scan_for_owners() {
    let mut engine = scanning();
    engine.handle_timeout(at(10_900));
    assert_eq!(reports(&mut engine), []);
    assert_eq!(engine.poll_timeout(), Some(at(11_000)));
    engine.handle_timeout(at(11_000));
    assert_eq!(reports(&mut engine), [(11_000, false)], "facts from the refresh before the scan are known");
    answer(&mut engine, 14_000);
    assert_eq!(reports(&mut engine), [], "the socket is not reported twice");
}

#[test]
fn a_late_report_has_refreshed_facts_and_the_previous_owners() {
    let mut engine = scanning();
    engine.handle_timeout(at(11_000));
    assert_eq!(stuck(&mut engine)[0].0, socket());
    engine.handle(ScanFact::Owned {
        key: KEY,
        at: at(12_000),
        since: Since::Exact(at(0)),
        socket: socket(),
        owner: owner("x", 7, 3),
    });
    answer(&mut engine, 12_000);
    engine.handle_timeout(at(20_000));
    engine.handle(RefreshEnd::Inspection { at: at(20_000), lingering: true });
    engine.handle_timeout(at(21_000));
    assert_eq!(reports(&mut engine), [(21_000, true)]);
}

#[test]
fn after_a_failed_scan_owners_are_unknown_and_the_next_inspection_scans_again() {
    let mut engine = scanning();
    engine.handle(ScanEnd::Failed { why: "no descriptors".to_owned() });
    assert!(words(&mut engine).contains(&"inspect owners".to_owned()));
    engine.handle(InspectionEnd::Owners { at: at(10_100), worked: Duration::ZERO });
    assert_eq!(reports(&mut engine), [(10_000, false)]);
    assert_eq!(engine.blind(), Some("no descriptors"));
    engine.handle_timeout(at(20_000));
    engine.handle(RefreshEnd::Inspection { at: at(20_000), lingering: true });
    assert!(words(&mut engine).contains(&"scan for owners".to_owned()));
}

#[test]
fn between_two_inspections_a_socket_is_refreshed_and_reported_without_owners() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    engine.handle_timeout(at(10_000));
    engine.handle(RefreshEnd::Inspection { at: at(10_000), lingering: true });
    engine.handle(ScanEnd::Descriptors { began: at(10_000), blind: None, saw_listeners: true });
    // The budget of a fiftieth of a CPU allows no inspection in the next ten seconds.
    engine.handle(InspectionEnd::Owners { at: at(10_100), worked: Duration::from_secs(3) });
    assert_eq!(reports(&mut engine), [(10_000, true)]);
    let another = SocketKey(KEY.0 + 1);
    engine.handle(SocketEvent::Enter { key: another, at: at(1000), socket: socket_on_port(9) });
    engine.handle_timeout(at(11_000));
    assert_eq!(words(&mut engine), ["read counters"]);
    engine.handle_timeout(at(12_000));
    assert_eq!(words(&mut engine), ["refresh 1"]);
    engine.handle(RefreshEnd::Inspection { at: at(12_001), lingering: true });
    assert_eq!(reports(&mut engine), [(11_000, false)]);
    for millis in [13_000, 19_000] {
        engine.handle_timeout(at(millis));
        assert_eq!(words(&mut engine), ["read counters"; 0], "no inspection before its time");
    }
}

#[test]
fn a_socket_that_exits_when_it_is_due_was_stuck() {
    for (millis, expected) in [(9_999, None), (10_000, Some(true)), (10_500, Some(true))] {
        let mut engine = engine(Events::Stuck);
        engine.handle(enter(0));
        engine.handle(leave(millis, Some(0)));
        let left = outputs(&mut engine).into_iter().find_map(|output| {
            let Output::Finding(Finding::Leave { stuck, .. }) = output else { return None };
            Some(stuck)
        });
        assert_eq!(left, expected, "{millis}");
    }
}

#[test]
fn an_outdated_fact_of_a_scan_is_ignored() {
    let mut engine = scanning();
    engine.handle(leave(10_200, Some(0)));
    let (socket, since) = (socket(), Since::Exact(at(0)));
    engine.handle(ScanFact::Owned { key: KEY, at: at(10_100), since, socket, owner: owner("x", 7, 3) });
    assert_eq!(engine.totals().tracked, 0);
    answer(&mut engine, 10_300);
    // The same facts without the exit.
    let socket = super::socket();
    engine.handle(ScanFact::Present { key: KEY, at: at(10_100), since, socket });
    assert_eq!(engine.totals().tracked, 1, "after the scan, exits are no longer stored");
}

#[test]
fn after_a_loss_one_scan_describes_all_sockets() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    assert_eq!(engine.scan_began(), [4_026_531_840]);
    engine.handle(counters(1000, Counters { ring_full: 3, ..Counters::default() }));
    assert_eq!(engine.scan_began(), [0; 0]);
    assert_eq!(engine.scan_began(), [4_026_531_840]);
}

#[test]
fn a_socket_that_exits_during_its_refresh_is_not_reported() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    engine.handle_timeout(at(10_000));
    engine.handle(leave(9_999, Some(0)));
    engine.handle(RefreshFact::Present { key: KEY, at: at(10_000), since: None, socket: socket() });
    answer(&mut engine, 10_000);
    assert_eq!((stuck(&mut engine), engine.totals().tracked), (vec![], 0));
}
