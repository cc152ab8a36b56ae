//! Threads that scan and inspect beside the event loop, which never waits for them.
//!
//! Scans and inspections have a thread each, which does one job after the other. The findings of a job arrive in
//! pieces. The event loop abandons a job that sends nothing for some time: it ignores all later pieces, and starts no
//! other job on that thread until the job ends. No second thread takes over: the kernel programs that jobs use must
//! not run twice at the same time.

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

/// Maximum number of pieces that wait for the event loop. A worker that is further ahead waits.
const MAX_PIECES: usize = 16;
/// Maximum size of the records in a piece, bytes.
const MAX_RECORD_BYTES: usize = 64 * 1024;
/// Maximum number of facts in a piece.
const MAX_FACTS: usize = 256;
/// Maximum number of jobs that wait for a worker: an inspection, an audit, and some queries.
const MAX_WAITING: usize = 16;
/// Time without a piece after which the event loop abandons a job.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time without a job after which a worker releases what is gone.
const REST_INTERVAL: Duration = Duration::from_secs(60);
/// Delay of the event loop that only a stop of the whole process explains.
const MAX_LOOP_DELAY: Duration = Duration::from_secs(2);
/// Time between the two reads of a process: the kernel counts CPU time in ticks.
const WINDOW: Duration = Duration::from_millis(100);

/// Job for a worker.
#[derive(Debug)]
pub enum Job {
    /// Finds the owners of sockets: [`Scanner::owners`].
    Owners {
        /// Network namespaces whose sockets are all tracked by their addresses.
        known: Vec<u32>,
    },
    /// Finds all present sockets: [`Scanner::everything`].
    Everything {
        /// Whether to read the kernel's times of entry, too.
        sweep: bool,
    },
    /// Inspects processes, cgroups and namespaces.
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

/// Number of a job, unique in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId(u64);

/// Part of a job's findings.
#[derive(Debug)]
pub enum Piece {
    /// Whole records of the kernel program.
    Records(Vec<u8>),
    /// Facts from elsewhere.
    Facts(Vec<Observation>),
    /// End of the job.
    Ended(JobReport),
}

/// Start, cost and gaps of a job.
#[derive(Clone, Debug, Default)]
pub struct JobReport {
    /// Time of the start.
    pub began: BootTime,
    /// CPU time that it took.
    pub cpu: Duration,
    /// Gaps, one sentence each.
    pub unseen: Vec<String>,
}

/// Event that a worker thread sends to the event loop.
#[derive(Debug)]
pub enum WorkerEvent {
    /// A piece of what a job found.
    Piece(JobId, Piece),
    /// A job was abandoned, or could not be started, for this reason.
    Abandoned(JobId, String),
}

/// Both threads, as the event loop sees them.
#[derive(Debug)]
pub struct Workers {
    scans: Worker,
    inspections: Worker,
    pieces: channel::Receiver<(JobId, Piece)>,
    abandoned: VecDeque<(JobId, String)>,
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
    /// Time of the last piece.
    heard: BootTime,
    patience: Duration,
    abandoned: bool,
}

impl Workers {
    /// Starts both threads. They inherit the capabilities of this thread.
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

