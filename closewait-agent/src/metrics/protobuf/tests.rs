use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::metrics::prometheus::{
    PageFormat,
    tests::{nothing, numbers, server, source},
};
use closewait_engine::snapshot::metrics::{MAX_SERIES, MetricsSnapshot, StuckNumbers};

/// Returns the messages of a page.
fn decoded(numbers: MetricsSnapshot) -> Vec<FamilyMessage> {
    let page = PageFormat::Protobuf.page(source(numbers).readings()).unwrap();
    let (mut rest, mut families) = (page.as_ref(), Vec::new());
    while !rest.is_empty() {
        families.push(FamilyMessage::decode_length_delimited(&mut rest).unwrap());
    }
    families
}

fn text(format: PageFormat, numbers: MetricsSnapshot) -> String {
    String::from_utf8(format.page(source(numbers).readings()).unwrap().into()).unwrap()
}

/// Returns labels as the text formats write them.
fn notation(labels: &[(String, String)]) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) }
}

fn pairs(labels: &[LabelMessage]) -> Vec<(String, String)> {
    labels.iter().map(|label| (label.name.clone().unwrap(), label.value.clone().unwrap())).collect()
}

/// Returns the values of a page by the name and labels of their series, and the exemplars of buckets.
fn samples(families: &[FamilyMessage]) -> (BTreeMap<String, f64>, BTreeMap<String, String>) {
    let (mut values, mut exemplars) = (BTreeMap::new(), BTreeMap::new());
    let mut add = |series: String, value| assert_eq!(values.insert(series.clone(), value), None, "{series}");
    for family in families {
        let name = family.name.clone().unwrap();
        for metric in &family.metrics {
            let labels = pairs(&metric.labels);
            let (gauge, counter) = (&metric.gauge, &metric.counter);
            if let Some(number) = gauge.or(*counter) {
                let is_counter = family.kind == Some(TypeMessage::Counter.into());
                assert_eq!(
                    (gauge.is_none(), counter.is_some(), metric.histogram.is_none()),
                    (is_counter, is_counter, true)
                );
                add(name.clone() + &notation(&labels), number.value.unwrap());
                continue;
            }
            let histogram = metric.histogram.as_ref().unwrap();
            assert_eq!(family.kind, Some(TypeMessage::Histogram.into()));
            add(format!("{name}_count{}", notation(&labels)), histogram.count.unwrap() as f64);
            add(format!("{name}_sum{}", notation(&labels)), histogram.sum.unwrap());
            for bucket in &histogram.buckets {
                let bound = bucket.upper_bound.unwrap();
                let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
                let labels = [labels.clone(), vec![("le".to_owned(), bound)]].concat();
                let series = format!("{name}_bucket{}", notation(&labels));
                if let Some(ExemplarMessage { labels, value, timestamp }) = &bucket.exemplar {
                    let TimestampMessage { seconds, nanos } = timestamp.unwrap();
                    let labels = notation(&pairs(labels));
                    let text = format!("{labels} {} {seconds}.{:03}", value.unwrap(), nanos / 1_000_000);
                    exemplars.insert(series.clone(), text);
                }
                add(series, bucket.cumulative_count.unwrap() as f64);
            }
        }
    }
    (values, exemplars)
}

#[test]
fn the_page_has_the_series_values_types_and_helps_of_the_text_page() {
    for numbers in [numbers(), nothing()] {
        let families = decoded(numbers.clone());
        let page = text(PageFormat::Text, numbers);
        let lines = page.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap());
        let expected: BTreeMap<_, _> =
            lines.map(|(series, value)| (series.to_owned(), value.parse::<f64>().unwrap())).collect();
        assert_eq!(samples(&families).0, expected);
        let mut about = Vec::new();
        for family in &families {
            let kind = match TypeMessage::try_from(family.kind.unwrap()).unwrap() {
                TypeMessage::Counter => "counter",
                TypeMessage::Gauge => "gauge",
                TypeMessage::Histogram => "histogram",
            };
            let (name, help) = (family.name.as_ref().unwrap(), family.help.as_ref().unwrap());
            about.push(format!("# HELP {name} {help}"));
            about.push(format!("# TYPE {name} {kind}"));
        }
        // Text also names the metrics without series.
        let comments: Vec<_> = page.lines().filter(|line| line.starts_with('#')).collect();
        assert!(about.iter().all(|line| comments.contains(&line.as_str())), "{about:?}");
        let has_series = |name: &&str| expected.keys().any(|series| series.starts_with(*name));
        let with_series: Vec<_> = comments
            .iter()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .filter(has_series)
            .collect();
        let names: Vec<_> = families.iter().map(|family| family.name.clone().unwrap()).collect();
        assert_eq!(names, with_series);
    }
}

#[test]
fn units_are_the_suffixes_of_their_metrics() {
    for family in decoded(numbers()) {
        let name = family.name.unwrap();
        let stem = name.strip_suffix("_total").unwrap_or(&name);
        // Prometheus 3 refuses a page with another unit.
        assert!(
            family.unit.clone().is_none_or(|unit| stem.ends_with(&format!("_{unit}"))),
            "{name}: {:?}",
            family.unit
        );
        assert_eq!(family.unit.is_some(), stem.ends_with("_seconds") || stem.ends_with("_bytes"), "{name}");
    }
}

