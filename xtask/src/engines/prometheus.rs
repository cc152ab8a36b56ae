//! Debian's Prometheus, with the configuration and the rules of contrib/monitoring.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
};

use tests_support::http::{free_port, get, percent_encoded};

use super::{agents::Incident, answers::Answer, service::Service, stage};
use crate::prelude::*;

/// Interval of scrapes and of the rules.
const INTERVAL: &str = "5s";

/// Time for which an alert about a program fires on.
const FIRES_ON: &str = "keep_firing_for: 3m";

/// Running Prometheus.
pub(super) struct Prometheus {
    _service: Service,
    port: u16,
    /// Port of the agent.
    agent: u16,
}

/// Result of a query: labels of a series, and its value.
type Sample = (BTreeMap<String, String>, f64);

impl Prometheus {
    /// Starts Prometheus, which asks the agent and tells Alertmanager.
    pub(super) fn start(workspace: &Workspace, agent: u16, alertmanager: u16, dir: &Path) -> Result<Self> {
        let folder = workspace.root.join("contrib/monitoring/prometheus");
        let mut text = fs::read_to_string(folder.join("prometheus.yml"))?;
        for (usual, here) in [
            ("15s", INTERVAL.to_owned()),
            ("127.0.0.1:9093", format!("127.0.0.1:{alertmanager}")),
            ("127.0.0.1:9753", format!("127.0.0.1:{agent}")),
        ] {
            ensure!(text.contains(usual), "the configuration of Prometheus has no {usual}");
            text = text.replace(usual, &here);
        }
        let config = dir.join("prometheus.yml");
        fs::write(&config, text)?;
        let rules = fs::read_to_string(folder.join("closewait.rules.yml"))?;
        ensure!(rules.contains(FIRES_ON), "no rule has {FIRES_ON}");
        // Nothing here changes for a while only.
        fs::write(dir.join("closewait.rules.yml"), rules.replace(FIRES_ON, "keep_firing_for: 5s"))?;
        let port = free_port()?;
        let mut command = Command::new(exec::find("prometheus")?);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let service = Service::start("prometheus", &mut command, dir)?;
        let service = service.wait_until(|_| get(port, "/-/ready").is_ok())?;
        Ok(Self { _service: service, port, agent })
    }

