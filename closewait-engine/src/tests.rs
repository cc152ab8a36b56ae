mod abandoned;
pub(crate) mod any_times;
mod connects;
mod deferred;
mod ended;
mod entry_times;
mod late;
mod lossy;
mod passed;
mod progress;
mod twins;
mod unchanged;
mod unread;

use super::{
    model::{
        Class, Dwell, Endpoint, ExitCause, InspectionEnd, RefreshEnd, RefreshFact, Role, ScanEnd, ScanFact, Scope,
        Since, Socket, SocketEvent, SocketKey,
    },
    testing::{socket, socket_on_port},
    *,
};

const KEY: SocketKey = SocketKey(0xffff_8880_0000_1000);

fn at(millis: u64) -> BootTime {
    BootTime(millis * 1_000_000)
}

fn config(events: Events) -> Config {
    Config { stuck_after: Duration::from_secs(10), events, max_tracked: 1000, ..Config::default() }
}

fn engine(events: Events) -> Engine {
    Engine::new(config(events), at(0))
}

fn enter(millis: u64) -> SocketEvent {
    SocketEvent::Enter { key: KEY, at: at(millis), socket: socket() }
}

fn leave(millis: u64, entered: Option<u64>) -> SocketEvent {
    leave_of(socket(), millis, entered)
}

fn leave_of(socket: Socket, millis: u64, entered: Option<u64>) -> SocketEvent {
    let (how, fd_open) = (ExitCause::Closed, Some(false));
    SocketEvent::Leave {
        key: KEY,
        at: at(millis),
        entered: entered.map(at),
        socket,
        how,
        closer: None,
        fd_open,
        wrote: None,
        ended: None,
    }
}

fn counters(millis: u64, counters: Counters) -> Observation {
    Observation::Counters { at: at(millis), counters: Box::new(counters) }
}

/// Returns kernel counts with these dwell times, in milliseconds.
fn dwelt(millis: &[u64]) -> Counters {
    let mut dwell = vec![0; closewait_common::histogram::BUCKETS];
    for millis in millis {
        dwell[closewait_common::histogram::index(millis * 1_000_000)] += 1;
    }
    let left = millis.len() as u64;
    Counters { entered: left, left, dwell, ..Counters::default() }
}

/// Returns all outputs, each in a few words.
fn words(engine: &mut Engine) -> Vec<String> {
    outputs(engine)
        .iter()
        .map(|output| match output {
            Output::ReadCounters => "read counters".to_owned(),
            Output::Refresh(keys) => format!("refresh {}", keys.len()),
            Output::RefreshLingering(keys) => format!("refresh {} lingering", keys.len()),
            Output::ScanOwners { .. } => "scan for owners".to_owned(),
            Output::Audit { sweep } => format!("audit{}", if *sweep { " with the map" } else { "" }),
            Output::RefreshSuspects(keys) => format!("refresh {} suspects", keys.len()),
            Output::WatchPorts(ports) => format!("watch {}", ports.len()),
            Output::Forget(entries) => format!("forget {}", entries.len()),
            Output::InspectOwners(_) => "inspect owners".to_owned(),
            Output::Query(command) => format!("{command:?}"),
            Output::Finding(Finding::Enter { .. }) => "enter".to_owned(),
            Output::Finding(Finding::Stuck { dwell, .. }) => format!("stuck {:?}", dwell.at_least()),
            Output::Finding(Finding::Leave { dwell, how, .. }) => {
                format!("leave {:?} {how:?}", dwell.map(Dwell::at_least))
            }
            Output::Finding(Finding::Histogram { scope, finished, unfinished, .. }) => {
                format!("histogram {scope:?} {} {}", finished.count, unfinished.count)
            }
            Output::Finding(Finding::Pileup { pileup, .. }) => format!("pileup {}", pileup.count),
            Output::Finding(Finding::PileupEnd { end, .. }) => format!("pileup ends {:?}", end.how),
            Output::StillStuck { counts, .. } => format!("still stuck {}", counts.sockets),
            Output::Finding(Finding::Health { .. }) => "health".to_owned(),
            Output::Finding(Finding::Stop { .. }) => "stop".to_owned(),
        })
        .collect()
}

/// Returns all findings, each in a few words.
fn findings(engine: &mut Engine) -> Vec<String> {
    let is_command = |word: &String| {
        ["read counters", "refresh", "scan", "audit", "inspect"].iter().any(|command| word.starts_with(command))
    };
    words(engine).into_iter().filter(|word| !is_command(word)).collect()
}