    /// Starts both threads. `scan` and `inspect` do their jobs and return the gaps, one sentence each. The thread
    /// also calls `inspect` without a job, after some time without one. A job that sends nothing for `patience` is
    /// abandoned.
    pub(crate) fn start_with(
        mut scan: impl FnMut(Job, Decoder, &mut Outbox<'_>) -> Vec<String> + Send + 'static,
        mut inspect: impl FnMut(Option<(Job, &mut Outbox<'_>)>) -> Vec<String> + Send + 'static,
        patience: Duration,
    ) -> io::Result<Self> {
        let (sender, pieces) = channel::channel(MAX_PIECES);
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
        Ok(Self { scans, inspections, pieces, abandoned: VecDeque::new(), last: 0 })
    }

    /// Queues a job, at time `now`.
    pub fn ask(&mut self, job: Job, decoder: Decoder, now: BootTime) -> JobId {
        self.last += 1;
        let id = JobId(self.last);
        let worker = match job.kind() {
            WorkerKind::Scan => &mut self.scans,
            WorkerKind::Inspection => &mut self.inspections,
        };
        if let Err(why) = worker.ask(id, job, decoder, now) {
            self.abandoned.push_back((id, why));
        }
        id
    }

    /// Waits for the next event. Cancel-safe: dropping the future loses nothing.
    pub async fn answer(&mut self) -> WorkerEvent {
        loop {
            if let Some((id, why)) = self.abandoned.pop_front() {
                return WorkerEvent::Abandoned(id, why);
            }
            match self.pieces.recv().await {
                Some((id, piece)) => {
                    if let Some(answer) = self.take(id, piece) {
                        return answer;
                    }
                }
                // Both threads have ended, which happens only by a panic. The timeout abandons the jobs that wait.
                None => std::future::pending().await,
            }
        }
    }

    /// Returns an event that has arrived already.
    pub fn try_answer(&mut self) -> Option<WorkerEvent> {
        if let Some((id, why)) = self.abandoned.pop_front() {
            return Some(WorkerEvent::Abandoned(id, why));
        }
        let (id, piece) = self.pieces.try_recv().ok()?;
        self.take(id, piece)
    }

    /// Returns the time at which the next job is to be abandoned.
    pub fn deadline(&self) -> Option<BootTime> {
        let deadline = |worker: &Worker| worker.running.as_ref().filter(|job| !job.abandoned).map(Running::deadline);
        [deadline(&self.scans), deadline(&self.inspections)].into_iter().flatten().min()
    }

    /// Abandons jobs that have sent nothing for too long at `now`.
    pub fn abandon(&mut self, now: BootTime) {
        for worker in [&mut self.scans, &mut self.inspections] {
            self.abandoned.extend(worker.abandon(now));
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
    /// Starts a thread that calls `work` with each job, and without one after [`REST_INTERVAL`] without jobs.
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
            Some(running) if running.abandoned => Err(self.stuck(running, now)),
            Some(_) if self.waiting.len() >= MAX_WAITING => Err(format!("{} jobs wait already", self.waiting.len())),
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
        self.running = Some(Running { id, heard: now, patience: self.patience, abandoned: false });
        // A thread that has ended by a panic never answers.
        let _given_up_in_time: Result<(), mpsc::SendError<_>> = self.jobs.send((id, job, decoder));
    }

    /// Updates the state for a piece. `None` if the piece is of another worker, or of an abandoned job.
    fn take(&mut self, id: JobId, piece: &Piece, now: BootTime) -> Option<()> {
        let running = self.running.as_mut().filter(|running| running.id == id)?;
        running.heard = now;
        let wanted = (!running.abandoned).then_some(());
        if let Piece::Ended(_) = piece {
            self.running = None;
            if let Some((id, job, decoder)) = self.waiting.pop_front() {
                self.begin(id, job, decoder, now);
            }
        }
        wanted
    }

    /// Abandons the job that runs, and all jobs that wait for it.
    fn abandon(&mut self, now: BootTime) -> Vec<(JobId, String)> {
        let Some(running) = self.running.as_mut().filter(|running| !running.abandoned && running.deadline() <= now)
        else {
            return Vec::new();
        };
        if now.since(running.deadline()) > MAX_LOOP_DELAY {
            // The event loop was stopped, and perhaps the job with it.
            running.heard = now;
            return Vec::new();
        }
        running.abandoned = true;
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

/// First scan of a starting agent, on its own thread. Meanwhile the event loop receives the pieces, and can still
/// end.
#[derive(Debug)]
pub struct FirstScan {
    pieces: channel::Receiver<(JobId, Piece)>,
    scanning: JoinHandle<Scanner>,
}

impl FirstScan {
    /// Starts the scan.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn begin(mut scanner: Scanner, decoder: Decoder) -> io::Result<Self> {
        let (sender, pieces) = channel::channel(MAX_PIECES);
        let scanning = thread::Builder::new().name("closewait-first".to_owned()).spawn(move || {
            let mut to = Outbox::new(JobId(0), &sender);
            let unseen = everything(&mut scanner, false, decoder, &mut to);
            to.end(unseen);
            scanner
        })?;
        Ok(Self { pieces, scanning })
    }

    /// Waits for the next piece; `None` after the end.
    pub async fn piece(&mut self) -> Option<Piece> {
        self.pieces.recv().await.map(|(_id, piece)| piece)
    }

    /// Returns the scanner, after the last piece.
    pub fn finish(self) -> Scanner {
        self.scanning.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
    }
}

/// Findings of a job that are not sent yet.
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

    /// Adds an item, in order.
    pub(crate) fn put(&mut self, found: ScanItem<'_>) {
        match found {
            ScanItem::Record(bytes) => {
                self.send_facts();
                if self.records.len() + bytes.len() > MAX_RECORD_BYTES {
                    self.send_records();
                }
                self.records.extend_from_slice(bytes);
            }
            ScanItem::Fact(fact) => {
                self.send_records();
                self.facts.push(*fact);
                if self.facts.len() >= MAX_FACTS {
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
        // The send fails only while the agent ends.
        let _ended: Result<(), channel::error::SendError<_>> = self.to.blocking_send((self.id, piece));
    }

    fn end(mut self, unseen: Vec<String>) {
        self.send_records();
        self.send_facts();
        let cpu = cpu_used().saturating_sub(self.cpu_before);
        self.send(Piece::Ended(JobReport { began: self.began, cpu, unseen }));
    }
}

/// CPU time of this thread and of its reader threads. With both workers busy, one may be charged for the other's.
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
