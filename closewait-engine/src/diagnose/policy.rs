//! Policy of certainty: no rule blames a program against evidence, and none blames with `high` if evidence is missing.

use super::{Case, Judgement, Rule, evidence::EvidenceReading};
use crate::model::{Certainty, Class};

/// Highest certainty with which the rules may still blame the program in one case.
pub(super) struct Ceiling(Certainty);

impl Ceiling {
    /// Ceiling of a case that no rule has judged yet.
    pub(super) const NONE: Self = Self(Certainty::High);

    /// Weighs the judgement of a rule against the counter-evidence that the rule declares. Returns `None` if some of it is
    /// present; then no later rule blames with a higher certainty than this one would have.
    pub(super) fn weigh<'c>(
        &mut self,
        rule: &dyn Rule,
        case: &Case<'_>,
        judgement: Judgement<'c>,
    ) -> Option<Judgement<'c>> {
        if !blames(judgement.class) || judgement.certainty == Certainty::Fact {
            return Some(judgement);
        }
        let readings: Vec<_> = rule.counter_evidence().iter().map(|kind| kind.read(case)).collect();
        let all_absent = !readings.is_empty() && readings.iter().all(|reading| *reading == EvidenceReading::Absent);
        let most = if all_absent { Certainty::High } else { Certainty::Medium };
        // The highest certainty compares as the least.
        let certainty = judgement.certainty.max(most).max(self.0);
        if readings.contains(&EvidenceReading::Present) {
            self.0 = certainty;
            return None;
        }
        Some(Judgement { certainty, ..judgement })
    }
}

/// Whether a class blames the program.
pub(super) fn blames(class: Class) -> bool {
    matches!(class, Class::Hung | Class::Leak | Class::Inherited)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{
        evidence::{ClientFacts, PeersRead, Waits},
        testing::{Scene, owned_by},
    };

    #[test]
    fn a_judgement_that_evidence_silences_is_not_followed_by_a_surer_one() {
        let mut scene = Scene::client().of(8).aged(90);
        scene.owners = Some(vec![owned_by(7, "api", 9), owned_by(8, "api", 9)]);
        scene.group.evidence.clients = ClientFacts { opened_after_onset: Some(4), ..ClientFacts::default() };
        scene.group.evidence.waits = Some(Waits { threads: 2, complete: true, ..Waits::default() });
        let before = scene.verdict();
        assert_eq!((before.rule, before.certainty), ("inherited", Certainty::Low));
        scene.group.evidence.peer_ends = PeersRead { read: 8, half_closed: 8, ended: 0 };
        let after = scene.verdict();
        assert_eq!((after.rule, after.certainty), ("accumulates", Certainty::Low));
    }
}
