//! The exporter against collectors that accept, refuse, are slow, lie or vanish.

mod collector;
mod receivers;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::SystemTime,
};

use self::collector::{Behavior, FakeCollector};
use super::{
    delivery::RetryPolicy,
    http::{PostOutcome, post},
    settings::{SecretHeaders, Signal, SignalSettings},
    *,
};
use crate::sink::Numbering;
use closewait_engine::{Config, testing::socket};

const TIMEOUT: Duration = Duration::from_millis(400);

fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn timing() -> ExportTiming {
    let retry = RetryPolicy {
        first_delay: millis(20),
        max_delay: millis(100),
        max_retry_after: millis(1500),
        max_time: Duration::from_secs(20),
        delay_at_end: millis(20),
    };
    ExportTiming {
        batch_events: 10,
        batch_delay: millis(30),
        first_metrics: millis(10),
        retry,
        ..ExportTiming::default()
    }
}

fn signal(signal: Signal, address: SocketAddr, gzip: bool) -> SignalSettings {
    let url = format!("http://{address}/v1/{}", signal.path()).parse().unwrap();
    let mut headers = SecretHeaders::default();
    headers.0.insert("authorization", "Bearer secret".parse().unwrap());
    SignalSettings { signal, url, headers, timeout: TIMEOUT, gzip }
}

/// Exporter and the event loop's part of it.
struct Running {
    exporter: OtlpExporter,
    numbering: Numbering,
    engine: Engine,
    /// Name of this run in the identifiers of records.
    instance: String,
}

impl Running {
    fn logs(address: SocketAddr, timing: ExportTiming) -> Self {
        Self::new(None, Some(signal(Signal::Logs, address, true)), timing)
    }

    fn new(metrics: Option<SignalSettings>, logs: Option<SignalSettings>, timing: ExportTiming) -> Self {
        let settings = OtlpSettings { metrics, logs, interval: millis(100), attributes: Vec::new() };
        let host = Host { name: Some("web-1".to_owned()), boot: None };
        let export = OtlpExport::prepare(settings, ExportedEvents::All, &host, 1 << 20);
        let instance = export.instance.clone();
        let exporter = export.start_with(AgentFacts::default(), false, timing).unwrap();
        let engine = Engine::new(Config::default(), BootTime(0));
        Self { exporter, numbering: Numbering::default(), engine, instance }
    }

    fn send(&mut self, events: u64) {
        let finding = Finding::Enter { at: BootTime(1), socket: socket() };
        for _ in 0..events {
            let event = self.numbering.finding(&finding, TimeAnchor::booted_at(SystemTime::UNIX_EPOCH));
            self.exporter.event(&event).unwrap();
        }
    }

    fn counts(&self) -> (u64, u64, u64) {
        self.exporter.accounts.counts()
    }

    /// Waits until so many events are delivered or dropped.
    fn settled(&self, events: u64) {
        eventually(|| {
            let (_, delivered, dropped) = self.counts();
            delivered + dropped == events
        });
    }

    /// Ends the export, and returns the counts at its end.
    fn end(mut self, patience: Duration) -> (u64, u64, u64) {
        let accounts = Arc::clone(&self.exporter.accounts);
        self.exporter.close(&self.engine, patience);
        self.exporter.finish(patience + millis(500));
        accounts.counts()
    }
}

fn eventually(mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        std::thread::sleep(millis(10));
    }
    panic!("not within 10 seconds");
}

#[test]
fn events_arrive_once_with_headers_and_compression() {
    let collector = FakeCollector::start(&[]);
    let mut running = Running::logs(collector.address, timing());
    running.send(25);
    assert_eq!(running.end(Duration::from_secs(5)), (25, 25, 0));
    let received = collector.received();
    assert_eq!(received.uids().len(), 25);
    assert!(received.records.iter().all(|record| record.event_name == "closewait.socket.entered"));
    assert_eq!(received.resources[0]["service.name"], "closewait");
    assert_eq!(received.resources[0]["host.name"], "web-1");
    let heads = received.heads.join("\n").to_ascii_lowercase();
    for part in
        ["post /v1/logs http/1.1", "content-encoding: gzip", "authorization: bearer secret", "connection: close"]
    {
        assert!(heads.contains(part), "{part}: {heads}");
    }
    assert!(received.heads.len() >= 3, "10 events a request");
}

#[test]
fn temporary_failures_are_tried_again() {
    let failures = [
        Behavior::Status(429, None),
        Behavior::Status(502, None),
        Behavior::Status(503, Some("0".to_owned())),
        Behavior::Status(504, Some("nonsense".to_owned())),
        Behavior::Reset,
        Behavior::Silent,
        Behavior::SlowHeaders,
        Behavior::EndlessHeaders,
        Behavior::NoHttp,
    ];
    let collector = FakeCollector::start(&failures);
    let mut running = Running::logs(collector.address, timing());
    running.send(3);
    running.settled(3);
    assert_eq!(running.end(Duration::from_secs(1)), (3, 3, 0));
    let received = collector.received();
    assert_eq!((received.uids().len(), received.records.len()), (3, 3));
    assert_eq!(received.connections, failures.len() + 1);
}

