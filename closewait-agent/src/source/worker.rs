//! Threads that scan and inspect beside the event loop, which never waits for them.
//!
//! Scans and inspections have a thread each, which does one job after the other. What a job finds comes back in pieces. A job
//! that gives nothing for some time is given up: the event loop goes on without it, what it still says is dropped, and until it
//! ends there is no other job in its group. No second thread takes its place: the kernel programs that jobs use must not run
//! twice at the same time.

use std::{
    collections::VecDeque,
    io, panic,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::mpsc as channel;

use super::{
    inspector::Inspector,
    scanner::{ScanItem, Scanner},
};
use crate::{clock, host::deadline};
use closewait_engine::{
    decode::Decoder,
    model::{InspectionRequest, Observation, ScanFact},
    text::duration,
    time::BootTime,
};

/// Pieces that may wait for the event loop. A worker that is further ahead waits.
const PIECES: usize = 16;
/// Bytes of records in a piece.
const RECORDS: usize = 64 * 1024;
/// Facts in a piece.
const FACTS: usize = 256;
/// Jobs of a kind that may wait for the one before: an inspection's, an audit's, and some questions'.
const WAITING: usize = 16;
/// Time after which a job that gives nothing is given up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time without a job after which a worker lets go of what is gone.
const REST_INTERVAL: Duration = Duration::from_secs(60);
/// The event loop is never this late, unless the whole process was stopped.
const STANDSTILL: Duration = Duration::from_secs(2);
/// The time between two looks at what processes do: a thread's time on a CPU is counted in ticks.
const WINDOW: Duration = Duration::from_millis(100);

/// What a worker can be asked to do.
#[derive(Debug)]
pub enum Job {
    /// Find the owners of sockets: [`Scanner::owners`].
    Owners {
        /// The network namespaces whose sockets are all tracked by their addresses.
        known: Vec<u32>,
    },
    /// Find everything that is there: [`Scanner::everything`].
    Everything {
        /// Read the kernel's times of entry, too.
        sweep: bool,
    },
    /// Inspect processes, cgroups and namespaces.
    Inspect(Box<InspectionRequest>),
}

impl Job {
    const fn kind(&self) -> WorkerKind {
        match self {
            Self::Owners { .. } | Self::Everything { .. } => WorkerKind::Scan,
            Self::Inspect(_) => WorkerKind::Inspection,
        }
    }
}

/// Thread that does a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WorkerKind {
    Scan,
    Inspection,
}

/// Tells jobs apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId(u64);

/// What a job has found.
#[derive(Debug)]
pub enum Piece {
    /// Whole records of the kernel program.
    Records(Vec<u8>),
    /// What was learned elsewhere.
    Facts(Vec<Observation>),
    /// There is no more.
    Ended(JobReport),
}

/// Start, cost and gaps of a job.
#[derive(Clone, Debug, Default)]
pub struct JobReport {
    /// When it began.
    pub began: BootTime,
    /// CPU time that it took.
    pub cpu: Duration,
    /// What could not be seen, one sentence each.
    pub unseen: Vec<String>,
}

/// Event that a worker thread sends to the event loop.
#[derive(Debug)]
pub enum WorkerEvent {
    /// A piece of what a job found.
    Piece(JobId, Piece),
    /// A job was given up, or could not be begun, for this reason.
    GivenUp(JobId, String),
}

/// Both threads, seen from the event loop.
#[derive(Debug)]
pub struct Workers {
    scans: Worker,
    inspections: Worker,
    pieces: channel::Receiver<(JobId, Piece)>,
    given_up: VecDeque<(JobId, String)>,
    last: u64,
}

#[derive(Debug)]
struct Worker {
    jobs: Sender<(JobId, Job, Decoder)>,
    waiting: VecDeque<(JobId, Job, Decoder)>,
    running: Option<Running>,
    patience: Duration,
    what: &'static str,
}

