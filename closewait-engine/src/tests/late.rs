//! Sockets that are due while scans and inspections do not end.

use super::*;
use crate::testing::owner;

/// The sockets that are reported as stuck, with their age in milliseconds and whether owners are known.
fn reports(engine: &mut Engine) -> Vec<(u128, bool)> {
    let of = |output| {
        let Output::Finding(Finding::Stuck { dwell, owners, .. }) = output else { return None };
        Some((dwell.at_least().as_millis(), owners.is_some()))
    };
    outputs(engine).into_iter().filter_map(of).collect()
}

/// An engine with one socket that is due, refreshed, and waits for a scan that does not end.
fn scanning() -> Engine {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    engine.handle_timeout(at(10_000));
    engine.handle(RefreshFact::Present { key: KEY, at: at(10_000), since: None, socket: socket() });
    engine.handle(RefreshEnd::Inspection { at: at(10_000) });
    assert!(words(&mut engine).contains(&"look for holders".to_owned()));
    engine
}

#[test]
fn a_socket_is_reported_a_second_late_at_most_however_long_the_scan_for_owners_takes() {
    let mut engine = scanning();
    engine.handle_timeout(at(10_900));
    assert_eq!(reports(&mut engine), []);
    assert_eq!(engine.poll_timeout(), Some(at(11_000)));
    engine.handle_timeout(at(11_000));
    assert_eq!(reports(&mut engine), [(11_000, false)], "what was refreshed before the scan is known");
    answer(&mut engine, 14_000);
    assert_eq!(reports(&mut engine), [], "it is not reported twice");
}

#[test]
fn a_late_report_has_what_was_refreshed_and_owners_that_were_known() {
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
    engine.handle(RefreshEnd::Inspection { at: at(20_000) });
    engine.handle_timeout(at(21_000));
    assert_eq!(reports(&mut engine), [(21_000, true)]);
}

#[test]
fn a_scan_that_fails_leaves_owners_unknown_and_the_next_inspection_tries_again() {
    let mut engine = scanning();
    engine.handle(ScanEnd::Failed { why: "no descriptors".to_owned() });
    assert!(words(&mut engine).contains(&"look at owners".to_owned()));
    engine.handle(InspectionEnd::Owners { at: at(10_100), worked: Duration::ZERO });
    assert_eq!(reports(&mut engine), [(10_000, false)]);
    assert_eq!(engine.blind(), Some("no descriptors"));
    engine.handle_timeout(at(20_000));
    engine.handle(RefreshEnd::Inspection { at: at(20_000) });
    assert!(words(&mut engine).contains(&"look for holders".to_owned()));
}

#[test]
fn between_two_inspections_a_socket_is_refreshed_and_reported_without_owners() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    engine.handle_timeout(at(10_000));
    engine.handle(RefreshEnd::Inspection { at: at(10_000) });
    engine.handle(ScanEnd::Descriptors { began: at(10_000), blind: None, saw_listeners: true });
    // It may use a fiftieth of a CPU: there is none in the next ten seconds.
    engine.handle(InspectionEnd::Owners { at: at(10_100), worked: Duration::from_secs(3) });
    assert_eq!(reports(&mut engine), [(10_000, true)]);
    let another = SocketKey(KEY.0 + 1);
    engine.handle(SocketEvent::Enter { key: another, at: at(1000), socket: socket_on_port(9) });
    engine.handle_timeout(at(11_000));
    assert_eq!(words(&mut engine), ["read counters"]);
    engine.handle_timeout(at(12_000));
    assert_eq!(words(&mut engine), ["look at 1"]);
    engine.handle(RefreshEnd::Inspection { at: at(12_001) });
    assert_eq!(reports(&mut engine), [(11_000, false)]);
    for millis in [13_000, 19_000] {
        engine.handle_timeout(at(millis));
        assert_eq!(words(&mut engine), ["read counters"; 0], "no inspection before its time");
    }
}

#[test]
fn a_socket_that_left_when_it_was_due_had_been_stuck_and_one_that_left_before_had_not() {
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
fn a_fact_that_a_record_has_overtaken_tracks_nothing() {
    let mut engine = scanning();
    engine.handle(leave(10_200, Some(0)));
    let (socket, since) = (socket(), Since::Exact(at(0)));
    engine.handle(ScanFact::Owned { key: KEY, at: at(10_100), since, socket, owner: owner("x", 7, 3) });
    assert_eq!(engine.totals().tracked, 0);
    answer(&mut engine, 10_300);
    // The same facts without the exit.
    let socket = super::socket();
    engine.handle(ScanFact::Present { key: KEY, at: at(10_100), since, socket });
    assert_eq!(engine.totals().tracked, 1, "after the scan nothing is known of exits");
}

#[test]
fn after_a_loss_one_walk_tells_all_sockets() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    assert_eq!(engine.scan_began(), [4_026_531_840]);
    engine.handle(counters(1000, Counters { ring_full: 3, ..Counters::default() }));
    assert_eq!(engine.scan_began(), [0; 0]);
    assert_eq!(engine.scan_began(), [4_026_531_840]);
}
