use std::{
    collections::BTreeSet,
    io::Write as _,
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tests_support::engine::has_engine;

use super::*;
use crate::{
    clock::TimeAnchor,
    metrics::{AgentFacts, MomentSnapshot, ProcessUsage, readings::ReadingsSource, table::TABLE},
};
use closewait_engine::{
    Config, Engine,
    model::{Class, Endpoint, Limit},
    snapshot::{
        exits::DwellExemplar,
        metrics::{BacklogNumbers, GroupLabels, MAX_SERIES, MetricPlace, MetricsSnapshot, StuckNumbers},
        urgency::Severity,
    },
    text::Comm,
    time::BootTime,
};

/// Name that tries to end its label, its line and the page.
const HOSTILE: &str = "a\"} 1\n# EOF\nb\\\u{202e}é";

pub(in crate::metrics) fn server(service: &str, port: u16) -> GroupLabels {
    GroupLabels { service: Some(service.to_owned()), place: MetricPlace::Port(port) }
}

fn client(number: u32) -> GroupLabels {
    let remote = Endpoint { address: Ipv4Addr::from_bits(0x0a00_0000 + number).into(), port: 443 };
    GroupLabels { service: None, place: MetricPlace::Remote(remote) }
}

/// Returns the numbers of an agent without sockets.
pub(in crate::metrics) fn nothing() -> MetricsSnapshot {
    Engine::new(Config::default(), BootTime(0)).metrics(BootTime(0))
}

/// Returns numbers in which every metric has a series, one with a hostile name.
pub(in crate::metrics) fn numbers() -> MetricsSnapshot {
    let mut numbers = nothing();
    let stuck = StuckNumbers { stuck: 3, oldest: Some(BootTime(1_500_000_000)) };
    let group = server(HOSTILE, 8080);
    numbers.sockets = 3;
    numbers.stuck.each = vec![(client(7), stuck), (group.clone(), stuck)];
    numbers.stuck.rest = Some(stuck);
    numbers.incidents.each = vec![((group.clone(), Class::Hung, Severity::Critical), 1)];
    numbers.exhaustion.each = vec![((group.clone(), Limit::Descriptors), Duration::from_millis(37_500))];
    numbers.backlogs.each = vec![(group, BacklogNumbers { waiting: 129, limit: 128 })];
    let dwell = Duration::from_millis(700);
    let exemplar = DwellExemplar { cookie: u64::MAX, netns: Some(u32::MAX), dwell, at: BootTime(2_000_000_000) };
    (numbers.dwell.counts[3], numbers.dwell.exemplars[3]) = (2, Some(exemplar));
    numbers.dwell.sum_seconds = 1.4;
    numbers.stack_frames = Some(1280);
    numbers.dwell.exponential.counts = vec![(-8, 2)];
    numbers
}

pub(in crate::metrics) fn source(numbers: MetricsSnapshot) -> ReadingsSource {
    let anchor = TimeAnchor::booted_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
    let facts = AgentFacts {
        version: "1.2.3".to_owned(),
        hook: "btf".to_owned(),
        kernel: "6.12.1".to_owned(),
        max_sockets: 262_144,
        max_tracked: 1_000_000,
    };
    let usage = ProcessUsage { cpu: Duration::from_millis(1250), memory: Some(6 << 20) };
    ReadingsSource {
        moment: Arc::new(MomentSnapshot { numbers, anchor }),
        facts: Arc::new(facts),
        usage,
        export_losses: Some(4),
    }
}

fn page(format: PageFormat, numbers: MetricsSnapshot) -> String {
    String::from_utf8(format.page(source(numbers).readings()).unwrap().into()).unwrap()
}

/// Returns the lines of samples of a metric.
fn samples<'p>(page: &'p str, name: &str) -> Vec<&'p str> {
    let is_of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    page.lines().filter(is_of).collect()
}

