//! Pure core of the agent: observations and times go in, findings and commands come out.
//!
//! Nothing here reads a clock, a file or a socket, or uses threads, tokio or aya: the same observations always give the same
//! findings. The caller
//!
//! 1. passes all available facts to [`Engine::handle`], snapshots before the records that were written during them, and before the next
//!    step and each answer the counts of sockets without records ([`model::PassedSockets`]),
//! 2. calls [`Engine::handle_timeout`] with the current time when it has reached [`Engine::poll_timeout`],
//! 3. and takes findings and commands from [`Engine::poll_output`] until it returns `None`.
//!
//! # Code map
//!
//! | folder or file | contents |
//! |---|---|
//! | [`model`] | types: inputs ([`model::Observation`]), outputs ([`model::Output`], [`model::Finding`]), sockets, verdicts |
//! | [`decode`] | decoding of the kernel program's records to observations |
//! | `facts` | effect of each observation |
//! | `track` | sockets in CLOSE_WAIT, and sockets that have exited but still have a descriptor |
//! | `flow`, [`histogram`] | group of a socket; counts of each group over time, incidents, dwell times |
//! | `context`, [`process`], [`workload`] | owners, listeners, cgroups, namespaces, the other connections of proxies |
//! | `jobs` | state machines that emit commands to refresh, scan and inspect: before an incident, before an answer, after a loss |
//! | [`diagnose`] | all groups at one time, and the rules that give the cause of each socket and group |
//! | [`snapshot`], [`kill`] | the sockets that an answer shows, and the sockets that may be destroyed |
//! | [`stacks`] | groups of equal stacks, and what their threads wait for |
//! | [`unread`] | requests that programs have not read |
//! | `checkpoint` | state of the engine at one time, from which another engine continues |
//! | `config`, `limits`, [`text`], [`time`] | settings and utilities |

mod checkpoint;
mod config;
mod context;
pub mod decode;
pub mod diagnose;
mod facts;
mod flow;
pub mod histogram;
mod jobs;
pub mod kill;
mod limits;
pub mod model;
pub mod process;
pub mod snapshot;
pub mod stacks;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
pub mod time;
mod track;
pub mod unread;
pub mod workload;

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use self::checkpoint::{Checkpoint, CheckpointError};
pub use self::config::{Config, Events};
use self::{
    context::host_context::HostContext,
    diagnose::grouping::Grouping,
    flow::flows::Flows,
    flow::group_key::GroupKeys,
    flow::port_watch::PortWatch,
    flow::windows::Windows,
    jobs::audit::Audit,
    jobs::health::{Full, HealthLog},
    jobs::inspection::{Budget, InspectionStep, REFRESH_INTERVAL},
    jobs::queries::Queries,
    model::{Counters, Finding, Observation, Output, ResolvedIncident, SocketKey, Totals},
    snapshot::exits::ExitLog,
    snapshot::query::Filter,
    snapshot::view::{Selection, View},
    time::BootTime,
    track::lingering::LingeringSockets,
    track::tracker::Tracker,
};

/// Delay of the check for losses after an observation.
const CHECK_COUNTERS_AFTER: Duration = Duration::from_secs(1);

/// State of the engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Engine {
    config: Config,
    tracker: Tracker,
    windows: Windows,
    counters: Counters,
    undecodable: u64,
    unwritten: u64,
    log_lines_dropped: u64,
    #[serde(default)]
    unexported: u64,
    recordings_failed: u64,
    unrecorded: u64,
    /// Outputs that the caller has not taken; a checkpoint is made when there are none.
    #[serde(skip)]
    outputs: VecDeque<Output>,
    /// End of the current window, at which the engine asks for the kernel's counters.
    window_ends: BootTime,
    check_counters: Option<BootTime>,
    #[serde(default)]
    health: HealthLog,
    began: BootTime,
    /// Latest time that the caller passed in.
    now: BootTime,
    flows: Option<Flows>,
    group_keys: GroupKeys,
    port_watch: PortWatch,
    host_context: HostContext,
    lingering: LingeringSockets,
    inspection: InspectionStep,
    audit: Audit,
    queries: Queries,
    budget: Budget,
    /// Earliest time of the next inspection.
    next_inspection: BootTime,
    /// Earliest time of the next report of a socket without an inspection.
    next_late_report: BootTime,
    /// Time of the next refresh of stuck sockets.
    refresh: BootTime,
    /// Time of the last scan for owners.
    scanned: Option<BootTime>,
    /// End of the last inspection of owners.
    inspected_owners_at: Option<BootTime>,
    /// Losses at the time of the last scan for owners.
    losses_at_scan: Losses,
    /// Largest number of facts about owners and listeners that one inspection dropped.
    dropped: u64,
    /// Time of the next reminder of stuck sockets; `None` while none is stuck.
    still_stuck: Option<BootTime>,
    /// Latest incidents that have ended, oldest first.
    resolved: VecDeque<ResolvedIncident>,
    exits: ExitLog,
    stopping: bool,
}

/// Counts of losses.
type Losses = [u64; 6];