#[derive(Debug)]
struct Running {
    id: JobId,
    /// When it gave something last.
    heard: BootTime,
    patience: Duration,
    given_up: bool,
}

impl Workers {
    /// Starts both threads. They have the rights that this thread has now.
    ///
    /// # Errors
    ///
    /// If a thread cannot be started.
    pub fn start(mut scanner: Scanner, mut inspector: Inspector) -> io::Result<Self> {
        let scan = move |job, decoder, to: &mut Outbox<'_>| match job {
            Job::Owners { known } => {
                let failed = scanner.owners(&known, decoder, clock::now, |found| to.put(found));
                failed.into_iter().collect()
            }
            Job::Everything { sweep } => everything(&mut scanner, sweep, decoder, to),
            Job::Inspect(_) => Vec::new(),
        };
        let inspect = move |work: Option<(Job, &mut Outbox<'_>)>| {
            let Some((job, to)) = work else {
                inspector.rest();
                return Vec::new();
            };
            if let Job::Inspect(request) = job {
                inspector.inspect(&request, WINDOW, |found| to.put(found));
            }
            Vec::new()
        };
        Self::start_with(scan, inspect, PATIENCE)
    }

    /// Starts both threads. `scan` and `inspect` do their jobs, and return what could not be seen, one sentence each; `inspect` is
    /// also called without a job, after some time without one. A job that gives nothing for `patience` is given up.
    pub(crate) fn start_with(
        mut scan: impl FnMut(Job, Decoder, &mut Outbox<'_>) -> Vec<String> + Send + 'static,
        mut inspect: impl FnMut(Option<(Job, &mut Outbox<'_>)>) -> Vec<String> + Send + 'static,
        patience: Duration,
    ) -> io::Result<Self> {
        let (sender, pieces) = channel::channel(PIECES);
        let for_scans = sender.clone();
        let scans = Worker::start("closewait-scan", "a scan", patience, move |work| {
            let Some((id, job, decoder)) = work else { return };
            let mut to = Outbox::new(id, &for_scans);
            let unseen = scan(job, decoder, &mut to);
            to.end(unseen);
        })?;
        let inspections = Worker::start("closewait-owner", "an inspection", patience, move |work| {
            let Some((id, job, _decoder)) = work else {
                let _nothing_unseen = inspect(None);
                return;
            };
            let mut to = Outbox::new(id, &sender);
            let unseen = inspect(Some((job, &mut to)));
            to.end(unseen);
        })?;
        Ok(Self { scans, inspections, pieces, given_up: VecDeque::new(), last: 0 })
    }

    /// Has a job done after those before it. At `now`.
    pub fn ask(&mut self, job: Job, decoder: Decoder, now: BootTime) -> JobId {
        self.last += 1;
        let id = JobId(self.last);
        let worker = match job.kind() {
            WorkerKind::Scan => &mut self.scans,
            WorkerKind::Inspection => &mut self.inspections,
        };
        if let Err(why) = worker.ask(id, job, decoder, now) {
            self.given_up.push_back((id, why));
        }
        id
    }

    /// The next answer. Nothing is lost if this is dropped while it waits.
    pub async fn answer(&mut self) -> WorkerEvent {
        loop {
            if let Some((id, why)) = self.given_up.pop_front() {
                return WorkerEvent::GivenUp(id, why);
            }
            match self.pieces.recv().await {
                Some((id, piece)) => {
                    if let Some(answer) = self.take(id, piece) {
                        return answer;
                    }
                }
                // Both threads have ended, which they do only by a panic: whatever waits is given up in time.
                None => std::future::pending().await,
            }
        }
    }

    /// An answer that is there already.
    pub fn try_answer(&mut self) -> Option<WorkerEvent> {
        if let Some((id, why)) = self.given_up.pop_front() {
            return Some(WorkerEvent::GivenUp(id, why));
        }
        let (id, piece) = self.pieces.try_recv().ok()?;
        self.take(id, piece)
    }

    /// When the next job is to be given up.
    pub fn deadline(&self) -> Option<BootTime> {
        let deadline = |worker: &Worker| worker.running.as_ref().filter(|job| !job.given_up).map(Running::deadline);
        [deadline(&self.scans), deadline(&self.inspections)].into_iter().flatten().min()
    }

    /// Gives up what has not answered for too long at `now`.
    pub fn give_up(&mut self, now: BootTime) {
        for worker in [&mut self.scans, &mut self.inspections] {
            self.given_up.extend(worker.give_up(now));
        }
    }

    fn take(&mut self, id: JobId, piece: Piece) -> Option<WorkerEvent> {
        let now = clock::now();
        let Self { scans, inspections, .. } = self;
        [scans, inspections].into_iter().find_map(|worker| worker.take(id, &piece, now))?;
        Some(WorkerEvent::Piece(id, piece))
    }
}

impl Worker {
    /// Starts a thread that calls `work` with each job, and without one where there was none for [`REST_INTERVAL`].
    fn start(
        name: &str,
        what: &'static str,
        patience: Duration,
        mut work: impl FnMut(Option<(JobId, Job, Decoder)>) + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, taken): (_, Receiver<(JobId, Job, Decoder)>) = mpsc::channel();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            loop {
                match taken.recv_timeout(REST_INTERVAL) {
                    Ok(job) => work(Some(job)),
                    Err(RecvTimeoutError::Timeout) => work(None),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Self { jobs, waiting: VecDeque::new(), running: None, patience, what })
    }

    fn ask(&mut self, id: JobId, job: Job, decoder: Decoder, now: BootTime) -> Result<(), String> {
        match &self.running {
            Some(running) if running.given_up => Err(self.stuck(running, now)),
            Some(_) if self.waiting.len() >= WAITING => Err(format!("{} jobs wait already", self.waiting.len())),
            Some(_) => {
                self.waiting.push_back((id, job, decoder));
                Ok(())
            }
            None => {
                self.begin(id, job, decoder, now);
                Ok(())
            }
        }
    }

    fn begin(&mut self, id: JobId, job: Job, decoder: Decoder, now: BootTime) {
        self.running = Some(Running { id, heard: now, patience: self.patience, given_up: false });
        // A thread that has ended by a panic never answers.
        let _given_up_in_time: Result<(), mpsc::SendError<_>> = self.jobs.send((id, job, decoder));
    }

    /// Takes notice of a piece. `None` if it is of another worker, or nobody waits for it.
    fn take(&mut self, id: JobId, piece: &Piece, now: BootTime) -> Option<()> {
        let running = self.running.as_mut().filter(|running| running.id == id)?;
        running.heard = now;
        let wanted = (!running.given_up).then_some(());
        if let Piece::Ended(_) = piece {
            self.running = None;
            if let Some((id, job, decoder)) = self.waiting.pop_front() {
                self.begin(id, job, decoder, now);
            }
        }
        wanted
    }

    /// Gives up the job that runs, and with it those that wait for it.
    fn give_up(&mut self, now: BootTime) -> Vec<(JobId, String)> {
        let Some(running) = self.running.as_mut().filter(|running| !running.given_up && running.deadline() <= now)
        else {
            return Vec::new();
        };
        if now.since(running.deadline()) > STANDSTILL {
            // The event loop was stopped, and perhaps the job with it.
            running.heard = now;
            return Vec::new();
        }
        running.given_up = true;
        let id = running.id;
        let why = self.running.as_ref().map(|running| self.stuck(running, now)).unwrap_or_default();
        let mut all = vec![(id, why.clone())];
        all.extend(self.waiting.drain(..).map(|(id, ..)| (id, why.clone())));
        all
    }

    fn stuck(&self, running: &Running, now: BootTime) -> String {
        format!("{} has made no progress for {}", self.what, duration(now.since(running.heard)))
    }
}

impl Running {
    fn deadline(&self) -> BootTime {
        self.heard + self.patience
    }
}

/// The scan of an agent that starts, on a thread of its own that ends with it: the event loop takes in what it finds, and can
/// still be ended.
#[derive(Debug)]
pub struct FirstScan {
    pieces: channel::Receiver<(JobId, Piece)>,
    scanning: JoinHandle<Scanner>,
}

impl FirstScan {
    /// Begins.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn begin(mut scanner: Scanner, decoder: Decoder) -> io::Result<Self> {
        let (sender, pieces) = channel::channel(PIECES);
        let scanning = thread::Builder::new().name("closewait-first".to_owned()).spawn(move || {
            let mut to = Outbox::new(JobId(0), &sender);
            let unseen = everything(&mut scanner, false, decoder, &mut to);
            to.end(unseen);
            scanner
        })?;
        Ok(Self { pieces, scanning })
    }

    /// The next piece; `None` after the end.
    pub async fn piece(&mut self) -> Option<Piece> {
        self.pieces.recv().await.map(|(_id, piece)| piece)
    }

    /// Gives the scanner back, after the last piece.
    pub fn finish(self) -> Scanner {
        self.scanning.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
    }
}

/// What a job has found and not sent yet.
pub(crate) struct Outbox<'a> {
    id: JobId,
    to: &'a channel::Sender<(JobId, Piece)>,
    records: Vec<u8>,
    facts: Vec<Observation>,
    began: BootTime,
    cpu_before: Duration,
}

