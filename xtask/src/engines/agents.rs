//! The two agents, and what they report.
//!
//! | agent | output |
//! |---|---|
//! | first | JSON in a file, metrics for Prometheus, OTLP to rotel, the hook for Alertmanager |
//! | second | the journal, OTLP to oteltap |

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _};

use super::{service::Service, stage};
use crate::prelude::*;

/// Dwell time after which a socket is stuck.
const STUCK_AFTER: &str = "5s";
/// Interval of the exports of metrics, milliseconds.
const EXPORT_INTERVAL: &str = "5000";

/// Addresses that the agents send to.
pub(super) struct Receivers {
    /// Port on which the first agent serves metrics.
    pub(super) metrics: u16,
    pub(super) alertmanager: u16,
    pub(super) rotel: u16,
    pub(super) oteltap: u16,
}

/// First agent.
pub(super) struct FirstAgent {
    service: Service,
    /// Its events, one line of JSON each.
    pub(super) events: PathBuf,
}

/// Incident as the first agent reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Incident {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) class: String,
    pub(super) severity: String,
}

impl Incident {
    pub(super) fn is_open(&self) -> bool {
        self.state != "resolved"
    }
}

impl FirstAgent {
    /// Starts the agent, and waits until it watches.
    pub(super) fn start(workspace: &Workspace, binary: &Path, to: &Receivers, dir: &Path) -> Result<Self> {
        let hook = hook(workspace, dir)?;
        let events = dir.join("events.ndjson");
        let mut command = Command::new(binary);
        run(&mut command, "first", to.rotel, dir);
        command.args(["--output", "json", "--events", "stuck", "--min-certainty", "low", "--on-pileup"]).arg(hook);
        command.arg("--listen").arg(format!("127.0.0.1:{}", to.metrics));
        command.env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");
        command.env("CLOSEWAIT_ALERTMANAGER_URL", format!("http://127.0.0.1:{}", to.alertmanager));
        let service = Service::with_events("first-agent", &mut command, dir, &events)?;
        let watches = |_: &Service| fs::read_to_string(&events).is_ok_and(|text| text.contains("\"event\":\"start\""));
        Ok(Self { service: service.wait_until(watches)?, events: events.clone() })
    }

    /// Returns the latest report of each incident of a service on the stage, by service.
    pub(super) fn incidents(&self) -> Result<BTreeMap<String, Incident>> {
        let text = fs::read_to_string(&self.events)?;
        let mut incidents = BTreeMap::new();
        // The last line may be incomplete.
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        for event in events.filter(|event| matches!(event["event"].as_str(), Some("pileup" | "pileup_end"))) {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let service = text(&event["service"]);
            let verdict = if event["verdict"].is_null() { &event["last_verdict"] } else { &event["verdict"] };
            if stage::SERVICES.contains(&service.as_str()) {
                let (id, state) = (text(&event["id"]), text(&event["state"]));
                let incident =
                    Incident { id, state, class: text(&verdict["class"]), severity: text(&event["severity"]) };
                incidents.insert(service, incident);
            }
        }
        Ok(incidents)
    }

    /// Returns the number of lines that the agent wrote.
    pub(super) fn lines(&self) -> Result<usize> {
        Ok(fs::read_to_string(&self.events)?.lines().count())
    }

    /// Ends the agent.
    pub(super) fn end(self) -> Result<()> {
        self.service.end()
    }
}

/// Starts the second agent. `command` begins a command in the mount namespace of the journal.
pub(super) fn second(mut command: Command, binary: &Path, to: &Receivers, dir: &Path) -> Result<Service> {
    run(command.arg(binary), "second", to.oteltap, dir);
    command.args(["--journal", "--events", "stuck"]);
    Service::start("second-agent", &mut command, dir)
}

/// Adds what both agents have.
fn run(command: &mut Command, name: &str, receiver: u16, dir: &Path) {
    command.args(["run", "--stuck-after", STUCK_AFTER, "--socket"]).arg(dir.join(name).with_extension("sock"));
    command.arg("--otlp-endpoint").arg(format!("http://127.0.0.1:{receiver}"));
    command.env("OTEL_METRIC_EXPORT_INTERVAL", EXPORT_INTERVAL);
}

/// Copies the hook to a folder of root: the agent runs no program of a user who owns the sources.
fn hook(workspace: &Workspace, dir: &Path) -> Result<PathBuf> {
    let folder = dir.join("hooks");
    fs::create_dir(&folder)?;
    for (name, mode) in [("alertmanager", 0o755), ("notify.py", 0o644)] {
        let copy = folder.join(name);
        fs::copy(workspace.root.join("contrib/hooks").join(name), &copy)?;
        fs::set_permissions(&copy, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(folder.join("alertmanager"))
}
