//! Why a socket stays: rules as data, the first that speaks is the verdict.
//!
//! A new rule is a file in `rules`, with its condition, texts and tests, and its line in [`RULES`].

mod about;
mod case;
pub mod evidence;
pub(crate) mod grouping;
mod growth;
mod left;
mod policy;
mod rules;
mod text;

#[cfg(test)]
mod page;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;

use self::policy::Ceiling;
pub use self::{
    about::About,
    case::{AROUND_FIN, Case, Flow, Group, ProxyPeers, Seen, Trend},
    growth::{Growing, growth},
    left::left,
    rules::{RULES, STREAM_OVER},
};
use super::model::{Certainty, Class, Verdict};

/// Tells one cause from others.
pub trait Rule: Sync {
    /// What it is, for `docs/diagnoses.md`.
    fn about(&self) -> &'static About;

    /// The kinds of counter-evidence that it needs before it may blame a program: with one that speaks against it, it says
    /// nothing; with one that was not read, it is at most `medium`. A rule that declares none never blames with `high`.
    fn counter_evidence(&self) -> &'static [evidence::CounterEvidence] {
        &[]
    }

    /// What it says of a socket; `None` if it does not apply, or too little is known.
    fn check(&self, case: &Case<'_>) -> Option<Judgement>;
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The kind of cause.
    pub class: Class,
    /// How sure that is.
    pub certainty: Certainty,
    /// The evidence, in a sentence or two.
    pub text: String,
    /// What a person should do.
    pub next: String,
}

/// Name in verdicts that no rule made.
const NO_RULE: &str = "none";

/// The verdict on a socket that stays in CLOSE_WAIT.
pub fn verdict(case: &Case<'_>) -> Verdict {
    let mut ceiling = Ceiling::NONE;
    let judged = RULES.iter().find_map(|rule| {
        let judgement = ceiling.weigh(*rule, case, rule.check(case)?)?;
        Some((rule.about().name, judgement))
    });
    let (rule, judgement) = judged.unwrap_or_else(|| (NO_RULE, unknown(case)));
    let Judgement { class, certainty, text, next } = judgement;
    Verdict { class, rule, certainty, text, next }
}

/// Returns the name of a rule as verdicts have it; `None` if no rule has this name.
pub fn rule_name(name: &str) -> Option<&'static str> {
    let others = [NO_RULE, left::ABOUT.name, growth::ABOUT.name];
    RULES.iter().map(|rule| rule.about().name).chain(others).find(|known| *known == name)
}

fn unknown(case: &Case<'_>) -> Judgement {
    Judgement {
        class: Class::Unknown,
        certainty: Certainty::Low,
        text: format!(
            "the peer has closed, {} has not; nothing that is known of this socket tells why",
            text::owner(case)
        ),
        next: text::dump(case),
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::Scene, *};

    #[test]
    fn what_no_rule_explains_is_unknown() {
        let mut scene = Scene::server();
        scene.socket.role = None;
        let verdict = scene.verdict();
        assert_eq!((verdict.class, verdict.rule, verdict.certainty), (Class::Unknown, "none", Certainty::Low));
    }

    #[test]
    fn names_of_rules_are_their_own() {
        let mut names: Vec<_> = RULES.iter().map(|rule| rule.about().name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RULES.len());
        assert!([NO_RULE, left::ABOUT.name, growth::ABOUT.name].iter().all(|name| !names.contains(name)));
    }
}
