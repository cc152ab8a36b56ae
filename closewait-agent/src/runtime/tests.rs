//! Event loop with fake records and jobs that need neither a kernel program nor root.

mod abandoning;
mod answering;
mod deferring;
mod refreshing;

use std::{
    cell::{RefCell, RefMut},
    collections::VecDeque,
    fs,
    io::{self, BufRead as _, BufReader, PipeReader, PipeWriter},
    path::{Path, PathBuf},
    process,
    rc::Rc,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use closewait_common::{
    Record,
    record::kind,
    tcp::{RCV_SHUTDOWN, SEND_SHUTDOWN, state},
};
use serde_json::Value;
use tokio::sync::{Notify, oneshot};

use super::*;
use crate::{
    control::{self, EventLog, ask},
    sink::{
        answer::{AnswerError, AnswerHeader, AnswerItem, ItemFrame},
        json::Json,
    },
    source::{
        program::{KernelProgramError, Refreshed},
        scanner::ScanItem,
        worker::{Job, Outbox},
    },
};
use closewait_engine::{
    Config, Engine, Events,
    decode::Decoder,
    model::{Counters, PassedSockets, PileupGroup, PortCloses, Role, ScanEnd, ScanFact, Since, SocketKey, WatchedPort},
    snapshot::query::{Filter, ListContent},
    testing,
};

/// Time after which a waiting test fails.
const LIMIT: Duration = Duration::from_secs(20);
/// Number of records that fit into the fake source.
const CAPACITY: usize = 64;
const ADDRESS: u64 = 0xffff_8880_0000_1000;

/// Source of records that a test fills.
#[derive(Clone, Default)]
struct FakeSource {
    state: Rc<RefCell<FakeState>>,
    wakeup: Rc<Notify>,
}

#[derive(Default)]
struct FakeState {
    records: VecDeque<Vec<u8>>,
    /// Whether each read leaves more records.
    endless: bool,
    /// Number of reads.
    reads: u64,
    counters: Counters,
    /// Whether the records of entries are deferred.
    defers: bool,
    /// Deferred records, with the times of the entries, oldest first.
    unannounced: VecDeque<(BootTime, Vec<u8>)>,
    /// Counts of sockets without records.
    passed: Vec<PassedSockets>,
    /// Whether the kernel may count sockets, of each time the counts were taken.
    may_count: Vec<bool>,
    /// Number of records that the kernel drops during each refresh.
    lost_by_refresh: u64,
    /// Record that the kernel program writes while it is being detached.
    last: Option<Vec<u8>>,
    refreshed: Vec<SocketKey>,
    /// Largest number of sockets of a refresh.
    most_refreshed: usize,
    /// Number of records of refreshes that the source hides.
    hidden: u64,
    forgotten: Vec<(SocketKey, BootTime)>,
    detached: bool,
}

impl FakeSource {
    fn state(&self) -> RefMut<'_, FakeState> {
        self.state.borrow_mut()
    }

    fn write(&self, records: impl IntoIterator<Item = Vec<u8>>) {
        self.state().records.extend(records);
        self.wakeup.notify_one();
    }
}

impl RecordSource for FakeSource {
    async fn ready(&self) -> io::Result<()> {
        self.wakeup.notified().await;
        Ok(())
    }

    fn drain(&mut self, limit: usize, mut each: impl FnMut(&[u8])) -> bool {
        let mut state = self.state();
        state.reads += 1;
        if state.endless {
            state.records.extend([enter(7), leave(7)]);
        }
        let count = limit.min(state.records.len());
        state.records.drain(..count).for_each(|record| each(&record));
        state.records.is_empty() && !state.endless
    }

    fn capacity(&self) -> usize {
        CAPACITY
    }

    fn refresh(&mut self, keys: &[SocketKey], _kind: RefreshKind, _: impl Fn(SocketKey) -> bool) -> Refreshed {
        let mut state = self.state();
        state.refreshed.extend(keys);
        state.most_refreshed = state.most_refreshed.max(keys.len());
        state.counters.ring_full += state.lost_by_refresh;
        Refreshed { complete: true, written: 0, unchanged: Vec::new() }
    }

    fn hidden_refreshes(&self) -> u64 {
        self.state().hidden
    }

    fn forget_hidden_refreshes(&mut self) {
        self.state().hidden = 0;
    }

    fn records_handled(&mut self, _has: impl Fn(SocketKey, BootTime) -> bool) {}

    fn defers(&self) -> bool {
        self.state().defers
    }

    fn announce(&mut self, until: BootTime) -> bool {
        let mut state = self.state();
        let count = state.unannounced.partition_point(|(entered, _)| *entered <= until);
        let records: Vec<_> = state.unannounced.drain(..count).map(|(_, record)| record).collect();
        state.records.extend(records);
        true
    }

    fn take_passed(&mut self, _now: BootTime, may_count: bool) -> Vec<PassedSockets> {
        let mut state = self.state();
        state.may_count.push(may_count);
        std::mem::take(&mut state.passed)
    }

