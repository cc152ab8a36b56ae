//! JSON objects of schema version 1. Members are only added, never removed.

mod listed;
mod pileup;
pub(super) mod socket;

use std::{borrow::Cow, net::IpAddr, time::Duration};

use serde::Serialize;

pub(super) use self::{
    listed::{GroupObject, ListedObject},
    pileup::{ForecastObject, GroupMembers, PileupEndObject, PileupObject},
    socket::{SocketObject, timer},
};
use closewait_engine::{
    histogram::Summary,
    model::{Dwell, Endpoint, ExitCause, Owner, Scope, Task, Totals, Verdict},
    process::{Process, ProgramRuntime},
};

/// Version of the schema.
pub(super) const SCHEMA_VERSION: u32 = 1;

#[derive(Serialize)]
pub(super) struct EndpointObject {
    address: IpAddr,
    port: u16,
}

impl From<Endpoint> for EndpointObject {
    fn from(endpoint: Endpoint) -> Self {
        Self { address: endpoint.address, port: endpoint.port }
    }
}

/// `dwell_seconds` and its companions. An unknown dwell time has only `dwell_seconds: null`.
#[derive(Serialize)]
pub(super) struct DwellMembers {
    dwell_seconds: Option<f64>,
    exact: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    dwell_at_most_seconds: Option<Option<f64>>,
}

impl From<Option<Dwell>> for DwellMembers {
    fn from(dwell: Option<Dwell>) -> Self {
        let (dwell_seconds, exact, at_most) = match dwell {
            Some(Dwell::Exact(dwell)) => (Some(dwell), true, None),
            Some(Dwell::Between { at_least, at_most }) => (Some(at_least), false, Some(at_most)),
            None => (None, false, Some(None)),
        };
        Self {
            dwell_seconds: dwell_seconds.map(seconds),
            exact,
            dwell_at_most_seconds: at_most.map(|at_most| at_most.map(seconds)),
        }
    }
}

#[derive(Serialize)]
pub(super) struct TaskObject<'a> {
    pub(super) pid: u32,
    pub(super) comm: &'a str,
}

impl<'a> From<&'a Task> for TaskObject<'a> {
    fn from(task: &'a Task) -> Self {
        Self { pid: task.pid, comm: task.comm.as_str() }
    }
}

#[derive(Serialize)]
pub(super) struct OwnerObject<'a> {
    pid: u32,
    fd: u32,
    comm: &'a str,
}

impl<'a> From<&'a Owner> for OwnerObject<'a> {
    fn from(owner: &'a Owner) -> Self {
        Self { pid: owner.task.pid, fd: owner.fd, comm: owner.task.comm.as_str() }
    }
}

#[derive(Serialize)]
pub(super) struct VerdictObject<'a> {
    class: &'static str,
    rule: &'static str,
    certainty: &'static str,
    text: &'a str,
    next: Cow<'a, str>,
    command: Option<&'a str>,
}

impl<'a> From<&'a Verdict> for VerdictObject<'a> {
    fn from(verdict: &'a Verdict) -> Self {
        let Verdict { class, rule, certainty, text, next } = verdict;
        Self {
            class: class.name(),
            rule,
            certainty: certainty.name(),
            text,
            next: next.sentence(),
            command: next.command.as_deref(),
        }
    }
}

/// Identity and activity of a process.
#[derive(Serialize)]
pub(super) struct ProcessObject<'a> {
    pid: u32,
    comm: &'a str,
    exe: Option<&'a str>,
    runtime: Option<&'static str>,
    activity: Option<String>,
    threads: Option<u32>,
    cpu_permille: Option<u32>,
    fds_open: Option<u64>,
    fds_limit: Option<u64>,
    unseen: &'a [String],
}

impl<'a> From<&'a Process> for ProcessObject<'a> {
    fn from(process: &'a Process) -> Self {
        Self {
            pid: process.pid,
            comm: process.comm.as_str(),
            exe: process.exe.as_deref(),
            runtime: process.runtime.map(ProgramRuntime::name),
            activity: process.activity(),
            threads: process.threads,
            cpu_permille: process.cpu_permille,
            fds_open: process.fds_open,
            fds_limit: process.fds_limit,
            unseen: &process.unseen,
        }
    }
}

#[derive(Serialize)]
pub(super) struct LimitsObject {
    pub(super) max_sockets: u32,
    pub(super) max_tracked: u32,
    pub(super) ring_buffer_bytes: u32,
    pub(super) stuck_after_seconds: f64,
}

