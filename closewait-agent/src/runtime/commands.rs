//! Execution of the engine's commands beside the event loop: refreshes of sockets, scans and inspections, and answers
//! to queries. Hands the results back as facts, and decides nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use anyhow::Context as _;

use super::{
    Runtime,
    answers::{AnswerJob, Answering},
};
use crate::{
    clock::{self, TimeAnchor},
    control::{EventForm, EventKind, EventLog, QueryClient, RecentEvent},
    host::error_text::in_one_line,
    sink::{
        EventContent, NumberedEvent, Sink as _,
        text::{Text, TextStyle},
    },
    source::{
        ended,
        program::RefreshKind,
        records::RecordSource,
        worker::{Job, JobId, JobReport, Piece, WorkerEvent},
    },
};
use closewait_engine::{
    model::{
        AnswerNeeds, Counters, Finding, InspectionEnd, InspectionFact, QueryCommand, QueryEvent, QueryId, RefreshEnd,
        RefreshFact, ScanEnd, SocketKey, WatchedPort,
    },
    snapshot::query::Query,
    time::BootTime,
};

/// Maximum number of sockets to refresh before the ring is read again.
const MAX_REFRESHES: usize = 1024;
/// Part of the ring buffer that the records of these may fill.
const REFRESHES_IN_RING: usize = 4;
/// Maximum wait for the records of a refresh that an earlier record hides, which another CPU is still writing.
const MAX_HIDDEN: Duration = Duration::from_secs(1);
/// Maximum number of queries that wait for an answer here; others wait in the control socket.
const MAX_QUERIES: usize = 16;
/// Maximum number of owners to check for their end on a query, at some microseconds each.
const MAX_OWNERS_CHECKED: usize = 1024;
/// Minimum interval between two log lines about failed scans and inspections.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Sockets to refresh, and the next step.
#[derive(Debug)]
struct Refreshes {
    keys: VecDeque<SocketKey>,
    kind: RefreshKind,
    then: AfterRefresh,
    /// Whether all sockets so far were refreshed.
    complete: bool,
    /// Sockets without a record so far whose facts are handed to the engine behind the records of the others.
    unchanged: Vec<(SocketKey, BootTime)>,
    /// Time since which records of the last sockets are hidden.
    hidden_since: Option<BootTime>,
}

/// Fact for the engine after all sockets were refreshed.
#[derive(Clone, Copy, Debug)]
pub(super) enum AfterRefresh {
    Nothing,
    /// For sockets that only have a descriptor left, with the number of dropped records before.
    Lingering {
        lost: Option<u64>,
    },
    All,
    /// For sockets of a query that only have a descriptor left, since `began`, with the number of dropped records
    /// before.
    Query {
        query: QueryId,
        began: BootTime,
        lost: Option<u64>,
    },
    /// For suspects, with the number of dropped records before.
    Suspects {
        lost: Option<u64>,
    },
}

/// Purpose of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Owners,
    Audit,
    Inspection,
    QueryScan(QueryId),
    QueryInspection(QueryId),
}

impl Purpose {
    /// Whether the job searches sockets.
    const fn scans(self) -> bool {
        match self {
            Self::Owners | Self::Audit | Self::QueryScan(_) => true,
            Self::Inspection | Self::QueryInspection(_) => false,
        }
    }
}

/// Work beside the event loop.
#[derive(Default)]
pub struct Pending {
    refreshes: VecDeque<Refreshes>,
    /// Whether the last refresh of sockets that only have a descriptor left did not read all of them.
    unread_lingering: bool,
    jobs: BTreeMap<JobId, Purpose>,
    /// Queries whose answers the engine prepares, and their clients.
    queries: BTreeMap<QueryId, (Query, QueryClient)>,
    last_query: u64,
    /// Queries that can be answered now.
    ready: VecDeque<QueryId>,
    pub(super) answering: Answering,
    /// CPU time of the current inspection.
    pub(super) worked: Duration,
    /// Whether the kernel may count sockets in place of a record of each.
    pub(super) counts: bool,
    /// Time of the last search for sockets without a record.
    pub(super) announced: BootTime,
    /// Whether there was a record or a count since then.
    pub(super) is_busy: bool,
    /// Time of the last search that followed or found a record or a count.
    pub(super) busy_at: BootTime,
    last_warning: Option<BootTime>,
}

