//! What is told of a rule in `docs/diagnoses.md`.

use crate::model::{Certainty, Class};

/// A rule in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Its name, as a verdict carries it.
    pub name: &'static str,
    /// The condition.
    pub when: &'static str,
    /// Every class that it can give.
    pub class: &'static [Class],
    /// Every certainty that it can give, and when and why.
    pub certainty: &'static [(Certainty, &'static str)],
    /// What it takes that to mean.
    pub says: &'static str,
    /// What a person should do.
    pub next: &'static str,
    /// What looks alike and is not meant, and what keeps it out.
    pub not: &'static [&'static str],
    /// Public reports that show it.
    pub seen: &'static [&'static str],
}
