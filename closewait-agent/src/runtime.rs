//! Event loop of `closewait run`: input from sources and the clock, and output of the engine's findings.
//!
//! Nothing here waits for anything that a broken host can block: scans and inspections run on their own threads
//! ([`crate::source::worker`]), and another one writes the lines ([`crate::sink::Writer`]).

mod announcements;
mod answers;
mod commands;
mod hangup;
mod service;
mod turns;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use self::{
    announcements::MIN_DEFERRING,
    commands::Pending,
    hangup::{Hangup, Hangups},
    service::{AgentService, ReadAgain, Reloaded},
};
use self::{
    commands::{AfterRefresh, Purpose},
    turns::LoopTurns,
};
use crate::{
    clock::{self, TimeAnchor},
    control::{Control, EventLog, QueryClient},
    hooks::Hooks,
    host::error_text::with_hints,
    logging,
    memory::{self, Peak},
    metrics::{MetricsRequest, MetricsServer},
    otlp::OtlpExporter,
    recording::{DroppedCounts, RecordingEngine},
    signals,
    sink::{Backlog, Numbering, Sink, Start, Writer, text::histogram_line},
    source::{
        program::RefreshKind,
        records::RecordSource,
        worker::{Job, Workers},
    },
};
use closewait_engine::{
    model::{Finding, Observation, Output, Scope},
    snapshot::query::Query,
    time::BootTime,
};

/// Delay between a wake-up and the read of the ring. Without a waiting reader the kernel sends no wake-ups: under
/// load there is one for some hundred records. It delays the output, not the measurement.
const GATHER_DELAY: Duration = Duration::from_millis(10);
/// Maximum number of records to read before due findings get their turn.
const MAX_RECORDS: usize = 16_384;
/// Maximum number of pieces of scans and inspections to handle before the ring is read.
const MAX_PIECES: usize = 8;
/// Approximate size of the pieces of lines for the writer, bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// Time between the end of the kernel program and that of its ring buffer: a wake-up may be in progress.
const DETACH_DELAY: Duration = Duration::from_millis(50);
/// Maximum time for the agent to end after the signal: for the last records, the recording, the last lines, the end
/// of hooks and the removal of the control socket together. With the log's part after it, SIGTERM ends the agent
/// within five seconds.
const PATIENCE: Duration = Duration::from_millis(3500);

/// Maximum number of findings in a turn of the loop: some milliseconds.
const MAX_FINDINGS: u64 = 256;
/// Context of an error of the lines or the journal's entries.
const UNWRITTEN: &str =
    "writing the events failed\nhint: check the disk, or the program that reads standard output or the journal";
/// Context of an error of an event to export.
const EXPORT_FAILED: &str = "writing an event as JSON failed";
/// Maximum time for clients to read the last events.
const EVENTS_PATIENCE: Duration = Duration::from_millis(300);

/// Signals that end the agent.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangups: Hangups,
}

impl Signals {
    /// Catches SIGINT, SIGTERM and SIGHUP from now on.
    ///
    /// # Errors
    ///
    /// If `pthread_sigmask` or `sigaction` refuses.
    pub fn catch() -> anyhow::Result<Self> {
        // The agent's parent may have blocked them: then the agent would never end.
        signals::unblock(&[libc::SIGINT, libc::SIGTERM])?;
        let catch =
            |kind| signal(kind).context("sigaction failed\nhint: report this with the output of `closewait doctor`");
        let hangups = Hangups::catch()?;
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())?, hangups })
    }

    /// Returns when one of them has arrived that ends the agent.
    pub async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = async { while self.hangups.next().await == Hangup::Reload {} } => {}
        }
    }

    /// Returns a listener for SIGHUP, which gets all since [`Signals::catch`].
    ///
    /// # Errors
    ///
    /// If `sigaction` refuses.
    pub fn hangups(&self) -> anyhow::Result<Hangups> {
        self.hangups.another()
    }
}