    /// Returns the series of a PromQL expression.
    fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let answer = get(self.port, &format!("/api/v1/query?query={}", percent_encoded(expression)))?;
        let answer: Value = serde_json::from_str(&answer).context("Prometheus printed no JSON")?;
        let series = answer["data"]["result"].as_array().context("Prometheus has no result")?;
        let sample = |series: &Value| -> Option<Sample> {
            let labels = series["metric"].as_object()?.iter();
            let labels = labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
            Some((labels.collect(), series["value"][1].as_str()?.parse().ok()?))
        };
        series.iter().map(|series| sample(series).context("a series in another form")).collect()
    }

    /// Returns the value of an expression that has one series.
    fn number(&self, expression: &str) -> Result<f64> {
        let samples = self.query(expression)?;
        let [(_labels, value)] = samples.as_slice() else { bail!("{expression}: {} series", samples.len()) };
        Ok(*value)
    }

    /// Checks the metrics of incidents, and of the pool, which has none.
    pub(super) fn metrics(&self, incidents: &BTreeMap<String, Incident>) -> Result<Answer> {
        let of_stage = |metric: &str| format!("{metric}{{service=~\"{}\"}}", stage::SERVICES.join("|"));
        let found = self.query(&of_stage("closewait_incidents"))?.into_iter().map(|(labels, value)| {
            ensure!(value == 1.0, "closewait_incidents is {value}");
            Ok((label(&labels, "service"), label(&labels, "class"), label(&labels, "severity")))
        });
        let found = found.collect::<Result<BTreeSet<_>>>()?;
        let open = incidents.iter().filter(|(_service, incident)| incident.is_open());
        let expected: BTreeSet<_> =
            open.map(|(service, one)| (service.clone(), one.class.clone(), one.severity.clone())).collect();
        ensure!(found == expected, "closewait_incidents has {found:?}, and the agent reports {expected:?}");
        let mut answer = if found.is_empty() {
            "`closewait_incidents` has no series".to_owned()
        } else {
            let texts = found.iter().map(|(service, class, _severity)| format!("{class} 1 ({service})"));
            format!("`closewait_incidents`: {}", texts.collect::<Vec<_>>().join(", "))
        };
        if !expected.is_empty() {
            let pool = self.number(&format!("closewait_stuck_sockets{{service=\"{}\"}}", stage::POOL))?;
            ensure!(pool == stage::POOL_SIZE as f64, "{pool} stuck sockets of the pool");
            answer += &format!("; `closewait_stuck_sockets` of {}: {pool}, without an incident", stage::POOL);
        }
        // Not `group`: other programs of this host may have more remote ends than the agent counts each by itself.
        let dropped = self.number("sum(closewait_dropped_total{stage!=\"group\"})")?;
        ensure!(dropped == 0.0, "closewait_dropped_total: {dropped}");
        let samples = self.number("sum_over_time(scrape_samples_scraped[1h])")?;
        let scrapes = self.number("count_over_time(up[1h])")?;
        let lost = scrapes - self.number("sum_over_time(up[1h])")?;
        ensure!(lost == 0.0, "{lost} scrapes failed");
        Ok(Answer { sent: format!("{scrapes} scrapes with {samples} samples"), got: format!("{answer}; dropped 0") })
    }

    /// Checks the alerts that fire.
    pub(super) fn alerts(&self, expected: &[(&str, &str)]) -> Result<Answer> {
        let firing = self.query("ALERTS{alertstate=\"firing\"}")?;
        let pairs = firing.iter().map(|(labels, _one)| (label(labels, "alertname"), label(labels, "service")));
        // Other programs of this host may have incidents of their own.
        let of_stage = |service: &str| service.is_empty() || stage::SERVICES.contains(&service);
        let found: BTreeSet<_> = pairs.filter(|(_alert, service)| of_stage(service)).collect();
        let expected: BTreeSet<_> =
            expected.iter().map(|(alert, service)| ((*alert).to_owned(), (*service).to_owned())).collect();
        ensure!(found == expected, "firing: {found:?}, expected: {expected:?}");
        let rules = get(self.port, "/api/v1/rules")?;
        let rules: Value = serde_json::from_str(&rules).context("Prometheus printed no JSON")?;
        let groups = rules["data"]["groups"].as_array().context("no groups of rules")?;
        let rules: Vec<_> = groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
        ensure!(!rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok"), "unhealthy rules: {rules:?}");
        let texts: Vec<_> = found.iter().map(|(alert, service)| format!("{alert} ({service})")).collect();
        let got = if texts.is_empty() { "none fires".to_owned() } else { format!("firing: {}", texts.join(", ")) };
        Ok(Answer { sent: format!("{} rules, every {INTERVAL}", rules.len()), got })
    }

    /// Lets promtool check the page of the agent.
    pub(super) fn promtool(&self) -> Result<Answer> {
        let page = get(self.agent, "/metrics")?;
        let mut command = Command::new(exec::find("promtool")?);
        command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = exec::start(&mut command)?;
        child
            .stdin
            .take()
            .context("no standard input")?
            .write_all(page.as_bytes())
            .context("promtool reads nothing")?;
        let output = child.wait_with_output().context("waiting for promtool failed")?;
        let said =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).concat();
        ensure!(output.status.success() && said.is_empty(), "promtool: {said}");
        Ok(Answer { sent: format!("a page of {} bytes", page.len()), got: "accepted, without a remark".to_owned() })
    }
}

/// Returns the value of a label; empty without it, as in PromQL.
fn label(labels: &BTreeMap<String, String>, name: &str) -> String {
    labels.get(name).cloned().unwrap_or_default()
}
