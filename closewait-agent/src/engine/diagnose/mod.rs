//! Why a socket stays: rules as data, the first that speaks is the verdict.
//!
//! A new rule is a file here, with its condition, texts and tests, and its line in [`RULES`].

mod case;
mod never_accepted;

pub use self::case::{Case, Flow, Group, Legs, Seen, Trend};
use super::model::{Certainty, Class, Verdict};

/// Tells one cause from others.
pub trait Rule: Sync {
    /// Its name, as a verdict carries it.
    fn name(&self) -> &'static str;

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
    /// The evidence, in a sentence.
    pub text: String,
    /// What a person should do.
    pub next: String,
}

/// All rules, in the order in which they are asked.
pub const RULES: &[&dyn Rule] = &[&never_accepted::NeverAccepted];

/// The verdict on a socket that stays in CLOSE_WAIT.
pub fn verdict(case: &Case<'_>) -> Verdict {
    let said = RULES.iter().find_map(|rule| Some((rule.name(), rule.check(case)?)));
    let (rule, judgement) = said.unwrap_or_else(|| ("none", unknown()));
    let Judgement { class, certainty, text, next } = judgement;
    Verdict { class, rule, certainty, text, next }
}

/// What the leaving of a socket that had been stuck says of the cause.
pub fn left(
    _socket: &super::model::Socket,
    _dwell: Option<super::model::Dwell>,
    _how: super::model::How,
    _fd_open: Option<bool>,
) -> Option<Verdict> {
    None
}

fn unknown() -> Judgement {
    Judgement {
        class: Class::Unknown,
        certainty: Certainty::Low,
        text: "the peer has closed, the program has not; nothing that is known of this socket tells why".to_owned(),
        next: "see which process holds it (`closewait list`) and what that process waits for".to_owned(),
    }
}