impl Pending {
    /// Whether another query may begin.
    pub(super) fn may_ask(&self) -> bool {
        self.queries.len() < MAX_QUERIES
    }

    /// Whether a scan runs.
    pub(super) fn scans(&self) -> bool {
        self.jobs.values().any(|purpose| purpose.scans())
    }

    /// Whether all sockets were refreshed.
    pub(super) fn is_idle(&self) -> bool {
        self.refreshes.is_empty()
    }
}

/// Stores an event for clients that follow.
///
/// # Errors
///
/// If it cannot be written as JSON.
pub(super) fn store(events: &EventLog, event: &NumberedEvent<'_>) -> anyhow::Result<()> {
    let kind = match event.content {
        EventContent::Finding(Finding::Stuck { .. } | Finding::Histogram { .. }) => EventKind::Stuck,
        // Only the exit of a stuck socket has a verdict.
        EventContent::Finding(Finding::Leave { verdict: Some(_), .. }) => EventKind::Stuck,
        EventContent::Finding(Finding::Enter { .. } | Finding::Leave { .. }) => EventKind::Socket,
        EventContent::Start(_) | EventContent::Finding(_) => EventKind::Incident,
    };
    if !events.wants(kind) {
        return Ok(());
    }
    let json = event.json().context("writing an event as JSON failed")?;
    let json = String::from_utf8_lossy(json).into_owned();
    let mut text = Vec::new();
    Text::new(TextStyle::dated(false)).event(event, &mut text).context("writing an event as text failed")?;
    let text = String::from_utf8_lossy(&text).into_owned();
    events.add(RecentEvent { at: clock::now(), kind, json, text });
    Ok(())
}

impl<S: RecordSource> Runtime<S> {
    /// Queues sockets to refresh, behind those of earlier calls.
    pub(super) fn refresh(&mut self, keys: Vec<SocketKey>, kind: RefreshKind, then: AfterRefresh) {
        let (keys, unchanged) = (keys.into(), Vec::new());
        self.pending.refreshes.push_back(Refreshes { keys, kind, then, complete: true, unchanged, hidden_since: None });
    }

    /// Refreshes some sockets, and hands the facts of those that have changed to the engine, behind all earlier records.
    /// Returns whether there were any to refresh.
    pub(super) fn continue_refresh(&mut self) -> bool {
        let most = (self.source.capacity() / REFRESHES_IN_RING).clamp(1, MAX_REFRESHES);
        let Some(refreshes) = self.pending.refreshes.front_mut() else { return false };
        if refreshes.hidden_since.is_none() {
            let before = clock::thread_cpu();
            let keys: Vec<SocketKey> = refreshes.keys.drain(..refreshes.keys.len().min(most)).collect();
            let state = self.engine.state();
            let refreshed = self.source.refresh(&keys, refreshes.kind, |key| state.refreshed_at(key).is_some());
            refreshes.complete &= refreshed.complete;
            refreshes.unchanged = refreshed.unchanged;
            self.pending.worked += clock::thread_cpu().saturating_sub(before);
        }
        self.drain_all();
        // Without its record, a socket would count as gone.
        if self.has_hidden_refreshes() {
            return true;
        }
        let Some(refreshes) = self.pending.refreshes.front_mut() else { return false };
        // Behind the records of exits and of other sockets at the same addresses.
        let unchanged = std::mem::take(&mut refreshes.unchanged);
        unchanged.into_iter().for_each(|(key, at)| self.engine.handle(RefreshFact::Unchanged { key, at }));
        let state = self.engine.state();
        self.source.records_handled(|key, at| state.refreshed_at(key).is_some_and(|refreshed| refreshed >= at));
        let Some(refreshes) = self.pending.refreshes.pop_front_if(|refreshes| refreshes.keys.is_empty()) else {
            return true;
        };
        match refreshes.then {
            AfterRefresh::Nothing => {}
            AfterRefresh::Lingering { lost } => {
                self.pending.unread_lingering = !(refreshes.complete && self.lost_none_since(lost));
            }
            AfterRefresh::All => {
                let lingering = !std::mem::take(&mut self.pending.unread_lingering);
                self.engine.handle(RefreshEnd::Inspection { at: clock::now(), lingering });
            }
            AfterRefresh::Query { query, began, lost } => {
                if refreshes.complete && self.lost_none_since(lost) {
                    self.engine.handle(RefreshEnd::Lingering { began });
                }
                self.engine.handle(QueryEvent::Refreshed { query });
            }
            AfterRefresh::Suspects { lost } => {
                let complete = refreshes.complete && self.lost_none_since(lost);
                self.engine.handle(RefreshEnd::Suspects { at: clock::now(), complete });
            }
        }
        true
    }

