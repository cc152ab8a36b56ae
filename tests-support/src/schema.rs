//! Contract of the output: the JSON Schema files of `docs/schema/`, and the relations between members that no schema
//! expresses. The tests of closewait are strict: they refuse a member that the schema does not describe.

#[cfg(feature = "schema")]
mod files;

use std::time::UNIX_EPOCH;

use serde_json::Value;

#[cfg(feature = "schema")]
pub use self::files::{conforms, schema};

/// Does nothing: xtask is built without the validator, which would double the time of its build.
#[cfg(not(feature = "schema"))]
fn conforms(_document: &str, _object: &Value) {}

/// Fails the test if the event violates the contract.
pub fn check_event(event: &Value) {
    conforms("events", event);
    wall_seconds(event);
    match event["event"].as_str().expect("`event` is a text") {
        "enter" => socket(event),
        "stuck" | "leave" => {
            socket(event);
            dwell(event);
        }
        "pileup" => {
            incident(event, &["opened", "updated", "exhausted"]);
            assert_eq!(event["again"], event["state"] != "opened", "{event}");
            // Without a command in the verdict, it lists the sockets of the group.
            let command = &event["verdict"]["command"];
            assert!(command.is_null() || event["command"] == *command, "{event}");
        }
        "pileup_end" => incident(event, &["resolved"]),
        "histogram" => histogram(event),
        // No other event has members that depend on each other.
        _other => {}
    }
}

/// Checks the identity of an incident, and its summary.
fn incident(event: &Value, states: &[&str]) {
    let id = event["id"].as_str().expect("`id` is a text");
    assert!(id.len() == 16 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{event}");
    assert!(event["state"].as_str().is_some_and(|state| states.contains(&state)), "{event}");
    let summary = event["summary"].as_str().expect("`summary` is a text");
    assert!(summary.chars().count() <= 120 && !summary.chars().any(char::is_control), "{event}");
}

/// Checks an object of `list`.
pub fn check_listed(object: &Value) {
    conforms("list", object);
    listed(object);
}

fn listed(object: &Value) {
    wall_seconds(object);
    socket(object);
    dwell(object);
    if !object["left"].is_null() {
        assert_eq!(object["fd_open"], true, "{object}");
    }
}

/// Checks an object of `kill`.
pub fn check_killed(object: &Value) {
    conforms("kill", object);
    listed(object);
    assert_eq!(object["reason"].is_null(), object["plan"] == "kill", "{object}");
}

/// Checks an object of `list --by`.
pub fn check_grouped(object: &Value) {
    conforms("list-by", object);
    wall_seconds(object);
}

/// Checks the object of `status`.
pub fn check_status(object: &Value) {
    conforms("status", object);
    wall_seconds(object);
}

/// Checks the object of `report`.
pub fn check_reported(object: &Value) {
    conforms("report", object);
    wall_seconds(object);
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
    for end in ["local", "remote"] {
        let address = socket[end]["address"].as_str().expect("`address` is a text");
        let address: std::net::IpAddr = address.parse().unwrap_or_else(|error| panic!("{error}: {event}"));
        assert_eq!(address, address.to_canonical(), "{end} is IPv4-mapped: {event}");
        assert_eq!(address.is_ipv4(), socket["family"] == "ipv4", "{end} is of the other family: {event}");
        assert_ne!(socket[end]["port"], 0, "{end} port: {event}");
    }
    // Unknown is null, never 0.
    for name in ["cookie", "netns", "inode", "cgroup"] {
        assert_ne!(socket[name], 0, "{name}: {event}");
    }
}

/// Checks a dwell time: an exact one stands alone; any other has its upper bound beside it, which may be unknown.
fn dwell(event: &Value) {
    let (low, high) = (event["dwell_seconds"].as_f64(), event.get("dwell_at_most_seconds"));
    if event["exact"] == true {
        assert!(low.is_some() && high.is_none(), "{event}");
    } else {
        let high = high.unwrap_or_else(|| panic!("no upper bound in {event}")).as_f64();
        assert!(low.zip(high).is_none_or(|(low, high)| low <= high), "the bounds are the wrong way round: {event}");
    }
}

fn histogram(event: &Value) {
    assert_eq!(event["scope"] == "local_port", event.get("local_port").is_some(), "{event}");
    for part in ["finished", "unfinished"] {
        let part = &event[part];
        let edges = part["buckets"].as_array().expect("`buckets` is a list").iter();
        let edges: Vec<_> = edges.map(|bucket| bucket["le_seconds"].as_f64().expect("a number")).collect();
        assert!(edges.is_sorted_by(|one, next| one < next), "buckets out of order: {event}");
        let quantiles = ["p50_seconds", "p90_seconds", "p99_seconds", "max_seconds"].map(|name| part[name].as_f64());
        assert!(quantiles.is_sorted(), "quantiles out of order: {event}");
        assert!(quantiles.iter().all(|known| known.is_some() == (part["count"] != 0)), "quantiles of nothing: {event}");
    }
}
