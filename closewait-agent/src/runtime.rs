//! The one event loop of `closewait run`: sources and the clock in, engine, findings out.

use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    clock::{self, TimeAnchor},
    control::{Asker, Control},
    engine::{
        model::{Finding, Inquiry, Observation, Output, Scope, SocketKey},
        query::Query,
        time::Boot,
    },
    hooks::Hooks,
    intake::Intake,
    logging,
    memory::{self, Peak},
    sink::{self, Backlog, Sink, Start, Writer, text::histogram_line},
    source::{
        inquiry::Inquirer,
        processes::Sampling,
        program::{LookFor, Programs},
        ring::RingReader,
        walk,
    },
};

/// How long a wake-up waits before the ring is read. While nobody reads, the kernel wakes nobody: under load this is one
/// wake-up for some hundred records. It delays what is shown, not what is measured.
const GATHER: Duration = Duration::from_millis(10);
/// Records read before due findings get their turn.
const BATCH: usize = 16_384;
/// Sockets looked at before the ring is read.
const LOOKS: usize = 1024;
/// The time between two looks at what processes do: a thread's time on a CPU is told in ticks.
const WINDOW: Duration = Duration::from_millis(100);
/// Lines are handed to the writer in pieces of about this size.
const PIECE: usize = 64 * 1024;
/// How long everything that is written at the end may take together: the recording, the last lines and the end of hooks.
/// With the log's part after it, SIGTERM ends the agent within five seconds.
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
    /// If `sigaction` refuses.
    pub fn catch() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("sigaction failed; report this with the output of `closewait doctor`");
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }
}

/// Everything that runs.
pub struct Runtime {
    /// The kernel programs, attached.
    pub programs: Programs,
    /// What the tracepoint's program writes to.
    pub ring: RingReader,
    /// The kernel program's debug messages, if they were asked for.
    pub kernel_log: Option<KernelLog>,
    /// The engine.
    pub intake: Intake,
    /// Looks at owners.
    pub inquirer: Inquirer,
    /// What processes do is looked at twice; this is the first look.
    pub sampling: Option<Sampling>,
    /// How long the inspection that goes on has taken.
    pub worked: Duration,
    /// Where `closewait list` asks, if anybody can.
    pub control: Option<Control<Query>>,
    /// Runs a user's programs, if there are any to run.
    pub hooks: Option<Hooks>,
    /// When memory is to be given back.
    pub peak: Peak,
    /// Makes lines.
    pub sink: Box<dyn Sink>,
    /// Writes lines.
    pub writer: Writer,
}

/// aya-log's reader.
pub type KernelLog = aya_log::EbpfLogger<&'static dyn log::Log>;

/// Lines that wait to be handed to the writer.
#[derive(Default)]
struct Piece {
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

impl Runtime {
    /// Runs until a signal, until `end` if there is one, or until nobody reads standard output any more.
    ///
    /// # Errors
    ///
    /// If the kernel's counters cannot be read or standard output cannot be written.
    pub async fn run(mut self, start: &Start, mut signals: Signals, end: Option<Boot>) -> anyhow::Result<()> {
        let mut piece = Piece::default();
        let anchor = TimeAnchor::now();
        self.intake.engine.anchored(anchor);
        self.intake.engine.started(start);
        self.sink.start(start, anchor, &mut piece.bytes).context("writing the start failed")?;
        piece.lines += 1;
        self.hand_over(&mut piece);
        let mut emptied = self.drain(BATCH);
        loop {
            if self.sampling_ends().is_some_and(|end| end <= clock::now()) {
                self.finish_sampling();
            }
            let now = clock::now();
            self.intake.time(now);
            self.put_out()?;
            if end.is_some_and(|end| end <= now) {
                break;
            }
            let due = [self.intake.engine.poll_timeout(), self.sampling_ends(), end].into_iter().flatten().min();
            let wait = due.map_or(Duration::MAX, |due| due.since(clock::now()));
            tokio::select! {
                biased;
                _ = signals.interrupt.recv() => break,
                _ = signals.terminate.recv() => break,
                () = self.writer.ended() => {
                    return self.finish();
                }
                ready = self.ring.ready(), if emptied => {
                    ready.context("epoll_wait on the ring buffer failed; report this")?;
                    tokio::time::sleep(GATHER).await;
                }
                asked = question(&mut self.control) => {
                    let (query, asker) = asked;
                    self.answer(&query, asker)?;
                }
                () = no_more_hooks(self.hooks.as_ref()) => {
                    if let Some(hooks) = self.hooks.take() {
                        hooks.lost();
                    }
                }
                () = tokio::time::sleep(wait), if emptied => {}
                () = std::future::ready(()), if !emptied => {}
            }
            emptied = self.drain(BATCH);
            if let Some(kernel_log) = &mut self.kernel_log {
                kernel_log.flush();
            }
        }
        // Whatever the kernel has written so far belongs to the totals.
        while !self.drain(BATCH) {}
        self.intake.engine.count_losses(clock::now(), logging::dropped());
        self.intake.engine.stop();
        self.put_out()?;
        self.finish()
    }

