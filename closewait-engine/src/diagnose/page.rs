//! `docs/diagnoses.md`, from what the rules say of themselves.

use std::fmt::Write as _;

use super::{About, RULES, evidence::CounterEvidence, growth, left};
use crate::model::Class;

const HEAD: &str = "\
<!-- Generated from the rules in closewait-engine/src/diagnose/ by `cargo xtask docs`; change them there. -->

# Diagnoses

What `verdict` in the output of `closewait` means: its `rule`, the condition of that rule, and the certainty. closewait checks the
rules in the order of the table, and the first that applies gives the verdict. A rule does not apply if a fact that it needs is
unknown; if no rule applies, `class` is `unknown` and `rule` is `none`. All sockets of a group get the same verdict, except for
facts about one socket: the rules above `fresh`.

Wrong blame is worse than none. A rule that blames a program (`hung`, `leak`, `inherited`) declares the evidence that would speak
against it. If some does, the rule says nothing; if some was not read, its certainty is `medium` at most. `high` means that
somebody should be woken up.

| `certainty` | means |
|---|---|
| `fact` | the kernel says so |
| `high` | it would be a surprise if it were otherwise |
| `medium` | more likely than not |
| `low` | a guess |

| `class` | means |
|---|---|
";

const READS: &str = "
## What was read

Several rules go by what the program has read of what came in. The FIN counts as one byte, both in `unread_bytes` (what `ss`
shows as Recv-Q) and in `received_bytes`.

| state | `unread_bytes` | what is certain |
|---|---|---|
| never read | all of `received_bytes`, more than 1 | not a byte of this connection was ever read |
| probe | 1 of 1 | nothing came in but the FIN, and it is unread |
| idle | 1 of more | all data was read, and no program has read since the FIN |
| goodbye | 2 to 100 of more | a short rest is unread: often what a peer says before it hangs up, such as the `close_notify` of TLS |
| partial | more than 100 of more | a rest is unread |
| FIN read | 0 | the FIN was consumed by a read; not that a read returned 0, as it can have come with the last data |

## What is compared

A *group* are the sockets of one owner, in one network namespace, with the same role and the same local port (servers) or remote
endpoint (clients). The *onset* is the entry of the oldest that is still in CLOSE_WAIT. Ages are those that are certain: of a socket
that is older than the agent, the lower bound.

| evidence | what it is | where it is read |
|---|---|---|
| late exits | the program ended sockets that it had kept for 3 s or longer: it closed them, or wrote to a peer that had gone | records of the kernel program; of the port or remote endpoint |
| other connections | open connections of the owner to the same port, on which it received and sent after the onset, and sent within 10 s | an iterator over the owner's files (Linux 6.1) |
| closes | connections of the same port that the program closed, in any state, and had sent on after the onset; the last within 10 s | a counter of the kernel program (with BTF) |
| peers that wait | half of the peers are on this host, have closed one direction, and a program still has them open | `sock_diag`, in all network namespaces that could be opened |
| backends | half as many connections to other programs as sockets wait for an answer | the iterator over the owner's files |
| data to send | the peer has not acknowledged data on most of the sockets | a refresh of each socket |
| threads | as many threads as sockets wait with a timeout, and they have become more with the sockets | `/proc/PID/task/TID/syscall` |
";

fn meaning(class: Class) -> &'static str {
    match class {
        Class::Hung => "the program is stuck: it serves no connection of this port any more, or not these",
        Class::Leak => "the program works, but never closes this socket",
        Class::Pool => "it waits in a pool of idle connections until it is wanted again",
        Class::NeverAccepted => "it waits in a listener's backlog",
        Class::HalfClose => "the peer has closed one direction only, and the other is in use",
        Class::Inherited => "a process has it that did not open it",
        Class::ProxyWait => "a proxy keeps it until its other connection ends",
        Class::Transient => "it is about to go away by itself",
        Class::Unknown => "nothing tells",
    }
}

fn abouts() -> impl Iterator<Item = &'static About> {
    RULES.iter().map(|rule| rule.about())
}

fn classes(about: &About) -> String {
    about.class.iter().map(|class| format!("`{}`", class.name())).collect::<Vec<_>>().join(", ")
}

fn certainties(about: &About) -> String {
    about.certainty.iter().map(|(certainty, _)| format!("`{}`", certainty.name())).collect::<Vec<_>>().join(", ")
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut put = |text: String| page.push_str(&text);
    for class in Class::ALL {
        put(format!("| `{}` | {} |\n", class.name(), meaning(class)));
    }
    put("\n## The rules\n\n| | rule | class | certainty | says |\n|---|---|---|---|---|\n".to_owned());
    for (number, about) in (1..).zip(abouts()) {
        let (name, says) = (about.name, about.says);
        let (classes, certainties) = (classes(about), certainties(about));
        put(format!("| {number} | [`{name}`](#{name}) | {classes} | {certainties} | {says} |\n"));
    }
    put("\nOnce a socket that had been stuck has left, [`left`](#left) says what that means; of a group that piles up, and whose oldest\n\
         socket tells nothing, [`growth`](#growth).\n"
        .to_owned());
    put(READS.to_owned());
    for rule in RULES {
        put(section(rule.about(), rule.counter_evidence()));
    }
    for about in [&left::ABOUT, &growth::ABOUT] {
        put(section(about, &[]));
    }
    page
}

fn section(about: &About, against: &[CounterEvidence]) -> String {
    let About { name, when, class: _, certainty, says, next, not, seen } = about;
    let mut text = format!("\n## {name}\n\n**When** {when}.\n\n**Says** ({}): {says}.\n\n", classes(about));
    for (certainty, why) in *certainty {
        // Writing to a String cannot fail.
        let _infallible: std::fmt::Result = writeln!(text, "- `{}`: {why}.", certainty.name());
    }
    if !against.is_empty() {
        let names: Vec<&str> = against.iter().map(|kind| kind.name()).collect();
        let _infallible: std::fmt::Result =
            write!(text, "\n**Evidence against it that is read**: {}.\n", names.join(", "));
    }
    let _infallible: std::fmt::Result = write!(text, "\n**Next**: {next}.\n\n**Not to be taken for it**\n\n");
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
        reason = "the test compares the page in docs/ with the rules, and writes it if asked to"
    )]
    fn the_page_says_what_the_rules_say() {
        let new = page();
        if std::env::var_os("BLESS").is_some_and(|bless| bless == "1") {
            std::fs::write(PATH, &new).unwrap();
        }
        let old = std::fs::read_to_string(PATH).unwrap_or_default();
        assert!(
            old == new,
            "docs/diagnoses.md is not what the rules say; run `cargo xtask docs` and commit the result"
        );
    }

    #[test]
    fn every_rule_is_told_in_full() {
        for about in abouts().chain([&left::ABOUT, &growth::ABOUT]) {
            let words = [about.when, about.says, about.next].into_iter().chain(about.not.iter().copied());
            for text in words.chain(about.certainty.iter().map(|(_, why)| *why)) {
                assert!(!text.is_empty() && !text.ends_with('.') && !text.contains("  "), "{}: {text}", about.name);
            }
            assert!(!about.class.is_empty() && !about.certainty.is_empty() && !about.not.is_empty(), "{}", about.name);
            assert!(about.certainty.is_sorted(), "{}: the surest first", about.name);
        }
    }
}
