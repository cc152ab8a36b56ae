//! Schema of every event: docs/events.md as tables. Other members may appear at any time.

use std::time::UNIX_EPOCH;

use serde_json::Value;

use Type::{Address, Flag, List, Maybe, Number, Object, Text, Whole};

/// Type of a member.
#[derive(Clone, Copy)]
enum Type {
    Text,
    /// Count: 0, 1, 2, ..
    Whole,
    /// Number of seconds, not below 0.
    Number,
    Flag,
    List,
    Object(&'static [(&'static str, Type)]),
    /// IP address that is not IPv4-mapped.
    Address,
    /// `null` if unknown.
    Maybe(&'static Type),
}

const EVENT: &[(&str, Type)] =
    &[("schema_version", Whole), ("seq", Whole), ("host", Maybe(&Text)), ("event", Text), ("time", Text)];
const START: &[(&str, Type)] = &[
    ("version", Text),
    ("kernel", Text),
    ("hook", Text),
    ("pinned", Maybe(&Text)),
    ("limits", Object(LIMITS)),
    ("degraded", List),
];
const LIMITS: &[(&str, Type)] =
    &[("max_sockets", Whole), ("max_tracked", Whole), ("ring_buffer_bytes", Whole), ("stuck_after_seconds", Number)];
const STOP: &[(&str, Type)] = &[("totals", Object(TOTALS))];
const TOTALS: &[(&str, Type)] = &[
    ("entered", Whole),
    ("left", Whole),
    ("left_unseen", Whole),
    ("lost_ring_full", Whole),
    ("lost_map_full", Whole),
    ("replaced", Whole),
    ("skipped_by_kernel", Maybe(&Whole)),
    ("undecodable", Whole),
    ("unwritten", Whole),
    ("log_lines_dropped", Whole),
    ("recordings_failed", Whole),
    ("tracked", Whole),
    ("fd_open", Whole),
    ("fd_open_unwatched", Whole),
    ("untracked", Whole),
    ("ungrouped", Whole),
    ("unkept", Whole),
];
const ENTER: &[(&str, Type)] = &[("socket", Object(SOCKET))];
const STUCK: &[(&str, Type)] = &[
    ("socket", Object(SOCKET)),
    ("dwell_seconds", Maybe(&Number)),
    ("owners", Maybe(&List)),
    ("verdict", Object(VERDICT)),
    ("process", Maybe(&Object(PROCESS))),
    ("incident", Maybe(&Text)),
];
const LEAVE: &[(&str, Type)] = &[
    ("socket", Object(SOCKET)),
    ("dwell_seconds", Maybe(&Number)),
    ("exact", Flag),
    ("how", Text),
    ("closer", Maybe(&Object(CLOSER))),
    ("fd_open", Maybe(&Flag)),
    ("stuck", Flag),
];
const PILEUP: &[(&str, Type)] = &[
    ("id", Text),
    ("state", Text),
    ("severity", Text),
    ("service", Maybe(&Text)),
    ("summary", Text),
    ("command", Text),
    ("runbook", Text),
    ("group", Object(GROUP)),
    ("began", Text),
    ("again", Flag),
    ("count", Whole),
    ("owners", Maybe(&List)),
    ("shape", Maybe(&Text)),
    ("slope_per_second", Maybe(&Number)),
    ("slope_error_per_second", Maybe(&Number)),
    ("entered_per_second", Maybe(&Number)),
    ("left_per_second", Maybe(&Number)),
    ("stuck_share", Maybe(&Number)),
    ("onset", Object(ONSET)),
    ("exhaustion_seconds", Maybe(&Number)),
    ("exhaustion", Maybe(&Object(EXHAUSTION))),
    ("verdict", Object(VERDICT)),
    ("evidence", Object(EVIDENCE)),
];
const PILEUP_END: &[(&str, Type)] = &[
    ("id", Text),
    ("state", Text),
    ("severity", Text),
    ("service", Maybe(&Text)),
    ("summary", Text),
    ("command", Maybe(&Text)),
    ("runbook", Maybe(&Text)),
    ("slope_per_second", Maybe(&Number)),
    ("onset", Object(ENDED_ONSET)),
    ("exhaustion", Maybe(&Object(EXHAUSTION))),
    ("verdict", Maybe(&Object(VERDICT))),
    ("evidence", Maybe(&Object(EVIDENCE))),
    ("last_verdict", Maybe(&Object(LAST_VERDICT))),
    ("group", Object(GROUP)),
    ("began", Text),
    ("lasted_seconds", Number),
    ("how", Text),
    ("count", Whole),
    ("most", Whole),
];
const GROUP: &[(&str, Type)] = &[
    ("role", Maybe(&Text)),
    ("netns", Maybe(&Whole)),
    ("cgroup", Maybe(&Whole)),
    ("local_port", Maybe(&Whole)),
    ("remote", Maybe(&Object(END))),
];
const ONSET: &[(&str, Type)] =
    &[("first_stuck", Text), ("last_closed", Maybe(&Text)), ("unaccepted_since", Maybe(&Text))];
