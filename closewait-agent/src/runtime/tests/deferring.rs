//! Sockets whose entries have no record yet.

use super::*;

impl FakeSource {
    /// Has a socket enter now, with a deferred record.
    fn enters_deferred(&self, number: u16) {
        self.state().unannounced.push_back((clock::now(), enter(number)));
    }
}

fn deferring() -> FakeSource {
    let source = FakeSource::default();
    source.state().defers = true;
    source
}

/// Returns counts of seven sockets of the port 80.
fn passed() -> PassedSockets {
    let flow = PileupGroup { role: Some(Role::Server), netns: None, cgroup: None, local_port: Some(80), remote: None };
    let (now, dwell) = (clock::now(), vec![(200, 3), (300, 4)]);
    PassedSockets { at: now, flow, since: now, last: now, longest: Duration::from_millis(1), dwell }
}

#[test]
fn a_socket_that_stays_is_announced_without_any_other_event() {
    let source = deferring();
    let events = run(&source, config(), no_jobs(), None, async |lines| {
        // Only after the start, at which all are announced.
        wait_until("a read", || source.state().reads > 0).await;
        source.enters_deferred(1);
        lines.wait_for("enter", 1).await;
        assert!(source.state().unannounced.is_empty());
    });
    assert!(kinds(&events).contains(&("enter".to_owned(), Some(1))), "{events:?}");
}

#[test]
fn a_calm_host_is_searched_less_often_until_there_is_a_record_or_a_count() {
    let source = deferring();
    let (_reader, writer) = io::pipe().unwrap();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _tokio = tokio.enter();
    let mut agent = agent(&source, config(), no_jobs(), None, writer);
    let interval = |agent: &Runtime<FakeSource>| agent.next_announcement().unwrap().since(agent.pending.announced);
    agent.announce_all();
    let calm = interval(&agent);
    for is_count in [false, true] {
        if is_count {
            source.state().passed.push(passed());
            agent.announce_all();
        } else {
            source.write([enter(1)]);
            agent.drain_all();
        }
        let busy = interval(&agent);
        assert!(busy < calm, "{busy:?}");
        agent.announce_all();
        assert_eq!(interval(&agent), busy, "not calm at once");
        agent.pending.busy_at = BootTime(0);
        assert_eq!(interval(&agent), calm);
    }
}

#[test]
fn an_answer_has_the_socket_that_has_just_entered() {
    let (source, path) = (deferring(), socket("deferred"));
    run(&source, config(), no_jobs(), Some(&path), async |_lines| {
        for number in 1..=3 {
            source.enters_deferred(number);
            let asking = thread::spawn({
                let path = path.clone();
                move || list(&path)
            });
            wait_until("an answer", || asking.is_finished()).await;
            assert_eq!(asking.join().unwrap().1, usize::from(number));
        }
    });
}

#[test]
fn the_last_totals_have_the_socket_that_has_just_entered() {
    let source = deferring();
    let events = run(&source, config(), no_jobs(), None, async |_lines| source.enters_deferred(1));
    let stop = events.last().unwrap();
    assert_eq!((stop["event"].as_str(), stop["totals"]["tracked"].as_u64()), (Some("stop"), Some(1)), "{stop}");
}

#[test]
fn what_an_earlier_agent_left_is_announced_by_one_that_defers_nothing() {
    let source = FakeSource::default();
    source.enters_deferred(1);
    run(&source, config(), no_jobs(), None, async |lines| lines.wait_for("enter", 1).await);
}

#[test]
fn the_kernel_counts_no_sockets_while_a_scan_runs_and_what_it_has_counted_is_told_once() {
    let (source, path) = (deferring(), socket("counting"));
    let (end_of_scan, ended) = mpsc::channel::<()>();
    let scan = move |_job, _decoder, to: &mut Outbox<'_>| {
        let _ended = ended.recv();
        to.put(ScanItem::fact(ScanEnd::Descriptors { began: clock::now(), blind: None, saw_listeners: true }));
        Vec::new()
    };
    let workers = Workers::start_with(scan, no_inspection, LIMIT).unwrap();
    let events = run(&source, config(), workers, Some(&path), async |_lines| {
        wait_until("counting", || source.state().may_count.last() == Some(&true)).await;
        source.state().passed.push(passed());
        source.write([enter(1)]);
        let asking = thread::spawn({
            let path = path.clone();
            move || list(&path)
        });
        wait_until("a scan", || source.state().may_count.last() == Some(&false)).await;
        // Searches for sockets that stay happen meanwhile, and none of them lets the kernel count again.
        source.state().may_count.clear();
        wait_until("searches", || source.state().may_count.len() >= 3).await;
        assert!(source.state().may_count.iter().all(|may| !may));
        end_of_scan.send(()).unwrap();
        wait_until("an answer", || asking.is_finished()).await;
        wait_until("counting again", || source.state().may_count.last() == Some(&true)).await;
        drop(end_of_scan);
    });
    let own: Vec<_> = events.iter().filter(|event| event["local_port"] == 80).collect();
    assert_eq!(own.len(), 1, "{own:?}");
    assert_eq!((&own[0]["event"], &own[0]["finished"]["count"]), (&"histogram".into(), &7.into()), "{own:?}");
}
