//! Debian's Alertmanager, which gets alerts from Prometheus and from the hook of the agent, and notifies a service on loopback.

use std::collections::{BTreeMap, BTreeSet};

use tests_support::{
    http::{free_port, get},
    sink::{Sink, answer},
};

use super::{agents::Incident, answers::Answer, service::Service, stage};
use crate::prelude::*;

/// Alert of the hook.
const OF_HOOK: &str = "CloseWaitIncident";

/// Running Alertmanager.
pub(super) struct Alertmanager {
    _service: Service,
    pub(super) port: u16,
    /// Service that is notified.
    notified: Sink,
}

/// Name of an alert, and the service that it is about.
type AlertOfService = (String, String);

impl Alertmanager {
    pub(super) fn start(dir: &Path) -> Result<Self> {
        let notified = Sink::new(&[answer(200, "")]);
        let config = dir.join("alertmanager.yml");
        let text = format!(
            "route: {{ receiver: service, group_by: ['...'], group_wait: 1s, group_interval: 5s, repeat_interval: 1h }}\n\
             receivers: [{{ name: service, webhook_configs: [{{ url: '{}', send_resolved: true }}] }}]\n",
            notified.url("/alerts")
        );
        fs::write(&config, text)?;
        let port = free_port()?;
        let mut command = Command::new(exec::find("prometheus-alertmanager")?);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.path={}", dir.join("alertmanager").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg("--cluster.listen-address=");
        let service = Service::start("alertmanager", &mut command, dir)?;
        let service = service.wait_until(|_| get(port, "/-/ready").is_ok())?;
        Ok(Self { _service: service, port, notified })
    }

    /// Returns the alerts of the stage in a list of them, by name and service.
    fn of_stage(alerts: &Value) -> Vec<(AlertOfService, &Value)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = |alert: &Value| (text(&alert["labels"]["alertname"]), text(&alert["labels"]["service"]));
        let alerts = alerts.as_array().into_iter().flatten().map(|alert| (key(alert), alert));
        alerts.filter(|((_, service), _)| stage::SERVICES.contains(&service.as_str())).collect()
    }

    /// Checks the active alerts, and the last notification of each: `of_rules` are the expected alerts of Prometheus; the
    /// hook sends one for each open incident.
    pub(super) fn alerts(&self, incidents: &BTreeMap<String, Incident>, of_rules: &[(&str, &str)]) -> Result<Answer> {
        let all: Value = serde_json::from_str(&get(self.port, "/api/v2/alerts")?).context("no JSON")?;
        let found = Self::of_stage(&all);
        for ((name, service), alert) in &found {
            if name == OF_HOOK {
                let id = &incidents.get(service).context("an alert without an incident")?.id;
                ensure!(alert["labels"]["incident"] == id.as_str(), "the alert of {service} has another id than {id}");
            }
        }
        let found: BTreeSet<_> = found.into_iter().map(|(key, _alert)| key).collect();
        let open = incidents.iter().filter(|(_service, incident)| incident.is_open());
        let of_hook = open.map(|(service, _incident)| (OF_HOOK, service.as_str()));
        let expected = of_rules.iter().copied().chain(of_hook);
        let expected: BTreeSet<_> = expected.map(|(name, service)| (name.to_owned(), service.to_owned())).collect();
        ensure!(found == expected, "active: {found:?}, expected: {expected:?}");
        let (requests, told) = self.told();
        let firing: BTreeSet<_> =
            told.iter().filter(|(_key, status)| *status == "firing").map(|(key, _)| key).collect();
        ensure!(firing.iter().copied().eq(&expected), "the service believes that {firing:?} fire");
        let resolved = told.len() - firing.len();
        let got = format!("{} active; for the service, {} fire and {resolved} are resolved", found.len(), firing.len());
        Ok(Answer { sent: format!("alerts of Prometheus and of the hook; {requests} notifications"), got })
    }

    /// Returns the number of notifications, and the last status of each alert.
    fn told(&self) -> (usize, BTreeMap<AlertOfService, String>) {
        let bodies: Vec<_> = self.notified.requests().into_iter().map(|request| request.json()).collect();
        let mut told = BTreeMap::new();
        for body in &bodies {
            for (key, alert) in Self::of_stage(&body["alerts"]) {
                told.insert(key, alert["status"].as_str().unwrap_or_default().to_owned());
            }
        }
        (bodies.len(), told)
    }
}
