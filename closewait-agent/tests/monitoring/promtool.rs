//! Checks by Prometheus' own tool, if it is installed. Its package is in `.ci/packages engines`.

use std::process::Command;

use tests_support::engine::has_engine;

use crate::{path, rules::RULES, series::TESTS};

/// Runs promtool in the folder of the rules; says so if there is none.
fn promtool(arguments: [&str; 3]) {
    let folder = path(RULES);
    let output = Command::new("promtool").args(arguments).current_dir(folder.parent().expect("a folder")).output();
    if !has_engine("promtool", output.is_ok()) {
        return;
    }
    let output = output.expect("promtool");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[test]
fn promtool_accepts_the_rules_and_the_configuration() {
    promtool(["check", "rules", file_name(RULES)]);
    promtool(["check", "config", "prometheus.yml"]);
}

#[test]
fn recorded_incidents_give_the_expected_alerts() {
    promtool(["test", "rules", file_name(TESTS)]);
}