#[test]
fn a_failure_at_the_port_of_grpc_names_the_port_of_http() {
    // An address of its own: the port is free, whatever else runs on this host.
    let grpc = FakeCollector::start_at(([127, 43, 17, 1], 4317).into(), &[Behavior::NoHttp, Behavior::Silent]);
    let other = FakeCollector::start(&[Behavior::NoHttp]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let why = |address| match runtime.block_on(post(
        &signal(Signal::Logs, address, false),
        bytes::Bytes::from_static(b"x"),
        None,
    )) {
        PostOutcome::Retry { why, .. } => why,
        outcome @ (PostOutcome::Accepted(_) | PostOutcome::Refused(_)) => panic!("{outcome:?}"),
    };
    for failure in ["the connection failed: ", "no response within 400ms"] {
        let why = why(grpc.address);
        assert!(why.cause.starts_with(failure) && why.hint.contains("OTLP over HTTP, usually 4318"), "{why:?}");
    }
    assert!(!why(other.address).hint.contains("gRPC"));
}

#[test]
fn permanent_failures_drop_and_count() {
    for status in [301, 307, 400, 401, 404, 413, 500, 501] {
        let collector = FakeCollector::start(&[Behavior::Status(status, Some("0".to_owned()))]);
        let mut running = Running::logs(collector.address, timing());
        running.send(3);
        running.settled(3);
        running.send(4);
        assert_eq!(running.end(Duration::from_secs(5)), (7, 4, 3), "{status}");
        assert_eq!(collector.received().connections, 2, "{status}: no second attempt");
    }
}

#[test]
fn a_success_that_cannot_be_believed_counts_as_dropped() {
    for behavior in
        [Behavior::SlowBody, Behavior::EndlessBody, Behavior::GarbageBody, Behavior::Page, Behavior::UntypedPage]
    {
        let collector = FakeCollector::start(std::slice::from_ref(&behavior));
        let mut running = Running::logs(collector.address, timing());
        running.send(3);
        running.settled(3);
        running.send(4);
        assert_eq!(running.end(Duration::from_secs(1)), (7, 4, 3), "{behavior:?}");
        assert_eq!(collector.received().connections, 2, "{behavior:?}: no second attempt, which could store it twice");
    }
}

#[test]
fn a_collector_that_answers_in_another_format_is_believed() {
    let collector = FakeCollector::start(&[Behavior::Json]);
    let mut running = Running::logs(collector.address, timing());
    running.send(3);
    running.settled(3);
    assert_eq!(running.end(Duration::from_secs(1)), (3, 3, 0));
}

#[test]
fn metrics_wait_for_a_silent_collector_until_the_next_export_is_due() {
    let silent = FakeCollector::start(&vec![Behavior::Silent; 10]);
    let settings =
        SignalSettings { timeout: Duration::from_secs(10), ..signal(Signal::Metrics, silent.address, false) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_end, is_ending) = tokio::sync::watch::channel(false);
    let mut delivery = delivery::Delivery::new(settings, timing().retry, is_ending);
    let delivered: delivery::Delivered<()> =
        runtime.block_on(delivery.deliver(b"x".to_vec(), Some(millis(150)), "they are dropped"));
    assert_eq!(delivered, delivery::Delivered::Failed, "it returns, and reports why");
}

#[test]
fn rejected_records_are_counted() {
    for (rejected, dropped) in [(2, 2), (0, 0), (-5, 0), (i64::MAX, 3)] {
        let collector = FakeCollector::start(&[Behavior::Partial(rejected, "no\n\u{1b}[2J".to_owned())]);
        let mut running = Running::logs(collector.address, timing());
        running.send(3);
        running.settled(3);
        assert_eq!(running.end(Duration::from_secs(1)), (3, 3 - dropped, dropped), "{rejected}");
    }
}

#[test]
fn retry_after_is_respected_and_bounded() {
    for (after, least) in [(Some("1"), 1000), (None, 900), (Some("86400"), 1500)] {
        // An HTTP date has whole seconds.
        let date = || httpdate::fmt_http_date(TimeAnchor::now().wall(clock::now()) + Duration::from_secs(2));
        let after = after.map_or_else(date, str::to_owned);
        let collector = FakeCollector::start(&[Behavior::Status(503, Some(after.clone()))]);
        let mut running = Running::logs(collector.address, timing());
        let began = clock::now();
        running.send(1);
        running.settled(1);
        let took = clock::now().since(began);
        assert!(took >= millis(least) && took < Duration::from_secs(6), "{after}: {took:?}");
        assert_eq!(running.counts(), (1, 1, 0));
    }
}

#[test]
fn a_collector_that_is_killed_and_restarted_under_load_loses_nothing_silently() {
    let mut running = None;
    let mut received = BTreeSet::new();
    let (mut sent, mut address) = (0, None);
    for round in 0..4 {
        let collector = match address {
            None => FakeCollector::start(&[]),
            Some(address) => FakeCollector::start_at(address, &[Behavior::Status(503, None)]),
        };
        address = Some(collector.address);
        let running = running.get_or_insert_with(|| Running::logs(collector.address, timing()));
        for _ in 0..20 {
            running.send(10);
            sent += 10;
            std::thread::sleep(millis(5));
        }
        eventually(|| collector.received().records.len() > 20);
        received.extend(collector.stop().uids());
        // More than the queue has space for: about 1 MiB of lines.
        running.send(if round == 1 { 3000 } else { 50 });
        sent += if round == 1 { 3000 } else { 50 };
    }
    let collector = FakeCollector::start_at(address.unwrap(), &[]);
    let running = running.unwrap();
    running.settled(sent);
    let (handed_over, delivered, dropped) = running.end(Duration::from_secs(5));
    received.extend(collector.stop().uids());
    assert_eq!((handed_over, delivered + dropped), (sent, sent));
    assert!(dropped > 0, "the queue is bounded");
    assert_eq!(received.len() as u64 + dropped, sent, "every event is received or counted");
}

#[test]
fn without_a_collector_the_end_is_bounded_and_the_rest_is_counted() {
    // Nothing accepts connections there.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let silent = FakeCollector::start(&vec![Behavior::Silent; 100]);
    for address in [address, silent.address] {
        let mut running = Running::logs(address, ExportTiming { batch_delay: Duration::from_secs(60), ..timing() });
        running.send(25);
        let began = clock::now();
        assert_eq!(running.end(millis(700)), (25, 0, 25));
        let took = clock::now().since(began);
        assert!(took < millis(1500), "{took:?}");
    }
}

#[test]
fn a_request_that_nobody_takes_is_given_up() {
    let silent = FakeCollector::start(&vec![Behavior::Status(503, None); 1000]);
    let retry = RetryPolicy { max_time: millis(200), ..timing().retry };
    let mut running = Running::logs(silent.address, ExportTiming { retry, ..timing() });
    running.send(5);
    running.settled(5);
    assert_eq!(running.counts(), (5, 0, 5));
}

#[test]
fn metrics_are_exported_at_the_interval_and_at_the_end() {
    let collector = FakeCollector::start(&[Behavior::Status(503, None), Behavior::Partial(1, "one is bad".to_owned())]);
    let metrics = signal(Signal::Metrics, collector.address, false);
    let mut running = Running::new(Some(metrics), None, timing());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        while collector.received().metrics.len() < 3 {
            let request = running.exporter.request().await;
            request.answer(&running.engine);
        }
    });
    running.send(3);
    assert_eq!(running.counts(), (0, 0, 0), "no events without a collector of logs");
    assert!(running.exporter.losses().is_none());
    let before = collector.received().metrics.len();
    running.end(Duration::from_secs(2));
    let received = collector.received();
    assert!(received.metrics.len() > before, "the last numbers");
    let names: BTreeSet<_> = received.metrics.last().unwrap().iter().map(String::as_str).collect();
    assert!(names.contains("closewait.socket.count") && names.contains("closewait.dwell.duration"), "{names:?}");
    assert!(received.heads.iter().all(|head| !head.contains("content-encoding")));
}

#[test]
fn events_are_selected_as_in_the_stream() {
    let enter = Finding::Enter { at: BootTime(1), socket: socket() };
    let mut numbering = Numbering::default();
    let event = numbering.finding(&enter, TimeAnchor::booted_at(SystemTime::UNIX_EPOCH));
    assert!(ExportedEvents::All.include(&event));
    assert!(!ExportedEvents::Stuck.include(&event) && !ExportedEvents::Incidents.include(&event));
    for stuck in [false, true] {
        let leave = Finding::Leave {
            at: BootTime(1),
            socket: socket(),
            dwell: None,
            how: closewait_engine::model::ExitCause::Closed,
            closer: None,
            ended: None,
            fd_open: None,
            stuck,
            verdict: None,
        };
        let event = numbering.finding(&leave, TimeAnchor::booted_at(SystemTime::UNIX_EPOCH));
        let included = [ExportedEvents::Incidents, ExportedEvents::Stuck, ExportedEvents::All]
            .map(|events| events.include(&event));
        assert_eq!(included, [false, stuck, true]);
    }
}