    fn counters(&self) -> Result<Counters, KernelProgramError> {
        Ok(self.state().counters.clone())
    }

    fn forget(&mut self, entries: &[(SocketKey, BootTime)]) -> Result<(), KernelProgramError> {
        self.state().forgotten.extend(entries);
        Ok(())
    }

    fn keep_reported(&mut self, _at: BootTime, _counters: &Counters) -> Result<(), KernelProgramError> {
        Ok(())
    }

    fn watch_ports(&mut self, _ports: &[WatchedPort]) -> Result<(), KernelProgramError> {
        Ok(())
    }

    fn closes(&self, _ports: &[WatchedPort]) -> Result<Vec<PortCloses>, KernelProgramError> {
        Ok(Vec::new())
    }

    fn detach(&mut self) {
        let mut state = self.state();
        state.detached = true;
        let last = state.last.take();
        state.records.extend(last);
    }
}

fn key(number: u16) -> SocketKey {
    SocketKey(ADDRESS + u64::from(number) * 0x1000)
}

/// Returns a record of a socket with this number as its remote port.
fn record(number: u16, change: Record) -> Vec<u8> {
    let now = clock::now().0;
    let entered_ns = if change.entered_ns == 0 { now } else { change.entered_ns };
    let SocketKey(sk) = key(number);
    testing::record_bytes(&Record { remote_port: number, sk, time_ns: now, entered_ns, ..change })
}

fn enter(number: u16) -> Vec<u8> {
    record(number, Record { entered_ns: 0, ..testing::record() })
}

fn leave(number: u16) -> Vec<u8> {
    let (kind, shutdown) = (kind::LEAVE, RCV_SHUTDOWN | SEND_SHUTDOWN);
    let (old_state, new_state) = (state::CLOSE_WAIT, state::LAST_ACK);
    record(number, Record { kind, shutdown, old_state, new_state, entered_ns: 0, ..testing::record() })
}

/// Lines of the agent, as they arrive.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Value>>>);

impl Lines {
    fn read(from: PipeReader) -> Self {
        let lines = Self::default();
        let shared = Arc::clone(&lines.0);
        thread::spawn(move || {
            for line in BufReader::new(from).lines() {
                let event = serde_json::from_str(&line.unwrap()).unwrap();
                tests_support::schema::check_event(&event);
                shared.lock().unwrap().push(event);
            }
        });
        lines
    }

    fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until there are this many events of this type.
    async fn wait_for(&self, event: &str, count: usize) {
        let has_come = || self.all().iter().filter(|line| line["event"] == event).count() >= count;
        wait_until(&format!("{count} events {event}"), has_come).await;
    }
}

async fn wait_until(what: &str, is_true: impl Fn() -> bool) {
    let began = clock::now();
    while !is_true() {
        assert!(clock::now().since(began) < LIMIT, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Returns the types of events with the remote port of their socket.
fn kinds(events: &[Value]) -> Vec<(String, Option<u64>)> {
    let kind =
        |event: &Value| (event["event"].as_str().unwrap().to_owned(), event["socket"]["remote"]["port"].as_u64());
    events.iter().map(kind).collect()
}

fn config() -> Config {
    Config { events: Events::All, histogram_every: Duration::from_secs(3600), ..Config::default() }
}

/// Finds nothing in a job.
fn nothing(_job: Job, _decoder: Decoder, to: &mut Outbox<'_>) -> Vec<String> {
    to.put(ScanItem::fact(ScanEnd::Descriptors { began: clock::now(), blind: None, saw_listeners: true }));
    Vec::new()
}

/// Finds nothing in an inspection.
fn no_inspection(_work: Option<(Job, &mut Outbox<'_>)>) -> Vec<String> {
    Vec::new()
}

/// Returns an agent on `source`.
fn agent(
    source: &FakeSource,
    config: Config,
    workers: Workers,
    socket: Option<&Path>,
    writer: PipeWriter,
) -> Runtime<FakeSource> {
    let decoder = Decoder { tick: Duration::from_millis(4), suspended: Duration::ZERO };
    Runtime {
        source: source.clone(),
        kernel_log: None,
        engine: RecordingEngine::new(Engine::new(config, clock::now()), decoder, None),
        workers,
        pending: Pending::default(),
        control: socket.map(|path| Control::listen(path, control::MAX_BYTES_IN_FLIGHT).unwrap()),
        metrics: None,
        otlp: None,
        journal_refused: None,
        events: EventLog::new(1 << 20),
        service: AgentService::default(),
        hooks: None,
        peak: Peak::default(),
        numbering: Numbering::default(),
        sink: Box::new(Json::default()),
        writer: Writer::new(writer, 1 << 20).unwrap(),
    }
}

/// Runs an agent on `source` until `drive` has returned and it has ended. Returns its events.
fn run(
    source: &FakeSource,
    config: Config,
    workers: Workers,
    socket: Option<&Path>,
    drive: impl AsyncFnOnce(&Lines),
) -> Vec<Value> {
    run_changed(source, config, workers, socket, |_runtime| (), drive)
}

/// Runs an agent as [`run`] does, after `change` of its parts.
fn run_changed(
    source: &FakeSource,
    config: Config,
    workers: Workers,
    socket: Option<&Path>,
    change: impl FnOnce(&mut Runtime<FakeSource>),
    drive: impl AsyncFnOnce(&Lines),
) -> Vec<Value> {
    let (reader, writer) = io::pipe().unwrap();
    let lines = Lines::read(reader);
    let start = Start {
        at: clock::now(),
        version: "0.1.0".to_owned(),
        kernel: None,
        hook: "tp_btf".to_owned(),
        max_sockets: 1,
        max_tracked: 1,
        ring_buffer_bytes: 1,
        pinned: None,
        stuck_after: config.stuck_after,
        degraded: Vec::new(),
    };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let mut runtime = agent(source, config, workers, socket, writer);
        change(&mut runtime);
        let (stop, stopped) = oneshot::channel();
        let stopped = async { stopped.await.unwrap() };
        let driving = async {
            drive(&lines).await;
            stop.send(()).unwrap();
        };
        let both = async { tokio::join!(runtime.run(&start, stopped, None), driving) };
        let (ended, ()) = tokio::time::timeout(2 * LIMIT, both).await.expect("the agent ends");
        ended.unwrap();
        lines.wait_for("stop", 1).await;
    });
    lines.all()
}

fn no_jobs() -> Workers {
    Workers::start_with(nothing, no_inspection, LIMIT).unwrap()
}

/// Returns a path for a control socket.
fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("closewait-runtime-{}-{name}", process::id()))
}

