//! Values of all metrics, made from the engine's numbers. Every exporter encodes them.

use std::{sync::Arc, time::SystemTime};

use super::{
    feed::MomentSnapshot,
    table::{
        self, CLASS, HOOK, HOW, KERNEL, MAP, Metric, MetricLabel, OVERFLOW, PORT, REMOTE, RESOURCE, ROLE, SERVICE,
        SEVERITY, STAGE, STATE, VERSION,
    },
    usage::ProcessUsage,
};
use crate::sink::Start;
use closewait_engine::{
    model::{Limit, Totals},
    snapshot::{
        exits::{DWELL_BOUNDS_NANOS, DwellBuckets, exponential::ExponentialBuckets},
        metrics::{GroupLabels, MetricPlace, MetricSeries},
    },
};

/// Facts about an agent that do not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentFacts {
    /// Version of the agent.
    pub version: String,
    /// Kernel hook, as in the event `start`.
    pub hook: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Number of sockets whose times of entry the kernel stores.
    pub max_sockets: u32,
    /// Number of tracked sockets.
    pub max_tracked: u32,
}

impl AgentFacts {
    /// Returns the facts in the event `start`.
    pub fn of(start: &Start) -> Self {
        let Start { version, hook, kernel, max_sockets, max_tracked, .. } = start;
        Self {
            version: version.clone(),
            hook: hook.clone(),
            kernel: kernel.clone().unwrap_or_default(),
            max_sockets: *max_sockets,
            max_tracked: *max_tracked,
        }
    }
}

/// Labels of a series, in the order of the table.
pub type Labels = Vec<(MetricLabel, String)>;

/// Values of one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricFamily {
    /// Metric.
    pub metric: Metric,
    /// MetricSeries.
    pub points: Vec<MetricPoint>,
}

/// One series.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricPoint {
    /// Labels.
    pub labels: Labels,
    /// Value.
    pub value: MetricValue,
}

/// Value of a series.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricValue {
    /// Number of things.
    Integer(u64),
    /// Seconds.
    Float(f64),
    /// Counts in buckets.
    Histogram(HistogramValue),
}

/// Counts in buckets.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramValue {
    /// Sum of all values, seconds.
    pub sum: f64,
    /// Upper bound in seconds, count that is not cumulative, and exemplar of each bucket; the last bound is infinite.
    pub buckets: Vec<(f64, u64, Option<MetricExemplar>)>,
    /// The same values in finer buckets, for native histograms of Prometheus.
    pub exponential: ExponentialBuckets,
}

impl HistogramValue {
    /// Returns the number of all values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |all, (_, count, _)| all.saturating_add(*count))
    }
}

/// Example of a bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MetricExemplar {
    /// Socket cookie, as in events.
    pub cookie: u64,
    /// Inode of the network namespace; `None` if unknown.
    pub netns: Option<u32>,
    /// Value, seconds.
    pub value: f64,
    /// Time of the value.
    pub at: SystemTime,
}

/// Everything that readings are made from.
#[derive(Clone, Debug)]
pub struct ReadingsSource {
    /// Numbers of the engine.
    pub moment: Arc<MomentSnapshot>,
    /// Facts about the agent.
    pub facts: Arc<AgentFacts>,
    /// CPU time and memory.
    pub usage: ProcessUsage,
    /// Number of events that the export over OTLP dropped; `None` without one.
    pub export_losses: Option<u64>,
}

impl ReadingsSource {
    /// Returns the values of all metrics, in the order of the table.
    pub fn readings(&self) -> Vec<MetricFamily> {
        let Self { moment, facts, usage, export_losses } = self;
        let MomentSnapshot { numbers, anchor } = &**moment;
        let wall = |at| seconds_since_1970(anchor.wall(at));
        let oldest = of_groups(&numbers.stuck, |numbers| Some(MetricValue::Float(wall(numbers.oldest?))));
        let incidents = of_series(
            &numbers.incidents,
            |(group, class, severity)| {
                with(group, [(CLASS, class.name().to_owned()), (SEVERITY, severity.name().to_owned())])
            },
            |count| Some(MetricValue::Integer(*count)),
        );
        let exhaustion = of_series(
            &numbers.exhaustion,
            |(group, limit)| with(group, [(RESOURCE, resource(*limit).to_owned())]),
            |left| Some(MetricValue::Float(left.as_secs_f64())),
        );
        let exited = numbers.exits.iter().map(|(how, count)| one(HOW, how.name(), *count)).collect();
        let maps = [("kernel", facts.max_sockets), ("agent", facts.max_tracked)];
        let about = [(VERSION, &facts.version), (HOOK, &facts.hook), (KERNEL, &facts.kernel)];
        let about = about.map(|(label, value)| (label, value.clone())).into();
        let memory = usage.memory.map(|memory| plain(MetricValue::Integer(memory)));
        let frames = numbers.stack_frames.map(|frames| plain(MetricValue::Integer(frames)));
        let dwell = MetricValue::Histogram(histogram(&numbers.dwell, |at| anchor.wall(at)));
        let count = |count| vec![plain(MetricValue::Integer(count))];
        let totals = &numbers.totals;
        let repaired = totals.repaired.saturating_add(totals.phantom).saturating_add(totals.replaced);
        let families = [
            (table::SOCKETS, vec![one(STATE, "close_wait", numbers.sockets)]),
            (table::STUCK, of_groups(&numbers.stuck, |numbers| Some(MetricValue::Integer(numbers.stuck)))),
            (table::INCIDENTS, incidents),
            (table::EXHAUSTION, exhaustion),
            (table::OLDEST, oldest),
            (table::BACKLOG, of_groups(&numbers.backlogs, |numbers| Some(MetricValue::Integer(numbers.waiting)))),
            (table::BACKLOG_LIMIT, of_groups(&numbers.backlogs, |numbers| Some(MetricValue::Integer(numbers.limit)))),
            (table::DWELL, vec![plain(dwell)]),
            (table::ENTERED, count(totals.entered)),
            (table::EXITED, exited),
            (table::DROPPED, dropped(totals, *export_losses)),
            (table::REPAIRED, count(repaired)),
            (table::AGENT_CPU, vec![plain(MetricValue::Float(usage.cpu.as_secs_f64()))]),
            (table::AGENT_MEMORY, memory.into_iter().collect()),
            (table::STACK_FRAMES, frames.into_iter().collect()),
            (table::AGENT_MAP_LIMIT, maps.map(|(map, limit)| one(MAP, map, limit.into())).into()),
            (table::BUILD, vec![MetricPoint { labels: about, value: MetricValue::Integer(1) }]),
        ];
        families.into_iter().map(|(metric, points)| MetricFamily { metric, points }).collect()
    }
}

