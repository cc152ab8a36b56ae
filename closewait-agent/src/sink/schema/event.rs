//! JSON objects of the event stream.

use serde::Serialize;

use super::{
    DwellMembers, OwnerObject, PileupEndObject, PileupObject, ProcessObject, SocketObject, TaskObject, TotalsObject,
    VerdictObject, seconds,
};
#[cfg(test)]
use crate::sink::document::*;
use closewait_engine::{histogram::Summary, model::Scope};

/// Limits of the agent.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct LimitsObject {
    /// Maximum number of sockets whose entry time the kernel keeps.
    pub(in crate::sink) max_sockets: u32,
    /// Maximum number of sockets that the agent tracks.
    pub(in crate::sink) max_tracked: u32,
    /// Size of the ring buffer between the kernel and the agent, in bytes.
    pub(in crate::sink) ring_buffer_bytes: u32,
    /// Dwell time from which a socket is stuck (`--stuck-after`), in seconds.
    pub(in crate::sink) stuck_after_seconds: f64,
}

/// Bucket of a histogram. A bucket is at most 3.2 % wide.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct BucketObject {
    /// Upper edge, in seconds: the bucket counts dwell times up to and including it.
    le_seconds: f64,
    /// Number of sockets in this bucket alone: buckets are not cumulative.
    count: u64,
}

/// Distribution of dwell times. Quantiles are upper edges of buckets: at most 3.2 % too high, never too low.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "Distribution"))]
pub(in crate::sink) struct SummaryObject {
    /// Number of sockets.
    count: u64,
    /// Median, in seconds; `null` without sockets.
    p50_seconds: Option<f64>,
    /// 90th percentile, in seconds; `null` without sockets.
    p90_seconds: Option<f64>,
    /// 99th percentile, in seconds; `null` without sockets.
    p99_seconds: Option<f64>,
    /// Maximum, in seconds; `null` without sockets.
    max_seconds: Option<f64>,
    /// Buckets with at least one socket, in ascending order.
    buckets: Vec<BucketObject>,
}

impl From<&Summary> for SummaryObject {
    fn from(summary: &Summary) -> Self {
        let buckets = summary.buckets.iter();
        Self {
            count: summary.count,
            p50_seconds: summary.p50.map(seconds),
            p90_seconds: summary.p90.map(seconds),
            p99_seconds: summary.p99.map(seconds),
            max_seconds: summary.max.map(seconds),
            buckets: buckets.map(|(edge, count)| BucketObject { le_seconds: seconds(*edge), count: *count }).collect(),
        }
    }
}

