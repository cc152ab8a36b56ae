//! Names of functions in texts: those of templates and generics can have hundreds of bytes, and would crowd out everything else.

use std::borrow::Cow;

/// Maximum number of characters of a name in a text: a line of a narrow terminal. JSON has whole names.
const MAX_NAME: usize = 72;

/// Kind of brackets, whose contents are left out of a name that is too long.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Brackets {
    /// Arguments of templates, and generics.
    Angle,
    /// Parameters.
    Round,
}

/// Returns a name with at most [`MAX_NAME`] characters: without the contents of inner `<>`, then of all, then of `()`, and at last without
/// its middle.
pub(super) fn short_name(name: &str) -> Cow<'_, str> {
    let is_short = |name: &str| name.chars().count() <= MAX_NAME;
    let mut shown = Cow::Borrowed(name);
    for (brackets, kept) in [(Brackets::Angle, 1), (Brackets::Angle, 0), (Brackets::Round, 0)] {
        if is_short(&shown) {
            return shown;
        }
        if let Some(emptied) = emptied(&shown, brackets, kept) {
            shown = Cow::Owned(emptied);
        }
    }
    if is_short(&shown) { shown } else { Cow::Owned(without_middle(&shown)) }
}

/// Returns a name with `..` in place of what is inside more than `kept` brackets; `None` if they are not balanced.
fn emptied(name: &str, brackets: Brackets, kept: usize) -> Option<String> {
    let (open, close) = match brackets {
        Brackets::Angle => ('<', '>'),
        Brackets::Round => ('(', ')'),
    };
    let (mut text, mut depth, mut before) = (String::new(), 0_usize, ' ');
    for character in name.chars() {
        // `operator<`, `operator->` and `->` in a return type are no brackets.
        let is_operator = brackets == Brackets::Angle && (before == '-' || (depth == 0 && ends_with_operator(&text)));
        let closes = character == close && !is_operator;
        if closes {
            depth = depth.checked_sub(1)?;
        }
        if depth <= kept {
            text.push(character);
        }
        if character == open && !is_operator {
            depth += 1;
            if depth == kept + 1 {
                text.push_str("..");
            }
        }
        before = character;
    }
    (depth == 0).then_some(text)
}

/// Whether a name ends with the keyword of an operator, perhaps with the first character of one: `operator<` of `operator<<`.
fn ends_with_operator(text: &str) -> bool {
    text.trim_end_matches(['<', '>', '=', '-']).ends_with("operator")
}

/// Returns the beginning and the end of a name.
fn without_middle(name: &str) -> String {
    let half = MAX_NAME / 2;
    let start: String = name.chars().take(half).collect();
    let count = name.chars().count();
    let end: String = name.chars().skip(count.saturating_sub(MAX_NAME - half - 1)).collect();
    format!("{start}…{end}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn arguments_of_templates_are_left_out_before_anything_else() {
        let vector = "std::vector<std::pair<std::basic_string<char>, std::shared_ptr<acme::Order>>>::push_back";
        assert_eq!(short_name(vector), "std::vector<std::pair<..>>::push_back");
        let wide = format!("acme::Map<{}>::at", ["std::string"; 12].join(", "));
        assert_eq!(short_name(&wide), "acme::Map<..>::at");
        let rust =
            format!("<{} as core::future::Future>::poll", "acme::orders::Service<acme::http::Request>".repeat(3));
        assert_eq!(short_name(&rust), "<..>::poll");
        let parameters = format!("acme::reserve({})", ["std::string const&"; 12].join(", "));
        assert_eq!(short_name(&parameters), "acme::reserve(..)");
    }

    #[test]
    fn a_name_without_brackets_loses_its_middle() {
        let name = format!("acme::{}::reserve", "inner".repeat(100));
        let short = short_name(&name);
        assert_eq!(short.chars().count(), MAX_NAME);
        assert!(short.starts_with("acme::inner") && short.contains('…') && short.ends_with("::reserve"), "{short}");
    }

    #[test]
    fn operators_are_no_brackets() {
        let long = "acme::".repeat(12);
        assert_eq!(
            emptied("operator<<(std::ostream<char>&)", Brackets::Angle, 0).unwrap(),
            "operator<<(std::ostream<..>&)"
        );
        assert_eq!(emptied("Ptr<int>::operator->()", Brackets::Angle, 0).unwrap(), "Ptr<..>::operator->()");
        assert!(short_name(&format!("{long}operator<")).ends_with("operator<"));
    }

    #[test]
    fn names_that_fit_stay() {
        for name in ["reserve", "std::thread::_State_impl<acme::Worker>::_M_run", "(*T[...]).serve", ""] {
            assert_eq!(short_name(name), name);
        }
    }

    proptest! {
        #[test]
        fn every_name_is_bounded(name in "[a-z<>() :ä-]{0,600}") {
            prop_assert!(short_name(&name).chars().count() <= MAX_NAME);
        }
    }
}