/// Advances the time to `millis`; refreshes and scans find nothing.
fn time_comes(engine: &mut Engine, millis: u64) {
    engine.handle_timeout(at(millis));
    answer(engine, millis);
}

/// Ends all steps of an inspection without any fact.
fn answer(engine: &mut Engine, millis: u64) {
    let (at, worked) = (at(millis), Duration::ZERO);
    engine.handle(RefreshEnd::Inspection { at, lingering: true });
    engine.handle(ScanEnd::Descriptors { began: at, blind: None, saw_listeners: true });
    engine.handle(InspectionEnd::Owners { at, worked });
}

fn outputs(engine: &mut Engine) -> Vec<Output> {
    std::iter::from_fn(|| engine.poll_output()).collect()
}

#[test]
fn a_healthy_socket_has_no_findings() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    engine.handle(leave(500, Some(0)));
    assert_eq!(words(&mut engine), Vec::<String>::new());
}

#[test]
fn every_event_is_reported_on_request() {
    let mut engine = engine(Events::All);
    engine.handle(enter(0));
    engine.handle(leave(500, Some(0)));
    assert_eq!(words(&mut engine), ["enter", "leave Some(500ms) Closed"]);
}

#[test]
fn a_stuck_socket_and_its_exit_are_reported() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    assert_eq!(engine.poll_timeout(), Some(at(1000)));
    time_comes(&mut engine, 10_000);
    time_comes(&mut engine, 20_000);
    engine.handle(leave(25_000, Some(0)));
    let words = findings(&mut engine);
    assert_eq!(words, ["stuck 10s", "stuck 20s", "leave Some(25s) Closed"]);
}

#[test]
fn the_exit_of_a_stuck_socket_is_reported_without_an_earlier_report() {
    let mut engine = engine(Events::Stuck);
    engine.handle(leave(25_000, Some(0)));
    assert_eq!(words(&mut engine), ["leave Some(25s) Closed"]);
}

#[test]
fn a_missed_exit_is_reported_when_the_socket_enters_again() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    time_comes(&mut engine, 10_000);
    engine.handle(enter(50_000));
    assert_eq!(findings(&mut engine), ["stuck 10s", "leave None Unknown"]);
}

#[test]
fn a_window_ends_with_histograms_overall_and_for_each_port() {
    let mut engine = engine(Events::Stuck);
    for port in [80, 443] {
        engine.handle(leave_of(socket_on_port(port), 500, Some(0)));
    }
    let client = Socket { role: None, local: Endpoint { port: 40_000, ..socket().local }, ..socket() };
    engine.handle(leave_of(client, 600, Some(0)));
    engine.handle(enter(1000));
    time_comes(&mut engine, 60_000);
    engine.handle(counters(60_000, dwelt(&[500, 500, 600])));
    let words: Vec<_> = words(&mut engine).into_iter().filter(|word| word.starts_with("histogram")).collect();
    let expected = [
        "histogram All 3 1",
        "histogram LocalPort(80) 1 0",
        "histogram LocalPort(443) 1 0",
        "histogram LocalPort(8080) 0 1",
        "histogram Other 1 0",
    ];
    assert_eq!(words, expected);
    assert_eq!(engine.poll_timeout().map(|due| due > at(60_000)), Some(true));
}

#[test]
fn the_overall_histogram_comes_from_the_kernel_and_includes_lost_records() {
    let mut engine = engine(Events::Stuck);
    engine.handle_timeout(at(60_000));
    engine.handle(counters(60_000, dwelt(&[100, 200])));
    engine.handle_timeout(at(120_000));
    engine.handle(counters(120_000, dwelt(&[100, 200, 7000])));
    let summaries: Vec<_> = outputs(&mut engine)
        .into_iter()
        .filter_map(|output| {
            let Output::Finding(Finding::Histogram { scope: Scope::All, finished, .. }) = output else { return None };
            Some((finished.count, finished.max))
        })
        .collect();
    assert_eq!((summaries[0].0, summaries[1].0), (2, 1));
    let max = summaries[1].1.expect("one left");
    assert!(max >= Duration::from_secs(7) && max < Duration::from_millis(7250), "{max:?}");
}