    /// Whether records of the refresh at the front are hidden, and may still appear. If they take too long, the refresh is not complete.
    fn has_hidden_refreshes(&mut self) -> bool {
        let hidden = self.source.hidden_refreshes();
        let Some(refreshes) = self.pending.refreshes.front_mut() else { return false };
        if hidden == 0 {
            refreshes.hidden_since = None;
            return false;
        }
        let now = clock::now();
        if now.since(*refreshes.hidden_since.get_or_insert(now)) < MAX_HIDDEN {
            return true;
        }
        log::debug!("{hidden} records of sockets that were read again do not appear in the ring buffer");
        (refreshes.hidden_since, refreshes.complete) = (None, false);
        self.source.forget_hidden_refreshes();
        false
    }

    /// Reads the kernel's counters; returns the previous ones if that fails, for example without a free descriptor:
    /// the library opens a file to get the number of CPUs.
    pub(super) fn counters(&mut self) -> Counters {
        match self.source.counters() {
            Ok(counters) => counters,
            Err(error) => {
                self.warn_rarely(&format!("the kernel's counters cannot be read: {}", in_one_line(error)));
                self.engine.state().counters().clone()
            }
        }
    }

    /// Returns the number of records that the ring buffer has dropped; `None` if it cannot be read.
    pub(super) fn lost(&self) -> Option<u64> {
        self.source.counters().ok().map(|counters| counters.ring_full)
    }

    /// Whether the ring buffer has dropped no records since it had dropped `before`: without that, a missing record
    /// proves nothing.
    fn lost_none_since(&self, before: Option<u64>) -> bool {
        before.is_some() && self.lost() == before
    }

    /// Makes the kernel program count the closes of these ports. If that fails, the counts stay unknown.
    pub(super) fn watch_ports(&mut self, ports: &[WatchedPort]) {
        if let Err(error) = self.source.watch_ports(ports) {
            self.warn_rarely(&format!("closes cannot be counted: {}", in_one_line(error)));
        }
    }

    /// Hands the kernel program's count of closes of these ports to the engine.
    pub(super) fn read_closes(&mut self, ports: &[WatchedPort]) {
        if ports.is_empty() {
            return;
        }
        match self.source.closes(ports) {
            Ok(closes) => closes.into_iter().for_each(|closes| self.engine.handle(InspectionFact::Closes(closes))),
            Err(error) => self.warn_rarely(&format!("closes cannot be read: {}", in_one_line(error))),
        }
    }

    /// Logs a failure that the agent retries, at a limited rate.
    fn warn_rarely(&mut self, what: &str) {
        let now = clock::now();
        if self.pending.last_warning.is_none_or(|last| now.since(last) >= LOG_INTERVAL) {
            self.pending.last_warning = Some(now);
            log::warn!("{what}; the agent continues and tries again");
        } else {
            log::debug!("{what}");
        }
    }

    /// Starts a job beside the event loop.
    pub(super) fn begin(&mut self, job: Job, purpose: Purpose) {
        // Earlier entries and records go in before the job's findings.
        self.announce_all();
        self.drain_all();
        if purpose.scans() {
            self.take_passed(false);
        }
        let id = self.workers.ask(job, self.engine.decoder(), clock::now());
        self.pending.jobs.insert(id, purpose);
    }

