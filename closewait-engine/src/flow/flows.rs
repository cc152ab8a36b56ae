//! Entries and exits of each local port and each remote endpoint, healthy ones included: they distinguish a hung
//! program from one that misses some closes.

mod cohorts;
mod courses;
mod ends;
mod late_exits;
mod passed;
mod recent;
mod shown;
mod trend;

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use indexmap::IndexMap;

use serde::{Deserialize, Serialize};

use self::cohorts::{Cohort, MAX_COHORTS};
pub(crate) use self::late_exits::EndedBy;
use self::recent::RecentFlows;
use self::shown::ShownFacts;
pub(crate) use self::shown::{IncidentJudgement, ShownFlow};
use self::trend::trend;
use crate::{
    diagnose::{Flow, evidence::LateExits},
    flow::group_key::FlowKey,
    flow::growth::{Aged, EndedIncident, Growth, Habit, Inspected, LastReport, Point},
    model::{Dwell, IncidentState, IncidentStatus, Since, SocketKey, StuckCounts},
    time::{BootTime, nanos},
    track::hashing::KeyedState,
};

/// Maximum number of flows, at about 3 KB each. Further flows are dropped, and their entries are counted.
const MAX_FLOWS: usize = 4096;
/// Maximum number of flows of remote endpoints, which can be numerous; the others are reserved for local ports.
const MAX_REMOTES: usize = MAX_FLOWS / 4 * 3;
/// Number of flows above which the flows that have been quiet for longest are evicted at the end of a window.
const MAX_QUIET_FLOWS: usize = MAX_FLOWS / 2;
/// Number of windows, each as long as the age at which a socket counts as stuck, in a span for which the longest dwell time is
/// stored.
const WINDOWS_PER_SPAN: usize = 64;
/// Maximum number of windows of a trend.
const MAX_TREND_WINDOWS: usize = 6;
/// Interval of counts, unless the age at which a socket counts as stuck is less.
const COUNT_INTERVAL: Duration = Duration::from_secs(2);
/// Minimum interval of counts for each socket; a count takes a hundredth of that.
const COUNT_INTERVAL_PER_SOCKET: Duration = Duration::from_micros(30);

/// Counts of one flow: entries, exits by cause, present sockets.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct FlowStats {
    entered: u64,
    closed: u64,
    lost: u64,
    /// Number of exits because the process ended.
    ended: u64,
    last_closed: Option<BootTime>,
    /// Longest dwell time among the exits that the program caused, in this span of windows and in the previous one. Older values
    /// expire, so that one slow request does not count forever.
    longest_closed: [Option<Duration>; 2],
    late_exits: VecDeque<late_exits::LateExit>,
    #[serde(default)]
    ended_late: late_exits::EndedLate,
    #[serde(default)]
    last_end: ends::LastEnd,
    cohorts: VecDeque<Cohort>,
    /// Last count of the present sockets.
    latest: Point,
    /// Count that preceded [`Self::latest`].
    previous: Point,
    /// Exits of mature sockets.
    mature_left: u64,
    /// Exits of stuck sockets.
    stuck_left: u64,
    habit: Habit,
    /// Growth of the flow, while it has mature sockets.
    growth: Option<Box<Growth>>,
    /// Number of sockets at the ends of the last windows.
    counts: VecDeque<u64>,
    /// Time of the last entry or exit.
    changed: BootTime,
    shown: ShownFacts,
}

/// Counts of all flows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Flows {
    began: BootTime,
    stuck_after: Duration,
    /// Counts of each flow, read for every record.
    #[serde(with = "indexmap::map::serde_seq")]
    flows: IndexMap<FlowKey, FlowStats, KeyedState>,
    #[serde(skip)]
    recent: RecentFlows,
    /// Time of the next count of the present sockets.
    tick: BootTime,
    window_ends: BootTime,
    /// Whether the growth of any flow is suspected.
    suspects: bool,
    /// Number of windows that have ended in this span.
    ended: usize,
    /// Number of remote endpoints in `flows`.
    remotes: usize,
    ungrouped: u64,
}

