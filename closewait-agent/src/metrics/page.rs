//! `docs/metrics.md`, made from the table.

use std::fmt::Write as _;

use super::table::{Metric, MetricLabel, TABLE};
use closewait_engine::snapshot::{
    exits::{
        DWELL_BOUNDS_NANOS,
        exponential::{MAX_ERROR, SCHEMA},
    },
    metrics::MAX_SERIES,
};

fn page() -> String {
    let mut text = String::from(HEAD);
    let mut labels: Vec<MetricLabel> = Vec::new();
    for metric in TABLE {
        let Metric { kind, unit, otlp_name, help, .. } = metric;
        let of = metric.labels.iter().map(|label| format!("`{}`", label.name)).collect::<Vec<_>>().join(", ");
        let unit = unit.suffix().unwrap_or("-");
        writeln!(
            text,
            "| `{}` | {} | {unit} | {} | {help} | `{otlp_name}` |",
            metric.full_name(),
            kind.name(),
            if of.is_empty() { "-" } else { &of }
        )
        .unwrap();
        labels.extend(metric.labels);
    }
    text.push_str("\n## Labels\n\n| label | meaning | OTLP |\n|---|---|---|\n");
    let mut listed = Vec::new();
    for MetricLabel { name, otlp_name, help } in labels {
        if !listed.contains(&name) {
            listed.push(name);
            writeln!(text, "| `{name}` | {help} | `{otlp_name}` |").unwrap();
        }
    }
    let bounds: Vec<_> = DWELL_BOUNDS_NANOS.iter().map(|nanos| format!("{}", *nanos as f64 / 1e9)).collect();
    let tail = TAIL.replace("{SERIES}", &MAX_SERIES.to_string()).replace("{BOUNDS}", &bounds.join(", "));
    let tail = tail.replace("{SCHEMA}", &SCHEMA.to_string()).replace("{SUBDIVISIONS}", &(1 << SCHEMA).to_string());
    text + &tail.replace("{ERROR}", &format!("{:.1}", MAX_ERROR * 100.0))
}

const HEAD: &str = "\
<!-- Generated from closewait-agent/src/metrics/table.rs by `cargo xtask docs`; do not edit. -->
# Metrics

`closewait run --listen 127.0.0.1:9753` serves these metrics at `/metrics`. [monitoring.md](monitoring.md) shows the setup.

| metric | type | unit | labels | meaning | OTLP |
|---|---|---|---|---|---|
";

const TAIL: &str = "
## Groups

A series of a group stands for the sockets of one service on one local port, or towards one remote endpoint. Groups of several
network namespaces or cgroups with the same labels are one series: counts are added, the soonest exhaustion and the oldest entry
count.

- A group has series while it has stuck sockets or an open incident, and for one interval (`--histogram-every`) after that, with
  `closewait_stuck_sockets` 0. `closewait_sockets` is always there.
- A metric has at most {SERIES} series. The groups with the most stuck sockets keep their own; the others are added up in one
  series with the label `otel_metric_overflow=\"true\"` alone.
- The counts of a group, its oldest entry and its service are those of the agent's last count of the sockets, some seconds ago.
- An incident has the verdict that `closewait status` shows at that moment. With more than 10,000 sockets in CLOSE_WAIT it is the
  verdict of the agent's last inspection of the incident, which can be some minutes old: a scrape must not hold up the agent.

## Counters

`closewait_entered_total` and `closewait_dwell_seconds` count since the kernel program was loaded, which with `--pin` is before the
start of the agent. All other counters start at 0 with the agent.

The buckets of `closewait_dwell_seconds` are at edges of the kernel program's finer buckets, so their counts are exact: {BOUNDS} and
`+Inf` seconds. The sum is computed from the middles of the finer buckets, and at most 1.6 % off. In OpenMetrics and protobuf, a
bucket has an exemplar: `cookie` and `netns` of the latest socket in it that had a record, as in the events of that socket. Without
`--events all`, most sockets that a busy program closes within half a second have none.

In protobuf it is a native histogram as well, of the schema {SCHEMA}: {SUBDIVISIONS} buckets for each power of two, in seconds. The kernel
program's buckets are in nanoseconds, at most 3.2 % wide, and have other edges. Each of them counts wholly in the native bucket that
contains its middle. So every value in a native bucket, and every quantile, is at most {ERROR} % off the dwell time; the number of all
sockets is exact. [monitoring.md](monitoring.md#native-histograms) says how to get it.

Stages of `closewait_dropped_total`: `kernel` (runs of the kernel program that the kernel skipped; absent before Linux 5.12),
`kernel_map` (entry times), `ring_buffer` (records), `decode` (records that were not understood), `track` (sockets above
`--max-tracked`), `group` (sockets in a group without counts of its own), `output` (lines of standard output), `log` (lines of the
log), `recording` (observations missing in a recording in a directory), `otlp` (events for an OpenTelemetry collector; absent without
one).
";

#[test]
fn the_page_matches_the_table() {
    assert!(
        tests_support::generated::is_current("docs/metrics.md", &page()),
        "docs/metrics.md does not match the table of metrics; run `cargo xtask docs` and commit the result"
    );
}
