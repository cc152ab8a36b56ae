//! Table of all metrics. The HELP texts, `docs/metrics.md` and the checks of dashboards and rules come from it.

/// Prefix of every name for Prometheus.
pub const PREFIX: &str = "closewait";

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Value that goes up and down.
    Gauge,
    /// Count that only goes up, except when it begins again.
    Counter,
    /// Counts of values in buckets.
    Histogram,
    /// Facts in labels; the value is 1.
    Info,
}

impl MetricKind {
    /// Returns the name of the type in `# TYPE` of OpenMetrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// Unit of the values of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricUnit {
    /// Number of things; the text is the unit for OTLP, such as `{socket}`.
    Number(&'static str),
    /// Seconds, or seconds since 1970.
    Seconds,
    /// Bytes.
    Bytes,
}

impl MetricUnit {
    /// Returns the unit in names and in `# UNIT`; `None` for numbers.
    pub const fn suffix(self) -> Option<&'static str> {
        match self {
            Self::Number(_) => None,
            Self::Seconds => Some("seconds"),
            Self::Bytes => Some("bytes"),
        }
    }

    /// Returns the unit for OTLP, in UCUM.
    pub const fn ucum(self) -> &'static str {
        match self {
            Self::Number(unit) => unit,
            Self::Seconds => "s",
            Self::Bytes => "By",
        }
    }
}

/// Label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricLabel {
    /// Name for Prometheus.
    pub name: &'static str,
    /// Name of the attribute for OTLP.
    pub otlp_name: &'static str,
    /// Meaning, without a period.
    pub help: &'static str,
}

const fn label(name: &'static str, otlp_name: &'static str, help: &'static str) -> MetricLabel {
    MetricLabel { name, otlp_name, help }
}

/// State of TCP.
pub const STATE: MetricLabel =
    label("state", "network.connection.state", "always `close_wait`, as in `node_tcp_connection_states`");
/// Name of the service.
pub const SERVICE: MetricLabel = label(
    "service",
    "closewait.service",
    "systemd unit, pod or container, or else name of the program; empty while the owner is unknown",
);
/// Role of the owner.
pub const ROLE: MetricLabel =
    label("role", "closewait.role", "`server` or `client`: the owner's side of the connections");
/// Local port of a server.
pub const PORT: MetricLabel = label("port", "network.local.port", "local port, if `role` is `server`");
/// Remote endpoint of a client.
pub const REMOTE: MetricLabel = label("remote", "closewait.remote", "remote address and port, if `role` is `client`");
/// Class of the verdict.
pub const CLASS: MetricLabel = label("class", "closewait.verdict.class", "cause, as in `closewait explain`");
/// Severity of the incident.
pub const SEVERITY: MetricLabel = label("severity", "closewait.severity", "`critical`, `error`, `warning` or `info`");
/// Exhausted resource.
pub const RESOURCE: MetricLabel = label(
    "resource",
    "closewait.resource",
    "`fds`: file descriptors of the process; `backlog`: of the listener; `limit`: `--connection-limit`",
);
/// Cause of an exit.
pub const HOW: MetricLabel = label("how", "closewait.exit.how", "cause of the exit, as `how` of the event `leave`");
/// Stage that dropped something.
pub const STAGE: MetricLabel = label("stage", "closewait.stage", "part of the agent that dropped it");
/// Limit of sockets.
pub const MAP: MetricLabel = label(
    "map",
    "closewait.map",
    "`kernel`: entry times that the kernel keeps; `agent`: sockets that the agent tracks",
);
/// Version of the agent.
pub const VERSION: MetricLabel = label("version", "closewait.version", "version of the agent");
/// Kernel hook.
pub const HOOK: MetricLabel = label("hook", "closewait.hook", "kernel hook, as in the event `start`");
/// Release of the kernel.
pub const KERNEL: MetricLabel = label("kernel", "closewait.kernel", "release of the kernel");
/// Mark of the series of all groups over the limit.
pub const OVERFLOW: MetricLabel =
    label("otel_metric_overflow", "otel.metric.overflow", "`true` for the one series of all groups over the limit");

/// Labels of a group.
const GROUP: &[MetricLabel] = &[SERVICE, ROLE, PORT, REMOTE, OVERFLOW];

/// Metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name without the prefix, the unit and the suffix of the kind.
    pub name: &'static str,
    /// Kind.
    pub kind: MetricKind,
    /// Unit.
    pub unit: MetricUnit,
    /// Labels that a series can have.
    pub labels: &'static [MetricLabel],
    /// Name for OTLP.
    pub otlp_name: &'static str,
    /// Meaning: one sentence.
    pub help: &'static str,
}

impl Metric {
    /// Returns the name of the family in `# TYPE` of OpenMetrics: with prefix and unit, without the suffix of the kind.
    pub fn family(&self) -> String {
        let unit = self.unit.suffix().map(|unit| format!("_{unit}")).unwrap_or_default();
        format!("{PREFIX}_{}{unit}", self.name)
    }

    /// Returns the name to use in queries. Histograms have the suffixes `_bucket`, `_count` and `_sum` in addition.
    pub fn full_name(&self) -> String {
        let suffix = match self.kind {
            MetricKind::Gauge | MetricKind::Histogram => "",
            MetricKind::Counter => "_total",
            MetricKind::Info => "_info",
        };
        self.family() + suffix
    }
}

/// Defines the metrics and their list, so that none can be missing in the list.
macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $id:ident = $name:literal, $otlp:literal, $kind:ident, $unit:expr, $labels:expr, $help:literal;)+) => {
        $(
            $(#[doc = $doc])+
            pub const $id: Metric = Metric {
                name: $name,
                kind: MetricKind::$kind,
                unit: $unit,
                labels: $labels,
                otlp_name: $otlp,
                help: $help,
            };
        )+
        /// All metrics, in the order in which they are exported.
        pub const TABLE: &[Metric] = &[$($id),+];
    };
}