const ENDED_ONSET: &[(&str, Type)] = &[("first_stuck", Text)];
const LAST_VERDICT: &[(&str, Type)] = &[("time", Text), ("class", Text), ("rule", Text), ("certainty", Text)];
const EXHAUSTION: &[(&str, Type)] = &[
    ("limit", Text),
    ("used", Whole),
    ("most", Whole),
    ("time", Text),
    ("at_least_seconds", Number),
    ("at_most_seconds", Maybe(&Number)),
];
const EVIDENCE: &[(&str, Type)] = &[
    ("oldest", List),
    ("median_seconds", Number),
    ("p90_seconds", Number),
    ("read_states", List),
    ("unaccepted", Whole),
    ("remotes", Whole),
    ("top_remotes", List),
    ("process", Maybe(&Object(PROCESS))),
    ("process_time", Maybe(&Text)),
    ("threads", Maybe(&List)),
    ("container", Maybe(&Text)),
    ("unit", Maybe(&Text)),
    ("pod", Maybe(&Object(POD))),
    ("backlog", Maybe(&Whole)),
    ("backlog_max", Maybe(&Whole)),
    ("backlog_time", Maybe(&Text)),
    ("waits_for", Maybe(&Object(END))),
    ("history", List),
];
const STATUS: &[(&str, Type)] = &[
    ("schema_version", Whole),
    ("time", Text),
    ("watched_seconds", Maybe(&Number)),
    ("stuck_after_seconds", Number),
    ("count", Whole),
    ("untracked", Whole),
    ("unseen", Maybe(&Text)),
    ("groups", List),
    ("more_groups", Whole),
];
/// Group of `status`, without `slope_per_second`, which can be negative.
const STATUS_GROUP: &[(&str, Type)] = &[
    ("id", Maybe(&Text)),
    ("state", Maybe(&Text)),
    ("severity", Text),
    ("service", Maybe(&Text)),
    ("owner", Maybe(&Object(CLOSER))),
    ("script", Maybe(&Text)),
    ("summary", Text),
    ("group", Object(GROUP)),
    ("count", Whole),
    ("shape", Maybe(&Text)),
    ("oldest", Object(OLDEST_OF_GROUP)),
    ("onset", Text),
    ("piles_up_since", Maybe(&Text)),
    ("fds_open", Maybe(&Whole)),
    ("fds_limit", Maybe(&Whole)),
    ("backlog", Maybe(&Whole)),
    ("backlog_max", Maybe(&Whole)),
    ("limit_reached", Maybe(&Text)),
    ("exhaustion_seconds", Maybe(&Number)),
    ("exhaustion", Maybe(&Object(EXHAUSTION))),
    ("verdict", Object(VERDICT)),
    ("command", Text),
];
const OLDEST_OF_GROUP: &[(&str, Type)] = &[("dwell_seconds", Maybe(&Number)), ("exact", Flag)];
const CLOSER: &[(&str, Type)] = &[("pid", Whole), ("comm", Text)];
const SOCKET: &[(&str, Type)] = &[
    ("cookie", Maybe(&Whole)),
    ("netns", Maybe(&Whole)),
    ("family", Text),
    ("protocol", Text),
    ("local", Object(END)),
    ("remote", Object(END)),
    ("role", Maybe(&Text)),
    ("inode", Maybe(&Whole)),
    ("cgroup", Maybe(&Whole)),
    ("container", Maybe(&Text)),
    ("unit", Maybe(&Text)),
    ("pod", Maybe(&Object(POD))),
    ("accepted", Maybe(&Flag)),
    ("unread_bytes", Maybe(&Whole)),
    ("received_bytes", Maybe(&Whole)),
    ("sent_bytes", Maybe(&Whole)),
    ("acked_bytes", Maybe(&Whole)),
    ("send_queue_bytes", Maybe(&Whole)),
    ("read_state", Maybe(&Text)),
    ("replied", Maybe(&Flag)),
    ("keepalive", Maybe(&Flag)),
    ("timer", Maybe(&Object(TIMER))),
    ("opener", Maybe(&Object(OPENER))),
];
const POD: &[(&str, Type)] =
    &[("uid", Text), ("name", Maybe(&Text)), ("namespace", Maybe(&Text)), ("container", Maybe(&Text))];
