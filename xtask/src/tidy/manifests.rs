//! What each Cargo.toml must and must not have, where no compiler notices.

use super::{Files, Problem};

/// Checks the manifests of all workspace members.
pub(super) fn check(files: &Files) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (file, manifest) in files {
        // `fuzz` is a workspace of its own.
        let Some(member) = file.strip_suffix("/Cargo.toml").filter(|member| *member != "fuzz") else { continue };
        if !manifest.contains("\n[lints]\nworkspace = true\n") {
            let what = "there is no `[lints] workspace = true`".to_owned();
            let why = "the workspace's lint table applies only to crates that inherit it";
            problems.push(Problem::new(file, 1, what, why, "add these two lines"));
        }
        for (line, text) in (1..).zip(manifest.lines()) {
            if member == "xtask" && text.starts_with("closewait") {
                let why = "xtask has to build when the product does not";
                let instead = "run the built binary, or read the source as text";
                problems.push(Problem::new(file, line, format!("`{text}` is a dependency"), why, instead));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(member: &str, manifest: &str) -> Vec<usize> {
        let files = Files::from([(format!("{member}/Cargo.toml"), manifest.to_owned())]);
        check(&files).iter().map(|problem| problem.line).collect()
    }

    #[test]
    fn a_crate_outside_the_lint_table_is_caught() {
        for bad in
            ["[dependencies]\nlibc = \"1\"\n", "\n[lints]\n# workspace = true\n", "\n[lints]\n[x]\nworkspace = true\n"]
        {
            assert_eq!(found("xtask", bad), [1], "{bad}");
        }
    }

    #[test]
    fn xtask_depends_on_no_part_of_the_product() {
        let manifest = |name: &str| format!("[dependencies]\n{name}.workspace = true\n\n[lints]\nworkspace = true\n");
        assert_eq!(found("xtask", &manifest("tests-support")), [0; 0]);
        assert_eq!(found("closewait-agent", &manifest("closewait-common")), [0; 0]);
        assert_eq!(found("xtask", &manifest("closewait-common")), [2]);
    }
}
