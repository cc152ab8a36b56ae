//! Numbers for metrics at one time, aggregated by group and independent of any format.
//!
//! [`Engine::metrics`] reads counts that the engine has anyway, as of the last count of the sockets some seconds ago, and the
//! verdicts of open incidents. It judges the incidents again only if there are at most `MAX_JUDGED_SOCKETS` sockets; otherwise it
//! takes the verdicts of the last inspection, which can be some minutes old. So its time does not depend on the number of sockets.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{exits::DwellBuckets, urgency::Severity};
use crate::{
    Engine,
    context::host_context::HostContext,
    flow::flows::{IncidentJudgement, ShownFlow},
    flow::group_key::FlowKey,
    model::{Class, Endpoint, ExitCause, Limit, Role, Totals},
    process::Service,
    time::BootTime,
    track::socket_view::SocketView,
};

/// Maximum number of series of one metric, with the one of all further groups.
pub const MAX_SERIES: usize = 2000;
/// Maximum number of sockets for which incidents are judged again, which takes about half a microsecond for each.
const MAX_JUDGED_SOCKETS: usize = 10_000;
/// Maximum length of the name of a service, characters.
const MAX_SERVICE_CHARS: usize = 128;

/// Port or remote endpoint of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetricPlace {
    /// Local port of a server.
    Port(u16),
    /// Remote endpoint of a client.
    Remote(Endpoint),
}

/// Labels of a group. Groups of different network namespaces or cgroups with the same labels count together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupLabels {
    /// Name of the unit, workload or program without a pid, at most `MAX_SERVICE_CHARS` characters; `None` if unknown.
    pub service: Option<String>,
    /// Port or remote endpoint.
    pub place: MetricPlace,
}

impl GroupLabels {
    /// Returns the role of the group.
    pub fn role(&self) -> Role {
        match self.place {
            MetricPlace::Port(_) => Role::Server,
            MetricPlace::Remote(_) => Role::Client,
        }
    }
}

/// MetricSeries of one metric, [`MAX_SERIES`] at most with `rest`.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricSeries<K, V> {
    /// Labels and value of each series, in the order of the labels.
    pub each: Vec<(K, V)>,
    /// Value of all series over the limit together; `None` if there are none.
    pub rest: Option<V>,
}

/// Value that can be merged with that of another group.
trait Merge: Copy {
    /// Returns the value of both groups together.
    fn merge(self, other: Self) -> Self;
}

/// Stuck sockets of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StuckNumbers {
    /// Number of stuck sockets.
    pub stuck: u64,
    /// Entry of the oldest socket in CLOSE_WAIT; `None` if there is none.
    pub oldest: Option<BootTime>,
}

impl Merge for StuckNumbers {
    fn merge(self, other: Self) -> Self {
        let oldest = [self.oldest, other.oldest].into_iter().flatten().min();
        Self { stuck: self.stuck.saturating_add(other.stuck), oldest }
    }
}

/// Backlog of a group's listeners as of the last scan for listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacklogNumbers {
    /// Number of connections that wait to be accepted.
    pub waiting: u64,
    /// Limit of the backlog.
    pub limit: u64,
}

impl Merge for BacklogNumbers {
    fn merge(self, other: Self) -> Self {
        Self { waiting: self.waiting.saturating_add(other.waiting), limit: self.limit.saturating_add(other.limit) }
    }
}

impl Merge for u64 {
    fn merge(self, other: Self) -> Self {
        self.saturating_add(other)
    }
}

impl Merge for Duration {
    fn merge(self, other: Self) -> Self {
        self.min(other)
    }
}