const TIMER: &[(&str, Type)] = &[("kind", Text), ("expires_seconds", Number), ("retries", Whole)];
const OPENER: &[(&str, Type)] = &[("pid", Whole), ("comm", Text), ("seconds_ago", Number)];
const END: &[(&str, Type)] = &[("address", Address), ("port", Whole)];
const HISTOGRAM: &[(&str, Type)] = &[
    ("scope", Text),
    ("window_seconds", Number),
    ("finished", Object(DISTRIBUTION)),
    ("unfinished", Object(DISTRIBUTION)),
];
const DISTRIBUTION: &[(&str, Type)] = &[
    ("count", Whole),
    ("p50_seconds", Maybe(&Number)),
    ("p90_seconds", Maybe(&Number)),
    ("p99_seconds", Maybe(&Number)),
    ("max_seconds", Maybe(&Number)),
    ("buckets", List),
];
const BUCKET: &[(&str, Type)] = &[("le_seconds", Maybe(&Number)), ("count", Whole)];
const LISTED: &[(&str, Type)] = &[
    ("schema_version", Whole),
    ("time", Text),
    ("socket", Object(SOCKET)),
    ("dwell_seconds", Maybe(&Number)),
    ("exact", Flag),
    ("owners", Maybe(&List)),
    ("verdict", Object(VERDICT)),
    ("listener", Maybe(&Object(LISTENER))),
    ("waits_for", Maybe(&Object(END))),
    ("conntrack_timeout_seconds", Maybe(&Number)),
    ("fd_open", Maybe(&Flag)),
    ("left", Maybe(&Object(LEFT))),
    ("process", Maybe(&Object(PROCESS))),
];
const KILLED: &[(&str, Type)] = &[("plan", Text), ("reason", Maybe(&Text))];
const RESULT: &[(&str, Type)] =
    &[("result", Maybe(&Text)), ("result_reason", Maybe(&Text)), ("fds_open", Maybe(&List))];
const PROCESS: &[(&str, Type)] = &[
    ("pid", Whole),
    ("comm", Text),
    ("exe", Maybe(&Text)),
    ("runtime", Maybe(&Text)),
    ("activity", Maybe(&Text)),
    ("threads", Maybe(&Whole)),
    ("cpu_permille", Maybe(&Whole)),
    ("fds_open", Maybe(&Whole)),
    ("fds_limit", Maybe(&Whole)),
    ("unseen", List),
];
const VERDICT: &[(&str, Type)] =
    &[("class", Text), ("rule", Text), ("certainty", Text), ("text", Text), ("next", Text), ("command", Maybe(&Text))];
const LISTENER: &[(&str, Type)] =
    &[("address", Address), ("port", Whole), ("backlog", Whole), ("backlog_max", Whole), ("owners", List)];
const LEFT: &[(&str, Type)] = &[("how", Text), ("seconds_ago", Maybe(&Number)), ("closer", Maybe(&Object(CLOSER)))];
const GROUPED: &[(&str, Type)] = &[
    ("schema_version", Whole),
    ("time", Text),
    ("by", Text),
    ("count", Whole),
    ("oldest_seconds", Maybe(&Number)),
    ("median_seconds", Maybe(&Number)),
    ("verdicts", Object(&[])),
    ("owners", List),
    ("fds_open", Maybe(&Whole)),
    ("fds_limit", Maybe(&Whole)),
    ("zombies", Whole),
];

