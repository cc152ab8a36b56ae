//! What each part of the agent may name. The arrows go one way: runtime and commands know everything below them,
//! sources and sinks know the engine's types, the engine knows nobody.

use super::{Files, Problem, paths};

/// A statement about every path named in some files.
struct Rule {
    /// Files and folders under `closewait-agent/src` it is about; empty: all.
    scope: &'static [&'static str],
    /// Files and folders it is not about.
    except: &'static [&'static str],
    what: What,
    /// Whether test code may break it.
    tests_may: bool,
    why: &'static str,
    instead: &'static str,
}

enum What {
    /// None of these, nor anything inside them.
    Never(&'static [&'static str]),
    /// Of our own crate, only these and what is inside them.
    OfCrateOnly(&'static [&'static str]),
}

const SRC: &str = "closewait-agent/src/";

/// The table. A name without an extension stands for `name.rs` and everything in `name/`.
const RULES: [Rule; 9] = [
    Rule {
        scope: &["engine"],
        except: &[],
        what: What::Never(&[
            "tokio",
            "aya",
            "aya_log",
            "aya_obj",
            "log",
            "tracing",
            "env_logger",
            "libc",
            "std::env",
            "std::fs",
            "std::io::stderr",
            "std::io::stdin",
            "std::io::stdout",
            "std::net::TcpListener",
            "std::net::TcpStream",
            "std::net::ToSocketAddrs",
            "std::net::UdpSocket",
            "std::os",
            "std::process",
            "std::thread",
            "std::time::Instant",
            "std::time::SystemTime",
        ]),
        tests_may: true,
        why: "the engine is pure, so that a recorded file gives the same output always",
        instead: "take it as an Observation or as `now`, and let the runtime do the I/O that an Output asks for",
    },
    Rule {
        scope: &["engine"],
        except: &[],
        what: What::Never(&["crate::source", "crate::sink", "crate::host", "crate::clock", "crate::runtime"]),
        tests_may: false,
        why: "the engine knows nobody above it",
        instead: "move the type down into the engine, or pass the value in",
    },
    Rule {
        scope: &["sink"],
        except: &[],
        what: What::OfCrateOnly(&["crate::sink", "crate::engine", "crate::clock"]),
        tests_may: false,
        why: "a sink shows what the engine put out and knows nothing else",
        instead: "put what it needs into the engine's Output",
    },
    Rule {
        scope: &["source"],
        except: &[],
        what: What::OfCrateOnly(&["crate::source", "crate::engine", "crate::clock", "crate::host"]),
        tests_may: false,
        why: "a source turns what the host says into observations and knows nothing else",
        instead: "hand over an Observation; the runtime connects the two ends",
    },
    Rule {
        scope: &["source"],
        except: &[],
        what: What::Never(&["crate::engine::tracker"]),
        tests_may: false,
        why: "only the engine keeps state about connections",
        instead: "hand over an Observation and let the tracker draw the conclusion",
    },
    Rule {
        scope: &["host"],
        except: &[],
        what: What::Never(&["crate::engine", "crate::sink", "crate::source", "crate::runtime"]),
        tests_may: false,
        why: "the host's facts are gathered before anything that uses them exists",
        instead: "return a type of host's own and convert it where it is used",
    },
    Rule {
        scope: &["hooks"],
        except: &[],
        what: What::OfCrateOnly(&["crate::hooks", "crate::engine", "crate::sink", "crate::clock"]),
        tests_may: false,
        why: "hooks are told what the engine found and sinks show, and decide nothing else",
        instead: "let the runtime hand it over",
    },
    Rule {
        scope: &[],
        except: &["main", "cmd", "cli"],
        what: What::Never(&["crate::cmd", "crate::cli"]),
        tests_may: false,
        why: "only main.rs and the commands know the command line",
        instead: "take the value as an argument or in a struct of the callee's",
    },
    Rule {
        scope: &[],
        except: &["clock"],
        what: What::Never(&["clippy::disallowed_methods"]),
        tests_may: false,
        why: "clock.rs is the one place that reads a clock",
        instead: "take the time as an argument, or call a function of clock.rs",
    },
];

/// Checks every file of the agent against the table.
pub(super) fn check(files: &Files) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, text) in files {
        let Some(file) = name.strip_prefix(SRC).filter(|file| file.ends_with(".rs")) else { continue };
        let named = paths::paths(file, text);
        for rule in RULES.iter().filter(|rule| rule.is_about(file)) {
            let broken =
                named.iter().filter(|path| !(path.in_tests && rule.tests_may) && rule.is_broken_by(&path.path));
            problems.extend(broken.map(|path| Problem {
                file: name.clone(),
                line: path.line,
                what: format!("`{}` is not for this file", path.path.join("::")),
                why: rule.why,
                instead: rule.instead,
            }));
        }
    }
    problems
}

impl Rule {
    fn is_about(&self, file: &str) -> bool {
        let within = |part: &&str| file.strip_prefix(*part).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'));
        (self.scope.is_empty() || self.scope.iter().any(within)) && !self.except.iter().any(within)
    }

    fn is_broken_by(&self, path: &[String]) -> bool {
        match self.what {
            What::Never(forbidden) => forbidden.iter().any(|item| reaches(path, item)),
            What::OfCrateOnly(allowed) => {
                path.first().is_some_and(|first| first == "crate") && !allowed.iter().any(|item| is_inside(path, item))
            }
        }
    }
}

/// `std::fs::read` is inside `std::fs`.
fn is_inside(path: &[String], item: &str) -> bool {
    let mut names = path.iter();
    item.split("::").all(|wanted| names.next().is_some_and(|name| name == wanted))
}