impl Flows {
    /// Returns counts that start at `now`.
    pub(crate) fn new(now: BootTime, stuck_after: Duration) -> Self {
        Self {
            began: now,
            stuck_after,
            flows: IndexMap::default(),
            recent: RecentFlows::default(),
            tick: now + stuck_after.min(COUNT_INTERVAL),
            window_ends: now + stuck_after,
            suspects: false,
            ended: 0,
            remotes: 0,
            ungrouped: 0,
        }
    }

    /// Counts a socket that entered.
    pub(crate) fn entered(&mut self, key: FlowKey, at: BootTime) {
        let number = self.number(at);
        self.tick = self.tick.min(at + self.stuck_after.min(COUNT_INTERVAL));
        let (key, stats) = self.stats_mut(key, at);
        stats.entered += 1;
        cohorts::entered(&mut stats.cohorts, number);
        self.ungrouped += u64::from(key == FlowKey::Rest);
    }

    /// Returns the number of sockets that entered without a flow of their own, because the limit was reached.
    pub(crate) fn ungrouped(&self) -> u64 {
        self.ungrouped
    }

    /// Adds a socket that a scan found: it is older than the agent, or its entry was missed.
    pub(crate) fn found(&mut self, key: FlowKey, at: BootTime) {
        self.tick = self.tick.min(at + self.stuck_after.min(COUNT_INTERVAL));
        self.stats_mut(key, at);
    }

    /// Counts an exit at `at` after `dwell`. `entered` is the time of the entry, if the agent saw it; `finished` is whether the
    /// program caused the exit, and `ended` the process that did so by its end. An `abandoned` socket, which the peer has ended while the
    /// program still has a descriptor of it, has left nothing behind but its state, and is counted as present until its descriptor is closed.
    pub(crate) fn left(
        &mut self,
        key: FlowKey,
        at: BootTime,
        entered: Option<BootTime>,
        dwell: Option<Dwell>,
        (finished, ended, abandoned): (bool, Option<EndedBy>, bool),
    ) {
        let number = entered.map(|entered| self.number(entered));
        let stuck_after = self.stuck_after;
        let (_, stats) = self.stats_mut(key, at);
        if abandoned {
            return;
        }
        let stayed = dwell.map(Dwell::at_least);
        let stayed_for = |age: Duration| u64::from(stayed.is_some_and(|stayed| stayed >= age));
        stats.mature_left += stayed_for(stats.mature_age(stuck_after));
        stats.stuck_left += stayed_for(stuck_after);
        stats.ended += u64::from(ended.is_some());
        // Most sockets entered recently, so search from the end.
        let mut cohorts = stats.cohorts.iter_mut().rev();
        if let Some(cohort) = number.and_then(|number| cohorts.find(|one| one.number == number)) {
            cohort.left = cohort.left.saturating_add(1);
        }
        if !finished {
            stats.lost += 1;
            return;
        }
        if ended.is_none_or(|by| stats.finishes_by_end(by, at)) {
            stats.closed += 1;
            stats.last_closed = stats.last_closed.max(Some(at));
        } else {
            stats.lost += 1;
        }
        stats.longest_closed[0] = stats.longest_closed[0].max(stayed);
        if let Some(stayed) = stayed.filter(|stayed| *stayed < stuck_after) {
            stats.habit.closed(1, stayed);
        }
        if let Some(stayed) = stayed {
            late_exits::add(&mut stats.late_exits, &mut stats.ended_late, (at, stayed), ended);
        }
    }

    /// Returns the time of the next call of [`Flows::handle_timeout`]; `None` without flows.
    pub(crate) fn poll_timeout(&self) -> Option<BootTime> {
        (!self.flows.is_empty()).then_some(self.tick)
    }

    /// Whether [`Flows::handle_timeout`] counts at `now`.
    pub(crate) fn is_count_due(&self, now: BootTime) -> bool {
        self.tick <= now
    }

