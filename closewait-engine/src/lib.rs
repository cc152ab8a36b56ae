//! The pure core: observations and the time go in, findings and commands come out.
//!
//! Nothing here reads a clock, a file or a socket, nor knows of threads, tokio or aya: the same observations give the same
//! findings, always. The caller
//!
//! 1. hands in everything that is there with [`Engine::handle`], snapshots before the records written meanwhile,
//! 2. calls [`Engine::handle_timeout`] with the time once that is after [`Engine::poll_timeout`],
//! 3. and takes what there is to do from [`Engine::poll_output`] until that gives nothing.
//!
//! # Code map
//!
//! | folder or file | contents |
//! |---|---|
//! | [`model`] | types: what comes in ([`model::Observation`]), what goes out ([`model::Output`], [`model::Finding`]), sockets, verdicts |
//! | [`decode`] | from bytes of the kernel program to observations |
//! | `facts` | what each observation changes |
//! | `track` | sockets in CLOSE_WAIT, and those out of it that still have a descriptor |
//! | `flow`, [`histogram`] | in which group a socket is; counts of each group over time, incidents, dwell times |
//! | `context`, [`process`], [`workload`] | owners, listeners, cgroups, namespaces, the other connections of proxies |
//! | `jobs` | state machines: commands to refresh, scan and inspect, before an incident, before an answer, after a loss |
//! | [`diagnose`] | all groups at one time, and the rules: the cause of each socket and group |
//! | [`snapshot`], [`kill`] | what is shown of one time, and what may be destroyed |
//! | `config`, `limits`, [`text`], [`time`] | settings and tools |

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
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
pub mod time;
mod track;
pub mod workload;

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

pub use self::config::{Config, Events};
use self::{
    context::host_context::HostContext,
    diagnose::grouping::Grouping,
    flow::flows::Flows,
    flow::group_key::GroupKeys,
    flow::port_watch::PortWatch,
    flow::windows::Windows,
    jobs::audit::Audit,
    jobs::inspection::{Budget, InspectionStep, REFRESH_INTERVAL},
    jobs::queries::Queries,
    model::{Counters, Finding, Observation, Output, Totals},
    snapshot::query::Filter,
    snapshot::view::{Selection, View},
    time::BootTime,
    track::lingering::LingeringSockets,
    track::tracker::Tracker,
};

/// Delay of the check for losses after an observation.
const CHECK_COUNTERS_AFTER: Duration = Duration::from_secs(1);

/// The state of everything.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    tracker: Tracker,
    windows: Windows,
    counters: Counters,
    undecodable: u64,
    unwritten: u64,
    log_lines_dropped: u64,
    recordings_failed: u64,
    outputs: VecDeque<Output>,
    /// End of the current window, at which the engine asks for the kernel's counters.
    window_ends: BootTime,
    check_counters: Option<BootTime>,
    reported: (Losses, Full),
    began: BootTime,
    /// Latest time that the engine got.
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
    /// Time of the next refresh of sockets that stay in CLOSE_WAIT.
    refresh: BootTime,
    /// Time of the last scan for owners.
    scanned: Option<BootTime>,
    /// When the last inspection of owners ended.
    inspected_owners_at: Option<BootTime>,
    /// Losses at the time of that scan.
    losses_at_scan: Losses,
    /// Largest number of facts around the sockets that one inspection dropped.
    dropped: u64,
    stopping: bool,
}

/// The counts that mean a loss.
type Losses = [u64; 6];

/// The counts that mean that a limit was reached.
type Full = [u64; 6];

impl Engine {
    /// Begins at `now`.
    pub fn new(config: Config, now: BootTime) -> Self {
        Self {
            tracker: Tracker::new(config.stuck_after, config.max_tracked, config.key_secret),
            windows: Windows::new(now, config.ephemeral_ports.clone()),
            counters: Counters::default(),
            undecodable: 0,
            unwritten: 0,
            log_lines_dropped: 0,
            recordings_failed: 0,
            outputs: VecDeque::new(),
            window_ends: now + config.histogram_every,
            check_counters: None,
            reported: Default::default(),
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
            stopping: false,
            config,
        }
    }

    /// Takes in one fact.
    pub fn handle(&mut self, observation: impl Into<Observation>) {
        self.take_in(observation.into());
    }

    /// Some bytes at `at` were no record.
    pub fn undecodable(&mut self, at: BootTime) {
        self.something_happened(at);
        self.undecodable = self.undecodable.saturating_add(1);
    }

