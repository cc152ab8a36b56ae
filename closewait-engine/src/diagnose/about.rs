//! Descriptions of rules for `docs/diagnoses.md`.

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
