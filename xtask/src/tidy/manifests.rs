//! What each Cargo.toml must and must not say.

use super::{Files, Problem};

/// One `key = value` of a manifest.
struct Entry<'a> {
    section: &'a str,
    key: &'a str,
    value: &'a str,
    line: usize,
}

/// Checks the manifests of all workspace members.
pub(super) fn check(files: &Files) -> Vec<Problem> {
    let mut problems = Vec::new();
    let root = files.get("Cargo.toml").map_or("", String::as_str);
    for member in members(root) {
        let file = format!("{member}/Cargo.toml");
        let entries = files.get(&file).map(|text| entries(text)).unwrap_or_default();
        let mut problem = |line, what, why, instead| {
            problems.push(Problem { file: file.clone(), line, what, why, instead });
        };
        if !entries.iter().any(|e| e.section == "lints" && e.key == "workspace" && e.value == "true") {
            problem(
                1,
                "there is no `[lints] workspace = true`".to_owned(),
                "a lint table that a crate does not inherit holds for nobody",
                "add these two lines",
            );
        }
        for (name, entry) in dependencies(&entries) {
            if member == "closewait-common" && !is_for_tests(entry.section) && !is_optional(&entries, name) {
                problem(
                    entry.line,
                    format!("`{name}` is a mandatory dependency"),
                    "the kernel program compiles this crate without a standard library",
                    "make it `optional = true` behind a feature",
                );
            }
            if member == "xtask" && name.starts_with("closewait") {
                problem(
                    entry.line,
                    format!("`{name}` is a dependency"),
                    "xtask has to build when nothing else does",
                    "run the built binary, or read the source as text",
                );
            }
            if member == "closewait-ebpf" && name == "closewait-agent" {
                problem(
                    entry.line,
                    format!("`{name}` is a dependency"),
                    "the agent builds the kernel program, not the other way round",
                    "move what both need into closewait-common",
                );
            }
        }
        if member == "closewait-ebpf" && !dependencies(&entries).any(|(name, _entry)| name == "closewait-common") {
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

/// The member folders that the workspace's manifest lists.
fn members(root: &str) -> Vec<&str> {
    let Some((_before, after)) = root.split_once("\nmembers = [") else { return Vec::new() };
    let list = after.split(']').next().unwrap_or_default();
    list.split(',').map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty()).collect()
}

fn entries(text: &str) -> Vec<Entry<'_>> {
    let mut section = "";
    let mut entries = Vec::new();
    for (line, content) in (1..).zip(text.lines().map(str::trim)) {
        if let Some(name) = content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim_matches(['[', ']']);
        } else if let Some((key, value)) = content.split_once('=').filter(|_| !content.starts_with('#')) {
            entries.push(Entry { section, key: key.trim(), value: value.trim(), line });
        }
    }
    entries
}

/// Every dependency by name, once for each line about it.
fn dependencies<'a>(entries: &'a [Entry<'a>]) -> impl Iterator<Item = (&'a str, &'a Entry<'a>)> {
    entries.iter().filter_map(|entry| {
        let (before, after) = entry.section.split_once("dependencies")?;
        // `[dependencies.aya]` has one dependency; `[target.'cfg(unix)'.dev-dependencies]` has one a line.
        let _kind = before;
        let name = after.strip_prefix('.').unwrap_or_else(|| entry.key.split('.').next().unwrap_or(entry.key));
        Some((name.trim_matches('"'), entry))
    })
}

fn is_for_tests(section: &str) -> bool {
    section.contains("dev-dependencies")
}

fn is_optional(entries: &[Entry<'_>], wanted: &str) -> bool {
    dependencies(entries).filter(|(name, entry)| *name == wanted && !is_for_tests(entry.section)).any(
        |(_name, entry)| {
            let compact = entry.value.replace(' ', "");
            let own_line = entry.key == "optional" || entry.key.ends_with(".optional");
            compact.contains("optional=true") || (own_line && compact == "true")
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "[workspace]\nmembers = [\"closewait-common\", \"closewait-ebpf\", \"xtask\"]\n";
    const COMMON: &str = "[package]\nname = \"c\"\n[dependencies]\naya = { workspace = true, optional = true }\n\
        [dev-dependencies]\nproptest.workspace = true\n[lints]\nworkspace = true\n";
    const EBPF: &str = "[dependencies]\nclosewait-common.workspace = true\n[lints]\nworkspace = true\n";
    const XTASK: &str = "[dependencies]\nanyhow.workspace = true\n[lints]\nworkspace = true\n";

    fn found(common: &str, ebpf: &str, xtask: &str) -> Vec<String> {
        let files = [
            ("Cargo.toml", ROOT),
            ("closewait-common/Cargo.toml", common),
            ("closewait-ebpf/Cargo.toml", ebpf),
            ("xtask/Cargo.toml", xtask),
        ];
        let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
        check(&Files::from(files)).iter().map(|problem| format!("{}:{}", problem.file, problem.line)).collect()
    }

    #[test]
    fn good_manifests_pass() {
        assert_eq!(found(COMMON, EBPF, XTASK), [""; 0]);
        let table = "[dependencies.aya]\nworkspace = true\noptional = true\n[lints]\nworkspace = true\n";
        assert_eq!(found(table, EBPF, XTASK), [""; 0]);
    }

    #[test]
    fn a_mandatory_dependency_of_common_is_caught() {
        for bad in [
            "[dependencies]\nlibc.workspace = true\n",
            "[dependencies.libc]\nworkspace = true\n",
            "[target.'cfg(unix)'.dependencies]\nlibc = \"0.2\"\n",
        ] {
            assert_eq!(found(&format!("{bad}{COMMON}"), EBPF, XTASK), ["closewait-common/Cargo.toml:2"], "{bad}");
        }
    }

    #[test]
    fn a_crate_outside_the_lint_table_is_caught() {
        assert_eq!(found(COMMON, EBPF, "[dependencies]\nanyhow.workspace = true\n"), ["xtask/Cargo.toml:1"]);
        assert_eq!(found(COMMON, EBPF, "[lints]\n# workspace = true\n"), ["xtask/Cargo.toml:1"]);
    }

    #[test]
    fn xtask_depends_on_no_other_member() {
        let bad = format!("[dev-dependencies]\nclosewait-common = {{ workspace = true }}\n{XTASK}");
        assert_eq!(found(COMMON, EBPF, &bad), ["xtask/Cargo.toml:2"]);
    }

    #[test]
    fn the_kernel_program_knows_common_and_not_the_agent() {
        let bad = format!("{EBPF}[build-dependencies]\nclosewait-agent = {{ path = \"../closewait-agent\" }}\n");
        assert_eq!(found(COMMON, &bad, XTASK), ["closewait-ebpf/Cargo.toml:6"]);
        assert_eq!(found(COMMON, "[lints]\nworkspace = true\n", XTASK), ["closewait-ebpf/Cargo.toml:1"]);
    }
}