const READ_STATES: &[&str] = &["never_read", "probe", "idle_fin", "goodbye", "partial", "fin_consumed"];
const HOW: &[&str] = &["closed", "shutdown", "aborted", "reset", "timeout", "destroyed", "listener_closed", "unknown"];

/// Fails the test if the event violates the contract.
pub fn check_event(event: &Value) {
    members(event, EVENT, event);
    assert_eq!(event["schema_version"], 1, "{event}");
    wall_seconds(event);
    match event["event"].as_str().expect("checked above") {
        "start" => {
            members(event, START, event);
            one_of(&event["hook"], &["tp_btf", "tracepoint"], event);
        }
        "stop" => members(event, STOP, event),
        "enter" => {
            members(event, ENTER, event);
            socket(event);
        }
        "stuck" => {
            members(event, STUCK, event);
            socket(event);
            dwell(event);
        }
        "leave" => {
            members(event, LEAVE, event);
            one_of(&event["how"], HOW, event);
            socket(event);
            dwell(event);
        }
        "pileup" => {
            members(event, PILEUP, event);
            incident(event, &["opened", "updated", "exhausted"]);
            assert_eq!(event["again"], event["state"] != "opened", "{event}");
            let of_verdict = &event["verdict"]["command"];
            assert!(of_verdict.is_null() || event["command"] == *of_verdict, "{event}");
            one_of(&event["shape"], &["transient", "plateau", "linear", "accelerating", "recovering"], event);
        }
        "pileup_end" => {
            members(event, PILEUP_END, event);
            incident(event, &["resolved"]);
            one_of(&event["how"], &["drained", "level"], event);
        }
        "histogram" => histogram(event),
        // The counters are those of `stop`, at either place.
        "health" => members(event.get("totals").unwrap_or(event), TOTALS, event),
        // Events may be added.
        _other => {}
    }
}