/// Numbers for metrics at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsSnapshot {
    /// Time of the snapshot.
    pub at: BootTime,
    /// Number of sockets in CLOSE_WAIT, including those over the limit of tracked sockets.
    pub sockets: u64,
    /// Counts since the start of the agent, or since the pinned kernel program was loaded.
    pub totals: Totals,
    /// Number of exits by cause, since the start of the agent.
    pub exits: [(ExitCause, u64); ExitCause::ALL.len()],
    /// Dwell times of the sockets that have exited.
    pub dwell: DwellBuckets,
    /// Groups with stuck sockets or an open incident, now or in the last interval of histograms.
    pub stuck: MetricSeries<GroupLabels, StuckNumbers>,
    /// Number of open incidents by class and severity.
    pub incidents: MetricSeries<(GroupLabels, Class, Severity), u64>,
    /// Time to exhaustion of the limit that each open incident exhausts first.
    pub exhaustion: MetricSeries<(GroupLabels, Limit), Duration>,
    /// Backlogs of the listeners on the ports of `stuck`.
    pub backlogs: MetricSeries<GroupLabels, BacklogNumbers>,
    /// Number of kept frames of stacks; `None` if the agent reads none.
    pub stack_frames: Option<u64>,
}

impl Engine {
    /// Returns the numbers for metrics at `now`.
    pub fn metrics(&self, now: BootTime) -> MetricsSnapshot {
        let kept = self.config.histogram_every;
        let shown: Vec<ShownFlow<'_>> = self.flows.iter().flat_map(|flows| flows.shown(now, kept)).collect();
        let judged = self.judge_incidents(now, &shown);
        let (mut stuck, mut incidents) = (SeriesBuilder::default(), SeriesBuilder::default());
        let (mut exhaustion, mut backlogs) = (SeriesBuilder::default(), SeriesBuilder::default());
        let mut labels_of_ports = BTreeMap::new();
        for flow in &shown {
            let labels = labels(flow);
            stuck.add(labels.clone(), StuckNumbers { stuck: flow.stuck, oldest: flow.oldest });
            if let Some(IncidentJudgement { class, severity, exhausted }) =
                judged.get(&flow.key).copied().or(flow.incident)
            {
                incidents.add(labels.clone().map(|labels| (labels, class, severity)), 1);
                if let Some((limit, at)) = exhausted {
                    exhaustion.add(labels.clone().map(|labels| (labels, limit)), at.since(now));
                }
            }
            if let (FlowKey::Port(netns, port), Some(labels)) = (flow.key, labels) {
                labels_of_ports.insert((netns, port), labels);
            }
        }
        for seen in self.host_context.listeners() {
            let listener = &seen.what;
            let (waiting, limit) = (listener.backlog.into(), listener.backlog_max.into());
            // Records of the classic tracepoint have no namespace.
            let of = |netns| labels_of_ports.get(&(netns, listener.local.port));
            if let Some(labels) = of(listener.netns).or_else(|| of(None)) {
                backlogs.add(Some(labels.clone()), BacklogNumbers { waiting, limit });
            }
        }
        MetricsSnapshot {
            at: now,
            sockets: (self.tracker.len() as u64).saturating_add(self.tracker.untracked()),
            totals: self.totals(),
            exits: self.exits.counts(),
            dwell: self.exits.dwell_buckets(&self.counters.dwell),
            stuck: stuck.finish(|_, numbers| Reverse(numbers.stuck)),
            incidents: incidents.finish(|(.., severity), _| Reverse(*severity)),
            exhaustion: exhaustion.finish(|_, left| *left),
            backlogs: backlogs.finish(|_, numbers| Reverse(numbers.waiting)),
            stack_frames: self.stack_frames(),
        }
    }

    /// Returns the number of frames of stacks that the engine keeps; `None` if the agent reads none.
    pub(crate) fn stack_frames(&self) -> Option<u64> {
        self.config.reads_stacks.then(|| self.host_context.stack_frames() as u64)
    }

