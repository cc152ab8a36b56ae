//! Refreshes of sockets that an audit's scan has not found.

use super::*;

/// Runs an agent that tracks a socket and then loses records. The repairing scan finds another socket, but not the
/// first, for which a refresh finds nothing either.
fn audited(lost_by_refresh: u64) -> (FakeSource, Vec<Value>) {
    let source = FakeSource::default();
    let events = audited_on(&source, lost_by_refresh, async || ());
    (source, events)
}

/// Does that on a source, and waits at the refresh of the sockets that the scan has not found.
fn audited_on(source: &FakeSource, lost_by_refresh: u64, refreshing: impl AsyncFnOnce()) -> Vec<Value> {
    source.write([enter(1)]);
    let (jobs, done) = mpsc::channel();
    let scan = move |job, _decoder, to: &mut Outbox<'_>| {
        if matches!(job, Job::Everything { sweep: true }) {
            let (at, since) = (clock::now(), Since::Exact(clock::now() - Duration::from_secs(1)));
            to.put(ScanItem::fact(ScanFact::Present { key: key(2), at, since, socket: testing::socket_on_port(2) }));
        }
        jobs.send(job).unwrap();
        // Without this gap, a scan alone proves that a socket is gone.
        vec!["one network namespace".to_owned()]
    };
    let workers = Workers::start_with(scan, no_inspection, LIMIT).unwrap();
    let events = run(source, config(), workers, None, async |lines| {
        lines.wait_for("enter", 1).await;
        source.state().lost_by_refresh = lost_by_refresh;
        source.state().counters.ring_full = 5;
        // The counters are read a second after a possible loss.
        source.write([vec![0; 3]]);
        wait_until("a refresh of the suspects", || !source.state().refreshed.is_empty()).await;
        refreshing().await;
        lines.wait_for("health", 2).await;
    });
    let jobs: Vec<_> = done.try_iter().collect();
    assert!(matches!(jobs[..], [Job::Everything { sweep: true }]), "{jobs:?}");
    events
}

#[test]
fn a_loss_is_repaired_by_a_scan_and_a_refresh_of_what_it_did_not_find() {
    let (source, events) = audited(0);
    let healths: Vec<_> = events.iter().filter(|event| event["event"] == "health").collect();
    assert_eq!((&healths[0]["lost_ring_full"], &healths[0]["undecodable"]), (&5.into(), &1.into()), "{healths:?}");
    let last = events.last().unwrap();
    assert_eq!((&last["totals"]["repaired"], &last["totals"]["phantom"]), (&1.into(), &1.into()), "{last}");
    let state = source.state();
    assert_eq!(state.refreshed, [key(1)]);
    assert_eq!(state.forgotten.iter().map(|(key, _entered)| *key).collect::<Vec<_>>(), [key(1)]);
}

#[test]
fn a_refresh_whose_records_may_be_lost_proves_nothing() {
    let (source, events) = audited(1);
    let last = events.last().unwrap();
    assert_eq!((&last["totals"]["repaired"], &last["totals"]["phantom"]), (&1.into(), &0.into()), "{last}");
    assert_eq!(source.state().forgotten, []);
}

#[test]
fn the_records_of_a_refresh_may_appear_later() {
    let source = FakeSource::default();
    source.state().hidden = 1;
    let events = audited_on(&source, 0, async || {
        for _ in 0..5 {
            let reads = source.state().reads;
            wait_until("a read", || source.state().reads > reads).await;
            assert_eq!(source.state().forgotten, [], "the record of the socket may still come");
        }
        source.state().hidden = 0;
        wait_until("the end of the refresh", || !source.state().forgotten.is_empty()).await;
    });
    assert_eq!(events.last().unwrap()["totals"]["phantom"], 1);
}

#[test]
fn a_refresh_whose_records_do_not_appear_proves_nothing() {
    let source = FakeSource::default();
    source.state().hidden = 1;
    let gave_up = async || wait_until("the end of the wait", || source.state().hidden == 0).await;
    let events = audited_on(&source, 0, gave_up);
    assert_eq!(events.last().unwrap()["totals"]["phantom"], 0);
    assert_eq!(source.state().forgotten, []);
}

#[test]
fn a_refresh_leaves_room_for_other_records() {
    let (source, sockets) = (FakeSource::default(), 40);
    source.write((3..).take(sockets - 1).map(enter));
    audited_on(&source, 0, async || {
        wait_until("all sockets", || source.state().refreshed.len() == sockets).await;
    });
    assert_eq!(source.state().most_refreshed, CAPACITY / 4);
}