    /// Waits until everything is written and hooks have ended, at most for [`PATIENCE`].
    fn finish(mut self) -> anyhow::Result<()> {
        let end = clock::now() + PATIENCE;
        // Everybody is told before anybody is waited for.
        if let Some(hooks) = &mut self.hooks {
            hooks.close();
        }
        self.writer.close();
        self.finish_recording(end.since(clock::now()));
        let written = self.writer.finish(end.since(clock::now())).context("writing standard output failed");
        if let Some(hooks) = self.hooks {
            hooks.finish(end.since(clock::now()));
        }
        written
    }

    /// Hands up to `limit` records to the engine. Returns whether the ring was emptied.
    fn drain(&mut self, limit: usize) -> bool {
        let Self { ring, intake, .. } = self;
        ring.drain(limit, |bytes| intake.record(bytes))
    }

    /// Does all that the engine wants done.
    fn put_out(&mut self) -> anyhow::Result<()> {
        let mut piece = Piece::default();
        let anchor = TimeAnchor::now();
        self.intake.engine.anchored(anchor);
        let mut findings = 0;
        while let Some(output) = self.intake.engine.poll_output() {
            match output {
                Output::Finding(finding) => {
                    findings += 1;
                    if let Some((level, line)) = histogram_line(&finding) {
                        log::log!(level, "{line}");
                    }
                    if let Finding::Histogram { at, scope: Scope::All, .. } = &finding {
                        self.programs.keep_reported(*at, self.intake.engine.counters())?;
                    }
                    if let Some(hooks) = &mut self.hooks {
                        hooks.finding(&finding, anchor, clock::now());
                    }
                    let before = piece.bytes.len();
                    self.sink.finding(&finding, anchor, &mut piece.bytes).context("writing a finding failed")?;
                    piece.lines += u64::from(piece.bytes.len() > before);
                    if piece.bytes.len() >= PIECE {
                        self.hand_over(&mut piece);
                    }
                }
                Output::LookAtGone(keys) => {
                    self.look(&keys, LookFor::Lingering);
                }
                Output::Look(keys) => {
                    self.intake.notice_suspends();
                    // An inspection begins; what was done for whoever asked is none of its cost.
                    self.worked = Duration::ZERO;
                    self.look(&keys, LookFor::Waiting);
                    self.intake.fact(Observation::LookedAtAll { at: clock::now() });
                }
                Output::FindHolders => self.find_holders()?,
                Output::Inquire(inquiry) => self.inquire(&inquiry),
                Output::Audit { sweep } => self.audit(sweep)?,
                Output::LookAtSuspects(keys) => {
                    let lost = self.programs.counters()?.ring_full;
                    let looked = self.look(&keys, LookFor::Waiting);
                    // An answer that found no room is none.
                    let complete = looked && self.programs.counters()?.ring_full == lost;
                    self.intake.fact(Observation::LookedAtSuspects { at: clock::now(), complete });
                }
                Output::Forget(entries) => {
                    self.programs.forget(&entries).context("removing times of entry from the kernel's map failed")?;
                }
                Output::ReadCounters => {
                    let counters = Box::new(self.programs.counters().context("reading the kernel's counters failed")?);
                    self.intake.engine.count_losses(clock::now(), logging::dropped());
                    self.intake.fact(Observation::Counters { at: clock::now(), counters });
                    if self.peak.is_over(self.intake.engine.totals().tracked) {
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

    /// Answers whoever has asked, of what is true now.
    fn answer(&mut self, query: &Query, asker: Asker) -> anyhow::Result<()> {
        let now = clock::now();
        while !self.drain(BATCH) {}
        self.look(&self.intake.engine.not_looked_at(now), LookFor::Waiting);
        if self.intake.engine.wants_walk(now) {
            self.find_holders()?;
        }
        let mut answer = Vec::new();
        let engine = &self.intake.engine;
        match sink::answer::answer(engine, query, clock::now(), TimeAnchor::now(), &mut answer) {
            Ok(missing) => asker.answer(Ok(answer), missing),
            Err(error) => asker.answer(Err(error.to_string()), None),
        }
        Ok(())
    }

    /// In pieces, so that the ring buffer has room for what the kernel program finds. Returns whether all were looked at.
    fn look(&mut self, keys: &[SocketKey], kind: LookFor) -> bool {
        let began = clock::now();
        let mut complete = true;
        for keys in keys.chunks(LOOKS) {
            complete &= self.programs.look(keys, kind);
            while !self.drain(BATCH) {}
        }
        self.worked += clock::now().since(began);
        complete
    }

    fn find_holders(&mut self) -> anyhow::Result<()> {
        let began = clock::now();
        // Records of what has happened before go in before what is found.
        while !self.drain(BATCH) {}
        let known = self.intake.engine.known_namespaces();
        let Self { programs, intake, .. } = self;
        walk::holders(programs, &known, clock::now, |found| intake.found(found))
            .context("looking for the holders of sockets failed")?;
        self.worked += clock::now().since(began);
        Ok(())
    }

    /// Hands in everything that is there.
    fn audit(&mut self, sweep: bool) -> anyhow::Result<()> {
        // Records of what has happened before go in before what is found.
        while !self.drain(BATCH) {}
        let began = clock::now();
        let Self { programs, intake, .. } = self;
        let decoder = intake.decoder();
        let unseen = walk::everything(Some(programs), decoder, clock::now, |found| intake.found(found))
            .context("comparing with the kernel's sockets failed")?;
        for what in &unseen {
            log::debug!("{what}");
        }
        if sweep {
            for (key, entered) in programs.entries().context("reading the kernel's times of entry failed")? {
                intake.fact(Observation::Stored { key, entered });
            }
        }
        intake.fact(Observation::Audited { began, at: clock::now(), complete: unseen.is_empty() });
        Ok(())
    }

    fn inquire(&mut self, inquiry: &Inquiry) {
        let began = clock::now();
        let Self { programs, intake, inquirer, .. } = self;
        self.sampling = Some(inquirer.begin(Some(programs), inquiry, |found| intake.found(found)));
        self.worked += clock::now().since(began);
    }

    /// When the second look at what processes do is due.
    fn sampling_ends(&self) -> Option<Boot> {
        let sampling = self.sampling.as_ref()?;
        Some(sampling.began() + if sampling.has_running() { WINDOW } else { Duration::ZERO })
    }

    /// Takes the second look, and ends the inquiry.
    fn finish_sampling(&mut self) {
        let Some(sampling) = self.sampling.take() else { return };
        let began = clock::now();
        for process in sampling.finish(began) {
            self.intake.fact(Observation::Process { at: began, process: Box::new(process) });
        }
        let at = clock::now();
        let worked = std::mem::take(&mut self.worked) + at.since(began);
        self.intake.fact(Observation::InquiredAll { at, worked });
    }

    /// What was seen was seen, whatever becomes of the recording.
    fn finish_recording(&mut self, patience: Duration) {
        if let Err(error) = self.intake.engine.finish(patience) {
            log::error!("the recording has no end: {error:#}");
        }
    }

    fn hand_over(&mut self, piece: &mut Piece) {
        let Piece { bytes, lines } = std::mem::take(piece);
        let recorded = self.intake.engine.handing_out();
        if lines > 0 && self.writer.send_after(bytes, recorded) == Backlog::Full {
            self.intake.engine.unwritten(clock::now(), lines);
        }
    }
}