/// Checks the identity of an incident, and its summary.
fn incident(event: &Value, states: &[&str]) {
    let id = event["id"].as_str().expect("checked above");
    assert!(id.len() == 16 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{event}");
    one_of(&event["state"], states, event);
    one_of(&event["severity"], &["critical", "error", "warning", "info"], event);
    let summary = event["summary"].as_str().expect("checked above");
    assert!(summary.chars().count() <= 120 && !summary.chars().any(char::is_control), "{event}");
}

/// Checks an object of `list`.
pub fn check_listed(object: &Value) {
    members(object, LISTED, object);
    assert_eq!(object["schema_version"], 1, "{object}");
    wall_seconds(object);
    socket(object);
    dwell(object);
    if !object["left"].is_null() {
        one_of(&object["left"]["how"], HOW, object);
        assert_eq!(object["fd_open"], true, "{object}");
    }
}

/// Checks an object of `kill`.
pub fn check_killed(object: &Value) {
    check_listed(object);
    members(object, KILLED, object);
    one_of(&object["plan"], &["kill", "refuse"], object);
    assert_eq!(object["reason"].is_null(), object["plan"] == "kill", "{object}");
    if object.get("result").is_some() {
        members(object, RESULT, object);
        if !object["result"].is_null() {
            one_of(&object["result"], &["destroyed", "gone_before", "replaced", "refused", "failed"], object);
        }
    }
}

/// Checks an object of `list --by`.
pub fn check_grouped(object: &Value) {
    members(object, GROUPED, object);
    assert_eq!(object["schema_version"], 1, "{object}");
    wall_seconds(object);
    one_of(&object["by"], &["process", "listener", "peer", "cgroup"], object);
    let by = object["by"].as_str().expect("checked above");
    assert!(object.get(by).is_some(), "no `{by}` in {object}");
}

/// Checks the object of `status`.
pub fn check_status(object: &Value) {
    members(object, STATUS, object);
    assert_eq!(object["schema_version"], 1, "{object}");
    wall_seconds(object);
    for group in object["groups"].as_array().expect("checked above") {
        members(group, STATUS_GROUP, object);
        one_of(&group["severity"], &["critical", "error", "warning", "info"], group);
    }
}

/// Returns the member `time`, in seconds since 1970.
pub fn wall_seconds(event: &Value) -> f64 {
    let text = event["time"].as_str().expect("`time` is a text");
    let nanoseconds = text.rsplit_once('.').and_then(|(_seconds, rest)| rest.strip_suffix('Z'));
    assert!(nanoseconds.is_some_and(|digits| digits.len() == 9), "not in nanoseconds and UTC: {text}");
    let time = humantime::parse_rfc3339(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

fn socket(event: &Value) {
    let socket = &event["socket"];
    one_of(&socket["family"], &["ipv4", "ipv6"], event);
    one_of(&socket["protocol"], &["tcp", "mptcp"], event);
    if !socket["role"].is_null() {
        one_of(&socket["role"], &["server", "client"], event);
    }
    if !socket["read_state"].is_null() {
        one_of(&socket["read_state"], READ_STATES, event);
    }
    if !socket["timer"].is_null() {
        one_of(&socket["timer"]["kind"], &["on", "keepalive", "persist"], event);
    }
    for end in ["local", "remote"] {
        let is_v4 = socket[end]["address"].as_str().is_some_and(|address| !address.contains(':'));
        assert_eq!(is_v4, socket["family"] == "ipv4", "{end} is of the other family: {event}");
        assert!(socket[end]["port"].as_u64().is_some_and(|port| (1..65536).contains(&port)), "{end} port: {event}");
    }
    // Unknown is null, never 0.
    for name in ["cookie", "netns", "inode", "cgroup"] {
        assert_ne!(socket[name], 0, "{name}: {event}");
    }
}

/// Checks a dwell time: an exact one stands alone; any other has its upper bound beside it, which may be unknown.
fn dwell(event: &Value) {
    match event.get("exact").map(|exact| exact.as_bool().expect("`exact` is a flag")) {
        None | Some(true) => assert!(event["dwell_seconds"].is_f64() || event["dwell_seconds"].is_u64(), "{event}"),
        Some(false) => {
            members(event, &[("dwell_at_most_seconds", Maybe(&Number))], event);
            if let (Some(low), Some(high)) = (event["dwell_seconds"].as_f64(), event["dwell_at_most_seconds"].as_f64())
            {
                assert!(low <= high, "the bounds are the wrong way round: {event}");
            }
        }
    }
}

fn histogram(event: &Value) {
    members(event, HISTOGRAM, event);
    one_of(&event["scope"], &["all", "local_port", "other"], event);
    if event["scope"] == "local_port" {
        members(event, &[("local_port", Whole)], event);
    }
    for part in ["finished", "unfinished"] {
        let part = &event[part];
        let mut previous = -1.0;
        for bucket in part["buckets"].as_array().expect("checked above") {
            members(bucket, BUCKET, event);
            let edge = bucket["le_seconds"].as_f64().unwrap_or(f64::INFINITY);
            assert!(edge > previous, "buckets out of order: {event}");
            previous = edge;
        }
        let quantiles = ["p50_seconds", "p90_seconds", "p99_seconds", "max_seconds"].map(|name| part[name].as_f64());
        assert!(quantiles.is_sorted(), "quantiles out of order: {event}");
        assert!(quantiles.iter().all(|known| known.is_some() == (part["count"] != 0)), "quantiles of nothing: {event}");
    }
}

fn members(value: &Value, wanted: &[(&str, Type)], event: &Value) {
    for (name, kind) in wanted {
        let member = value.get(name).unwrap_or_else(|| panic!("no `{name}` in {event}"));
        assert!(is(member, *kind, event), "`{name}` is {member} in {event}");
    }
}

fn is(value: &Value, kind: Type, event: &Value) -> bool {
    match kind {
        Text => value.is_string(),
        Whole => value.is_u64(),
        Number => value.as_f64().is_some_and(|number| number >= 0.0),
        Flag => value.is_boolean(),
        List => value.is_array(),
        Object(wanted) => {
            members(value, wanted, event);
            value.is_object()
        }
        Address => {
            let address: Option<std::net::IpAddr> = value.as_str().and_then(|text| text.parse().ok());
            address.is_some_and(|address| address == address.to_canonical())
        }
        Maybe(kind) => value.is_null() || is(value, *kind, event),
    }
}

fn one_of(value: &Value, allowed: &[&str], event: &Value) {
    assert!(value.as_str().is_some_and(|text| allowed.contains(&text)), "{value} is none of {allowed:?} in {event}");
}