#[derive(Serialize)]
pub(super) struct TotalsObject {
    entered: u64,
    left: u64,
    left_unseen: u64,
    lost_ring_full: u64,
    lost_map_full: u64,
    replaced: u64,
    skipped_by_kernel: Option<u64>,
    undecodable: u64,
    unwritten: u64,
    log_lines_dropped: u64,
    recordings_failed: u64,
    repaired: u64,
    phantom: u64,
    tracked: u64,
    fd_open: u64,
    fd_open_unwatched: u64,
    untracked: u64,
    ungrouped: u64,
    unkept: u64,
}

impl From<Totals> for TotalsObject {
    fn from(totals: Totals) -> Self {
        Self {
            entered: totals.entered,
            left: totals.left,
            left_unseen: totals.left_unseen,
            lost_ring_full: totals.lost_ring_full,
            lost_map_full: totals.lost_map_full,
            replaced: totals.replaced,
            skipped_by_kernel: totals.skipped_by_kernel,
            undecodable: totals.undecodable,
            unwritten: totals.unwritten,
            log_lines_dropped: totals.log_lines_dropped,
            recordings_failed: totals.recordings_failed,
            repaired: totals.repaired,
            phantom: totals.phantom,
            tracked: totals.tracked,
            fd_open: totals.fd_open,
            fd_open_unwatched: totals.fd_open_unwatched,
            untracked: totals.untracked,
            ungrouped: totals.ungrouped,
            unkept: totals.unkept,
        }
    }
}

#[derive(Serialize)]
pub(super) struct BucketObject {
    le_seconds: f64,
    count: u64,
}

#[derive(Serialize)]
pub(super) struct SummaryObject {
    count: u64,
    p50_seconds: Option<f64>,
    p90_seconds: Option<f64>,
    p99_seconds: Option<f64>,
    max_seconds: Option<f64>,
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
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    Start {
        time: String,
        version: &'a str,
        kernel: Option<&'a str>,
        hook: &'a str,
        pinned: Option<&'a str>,
        limits: LimitsObject,
        degraded: &'a [String],
    },
    Enter {
        time: String,
        socket: SocketObject<'a>,
    },
    Stuck {
        time: String,
        socket: SocketObject<'a>,
        #[serde(flatten)]
        dwell: DwellMembers,
        owners: Option<Vec<OwnerObject<'a>>>,
        verdict: VerdictObject<'a>,
        process: Option<ProcessObject<'a>>,
        /// Identifier of the open incident; `null` if there is none.
        incident: Option<String>,
    },
    Leave {
        time: String,
        socket: SocketObject<'a>,
        #[serde(flatten)]
        dwell: DwellMembers,
        how: &'static str,
        closer: Option<TaskObject<'a>>,
        fd_open: Option<bool>,
        stuck: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        verdict: Option<VerdictObject<'a>>,
    },
    Pileup {
        time: String,
        #[serde(flatten)]
        pileup: PileupObject<'a>,
    },
    PileupEnd {
        time: String,
        #[serde(flatten)]
        end: PileupEndObject<'a>,
    },
    Histogram {
        time: String,
        scope: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        local_port: Option<u16>,
        window_seconds: f64,
        finished: SummaryObject,
        unfinished: SummaryObject,
    },
    Health {
        time: String,
        #[serde(flatten)]
        totals: TotalsObject,
    },
    Stop {
        time: String,
        totals: TotalsObject,
    },
}

/// Line of the event stream.
#[derive(Serialize)]
pub(super) struct EventLine<'a> {
    pub(super) schema_version: u32,
    pub(super) seq: u64,
    pub(super) host: Option<&'a str>,
    #[serde(flatten)]
    pub(super) event: Event<'a>,
}

pub(super) fn how(how: ExitCause) -> &'static str {
    match how {
        ExitCause::Closed => "closed",
        ExitCause::Shutdown => "shutdown",
        ExitCause::Aborted => "aborted",
        ExitCause::Reset => "reset",
        ExitCause::Timeout => "timeout",
        ExitCause::Destroyed => "destroyed",
        ExitCause::ListenerClosed => "listener_closed",
        ExitCause::Unknown => "unknown",
    }
}

pub(super) fn scope(scope: Scope) -> (&'static str, Option<u16>) {
    match scope {
        Scope::All => ("all", None),
        Scope::LocalPort(port) => ("local_port", Some(port)),
        Scope::Other => ("other", None),
    }
}

pub(super) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// Formats a time by RFC 3339, in UTC with nanoseconds.
pub(super) fn time(wall: std::time::SystemTime) -> String {
    humantime::format_rfc3339_nanos(wall).to_string()
}
