//! Readings in Prometheus' protobuf format, the only one that has native histograms.
//!
//! A histogram is sent as both, classic and native: the scraper takes what it was set up for.

mod messages;

use std::time::SystemTime;

use prost::Message as _;

use self::messages::{
    BucketMessage, ExemplarMessage, FamilyMessage, HistogramMessage, LabelMessage, NumberMessage, SeriesMessage,
    SpanMessage, TimestampMessage, TypeMessage,
};
use super::{
    readings::{HistogramValue, MetricExemplar, MetricFamily, MetricPoint, MetricValue},
    table::MetricKind,
};
use closewait_engine::snapshot::exits::exponential::{ExponentialBuckets, SCHEMA};

/// Upper bound of the bucket for dwell times of 0 ns: the one of Prometheus' own client libraries, 2^-128 s. Every other dwell time
/// is above it.
const ZERO_THRESHOLD: f64 = 1.0 / (1_u128 << 127) as f64 / 2.0;

/// Returns the page of these readings: a message for each metric that has series, each after its length.
pub(super) fn page(families: &[MetricFamily]) -> Vec<u8> {
    let mut page = Vec::new();
    for family in families.iter().filter(|family| !family.points.is_empty()) {
        page.extend(message(family).encode_length_delimited_to_vec());
    }
    page
}

fn message(MetricFamily { metric, points }: &MetricFamily) -> FamilyMessage {
    let kind = match metric.kind {
        MetricKind::Gauge | MetricKind::Info => TypeMessage::Gauge,
        MetricKind::Counter => TypeMessage::Counter,
        MetricKind::Histogram => TypeMessage::Histogram,
    };
    FamilyMessage {
        name: Some(metric.full_name()),
        help: Some(metric.help.to_owned()),
        kind: Some(kind.into()),
        metrics: points.iter().map(|point| series(kind, point)).collect(),
        unit: metric.unit.suffix().map(str::to_owned),
    }
}

fn series(kind: TypeMessage, MetricPoint { labels, value }: &MetricPoint) -> SeriesMessage {
    let mut series = SeriesMessage {
        labels: labels.iter().map(|(name, value)| label(name.name, value.clone())).collect(),
        ..SeriesMessage::default()
    };
    // The format has no integers: counts above 2^53 are rounded, as by every scraper.
    let number = |value| Some(NumberMessage { value: Some(value) });
    let number = match value {
        MetricValue::Histogram(value) => {
            series.histogram = Some(histogram(value));
            return series;
        }
        MetricValue::Integer(value) => number(*value as f64),
        MetricValue::Float(value) => number(*value),
    };
    match kind {
        TypeMessage::Counter => series.counter = number,
        TypeMessage::Gauge | TypeMessage::Histogram => series.gauge = number,
    }
    series
}

fn label(name: &str, value: String) -> LabelMessage {
    LabelMessage { name: Some(name.to_owned()), value: Some(value) }
}

fn histogram(value: &HistogramValue) -> HistogramMessage {
    let mut cumulative = 0_u64;
    let buckets = value.buckets.iter().map(|(bound, count, example)| {
        cumulative = cumulative.saturating_add(*count);
        // Scrapers take those of a native histogram from here, too.
        let exemplar = example.map(exemplar);
        BucketMessage { cumulative_count: Some(cumulative), upper_bound: Some(*bound), exemplar }
    });
    let classic = HistogramMessage {
        count: Some(value.count()),
        sum: Some(value.sum),
        buckets: buckets.collect(),
        ..HistogramMessage::default()
    };
    let Some((spans, deltas)) = native(&value.exponential, value.count()) else { return classic };
    HistogramMessage {
        schema: Some(SCHEMA),
        zero_threshold: Some(ZERO_THRESHOLD),
        zero_count: Some(value.exponential.zero),
        spans,
        deltas,
        ..classic
    }
}

/// Returns the buckets of a native histogram of `all` values. `None` if the counts are so large that they are not those of a kernel:
/// a scraper would refuse the whole page.
fn native(buckets: &ExponentialBuckets, all: u64) -> Option<(Vec<SpanMessage>, Vec<i64>)> {
    let ExponentialBuckets { zero, counts } = buckets;
    let sum = counts.iter().try_fold(*zero, |sum, (_, count)| sum.checked_add(*count))?;
    if sum != all || i64::try_from(sum).is_err() {
        return None;
    }
    let (mut spans, mut deltas) = (Vec::<SpanMessage>::new(), Vec::with_capacity(counts.len()));
    // Index after the last bucket, and its count.
    let (mut next, mut before) = (0, 0);
    for (index, count) in counts {
        match spans.last_mut() {
            Some(span) if *index == next => span.length = span.length.map(|length| length + 1),
            _ => spans.push(SpanMessage { offset: Some(*index - next), length: Some(1) }),
        }
        let count = i64::try_from(*count).ok()?;
        deltas.push(count - before);
        (next, before) = (*index + 1, count);
    }
    Some((spans, deltas))
}

fn exemplar(MetricExemplar { cookie, netns, value, at }: MetricExemplar) -> ExemplarMessage {
    let netns = netns.map(|netns| label("netns", netns.to_string()));
    let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    ExemplarMessage {
        labels: [label("cookie", cookie.to_string())].into_iter().chain(netns).collect(),
        value: Some(value),
        timestamp: Some(TimestampMessage {
            seconds: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
            nanos: at.subsec_nanos().cast_signed(),
        }),
    }
}

#[cfg(test)]
mod tests;
