//! Format of the page for a scraper, and readings as text for Prometheus.
//!
//! `prometheus-client` writes OpenMetrics 1.0. It has no way to attach exemplars to counts from elsewhere, so they are appended to
//! the lines of their buckets here; and the older text format is made from the lines of OpenMetrics.

use std::{
    fmt::{self, Write as _},
    time::SystemTime,
};

use bytes::Bytes;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{
    protobuf,
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
    /// Prometheus' protobuf format, with exemplars and native histograms.
    Protobuf,
}

impl PageFormat {
    /// Returns the format for a header `Accept`: the one that it names with the highest quality, and of equal ones the first.
    /// Wildcards name none. Without any it is [`Self::Text`], which every scraper reads.
    pub fn negotiated(accept: &str) -> Self {
        let mut best = (0.0, Self::Text);
        for (quality, format) in accept.split(',').filter_map(Self::named) {
            // One that the client refuses has the quality 0.
            if quality > best.0 {
                best = (quality, format);
            }
        }
        best.1
    }

    /// Returns the format that a media range names, and its quality. `None` if it is unknown, of another version, or malformed.
    fn named(range: &str) -> Option<(f64, Self)> {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let value = |name: &str| {
            let found = parameters.iter().find(|(found, _)| found.trim_end().eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim().trim_matches('"'))
        };
        let is = |name: &str, expected: &str| value(name).is_some_and(|value| value.eq_ignore_ascii_case(expected));
        let is_version = |expected: &str| value("version").is_none_or(|version| version == expected);
        let format = match media.to_ascii_lowercase().as_str() {
            "application/openmetrics-text" if is_version("1.0.0") => Self::OpenMetrics,
            "text/plain" if is_version("0.0.4") => Self::Text,
            "application/vnd.google.protobuf"
                if is("proto", "io.prometheus.client.MetricFamily") && is("encoding", "delimited") =>
            {
                Self::Protobuf
            }
            _ => return None,
        };
        let quality = value("q").map_or(Some(1.0), |quality| quality.parse().ok())?;
        (0.0..=1.0).contains(&quality).then_some((quality, format))
    }

    /// Returns the value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// Returns the page of these readings. Text is UTF-8.
    ///
    /// # Errors
    ///
    /// Never, unless `prometheus-client` has a bug: it writes to a string.
    pub fn page(self, families: Vec<MetricFamily>) -> Result<Bytes, fmt::Error> {
        match self {
            Self::OpenMetrics => {
                let exemplars = exemplar_lines(&families);
                Ok(with_exemplars(&encoded(families)?, &exemplars).into())
            }
            Self::Text => Ok(older_format(&encoded(families)?).into()),
            Self::Protobuf => Ok(protobuf::page(&families).into()),
        }
    }
}

/// Returns the page of these readings as `prometheus-client` writes it.
fn encoded(families: Vec<MetricFamily>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Readings(families)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
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
pub(super) mod tests;