/// Inside, or a glob that brings the item with it: `std::time::*` brings `Instant`.
fn reaches(path: &[String], item: &str) -> bool {
    let glob = path.split_last().filter(|(last, _parents)| *last == "*");
    is_inside(path, item)
        || glob.is_some_and(|(_star, parents)| {
            let item: Vec<_> = item.split("::").collect();
            item.len() > parents.len() && parents.iter().zip(item).all(|(name, wanted)| name == wanted)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line numbers of the problems that one file has.
    fn lines(file: &str, text: &str) -> Vec<usize> {
        let files = Files::from([(format!("{SRC}{file}"), text.to_owned())]);
        check(&files).iter().map(|problem| problem.line).collect()
    }

    /// For each rule of the table, in order: a file, text that breaks it, text that is fine there.
    const CASES: [(&str, &str, &str); RULES.len()] = [
        ("engine/model.rs", "use std::fs;", "use std::{net::IpAddr, collections::BTreeMap};"),
        ("engine/tracker.rs", "use crate::{sink::text};", "use crate::engine::{model, time::Mono};"),
        (
            "sink/json.rs",
            "use crate::source::bpf;",
            "use crate::{clock::TimeAnchor, engine::model::Output};\nuse serde::Serialize;",
        ),
        ("source/bpf.rs", "use crate::sink::Kind;", "use crate::{engine::decode, host::plan::Plan};\nuse aya::Ebpf;"),
        ("source/replay.rs", "use crate::engine::{tracker::Tracker};", "use crate::engine::model::Observation;"),
        ("host/plan.rs", "fn f(e: crate::engine::Engine) {}", "use super::facts::Facts;\nuse std::fs;"),
        ("hooks/mod.rs", "use crate::source::bpf;", "use crate::{engine::model::Finding, sink::json::Json};"),
        ("runtime.rs", "use crate::cli::Run;", "use crate::{engine::Engine, sink::Sink, source::Source};"),
        (
            "runtime.rs",
            "#[expect(clippy::disallowed_methods, reason = \"x\")]\nfn f() {}",
            "#[expect(clippy::expect_used)]\nfn f() {}",
        ),
    ];

    #[test]
    fn every_rule_catches_its_bad_text_and_passes_its_good_one() {
        for (rule, (file, bad, good)) in RULES.iter().zip(CASES) {
            assert!(rule.is_about(file), "{file} for: {}", rule.why);
            let named = paths::paths(file, bad);
            assert!(named.iter().any(|named| rule.is_broken_by(&named.path)), "{bad} for: {}", rule.why);
            assert_eq!(lines(file, bad), [1], "{file}: {bad}");
            assert_eq!(lines(file, good), [0; 0], "{file}: {good}");
        }
    }

    #[test]
    fn everything_listed_is_caught_in_each_form() {
        for rule in &RULES {
            let What::Never(forbidden) = rule.what else { continue };
            let file = rule.scope.first().map_or_else(|| "runtime.rs".to_owned(), |scope| format!("{scope}/x.rs"));
            for item in forbidden {
                for text in [format!("use {item};"), format!("use {item}::x;"), format!("fn f() {{ {item}::x() }}")] {
                    assert!(lines(&file, &text).contains(&1), "{file}: {text}");
                }
            }
        }
    }

    #[test]
    fn the_engine_s_file_is_the_engine_too() {
        assert_eq!(lines("engine.rs", "use tokio::time;"), [1]);
        assert_eq!(lines("engine/diagnose/hung.rs", "use log::info;"), [1]);
        assert_eq!(lines("engineering.rs", "use tokio::time;"), [0; 0]);
    }

    #[test]
    fn comments_strings_and_other_crates_are_no_use() {
        assert_eq!(
            lines("engine/mod.rs", "// std::fs::read\n/// See [`crate::sink`].\nconst A: &str = \"std::fs\";"),
            [0; 0]
        );
        assert_eq!(lines("engine/mod.rs", "use std::io::Write;\nuse std::time::Duration;"), [0; 0]);
    }

    #[test]
    fn a_glob_that_brings_a_forbidden_name_is_caught() {
        assert_eq!(lines("engine/time.rs", "use std::time::*;"), [1]);
        assert!(lines("host/plan.rs", "use crate::*;").contains(&1));
        assert!(lines("sink/text.rs", "use crate::*;").contains(&1));
        assert_eq!(lines("engine/time.rs", "mod tests { use super::*; }"), [0; 0]);
    }

    #[test]
    fn the_engine_s_tests_may_do_io_but_not_turn_an_arrow() {
        let text = "#[cfg(test)]\nmod tests {\n    use std::fs;\n    use crate::sink::json;\n}\n";
        assert_eq!(lines("engine/decode.rs", text), [4]);
    }

    #[test]
    fn main_and_the_commands_may_name_the_command_line() {
        assert_eq!(lines("main.rs", "use closewait::{cli::Cli, cmd};"), [0; 0]);
        assert_eq!(lines("cmd/run.rs", "use crate::{cli, cmd::list, runtime, sink, engine};"), [0; 0]);
        assert_eq!(lines("sink/mod.rs", "use super::cli::Run;"), [1, 1], "no sink may, and nobody may");
        assert_eq!(lines("lib.rs", "pub mod cmd;\npub mod cli;"), [0; 0]);
        assert_eq!(lines("clock.rs", "#[expect(clippy::disallowed_methods, reason = \"x\")]\nfn f() {}"), [0; 0]);
    }

    #[test]
    fn a_problem_says_where_what_why_and_what_to_do() {
        let files = Files::from([(format!("{SRC}engine/x.rs"), "\nuse std::fs;".to_owned())]);
        let text = check(&files)[0].to_string();
        assert!(
            text.starts_with("closewait-engine/src/x.rs:2: `std::fs` is not for this file: the engine is pure"),
            "{text}"
        );
    }
}
