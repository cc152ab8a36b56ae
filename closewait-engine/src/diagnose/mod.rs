//! Diagnosis of sockets in CLOSE_WAIT: an ordered list of rules. The first rule that applies gives the verdict.
//!
//! To add a rule, add a file to `rules` with its condition, texts and tests, and a line to [`RULES`].

mod about;
mod case;
pub mod evidence;
pub(crate) mod grouping;
mod growth;
mod left;
mod members;
mod owner_names;
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
    about::{About, VerdictSource, verdict_sources},
    case::{AROUND_FIN, Case, Flow, Group, ProxyPeers, Seen, Trend},
    growth::{Growing, growth},
    left::left,
    rules::{BACKEND_STUCK, RULES, STREAM_OVER},
};
use super::model::{Certainty, Class, RuleName, Verdict};
use super::process::NextStep;

/// Detects one cause of sockets in CLOSE_WAIT.
pub trait Rule: Sync {
    /// Returns the description of the rule for `docs/diagnoses.md` and `closewait explain`.
    fn about(&self) -> &'static About;

    /// Returns the kinds of counter-evidence that the rule checks before it blames a program. If one of them is present, the
    /// rule does not apply; if one was not read, the certainty is at most `medium`. A rule that declares none never blames with
    /// `high`.
    fn counter_evidence(&self) -> &'static [evidence::CounterEvidence] {
        &[]
    }

    /// Judges a socket. Returns `None` if the rule does not apply, or if a fact that it needs is unknown.
    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>>;
}

/// Result of a rule for one socket.
pub struct Judgement<'c> {
    /// Class of the cause.
    pub class: Class,
    /// Certainty of the cause.
    pub certainty: Certainty,
    explain: Box<dyn FnOnce() -> Explanation + 'c>,
}

/// Texts of a judgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// Evidence, in one or two sentences.
    pub text: String,
    /// Recommended next step.
    pub next: NextStep,
}

impl<'c> Judgement<'c> {
    /// Creates a judgement. Only an answer that shows the texts calls `explain`: they take most of the time of a judgement.
    pub fn new(class: Class, certainty: Certainty, explain: impl FnOnce() -> Explanation + 'c) -> Self {
        Self { class, certainty, explain: Box::new(explain) }
    }

    /// Returns the verdict by the rule of this name. Its texts are empty unless `explained` returns true for the class and the rule.
    fn verdict(self, rule: RuleName, explained: impl FnOnce(Class, RuleName) -> bool) -> Verdict {
        let Self { class, certainty, explain } = self;
        let Explanation { text, next } = if explained(class, rule) { explain() } else { Explanation::default() };
        Verdict { class, rule, certainty, text, next }
    }
}

/// Returns the verdict on a socket. Its texts are empty unless `explained` returns true for the class and the rule.
pub fn verdict(case: &Case<'_>, explained: impl FnOnce(Class, RuleName) -> bool) -> Verdict {
    let mut ceiling = Ceiling::NONE;
    let judged = RULES.iter().find_map(|rule| {
        let judgement = ceiling.weigh(*rule, case, rule.check(case)?)?;
        Some((rule.about().name, judgement))
    });
    let (rule, judgement) = judged.unwrap_or_else(|| (about::NONE.name, unknown(case)));
    judgement.verdict(rule, explained)
}

/// Returns the static copy of a rule name, as in verdicts; `None` if no rule has this name.
pub fn rule_name(name: &str) -> Option<&'static str> {
    verdict_sources().map(|source| source.about.name).find(|known| *known == name)
}

fn unknown<'c>(case: &'c Case<'_>) -> Judgement<'c> {
    Judgement::new(Class::Unknown, Certainty::Low, move || {
        let owner = text::owner(case);
        Explanation {
            text: format!(
                "the peer has closed the connection and {owner} {has} not; no known fact about this socket explains why",
                has = owner.has(),
            ),
            next: text::dump(case),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{testing::Scene, *};

    #[test]
    fn a_socket_that_no_rule_explains_is_unknown() {
        let mut scene = Scene::server();
        scene.socket.role = None;
        let verdict = scene.verdict();
        assert_eq!((verdict.class, verdict.rule, verdict.certainty), (Class::Unknown, "none", Certainty::Low));
    }

    #[test]
    fn rule_names_are_unique() {
        let mut names: Vec<_> = verdict_sources().map(|source| source.about.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), verdict_sources().count());
    }
}
