//! `closewait explain`.

use thiserror::Error;

use super::{color, list::width, print};
use crate::{
    cli,
    sink::explain::{Topics, render},
};
use closewait_engine::text::harmless;

/// Width of the text where standard output is no terminal, columns.
const DEFAULT_WIDTH: u16 = 80;
/// Minimum similarity of a name that the hint lists. It is the one of clap, for subcommands and flags.
const SIMILAR: f64 = 0.7;
/// Maximum number of names in the hint.
const MAX_SIMILAR: usize = 3;

/// Reason why nothing can be explained.
#[derive(Debug, Error)]
pub(super) enum ExplainError {
    /// No class, rule, column or word has the name.
    #[error("no class, rule, column or word has the name {name}\nhint: {hint}")]
    Unknown {
        /// Name from the command line, made harmless.
        name: String,
        /// Action for the user.
        hint: String,
    },
}

/// Writes the explanation of a verdict or a word, or a list of all of them.
///
/// # Errors
///
/// If no class, rule, column or word has the name, or standard output cannot be written.
pub(super) fn explain(args: &cli::ExplainArgs) -> anyhow::Result<()> {
    let cli::ExplainArgs { shape, name } = args;
    let topics = match name.as_deref() {
        None => Topics::all(),
        Some(name) => Topics::named(name).ok_or_else(|| unknown(name))?,
    };
    let width = width().unwrap_or(DEFAULT_WIDTH).into();
    print(&render(&topics, shape.output.into(), width, color(*shape))?)
}

fn unknown(name: &str) -> ExplainError {
    let wanted = Topics::normal(name);
    let mut similar: Vec<(f64, &str)> = Topics::names()
        .map(|known| (strsim::jaro_winkler(&wanted, known), known))
        .filter(|(similarity, _)| *similarity > SIMILAR)
        .collect();
    similar.sort_by(|one, other| other.0.total_cmp(&one.0));
    similar.dedup_by_key(|(_, known)| *known);
    let similar: Vec<&str> = similar.iter().take(MAX_SIMILAR).map(|(_, known)| *known).collect();
    let hint = match similar.as_slice() {
        [] => "list all names:\n    closewait explain".to_owned(),
        similar => format!("similar names: {}", similar.join(", ")),
    };
    ExplainError::Unknown { name: harmless(name.as_bytes()), hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_lists_similar_names_each_once_and_the_best_first() {
        let hint = |name| unknown(name).to_string();
        assert!(hint("hnug").ends_with("hint: similar names: hung"), "{}", hint("hnug"));
        assert!(hint("poool").ends_with("hint: similar names: pool, protocol, own_pool"), "{}", hint("poool"));
        assert!(hint("Never-Acepted").contains("hint: similar names: never_accepted"), "{}", hint("Never-Acepted"));
        assert_eq!(
            hint("xyz"),
            "no class, rule, column or word has the name xyz\nhint: list all names:\n    closewait explain"
        );
    }

    #[test]
    fn a_name_with_control_characters_does_not_reach_the_terminal() {
        assert!(
            unknown("\x1b[2Jhung\n")
                .to_string()
                .starts_with("no class, rule, column or word has the name \\u{1b}[2Jhung\\u{a}\n")
        );
    }
}
