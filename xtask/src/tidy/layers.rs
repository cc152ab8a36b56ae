//! Which modules of the agent may use which. The engine is a crate of its own, so that its Cargo.toml and clippy.toml
//! enforce what it may use; this table is for the modules around it, which are one crate.

use proc_macro2::{TokenStream, TokenTree};

use super::{Files, Problem, source};
use crate::prelude::*;

const SRC: &str = "closewait-agent/src/";

/// A module, the modules that it may use besides itself, and why no others.
const LAYERS: [(&str, &[&str], &str); 16] = [
    ("host", &["clock"], "facts about the host are gathered before anything that uses them exists"),
    ("sink", &["beside", "clock", "host"], "a sink shows what the engine found and knows nothing else"),
    (
        "source",
        &["beside", "clock", "host"],
        "a source turns what the host reports into observations and knows nothing else",
    ),
    ("hooks", &["clock", "host", "sink"], "hooks run programs when the engine finds something and decide nothing else"),
    ("recording", RECORDING, "a recording has what goes into the engine and what came out, and no more"),
    ("control", &["clock", "host", "memory", "sink"], "the control socket knows nothing of what answers are made from"),
    (
        "tui",
        &["clock", "signals", "sink"],
        "the full-screen view gets its groups through a channel, and reads nothing of the host",
    ),
    (
        "metrics",
        &["clock", "control", "host", "sink"],
        "metrics show numbers of the engine, which the event loop hands over, and know nothing else",
    ),
    (
        "otlp",
        &["clock", "metrics", "sink"],
        "the export sends metrics and events, which the event loop hands over, and knows nothing else",
    ),
    ("config", &["host"], "settings are text for the parsers of options, and know nothing of what they mean"),
    ("logging", &["clock", "host", "sink"], "everything writes to the log"),
    ("beside", &[], LOWEST),
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
pub(super) fn check(files: &Files) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (file, text) in files {
        let Some(path) = file.strip_prefix(SRC).and_then(|path| path.strip_suffix(".rs")) else { continue };
        let module = path.split('/').next().unwrap_or(path);
        let layer = LAYERS.iter().find(|(name, ..)| *name == module);
        let mut used = Vec::new();
        modules_used(source::tokens(file, text)?, &mut used);
        for (line, used) in used {
            let why = match layer {
                Some((_, allowed, why)) if used != module && !allowed.contains(&used.as_str()) => *why,
                _ if COMMAND_LINE.contains(&used.as_str()) && !COMMANDS.contains(&module) => {
                    "only main.rs and the commands know the command line"
                }
                _ => continue,
            };
            let instead = "pass the value in, or let the runtime connect the two";
            problems.push(Problem::new(file, line, format!("`{used}` is not for `{module}`"), why, instead));
        }
    }
    Ok(problems)
}

/// Collects the modules of the same crate that the tokens name as `crate::NAME` or in `crate::{..}`, with the line of `crate`.
fn modules_used(tokens: TokenStream, used: &mut Vec<(usize, String)>) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        if let TokenTree::Group(group) = token {
            modules_used(group.stream(), used);
        }
        // A path goes on with two colons.
        if let (TokenTree::Ident(name), Some(TokenTree::Punct(_))) = (token, tokens.get(at + 1))
            && name == "crate"
        {
            let line = name.span().start().line;
            let paths = match tokens.get(at + 3) {
                Some(TokenTree::Group(group)) => group.stream().into_iter().collect(),
                other => Vec::from_iter(other.cloned()),
            };
            let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(comma) if comma.as_char() == ',');
            let first_names = paths.split(is_comma).filter_map(<[_]>::first);
            used.extend(first_names.map(|name| (line, name.to_string())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line numbers of the problems in one file.
    fn lines(file: &str, text: &str) -> Vec<usize> {
        let files = Files::from([(format!("{SRC}{file}"), text.to_owned())]);
        check(&files).unwrap().iter().map(|problem| problem.line).collect()
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
            ("tui/model.rs", "use crate::recording::Player;"),
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
