//! JSON objects of schema version 1. Members are only added, never removed.

mod connects;
mod event;
mod listed;
mod pileup;
pub(super) mod socket;
mod stacks;
mod unix;
mod unread;

use std::{borrow::Cow, net::IpAddr, time::Duration};

use serde::Serialize;

pub(super) use self::{
    connects::OpenedInObject,
    event::{Event, EventLine, LimitsObject, scope},
    listed::{GroupObject, ListedObject},
    pileup::{ForecastObject, GroupMembers, PileupEndObject, PileupObject},
    socket::{SocketObject, timer},
    stacks::StackGroupObject,
    unix::UnixBackendObject,
    unread::UnreadRequestObject,
};
#[cfg(test)]
use crate::sink::document::*;
use closewait_engine::{
    model::{Dwell, Endpoint, Owner, Task, Totals, Verdict},
    process::{Process, ProgramRuntime},
};

/// Version of the schema.
pub(super) const SCHEMA_VERSION: u32 = 1;

/// Address and port of one end of a connection.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) struct EndpointObject {
    /// IP address. An IPv4-mapped IPv6 address is written as IPv4.
    address: IpAddr,
    /// TCP port.
    port: u16,
}

impl From<Endpoint> for EndpointObject {
    fn from(endpoint: Endpoint) -> Self {
        Self { address: endpoint.address, port: endpoint.port }
    }
}

/// `dwell_seconds` and its companions. An unknown dwell time has only `dwell_seconds: null`.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) struct DwellMembers {
    /// Dwell time: time that the socket has spent in CLOSE_WAIT, in seconds. If `exact` is false, this is the lower
    /// bound; `null` if not even that is known.
    dwell_seconds: Option<f64>,
    /// Whether the agent saw the socket enter CLOSE_WAIT, so that the dwell time is exact.
    exact: bool,
    /// Upper bound of the dwell time, in seconds, only if `exact` is false; `null` if there is no bound.
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

/// Process or thread.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) struct TaskObject<'a> {
    /// PID in the pid namespace of the agent.
    pub(super) pid: u32,
    /// Name that the kernel has for it (`comm`, 15 bytes at most), with control characters escaped.
    pub(super) comm: &'a str,
}

impl<'a> From<&'a Task> for TaskObject<'a> {
    fn from(task: &'a Task) -> Self {
        Self { pid: task.pid, comm: task.comm.as_str() }
    }
}

/// Process with an open descriptor of the socket.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) struct OwnerObject<'a> {
    /// PID of the process in the pid namespace of the agent.
    pid: u32,
    /// Number of the descriptor in that process.
    fd: u32,
    /// Name that the kernel has for the process (`comm`, 15 bytes at most), with control characters escaped.
    comm: &'a str,
}

impl<'a> From<&'a Owner> for OwnerObject<'a> {
    fn from(owner: &'a Owner) -> Self {
        Self { pid: owner.task.pid, fd: owner.fd, comm: owner.task.comm.as_str() }
    }
}