/// Event; the member `event` has its name.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub(in crate::sink) enum Event<'a> {
    /// The agent has attached everything.
    Start {
        /// Time of the event.
        #[cfg_attr(test, schemars(with = "Time"))]
        time: String,
        /// Version of the agent.
        version: &'a str,
        /// Release of the kernel; `null` if unknown.
        kernel: Option<&'a str>,
        /// Hook in the kernel that the agent uses.
        #[cfg_attr(test, schemars(with = "HookName"))]
        hook: &'a str,
        /// Fate of the maps of an earlier agent; `null` without `--pin`.
        #[cfg_attr(test, schemars(with = "Option<PinnedName>"))]
        pinned: Option<&'a str>,
        /// Limits of the agent.
        limits: LimitsObject,
        /// Features that this host or these privileges do not allow, capabilities that the agent could not drop after
        /// the start, and problems of the control socket, each a text.
        degraded: &'a [String],
    },
    /// A socket entered CLOSE_WAIT (`--events all`).
    Enter {
        /// Time of the event.
        #[cfg_attr(test, schemars(with = "Time"))]
        time: String,
        /// Socket that entered.
        socket: SocketObject<'a>,
    },
    /// The dwell time of a socket passed `--stuck-after`, and again at every doubling; at most about two seconds late,
    /// however busy the host is.
    Stuck {
        /// Time of the event.
        #[cfg_attr(test, schemars(with = "Time"))]
        time: String,
        /// Socket, reread at that moment.
        socket: SocketObject<'a>,
        #[serde(flatten)]
        dwell: DwellMembers,
        /// Every descriptor of the socket, from a scan over all open files at that moment; `null` if there was no scan,
        /// or it did not end in time: the next event of the socket has them.
        owners: Option<Vec<OwnerObject<'a>>>,
        /// Diagnosis of the socket.
        verdict: VerdictObject<'a>,
        /// First owner, or the owner of the listener for a socket that no program has accepted, as inspected within the
        /// last seconds; `null` if unknown.
        process: Option<ProcessObject<'a>>,
        /// Identifier of the open incident of the socket's group; `null` if there is none.
        incident: Option<String>,
    },
    /// A socket exited CLOSE_WAIT (`--events all`, or if it was stuck).
    Leave {
        /// Time of the event.
        #[cfg_attr(test, schemars(with = "Time"))]
        time: String,
        /// Socket that exited.
        socket: SocketObject<'a>,
        #[serde(flatten)]
        dwell: DwellMembers,
        /// Cause of the exit.
        #[cfg_attr(test, schemars(with = "ExitName"))]
        how: &'static str,
        /// Task in whose context the state changed; `null` if it was not the task's own work, or is unknown.
        closer: Option<TaskObject<'a>>,
        /// Whether the program still has a descriptor of the socket; `null` if unknown.
        fd_open: Option<bool>,
        /// Whether the socket was stuck: its dwell time had reached `--stuck-after`.
        stuck: bool,
        /// Diagnosis that the exit allows, only if the socket was stuck.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(test, schemars(with = "VerdictObject<'a>"))]
        verdict: Option<VerdictObject<'a>>,
    },
    /// An incident opens, doubles, nears a limit (5 minutes), or reaches it.
    Pileup {
        /// Time of the event.
        #[cfg_attr(test, schemars(with = "Time"))]
        time: String,
        #[serde(flatten)]
        pileup: PileupObject<'a>,
    },
    /// An incident is resolved.
    PileupEnd {
        /// Time of the event.
        #[cfg_attr(test, schemars(with = "Time"))]
        time: String,
        #[serde(flatten)]
        end: PileupEndObject<'a>,
    },
    /// Dwell times in the last interval (`--histogram-every`), and at the end.
    Histogram {
        /// Time of the event.
        #[cfg_attr(test, schemars(with = "Time"))]
        time: String,
        /// Sockets that count.
        #[cfg_attr(test, schemars(with = "ScopeName"))]
        scope: &'static str,
        /// Local port of the server sockets that count, only if `scope` is `local_port`.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(test, schemars(with = "u16"))]
        local_port: Option<u16>,
        /// Length of the interval, in seconds.
        window_seconds: f64,
        /// Sockets that exited in the interval and that the agent saw enter.
        finished: SummaryObject,
        /// Sockets still in CLOSE_WAIT, by their certain dwell time.
        unfinished: SummaryObject,
    },
    /// The agent lost something since the last `health` event, or an audit found something.
    Health {
        /// Time of the event.
        #[cfg_attr(test, schemars(with = "Time"))]
        time: String,
        #[serde(flatten)]
        totals: TotalsObject,
    },
    /// The agent ends.
    Stop {
        /// Time of the event.
        #[cfg_attr(test, schemars(with = "Time"))]
        time: String,
        /// Counts of the agent.
        totals: TotalsObject,
    },
}

/// Line of the event stream.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct EventLine<'a> {
    /// Version of the schema.
    #[cfg_attr(test, schemars(with = "Version"))]
    pub(in crate::sink) schema_version: u32,
    /// Number of the event; counts up by one. A gap means that the agent dropped lines because no program read them, or
    /// that `tail` does not show the event.
    pub(in crate::sink) seq: u64,
    /// Name of the agent's host; `null` if unknown.
    pub(in crate::sink) host: Option<&'a str>,
    #[serde(flatten)]
    pub(in crate::sink) event: Event<'a>,
}

pub(in crate::sink) fn scope(scope: Scope) -> (&'static str, Option<u16>) {
    match scope {
        Scope::All => ("all", None),
        Scope::LocalPort(port) => ("local_port", Some(port)),
        Scope::Other => ("other", None),
    }
}