/// Returns the header of an agent's answer, and the number of its sockets.
fn list(path: &Path) -> (AnswerHeader, usize) {
    let query = Query::List { filter: Filter::default(), content: ListContent::Sockets };
    let (mut header, mut rows) = (None, 0);
    let asked = ask(path, &query, |frame| {
        let each = |item| {
            if let AnswerItem::Header(one) = item {
                header = Some(one);
            } else if let AnswerItem::Row(_) = item {
                rows += 1;
            }
            Ok::<(), AnswerError>(())
        };
        ItemFrame::decode(frame, each).map_err(|error| error.to_string())
    });
    assert!(asked.unwrap(), "an agent listens");
    (header.unwrap(), rows)
}

#[test]
fn findings_come_in_the_order_of_records() {
    let source = FakeSource::default();
    // Before the loop begins, and while it waits.
    source.write([enter(1), enter(2)]);
    let events = run(&source, config(), no_jobs(), None, async |lines| {
        lines.wait_for("enter", 2).await;
        source.write([leave(2), enter(3), leave(1), leave(3)]);
        lines.wait_for("leave", 3).await;
    });
    let order = [("enter", 1), ("enter", 2), ("leave", 2), ("enter", 3), ("leave", 1), ("leave", 3)];
    let wanted: Vec<_> = [("start".to_owned(), None)]
        .into_iter()
        .chain(order.map(|(event, port)| (event.to_owned(), Some(port))))
        .chain(["histogram", "histogram", "stop"].map(|event| (event.to_owned(), None)))
        .collect();
    assert_eq!(kinds(&events), wanted);
    let numbers: Vec<_> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "{numbers:?}");
}

#[test]
fn many_findings_take_many_turns() {
    let (source, sockets) = (FakeSource::default(), 1200);
    let (_reader, writer) = io::pipe().unwrap();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _tokio = tokio.enter();
    let mut agent = agent(&source, config(), no_jobs(), None, writer);
    (1..=sockets).for_each(|number| agent.engine.record(&enter(number)));
    let mut turns = Vec::new();
    loop {
        let OutputTurn { findings, has_more } = agent.put_out(MAX_FINDINGS).unwrap();
        assert!(findings <= MAX_FINDINGS);
        turns.push(findings);
        if !has_more {
            break;
        }
    }
    assert_eq!((turns.len(), turns.iter().sum()), (5, u64::from(sockets)), "{turns:?}");
}

#[test]
fn what_was_written_until_the_detach_is_in_the_output_of_an_agent_that_is_stopped() {
    let source = FakeSource::default();
    let events = run(&source, config(), no_jobs(), None, async |lines| {
        lines.wait_for("start", 1).await;
        // Nothing wakes the loop up for these, and the last one comes after the signal.
        let mut state = source.state();
        state.records.push_back(enter(1));
        state.last = Some(leave(1));
        state.counters.entered = 1;
    });
    assert!(source.state().detached);
    let kinds = kinds(&events);
    let kinds: Vec<_> = kinds.iter().map(|(event, _port)| event.as_str()).collect();
    assert_eq!(kinds, ["start", "enter", "leave", "histogram", "histogram", "stop"]);
    assert_eq!(events[5]["totals"]["entered"], 1, "the counters were read again");
}

#[test]
fn an_agent_is_stopped_while_records_come_without_an_end() {
    let source = FakeSource::default();
    source.state().endless = true;
    let events = run(&source, config(), no_jobs(), None, async |lines| lines.wait_for("leave", 3).await);
    assert_eq!(events.last().unwrap()["event"], "stop");
}