fn plain(value: MetricValue) -> MetricPoint {
    MetricPoint { labels: Vec::new(), value }
}

fn one(label: MetricLabel, value: &str, count: u64) -> MetricPoint {
    MetricPoint { labels: vec![(label, value.to_owned())], value: MetricValue::Integer(count) }
}

fn seconds_since_1970(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Returns the points of a metric of groups.
fn of_groups<V>(series: &MetricSeries<GroupLabels, V>, value: impl Fn(&V) -> Option<MetricValue>) -> Vec<MetricPoint> {
    of_series(series, |group| with(group, []), value)
}

/// Returns the points of a metric, with the one of all further groups last. A series without a value has no point.
fn of_series<K, V>(
    series: &MetricSeries<K, V>,
    labels: impl Fn(&K) -> Labels,
    value: impl Fn(&V) -> Option<MetricValue>,
) -> Vec<MetricPoint> {
    let each = series.each.iter().map(|(key, numbers)| (labels(key), numbers));
    let rest = series.rest.iter().map(|numbers| (vec![(OVERFLOW, "true".to_owned())], numbers));
    let points = each.chain(rest);
    points.filter_map(|(labels, numbers)| Some(MetricPoint { labels, value: value(numbers)? })).collect()
}

/// Returns the labels of a group and `more`.
fn with<const N: usize>(group: &GroupLabels, more: [(MetricLabel, String); N]) -> Labels {
    let place = match group.place {
        MetricPlace::Port(port) => (PORT, port.to_string()),
        MetricPlace::Remote(remote) => (REMOTE, remote.to_string()),
    };
    let service = group.service.clone().unwrap_or_default();
    [(SERVICE, service), (ROLE, group.role().name().to_owned()), place].into_iter().chain(more).collect()
}

/// Returns the value of the label `resource`.
fn resource(limit: Limit) -> &'static str {
    match limit {
        Limit::Descriptors => "fds",
        Limit::Backlog => "backlog",
        Limit::Connections => "limit",
    }
}

/// Returns the counts of everything that was dropped. The stage `kernel` is absent if the kernel does not count it,
/// and `otlp` without an export of events.
fn dropped(totals: &Totals, export_losses: Option<u64>) -> Vec<MetricPoint> {
    let stages = [
        ("kernel", totals.skipped_by_kernel),
        ("kernel_map", Some(totals.lost_map_full)),
        ("ring_buffer", Some(totals.lost_ring_full)),
        ("decode", Some(totals.undecodable)),
        ("track", Some(totals.untracked)),
        ("group", Some(totals.ungrouped)),
        ("output", Some(totals.unwritten)),
        ("log", Some(totals.log_lines_dropped)),
        ("recording", Some(totals.unrecorded)),
        ("otlp", export_losses),
    ];
    stages.into_iter().filter_map(|(stage, count)| Some(one(STAGE, stage, count?))).collect()
}

fn histogram(dwell: &DwellBuckets, wall: impl Fn(closewait_engine::time::BootTime) -> SystemTime) -> HistogramValue {
    let bounds = DWELL_BOUNDS_NANOS.iter().map(|nanos| *nanos as f64 / 1e9).chain([f64::INFINITY]);
    let buckets = bounds.zip(dwell.counts).zip(&dwell.exemplars).map(|((bound, count), exemplar)| {
        // The kernel's counts are read less often than exits arrive.
        let exemplar = exemplar.filter(|_| count > 0).map(|one| MetricExemplar {
            cookie: one.cookie,
            netns: one.netns,
            value: one.dwell.as_secs_f64(),
            at: wall(one.at),
        });
        (bound, count, exemplar)
    });
    HistogramValue { sum: dwell.sum_seconds, buckets: buckets.collect(), exponential: dwell.exponential.clone() }
}
