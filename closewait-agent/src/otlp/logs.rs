//! Log records, made from the events of the stream on the exporter's thread: the event loop hands over the line of JSON that it has
//! anyway.

use std::time::SystemTime;

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value as Any},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};
use serde_json::Value;

use super::resource::{attribute, nanos, scope, text};
use crate::metrics::table;

/// Maximum length of a line of JSON that a record carries as `log.record.original`, bytes.
const MAX_ORIGINAL_BYTES: usize = 64 * 1024;

/// Event on its way to the collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueuedEvent {
    /// Number of the event among those of this agent that are exported.
    pub(super) number: u64,
    /// Line of JSON.
    pub(super) json: Vec<u8>,
    /// Time at which the event loop handed it over.
    pub(super) observed: SystemTime,
}

/// Returns the request for some events. `instance` names this run of the agent.
pub(super) fn request(events: &[QueuedEvent], resource: &Resource, instance: &str) -> ExportLogsServiceRequest {
    let log_records = events.iter().map(|event| record(event, instance)).collect();
    let scope_logs = ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() };
    let logs =
        ResourceLogs { resource: Some(resource.clone()), scope_logs: vec![scope_logs], ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![logs] }
}

fn record(event: &QueuedEvent, instance: &str) -> LogRecord {
    let json: Value = serde_json::from_slice(&event.json).unwrap_or_default();
    let kind = json["event"].as_str().unwrap_or_default();
    let observed = nanos(event.observed);
    let time = json["time"].as_str().and_then(|time| humantime::parse_rfc3339(time).ok()).map_or(observed, nanos);
    let (severity, severity_text) = severity(kind, &json);
    let mut attributes = Attributes(&json, Vec::new());
    attributes.1.push(text("log.record.uid", &format!("{instance}-{}", event.number)));
    if event.json.len() <= MAX_ORIGINAL_BYTES {
        attributes.1.push(text("log.record.original", String::from_utf8_lossy(&event.json).trim_end()));
    }
    match kind {
        "pileup" | "pileup_end" => attributes.of_incident(),
        "enter" | "stuck" | "leave" => attributes.of_socket(),
        "start" => attributes.of_start(),
        "stop" => attributes.of_totals(&json["totals"]),
        _ => attributes.of_totals(&json),
    }
    let body = AnyValue { value: Some(Any::StringValue(body(kind, &json))) };
    LogRecord {
        time_unix_nano: time,
        observed_time_unix_nano: observed,
        severity_number: severity.into(),
        severity_text: severity_text.to_owned(),
        body: Some(body),
        attributes: attributes.1,
        event_name: event_name(kind, &json),
        ..LogRecord::default()
    }
}

fn event_name(kind: &str, json: &Value) -> String {
    let name = match kind {
        "pileup" | "pileup_end" => format!("incident.{}", json["state"].as_str().unwrap_or("updated")),
        "enter" => "socket.entered".to_owned(),
        "stuck" => "socket.stuck".to_owned(),
        "leave" => "socket.left".to_owned(),
        other => format!("agent.{other}"),
    };
    format!("closewait.{name}")
}

/// Returns the severity and its name. The numbers are those that OpenTelemetry's log data model gives for syslog.
fn severity(kind: &str, json: &Value) -> (SeverityNumber, &'static str) {
    match (kind, json["severity"].as_str()) {
        (_, Some("critical")) => (SeverityNumber::Error2, "critical"),
        (_, Some("error")) => (SeverityNumber::Error, "error"),
        (_, Some("warning")) | ("stuck" | "health", None) => (SeverityNumber::Warn, "warning"),
        _ => (SeverityNumber::Info, "info"),
    }
}

/// Returns the event in one line for people.
fn body(kind: &str, json: &Value) -> String {
    let constant = match kind {
        "start" => "the agent started",
        "stop" => "the agent ended",
        "health" => "the agent lost something, or repaired what it had missed",
        "enter" => "a socket entered CLOSE_WAIT",
        "leave" => "a socket exited CLOSE_WAIT",
        "stuck" => json["verdict"]["text"].as_str().unwrap_or("a socket is stuck in CLOSE_WAIT"),
        _ => json["summary"].as_str().unwrap_or_default(),
    };
    constant.to_owned()
}

/// Event and the attributes that are made from it. A member that is null has no attribute.
struct Attributes<'a>(&'a Value, Vec<KeyValue>);

