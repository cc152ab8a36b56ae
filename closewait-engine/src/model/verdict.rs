//! Diagnosis of a socket or group.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{diagnose, process::NextStep, text::harmless_field};

/// Class of the cause that keeps a socket in CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The program is stuck: it no longer closes any socket of this group.
    Hung,
    /// The program works, but never closes this socket.
    Leak,
    /// The socket waits in a pool of idle connections for its next use.
    Pool,
    /// The socket waits in a listener's backlog.
    NeverAccepted,
    /// The peer has closed one direction only, and the other is in use.
    HalfClose,
    /// A process that did not open the socket has a descriptor of it.
    Inherited,
    /// A proxy keeps the socket until its other connection ends.
    ProxyWait,
    /// The socket will soon exit without intervention.
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

    /// Returns the name in events and filters.
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

    /// Returns the meaning, one sentence without its end.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Hung => "the program is stuck: it no longer serves any connection of this port, or not these",
            Self::Leak => "the program works, but never closes this socket",
            Self::Pool => "the connection is idle in a pool until its next use",
            Self::NeverAccepted => "the socket waits in a listener's backlog",
            Self::HalfClose => "the peer has closed one direction only, and the other is in use",
            Self::Inherited => "a process that did not open the socket has a descriptor of it",
            Self::ProxyWait => "a proxy keeps the socket until its other connection ends",
            Self::Transient => "the socket is about to exit without intervention",
            Self::Unknown => "the known facts do not show a cause",
        }
    }
}

impl Certainty {
    /// Every certainty, the highest first.
    pub const ALL: [Self; 4] = [Self::Fact, Self::High, Self::Medium, Self::Low];

    /// Returns the meaning, one sentence without its end.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Fact => "the kernel reports it",
            Self::High => "anything else would be a surprise",
            Self::Medium => "more likely than not",
            Self::Low => "a guess",
        }
    }

    /// Returns the name in events.
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
    /// The kernel's data proves the verdict.
    Fact,
    /// Any other cause would be a surprise.
    High,
    /// The verdict is more likely than not.
    Medium,
    /// A guess.
    Low,
}

/// Name of a rule. This alias exists because serde would borrow a field of the type `&'static str` from its input.
pub type RuleName = &'static str;

/// Diagnosis of a socket: the cause that keeps it in CLOSE_WAIT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Class of the cause.
    pub class: Class,
    /// Name of the rule that applies; `none` if no rule does.
    #[serde(deserialize_with = "rule_name")]
    pub rule: RuleName,
    /// Certainty of `class`.
    pub certainty: Certainty,
    /// Evidence, in one or two sentences.
    #[serde(deserialize_with = "harmless_field")]
    pub text: String,
    /// Recommended next step.
    pub next: NextStep,
}

/// Deserializes the name of a rule of this build.
pub(super) fn rule_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
    let name = String::deserialize(deserializer)?;
    diagnose::rule_name(&name).ok_or_else(|| D::Error::custom(format_args!("no rule has the name {name:?}")))
}
