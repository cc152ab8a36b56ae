//! The one event loop of `closewait run`: sources and the clock in, engine, findings out.
//!
//! Nothing here waits for anything that a broken host can hold up: scans and inspections run on threads of their own
//! ([`crate::source::worker`]), lines are written by another ([`crate::sink::Writer`]).

mod commands;

use std::{pin::pin, time::Duration};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use self::commands::Pending;
use self::commands::{Purpose, Then};
use crate::{
    clock::{self, TimeAnchor},
    control::{Asker, Control},
    hooks::Hooks,
    logging,
    memory::{self, Peak},
    recording::RecordingEngine,
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

/// How long a wake-up waits before the ring is read. While nobody reads, the kernel wakes nobody: under load this is one
/// wake-up for some hundred records. It delays what is shown, not what is measured.
const GATHER: Duration = Duration::from_millis(10);
/// Records read before due findings get their turn.
const BATCH: usize = 16_384;
/// Pieces of scans and inspections that are taken in before the ring is read.
const ANSWERS: usize = 8;
/// Lines are handed to the writer in pieces of about this size.
const PIECE: usize = 64 * 1024;
/// Time between the end of the kernel program and that of its ring buffer: a wake-up may be under way.
const DETACHED: Duration = Duration::from_millis(50);
/// How long the agent may take after the signal: for the last records, the recording, the last lines, the end of hooks and the
/// removal of the control socket together. With the log's part after it, SIGTERM ends the agent within five seconds.
const PATIENCE: Duration = Duration::from_millis(3500);

/// Signals that end the agent.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Catches SIGINT and SIGTERM from here on.
    ///
    /// # Errors
    ///
    /// If `pthread_sigmask` or `sigaction` refuses.
    pub fn catch() -> anyhow::Result<Self> {
        // The agent's parent may have blocked them: then the agent would never end.
        signals::unblock(&[libc::SIGINT, libc::SIGTERM])?;
        let catch = |kind| signal(kind).context("sigaction failed; report this with the output of `closewait doctor`");
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    /// Returns when one of them has come.
    pub async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Everything that runs.
pub struct Runtime<S> {
    /// The kernel side.
    pub source: S,
    /// The kernel program's debug messages, if they were asked for.
    pub kernel_log: Option<KernelLog>,
    /// The engine.
    pub engine: RecordingEngine,
    /// Threads that scan and inspect.
    pub workers: Workers,
    /// What goes on beside the event loop.
    pub pending: Pending,
    /// Control socket, if it is available.
    pub control: Option<Control<Query>>,
    /// Runs a user's programs, if there are any to run.
    pub hooks: Option<Hooks>,
    /// When memory is to be given back.
    pub peak: Peak,
    /// Numbers events.
    pub numbering: Numbering,
    /// Makes lines.
    pub sink: Box<dyn Sink>,
    /// Writes lines.
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

/// The next question; never, if nobody can ask.
async fn question(control: &mut Option<Control<Query>>) -> (Query, Asker) {
    if let Some(control) = control
        && let Some(asked) = control.question().await
    {
        return asked;
    }
    std::future::pending().await
}

/// The end of what runs a user's programs; never, if there are none.
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
        piece.lines += 1;
        self.hand_over(&mut piece);
        let mut emptied = self.drain(BATCH);
        loop {
            let now = clock::now();
            self.workers.give_up(now);
            self.engine.handle_timeout(now);
            self.put_out()?;
            // What has been refreshed may make the engine want more at once.
            let has_refreshed = self.continue_refresh();
            let has_answers = self.answer_next();
            if end.is_some_and(|end| end <= now) {
                break;
            }
            let due = [self.engine.state().poll_timeout(), self.workers.deadline(), end];
            let wait = due.into_iter().flatten().min().map_or(Duration::MAX, |due| due.since(clock::now()));
            let idle = emptied && !has_refreshed && !has_answers && self.pending.is_idle();
            let may_ask = self.pending.may_ask();
            // Lets tokio look for signals. It does so only while the loop waits, and a busy loop never waits.
            tokio::task::yield_now().await;
            tokio::select! {
                biased;
                () = &mut stopped => break,
                () = self.writer.ended() => {
                    return self.finish(clock::now() + PATIENCE);
                }
                ready = self.source.ready(), if idle => {
                    ready.context("epoll_wait on the ring buffer failed; report this")?;
                    tokio::time::sleep(GATHER).await;
                }
                asked = question(&mut self.control), if may_ask => {
                    let (query, asker) = asked;
                    self.asked(query, asker);
                }
                answer = self.workers.answer() => self.take(answer),
                () = no_more_hooks(self.hooks.as_ref()) => {
                    if let Some(hooks) = self.hooks.take() {
                        hooks.lost();
                    }
                }
                () = tokio::time::sleep(wait), if idle => {}
                () = std::future::ready(()), if !idle => {}
            }
            emptied = self.drain(BATCH);
            for _ in 0..ANSWERS {
                let Some(answer) = self.workers.try_answer() else { break };
                self.take(answer);
            }
            if let Some(kernel_log) = &mut self.kernel_log {
                kernel_log.flush();
            }
        }
        let end = clock::now() + PATIENCE;
        // First nothing is written to the ring buffer any more, then it goes away (docs/kernel-safety.md).
        self.source.detach();
        tokio::time::sleep(DETACHED).await;
        // Whatever the kernel has written so far belongs to the totals.
        self.drain_all();
        self.engine.count_losses(clock::now(), logging::dropped());
        self.engine.stop();
        self.put_out()?;
        self.finish(end)
    }

    /// Waits until everything is written and hooks have ended, at most until `end`.
    fn finish(mut self, end: BootTime) -> anyhow::Result<()> {
        // Everybody is told before anybody is waited for.
        if let Some(hooks) = &mut self.hooks {
            hooks.close();
        }
        if let Some(control) = &mut self.control {
            control.close();
        }
        self.writer.close();
        self.finish_recording(end.since(clock::now()));
        let written = self.writer.finish(end.since(clock::now())).context("writing standard output failed");
        if let Some(hooks) = self.hooks {
            hooks.finish(end.since(clock::now()));
        }
        if let Some(control) = self.control {
            control.finish(end.since(clock::now()));
        }
        written
    }

    /// Hands up to `limit` records to the engine. Returns whether the ring was emptied.
    fn drain(&mut self, limit: usize) -> bool {
        let Self { source, engine, .. } = self;
        source.drain(limit, |bytes| engine.record(bytes))
    }

    /// Hands all records that are in the ring buffer now to the engine. Not those that come meanwhile: they may come faster than
    /// they are taken.
    fn drain_all(&mut self) {
        let _emptied = self.drain(self.source.capacity());
    }

    /// Does all that the engine wants done.
    fn put_out(&mut self) -> anyhow::Result<()> {
        let mut piece = PendingLines::default();
        let anchor = TimeAnchor::now();
        self.engine.anchored(anchor);
        let mut findings = 0;
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Finding(finding) => {
                    findings += 1;
                    if let Some((level, line)) = histogram_line(&finding) {
                        log::log!(level, "{line}");
                    }
                    if let Finding::Histogram { at, scope: Scope::All, .. } = &finding {
                        self.source.keep_reported(*at, self.engine.state().counters())?;
                    }
                    let event = self.numbering.finding(&finding, anchor);
                    if let Some(hooks) = &mut self.hooks {
                        hooks.finding(&finding, &event, clock::now());
                    }
                    let before = piece.bytes.len();
                    self.sink.event(&event, &mut piece.bytes).context("writing a finding failed")?;
                    piece.lines += u64::from(piece.bytes.len() > before);
                    if piece.bytes.len() >= PIECE {
                        self.hand_over(&mut piece);
                    }
                }
                Output::RefreshLingering(keys) => self.refresh(keys, RefreshKind::Lingering, Then::Nothing),
                Output::Refresh(keys) => {
                    self.engine.notice_suspends();
                    // An inspection begins; what was done for questions is none of its cost.
                    self.pending.worked = Duration::ZERO;
                    self.refresh(keys, RefreshKind::Waiting, Then::All);
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
                    self.refresh(keys, RefreshKind::Waiting, Then::Suspects { lost });
                }
                Output::WatchPorts(ports) => self.watch_ports(&ports),
                Output::Forget(entries) => {
                    self.source.forget(&entries).context("removing times of entry from the kernel's map failed")?;
                }
                Output::ReadCounters => {
                    let counters = Box::new(self.counters());
                    self.engine.count_losses(clock::now(), logging::dropped());
                    self.engine.handle(Observation::Counters { at: clock::now(), counters });
                    if self.peak.is_over(self.engine.state().totals().tracked) {
                        memory::give_back();
                    }
                }
            }
        }
        self.hand_over(&mut piece);
        if memory::is_much(findings) {
            memory::give_back();
        }
        Ok(())
    }

    /// What was seen was seen, whatever becomes of the recording.
    fn finish_recording(&mut self, patience: Duration) {
        if let Err(error) = self.engine.finish(patience) {
            log::error!("the recording has no end: {error:#}");
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