/// All parts of a running agent.
pub struct Runtime<S> {
    /// Kernel side.
    pub source: S,
    /// Debug messages of the kernel program, if the user requested them.
    pub kernel_log: Option<KernelLog>,
    /// The engine.
    pub engine: RecordingEngine,
    /// Threads that scan and inspect.
    pub workers: Workers,
    /// Work beside the event loop.
    pub pending: Pending,
    /// Control socket, if it is available.
    pub control: Option<Control<Query>>,
    /// HTTP server of metrics, if the user requested it.
    pub metrics: Option<MetricsServer>,
    /// Export over OTLP, if the user requested it.
    pub otlp: Option<OtlpExporter>,
    /// Count of entries that the journal refused; `None` if the journal gets none.
    pub journal_refused: Option<Arc<AtomicU64>>,
    /// Recent events, for clients that follow them.
    pub events: EventLog,
    /// Service manager and configuration.
    pub service: AgentService,
    /// Hooks, if the user configured any.
    pub hooks: Option<Hooks>,
    /// Detector of peaks, after which memory is released.
    pub peak: Peak,
    /// Numbers of events.
    pub numbering: Numbering,
    /// Format of lines.
    pub sink: Box<dyn Sink>,
    /// Writer of lines.
    pub writer: Writer,
}

/// aya-log's reader.
pub type KernelLog = aya_log::EbpfLogger<&'static dyn log::Log>;

/// Output lines that wait to be handed to the writer.
#[derive(Default)]
struct PendingLines {
    bytes: Vec<u8>,
    lines: u64,
}

/// Output of the engine in a turn of the loop.
#[derive(Clone, Copy, Debug, Default)]
struct OutputTurn {
    findings: u64,
    /// Whether the engine may have more output.
    has_more: bool,
}

/// Returns the next query; never, without a control socket.
async fn question(control: &mut Option<Control<Query>>) -> (Query, QueryClient) {
    if let Some(control) = control
        && let Some(asked) = control.question().await
    {
        return asked;
    }
    std::future::pending().await
}

/// Returns the next request for metrics; never, without a server.
async fn metrics_request(metrics: &mut Option<MetricsServer>) -> MetricsRequest {
    match metrics {
        Some(metrics) => metrics.request().await,
        None => std::future::pending().await,
    }
}

/// Returns the next request for metrics to export; never, without an export.
async fn export_request(otlp: &mut Option<OtlpExporter>) -> MetricsRequest {
    match otlp {
        Some(otlp) => otlp.request().await,
        None => std::future::pending().await,
    }
}

/// Returns when the hook helper has ended; never, without one.
async fn no_more_hooks(hooks: Option<&Hooks>) {
    match hooks {
        Some(hooks) => hooks.ended().await,
        None => std::future::pending().await,
    }
}