impl Engine {
    /// Returns an engine that starts at `now`.
    pub fn new(config: Config, now: BootTime) -> Self {
        Self {
            tracker: Tracker::new(config.stuck_after, config.max_tracked, config.key_secret),
            windows: Windows::new(now, config.ephemeral_ports.clone()),
            counters: Counters::default(),
            undecodable: 0,
            unwritten: 0,
            log_lines_dropped: 0,
            unexported: 0,
            recordings_failed: 0,
            unrecorded: 0,
            outputs: VecDeque::new(),
            window_ends: now + config.histogram_every,
            check_counters: None,
            health: HealthLog::default(),
            began: now,
            now,
            flows: config.watching.then(|| Flows::new(now, config.stuck_after)),
            group_keys: GroupKeys::new((config.watching && !config.named).then(|| config.ephemeral_ports.clone())),
            port_watch: PortWatch::default(),
            host_context: HostContext::default(),
            lingering: LingeringSockets::default(),
            inspection: InspectionStep::Idle,
            audit: Audit::new(now),
            queries: Queries::default(),
            budget: Budget::new(now),
            next_inspection: now,
            next_late_report: now,
            refresh: now + REFRESH_INTERVAL,
            scanned: None,
            inspected_owners_at: None,
            losses_at_scan: Losses::default(),
            dropped: 0,
            still_stuck: None,
            resolved: VecDeque::new(),
            exits: ExitLog::default(),
            stopping: false,
            config,
        }
    }

    /// Processes one observation.
    pub fn handle(&mut self, observation: impl Into<Observation>) {
        let observation = observation.into();
        // Nearly all observations: without a copy.
        if let Observation::Socket(event) = &observation {
            self.socket_changed(event);
        } else {
            self.take_in(observation);
        }
    }

    /// Counts bytes at `at` that could not be decoded as a record.
    pub fn undecodable(&mut self, at: BootTime) {
        self.something_happened(at);
        self.undecodable = self.undecodable.saturating_add(1);
    }

    /// Counts lines of output that were dropped at `at` because their reader was too slow.
    pub fn unwritten(&mut self, at: BootTime, lines: u64) {
        self.something_happened(at);
        self.unwritten = self.unwritten.saturating_add(lines);
    }

    /// Counts lines of the log that were dropped until `at`.
    pub fn log_lines_dropped(&mut self, at: BootTime, lines: u64) {
        self.something_happened(at);
        self.log_lines_dropped = self.log_lines_dropped.saturating_add(lines);
    }

    /// Counts events that an exporter dropped until `at`.
    pub fn unexported(&mut self, at: BootTime, events: u64) {
        self.something_happened(at);
        self.unexported = self.unexported.saturating_add(events);
    }

    /// Counts a recording that ended early, or a gap in one, that began at `at` or before.
    pub fn recording_failed(&mut self, at: BootTime) {
        self.something_happened(at);
        self.recordings_failed = self.recordings_failed.saturating_add(1);
    }

    /// Counts observations until `at` that a recording in a directory dropped, because it could not be written.
    pub fn unrecorded(&mut self, at: BootTime, observations: u64) {
        self.something_happened(at);
        self.unrecorded = self.unrecorded.saturating_add(observations);
    }

    /// Does the work that is due at `now`.
    pub fn handle_timeout(&mut self, now: BootTime) {
        self.now = self.now.max(now);
        self.count(now);
        self.inspect_or_report(now);
        self.audit(now);
        self.answer_late_queries(now);
        if self.window_ends <= now || self.check_counters.is_some_and(|check| check <= now) {
            self.check_counters = None;
            self.outputs.push_back(Output::ReadCounters);
        }
    }