impl Attributes<'_> {
    /// Adds an attribute with a value of the event.
    fn add(&mut self, name: &str, value: &Value) {
        let value = match value {
            Value::String(value) => Any::StringValue(value.clone()),
            Value::Bool(value) => Any::BoolValue(*value),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(number), _) => Any::IntValue(number),
                // Attributes have no unsigned numbers.
                (None, _) if number.is_u64() => Any::StringValue(number.to_string()),
                (None, Some(number)) => Any::DoubleValue(number),
                (None, None) => return,
            },
            Value::Null | Value::Array(_) | Value::Object(_) => return,
        };
        self.1.push(attribute(name, value));
    }

    /// Adds an attribute with a duration in seconds.
    fn add_seconds(&mut self, name: &str, value: &Value) {
        if let Some(seconds) = value.as_f64() {
            self.1.push(attribute(name, Any::DoubleValue(seconds)));
        }
    }

    fn of_incident(&mut self) {
        let json = self.0;
        let group = &json["group"];
        let verdict = if json["verdict"].is_null() { &json["last_verdict"] } else { &json["verdict"] };
        let limit = match json["exhaustion"]["limit"].as_str() {
            Some("descriptors") => Some("fds"),
            Some("connections") => Some("limit"),
            other => other,
        };
        for (name, value) in [
            ("closewait.incident.id", &json["id"]),
            ("closewait.incident.state", &json["state"]),
            (table::SEVERITY.otlp_name, &json["severity"]),
            (table::SERVICE.otlp_name, &json["service"]),
            (table::ROLE.otlp_name, &group["role"]),
            (table::PORT.otlp_name, &group["local_port"]),
            ("closewait.netns", &group["netns"]),
            ("closewait.incident.sockets", &json["count"]),
            ("closewait.incident.slope", &json["slope_per_second"]),
            ("closewait.command", &json["command"]),
            ("closewait.runbook", &json["runbook"]),
        ] {
            self.add(name, value);
        }
        if let (Some(address), Some(port)) = (group["remote"]["address"].as_str(), group["remote"]["port"].as_u64()) {
            let remote =
                if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
            self.1.push(text(table::REMOTE.otlp_name, &remote));
        }
        self.add_seconds("closewait.exhaustion.time", &json["exhaustion_seconds"]);
        if let Some(limit) = limit {
            self.1.push(text(table::RESOURCE.otlp_name, limit));
        }
        self.add_seconds("closewait.incident.duration", &json["lasted_seconds"]);
        self.of_verdict(verdict);
    }

    fn of_socket(&mut self) {
        let json = self.0;
        let socket = &json["socket"];
        let owner = &json["owners"][0];
        let state = if json["event"] == "leave" { &Value::Null } else { &Value::from("close_wait") };
        for (name, value) in [
            ("network.transport", &socket["protocol"]),
            ("network.type", &socket["family"]),
            ("network.local.address", &socket["local"]["address"]),
            (table::PORT.otlp_name, &socket["local"]["port"]),
            ("network.peer.address", &socket["remote"]["address"]),
            ("network.peer.port", &socket["remote"]["port"]),
            (table::STATE.otlp_name, state),
            (table::ROLE.otlp_name, &socket["role"]),
            ("closewait.socket.cookie", &socket["cookie"]),
            ("closewait.netns", &socket["netns"]),
            ("closewait.systemd.unit", &socket["unit"]),
            ("container.id", &socket["container"]),
            ("k8s.pod.uid", &socket["pod"]["uid"]),
            ("k8s.pod.name", &socket["pod"]["name"]),
            ("k8s.namespace.name", &socket["pod"]["namespace"]),
            ("k8s.container.name", &socket["pod"]["container"]),
            ("process.pid", &owner["pid"]),
            ("process.executable.name", &owner["comm"]),
            ("closewait.incident.id", &json["incident"]),
            (table::HOW.otlp_name, &json["how"]),
        ] {
            self.add(name, value);
        }
        self.add_seconds("closewait.dwell.time", &json["dwell_seconds"]);
        self.add("closewait.dwell.exact", &json["exact"]);
        self.of_verdict(&json["verdict"]);
    }

    fn of_verdict(&mut self, verdict: &Value) {
        for (name, value) in [
            (table::CLASS.otlp_name, &verdict["class"]),
            ("closewait.verdict.rule", &verdict["rule"]),
            ("closewait.verdict.certainty", &verdict["certainty"]),
            ("closewait.verdict.text", &verdict["text"]),
            ("closewait.verdict.next", &verdict["next"]),
        ] {
            self.add(name, value);
        }
    }

    fn of_start(&mut self) {
        let json = self.0;
        for (name, value) in [
            (table::VERSION.otlp_name, &json["version"]),
            (table::HOOK.otlp_name, &json["hook"]),
            (table::KERNEL.otlp_name, &json["kernel"]),
        ] {
            self.add(name, value);
        }
        self.add_seconds("closewait.stuck_after", &json["limits"]["stuck_after_seconds"]);
        let degraded = json["degraded"].as_array().map_or(0, Vec::len);
        self.add("closewait.degraded", &Value::from(degraded));
    }

    fn of_totals(&mut self, totals: &Value) {
        for (name, value) in totals.as_object().into_iter().flatten() {
            if value.is_number() && !matches!(name.as_str(), "seq" | "schema_version") {
                self.add(&format!("closewait.total.{name}"), value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
