//! Metrics, made from the readings that the page for Prometheus is made from, too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{KeyValue, any_value::Value as Any},
    metrics::v1::{
        AggregationTemporality, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric as OtlpMetric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, exemplar, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};

use super::resource::{attribute, nanos, scope};
use crate::metrics::{
    readings::{HistogramValue, Labels, MetricExemplar, MetricFamily, MetricPoint, MetricValue},
    table::{self, Metric, MetricKind},
};

/// Times at which counts began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CountStarts {
    /// Start of the agent.
    agent: SystemTime,
    /// Start of the counts in the kernel.
    kernel: SystemTime,
}

impl CountStarts {
    /// Returns the starts of an agent that started at `agent` on a host that booted at `boot`. Pinned maps may have counted since
    /// the boot, in whole seconds, so that all agents that continue them name the same time.
    pub(super) fn new(agent: SystemTime, boot: SystemTime, is_pinned: bool) -> Self {
        let whole = Duration::from_secs(boot.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        Self { agent, kernel: if is_pinned { UNIX_EPOCH + whole } else { agent } }
    }

    /// Returns the start of a count, nanoseconds since 1970; `now` at most, if the clock was set back.
    fn of(&self, metric: &Metric, labels: &Labels, now: SystemTime) -> u64 {
        let is_kernels_stage =
            |value: &str| matches!(value, "kernel" | "kernel_map" | "ring_buffer") && *metric == table::DROPPED;
        let is_kernels = *metric == table::ENTERED
            || *metric == table::DWELL
            || labels.iter().any(|(label, value)| *label == table::STAGE && is_kernels_stage(value));
        nanos(if is_kernels { self.kernel } else { self.agent }.min(now))
    }
}

/// Returns the request for the readings at `now`. Metrics without a value are left out.
pub(super) fn request(
    families: &[MetricFamily],
    resource: &Resource,
    starts: CountStarts,
    now: SystemTime,
) -> ExportMetricsServiceRequest {
    let with_values = families.iter().filter(|family| !family.points.is_empty());
    let metrics = with_values.map(|family| metric(family, starts, now)).collect();
    let scope_metrics = ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() };
    let metrics = ResourceMetrics {
        resource: Some(resource.clone()),
        scope_metrics: vec![scope_metrics],
        ..ResourceMetrics::default()
    };
    ExportMetricsServiceRequest { resource_metrics: vec![metrics] }
}

fn metric(MetricFamily { metric, points }: &MetricFamily, starts: CountStarts, now: SystemTime) -> OtlpMetric {
    let temporality = AggregationTemporality::Cumulative.into();
    let start = |point: &MetricPoint| starts.of(metric, &point.labels, now);
    let numbers = || points.iter().filter_map(|point| number(point, start(point), nanos(now))).collect();
    let data = match metric.kind {
        MetricKind::Gauge | MetricKind::Info => {
            // A value of this moment has no start.
            let data_points = points.iter().filter_map(|point| number(point, 0, nanos(now))).collect();
            Data::Gauge(Gauge { data_points })
        }
        MetricKind::Counter => {
            Data::Sum(Sum { data_points: numbers(), aggregation_temporality: temporality, is_monotonic: true })
        }
        MetricKind::Histogram => {
            let data_points = points.iter().filter_map(|point| histogram(point, start(point), nanos(now))).collect();
            Data::Histogram(Histogram { data_points, aggregation_temporality: temporality })
        }
    };
    OtlpMetric {
        name: metric.otlp_name.to_owned(),
        description: metric.help.to_owned(),
        unit: metric.unit.ucum().to_owned(),
        data: Some(data),
        ..OtlpMetric::default()
    }
}

fn number(point: &MetricPoint, start: u64, at: u64) -> Option<NumberDataPoint> {
    let value = match &point.value {
        MetricValue::Integer(number) => number_data_point::Value::AsInt(i64::try_from(*number).unwrap_or(i64::MAX)),
        MetricValue::Float(number) => number_data_point::Value::AsDouble(*number),
        MetricValue::Histogram(_) => return None,
    };
    Some(NumberDataPoint {
        attributes: attributes(&point.labels),
        start_time_unix_nano: start,
        time_unix_nano: at,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram(point: &MetricPoint, start: u64, at: u64) -> Option<HistogramDataPoint> {
    let MetricValue::Histogram(histogram) = &point.value else { return None };
    let HistogramValue { sum, buckets, .. } = histogram;
    Some(HistogramDataPoint {
        attributes: attributes(&point.labels),
        start_time_unix_nano: start,
        time_unix_nano: at,
        count: histogram.count(),
        sum: Some(*sum),
        bucket_counts: buckets.iter().map(|(_, count, _)| *count).collect(),
        // The last bucket has no upper bound.
        explicit_bounds: buckets.iter().map(|(bound, ..)| *bound).filter(|bound| bound.is_finite()).collect(),
        exemplars: buckets.iter().filter_map(|(.., exemplar)| exemplar.map(otlp_exemplar)).collect(),
        ..HistogramDataPoint::default()
    })
}

fn otlp_exemplar(MetricExemplar { cookie, netns, value, at }: MetricExemplar) -> Exemplar {
    // The kernel counts cookies from 1.
    let cookie = Any::IntValue(i64::try_from(cookie).unwrap_or(i64::MAX));
    let cookie = [attribute("closewait.socket.cookie", cookie)];
    let netns = netns.map(|netns| attribute("closewait.netns", Any::IntValue(netns.into())));
    Exemplar {
        filtered_attributes: cookie.into_iter().chain(netns).collect(),
        time_unix_nano: nanos(at),
        value: Some(exemplar::Value::AsDouble(value)),
        ..Exemplar::default()
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    let of_label = |(label, value): &(table::MetricLabel, String)| {
        let number = || value.parse().map_or_else(|_error| Any::StringValue(value.clone()), Any::IntValue);
        let value = if *label == table::OVERFLOW {
            Any::BoolValue(value == "true")
        } else if *label == table::PORT {
            number()
        } else {
            Any::StringValue(value.clone())
        };
        attribute(label.otlp_name, value)
    };
    labels.iter().map(of_label).collect()
}

#[cfg(test)]
mod tests;
