//! `docs/diagnoses.md`, generated from the descriptions of the rules.

use std::fmt::Write as _;

use super::{About, RULES, VerdictSource, evidence::CounterEvidence, verdict_sources};
use crate::model::{Certainty, Class};

const HEAD: &str = "\
<!-- Generated from the rules in closewait-engine/src/diagnose/ by `cargo xtask docs`; change them there. -->

# Diagnoses

This page explains the `verdict` in the output of `closewait`: each `rule`, its conditions, and its certainty. closewait checks the
rules in the order of the table, and the first that applies gives the verdict. A rule does not apply if a fact that it needs is
unknown; if no rule applies, `class` is `unknown` and `rule` is `none`. All sockets of a group get the same verdict, except from the
rules above `fresh`, which judge single sockets.

Wrong blame is worse than none. A rule that blames a program (`hung`, `leak`, `inherited`) declares which evidence would speak
against it. If closewait finds such evidence, the rule does not apply; if it could not read some, the certainty is at most `medium`.
A verdict with `high` justifies waking somebody up.

`closewait explain` prints the same texts in a terminal.
";

const READS: &str = "
## Read states

Several rules use the amount of received data that the program has read. The FIN counts as one byte, both in `unread_bytes` (Recv-Q
in `ss`) and in `received_bytes`.

| state | `unread_bytes` | certain fact |
|---|---|---|
| never read | all of `received_bytes`, more than 1 | the program has read nothing from this connection |
| probe | 1 of 1 | the peer sent only the FIN, and the program has not read it |
| idle | 1 of more | the program read all data, and nothing since the FIN |
| goodbye | 2 to 100 of more | a short rest is unread: often a closing message of the peer, such as the `close_notify` of TLS |
| partial | more than 100 of more | a longer rest is unread |
| FIN read | 0 | a read has consumed the FIN; it need not have returned 0, because the FIN can come with the last data |

## Evidence

A *group* is the set of sockets with the same owner, network namespace, role, and local port (servers) or remote endpoint (clients).
The *onset* is the entry of the group's oldest socket that is still in CLOSE_WAIT. The age of a socket that is older than the agent is
its lower bound.

| evidence | meaning | source |
|---|---|---|
";

fn classes(about: &About) -> String {
    about.class.iter().map(|class| format!("`{}`", class.name())).collect::<Vec<_>>().join(", ")
}

fn certainties(about: &About) -> String {
    about.certainty.iter().map(|(certainty, _)| format!("`{}`", certainty.name())).collect::<Vec<_>>().join(", ")
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut put = |text: String| page.push_str(&text);
    put("\n| `certainty` | means |\n|---|---|\n".to_owned());
    for certainty in Certainty::ALL {
        put(format!("| `{}` | {} |\n", certainty.name(), certainty.meaning()));
    }
    put("\n| `class` | means |\n|---|---|\n".to_owned());
    for class in Class::ALL {
        put(format!("| `{}` | {} |\n", class.name(), class.meaning()));
    }
    put("\n## The rules\n\n| | rule | class | certainty | conclusion |\n|---|---|---|---|---|\n".to_owned());
    for (number, about) in (1..).zip(RULES.iter().map(|rule| rule.about())) {
        let (name, says) = (about.name, about.says);
        let (classes, certainties) = (classes(about), certainties(about));
        put(format!("| {number} | [`{name}`](#{name}) | {classes} | {certainties} | {says} |\n"));
    }
    put("\nThree verdicts are not rules: [`left`](#left) judges a stuck socket that has exited, [`growth`](#growth) a growing group\n\
         whose oldest socket no rule explains, and [`none`](#none) any other socket that no rule explains.\n"
        .to_owned());
    put(READS.to_owned());
    for kind in CounterEvidence::ALL {
        put(format!("| {} | {} | {} |\n", kind.name(), kind.meaning(), kind.source()));
    }
    for VerdictSource { about, counter_evidence } in verdict_sources() {
        put(section(about, counter_evidence));
    }
    page
}

fn section(about: &About, against: &[CounterEvidence]) -> String {
    let About { name, when: _, class: _, certainty, says, next, not, seen } = about;
    let conditions: Vec<&str> = about.conditions().collect();
    let when = match conditions.as_slice() {
        [only] => format!("**When** {only}.\n"),
        all => format!("**When** all of these are true:\n\n- {}.\n", all.join(".\n- ")),
    };
    let mut text = format!("\n## {name}\n\n{when}\n**Conclusion** ({}): {says}.\n\n", classes(about));
    for (certainty, why) in *certainty {
        // Writing to a String cannot fail.
        let _infallible: std::fmt::Result = writeln!(text, "- `{}`: {why}.", certainty.name());
    }
    if !against.is_empty() {
        let names: Vec<&str> = against.iter().map(|kind| kind.name()).collect();
        let _infallible: std::fmt::Result =
            write!(text, "\n**Counter-evidence that is checked**: {}.\n", names.join(", "));
    }
    let _infallible: std::fmt::Result = write!(text, "\n**Next**: {next}.\n\n**Not to be confused with**\n\n");
    for trap in *not {
        let _infallible: std::fmt::Result = writeln!(text, "- {trap}.");
    }
    if !seen.is_empty() {
        let _infallible: std::fmt::Result = writeln!(text, "\nSeen in: {}.", seen.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/diagnoses.md");

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "the test compares the page in docs/ with the rules, and writes the page with BLESS=1"
    )]
    fn the_page_matches_the_rules() {
        let new = page();
        if std::env::var_os("BLESS").is_some_and(|bless| bless == "1") {
            std::fs::write(PATH, &new).unwrap();
        }
        let old = std::fs::read_to_string(PATH).unwrap_or_default();
        assert!(old == new, "docs/diagnoses.md does not match the rules; run `cargo xtask docs` and commit the result");
    }

    #[test]
    fn every_rule_is_described_in_full() {
        for VerdictSource { about, .. } in verdict_sources() {
            let words = [about.when, about.says, about.next].into_iter().chain(about.not.iter().copied());
            for text in words.chain(about.certainty.iter().map(|(_, why)| *why)) {
                assert!(!text.is_empty() && !text.ends_with('.') && !text.contains("  "), "{}: {text}", about.name);
            }
            assert!(!about.class.is_empty() && !about.certainty.is_empty() && !about.not.is_empty(), "{}", about.name);
            assert!(about.certainty.is_sorted(), "{}: the highest certainty comes first", about.name);
        }
    }
}