    /// Counts `lines` that were dropped at `at` because no program read the output fast enough.
    pub fn unwritten(&mut self, at: BootTime, lines: u64) {
        self.something_happened(at);
        self.unwritten = self.unwritten.saturating_add(lines);
    }

    /// Counts `lines` of the log that were dropped until `at`.
    pub fn log_lines_dropped(&mut self, at: BootTime, lines: u64) {
        self.something_happened(at);
        self.log_lines_dropped = self.log_lines_dropped.saturating_add(lines);
    }

    /// Counts a recording that ended until `at`, before the agent.
    pub fn recording_failed(&mut self, at: BootTime) {
        self.something_happened(at);
        self.recordings_failed = self.recordings_failed.saturating_add(1);
    }

    /// Does what is due at `now`.
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

    /// Ends: asks for the counters one last time, and stops when they are there.
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

    /// The kernel's counters as of the last time they were read.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Everything counted so far.
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
            recordings_failed: self.recordings_failed,
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

    /// A scan for owners begins. Returns the network namespaces of which it need not describe each socket: those whose sockets are
    /// all tracked by their kernel addresses. None, if something was lost since the last scan, or if sockets that were dropped
    /// could be tracked now: then the scan finds what was missed.
    ///
    /// [`Engine::poll_output`] calls it; a caller does only for recordings of format 1.
    pub fn scan_began(&mut self) -> Vec<u32> {
        self.tracker.scan_began(self.now);
        let losses = self.losses();
        if std::mem::replace(&mut self.losses_at_scan, losses) != losses || self.tracker.can_track_dropped() {
            return Vec::new();
        }
        let (mut known, mut without_address) = (BTreeSet::new(), BTreeSet::new());
        for (key, tracked) in self.tracker.iter() {
            let set = if key.is_of_ends() { &mut without_address } else { &mut known };
            set.extend(tracked.socket.netns);
        }
        known.difference(&without_address).copied().collect()
    }

    /// Returns the reason why the last scan could not see all descriptors; `None` if it saw all.
    pub fn blind(&self) -> Option<&str> {
        self.host_context.blind()
    }

    /// Everything that is there at `now`, judged, oldest first.
    pub fn view(&self, now: BootTime) -> View<'_> {
        self.select(now, &snapshot::query::EVERYTHING).into()
    }

    /// Returns the sockets that are there at `now` and that `filter` selects, oldest first, judged as they are taken.
    pub fn select<'a>(&'a self, now: BootTime, filter: &'a Filter) -> Selection<'a> {
        let Self { tracker, host_context, flows, group_keys, lingering, config, .. } = self;
        let grouping = Grouping::new(now, config.stuck_after, tracker, host_context, group_keys, flows.as_ref());
        let mut selection = Selection::new(now, filter, (tracker, lingering), host_context, grouping);
        selection.unseen = config.unseen_sockets.as_deref();
        selection
    }

    fn find(&mut self, finding: Finding) {
        self.outputs.push_back(Output::Finding(finding));
    }

    fn something_happened(&mut self, at: BootTime) {
        self.check_counters.get_or_insert(at + CHECK_COUNTERS_AFTER);
    }

    fn counters_read(&mut self, at: BootTime, counters: Counters) {
        let before = std::mem::replace(&mut self.counters, counters);
        self.windows.kernel_counted(&before.dwell, &self.counters.dwell);
        if self.window_ends <= at || self.stopping {
            let ages = self.tracker.iter().map(|(_, tracked)| (&tracked.socket, tracked.since.dwell(at)));
            for finding in self.windows.end(at, ages) {
                self.outputs.push_back(Output::Finding(finding));
            }
            self.window_ends = at + self.config.histogram_every;
        }
        let losses = self.losses();
        self.audit_after(at, losses);
        let losses = (losses, self.full());
        if losses != self.reported {
            self.reported = losses;
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

    /// Returns which limits are reached: a limit is reported once when it is reached, not for each dropped item.
    fn full(&self) -> Full {
        let Totals { untracked, ungrouped, unkept, fd_open_unwatched, log_lines_dropped, recordings_failed, .. } =
            self.totals();
        let (ungrouped, unwatched) = (u64::from(ungrouped > 0), u64::from(fd_open_unwatched > 0));
        // These are no sign that anything of the kernel was missed.
        [untracked, ungrouped, unkept, unwatched, log_lines_dropped, recordings_failed]
    }
}

#[cfg(test)]
mod tests;
