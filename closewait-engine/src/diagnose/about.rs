//! Descriptions of rules for `docs/diagnoses.md` and `closewait explain`.

use super::{RULES, evidence::CounterEvidence, growth, left};
use crate::model::{Certainty, Class};

/// Description of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Name of the rule, as in verdicts.
    pub name: &'static str,
    /// Conditions of the rule, separated by semicolons; all of them have to hold.
    pub when: &'static str,
    /// Every class that the rule can give.
    pub class: &'static [Class],
    /// Every certainty that the rule can give, with its condition or reason.
    pub certainty: &'static [(Certainty, &'static str)],
    /// Conclusion of the rule.
    pub says: &'static str,
    /// Recommended next step.
    pub next: &'static str,
    /// Similar situations, and how the rule excludes them.
    pub not: &'static [&'static str],
    /// Public reports of the cause.
    pub seen: &'static [&'static str],
}

impl About {
    /// Returns the conditions of the rule; all of them have to hold.
    pub fn conditions(&self) -> impl Iterator<Item = &'static str> {
        self.when.split("; ")
    }
}

/// Name in verdicts, `rule`, and its description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictSource {
    /// Description.
    pub about: &'static About,
    /// Kinds of counter-evidence that the rule checks before it blames a program.
    pub counter_evidence: &'static [CounterEvidence],
}

/// Description of the verdict without a rule.
pub(super) const NONE: About = About {
    name: "none",
    when: "no rule applies to the socket",
    class: &[Class::Unknown],
    certainty: &[(Certainty::Low, "the facts that closewait could read show no cause")],
    says: "the peer has closed the connection and the program has not; the reason is unknown",
    next: "see where the owner's threads are",
    not: &["a healthy program: this verdict neither blames nor clears it"],
    seen: &[],
};

/// Returns every source of verdicts: the rules in their order of evaluation, then the verdicts that are not rules.
pub fn verdict_sources() -> impl Iterator<Item = VerdictSource> {
    let rules =
        RULES.iter().map(|rule| VerdictSource { about: rule.about(), counter_evidence: rule.counter_evidence() });
    rules.chain([&left::ABOUT, &growth::ABOUT, &NONE].map(|about| VerdictSource { about, counter_evidence: &[] }))
}
