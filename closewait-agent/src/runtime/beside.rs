//! What goes on beside the event loop: sockets that are refreshed, scans and inspections, questions that wait for them.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::Runtime;
use crate::{
    clock::{self, TimeAnchor},
    control::Asker,
    sink,
    source::{
        ended,
        program::RefreshKind,
        worker::{Job, JobId, JobReport, Piece, WorkerEvent},
    },
};
use closewait_engine::{
    model::{Counters, InspectionEnd, InspectionRequest, RefreshEnd, ScanEnd, SocketKey},
    query::Query,
    time::BootTime,
};

/// Number of sockets that are refreshed before the ring is read again.
const MAX_REFRESHES: usize = 1024;
/// Maximum number of questions that wait for an answer here; others wait in the control socket.
const MAX_QUESTIONS: usize = 16;
/// Owners of which a question finds out whether they have ended, at some microseconds each.
const MAX_OWNERS_CHECKED: usize = 1024;
/// Time that a question waits for owners and names. After that it is answered with what is known: the client waits for 5 s.
const QUESTION_PATIENCE: Duration = Duration::from_secs(2);
/// A scan or inspection that fails is reported in the log no more often than this.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Sockets to refresh, and what follows.
#[derive(Debug)]
struct Refreshes {
    keys: VecDeque<SocketKey>,
    kind: RefreshKind,
    then: Then,
    /// All so far were refreshed.
    complete: bool,
}

/// What the engine is told when all of some sockets were refreshed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    Nothing,
    All,
    /// Sockets of which only a descriptor is left, since this time and with what the ring buffer had dropped before.
    Gone(BootTime, Option<u64>),
    /// With what the ring buffer had dropped before.
    Suspects {
        lost: Option<u64>,
    },
}

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Owners,
    Audit,
    Inspection,
    Question,
}

/// A question that waits for an answer.
struct Question {
    query: Query,
    asker: Asker,
    /// The job that it waits for.
    waits_for: Option<JobId>,
    /// Whether it has waited for the names of cgroups.
    named: bool,
    until: BootTime,
}

/// What goes on beside the event loop.
#[derive(Default)]
pub struct Pending {
    refreshes: VecDeque<Refreshes>,
    jobs: BTreeMap<JobId, Purpose>,
    questions: Vec<Question>,
    /// CPU time that the inspection that goes on has taken.
    pub(super) worked: Duration,
    complained: Option<BootTime>,
}

impl Pending {
    /// Whether another question can be taken.
    pub(super) fn may_ask(&self) -> bool {
        self.questions.len() < MAX_QUESTIONS
    }

    /// Whether all sockets were refreshed.
    pub(super) fn is_idle(&self) -> bool {
        self.refreshes.is_empty()
    }

    /// When the next question is to be answered with what is known.
    pub(super) fn deadline(&self) -> Option<BootTime> {
        self.questions.iter().map(|question| question.until).min()
    }
}

impl Runtime {
    /// Queues sockets to refresh, behind those of earlier calls.
    pub(super) fn refresh(&mut self, keys: Vec<SocketKey>, kind: RefreshKind, then: Then) {
        self.pending.refreshes.push_back(Refreshes { keys: keys.into(), kind, then, complete: true });
    }

    /// Refreshes some sockets: their records are in the ring buffer then, behind all that happened before. Returns whether there
    /// were any to refresh.
    pub(super) fn continue_refresh(&mut self) -> bool {
        let Some(refreshes) = self.pending.refreshes.front_mut() else { return false };
        let before = clock::thread_cpu();
        let keys: Vec<SocketKey> = refreshes.keys.drain(..refreshes.keys.len().min(MAX_REFRESHES)).collect();
        refreshes.complete &= self.programs.refresh(&keys, refreshes.kind);
        self.pending.worked += clock::thread_cpu().saturating_sub(before);
        self.drain_all();
        let Some(refreshes) = self.pending.refreshes.pop_front_if(|refreshes| refreshes.keys.is_empty()) else {
            return true;
        };
        match refreshes.then {
            Then::Nothing => {}
            Then::All => self.engine.handle(RefreshEnd::Inspection { at: clock::now() }),
            Then::Gone(began, lost) => {
                if refreshes.complete && self.lost_none_since(lost) {
                    self.engine.handle(RefreshEnd::Lingering { began });
                }
            }
            Then::Suspects { lost } => {
                let complete = refreshes.complete && self.lost_none_since(lost);
                self.engine.handle(RefreshEnd::Suspects { at: clock::now(), complete });
            }
        }
        true
    }

    /// The kernel's counters; those of the last time if they cannot be read now, as without a descriptor left: the library
    /// opens a file to learn the number of CPUs.
    pub(super) fn counters(&mut self) -> Counters {
        match self.programs.counters() {
            Ok(counters) => counters,
            Err(error) => {
                self.complain(&format!("the kernel's counters cannot be read: {:#}", anyhow::Error::from(error)));
                self.engine.state().counters().clone()
            }
        }
    }

    /// Number of records that the ring buffer has dropped; `None` if that cannot be read.
    pub(super) fn lost(&self) -> Option<u64> {
        self.programs.counters().ok().map(|counters| counters.ring_full)
    }

    /// Whether the ring buffer has dropped nothing since it had dropped `before` records: one that it dropped is no answer.
    fn lost_none_since(&self, before: Option<u64>) -> bool {
        before.is_some() && self.lost() == before
    }