impl<S: RecordSource> Runtime<S> {
    /// Runs until `stopped` returns, until `end` if there is one, or until the reader closes standard output.
    ///
    /// # Errors
    ///
    /// If the kernel's counters cannot be read or standard output cannot be written.
    pub async fn run(
        mut self,
        start: &Start,
        stopped: impl Future<Output = ()>,
        end: Option<BootTime>,
    ) -> anyhow::Result<()> {
        let mut stopped = pin!(stopped);
        let mut piece = PendingLines::default();
        let anchor = TimeAnchor::now();
        self.engine.anchored(anchor);
        self.engine.started(start);
        let event = self.numbering.start(start, anchor);
        self.sink.event(&event, &mut piece.bytes).context("writing the start failed")?;
        commands::store(&self.events, &event)?;
        if let Some(otlp) = &mut self.otlp {
            otlp.event(&event).context(EXPORT_FAILED)?;
        }
        piece.lines += 1;
        self.hand_over(&mut piece);
        let mut emptied = self.drain(MAX_RECORDS);
        self.announce_adopted();
        self.service.started(clock::now());
        let mut turns = LoopTurns::begin();
        // Findings since the engine had no output.
        let mut findings = 0;
        loop {
            let now = clock::now();
            self.workers.abandon(now);
            self.announce_due(now);
            self.engine.handle_timeout(now);
            let output = self.put_out(MAX_FINDINGS)?;
            findings += output.findings;
            if !output.has_more && memory::is_much(std::mem::take(&mut findings)) {
                memory::release_free_memory();
            }
            // After a refresh, the engine may have more output at once.
            let has_refreshed = self.continue_refresh();
            let has_answers = self.answer_next();
            self.alive();
            if end.is_some_and(|end| end <= now) {
                break;
            }
            let (engine, entries) = (self.engine.state().poll_timeout(), self.next_announcement());
            let due = [engine, entries, self.workers.deadline(), self.service.deadline(now), end];
            let wait = due.into_iter().flatten().min().map_or(Duration::MAX, |due| due.since(clock::now()));
            let idle = emptied && !output.has_more && !has_refreshed && !has_answers && self.pending.is_idle();
            let may_ask = self.pending.may_ask();
            turns.ended();
            // Lets tokio check for signals. It does so only while the loop waits, and a busy loop never waits.
            tokio::task::yield_now().await;
            tokio::select! {
                biased;
                () = &mut stopped => break,
                () = self.writer.ended() => {
                    self.service.stopping();
                    self.end_events().await;
                    return self.finish(clock::now() + PATIENCE);
                }
                ready = self.source.ready(), if idle => {
                    ready.context("epoll_wait on the ring buffer failed\nhint: report this with the output of `closewait doctor`")?;
                    tokio::time::sleep(GATHER_DELAY).await;
                }
                asked = question(&mut self.control), if may_ask => {
                    let (query, client) = asked;
                    self.asked(query, client);
                }
                request = metrics_request(&mut self.metrics) => {
                    self.announce_all();
                    request.answer(self.engine.state());
                }
                request = export_request(&mut self.otlp) => {
                    self.announce_all();
                    request.answer(self.engine.state());
                }
                event = self.service.event() => self.service_event(event),
                answer = self.workers.answer() => self.take(answer),
                () = self.pending.answering.done() => {}
                () = no_more_hooks(self.hooks.as_ref()) => {
                    if let Some(hooks) = self.hooks.take() {
                        hooks.lost();
                    }
                }
                () = tokio::time::sleep(wait), if idle => {}
                () = std::future::ready(()), if !idle => {}
            }
            emptied = self.drain(MAX_RECORDS);
            for _ in 0..MAX_PIECES {
                let Some(answer) = self.workers.try_answer() else { break };
                self.take(answer);
            }
            if let Some(kernel_log) = &mut self.kernel_log {
                kernel_log.flush();
            }
        }
        self.service.stopping();
        let end = clock::now() + PATIENCE;
        // The kernel program detaches before the ring buffer is freed (docs/kernel-safety.md).
        self.source.detach();
        tokio::time::sleep(DETACH_DELAY).await;
        // The totals include all sockets so far.
        self.announce_all();
        self.drain_all();
        self.count_losses();
        self.engine.stop();
        self.put_out(u64::MAX)?;
        self.end_events().await;
        self.finish(end)
    }

    /// Ends the stream of events, and sends the rest to its clients.
    async fn end_events(&self) {
        self.events.end();
        self.events.drained(EVENTS_PATIENCE).await;
    }

    /// Waits until everything is written and hooks have ended, at most until `end`.
    fn finish(mut self, end: BootTime) -> anyhow::Result<()> {
        // All closings start before the first wait.
        if let Some(hooks) = &mut self.hooks {
            hooks.close();
        }
        if let Some(control) = &mut self.control {
            control.close();
        }
        if let Some(metrics) = &mut self.metrics {
            metrics.close();
        }
        if let Some(otlp) = &mut self.otlp {
            otlp.close(self.engine.state(), end.since(clock::now()));
        }
        self.writer.close();
        self.finish_recording(end.since(clock::now()));
        let written = self.writer.finish(end.since(clock::now())).context(UNWRITTEN);
        if let Some(hooks) = self.hooks {
            hooks.finish(end.since(clock::now()));
        }
        if let Some(control) = self.control {
            control.finish(end.since(clock::now()));
        }
        if let Some(metrics) = self.metrics {
            metrics.finish(end.since(clock::now()));
        }
        if let Some(otlp) = self.otlp {
            otlp.finish(end.since(clock::now()));
        }
        written
    }

    /// Hands up to `limit` records to the engine. Returns whether the ring is empty.
    fn drain(&mut self, limit: usize) -> bool {
        let Self { source, engine, pending, .. } = self;
        source.drain(limit, |bytes| {
            pending.is_busy = true;
            engine.record(bytes);
        })
    }

    /// Hands all records that are in the ring buffer now to the engine. Excludes later ones: they may arrive faster
    /// than the engine handles them.
    fn drain_all(&mut self) {
        let _emptied = self.drain(self.source.capacity());
    }