    /// Handles an event of a worker.
    pub(super) fn take(&mut self, answer: WorkerEvent) {
        match answer {
            WorkerEvent::Piece(id, Piece::Ended(report)) => self.ended(id, report),
            WorkerEvent::Piece(_, piece) => self.engine.piece(piece),
            WorkerEvent::Abandoned(id, why) => {
                let at = clock::now();
                let purpose = self.pending.jobs.get(&id);
                if purpose.is_some_and(|purpose| purpose.scans()) {
                    self.engine.handle(ScanEnd::Failed { why: why.clone() });
                }
                self.ended(id, JobReport { began: at, unseen: vec![why], ..JobReport::default() });
            }
        }
    }

    /// Handles the end of a job.
    fn ended(&mut self, id: JobId, report: JobReport) {
        let JobReport { began, cpu, unseen } = report;
        let at = clock::now();
        let purpose = self.pending.jobs.remove(&id);
        for what in &unseen {
            if purpose == Some(Purpose::Audit) {
                log::debug!("{what}");
            } else {
                self.warn_rarely(&format!("some owners are unknown: {what}"));
            }
        }
        match purpose {
            Some(Purpose::Owners) => {
                self.pending.worked += cpu;
                self.engine.handle(ScanEnd::Owners);
            }
            Some(Purpose::Audit) => {
                let (complete, cost) = (unseen.is_empty(), Some(cpu));
                self.engine.handle(ScanEnd::Audit { began, at, complete, cost });
            }
            Some(Purpose::Inspection) => {
                let worked = std::mem::take(&mut self.pending.worked) + cpu;
                self.engine.handle(InspectionEnd::Owners { at, worked });
            }
            Some(Purpose::QueryScan(query)) => self.engine.handle(QueryEvent::ScannedAll { query }),
            Some(Purpose::QueryInspection(query)) => self.engine.handle(QueryEvent::Inspected { query }),
            None => {}
        }
    }

    /// Begins a query: the engine decides what to find out before the answer.
    pub(super) fn asked(&mut self, query: Query, client: QueryClient) {
        if let Query::Tail { since, text } = query {
            let form = if text { EventForm::Text } else { EventForm::Json };
            return self.events.follow(client, clock::now(), since, form);
        }
        self.announce_all();
        self.pending.last_query += 1;
        let id = QueryId(self.pending.last_query);
        let may_match = query.filter().is_none_or(|filter| self.engine.state().may_match(filter));
        let needs = if may_match { query.needs() } else { AnswerNeeds::Counts };
        self.pending.queries.insert(id, (query, client));
        let owners = self.engine.state().owner_pids(MAX_OWNERS_CHECKED);
        let owner_ended = owners.into_iter().any(ended::has_ended);
        self.engine.handle(QueryEvent::Asked { query: id, at: clock::now(), owner_ended, needs });
    }

    /// Executes the next step of a query.
    pub(super) fn query_command(&mut self, command: QueryCommand) {
        match command {
            QueryCommand::ScanAll { query } => {
                self.begin(Job::Everything { sweep: false }, Purpose::QueryScan(query));
            }
            QueryCommand::Refresh { query, present, lingering } => {
                let (began, lost) = (clock::now(), self.lost());
                self.refresh(present, RefreshKind::Waiting, AfterRefresh::Nothing);
                self.refresh(lingering, RefreshKind::Lingering, AfterRefresh::Query { query, began, lost });
            }
            QueryCommand::Inspect { query, request } => {
                self.read_closes(&request.closes_of);
                self.begin(Job::Inspect(request), Purpose::QueryInspection(query));
            }
            QueryCommand::Answer { query } => self.pending.ready.push_back(query),
        }
    }

    /// Answers the next query that can be answered, with the current state. Returns whether there are more. The event loop reads
    /// signals and the ring before the next.
    pub(super) fn answer_next(&mut self) -> bool {
        if !self.pending.ready.is_empty() && !self.pending.answering.is_busy() {
            self.announce_all();
        }
        let Pending { answering, ready, queries, .. } = &mut self.pending;
        // One copy of the state at a time.
        if answering.is_busy() {
            return false;
        }
        if let Some((query, client)) = ready.pop_front().and_then(|id| queries.remove(&id)) {
            let job = AnswerJob { query, client, now: clock::now(), anchor: TimeAnchor::now() };
            answering.answer(job, &mut self.engine);
        }
        !ready.is_empty() && !answering.is_busy()
    }
}