#[test]
fn buckets_have_the_exemplars_of_openmetrics() {
    let page = text(PageFormat::OpenMetrics, numbers());
    let lines = page.lines().filter_map(|line| line.split_once(" # "));
    let expected: BTreeMap<_, _> =
        lines.map(|(sample, exemplar)| (sample.rsplit_once(' ').unwrap().0.to_owned(), exemplar.to_owned())).collect();
    assert_eq!((samples(&decoded(numbers())).1, expected.len()), (expected, 1));
}

/// Returns the histogram of a page with these buckets, and as many values in the classic ones.
fn histogram_of(exponential: ExponentialBuckets) -> HistogramMessage {
    let mut numbers = numbers();
    numbers.dwell.counts = Default::default();
    numbers.dwell.counts[5] =
        exponential.counts.iter().fold(exponential.zero, |sum, (_, count)| sum.saturating_add(*count));
    numbers.dwell.exponential = exponential;
    let histograms = decoded(numbers).into_iter().filter_map(|family| family.metrics.into_iter().next()?.histogram);
    let [histogram] = <[_; 1]>::try_from(histograms.collect::<Vec<_>>()).unwrap();
    histogram
}

/// Returns the buckets of a native histogram, as a scraper reads them.
fn buckets(histogram: &HistogramMessage) -> ExponentialBuckets {
    let (mut index, mut count) = (0, 0);
    let (mut counts, mut deltas) = (Vec::new(), histogram.deltas.iter());
    for span in &histogram.spans {
        index += span.offset.unwrap();
        for _ in 0..span.length.unwrap() {
            count += deltas.next().unwrap();
            counts.push((index, u64::try_from(count).unwrap()));
            index += 1;
        }
    }
    assert_eq!(deltas.next(), None);
    ExponentialBuckets { zero: histogram.zero_count.unwrap(), counts }
}

#[test]
fn a_native_histogram_has_spans_of_consecutive_buckets() {
    let counts = vec![(-478, 5), (-477, 2), (-475, 2), (0, 9), (1, 9), (546, 1)];
    let histogram = histogram_of(ExponentialBuckets { zero: 3, counts });
    let spans: Vec<_> = histogram.spans.iter().map(|span| (span.offset.unwrap(), span.length.unwrap())).collect();
    assert_eq!(spans, [(-478, 2), (1, 1), (474, 2), (544, 1)]);
    assert_eq!(histogram.deltas, [5, -3, 0, 7, 0, -8]);
    assert_eq!((histogram.schema, histogram.zero_threshold), (Some(4), Some((-128.0_f64).exp2())));
    assert_eq!((histogram.count, histogram.zero_count), (Some(31), Some(3)));
}

proptest! {
    #[test]
    fn a_native_histogram_has_the_counts_of_its_buckets(
        counts in prop::collection::btree_map(-478_i32..=546, 1_u64..1 << 50, 0..300),
        zero in 0_u64..1 << 50,
    ) {
        let exponential = ExponentialBuckets { zero, counts: counts.into_iter().collect() };
        let histogram = histogram_of(exponential.clone());
        prop_assert_eq!(buckets(&histogram), exponential);
        // Consecutive buckets are one span.
        prop_assert!(histogram.spans.iter().skip(1).all(|span| span.offset.unwrap() > 0));
    }
}

#[test]
fn without_values_the_histogram_is_native_all_the_same() {
    let histogram = histogram_of(ExponentialBuckets::default());
    assert!(histogram.schema.is_some() && histogram.zero_threshold > Some(0.0));
    assert_eq!((histogram.count, buckets(&histogram)), (Some(0), ExponentialBuckets::default()));
}

#[test]
fn counts_that_no_scraper_takes_are_not_native() {
    for (zero, counts) in [(u64::MAX, vec![(0, 1)]), (0, vec![(0, u64::MAX)]), (1, vec![(0, i64::MAX as u64)])] {
        let histogram = histogram_of(ExponentialBuckets { zero, counts });
        assert_eq!((histogram.schema, histogram.zero_threshold, histogram.spans.len()), (None, None, 0));
        assert_eq!(histogram.count, histogram.buckets.last().unwrap().cumulative_count);
    }
}

#[test]
fn a_page_of_the_largest_number_of_series_is_bounded() {
    let mut numbers = numbers();
    let name = "\"\\\n".repeat(42);
    let stuck = StuckNumbers { stuck: u64::MAX, oldest: None };
    numbers.stuck.each = (1..MAX_SERIES).map(|port| (server(&name, port as u16), stuck)).collect();
    let page = PageFormat::Protobuf.page(source(numbers.clone()).readings()).unwrap();
    assert!(page.len() < 1 << 20, "{} bytes", page.len());
    let families = decoded(numbers);
    let stuck = families.iter().find(|family| family.name.as_deref() == Some("closewait_stuck_sockets")).unwrap();
    assert_eq!(stuck.metrics.len(), MAX_SERIES);
    assert!(stuck.metrics.iter().any(|one| pairs(&one.labels)[0].1 == name), "a name keeps its bytes");
}
