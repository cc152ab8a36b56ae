//! What each Cargo.toml must and must not say, where no compiler notices.

use super::{Files, Problem};
use crate::prelude::*;

/// Checks the manifests of all workspace members. `metadata` is what `cargo metadata --no-deps` prints.
pub(super) fn check(files: &Files, metadata: &Value) -> Vec<Problem> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut problems = Vec::new();
    for package in list(&metadata["packages"]) {
        let member = package["name"].as_str().unwrap_or_default();
        let file = format!("{member}/Cargo.toml");
        let manifest = files.get(&file).map_or("", String::as_str);
        let mut problem = |what, why, instead| {
            problems.push(Problem { file: file.clone(), line: 1, what, why, instead });
        };
        // cargo does not tell whether a crate inherits the lints.
        let lints = manifest.split("\n[").find_map(|section| section.trim_start_matches('[').strip_prefix("lints]\n"));
        if !lints.is_some_and(|lints| lints.lines().any(|line| line.replace(' ', "") == "workspace=true")) {
            problem(
                "there is no `[lints] workspace = true`".to_owned(),
                "the workspace's lint table applies only to crates that inherit it",
                "add these two lines",
            );
        }
        for dependency in list(&package["dependencies"]) {
            let name = dependency["name"].as_str().unwrap_or_default();
            if member == "xtask" && name.starts_with("closewait") {
                problem(
                    format!("`{name}` is a dependency"),
                    "xtask has to build when the product does not",
                    "run the built binary, or read the source as text",
                );
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Problems of one member with these dependencies.
    fn found(member: &str, manifest: &str, dependencies: &[&str]) -> Vec<String> {
        let files = Files::from([(format!("{member}/Cargo.toml"), manifest.to_owned())]);
        let dependencies: Vec<_> = dependencies.iter().map(|name| json!({ "name": name })).collect();
        let metadata = json!({ "packages": [{ "name": member, "dependencies": dependencies }] });
        check(&files, &metadata).into_iter().map(|problem| problem.what).collect()
    }

    #[test]
    fn a_crate_outside_the_lint_table_is_caught() {
        for bad in
            ["[dependencies]\nlibc = \"1\"\n", "[lints]\n# workspace = true\n", "[lints]\n[x]\nworkspace = true\n"]
        {
            assert_eq!(found("xtask", bad, &[]), ["there is no `[lints] workspace = true`"], "{bad}");
        }
    }

    #[test]
    fn xtask_depends_on_no_part_of_the_product() {
        const GOOD: &str = "[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n";
        assert_eq!(found("xtask", GOOD, &["libc", "tests-support"]), [""; 0]);
        assert_eq!(found("closewait-agent", GOOD, &["closewait-common"]), [""; 0]);
        assert_eq!(found("xtask", GOOD, &["closewait-common"]), ["`closewait-common` is a dependency"]);
    }
}