    /// Writes to the log what cannot be done now and is tried again, once in a while.
    fn complain(&mut self, what: &str) {
        let now = clock::now();
        if self.pending.complained.is_none_or(|last| now.since(last) >= LOG_INTERVAL) {
            self.pending.complained = Some(now);
            log::warn!("{what}; the agent continues and tries again");
        } else {
            log::debug!("{what}");
        }
    }

    pub(super) fn find_owners(&mut self, purpose: Purpose) -> JobId {
        let known = self.engine.scan_began();
        self.begin(Job::Owners { known }, purpose)
    }

    /// Has a job done beside the event loop.
    pub(super) fn begin(&mut self, job: Job, purpose: Purpose) -> JobId {
        // Records of what has happened before go in before what is found.
        self.drain_all();
        let id = self.workers.ask(job, self.engine.decoder(), clock::now());
        self.pending.jobs.insert(id, purpose);
        id
    }

    /// Takes in what a job has found.
    pub(super) fn take(&mut self, answer: WorkerEvent) {
        match answer {
            WorkerEvent::Piece(id, Piece::Ended(report)) => self.ended(id, report),
            WorkerEvent::Piece(_, piece) => self.engine.piece(piece),
            WorkerEvent::GivenUp(id, why) => {
                let at = clock::now();
                let purpose = self.pending.jobs.get(&id);
                if purpose.is_some_and(|purpose| matches!(purpose, Purpose::Owners | Purpose::Audit)) {
                    self.engine.handle(ScanEnd::Failed { why: why.clone() });
                }
                self.ended(id, JobReport { began: at, unseen: vec![why], ..JobReport::default() });
            }
        }
    }

    /// A job has ended.
    fn ended(&mut self, id: JobId, report: JobReport) {
        let JobReport { began, cpu, unseen } = report;
        let at = clock::now();
        let purpose = self.pending.jobs.remove(&id);
        for what in &unseen {
            if purpose == Some(Purpose::Audit) {
                log::debug!("{what}");
            } else {
                self.complain(&format!("some owners are unknown: {what}"));
            }
        }
        match purpose {
            Some(Purpose::Owners) => self.pending.worked += cpu,
            Some(Purpose::Audit) => {
                let (complete, cost) = (unseen.is_empty(), Some(cpu));
                self.engine.handle(ScanEnd::Audit { began, at, complete, cost });
            }
            Some(Purpose::Inspection) => {
                let worked = std::mem::take(&mut self.pending.worked) + cpu;
                self.engine.handle(InspectionEnd::Owners { at, worked });
            }
            Some(Purpose::Question) | None => {}
        }
        for question in &mut self.pending.questions {
            question.waits_for = question.waits_for.filter(|waits_for| *waits_for != id);
        }
    }

    /// Somebody asks: what is missing is found out first.
    pub(super) fn asked(&mut self, query: Query, asker: Asker) {
        let now = clock::now();
        self.refresh(self.engine.state().not_refreshed(now), RefreshKind::Waiting, Then::Nothing);
        let gone = Then::Gone(now, self.lost());
        self.refresh(self.engine.state().descriptors_left(), RefreshKind::Lingering, gone);
        let owners = self.engine.state().owner_pids(MAX_OWNERS_CHECKED);
        let waits_for = if owners.into_iter().any(ended::has_ended) {
            // A scan that is running may have seen their descriptors.
            Some(self.find_owners(Purpose::Owners))
        } else if self.engine.state().wants_owner_scan(now) {
            let scans = self.pending.jobs.iter().rev();
            let running = scans.filter(|(_, purpose)| **purpose == Purpose::Owners).map(|(id, _)| *id).next();
            Some(running.unwrap_or_else(|| self.find_owners(Purpose::Owners)))
        } else {
            None
        };
        let question = Question { query, asker, waits_for, named: false, until: now + QUESTION_PATIENCE };
        self.pending.questions.push(question);
    }

    /// Answers the oldest question that waits for nothing any more, with what is true now. Returns whether another one can be
    /// answered now. One answer may take long, so the event loop reads signals and the ring before it makes the next.
    pub(super) fn answer_question(&mut self, now: BootTime) -> bool {
        let (mut has_answered, mut has_more) = (false, false);
        for mut question in std::mem::take(&mut self.pending.questions) {
            let late = question.until <= now;
            if !late && question.waits_for.is_none() && !question.named {
                question.named = true;
                let cgroups = self.engine.state().unnamed_cgroups();
                question.waits_for = (!cgroups.is_empty()).then(|| {
                    let request = InspectionRequest { cgroups, ..InspectionRequest::default() };
                    self.begin(Job::Inspect(Box::new(request)), Purpose::Question)
                });
            }
            let is_ready = late || (question.waits_for.is_none() && self.pending.refreshes.is_empty());
            if is_ready && !has_answered {
                self.answer(&question.query, question.asker);
                has_answered = true;
            } else {
                has_more |= is_ready;
                self.pending.questions.push(question);
            }
        }
        has_more
    }

    pub(super) fn answer(&self, query: &Query, asker: Asker) {
        let mut answer = asker.writer();
        let engine = self.engine.state();
        match sink::answer::answer(engine, query, clock::now(), TimeAnchor::now(), |frame| answer.frame(frame)) {
            Ok(()) => asker.answer(answer),
            Err(error) => asker.refuse(error.to_string()),
        }
    }
}
