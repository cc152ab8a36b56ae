//! Schemas of members with a fixed set of values. A member's own type is a text, so each names one of these types.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::sink::{check::ProbeState, schema};
use closewait_engine::{
    model::{Certainty, Class, ExitCause, IncidentState, Limit, Protocol, ReadState, Recovery, Role, Shape, TimerKind},
    process::ProgramRuntime,
    snapshot::{query::GroupBy, urgency::Severity},
    unread::RequestProtocol,
};

/// Returns the schema of a text with one of these values. Editors show the meanings.
fn values(description: &str, values: &[(Cow<'_, str>, &str)]) -> Schema {
    let (names, meanings): (Vec<&str>, Vec<&str>) = values.iter().map(|(name, meaning)| (&**name, *meaning)).unzip();
    json_schema!({ "type": "string", "description": description, "enum": names, "enumDescriptions": meanings })
}

/// Defines the types of values. A table that names an `enum` does not compile unless it has every variant.
macro_rules! names {
    ($($(#[doc = $doc:literal])+ $type:ident $(($enum:ident, $function:expr))? { $($values:tt)+ })+) => {
        listed_names! {
            $($(#[doc = $doc])+ $type = names!(@table $(($enum, $function))? $($values)+);)+
        }
    };
    (@table ($enum:ident, $function:expr) $($variant:ident: $meaning:literal,)+) => {{
        const _: fn($enum) = |value| match value { $($enum::$variant { .. } => (),)+ };
        [$(($function($enum::$variant).into(), $meaning)),+]
    }};
    (@table $($name:literal: $meaning:literal,)+) => { [$(($name.into(), $meaning)),+] };
}

/// Defines types whose values and meanings the code has in a list.
macro_rules! listed_names {
    ($($(#[doc = $doc:literal])+ $type:ident = $values:expr;)+) => {$(
        $(#[doc = $doc])+
        pub(crate) struct $type;

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
                values(concat!($($doc),+).trim_start(), &$values)
            }
        }
    )+};
}

listed_names! {
    /// Class of a cause.
    ClassName = Class::ALL.map(|class| (class.name().into(), class.meaning()));
    /// Certainty of a verdict.
    CertaintyName = Certainty::ALL.map(|certainty| (certainty.name().into(), certainty.meaning()));
}

names! {
    /// Severity of a group.
    SeverityName (Severity, Severity::name) {
        Critical: "a limit is reached, or will be within 5 minutes",
        Error: "hung or never accepted, and it grows or the certainty is at least `medium`",
        Warning: "any other problem",
        Info: "no action is needed, or it is too early to tell",
    }
    /// Source of a setting.
    SettingSourceName {
        "default": "default of the option",
        "file": "configuration file",
        "environment": "environment variable",
        "command_line": "command line",
    }
    /// State of an incident.
    StateName (IncidentState, IncidentState::name) {
        Opened: "the incident is new",
        Updated: "the number of sockets has doubled, or a limit is near",
        Exhausted: "a limit is reached",
        Resolved: "the incident has ended",
    }
    /// Way in which an incident ended.
    RecoveryName (Recovery, Recovery::name) {
        Drained: "nearly all sockets have exited",
        ProcessEnded: "nearly all sockets have exited, most of them because their process ended",
        Level: "the remaining sockets are still in CLOSE_WAIT, and their number has long been level",
    }
    /// Course of a group's count over time.
    ShapeName (Shape, Shape::name) {
        Transient: "all sockets exit in time",
        Plateau: "some sockets remain, and the count is level",
        Linear: "the count grows at an even rate",
        Accelerating: "the count grows at an increasing rate",
        Recovering: "the count falls",
    }
    /// Kind of an event in the course of an incident.
    MilestoneKindName {
        "last_closed": "last exit that the program caused before the incident",
        "first_stuck": "entry of the first socket that remained",
        "first_unaccepted": "entry of the first socket that no program has accepted",
        "detected": "first report",
        "doubled": "report of twice as many sockets",
        "limit_near": "first report of a limit that is reached within 5 minutes",
        "limit_reached": "first report of a limit that is reached",
        "resolved": "end",
    }
    /// Limit that a growing group can exhaust.
    LimitName (Limit, Limit::name) {
        Descriptors: "open descriptors of the owner (`RLIMIT_NOFILE`)",
        Backlog: "unaccepted connections of the listener",
        Connections: "connections of the port (`--connection-limit`, set by the user)",
    }
    /// Side of the connection that a socket is on.
    RoleName (Role, Role::name) {
        Server: "a listener created the socket",
        Client: "the program connected the socket",
    }
    /// Transport protocol of a socket.
    ProtocolName (Protocol, schema::socket::protocol) {
        Tcp: "TCP, including subflows of Multipath TCP",
        Mptcp: "Multipath TCP: the socket of which the program has a descriptor",
    }
    /// Protocol of an unread request.
    RequestProtocolName (RequestProtocol, RequestProtocol::name) {
        Http: "HTTP/1.0 or HTTP/1.1",
        Http2: "HTTP/2 without TLS",
        Tls: "`ClientHello` of TLS",
        Redis: "command of Redis",
        Postgres: "beginning of a connection of PostgreSQL",
        Ssh: "beginning of a connection of SSH",
    }
    /// Part of the received data that the program has read.
    ReadStateName (ReadState, schema::socket::read_state) {
        NeverRead: "data came in, and the program read none of it",
        Probe: "only the FIN came in, and the program has not read it",
        IdleFin: "the program read all data, and has not read the FIN",
        Goodbye: "the program read all data except for the last hundred bytes at most",
        Partial: "the program read some of the data",
        FinConsumed: "a read consumed the FIN; that read need not have returned 0",
    }
    /// Kind of a timer, as `ss -o` names it.
    TimerKindName (TimerKind, schema::socket::timer) {
        On: "retransmission, loss probe or reordering",
        Keepalive: "`SO_KEEPALIVE`",
        Persist: "zero window probe",
    }
    /// Cause of an exit from CLOSE_WAIT.
    ExitName (ExitCause, ExitCause::name) {
        Closed: "the program closed the last descriptor",
        Shutdown: "the program called `shutdown(SHUT_WR)` and keeps the descriptor",
        Aborted: "the program closed with unread data or an `SO_LINGER` of 0, or connected to `AF_UNSPEC`",
        Reset: "the peer sent a RST",
        Timeout: "keepalive or retransmission gave up",
        Destroyed: "a program destroyed the socket with `SOCK_DESTROY`, as `ss -K` and `closewait kill` do",
        ListenerClosed: "its listener was closed before a program accepted it",
        Unknown: "there is no evidence",
    }
    /// Property by which `list --by` groups sockets.
    GroupByName (GroupBy, GroupBy::name) {
        Process: "owner of the sockets, or of their listener",
        Listener: "listener that the sockets came from",
        Peer: "remote address",
        Cgroup: "cgroup of the sockets",
    }
    /// Runtime or server software that a program is known to be.
    RuntimeName (ProgramRuntime, ProgramRuntime::name) {
        Jvm: "Java virtual machine",
        Go: "program in Go",
        Node: "Node.js",
        CPython: "Python",
        DotNet: ".NET",
        Ruby: "Ruby",
        Php: "PHP",
        Nginx: "nginx",
        HaProxy: "HAProxy",
        Envoy: "Envoy",
        Postgres: "PostgreSQL",
        Beam: "Erlang virtual machine",
        Perl: "Perl",
        MySql: "MySQL or MariaDB",
        Redis: "Redis",
        Memcached: "memcached",
        Apache: "Apache HTTP Server",
        PgBouncer: "PgBouncer",
        Varnish: "Varnish",
        Squid: "Squid",
        Inetd: "inetd or xinetd",
        Lighttpd: "lighttpd",
    }
    /// State of a check, as monitoring systems know it.
    ProbeStateName (ProbeState, lower_name) {
        Ok: "nothing needs attention",
        Warning: "a threshold of `--warn` is reached, or a program needs attention",
        Critical: "a threshold of `--crit` is reached, or a limit is reached or near; for a command: it left sockets behind",
        Unknown: "the check was not possible",
    }
    /// Address family.
    FamilyName {
        "ipv4": "IPv4, also of an IPv6 socket with IPv4-mapped addresses",
        "ipv6": "IPv6",
    }
    /// Sockets that a histogram counts.
    ScopeName {
        "all": "all sockets of the host, from the kernel's own counts",
        "local_port": "server sockets of one local port, at most 64 ports",
        "other": "sockets without a scope of their own: clients, and servers of other ports",
    }
    /// Hook in the kernel.
    HookName {
        "tp_btf": "the tracepoint with the kernel's types",
        "tracepoint": "the classic tracepoint",
    }
    /// Fate of the maps of an earlier agent.
    PinnedName {
        "fresh": "there were none",
        "adopted": "maps and program continue: nothing was missed",
        "maps_adopted": "the maps continue with another program: an audit finds what happened in between",
        "replaced": "they had another layout or were incomplete; `degraded` has the reason",
    }
    /// End of a socket that a command left in CLOSE_WAIT.
    FateName {
        "open": "it is still open",
        "process_ended": "the kernel closed it, because its process ended",
        "closed_late": "the program closed it, after the time that the user allows",
    }
    /// Plan of `kill` for a socket.
    PlanName {
        "kill": "destroy it",
        "refuse": "leave it alone",
    }
    /// Outcome of `kill` for a socket.
    OutcomeName {
        "destroyed": "the kernel destroyed the socket",
        "gone_before": "it had exited CLOSE_WAIT before",
        "replaced": "another socket had its place, and was left alone",
        "refused": "something has changed since the plan",
        "failed": "the kernel did not destroy it",
    }
    /// Result of all checks of `doctor`.
    DoctorResultName {
        "ok": "`closewait run` works with every feature",
        "degraded": "`closewait run` works, without some features",
        "refused": "`closewait run` would refuse to start",
    }
}

fn lower_name(state: ProbeState) -> String {
    state.name().to_lowercase()
}

/// Defines types with one value, which needs no definition of its own.
macro_rules! constants {
    ($($(#[doc = $doc:literal])+ $type:ident = $value:expr;)+) => {$(
        $(#[doc = $doc])+
        pub(crate) struct $type;

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
                json_schema!({ "const": $value })
            }
        }
    )+};
}

constants! {
    /// Version of the schema.
    Version = schema::SCHEMA_VERSION;
    /// Type of the line about missed events.
    Missed = "missed";
    /// Property that the sockets of a group of `list --by group` share.
    GroupWord = "group";
}

/// Time.
pub(crate) struct Time;

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        let pattern = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{9}Z$";
        json_schema!({ "type": "string", "format": "date-time", "pattern": pattern })
    }
}

/// Number of sockets of each class; a class without sockets has no member.
pub(crate) struct VerdictCounts;

impl JsonSchema for VerdictCounts {
    fn schema_name() -> Cow<'static, str> {
        "VerdictCounts".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        let count = |class: Class| {
            let description = format!("Number of sockets: {}.", class.meaning());
            (class.name(), serde_json::json!({ "type": "integer", "minimum": 1, "description": description }))
        };
        let counts: std::collections::BTreeMap<_, _> = Class::ALL.into_iter().map(count).collect();
        let description = "Number of sockets of each class; a class without sockets has no member.";
        json_schema!({ "type": "object", "description": description, "properties": counts })
    }
}
