use std::sync::Arc;

use super::*;
use crate::{
    clock::TimeAnchor,
    metrics::{AgentFacts, MomentSnapshot, ProcessUsage, readings::ReadingsSource, table::TABLE},
};
use closewait_engine::{
    Config, Engine,
    model::{Class, Limit},
    snapshot::{
        exits::DwellExemplar,
        metrics::{BacklogNumbers, GroupLabels, MetricPlace, StuckNumbers},
        urgency::Severity,
    },
    time::BootTime,
};

fn families() -> Vec<MetricFamily> {
    let mut numbers = Engine::new(Config::default(), BootTime(0)).metrics(BootTime(0));
    let group = GroupLabels { service: Some("a\nb".to_owned()), place: MetricPlace::Port(8080) };
    let stuck = StuckNumbers { stuck: 3, oldest: Some(BootTime(1_500_000_000)) };
    numbers.stuck.each = vec![(group.clone(), stuck)];
    numbers.stuck.rest = Some(stuck);
    numbers.incidents.each = vec![((group.clone(), Class::Hung, Severity::Critical), 1)];
    numbers.exhaustion.each = vec![((group.clone(), Limit::Descriptors), Duration::from_millis(37_500))];
    numbers.backlogs.each = vec![(group, BacklogNumbers { waiting: 129, limit: 128 })];
    let dwell = Duration::from_millis(700);
    let exemplar = DwellExemplar { cookie: 77, netns: Some(5), dwell, at: BootTime(2_000_000_000) };
    (numbers.dwell.counts[3], numbers.dwell.exemplars[3]) = (2, Some(exemplar));
    numbers.dwell.sum_seconds = 1.4;
    numbers.stack_frames = Some(1280);
    numbers.totals.skipped_by_kernel = Some(6);
    let anchor = TimeAnchor::booted_at(UNIX_EPOCH + Duration::from_secs(1000));
    ReadingsSource {
        moment: Arc::new(MomentSnapshot { numbers, anchor }),
        facts: Arc::new(AgentFacts::default()),
        usage: ProcessUsage { cpu: Duration::from_millis(1250), memory: Some(6 << 20) },
        export_losses: Some(4),
    }
    .readings()
}

fn exported(is_pinned: bool) -> Vec<OtlpMetric> {
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let starts = CountStarts::new(at(1500), at(1000) + Duration::from_millis(1), is_pinned);
    let mut request = request(&families(), &Resource::default(), starts, at(2000));
    request.resource_metrics.remove(0).scope_metrics.remove(0).metrics
}

fn sum(metrics: &[OtlpMetric], metric: &Metric) -> Sum {
    let found = metrics.iter().find(|one| one.name == metric.otlp_name).unwrap();
    let Some(Data::Sum(sum)) = found.data.clone() else { panic!("{found:?}") };
    sum
}

#[test]
fn every_metric_of_the_table_is_exported_with_its_unit() {
    let metrics = exported(false);
    let names: Vec<_> = metrics.iter().map(|metric| (metric.name.as_str(), metric.unit.as_str())).collect();
    let expected: Vec<_> = TABLE.iter().map(|metric| (metric.otlp_name, metric.unit.ucum())).collect();
    assert_eq!(names, expected);
}

#[test]
fn counters_are_cumulative_and_have_a_start() {
    let seconds =
        |sum: &Sum| sum.data_points.iter().map(|one| one.start_time_unix_nano / 1_000_000_000).collect::<Vec<_>>();
    let metrics = exported(false);
    let entered = sum(&metrics, &table::ENTERED);
    assert!(entered.is_monotonic && entered.aggregation_temporality() == AggregationTemporality::Cumulative);
    assert_eq!(seconds(&entered), [1500]);
    // The maps of an earlier agent may have counted since the boot.
    let metrics = exported(true);
    assert_eq!(seconds(&sum(&metrics, &table::ENTERED)), [1000]);
    let dropped = sum(&metrics, &table::DROPPED);
    let stages: Vec<(String, u64)> = dropped
        .data_points
        .iter()
        .map(|one| (format!("{:?}", one.attributes[0].value), one.start_time_unix_nano / 1_000_000_000))
        .collect();
    for (stage, start) in stages {
        let is_kernels = ["\"kernel\"", "\"kernel_map\"", "\"ring_buffer\""].iter().any(|one| stage.contains(one));
        assert_eq!(start, if is_kernels { 1000 } else { 1500 }, "{stage}");
    }
    let otlp = dropped.data_points.last().unwrap();
    assert_eq!(otlp.value, Some(number_data_point::Value::AsInt(4)), "the stage otlp");
}

#[test]
fn a_clock_that_was_set_back_leaves_no_start_in_the_future() {
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let starts = CountStarts::new(at(1500), at(1000), false);
    assert_eq!(starts.of(&table::ENTERED, &Vec::new(), at(1400)), 1_400_000_000_000);
}

#[test]
fn the_histogram_has_bounds_counts_and_exemplars() {
    let metrics = exported(false);
    let dwell = metrics.iter().find(|metric| metric.name == table::DWELL.otlp_name).unwrap();
    let Some(Data::Histogram(Histogram { data_points, .. })) = &dwell.data else { panic!("{dwell:?}") };
    let [point] = data_points.as_slice() else { panic!("{data_points:?}") };
    assert_eq!((point.count, point.sum), (2, Some(1.4)));
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert_eq!(point.bucket_counts.iter().sum::<u64>(), 2);
    assert!(point.explicit_bounds.is_sorted_by(|one, next| one < next));
    let [exemplar] = point.exemplars.as_slice() else { panic!("{:?}", point.exemplars) };
    assert_eq!(exemplar.filtered_attributes[0], attribute("closewait.socket.cookie", Any::IntValue(77)));
    assert_eq!((exemplar.time_unix_nano, &exemplar.value), (1_002_000_000_000, &Some(exemplar::Value::AsDouble(0.7))));
}

#[test]
fn attributes_have_their_types() {
    let metrics = exported(false);
    let stuck = metrics.iter().find(|metric| metric.name == table::STUCK.otlp_name).unwrap();
    let Some(Data::Gauge(Gauge { data_points })) = &stuck.data else { panic!("{stuck:?}") };
    let [group, rest] = data_points.as_slice() else { panic!("{data_points:?}") };
    assert!(group.attributes.contains(&attribute("network.local.port", Any::IntValue(8080))), "{group:?}");
    assert!(group.attributes.contains(&attribute("closewait.service", Any::StringValue("a\nb".to_owned()))));
    assert_eq!(rest.attributes, [attribute("otel.metric.overflow", Any::BoolValue(true))]);
}
