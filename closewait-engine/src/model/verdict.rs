//! Diagnosis of a socket or group.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{diagnose, text::harmless_field};

/// The kind of cause that keeps a socket in CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The program is stuck: it closes no socket of this group any more.
    Hung,
    /// The program works, but never closes this socket.
    Leak,
    /// The socket waits in a pool of idle connections for its next use.
    Pool,
    /// The socket waits in a listener's backlog.
    NeverAccepted,
    /// The peer has closed one direction only, and the other is in use.
    HalfClose,
    /// A process has it that did not open it.
    Inherited,
    /// A proxy keeps it until its other connection ends.
    ProxyWait,
    /// The socket will soon exit by itself.
    Transient,
    /// No rule applies.
    Unknown,
}

impl Class {
    /// Every class, in the order of the documentation.
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

/// Certainty of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Certainty {
    /// The kernel's data prove the verdict.
    Fact,
    /// Any other cause would be a surprise.
    High,
    /// The verdict is more likely than not.
    Medium,
    /// A guess.
    Low,
}

/// Name of a rule. Under its own name because serde would borrow a field that is `&'static str` from its input.
pub type RuleName = &'static str;

/// Reason why a socket stays in CLOSE_WAIT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The kind of cause.
    pub class: Class,
    /// Name of the rule that applies; `none` if no rule does.
    #[serde(deserialize_with = "rule_name")]
    pub rule: RuleName,
    /// Certainty of `class`.
    pub certainty: Certainty,
    /// The evidence, in a sentence.
    #[serde(deserialize_with = "harmless_field")]
    pub text: String,
    /// Next step for the user.
    #[serde(deserialize_with = "harmless_field")]
    pub next: String,
}

/// Reads the name of one of this build's rules.
fn rule_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
    let name = String::deserialize(deserializer)?;
    diagnose::rule_name(&name).ok_or_else(|| D::Error::custom(format_args!("no rule has the name {name:?}")))
}
