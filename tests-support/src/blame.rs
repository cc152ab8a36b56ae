//! Wrong blame: verdicts that no socket of a healthy program may have.

use serde_json::Value;

/// Whether a verdict blames the program: `hung`, `leak` or `inherited`, unless with certainty `low`.
pub fn is_blame(verdict: &Value) -> bool {
    let is_one_of = |name: &str, words: &[&str]| verdict[name].as_str().is_some_and(|word| words.contains(&word));
    is_one_of("class", &["hung", "leak", "inherited"]) && is_one_of("certainty", &["medium", "high", "fact"])
}
