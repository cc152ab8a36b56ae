//! The policy of certainty: no program is blamed against evidence, nor surely without it.

use super::{Case, Judgement, Rule, evidence::EvidenceReading};
use crate::model::{Certainty, Class};

/// Weighs what a rule says of a case against the counter-evidence that the rule declares. `None` if some speaks against it.
pub(super) fn weigh(rule: &dyn Rule, case: &Case<'_>, said: Judgement) -> Option<Judgement> {
    if !blames(said.class) || said.certainty == Certainty::Fact {
        return Some(said);
    }
    let kinds = rule.counter_evidence();
    let mut most = if kinds.is_empty() { Certainty::Medium } else { Certainty::High };
    for kind in kinds {
        match kind.read(case) {
            EvidenceReading::Present => return None,
            EvidenceReading::NotRead => most = Certainty::Medium,
            EvidenceReading::Absent => {}
        }
    }
    // The surest comes first.
    Some(Judgement { certainty: said.certainty.max(most), ..said })
}

/// Whether a class blames the program.
pub(super) fn blames(class: Class) -> bool {
    matches!(class, Class::Hung | Class::Leak | Class::Inherited)
}