    /// Counts the sockets at `now`, ends windows, and evicts flows that have been quiet for long. Returns the incidents that have
    /// ended.
    pub(crate) fn handle_timeout(
        &mut self,
        now: BootTime,
        sockets: impl Iterator<Item = (FlowKey, Since, SocketKey)>,
        abandoned: impl Iterator<Item = (FlowKey, BootTime)>,
    ) -> Vec<(FlowKey, EndedIncident)> {
        if !self.is_count_due(now) {
            return Vec::new();
        }
        let all = self.count(now, sockets);
        self.count_abandoned(now, abandoned);
        let window = self.stuck_after.min(COUNT_INTERVAL).max(COUNT_INTERVAL_PER_SOCKET.saturating_mul(all));
        let mut ended = Vec::new();
        for (key, stats) in &mut self.flows {
            ended.extend(stats.grow(window, self.stuck_after).map(|end| (*key, end)));
        }
        ended.sort_unstable_by_key(|(key, _)| *key);
        self.suspects = self.any_suspect();
        if self.window_ends <= now {
            self.end_window(now);
        }
        // Without sockets, the next wake-up is the end of the window.
        let is_still = all == 0 && self.growths().next().is_none();
        self.tick = if is_still { self.window_ends } else { now + window };
        ended
    }

    /// Counts the sockets of each flow. Returns the total.
    fn count(&mut self, now: BootTime, sockets: impl Iterator<Item = (FlowKey, Since, SocketKey)>) -> u32 {
        for stats in self.flows.values_mut() {
            stats.start(now);
        }
        let stuck_after = self.stuck_after;
        let mut all = 0_u32;
        let mut sockets = sockets.peekable();
        while let Some((key, since, socket)) = sockets.next() {
            let (_, stats) = self.stats_mut(key, now);
            let mut present = |since: Since, socket| {
                all = all.saturating_add(1);
                stats.present(since.dwell(now).at_least(), now, stuck_after);
                stats.shown.present(since, socket);
            };
            present(since, socket);
            // Consecutive sockets are mostly in the same flow.
            while let Some((_, since, socket)) = sockets.next_if(|(next, ..)| *next == key) {
                present(since, socket);
            }
        }
        all
    }

    /// Counts sockets that the peers have ended while a program has descriptors of them, with the times at which they had entered. Each uses
    /// a descriptor as before, and only in flows that are still counted.
    fn count_abandoned(&mut self, now: BootTime, sockets: impl Iterator<Item = (FlowKey, BootTime)>) {
        let stuck_after = self.stuck_after;
        for (key, entered) in sockets {
            let key = self.counted_as(key);
            if let Some(stats) = self.flows.get_mut(&key) {
                stats.present(now.since(entered), now, stuck_after);
            }
        }
    }

    fn end_window(&mut self, now: BootTime) {
        self.ended = (self.ended + 1) % WINDOWS_PER_SPAN;
        for stats in self.flows.values_mut() {
            if self.ended == 0 {
                stats.longest_closed = [None, stats.longest_closed[0]];
                stats.habit.turn();
            }
            stats.counts.push_back(stats.latest.present);
            if stats.counts.len() > MAX_TREND_WINDOWS {
                stats.counts.pop_front();
            }
        }
        let kept = self.stuck_after.saturating_mul(MAX_COHORTS as u32 / 2);
        self.flows.retain(|_, stats| !stats.is_quiet() || now.since(stats.changed) < kept);
        self.evict_quiet();
        self.remotes = self.flows.keys().filter(|key| key.is_remote()).count();
        self.window_ends = now + self.stuck_after;
    }

    /// Whether the growth of any flow is suspected.
    pub(crate) fn has_suspects(&self) -> bool {
        self.suspects
    }

    /// Returns the flows whose growth is suspected, `most` at most.
    pub(crate) fn suspects(&self, most: usize) -> BTreeSet<FlowKey> {
        let suspects = self.growths().filter(|(_, growth)| growth.is_suspected());
        let suspects: BTreeSet<_> = suspects.map(|(key, _)| key).collect();
        suspects.into_iter().take(most).collect()
    }

