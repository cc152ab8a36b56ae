//! Which modules of the agent may use which. The engine is a crate of its own, so that its Cargo.toml and clippy.toml
//! enforce what it may use; this table is for the modules around it, which are one crate.

use super::{Files, Problem};

const SRC: &str = "closewait-agent/src/";

/// A module, the modules that it may use besides itself, and why no others.
const LAYERS: [(&str, &[&str], &str); 11] = [
    ("host", &["clock"], "facts about the host are gathered before anything that uses them exists"),
    ("sink", &["clock", "host"], "a sink shows what the engine found and knows nothing else"),
    ("source", &["clock", "host"], "a source turns what the host reports into observations and knows nothing else"),
    ("hooks", &["clock", "host", "sink"], "hooks run programs when the engine finds something and decide nothing else"),
    ("recording", RECORDING, "a recording has what goes into the engine and what came out, and no more"),
    ("control", &["clock", "host", "memory", "sink"], "the control socket knows nothing of what answers are made from"),
    ("logging", &["clock", "host", "sink"], "everything writes to the log"),
    ("clock", &[], LOWEST),
    ("limits", &[], LOWEST),
    ("signals", &[], LOWEST),
    ("memory", &[], LOWEST),
];
const RECORDING: &[&str] = &["clock", "host", "sink", "source"];
const LOWEST: &str = "every module may use it, so it may use none";
/// Modules that only `main.rs` and the commands may use.
const COMMAND_LINE: [&str; 2] = ["cli", "cmd"];
/// Files and folders that may use them.
const COMMANDS: [&str; 3] = ["main", "cli", "cmd"];

/// Checks every source file of the agent.
pub(super) fn check(files: &Files) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (file, text) in files {
        let Some(path) = file.strip_prefix(SRC).and_then(|path| path.strip_suffix(".rs")) else { continue };
        let module = path.split('/').next().unwrap_or(path);
        let layer = LAYERS.iter().find(|(name, ..)| *name == module);
        for (line, used) in modules_used(text) {
            let mut report = |why| {
                problems.push(Problem {
                    file: file.clone(),
                    line,
                    what: format!("`{used}` is not for `{module}`"),
                    why,
                    instead: "pass the value in, or let the runtime connect the two",
                });
            };
            if let Some((_, allowed, why)) = layer
                && used != module
                && !allowed.contains(&used)
            {
                report(*why);
            } else if COMMAND_LINE.contains(&used) && !COMMANDS.contains(&module) {
                report("only main.rs and the commands know the command line");
            }
        }
    }
    problems
}

/// Modules of the own crate that a file names as `crate::NAME` or in `crate::{..}`, with the line of `crate`.
fn modules_used(text: &str) -> Vec<(usize, &str)> {
    let mut used = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let before = text.get(..at).unwrap_or_default();
        let of_line = before.rsplit('\n').next().unwrap_or_default();
        let in_comment = of_line.contains("//");
        if in_comment || before.ends_with(|last: char| last.is_alphanumeric() || last == '_') {
            continue;
        }
        let line = before.matches('\n').count() + 1;
        let rest = text.get(at + "crate::".len()..).unwrap_or_default();
        match rest.strip_prefix('{') {
            Some(group) => used.extend(first_names(group).into_iter().map(|name| (line, name))),
            None => used.extend(first_name(rest).map(|name| (line, name))),
        }
    }
    used
}

/// Leading identifier, if there is one.
fn first_name(text: &str) -> Option<&str> {
    let end = text.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(text.len());
    text.get(..end).filter(|name| !name.is_empty())
}

/// First names of the paths in a group, whose opening brace is not part of `group`.
fn first_names(group: &str) -> Vec<&str> {
    let (mut names, mut depth, mut begins) = (Vec::new(), 0_usize, true);
    for (at, next) in group.char_indices() {
        match next {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && !next.is_whitespace() => {
                begins = false;
                names.extend(group.get(at..).and_then(first_name));
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line numbers of the problems in one file.
    fn lines(file: &str, text: &str) -> Vec<usize> {
        let files = Files::from([(format!("{SRC}{file}"), text.to_owned())]);
        check(&files).iter().map(|problem| problem.line).collect()
    }

    #[test]
    fn each_layer_refuses_what_is_above_it() {
        for (file, bad) in [
            ("host/plan.rs", "fn f(one: crate::source::Scanner) {}"),
            ("sink/json.rs", "use crate::source::bpf;"),
            ("source.rs", "use crate::{clock::now, sink::{Sink, text}};"),
            ("hooks/mod.rs", "use crate::{sink, runtime};"),
            ("runtime.rs", "use crate::cli::Run;"),
            ("sink/mod.rs", "use crate::cmd;"),
            ("recording/mod.rs", "use crate::runtime::Pending;"),
            ("control/server.rs", "use crate::source::scanner;"),
            ("logging.rs", "use crate::hooks;"),
            ("clock.rs", "use crate::host;"),
        ] {
            assert_eq!(lines(file, bad), [1], "{file}: {bad}");
        }
    }

    #[test]
    fn each_layer_may_use_what_is_below_it() {
        for (file, good) in [
            ("host/plan.rs", "use crate::{clock, host::facts::Facts};"),
            ("sink/json.rs", "use crate::{clock::TimeAnchor, sink::{schema, text}};\nuse closewait_engine::Engine;"),
            ("source/ring.rs", "use crate::{clock, host::btf, source::calls};"),
            ("cmd/run.rs", "use crate::{cli, cmd::list, runtime, sink, source};"),
            ("host/plan.rs", "//! See [`crate::source`].\nuse my_crate::source;"),
        ] {
            assert_eq!(lines(file, good), [0; 0], "{file}: {good}");
        }
    }

    #[test]
    fn the_line_is_that_of_the_path() {
        assert_eq!(lines("sink/text.rs", "\n\nuse crate::{\n    clock,\n    source,\n};\n"), [3]);
    }
}
