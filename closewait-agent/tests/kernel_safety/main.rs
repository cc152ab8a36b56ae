//! docs/kernel-safety.md lists the kernel facilities in the built object and the sources.

#[cfg(kernel_program)]
mod object;

use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn every_command_and_message_of_the_sources_is_described() {
    let described = rows("Commands of bpf(2)");
    let calls = fs::read_to_string(source("src/source/calls.rs")).expect("calls.rs");
    let commands: BTreeSet<&str> = calls
        .lines()
        .filter_map(|line| line.trim().strip_prefix("const BPF_")?.split_once(": libc::c_long"))
        .map(|(name, _number)| name)
        .collect();
    assert!(commands.len() >= 5, "{commands:?}");
    for command in commands {
        assert!(described.contains(&format!("BPF_{command}")), "describe BPF_{command} in docs/kernel-safety.md");
    }
    let described = rows("Other interfaces");
    for (file, words) in [("src/source/diag/wire.rs", ["SOCK_DIAG_BY_FAMILY", "SOCK_DESTROY"])] {
        let text = fs::read_to_string(source(file)).expect("a source");
        for word in words {
            assert!(text.contains(word) && described.contains(word), "{word}");
        }
    }
    // Calls that are allowed only where the page describes their risks.
    for call in ["setns", "open_by_handle_at", "perf_event_open", "pidfd_open", "seccomp", "mount"] {
        let used = sources().iter().any(|(_file, text)| {
            text.contains(&format!("libc::{call}("))
                || text.contains(&format!("libc::SYS_{call},\n")) && call != "mount"
        });
        assert!(!used || described.contains(call), "describe {call}(2) in docs/kernel-safety.md");
    }
}

/// Returns the texts between backticks in the first column of the table below a heading.
fn rows(heading: &str) -> BTreeSet<String> {
    let page = fs::read_to_string(source("../docs/kernel-safety.md")).expect("docs/kernel-safety.md");
    let (_before, after) =
        page.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let part = after.split("\n## ").next().unwrap_or_default();
    let cells = part.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    cells
        .flat_map(|cell| cell.split('`').step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .filter(|name| !name.is_empty())
        .collect()
}

fn source(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns every source file of the agent with its text.
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, into: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                walk(&entry, into);
            } else {
                into.push((entry.display().to_string(), fs::read_to_string(&entry).expect("a source")));
            }
        }
    }
    let mut all = Vec::new();
    walk(&source("src"), &mut all);
    all
}
