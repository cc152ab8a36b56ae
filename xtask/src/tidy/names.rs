//! Every type of the product has a name of its own, except for aliases of `Result` and `Error`.

use std::collections::BTreeMap;

use proc_macro2::{Ident, TokenTree};

use super::{Files, Problem, source};
use crate::prelude::*;

/// Start of the names of the product's packages: xtask is not one of them.
const PACKAGES: &str = "closewait-";
const EXEMPT: [&str; 2] = ["Error", "Result"];

/// Reports each definition of a type whose name a type in another place has too.
pub(super) fn check(files: &Files) -> Result<Vec<Problem>> {
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    let mut problems = Vec::new();
    for (file, text) in files {
        if !file.starts_with(PACKAGES) || !file.ends_with(".rs") || source::is_test(file) {
            continue;
        }
        for name in types(file, text)? {
            let (line, name) = (name.span().start().line, name.to_string());
            if let Some(other) = first.get(&name) {
                let what = format!("the type `{name}` has the name of the one in {other}");
                let why = "a type name is unique in the workspace, so that a search finds one definition";
                problems.push(Problem::new(file, line, what, why, "rename one of the two to what it is"));
            } else if !EXEMPT.contains(&name.as_str()) {
                first.insert(name, format!("{file}:{line}"));
            }
        }
    }
    Ok(problems)
}

/// Returns the names of the types that a file defines at its top level, before its test module.
fn types(file: &str, text: &str) -> Result<Vec<Ident>> {
    let tokens: Vec<_> = source::tokens(file, source::without_tests(text))?.into_iter().collect();
    let name = |pair: &[TokenTree]| match pair {
        [TokenTree::Ident(keyword), TokenTree::Ident(name)] => {
            ["struct", "enum", "trait", "type"].iter().any(|word| keyword == word).then(|| name.clone())
        }
        _ => None,
    };
    Ok(tokens.windows(2).filter_map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_of_two_types_with_one_name_is_reported() {
        let files = [
            (
                "closewait-agent/src/a.rs",
                "pub(in crate::a) enum One<'a> {}\nmod x { type One = u8; }\npub type Result = u8;",
            ),
            ("closewait-agent/src/b.rs", "use a::One;\nstruct Two;\n#[cfg(test)]\nmod tests {\nstruct One;\n}\n"),
            ("closewait-agent/src/b/tests.rs", "struct Two;"),
            ("closewait-engine/src/c.rs", "#[cfg(test)]\nmod tests;\npub struct One(u8);\ntype Result = u16;"),
        ];
        let found = check(&files.map(|(file, text)| (file.to_owned(), text.to_owned())).into()).unwrap();
        let places: Vec<_> = found.iter().map(|problem| (problem.file.as_str(), problem.line)).collect();
        assert_eq!(places, [("closewait-engine/src/c.rs", 3)], "{found:?}");
        assert!(found[0].what.ends_with("in closewait-agent/src/a.rs:1"), "{found:?}");
    }
}