    /// Returns the verdicts on the open incidents at `now`, as in a report; nothing if that would take too long.
    fn judge_incidents(&self, now: BootTime, shown: &[ShownFlow<'_>]) -> BTreeMap<FlowKey, IncidentJudgement> {
        let open: BTreeSet<FlowKey> = shown.iter().filter(|one| one.incident.is_some()).map(|one| one.key).collect();
        if open.is_empty() || self.tracker.len() > MAX_JUDGED_SOCKETS {
            return BTreeMap::new();
        }
        let grouping = self.grouping(now);
        let members = self.members_in(&grouping, |flow_key| open.contains(&flow_key));
        let judged = members.iter().filter_map(|(flow_key, members)| {
            let pileup = self.pileup(*flow_key, &members.oldest_first(now), &grouping, now)?;
            Some((*flow_key, IncidentJudgement::new(now, &pileup)))
        });
        judged.collect()
    }
}

/// Returns the labels of a flow; `None` for the flows over the limit, which have only the series of the rest.
fn labels(flow: &ShownFlow<'_>) -> Option<GroupLabels> {
    let place = match flow.key {
        FlowKey::Port(_, port) => MetricPlace::Port(port),
        FlowKey::Remote(_, remote) => MetricPlace::Remote(remote),
        FlowKey::Rest => return None,
    };
    let cut = |name: &str| match name.char_indices().nth(MAX_SERVICE_CHARS) {
        Some((end, _)) => name.get(..end).unwrap_or_default().to_owned(),
        None => name.to_owned(),
    };
    Some(GroupLabels { service: flow.service.map(cut), place })
}

/// Returns the name of a socket's owner, as [`crate::model::Pileup::service`] names the owner of a group; `None` if it is unknown.
pub(crate) fn service_of(one: SocketView<'_>, host_context: &HostContext) -> Option<String> {
    let (socket, owners) = (one.socket(), one.owners());
    let owners = owners.as_deref();
    let is_waiting = socket.accepted == Some(false);
    let listens = || host_context.listeners_of(&socket).find_map(|seen| seen.owners.first());
    let owner = owners.and_then(<[_]>::first).or_else(|| is_waiting.then(listens).flatten());
    let process = owner.and_then(|owner| host_context.processes().get(&owner.task.pid));
    let of_process = process.and_then(|process| process.workload.as_deref()).filter(|workload| !workload.is_root());
    let service = Service {
        workload: of_process.or_else(|| host_context.workload(&socket, owners)),
        owner: owner.map(|owner| (&owner.task.comm, owner.task.pid)),
        script: process.and_then(|process| process.script.as_deref()),
    };
    service.label()
}

/// MetricSeries of one metric while they are collected.
struct SeriesBuilder<K, V> {
    each: BTreeMap<K, V>,
    rest: Option<V>,
}

impl<K, V> Default for SeriesBuilder<K, V> {
    fn default() -> Self {
        Self { each: BTreeMap::new(), rest: None }
    }
}

impl<K: Ord, V: Merge> SeriesBuilder<K, V> {
    /// Adds the value of a group; without labels, to the rest.
    fn add(&mut self, labels: Option<K>, value: V) {
        match labels {
            Some(labels) => {
                self.each.entry(labels).and_modify(|old| *old = old.merge(value)).or_insert(value);
            }
            None => self.add_to_rest(value),
        }
    }

    fn add_to_rest(&mut self, value: V) {
        self.rest = Some(self.rest.map_or(value, |rest| rest.merge(value)));
    }

    /// Returns the series. Over the limit, those with the least `rank` have a series of their own.
    fn finish<R: Ord>(mut self, rank: impl Fn(&K, &V) -> R) -> MetricSeries<K, V> {
        if self.each.len() + usize::from(self.rest.is_some()) <= MAX_SERIES {
            return MetricSeries { each: self.each.into_iter().collect(), rest: self.rest };
        }
        let mut ranked: Vec<_> = std::mem::take(&mut self.each).into_iter().collect();
        // The sort is stable: of equal ranks, the first labels stay.
        ranked.sort_by_key(|(labels, value)| rank(labels, value));
        ranked.split_off(MAX_SERIES - 1).into_iter().for_each(|(_, value)| self.add_to_rest(value));
        ranked.sort_by(|(one, _), (other, _)| one.cmp(other));
        MetricSeries { each: ranked, rest: self.rest }
    }
}

#[cfg(test)]
mod tests;
