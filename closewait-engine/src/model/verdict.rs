//! Why a socket stays.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{diagnose, text::harmless_field};

/// The kind of cause that keeps a socket in CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The program does not get on: nothing in its group is closed any more.
    Hung,
    /// The program goes on, and forgets this one.
    Leak,
    /// It waits in a pool of idle connections until it is wanted again.
    Pool,
    /// It waits in a listener's backlog.
    NeverAccepted,
    /// The peer has closed one direction only, and the other is in use.
    HalfClose,
    /// A process has it that did not open it.
    Inherited,
    /// A proxy keeps it until its other connection ends.
    ProxyWait,
    /// It is about to go away by itself.
    Transient,
    /// Nothing tells.
    Unknown,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Hung,
        Self::Leak,
        Self::Pool,
        Self::NeverAccepted,
        Self::HalfClose,
        Self::Inherited,
        Self::ProxyWait,
        Self::Transient,
        Self::Unknown,
    ];

    /// The word that events and filters use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hung => "hung",
            Self::Leak => "leak",
            Self::Pool => "pool",
            Self::NeverAccepted => "never_accepted",
            Self::HalfClose => "half_close",
            Self::Inherited => "inherited",
            Self::ProxyWait => "proxy_wait",
            Self::Transient => "transient",
            Self::Unknown => "unknown",
        }
    }
}

impl Certainty {
    /// The word that events use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fact => "fact",
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// How sure a verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Certainty {
    /// The kernel says so.
    Fact,
    /// It would be a surprise if it were otherwise.
    High,
    /// More likely than not.
    Medium,
    /// A guess.
    Low,
}

/// Name of a rule. Under its own name because serde would borrow a field that is `&'static str` from its input.
pub type RuleName = &'static str;

/// Why a socket stays in CLOSE_WAIT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The kind of cause.
    pub class: Class,
    /// Name of the rule that says so; `none` if no rule does.
    #[serde(deserialize_with = "rule_name")]
    pub rule: RuleName,
    /// How sure that is.
    pub certainty: Certainty,
    /// The evidence, in a sentence.
    #[serde(deserialize_with = "harmless_field")]
    pub text: String,
    /// What a person should do.
    #[serde(deserialize_with = "harmless_field")]
    pub next: String,
}

/// Reads the name of one of this build's rules.
fn rule_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
    let name = String::deserialize(deserializer)?;
    diagnose::rule_name(&name).ok_or_else(|| D::Error::custom(format_args!("no rule has the name {name:?}")))
}