/// Diagnosis. `docs/diagnoses.md` and `closewait explain` describe every class and rule.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) struct VerdictObject<'a> {
    /// Class of the cause.
    #[cfg_attr(test, schemars(with = "ClassName"))]
    class: &'static str,
    /// Name of the rule that gave the verdict; new versions can have new rules.
    rule: &'static str,
    /// Certainty of the verdict.
    #[cfg_attr(test, schemars(with = "CertaintyName"))]
    certainty: &'static str,
    /// Evidence, as text for people.
    text: &'a str,
    /// Next step, as text for people.
    next: Cow<'a, str>,
    /// Command of the next step alone; `null` if the step has none.
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
#[cfg_attr(test, derive(JsonSchema))]
pub(super) struct ProcessObject<'a> {
    /// PID in the pid namespace of the agent.
    pid: u32,
    /// Name that the kernel has for the process (`comm`, 15 bytes at most), with control characters escaped.
    comm: &'a str,
    /// Path of the program file; `null` if it could not be read.
    exe: Option<&'a str>,
    /// Runtime or server software that the program is known to be; `null` for any other program.
    #[cfg_attr(test, schemars(with = "Option<RuntimeName>"))]
    runtime: Option<&'static str>,
    /// Activity of its threads, as text for people; `null` if it was not inspected.
    activity: Option<String>,
    /// Number of threads; `null` if unknown.
    threads: Option<u32>,
    /// CPU time that the inspected threads used, in thousandths of one CPU; `null` if unknown.
    cpu_permille: Option<u32>,
    /// Number of open descriptors; `null` if unknown.
    fds_open: Option<u64>,
    /// Limit of open descriptors (soft limit of `RLIMIT_NOFILE`); `null` if unknown.
    fds_limit: Option<u64>,
    /// Facts that the agent could not read, each a text with the reason.
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

/// Counts since the agent started. With pinned maps they continue those of the previous agent.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) struct TotalsObject {
    /// Number of sockets that entered CLOSE_WAIT.
    entered: u64,
    /// Number of sockets that exited CLOSE_WAIT.
    left: u64,
    /// Number of exits of sockets whose enter was missed; included in `left`.
    left_unseen: u64,
    /// Number of records lost because the ring buffer was full.
    lost_ring_full: u64,
    /// Number of entry times lost because the map in the kernel was full.
    lost_map_full: u64,
    /// Number of missed exits, noticed when the socket entered again.
    replaced: u64,
    /// Number of runs of the kernel program, for any change of state, that the kernel skipped because the program was
    /// interrupted on that CPU: some of them may have been an enter or an exit; `null` if the kernel does not count
    /// them.
    skipped_by_kernel: Option<u64>,
    /// Number of records that the agent could not decode.
    undecodable: u64,
    /// Number of output lines dropped because no program read them, or of entries that the journal refused.
    unwritten: u64,
    /// Number of log lines dropped because no program read standard error.
    log_lines_dropped: u64,
    /// Number of events that the export over OTLP dropped; always 0 without `--otlp-endpoint`.
    unexported: u64,
    /// Number of times that the recording could not be written: a file ends then (1), a directory has a gap each time.
    recordings_failed: u64,
    /// Number of observations that a recording in a directory dropped, because it could not be written.
    unrecorded: u64,
    /// Number of sockets whose enter was missed, found by an audit.
    repaired: u64,
    /// Number of sockets whose exit was missed, found by an audit: their `leave` has `how` `unknown` and no dwell time.
    phantom: u64,
    /// Number of sockets in CLOSE_WAIT that the agent tracks now.
    tracked: u64,
    /// Number of sockets that exited CLOSE_WAIT and whose descriptor is still open.
    fd_open: u64,
    /// Number of those that the agent does not watch, because the limit is reached; included in `fd_open`.
    fd_open_unwatched: u64,
    /// Number of sockets that entered or were found while `--max-tracked` were tracked already: only the dwell time of
    /// those is known, by the kernel's histogram, unless a later scan finds them below the limit. A socket that enters
    /// again counts again.
    untracked: u64,
    /// Number of sockets that entered on a port, or towards a remote endpoint, beyond the 4,096 with counted enters and
    /// exits.
    ungrouped: u64,
    /// Number of other items dropped over a limit, the most in one scan: descriptors beyond the first of each socket,
    /// listeners, other connections of owners, sockets without an owner that the agent did not search for elsewhere.
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
            unexported: totals.unexported,
            recordings_failed: totals.recordings_failed,
            unrecorded: totals.unrecorded,
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

pub(super) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// Formats a time by RFC 3339, in UTC with nanoseconds.
pub(super) fn time(wall: std::time::SystemTime) -> String {
    humantime::format_rfc3339_nanos(wall).to_string()
}
