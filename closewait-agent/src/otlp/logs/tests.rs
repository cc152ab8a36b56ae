use std::{
    fs,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use super::*;

/// Returns the first event of a kind in the recordings' expected output.
fn event(kind: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "expected"));
    files.sort();
    let wanted = format!("\"event\":\"{kind}\"");
    let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
    let found = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    found.into_iter().find(|line| line.contains(&wanted)).unwrap().into_bytes()
}

fn converted(json: Vec<u8>) -> LogRecord {
    let observed = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    record(&QueuedEvent { number: 7, json, observed }, "0123456789abcdef")
}

/// Returns the attribute of a record as text; `None` if it has none.
fn value(record: &LogRecord, name: &str) -> Option<String> {
    let mut found = record.attributes.iter().filter(|attribute| attribute.key == name);
    let value = found.next()?.value.clone()?.value?;
    assert!(found.next().is_none(), "{name} occurs once");
    Some(match value {
        Any::StringValue(text) => text,
        Any::IntValue(number) => number.to_string(),
        Any::DoubleValue(number) => number.to_string(),
        Any::BoolValue(value) => value.to_string(),
        other @ (Any::ArrayValue(_) | Any::KvlistValue(_) | Any::BytesValue(_) | Any::StringValueStrindex(_)) => {
            panic!("{other:?}")
        }
    })
}

#[test]
fn an_incident_has_its_facts_as_attributes() {
    let json = event("pileup");
    let parsed: Value = serde_json::from_slice(&json).unwrap();
    let record = converted(json.clone());
    assert_eq!(record.event_name, format!("closewait.incident.{}", parsed["state"].as_str().unwrap()));
    let text = |json: &Value| json.as_str().map(str::to_owned);
    assert_eq!(value(&record, "closewait.incident.id"), text(&parsed["id"]));
    assert_eq!(value(&record, "closewait.severity"), text(&parsed["severity"]));
    assert_eq!(value(&record, "closewait.service"), text(&parsed["service"]));
    assert_eq!(value(&record, "network.local.port"), Some(parsed["group"]["local_port"].to_string()));
    assert_eq!(value(&record, "closewait.verdict.class"), text(&parsed["verdict"]["class"]));
    assert_eq!(value(&record, "closewait.incident.sockets"), Some(parsed["count"].to_string()));
    assert_eq!(value(&record, "log.record.uid").as_deref(), Some("0123456789abcdef-7"));
    assert_eq!(value(&record, "log.record.original").unwrap().as_bytes(), json);
    let body = AnyValue { value: Some(Any::StringValue(text(&parsed["summary"]).unwrap())) };
    assert_eq!(record.body, Some(body));
    let time = humantime::format_rfc3339_nanos(UNIX_EPOCH + Duration::from_nanos(record.time_unix_nano));
    assert_eq!(Some(time.to_string().as_str()), parsed["time"].as_str());
    assert_eq!(record.observed_time_unix_nano, 2_000_000_000_000_000_000);
}

#[test]
fn each_event_has_a_name_a_severity_and_a_body() {
    let warn = SeverityNumber::Warn;
    for (kind, name, severity) in [
        ("start", "closewait.agent.start", SeverityNumber::Info),
        ("stop", "closewait.agent.stop", SeverityNumber::Info),
        ("health", "closewait.agent.health", warn),
        ("stuck", "closewait.socket.stuck", warn),
        ("leave", "closewait.socket.left", SeverityNumber::Info),
    ] {
        let record = converted(event(kind));
        assert_eq!((record.event_name.as_str(), record.severity_number()), (name, severity), "{kind}");
        let Some(Any::StringValue(body)) = record.body.unwrap().value else { panic!("{kind}") };
        assert!(!body.is_empty() && !body.contains('\n'), "{kind}: {body}");
        assert!(record.attributes.len() > 4, "{kind}: {:?}", record.attributes);
    }
    let end = serde_json::json!({"event": "pileup_end", "state": "resolved", "severity": "info", "verdict": null,
        "last_verdict": {"class": "leak"}, "group": {"remote": {"address": "::1", "port": 5}}, "summary": "over"});
    let record = converted(end.to_string().into_bytes());
    assert_eq!(record.event_name, "closewait.incident.resolved");
    assert_eq!(value(&record, "closewait.verdict.class").as_deref(), Some("leak"));
    assert_eq!(value(&record, "closewait.remote").as_deref(), Some("[::1]:5"));
    assert_eq!(value(&record, "network.local.port"), None, "null has no attribute");
}

#[test]
fn a_socket_has_the_names_of_the_semantic_conventions() {
    let json = event("stuck");
    let parsed: Value = serde_json::from_slice(&json).unwrap();
    let record = converted(json);
    assert_eq!(value(&record, "network.peer.port"), Some(parsed["socket"]["remote"]["port"].to_string()));
    assert_eq!(value(&record, "network.connection.state").as_deref(), Some("close_wait"));
    assert_eq!(value(&record, "process.pid"), Some(parsed["owners"][0]["pid"].to_string()));
    assert_eq!(value(&record, "closewait.dwell.time"), Some(parsed["dwell_seconds"].to_string()));
}

#[test]
fn malformed_and_long_events_become_records_too() {
    let record = converted(b"not json".to_vec());
    assert_eq!(
        (record.event_name.as_str(), record.time_unix_nano),
        ("closewait.agent.", record.observed_time_unix_nano)
    );
    let long = format!("{{\"event\":\"health\",\"x\":\"{}\"}}", "a".repeat(MAX_ORIGINAL_BYTES));
    let record = converted(long.into_bytes());
    assert_eq!((record.event_name.as_str(), value(&record, "log.record.original")), ("closewait.agent.health", None));
}
