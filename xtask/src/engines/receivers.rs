//! Receivers of OTLP from PyPI: rotel and oteltap. Both print what they get.

use std::collections::{BTreeMap, BTreeSet};

use tests_support::http::free_port;

use super::{agents::Incident, answers::Answer, service::Service};
use crate::prelude::*;

/// Metric of incidents, by its name in OTLP.
const INCIDENTS: &str = "closewait.incident.count";

/// Running receiver.
pub(super) struct Receiver {
    service: Service,
    pub(super) port: u16,
    parse: fn(&str) -> Received,
}

/// Content of what a receiver printed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Received {
    metrics: usize,
    records: usize,
    /// Service and class of each point of the metric of incidents.
    incidents: BTreeSet<(String, String)>,
    /// Name of each record about an incident, and the id of the incident.
    events: BTreeSet<(String, String)>,
}

impl Receiver {
    /// Starts rotel.
    pub(super) fn rotel(programs: &Path, dir: &Path) -> Result<Self> {
        let (port, grpc) = (free_port()?, free_port()?);
        let mut command = Command::new(programs.join("rotel-agent"));
        command.args(["start", "--debug-log", "metrics", "--debug-log", "logs", "--debug-log-verbosity", "detailed"]);
        command.args(["--exporter", "blackhole"]);
        command.arg("--otlp-http-endpoint").arg(format!("127.0.0.1:{port}"));
        command.arg("--otlp-grpc-endpoint").arg(format!("127.0.0.1:{grpc}"));
        Self::start("rotel", &mut command, port, rotel, dir)
    }

    /// Starts oteltap.
    pub(super) fn oteltap(programs: &Path, dir: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(programs.join("oteltap"));
        command.arg("--port").arg(port.to_string()).env("PYTHONUNBUFFERED", "1");
        Self::start("oteltap", &mut command, port, oteltap, dir)
    }

    fn start(
        name: &'static str,
        command: &mut Command,
        port: u16,
        parse: fn(&str) -> Received,
        dir: &Path,
    ) -> Result<Self> {
        let service = Service::start(name, command, dir)?;
        let answers = |_: &Service| std::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).is_ok();
        Ok(Self { service: service.wait_until(answers)?, port, parse })
    }

    /// Checks that all incidents have arrived: each as a metric, and as a record of the event with this name.
    pub(super) fn incidents(&self, incidents: &BTreeMap<String, Incident>, event: &str) -> Result<Answer> {
        let received = (self.parse)(&fs::read_to_string(&self.service.output)?);
        for (service, Incident { id, class, .. }) in incidents {
            let as_metric = (service.clone(), class.clone());
            ensure!(received.incidents.contains(&as_metric), "no metric of {as_metric:?}: {:?}", received.incidents);
            let as_record = (event.to_owned(), id.clone());
            ensure!(received.events.contains(&as_record), "no record of {as_record:?}: {:?}", received.events);
        }
        let ids: Vec<_> = incidents.values().map(|incident| incident.id.as_str()).collect();
        let classes: Vec<_> = incidents.values().map(|incident| incident.class.as_str()).collect();
        Ok(Answer {
            sent: format!("{} metrics, {} log records", received.metrics, received.records),
            got: format!("`{INCIDENTS}` {}; `{event}` {}", classes.join(", "), ids.join(", ")),
        })
    }
}

/// Reads rotel's detailed text.
fn rotel(text: &str) -> Received {
    let mut received = Received::default();
    let (mut metric, mut event) = (String::new(), String::new());
    let mut service = String::new();
    for line in text.lines().map(str::trim_start) {
        let attribute =
            |name: &str| line.strip_prefix("-> ")?.strip_prefix(name)?.strip_prefix(": Str(")?.strip_suffix(')');
        if let Some(name) = line.strip_prefix("-> Name: ") {
            received.metrics += 1;
            name.clone_into(&mut metric);
        } else if line.starts_with("LogRecord #") {
            received.records += 1;
            metric.clear();
        } else if let Some(name) = line.strip_prefix("EventName: ") {
            name.clone_into(&mut event);
        } else if let Some(name) = attribute("closewait.service") {
            name.clone_into(&mut service);
        } else if let Some(class) = attribute("closewait.verdict.class")
            && metric == INCIDENTS
        {
            received.incidents.insert((service.clone(), class.to_owned()));
        } else if let Some(id) = attribute("closewait.incident.id") {
            received.events.insert((event.clone(), id.to_owned()));
        }
    }
    received
}

/// Reads oteltap's lines of JSON.
fn oteltap(text: &str) -> Received {
    let mut received = Received::default();
    let attribute = |of: &Value, name: &str| -> Option<String> {
        let found = of["attributes"].as_array()?.iter().find(|attribute| attribute["key"] == name)?;
        Some(found["value"]["stringValue"].as_str()?.to_owned())
    };
    for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if let Some(event) = line["eventName"].as_str() {
            received.records += 1;
            received.events.extend(attribute(&line, "closewait.incident.id").map(|id| (event.to_owned(), id)));
        } else if let Some(name) = line["name"].as_str() {
            received.metrics += 1;
            for point in line["gauge"]["dataPoints"].as_array().into_iter().flatten().filter(|_| name == INCIDENTS) {
                let pair = attribute(point, "closewait.service").zip(attribute(point, "closewait.verdict.class"));
                received.incidents.extend(pair);
            }
        }
    }
    received
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Received {
        let pair = |left: &str, right: &str| BTreeSet::from([(left.to_owned(), right.to_owned())]);
        Received {
            metrics: 1,
            records: 1,
            incidents: pair("python3 a.py", "hung"),
            events: pair("closewait.incident.opened", "7f7f"),
        }
    }

    #[test]
    fn rotel_s_text_is_read() {
        let text = "     -> Name: closewait.incident.count\nData point attributes:\n     -> closewait.service: Str(python3 a.py)\n     \
            -> closewait.verdict.class: Str(hung)\nValue: 1\nLogRecord #0\nEventName: closewait.incident.opened\nAttributes:\n     \
            -> closewait.incident.id: Str(7f7f)\n     -> closewait.verdict.class: Str(leak)\n";
        assert_eq!(rotel(text), expected());
    }

    #[test]
    fn oteltap_s_lines_are_read() {
        let text = r#"
            {"name":"closewait.incident.count","gauge":{"dataPoints":[{"attributes":[{"key":"closewait.service","value":{"stringValue":"python3 a.py"}},{"key":"closewait.verdict.class","value":{"stringValue":"hung"}}]}]}}
            {"eventName":"closewait.incident.opened","attributes":[{"key":"closewait.incident.id","value":{"stringValue":"7f7f"}}]}"#;
        assert_eq!(oteltap(text), expected());
    }
}
