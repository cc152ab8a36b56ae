//! The rules of `contrib/monitoring/prometheus`.

use std::collections::BTreeSet;

use saphyr::{LoadableYamlNode as _, Yaml};

use crate::{promql, text};

pub(crate) const RULES: &str = "contrib/monitoring/prometheus/closewait.rules.yml";
/// Page with a section for each alert.
const PAGE: &str = "docs/monitoring.md";
/// Address of the page, with the beginning of the anchor.
const RUNBOOK: &str = "https://github.com/closewait/closewait/blob/main/docs/monitoring.md#";

/// Alert of a rule.
#[derive(Debug)]
pub(crate) struct Alert {
    pub(crate) name: String,
    pub(crate) expression: String,
    /// Value of its label `severity`.
    pub(crate) severity: String,
    /// Names and texts of its annotations.
    pub(crate) annotations: Vec<(String, String)>,
}

/// Returns the alerts of the rules.
pub(crate) fn alerts() -> Vec<Alert> {
    let text = text(RULES);
    let document = &Yaml::load_from_str(&text).expect("YAML")[0];
    let member = |of: &Yaml<'_>, name: &str| {
        let found = of.as_mapping_get(name).and_then(Yaml::as_str);
        found.unwrap_or_else(|| panic!("{name} is missing: {of:?}")).to_owned()
    };
    let mut alerts = Vec::new();
    for group in document["groups"].as_vec().expect("groups") {
        for rule in group["rules"].as_vec().expect("rules") {
            let annotations = rule["annotations"].as_mapping().expect("annotations").keys();
            let annotations = annotations.filter_map(Yaml::as_str).map(str::to_owned);
            alerts.push(Alert {
                name: member(rule, "alert"),
                expression: member(rule, "expr"),
                severity: member(&rule["labels"], "severity"),
                annotations: annotations.map(|name| (name.clone(), member(&rule["annotations"], &name))).collect(),
            });
        }
    }
    assert!(!alerts.is_empty(), "there are rules");
    alerts
}

/// Returns the names of all metrics in the rules.
pub(crate) fn metrics() -> BTreeSet<String> {
    alerts().iter().flat_map(|alert| promql::check(&alert.expression).expect("a valid expression").metrics).collect()
}

/// Returns the labels that a template uses as `$labels.NAME`.
fn labels_of(template: &str) -> Vec<&str> {
    let rest = template.split("$labels.").skip(1);
    rest.map(|rest| &rest[..rest.find(|one: char| one != '_' && !one.is_ascii_alphanumeric()).unwrap_or(rest.len())])
        .collect()
}

#[test]
fn every_rule_uses_metrics_and_labels_that_exist() {
    for Alert { name, expression, annotations, .. } in alerts() {
        let labels = promql::check(&expression).unwrap_or_else(|error| panic!("{name}: {error}")).labels;
        let labels = labels.unwrap_or_else(|| panic!("{name}: {expression} is a number"));
        for (annotation, template) in &annotations {
            for label in labels_of(template) {
                assert!(
                    labels.contains(label),
                    "{name}: {annotation} has the label {label}, and its alert has {labels:?}"
                );
            }
        }
    }
}

#[test]
fn every_alert_has_a_severity_texts_and_a_section_in_the_page() {
    let page = text(PAGE);
    for Alert { name, severity, annotations, .. } in alerts() {
        assert!(["critical", "warning"].contains(&severity.as_str()), "{name}: {severity}");
        let names: Vec<_> = annotations.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["summary", "description", "runbook_url"], "{name}");
        assert_eq!(annotations[2].1, format!("{RUNBOOK}{}", name.to_lowercase()), "{name}");
        assert!(page.lines().any(|line| line == format!("### {name}")), "{name} has no section in {PAGE}");
    }
}

#[test]
fn every_section_of_the_page_is_that_of_an_alert() {
    let names: Vec<_> = alerts().into_iter().map(|alert| alert.name).collect();
    for line in text(PAGE).lines() {
        let Some(name) = line.strip_prefix("### ").filter(|name| name.starts_with("CloseWait")) else { continue };
        assert!(
            names.iter().any(|known| known == name),
            "{PAGE} has a section for {name}, and {RULES} has no such alert"
        );
    }
}

#[test]
fn labels_of_templates_are_found() {
    assert_eq!(
        labels_of("{{ with $labels.port }} {{ . }} {{ $labels.otel_metric_overflow}}$labels.a"),
        ["port", "otel_metric_overflow", "a"]
    );
}