    /// Starts to stop: requests the counters for the last time, and reports the stop when they arrive.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.outputs.push_back(Output::ReadCounters);
    }

    /// Returns the time of the next call of [`Engine::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let flows = self.flows.as_ref().and_then(Flows::poll_timeout);
        let inspection = [self.next_inspection_due(), self.report_deadline()];
        let queries = self.queries.poll_timeout();
        let others = [flows, self.audit.poll_timeout(), queries, self.check_counters, Some(self.window_ends)];
        inspection.into_iter().chain(others).flatten().min()
    }

    /// Returns the next output, if there is one.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.report_more();
        }
        let mut output = self.outputs.pop_front();
        if let Some(Output::ScanOwners { known }) = &mut output {
            *known = self.scan_began();
        }
        limits::shrink_queue(&mut self.outputs);
        output
    }

    /// Returns the kernel's counters as of the last reading.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns all counts so far.
    pub fn totals(&self) -> Totals {
        let Counters { entered, left, left_unseen, ring_full, map_full, replaced, skipped, dwell: _ } = self.counters;
        Totals {
            entered,
            left,
            left_unseen,
            lost_ring_full: ring_full,
            lost_map_full: map_full,
            replaced,
            skipped_by_kernel: skipped,
            undecodable: self.undecodable,
            unwritten: self.unwritten,
            log_lines_dropped: self.log_lines_dropped,
            unexported: self.unexported,
            recordings_failed: self.recordings_failed,
            unrecorded: self.unrecorded,
            repaired: self.audit.repaired,
            phantom: self.audit.phantom,
            tracked: self.tracker.len() as u64,
            fd_open: self.lingering.len() as u64,
            fd_open_unwatched: self.lingering.unwatched(),
            untracked: self.tracker.untracked_total(),
            ungrouped: self.flows.as_ref().map_or(0, Flows::ungrouped),
            unkept: self.dropped,
        }
    }

    /// Returns the numbers of stuck sockets and open incidents as of the last count, which is at most a second old while there
    /// are any.
    pub fn stuck_counts(&self) -> model::StuckCounts {
        self.flows.as_ref().map(Flows::stuck_counts).unwrap_or_default()
    }

    /// Begins a scan for owners. Returns the network namespaces of which the scan need not describe each socket, because all of
    /// their sockets are tracked by kernel address. The list is empty after a loss, and if dropped sockets could be tracked now,
    /// so that the scan finds the missing sockets.
    ///
    /// [`Engine::poll_output`] calls this function; other callers need it only for recordings of format 1.
    pub fn scan_began(&mut self) -> Vec<u32> {
        self.tracker.scan_began(self.now);
        let losses = self.losses();
        if std::mem::replace(&mut self.losses_at_scan, losses) != losses || self.tracker.can_track_dropped() {
            return Vec::new();
        }
        let (mut known, mut without_address) = (BTreeSet::new(), BTreeSet::new());
        for one in self.tracker.stored() {
            let set = if one.key().is_of_ends() { &mut without_address } else { &mut known };
            set.extend(one.netns());
        }
        known.difference(&without_address).copied().collect()
    }

    /// Returns the time of the last refresh of a tracked socket whose facts it still has; `None` if it needs a record of its next
    /// refresh, even if nothing has changed.
    pub fn refreshed_at(&self, key: SocketKey) -> Option<BootTime> {
        self.tracker.get(key)?.refreshed()
    }

    /// Returns the reason why the last scan could not read all descriptors; `None` if it read all.
    pub fn blind(&self) -> Option<&str> {
        self.host_context.blind()
    }

    /// Returns all sockets at `now` with their verdicts, oldest first.
    pub fn view(&self, now: BootTime) -> View<'_> {
        self.select(now, &snapshot::query::EVERYTHING).into()
    }

    /// Returns the sockets at `now` that match `filter`, oldest first. The iterator judges each socket when it returns it.
    pub fn select<'a>(&'a self, now: BootTime, filter: &'a Filter) -> Selection<'a> {
        let Self { tracker, host_context, flows, group_keys, lingering, config, .. } = self;
        let grouping = Grouping::new(now, config.stuck_after, tracker, host_context, group_keys, flows.as_ref())
            .with_lingering(lingering);
        let mut selection = Selection::new(now, filter, (tracker, lingering), host_context, grouping);
        selection.unseen = config.unseen_sockets.as_deref();
        selection
    }

    fn find(&mut self, finding: Finding) {
        self.outputs.push_back(Output::Finding(finding));
    }

    fn something_happened(&mut self, at: BootTime) {
        // Some records are about earlier times than others before them.
        let check = at + CHECK_COUNTERS_AFTER;
        self.check_counters = Some(self.check_counters.map_or(check, |next| next.min(check)));
    }

    fn counters_read(&mut self, at: BootTime, counters: Counters) {
        let before = std::mem::replace(&mut self.counters, counters);
        self.windows.kernel_counted(&before.dwell, &self.counters.dwell);
        if self.window_ends <= at || self.stopping {
            let ages = self.tracker.stored().map(|one| ((one.ends().0.port, one.role()), one.dwell(at)));
            for finding in self.windows.end(at, ages) {
                self.outputs.push_back(Output::Finding(finding));
            }
            self.window_ends = at + self.config.histogram_every;
        }
        let losses = self.losses();
        self.audit_after(at, losses);
        if self.health.is_due(at, losses, self.full()) {
            let totals = self.totals();
            self.find(Finding::Health { at, totals });
        }
        if self.stopping {
            let totals = self.totals();
            self.find(Finding::Stop { at, totals });
        }
    }

    fn losses(&self) -> Losses {
        let Counters { ring_full, map_full, replaced, skipped, .. } = self.counters;
        [ring_full, map_full, replaced, skipped.unwrap_or(0), self.undecodable, self.unwritten]
    }

    /// Returns the counts of other losses: they do not indicate that the agent missed a change in the kernel.
    fn full(&self) -> Full {
        let Totals { untracked, ungrouped, unkept, fd_open_unwatched, .. } = self.totals();
        // Only whether these limits are reached: the counts are of no use.
        let (ungrouped, unwatched) = (u64::from(ungrouped > 0), u64::from(fd_open_unwatched > 0));
        let Self { log_lines_dropped, unexported, recordings_failed, unrecorded, .. } = *self;
        [untracked, ungrouped, unkept, unwatched, log_lines_dropped, unexported, recordings_failed, unrecorded]
    }
}

#[cfg(test)]
mod tests;