#[test]
fn the_table_has_every_exported_metric_and_every_metric_of_the_table_is_exported() {
    let readings = source(numbers()).readings();
    let exported: Vec<_> = readings.iter().map(|family| family.metric).collect();
    assert_eq!(exported, TABLE);
    for MetricFamily { metric, points } in &readings {
        assert!(!points.is_empty(), "{}", metric.name);
        let possible: BTreeSet<_> = metric.labels.iter().map(|label| label.name).collect();
        for point in points {
            let labels: Vec<_> = point.labels.iter().map(|(label, _)| label.name).collect();
            assert!(labels.iter().all(|label| possible.contains(label)), "{}: {labels:?}", metric.name);
        }
    }
    let page = page(PageFormat::OpenMetrics, numbers());
    let types: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_owned).collect();
    let expected: Vec<_> = TABLE.iter().map(|metric| format!("{} {}", metric.family(), metric.kind.name())).collect();
    assert_eq!(types, expected);
    for metric in TABLE {
        let name = metric.full_name();
        let suffix = if metric.kind == MetricKind::Histogram { "_bucket" } else { "" };
        assert!(!samples(&page, &(name.clone() + suffix)).is_empty(), "{name}");
    }
}

#[test]
fn a_page_has_the_values_with_their_labels() {
    let page = page(PageFormat::OpenMetrics, numbers());
    for line in [
        "# HELP closewait_sockets Sockets in CLOSE_WAIT on the whole host; 0 if there are none.",
        "# UNIT closewait_exhaustion_seconds seconds",
        "closewait_sockets{state=\"close_wait\"} 3",
        "closewait_stuck_sockets{service=\"\",role=\"client\",remote=\"10.0.0.7:443\"} 3",
        "closewait_stuck_sockets{otel_metric_overflow=\"true\"} 3",
        "closewait_oldest_entered_timestamp_seconds{otel_metric_overflow=\"true\"} 1001.5",
        "closewait_dwell_seconds_count 2",
        "closewait_dwell_seconds_sum 1.4",
        "closewait_exited_total{how=\"listener_closed\"} 0",
        "closewait_agent_cpu_seconds_total 1.25",
        "closewait_agent_memory_bytes 6291456",
        "closewait_stack_frames 1280",
        "closewait_build_info{version=\"1.2.3\",hook=\"btf\",kernel=\"6.12.1\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    assert!(page.ends_with("# EOF\n"));
}

#[test]
fn an_agent_without_sockets_has_a_zero_and_no_series_of_groups() {
    let page = page(PageFormat::Text, nothing());
    assert_eq!(samples(&page, "closewait_sockets"), ["closewait_sockets{state=\"close_wait\"} 0"]);
    for absent in ["closewait_stuck_sockets", "closewait_exhaustion_seconds", "closewait_incidents"] {
        assert_eq!(samples(&page, absent), [""; 0]);
    }
}

#[test]
fn a_hostile_name_stays_within_its_label() {
    for format in [PageFormat::OpenMetrics, PageFormat::Text] {
        let page = page(format, numbers());
        let escaped = "a\\\"} 1\\n# EOF\\nb\\\\\u{202e}é";
        let expected = format!(
            "closewait_incidents{{service=\"{escaped}\",role=\"server\",port=\"8080\",class=\"hung\",severity=\"critical\"}} 1"
        );
        assert!(page.lines().any(|line| line == expected), "{page}");
        assert_eq!(
            page.lines().filter(|line| line.contains("# EOF")).count(),
            page.matches(escaped).count() + usize::from(format == PageFormat::OpenMetrics)
        );
    }
    // The engine replaces bytes that are not UTF-8 before they get here.
    let comm = Comm::from_name(b"\xff\xfe\"\n");
    let mut numbers = nothing();
    numbers.stuck.each = vec![(server(comm.as_str(), 1), StuckNumbers { stuck: 1, oldest: None })];
    let page = page(PageFormat::Text, numbers);
    assert_eq!(samples(&page, "closewait_stuck_sockets").len(), 1, "{page}");
    promtool(&page);
}

#[test]
fn buckets_have_exemplars_of_at_most_128_characters_in_openmetrics_alone() {
    let page_of = |format| page(format, numbers());
    let open = page_of(PageFormat::OpenMetrics);
    let buckets = samples(&open, "closewait_dwell_seconds_bucket");
    let exemplars: Vec<_> = buckets.iter().filter_map(|line| line.split_once(" # ")).collect();
    let [(bucket, exemplar)] = exemplars[..] else { panic!("{exemplars:?}") };
    // The edge of the kernel program's bucket at one second.
    assert_eq!(bucket, "closewait_dwell_seconds_bucket{le=\"1.006632959\"} 2");
    assert_eq!(exemplar, "{cookie=\"18446744073709551615\",netns=\"4294967295\"} 0.7 1002.000");
    assert!(buckets.last().unwrap().starts_with("closewait_dwell_seconds_bucket{le=\"+Inf\"} 2"));
    assert!(!page_of(PageFormat::Text).contains(" # {"));
}

#[test]
fn the_older_format_has_suffixes_in_types_and_no_units() {
    let page = page(PageFormat::Text, numbers());
    for line in [
        "# TYPE closewait_entered_total counter",
        "# HELP closewait_entered_total Sockets that entered CLOSE_WAIT.",
        "# TYPE closewait_build_info gauge",
        "# TYPE closewait_dwell_seconds histogram",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    assert!(!page.contains("# UNIT") && !page.contains("\n# EOF"), "{page}");
    promtool(&page);
}

#[test]
fn a_page_of_the_largest_number_of_series_is_bounded() {
    let mut numbers = numbers();
    let stuck = StuckNumbers { stuck: u64::MAX, oldest: Some(BootTime(u64::MAX)) };
    let name = "\"\\\n".repeat(42);
    numbers.stuck.each = (1..MAX_SERIES).map(|port| (server(&name, port as u16), stuck)).collect();
    let text = page(PageFormat::OpenMetrics, numbers);
    assert_eq!(samples(&text, "closewait_stuck_sockets").len(), MAX_SERIES);
    assert!(text.len() < 4 << 20, "{} bytes", text.len());
    assert!(text.contains("} 18446744073709551615\n"), "a number keeps its digits");
}

#[test]
fn the_header_accept_decides_the_format() {
    use PageFormat::{OpenMetrics, Protobuf, Text};
    let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    // Prometheus 2.42.
    let of_prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    // Prometheus 3.
    let of_prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    for (accept, format) in [
        ("", Text),
        ("*/*", Text),
        ("text/plain;version=0.0.4", Text),
        ("application/openmetrics-text", OpenMetrics),
        (of_prometheus_2, OpenMetrics),
        (of_prometheus_3, OpenMetrics),
        // The same ones with native histograms.
        (&format!("{protobuf},{of_prometheus_2}"), Protobuf),
        (&format!("{protobuf};q=0.6,{of_prometheus_3}"), Protobuf),
        // Telegraf.
        (&format!("{protobuf};q=0.7,text/plain;version=0.0.4;q=0.3"), Protobuf),
        // The highest quality, and the first one.
        ("text/plain, application/openmetrics-text; version=\"1.0.0\"; q=0.2", Text),
        ("text/plain;q=0.1, application/openmetrics-text; version=\"1.0.0\"; q=0.2", OpenMetrics),
        (&format!("text/plain;q=0.7,{protobuf};q=0.7"), Text),
        (&format!("text/plain;q=0.7,{protobuf};q=0.701"), Protobuf),
        (&format!("{of_prometheus_2},{protobuf};q=0.9"), OpenMetrics),
        (
            "APPLICATION/VND.GOOGLE.PROTOBUF ; Encoding = \"Delimited\" ; Proto = io.prometheus.client.metricfamily",
            Protobuf,
        ),
        // Refused, unknown, or not all that makes the format.
        ("application/openmetrics-text;q=0", Text),
        (&format!("{protobuf};q=0"), Text),
        (&format!("{protobuf};q=0.000,application/openmetrics-text;q=0.1"), OpenMetrics),
        ("application/openmetrics-text;version=0.0.1", Text),
        ("application/openmetrics-text-but-not", Text),
        ("application/vnd.google.protobuf", Text),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily", Text),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text", Text),
        ("application/vnd.google.protobuf;proto=io.prometheus.write.v2.Request;encoding=delimited", Text),
        ("application/vnd.google.protobuf;encoding=delimited", Text),
        ("application/x-protobuf, application/json", Text),
        // Malformed qualities.
        (&format!("{protobuf};q=nan"), Text),
        (&format!("{protobuf};q=2"), Text),
        (&format!("{protobuf};q=-1"), Text),
        (&format!("{protobuf};q=,application/openmetrics-text;q=0.1"), OpenMetrics),
        ("\u{0};;==,,q", Text),
    ] {
        assert_eq!(PageFormat::negotiated(accept), format, "{accept}");
    }
}

/// Checks a page with Prometheus' own tool, if it is installed. Its package is in `.ci/packages engines`.
fn promtool(page: &str) {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn();
    has_engine("promtool", child.is_ok());
    let Ok(mut child) = child else { return };
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}\n{page}");
}
