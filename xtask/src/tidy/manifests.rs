//! What each Cargo.toml must and must not say.

use super::{Files, Problem};
use crate::prelude::*;

/// A dependency that a member must not have.
struct Forbidden {
    member: &'static str,
    is_it: fn(&str, &Value) -> bool,
    what: &'static str,
    why: &'static str,
    instead: &'static str,
}

const FORBIDDEN: [Forbidden; 3] = [
    Forbidden {
        member: "closewait-common",
        is_it: |_name, dependency| dependency["kind"] != "dev" && dependency["optional"] != true,
        what: "a mandatory dependency",
        why: "the kernel program compiles this crate without a standard library",
        instead: "make it `optional = true` behind a feature",
    },
    Forbidden {
        member: "xtask",
        is_it: |name, _dependency| name.starts_with("closewait"),
        what: "a dependency",
        why: "xtask has to build when nothing else does",
        instead: "run the built binary, or read the source as text",
    },
    Forbidden {
        member: "closewait-ebpf",
        is_it: |name, _dependency| name == "closewait-agent",
        what: "a dependency",
        why: "the agent builds the kernel program, not the other way round",
        instead: "move what both need into closewait-common",
    },
];

/// Checks the manifests of all workspace members. `metadata` is what `cargo metadata --no-deps` prints.
pub(super) fn check(files: &Files, metadata: &Value) -> Vec<Problem> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut problems = Vec::new();
    for package in list(&metadata["packages"]) {
        let member = text(&package["name"]);
        let file = format!("{member}/Cargo.toml");
        let manifest = files.get(&file).map_or("", String::as_str);
        let mut problem = |line, what, why, instead| {
            problems.push(Problem { file: file.clone(), line, what, why, instead });
        };
        // cargo does not tell whether a crate inherits the lints.
        let lints = manifest.split("\n[").find_map(|section| section.trim_start_matches('[').strip_prefix("lints]\n"));
        if !lints.is_some_and(|lints| lints.lines().any(|line| line.replace(' ', "") == "workspace=true")) {
            problem(
                1,
                "there is no `[lints] workspace = true`".to_owned(),
                "the workspace's lint table applies only to crates that inherit it",
                "add these two lines",
            );
        }
        let dependencies = list(&package["dependencies"]);
        for dependency in &dependencies {
            let name = text(&dependency["name"]);
            let rules = FORBIDDEN.iter().filter(|rule| rule.member == member && (rule.is_it)(&name, dependency));
            let line =
                manifest.lines().position(|line| line.starts_with(&name) || line.ends_with(&format!(".{name}]")));
            for Forbidden { what, why, instead, .. } in rules {
                problem(line.unwrap_or(0) + 1, format!("`{name}` is {what}"), why, instead);
            }
        }
        if member == "closewait-ebpf" && !dependencies.iter().any(|one| one["name"] == "closewait-common") {
            problem(
                1,
                "`closewait-common` is not a dependency".to_owned(),
                "records and names have one definition for both sides",
                "add `closewait-common.workspace = true`",
            );
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Places of the problems of one member with these dependencies.
    fn found(member: &str, manifest: &str, dependencies: &Value) -> Vec<String> {
        let files = Files::from([(format!("{member}/Cargo.toml"), manifest.to_owned())]);
        let metadata = json!({ "packages": [{ "name": member, "dependencies": dependencies }] });
        check(&files, &metadata).iter().map(|problem| format!("{}: {}", problem.line, problem.what)).collect()
    }

    const GOOD: &str = "[package]\nname = \"x\"\n[dependencies]\nlibc.workspace = true\n\n[lints]\nworkspace = true\n";

    #[test]
    fn a_mandatory_dependency_of_common_is_caught() {
        let with = |kind: Value, optional| {
            found("closewait-common", GOOD, &json!([{ "name": "libc", "kind": kind, "optional": optional }]))
        };
        assert_eq!(with(Value::Null, false), ["4: `libc` is a mandatory dependency"]);
        assert_eq!(with(json!("build"), false), ["4: `libc` is a mandatory dependency"]);
        assert_eq!([with(json!("dev"), false), with(Value::Null, true)].concat(), [""; 0]);
    }

    #[test]
    fn a_crate_outside_the_lint_table_is_caught() {
        for bad in [
            "[dependencies]\nlibc.workspace = true\n",
            "[lints]\n# workspace = true\n",
            "[lints]\n[x]\nworkspace = true\n",
        ] {
            assert_eq!(found("xtask", bad, &json!([])), ["1: there is no `[lints] workspace = true`"], "{bad}");
        }
    }

    #[test]
    fn xtask_depends_on_no_other_member() {
        assert_eq!(found("xtask", GOOD, &json!([{ "name": "libc" }])), [""; 0]);
        assert_eq!(found("xtask", GOOD, &json!([{ "name": "closewait-common" }])).len(), 1);
    }

    #[test]
    fn the_kernel_program_knows_common_and_not_the_agent() {
        let common = json!({ "name": "closewait-common" });
        assert_eq!(found("closewait-ebpf", GOOD, &json!([common])), [""; 0]);
        assert_eq!(found("closewait-ebpf", GOOD, &json!([common, { "name": "closewait-agent" }])).len(), 1);
        assert_eq!(found("closewait-ebpf", GOOD, &json!([])), ["1: `closewait-common` is not a dependency"]);
    }
}
