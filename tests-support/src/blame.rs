//! Wrong blame: verdicts that no socket of a healthy program may have.

use serde_json::Value;

/// Healthy scenarios that get blame today, and the rules that give it, with certainty `medium`. The list only gets shorter: the
/// test of the recordings fails when one of these no longer occurs.
pub const EXCEPTIONS: [(&str, &str); 0] = [];

/// Whether a verdict blames the program: `hung` or `leak`, unless with certainty `low`.
pub fn is_blame(verdict: &Value) -> bool {
    let is_one_of = |name: &str, words: &[&str]| verdict[name].as_str().is_some_and(|word| words.contains(&word));
    is_one_of("class", &["hung", "leak"]) && is_one_of("certainty", &["medium", "high", "fact"])
}

/// The exception that a verdict on a socket of a healthy scenario is, if it is one.
pub fn exception(scenario: &str, verdict: &Value) -> Option<(&'static str, &'static str)> {
    let is_it = |(name, rule): &&(&str, &str)| *name == scenario && verdict["rule"] == *rule;
    EXCEPTIONS.iter().find(is_it).filter(|_exception| verdict["certainty"] == "medium").copied()
}