impl<'a> Outbox<'a> {
    fn new(id: JobId, to: &'a channel::Sender<(JobId, Piece)>) -> Self {
        let (began, cpu_before) = (clock::now(), cpu_used());
        Self { id, to, records: Vec::new(), facts: Vec::new(), began, cpu_before }
    }

    /// Sends an item, after those before it.
    pub(crate) fn put(&mut self, found: ScanItem<'_>) {
        match found {
            ScanItem::Record(bytes) => {
                self.send_facts();
                if self.records.len() + bytes.len() > RECORDS {
                    self.send_records();
                }
                self.records.extend_from_slice(bytes);
            }
            ScanItem::Fact(fact) => {
                self.send_records();
                self.facts.push(*fact);
                if self.facts.len() >= FACTS {
                    self.send_facts();
                }
            }
        }
    }

    fn send_records(&mut self) {
        let records = std::mem::take(&mut self.records);
        if !records.is_empty() {
            self.send(Piece::Records(records));
        }
    }

    fn send_facts(&mut self) {
        let facts = std::mem::take(&mut self.facts);
        if !facts.is_empty() {
            self.send(Piece::Facts(facts));
        }
    }

    fn send(&self, piece: Piece) {
        // The agent is ending.
        let _ended: Result<(), channel::error::SendError<_>> = self.to.blocking_send((self.id, piece));
    }

    fn end(mut self, unseen: Vec<String>) {
        self.send_records();
        self.send_facts();
        let cpu = cpu_used().saturating_sub(self.cpu_before);
        self.send(Piece::Ended(JobReport { began: self.began, cpu, unseen }));
    }
}

/// CPU time of this thread, and of those that read for it: with both workers at work, one may be charged for the other's.
fn cpu_used() -> Duration {
    clock::thread_cpu() + deadline::cpu_used()
}

fn everything(scanner: &mut Scanner, sweep: bool, decoder: Decoder, to: &mut Outbox<'_>) -> Vec<String> {
    let mut unseen = scanner.everything(decoder, clock::now, |found| to.put(found));
    if sweep {
        match scanner.entries() {
            Ok(entries) => {
                for (key, entered) in entries {
                    to.put(ScanItem::fact(ScanFact::StoredEntry { key, entered }));
                }
            }
            Err(error) => unseen.push(format!("the kernel's times of entry cannot be read: {error}")),
        }
    }
    unseen
}