#[test]
fn an_exit_that_only_a_scan_noticed_is_reported() {
    let mut engine = engine(Events::All);
    engine.handle(enter(0));
    let found = Socket { cookie: Some(8), ..socket() };
    let since = Since::Exact(at(4_000));
    engine.handle(ScanFact::Present { key: KEY, at: at(5_000), since, socket: found });
    assert_eq!(words(&mut engine), ["enter", "leave None Unknown"]);
    assert_eq!(engine.totals().tracked, 1);
}

#[test]
fn ports_over_the_limit_share_a_histogram() {
    let mut engine = engine(Events::Stuck);
    for port in 1..=1000 {
        engine.handle(leave_of(socket_on_port(port), 500, Some(0)));
    }
    engine.handle_timeout(at(60_000));
    engine.handle(counters(60_000, Counters::default()));
    let words = words(&mut engine);
    let histograms = words.iter().filter(|word| word.starts_with("histogram LocalPort")).count();
    assert_eq!(histograms, 64);
    assert!(words.contains(&"histogram Other 936 0".to_owned()), "{words:?}");
}

#[test]
fn a_loss_is_reported_once_and_within_a_second() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    engine.handle_timeout(at(1000));
    let lost = Counters { ring_full: 3, ..Counters::default() };
    engine.handle(counters(1000, lost.clone()));
    engine.handle(leave(1500, Some(0)));
    engine.handle_timeout(at(2500));
    engine.handle(counters(2500, lost));
    assert_eq!(words(&mut engine), ["read counters", "health", "audit with the map", "read counters"]);
    assert_eq!(engine.totals().lost_ring_full, 3);
}

#[test]
fn undecodable_records_and_unwritten_lines_are_losses() {
    let mut engine = engine(Events::Stuck);
    engine.undecodable(at(0));
    engine.unwritten(at(0), 5);
    engine.handle(counters(1000, Counters::default()));
    assert_eq!(words(&mut engine), ["health"]);
    assert_eq!((engine.totals().undecodable, engine.totals().unwritten), (1, 5));
}

/// Returns a socket in a namespace of its own, with the endpoints of all others.
fn in_namespace(number: u64) -> Socket {
    Socket { netns: Some(u32::try_from(number).unwrap()), ..socket() }
}

#[test]
fn losses_of_the_log_and_the_recording_are_reported_and_start_no_audit() {
    let mut engine = engine(Events::Stuck);
    engine.log_lines_dropped(at(0), 3);
    engine.handle(counters(1000, Counters::default()));
    engine.log_lines_dropped(at(1500), 4);
    engine.recording_failed(at(1500));
    engine.unrecorded(at(1500), 5);
    engine.handle(counters(2000, Counters::default()));
    assert_eq!(words(&mut engine), ["health", "health"]);
    let totals = engine.totals();
    assert_eq!((totals.log_lines_dropped, totals.recordings_failed, totals.unrecorded), (7, 1, 5));
    engine.handle_timeout(at(15_000));
    assert_eq!(words(&mut engine), ["read counters"]);
}

#[test]
fn sockets_over_the_limit_are_counted_and_reported_and_their_dwell_times_count() {
    let config = Config { max_tracked: 2, ..config(Events::Stuck) };
    let mut engine = Engine::new(config, at(0));
    let key = |number| SocketKey(KEY.0 + number);
    for number in 0..5 {
        let socket = in_namespace(number);
        engine.handle(SocketEvent::Enter { key: key(number), at: at(number), socket });
    }
    engine.handle(counters(1000, Counters::default()));
    assert_eq!(words(&mut engine), ["health"]);
    let totals = engine.totals();
    assert_eq!((totals.tracked, totals.untracked, engine.view(at(1000)).untracked), (2, 3, 3));
    assert!(engine.tracker.due(at(100_000)).eq([key(0), key(1)]), "the first sockets are tracked");

    // An untracked socket exits, and a tracked one.
    for number in [4, 0] {
        let SocketEvent::Leave { at, entered, how, closer, fd_open, .. } = leave(2000, Some(number)) else {
            unreachable!()
        };
        let (key, socket, wrote, ended) = (key(number), in_namespace(number), None, None);
        engine.handle(SocketEvent::Leave { key, at, entered, socket, how, closer, fd_open, wrote, ended });
    }
    assert_eq!((engine.totals().tracked, engine.view(at(2000)).untracked), (1, 2));
    engine.handle_timeout(at(60_000));
    engine.handle(counters(60_000, dwelt(&[1996, 2000])));
    let histograms = words(&mut engine).into_iter().filter(|word| word.starts_with("histogram"));
    assert_eq!(histograms.collect::<Vec<_>>(), ["histogram All 2 1", "histogram LocalPort(8080) 2 1"]);
}