    /// Returns flows with mature sockets and no incident, `most` at most.
    pub(crate) fn without_incident(&self, most: usize) -> BTreeSet<FlowKey> {
        self.growths().filter(|(_, growth)| growth.is_calm()).map(|(key, _)| key).take(most).collect()
    }

    /// Suspects an incident of these flows.
    pub(crate) fn suspect(&mut self, keys: &BTreeSet<FlowKey>) {
        let wanted = self.flows.iter_mut().filter(|(key, _)| keys.contains(key));
        wanted.filter_map(|(_, stats)| stats.growth.as_deref_mut()).for_each(Growth::suspect);
        self.suspects = self.any_suspect();
    }

    /// Returns the growth of a flow.
    pub(crate) fn growth(&self, key: FlowKey) -> Option<&Growth> {
        self.flows.get(&key)?.growth.as_deref()
    }

    /// Records an inspection of the flow's growth; see [`Growth::inspected`].
    pub(crate) fn inspected(&mut self, key: FlowKey, at: BootTime, seen: Option<&Inspected>) -> Option<IncidentStatus> {
        let may_log = self.may_log();
        let growth = self.flows.get_mut(&key).and_then(|stats| stats.growth.as_mut());
        let incident = growth.and_then(|growth| growth.inspected(at, seen, may_log));
        self.suspects = self.any_suspect();
        incident
    }

    /// Keeps the parts of a report that the end of the incident repeats.
    pub(crate) fn reported(&mut self, key: FlowKey, last: LastReport) {
        if let Some(growth) = self.flows.get_mut(&key).and_then(|stats| stats.growth.as_mut()) {
            growth.reported(last);
        }
    }

    /// Returns the open incident of a flow; `None` if there is none.
    pub(crate) fn incident(&self, key: FlowKey) -> Option<IncidentStatus> {
        self.growth(key)?.incident()
    }

    /// Returns the numbers of stuck sockets and open incidents as of the last count.
    pub(crate) fn stuck_counts(&self) -> StuckCounts {
        let mut counts = StuckCounts::default();
        for stats in self.flows.values() {
            let (stuck, incident) = (stats.latest.stuck.present, stats.growth.as_deref().and_then(Growth::incident));
            counts.groups += u32::from(stuck > 0 || incident.is_some());
            counts.incidents += u32::from(incident.is_some());
            counts.exhausted += u32::from(incident.is_some_and(|one| one.state == IncidentState::Exhausted));
            counts.sockets += stuck;
        }
        counts
    }

    fn any_suspect(&self) -> bool {
        self.growths().any(|(_, growth)| growth.is_suspected())
    }

    fn growths(&self) -> impl Iterator<Item = (FlowKey, &Growth)> {
        let growths = self.flows.iter();
        growths.filter_map(|(key, stats)| Some((*key, stats.growth.as_deref()?)))
    }

    /// Returns the longest recent healthy dwell time of the flow; `None` before there were enough exits.
    pub(crate) fn longest_healthy(&self, key: FlowKey) -> Option<Duration> {
        self.flows.get(&key)?.habit.longest()
    }

    /// Returns the key under which a flow is counted: its own, or [`FlowKey::Rest`] over the limit.
    pub(crate) fn counted_as(&self, key: FlowKey) -> FlowKey {
        if self.flows.contains_key(&key) { key } else { FlowKey::Rest }
    }

    /// Returns the counts of a flow at `now`; `onset` is the entry of the oldest remaining socket.
    pub(crate) fn flow(&self, key: FlowKey, onset: Option<BootTime>, now: BootTime) -> Option<Flow> {
        let stats = self.flows.get(&key)?;
        let young = self.number(now - self.stuck_after);
        let first = onset.map(|onset| self.number(onset));
        let mut flow = Flow {
            watched: now.since(self.began),
            entered: stats.entered,
            closed: stats.closed,
            last_closed: stats.last_closed,
            longest_closed: stats.longest_closed.into_iter().max().flatten(),
            onset,
            trend: trend(&stats.counts),
            ..Flow::default()
        };
        for cohort in stats.cohorts.iter().filter(|cohort| cohort.number < young) {
            let entered = u64::from(cohort.entered);
            let present = entered.saturating_sub(cohort.left.into());
            flow.old_entered += entered;
            flow.old_present += present;
            if first.is_some_and(|first| cohort.number >= first) {
                flow.since_onset_entered += entered;
                flow.since_onset_present += present;
            }
        }
        Some(flow)
    }

