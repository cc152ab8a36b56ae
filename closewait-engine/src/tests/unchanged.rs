//! Refreshes that find sockets with the facts of the refresh before.

use super::*;

fn unchanged(engine: &mut Engine, millis: u64) {
    engine.handle(RefreshFact::Unchanged { key: KEY, at: at(millis) });
}

fn refreshed(engine: &mut Engine, millis: u64) {
    engine.handle(RefreshFact::Present { key: KEY, at: at(millis), since: None, socket: socket() });
}

/// Returns an engine that has reported a refreshed socket at 10 s.
fn reported() -> Engine {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    engine.handle_timeout(at(10_000));
    refreshed(&mut engine, 10_000);
    answer(&mut engine, 10_000);
    assert_eq!(stuck(&mut engine), [(socket(), Class::Unknown)]);
    engine
}

#[test]
fn an_unchanged_socket_is_reported_with_the_facts_of_its_last_refresh() {
    let mut engine = reported();
    engine.handle_timeout(at(20_000));
    unchanged(&mut engine, 20_001);
    answer(&mut engine, 20_002);
    assert_eq!(stuck(&mut engine), [(socket(), Class::Unknown)]);
    assert_eq!(engine.refreshed_at(KEY), Some(at(20_001)));
}

#[test]
fn a_socket_whose_facts_were_forgotten_needs_a_record() {
    let mut engine = reported();
    assert_eq!(engine.refreshed_at(KEY), Some(at(10_000)));
    time_comes(&mut engine, 20_000);
    let (socket, _) = stuck(&mut engine).remove(0);
    assert_eq!((socket.unread_bytes, engine.refreshed_at(KEY)), (None, None), "no refresh has found it in time");
    unchanged(&mut engine, 20_500);
    assert_eq!(engine.refreshed_at(KEY), None, "the facts are still missing");
    refreshed(&mut engine, 21_000);
    assert_eq!(engine.refreshed_at(KEY), Some(at(21_000)));
}

#[test]
fn another_socket_at_the_address_needs_a_record() {
    let mut engine = reported();
    engine.handle(leave(11_000, Some(0)));
    unchanged(&mut engine, 11_500);
    assert_eq!((engine.totals().tracked, engine.refreshed_at(KEY)), (0, None));
    engine.handle(enter(12_000));
    unchanged(&mut engine, 12_500);
    assert_eq!((engine.totals().tracked, engine.refreshed_at(KEY)), (1, None));
}

#[test]
fn an_unchanged_socket_was_seen_and_so_is_no_phantom() {
    for is_there in [true, false] {
        let mut engine = reported();
        engine.audit.hurry(at(12_000));
        engine.handle_timeout(at(12_000));
        engine.handle(ScanEnd::Audit { began: at(12_000), at: at(12_010), complete: true, cost: None });
        if is_there {
            unchanged(&mut engine, 12_020);
        }
        engine.handle(RefreshEnd::Suspects { at: at(12_030), complete: true });
        assert_eq!((engine.totals().tracked, engine.totals().phantom), (is_there.into(), (!is_there).into()));
    }
}