    /// Executes pending output of the engine, with at most `max_findings`: records, queries and scrapes do not wait for thousands of
    /// findings.
    fn put_out(&mut self, max_findings: u64) -> anyhow::Result<OutputTurn> {
        let mut piece = PendingLines::default();
        let anchor = TimeAnchor::now();
        self.engine.anchored(anchor);
        let mut turn = OutputTurn::default();
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Finding(finding) => {
                    turn.findings += 1;
                    if let Some((level, line)) = histogram_line(&finding) {
                        log::log!(level, "{line}");
                    }
                    if let Finding::Histogram { at, scope: Scope::All, .. } = &finding {
                        self.source.keep_reported(*at, self.engine.state().counters())?;
                    }
                    let shown = self.sink.shows(&finding);
                    let numbering = &mut self.numbering;
                    let event =
                        if shown { numbering.finding(&finding, anchor) } else { numbering.hidden(&finding, anchor) };
                    if let Some(hooks) = &mut self.hooks {
                        hooks.finding(&finding, &event, clock::now());
                    }
                    commands::store(&self.events, &event)?;
                    if let Some(otlp) = &mut self.otlp {
                        otlp.event(&event).context(EXPORT_FAILED)?;
                    }
                    if shown {
                        let before = piece.bytes.len();
                        self.sink.event(&event, &mut piece.bytes).context("writing a finding failed")?;
                        piece.lines += u64::from(piece.bytes.len() > before);
                    }
                    if piece.bytes.len() >= PIECE_BYTES {
                        self.hand_over(&mut piece);
                    }
                }
                Output::StillStuck { at, counts } => {
                    let before = piece.bytes.len();
                    self.sink.still_stuck(at, counts, anchor, &mut piece.bytes);
                    piece.lines += u64::from(piece.bytes.len() > before);
                }
                Output::RefreshLingering(keys) => {
                    let lost = self.lost();
                    self.refresh(keys, RefreshKind::Lingering, AfterRefresh::Lingering { lost });
                }
                Output::Refresh(keys) => {
                    self.engine.notice_suspends();
                    // An inspection begins; earlier work for queries is not part of its cost.
                    self.pending.worked = Duration::ZERO;
                    self.refresh(keys, RefreshKind::Waiting, AfterRefresh::All);
                }
                Output::ScanOwners { known } => {
                    self.begin(Job::Owners { known }, Purpose::Owners);
                }
                Output::Query(command) => self.query_command(command),
                Output::InspectOwners(request) => {
                    self.read_closes(&request.closes_of);
                    self.begin(Job::Inspect(Box::new(request)), Purpose::Inspection);
                }
                Output::Audit { sweep } => {
                    self.begin(Job::Everything { sweep }, Purpose::Audit);
                }
                Output::RefreshSuspects(keys) => {
                    let lost = self.lost();
                    self.refresh(keys, RefreshKind::Waiting, AfterRefresh::Suspects { lost });
                }
                Output::WatchPorts(ports) => self.watch_ports(&ports),
                Output::Forget(entries) => {
                    self.source.forget(&entries).context("removing times of entry from the kernel's map failed")?;
                }
                Output::ReadCounters => {
                    let counters = Box::new(self.counters());
                    self.count_losses();
                    self.engine.handle(Observation::Counters { at: clock::now(), counters });
                    if self.peak.is_over(self.engine.state().totals().tracked) {
                        memory::release_free_memory();
                    }
                }
            }
            if turn.findings >= max_findings {
                turn.has_more = true;
                break;
            }
        }
        self.hand_over(&mut piece);
        Ok(turn)
    }

    /// Tells the engine what other parts of the agent have dropped.
    fn count_losses(&mut self) {
        let dropped = DroppedCounts {
            log_lines: logging::dropped(),
            unexported: self.otlp.as_ref().map_or(0, OtlpExporter::dropped),
            refused: self.journal_refused.as_ref().map_or(0, |refused| refused.load(Ordering::Acquire)),
        };
        self.engine.count_losses(clock::now(), dropped);
    }

    /// Ends the recording. Its failure does not affect the output.
    fn finish_recording(&mut self, patience: Duration) {
        if let Err(error) = self.engine.finish(patience) {
            log::error!("the recording has no end: {}", with_hints(&error));
        }
    }

    fn hand_over(&mut self, piece: &mut PendingLines) {
        let PendingLines { bytes, lines } = std::mem::take(piece);
        let recorded = self.engine.handing_out();
        if lines > 0 && self.writer.send_after(bytes, recorded) == Backlog::Full {
            self.engine.unwritten(clock::now(), lines);
        }
    }
}

#[cfg(test)]
mod tests;