#[test]
fn a_dropped_socket_is_tracked_when_a_scan_finds_it_below_the_limit() {
    let mut engine = Engine::new(Config { max_tracked: 1, ..config(Events::Stuck) }, at(0));
    let other = SocketKey(KEY.0 + 1);
    let present = || {
        let socket = Socket { cookie: Some(8), ..socket_on_port(9090) };
        ScanFact::Present { key: other, at: at(2), since: Since::Exact(at(1)), socket }
    };
    engine.handle(enter(0));
    engine.handle(present());
    engine.handle(present());
    assert_eq!((engine.totals().tracked, engine.totals().untracked), (1, 1), "found twice, counted once");
    assert_eq!(engine.scan_began().len(), 1, "a scan need not describe sockets over the limit");
    engine.handle(leave(1500, Some(0)));
    assert!(engine.scan_began().is_empty(), "the scan has to describe all sockets");
    engine.handle(present());
    assert_eq!((engine.totals().tracked, engine.totals().untracked, engine.view(at(3)).untracked), (1, 1, 0));
    let flow = engine.flows.as_ref().unwrap().flow(engine.group_keys.flow(&socket_on_port(9090)), None, at(3));
    assert_eq!(flow.unwrap().entered, 0, "the scan found it, once");
}

#[test]
fn sockets_over_the_limit_are_reported_within_a_second_without_events() {
    let mut engine = Engine::new(Config { max_tracked: 1, ..config(Events::Stuck) }, at(0));
    for number in 0..3 {
        let key = SocketKey(KEY.0 + number);
        let socket = in_namespace(number);
        engine.handle(ScanFact::Present { key, at: at(2), since: Since::Exact(at(1)), socket });
    }
    assert!(engine.poll_timeout() <= Some(at(1002)), "{:?}", engine.poll_timeout());
    engine.handle_timeout(at(1002));
    assert!(outputs(&mut engine).contains(&Output::ReadCounters));
    engine.handle(counters(1002, Counters::default()));
    assert_eq!((words(&mut engine), engine.totals().untracked), (vec!["health".to_owned()], 2));
}

/// A socket is a server's if its port has a listener, and a client's if it has none, unless the scan could not see all listeners.
#[test]
fn the_role_of_a_socket_is_unknown_without_all_listeners() {
    for (saw_listeners, role) in [(true, Some(Role::Client)), (false, None)] {
        let mut engine = engine(Events::Stuck);
        let (key, socket) = (KEY, Socket { role: None, ..socket() });
        engine.handle(SocketEvent::Enter { key, at: at(0), socket });
        engine.handle_timeout(at(10_000));
        engine.handle(RefreshEnd::Inspection { at: at(10_000), lingering: true });
        engine.handle(ScanEnd::Descriptors { began: at(10_000), blind: None, saw_listeners });
        engine.handle(InspectionEnd::Owners { at: at(10_001), worked: Duration::ZERO });
        let outputs = outputs(&mut engine);
        let stuck = outputs
            .iter()
            .filter(|output| matches!(output, Output::Finding(Finding::Stuck { socket, .. }) if socket.role == role));
        assert_eq!(stuck.count(), 1, "saw_listeners: {saw_listeners}");
    }
}

#[test]
fn many_due_sockets_are_reported_in_parts() {
    const MANY: u64 = 40_000;
    let config = Config { max_tracked: MANY as usize, ..config(Events::Stuck) };
    let mut engine = Engine::new(config, at(0));
    for number in 0..MANY {
        let key = SocketKey(KEY.0 + number);
        engine.handle(SocketEvent::Enter { key, at: at(0), socket: socket() });
    }
    engine.handle_timeout(at(10_000));
    engine.handle(RefreshEnd::Inspection { at: at(10_000), lingering: true });
    engine.handle(ScanEnd::Descriptors { began: at(10_000), blind: None, saw_listeners: true });
    assert!(words(&mut engine).iter().all(|word| !word.starts_with("stuck")));
    engine.handle(InspectionEnd::Owners { at: at(10_001), worked: Duration::ZERO });
    let (mut reported, mut most) = (0, 0);
    while let Some(output) = engine.poll_output() {
        reported += u64::from(matches!(output, Output::Finding(Finding::Stuck { .. })));
        most = most.max(engine.outputs.len());
    }
    assert_eq!(reported, MANY);
    assert!(most <= 16_384, "{most}");
    assert_eq!(engine.outputs.capacity(), 0, "the memory of the peak is freed");
    assert!(engine.next_inspection_due().is_some_and(|next| next > at(10_001)), "the inspection has ended");
}

