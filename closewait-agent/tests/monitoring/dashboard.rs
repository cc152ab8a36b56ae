//! The dashboard for Grafana.

use std::collections::BTreeSet;

use closewait::metrics::table::{MetricKind, TABLE};
use serde_json::Value;

use crate::{promql, rules, text};

const DASHBOARD: &str = "contrib/monitoring/grafana/closewait.json";
/// Names of the variables, in their order.
const VARIABLES: [&str; 3] = ["datasource", "instance", "service"];
/// The only data source: the one that the user chose.
const DATASOURCE: &str = "${datasource}";
/// Version of the schema of Grafana 10.0.
const SCHEMA_VERSION: u64 = 38;
/// Columns of a dashboard.
const COLUMNS: u64 = 24;

fn dashboard() -> Value {
    serde_json::from_str(&text(DASHBOARD)).expect("JSON")
}

/// Problems of a dashboard, and the metrics that it uses.
#[derive(Debug, Default)]
struct Review {
    problems: Vec<String>,
    metrics: BTreeSet<String>,
}

impl Review {
    fn of(dashboard: &Value) -> Self {
        let mut review = Self::default();
        review.variables(&dashboard["templating"]["list"]);
        let panels = dashboard["panels"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut ids = BTreeSet::new();
        for panel in panels {
            let title = panel["title"].as_str().unwrap_or("a panel without a title");
            if !panel["id"].as_u64().is_some_and(|id| ids.insert(id)) {
                review.problem(title, "its id is missing, or that of another panel");
            }
            if panel["type"] == "row" {
                // Panels of a collapsed row are inside of it.
                if panel["panels"].as_array().is_none_or(|inside| !inside.is_empty()) {
                    review.problem(title, "a row with panels is not checked; leave it open");
                }
            } else {
                review.panel(title, panel);
            }
        }
        if ids.is_empty() {
            review.problem(DASHBOARD, "it has no panels");
        }
        review
    }

    fn problem(&mut self, of: &str, what: impl Into<String>) {
        self.problems.push(format!("{of}: {}", what.into()));
    }

    fn datasource(&mut self, of: &str, object: &Value) {
        if object["datasource"]["uid"] != DATASOURCE {
            self.problem(of, format!("its data source is {}, not {DATASOURCE}", object["datasource"]));
        }
    }

    fn variables(&mut self, list: &Value) {
        let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
        let names: Vec<_> = list.iter().filter_map(|variable| variable["name"].as_str()).collect();
        if names != VARIABLES {
            self.problem("variables", format!("they are {names:?}, not {VARIABLES:?}"));
        }
        for variable in list {
            let name = variable["name"].as_str().unwrap_or_default();
            if name == VARIABLES[0] {
                if variable["type"] != "datasource" || variable["query"] != "prometheus" {
                    self.problem(name, "it does not select a Prometheus");
                }
                continue;
            }
            self.datasource(name, variable);
            let query = variable["query"]["query"].as_str().unwrap_or_default();
            let inside = query.strip_prefix("label_values(").and_then(|query| query.strip_suffix(')'));
            let Some((expression, label)) = inside.and_then(|inside| inside.rsplit_once(", ")) else {
                self.problem(name, format!("{query:?} is no label_values(EXPRESSION, LABEL)"));
                continue;
            };
            self.expression(name, expression, &[label]);
        }
    }

    fn panel(&mut self, title: &str, panel: &Value) {
        self.datasource(title, panel);
        if panel["description"].as_str().is_none_or(str::is_empty) {
            self.problem(title, "it has no description");
        }
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap_or(COLUMNS + 1);
        if place("x") + place("w") > COLUMNS {
            self.problem(title, "it is outside of the columns");
        }
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        if targets.is_empty() {
            self.problem(title, "it has no expression");
        }
        let mut ids = BTreeSet::new();
        for target in targets {
            self.datasource(title, target);
            if !target["refId"].as_str().is_some_and(|id| ids.insert(id)) {
                self.problem(title, "a refId is missing, or that of another target");
            }
            let expression = target["expr"].as_str().unwrap_or_default();
            if expression.is_empty() {
                self.problem(title, "a target has no expression");
                continue;
            }
            // A panel that ignores a variable shows other hosts than the user selected.
            let selectors = expression.matches("closewait_").count() + expression.matches("up{").count();
            if expression.matches("instance=~\"$instance\"").count() != selectors {
                self.problem(title, format!("not every selector has instance=~\"$instance\": {expression}"));
            }
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            let labels = legend.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0.trim()));
            self.expression(title, expression, &Vec::from_iter(labels));
        }
    }

    /// Checks an expression, and that its result has these labels.
    fn expression(&mut self, of: &str, expression: &str, labels: &[&str]) {
        // Grafana replaces the variables; $service and $instance stand in quotes.
        let replaced = expression.replace("$__rate_interval", "5m");
        for rest in replaced.split('$').skip(1) {
            let name: String = rest.chars().take_while(|one| *one == '_' || one.is_ascii_alphanumeric()).collect();
            if !VARIABLES[1..].contains(&name.as_str()) {
                self.problem(of, format!("there is no variable ${name}: {expression}"));
            }
        }
        match promql::check(&replaced) {
            Ok(checked) => {
                self.metrics.extend(checked.metrics);
                for label in labels {
                    if !checked.labels.as_ref().is_some_and(|known| known.contains(*label)) {
                        self.problem(of, format!("the result has no label {label}: {expression}"));
                    }
                }
            }
            Err(error) => self.problem(of, error),
        }
    }
}

#[test]
fn every_expression_uses_metrics_and_labels_that_exist() {
    let dashboard = dashboard();
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= SCHEMA_VERSION));
    let review = Review::of(&dashboard);
    assert!(review.problems.is_empty(), "{:#?}", review.problems);
}

#[test]
fn every_metric_is_in_the_dashboard_or_in_a_rule() {
    let used: BTreeSet<_> = Review::of(&dashboard()).metrics.into_iter().chain(rules::metrics()).collect();
    for metric in TABLE {
        let suffix = if metric.kind == MetricKind::Histogram { "_bucket" } else { "" };
        let name = metric.full_name() + suffix;
        assert!(used.contains(&name), "{name} is nowhere");
    }
}

#[test]
fn a_broken_dashboard_is_refused() {
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 9] = [
        (|it| it["panels"][1]["targets"] = Value::Array(Vec::new()), "it has no expression"),
        (|it| it["panels"][1]["targets"][0]["expr"] = "".into(), "a target has no expression"),
        (|it| it["panels"][1]["targets"][0]["expr"] = "sum(closewait_sockets{".into(), "unexpected"),
        (|it| it["panels"][1]["targets"][0]["expr"] = "closewait_socket{instance=~\"$instance\"}".into(), "exports no"),
        (|it| it["panels"][1]["targets"][0]["expr"] = "closewait_sockets".into(), "not every selector"),
        (|it| it["panels"][1]["targets"][0]["legendFormat"] = "{{service}}".into(), "has no label service"),
        (|it| it["panels"][1]["targets"][0]["datasource"]["uid"] = "${DS_PROMETHEUS}".into(), "its data source is"),
        (|it| it["panels"][1]["datasource"]["uid"] = "abc".into(), "its data source is"),
        (
            |it| it["templating"]["list"][2]["query"]["query"] = "label_values(closewait_sockets, service)".into(),
            "service",
        ),
    ];
    for (change, problem) in changes {
        let mut broken = dashboard();
        change(&mut broken);
        let review = Review::of(&broken);
        assert!(review.problems.iter().any(|found| found.contains(problem)), "{problem}: {:?}", review.problems);
    }
}
