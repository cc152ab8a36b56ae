//! Text of errors: what failed, each cause once, and what the user can do about it.
//!
//! The text of an error or of a context may end with lines `hint: ...`. Causes follow such a text in the chain of an
//! error, so both functions here move the hints behind all causes.

/// Separator between a problem and a hint.
const HINT: &str = "\nhint: ";

/// Returns an error with its causes as `PROBLEM: CAUSE`, and each hint on a line of its own.
pub fn with_hints(error: &anyhow::Error) -> String {
    let (problem, hints) = problem_and_hints(error);
    hints.iter().fold(problem, |text, hint| text + HINT + hint)
}

/// Returns an error with its causes and hints in one line, for a place within other text.
pub fn in_one_line(error: impl Into<anyhow::Error>) -> String {
    let (problem, hints) = problem_and_hints(&error.into());
    let text = hints.iter().fold(problem, |text, hint| text + "; " + hint);
    text.lines().map(str::trim_start).collect::<Vec<_>>().join(" ")
}

/// Returns an error with its causes, and its hints.
pub fn problem_and_hints(error: &anyhow::Error) -> (String, Vec<String>) {
    let (mut problems, mut hints) = (Vec::new(), Vec::new());
    for cause in error.chain() {
        let text = cause.to_string();
        let mut parts = text.split(HINT).map(str::to_owned);
        problems.extend(parts.next());
        for hint in parts {
            if !hints.contains(&hint) {
                hints.push(hint);
            }
        }
    }
    (problems.join(": "), hints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> anyhow::Error {
        anyhow::anyhow!("no space").context("write failed\nhint: free\n    some space").context("recording failed")
    }

    #[test]
    fn hints_come_after_all_causes_and_each_once() {
        assert_eq!(with_hints(&error()), "recording failed: write failed: no space\nhint: free\n    some space");
        let twice = error().context("stopped\nhint: free\n    some space");
        assert_eq!(with_hints(&twice).matches("hint: ").count(), 1);
        assert_eq!(with_hints(&anyhow::anyhow!("plain")), "plain");
    }

    #[test]
    fn an_error_within_other_text_has_one_line() {
        assert_eq!(in_one_line(error()), "recording failed: write failed: no space; free some space");
    }
}