#[test]
fn descriptors_over_the_limit_are_reported_once() {
    let mut engine = engine(Events::Stuck);
    engine.dropped = 5;
    engine.handle(counters(1000, Counters::default()));
    engine.handle(counters(2000, Counters::default()));
    assert_eq!((words(&mut engine), engine.totals().unkept), (vec!["health".to_owned()], 5));
}

#[test]
fn it_stops_with_a_last_histogram_and_totals() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    engine.stop();
    engine.handle(counters(900, Counters { entered: 1, ..Counters::default() }));
    let words = words(&mut engine);
    assert_eq!(words, ["read counters", "histogram All 0 1", "histogram LocalPort(8080) 0 1", "stop"]);
    let totals = engine.totals();
    assert_eq!((totals.entered, totals.tracked), (1, 1));
}

#[test]
fn an_idle_engine_wakes_up_only_for_its_window() {
    assert_eq!(engine(Events::All).poll_timeout(), Some(at(60_000)));
}

#[test]
fn sockets_that_a_scan_finds_can_be_stuck_at_once() {
    let mut engine = engine(Events::Stuck);
    let since = Since::Between { earliest: Some(at(0)), latest: at(100_000) };
    engine.handle(ScanFact::Present { key: KEY, at: at(200_000), since, socket: socket() });
    time_comes(&mut engine, 200_000);
    let stuck: Vec<_> = words(&mut engine).into_iter().filter(|word| word.starts_with("stuck")).collect();
    assert_eq!(stuck, ["stuck 100s"]);
}

/// Returns the sockets that are reported as stuck.
fn stuck(engine: &mut Engine) -> Vec<(Socket, Class)> {
    let stuck = outputs(engine).into_iter().filter_map(|output| {
        let Output::Finding(Finding::Stuck { socket, verdict, .. }) = output else { return None };
        Some((socket, verdict.class))
    });
    stuck.collect()
}

fn enter_unaccepted() -> SocketEvent {
    let socket = Socket { accepted: Some(false), inode: None, ..socket() };
    SocketEvent::Enter { key: KEY, at: at(0), socket }
}

#[test]
fn a_socket_is_refreshed_before_its_report() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter(0));
    engine.handle_timeout(at(10_000));
    engine.handle_timeout(at(10_001));
    assert_eq!(words(&mut engine)[0], "refresh 1");
    assert_eq!(findings(&mut engine), Vec::<String>::new());
    answer(&mut engine, 10_000);
    assert_eq!(findings(&mut engine), ["stuck 10s"]);
}

#[test]
fn a_socket_that_was_accepted_since_is_not_never_accepted() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter_unaccepted());
    engine.handle_timeout(at(10_000));
    engine.handle(RefreshFact::Present { key: KEY, at: at(10_000), since: None, socket: socket() });
    answer(&mut engine, 10_000);
    assert_eq!(stuck(&mut engine), [(socket(), Class::Unknown)]);
}

#[test]
fn a_socket_that_is_still_in_the_backlog_is_never_accepted() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter_unaccepted());
    engine.handle_timeout(at(10_000));
    let SocketEvent::Enter { socket, .. } = enter_unaccepted() else { unreachable!() };
    engine.handle(RefreshFact::Present { key: KEY, at: at(10_001), since: None, socket });
    answer(&mut engine, 10_000);
    assert_eq!(stuck(&mut engine)[0].1, Class::NeverAccepted);
}

#[test]
fn without_a_refresh_the_verdict_is_unknown() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter_unaccepted());
    time_comes(&mut engine, 10_000);
    let (socket, class) = stuck(&mut engine).remove(0);
    assert_eq!((socket.accepted, socket.unread_bytes, class), (None, None, Class::Unknown));
}

#[test]
fn a_refresh_of_another_socket_at_the_address_changes_nothing() {
    let mut engine = engine(Events::Stuck);
    engine.handle(enter_unaccepted());
    engine.handle_timeout(at(10_000));
    engine.handle(RefreshFact::Present { key: KEY, at: at(10_000), since: None, socket: socket_on_port(9) });
    answer(&mut engine, 10_000);
    let (socket, class) = stuck(&mut engine).remove(0);
    assert_eq!((socket.local.port, socket.accepted, class), (8080, None, Class::Unknown));
}