metrics! {
    /// Sockets in CLOSE_WAIT.
    SOCKETS = "sockets", "closewait.socket.count", Gauge, MetricUnit::Number("{socket}"), &[STATE],
        "Sockets in CLOSE_WAIT on the whole host; 0 if there are none.";
    /// Stuck sockets.
    STUCK = "stuck_sockets", "closewait.socket.stuck", Gauge, MetricUnit::Number("{socket}"), GROUP,
        "Sockets that have been in CLOSE_WAIT for longer than --stuck-after.";
    /// Open incidents.
    INCIDENTS = "incidents", "closewait.incident.count", Gauge, MetricUnit::Number("{incident}"),
        &[SERVICE, ROLE, PORT, REMOTE, CLASS, SEVERITY, OVERFLOW],
        "Open incidents, by cause and severity.";
    /// Time to exhaustion.
    EXHAUSTION = "exhaustion", "closewait.exhaustion.time", Gauge, MetricUnit::Seconds,
        &[SERVICE, ROLE, PORT, REMOTE, RESOURCE, OVERFLOW],
        "Time until an open incident exhausts a resource, 0 if it has; absent without a forecast.";
    /// Entry of the oldest socket.
    OLDEST = "oldest_entered_timestamp", "closewait.socket.oldest_entered", Gauge, MetricUnit::Seconds, GROUP,
        "Time at which the oldest socket of a group with stuck sockets entered CLOSE_WAIT, since 1970.";
    /// Backlog.
    BACKLOG = "listener_backlog", "closewait.listener.backlog", Gauge, MetricUnit::Number("{connection}"), GROUP,
        "Connections that wait to be accepted by a server with stuck sockets, as of the last scan.";
    /// Limit of the backlog.
    BACKLOG_LIMIT = "listener_backlog_limit", "closewait.listener.backlog_limit", Gauge,
        MetricUnit::Number("{connection}"), GROUP,
        "Limit of the backlog of a server with stuck sockets; the kernel refuses connections above it.";
    /// Dwell times.
    DWELL = "dwell", "closewait.dwell.duration", Histogram, MetricUnit::Seconds, &[],
        "Time that sockets spent in CLOSE_WAIT until they exited.";
    /// Entries.
    ENTERED = "entered", "closewait.socket.entered", Counter, MetricUnit::Number("{socket}"), &[],
        "Sockets that entered CLOSE_WAIT.";
    /// Exits.
    EXITED = "exited", "closewait.socket.exited", Counter, MetricUnit::Number("{socket}"), &[HOW],
        "Sockets that exited CLOSE_WAIT since the agent started.";
    /// Losses.
    DROPPED = "dropped", "closewait.dropped", Counter, MetricUnit::Number("{item}"), &[STAGE],
        "Records, sockets, lines or events that were dropped, mostly because a limit was reached.";
    /// Repairs.
    REPAIRED = "repaired", "closewait.repaired", Counter, MetricUnit::Number("{socket}"), &[],
        "Missed entries and exits that the agent noticed later, and corrected.";
    /// CPU time of the agent.
    AGENT_CPU = "agent_cpu", "closewait.agent.cpu.time", Counter, MetricUnit::Seconds, &[],
        "CPU time of the agent's process, without that of its kernel program.";
    /// Memory of the agent.
    AGENT_MEMORY = "agent_memory", "closewait.agent.memory.usage", Gauge, MetricUnit::Bytes, &[],
        "Resident memory of the agent's process, without that of its kernel maps.";
    /// Kept frames of stacks.
    STACK_FRAMES = "stack_frames", "closewait.stack.frames", Gauge, MetricUnit::Number("{frame}"), &[],
        "Frames of stacks that the agent keeps, 16384 at most, about 200 bytes each; absent if it reads no stacks.";
    /// Limits of the agent's maps.
    AGENT_MAP_LIMIT = "agent_map_limit_sockets", "closewait.agent.map.limit", Gauge, MetricUnit::Number("{socket}"), &[MAP],
        "Number of sockets in CLOSE_WAIT above which the agent drops some.";
    /// Facts about the agent.
    BUILD = "build", "closewait.build", Info, MetricUnit::Number("1"), &[VERSION, HOOK, KERNEL],
        "Version of the agent, and its kernel.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_valid_and_unique() {
        let is_name = |name: &str, also: char| {
            name.starts_with(|first: char| first.is_ascii_lowercase())
                && name.chars().all(|one| one.is_ascii_lowercase() || one == '_' || one == also)
        };
        let (mut names, mut otlp_names) = (BTreeSet::new(), BTreeSet::new());
        for metric in TABLE {
            assert!(is_name(&metric.full_name(), '_') && names.insert(metric.full_name()), "{metric:?}");
            assert!(is_name(metric.otlp_name, '.') && otlp_names.insert(metric.otlp_name), "{metric:?}");
            assert!(metric.otlp_name.starts_with("closewait."), "{metric:?}");
            assert!(metric.help.ends_with('.') && metric.help.is_ascii() && !metric.help.contains('\n'), "{metric:?}");
            for label in metric.labels {
                assert!(is_name(label.name, '_') && is_name(label.otlp_name, '.'), "{label:?}");
            }
        }
    }

    #[test]
    fn no_name_for_otlp_is_the_namespace_of_another() {
        for metric in TABLE {
            let below = format!("{}.", metric.otlp_name);
            assert!(TABLE.iter().all(|other| !other.otlp_name.starts_with(&below)), "{below}");
        }
    }
}