    /// Returns the time of the last exit from CLOSE_WAIT that a program of the flow caused.
    pub(crate) fn last_closed(&self, key: FlowKey) -> Option<BootTime> {
        self.flows.get(&key)?.last_closed
    }

    /// Returns the late exits of a flow.
    pub(crate) fn late_exits(&self, key: FlowKey) -> LateExits {
        self.flows.get(&key).map(|stats| late_exits::summary(&stats.late_exits)).unwrap_or_default()
    }

    /// Evicts quiet flows, so that many short-lived remote endpoints do not keep others out.
    fn evict_quiet(&mut self) {
        let surplus = self.flows.len().saturating_sub(MAX_QUIET_FLOWS);
        let quiet = self.flows.iter().filter(|(_, stats)| stats.is_quiet());
        let mut quiet: Vec<_> = quiet.map(|(key, stats)| (stats.changed, *key)).collect();
        quiet.sort_unstable();
        for (_, key) in quiet.iter().take(surplus) {
            self.flows.swap_remove(key);
        }
    }

    /// Returns the number of the cohort that a time belongs to.
    fn number(&self, at: BootTime) -> u64 {
        at.0 / self.cohort()
    }

    /// Returns the length of a cohort, nanoseconds.
    fn cohort(&self) -> u64 {
        (nanos(self.stuck_after) / 2).max(1)
    }
}

impl FlowStats {
    /// Returns the minimum age of the flow's mature sockets.
    fn mature_age(&self, stuck_after: Duration) -> Duration {
        let settled = self.growth.as_ref().and_then(|growth| growth.settled_age());
        settled.unwrap_or_else(|| self.habit.mature_age(stuck_after))
    }

    /// Begins a count at `now`.
    fn start(&mut self, now: BootTime) {
        let latest = Point {
            at: now,
            present: 0,
            mature: Aged { present: 0, left: self.mature_left },
            stuck: Aged { present: 0, left: self.stuck_left },
            entered: self.entered,
            left: self.closed + self.lost,
            ended: self.ended,
        };
        self.previous = std::mem::replace(&mut self.latest, latest);
        self.shown.start();
    }

    /// Counts a socket of this age at `now`.
    fn present(&mut self, age: Duration, now: BootTime, stuck_after: Duration) {
        if self.latest.at != now {
            // The flow is new in this count.
            self.start(now);
        }
        self.latest.present += 1;
        self.latest.mature.present += u64::from(age >= self.mature_age(stuck_after));
        self.latest.stuck.present += u64::from(age >= stuck_after);
        if let Some(log) = self.growth.as_deref_mut().and_then(Growth::log_mut) {
            log.present(age);
        }
    }

    /// Ends a count. Returns the incident that has ended with it.
    fn grow(&mut self, window: Duration, stuck_after: Duration) -> Option<EndedIncident> {
        let age = self.mature_age(stuck_after);
        if self.growth.is_none() && self.latest.mature.present > 0 {
            // A new flow has no earlier count.
            let before = Some(self.previous).filter(|before| before.at != BootTime::default());
            self.growth = Some(Box::new(Growth::new(before, window)));
        }
        let growth = self.growth.as_mut()?;
        let ended = growth.window(self.latest, window, age, stuck_after);
        if growth.is_over() {
            self.growth = None;
        }
        ended
    }

    fn is_quiet(&self) -> bool {
        self.latest.present == 0 && self.growth.is_none()
    }
}

#[cfg(test)]
mod tests;
