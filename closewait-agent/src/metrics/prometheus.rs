//! Readings as text for Prometheus.
//!
//! `prometheus-client` writes OpenMetrics 1.0. It has no way to attach exemplars to counts from elsewhere, so they are appended to
//! the lines of their buckets here; and the older text format is made from the lines of OpenMetrics.

use std::{
    fmt::{self, Write as _},
    time::SystemTime,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{
    readings::{HistogramValue, MetricExemplar, MetricFamily, MetricPoint, MetricValue},
    table::{MetricKind, MetricUnit, PREFIX},
};

/// Maximum length of the labels of an exemplar, characters (OpenMetrics 1.0, "Exemplars"): the names and values, without quotes.
const MAX_EXEMPLAR_CHARS: usize = 128;

/// Format of a page of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFormat {
    /// OpenMetrics 1.0, with exemplars.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Text,
}

impl PageFormat {
    /// Returns the format for a header `Accept`: OpenMetrics if it names that with the version 1.0 or without any, and with a
    /// quality that is not 0.
    pub fn negotiated(accept: &str) -> Self {
        let accepts = |range: &str| {
            let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
            let is_type = parts.next().is_some_and(|media| media == "application/openmetrics-text");
            let rest: Vec<String> = parts.collect();
            let value = |name: &str| {
                let found = rest.iter().find_map(|part| part.strip_prefix(name)?.trim_start().strip_prefix('='));
                found.map(|value| value.trim().trim_matches('"'))
            };
            let is_refused = value("q").is_some_and(|quality| quality.parse() == Ok(0.0));
            is_type && !is_refused && value("version").is_none_or(|version| version == "1.0.0")
        };
        if accept.split(',').any(accepts) { Self::OpenMetrics } else { Self::Text }
    }

    /// Returns the value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Returns the page of these readings.
    ///
    /// # Errors
    ///
    /// Never, unless `prometheus-client` has a bug: it writes to a string.
    pub fn page(self, families: Vec<MetricFamily>) -> Result<String, fmt::Error> {
        let exemplars = exemplar_lines(&families);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Readings(families)));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(match self {
            Self::OpenMetrics => with_exemplars(&text, &exemplars),
            Self::Text => older_format(&text),
        })
    }
}

/// Readings that `prometheus-client` encodes.
#[derive(Debug)]
struct Readings(Vec<MetricFamily>);

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for MetricFamily { metric, points } in &self.0 {
            let unit = match metric.unit {
                MetricUnit::Number(_) => None,
                MetricUnit::Seconds => Some(Unit::Seconds),
                MetricUnit::Bytes => Some(Unit::Bytes),
            };
            let kind = match metric.kind {
                MetricKind::Gauge => MetricType::Gauge,
                MetricKind::Counter => MetricType::Counter,
                MetricKind::Histogram => MetricType::Histogram,
                MetricKind::Info => MetricType::Info,
            };
            let name = format!("{PREFIX}_{}", metric.name);
            let mut family = encoder.encode_descriptor(&name, metric.help, unit.as_ref(), kind)?;
            points.iter().try_for_each(|point| encode_point(&mut family, metric.kind, point))?;
        }
        Ok(())
    }
}

fn encode_point(family: &mut MetricEncoder<'_>, kind: MetricKind, point: &MetricPoint) -> fmt::Result {
    let labels: Vec<(&str, &str)> = point.labels.iter().map(|(label, value)| (label.name, value.as_str())).collect();
    if kind == MetricKind::Info {
        return family.encode_info(&labels);
    }
    if labels.is_empty() {
        return encode_value(family, kind, &point.value);
    }
    encode_value(&mut family.encode_family(&labels)?, kind, &point.value)
}

fn encode_value(point: &mut MetricEncoder<'_>, kind: MetricKind, value: &MetricValue) -> fmt::Result {
    match value {
        MetricValue::Histogram(histogram) => {
            let buckets: Vec<_> = histogram.buckets.iter().map(|(bound, count, _)| (*bound, *count)).collect();
            point.encode_histogram::<NoLabelSet>(histogram.sum, histogram.count(), &buckets, None)
        }
        MetricValue::Integer(count) if kind == MetricKind::Counter => {
            point.encode_counter::<NoLabelSet, _, u64>(count, None)
        }
        MetricValue::Float(count) if kind == MetricKind::Counter => {
            point.encode_counter::<NoLabelSet, _, f64>(count, None)
        }
        MetricValue::Integer(number) => point.encode_gauge(number),
        MetricValue::Float(number) => point.encode_gauge(number),
    }
}

/// Exemplars of the lines of a histogram without labels, by the beginning of the lines, in the order of the buckets.
type ExemplarLines = Vec<(String, Vec<Option<String>>)>;

fn exemplar_lines(families: &[MetricFamily]) -> ExemplarLines {
    let of_family = |family: &MetricFamily| {
        let [MetricPoint { labels, value: MetricValue::Histogram(histogram) }] = family.points.as_slice() else {
            return None;
        };
        let start = format!("{}_bucket{{", family.metric.family());
        labels.is_empty().then(|| (start, bucket_exemplars(histogram)))
    };
    families.iter().filter_map(of_family).collect()
}

fn bucket_exemplars(histogram: &HistogramValue) -> Vec<Option<String>> {
    histogram.buckets.iter().map(|(.., exemplar)| exemplar.map(exemplar_text)).collect()
}

/// Returns the exemplar as it follows the value of a bucket.
fn exemplar_text(exemplar: MetricExemplar) -> String {
    let MetricExemplar { cookie, netns, value, at } = exemplar;
    let mut labels = format!("cookie=\"{cookie}\"");
    if let Some(netns) = netns {
        // Writing to a String cannot fail.
        let _infallible: fmt::Result = write!(labels, ",netns=\"{netns}\"");
    }
    debug_assert!(labels.len() <= MAX_EXEMPLAR_CHARS, "two numbers are shorter");
    let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!(" # {{{labels}}} {value} {}.{:03}", at.as_secs(), at.subsec_millis())
}

/// Appends the exemplars to the lines of their buckets.
fn with_exemplars(text: &str, exemplars: &ExemplarLines) -> String {
    let mut page = String::with_capacity(text.len() + 1024);
    let mut next = exemplars.iter().map(|(start, buckets)| (start, buckets.iter())).collect::<Vec<_>>();
    for line in text.lines() {
        page.push_str(line);
        let of_line = next.iter_mut().find(|(start, _)| line.starts_with(start.as_str()));
        if let Some(Some(exemplar)) = of_line.and_then(|(_, buckets)| buckets.next()) {
            page.push_str(exemplar);
        }
        page.push('\n');
    }
    page
}

/// Returns the lines of OpenMetrics in the text format 0.0.4: counters and infos have their suffix in `# HELP` and `# TYPE`, and
/// there are no units and no end mark. Label values never contain a line feed, because it is escaped.
fn older_format(text: &str) -> String {
    let mut page = String::with_capacity(text.len());
    let mut help = "";
    for line in text.lines() {
        if let Some(found) = line.strip_prefix("# HELP ") {
            // Its name depends on the type, which follows.
            help = found.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|found| found.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            // Writing to a String cannot fail.
            let _infallible: fmt::Result = writeln!(page, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            page.push_str(line);
            page.push('\n');
        }
    }
    page
}

#[cfg(test)]
mod tests;
