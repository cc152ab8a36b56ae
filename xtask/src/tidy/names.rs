//! Every type of the product has a name of its own. Aliases for `Result` and `Error` are excepted.

use std::collections::BTreeMap;

use super::{Files, Problem};

/// Start of the names of the product's packages: xtask is not one of them.
const PACKAGES: &str = "closewait-";
/// Aliases that many modules have.
const EXEMPT: [&str; 2] = ["Error", "Result"];

/// Reports each definition of a type whose name a type in another place has too.
pub(super) fn check(files: &Files) -> Vec<Problem> {
    let mut first: BTreeMap<&str, String> = BTreeMap::new();
    let mut problems = Vec::new();
    for (file, text) in files.iter().filter(|(file, _text)| is_product(file)) {
        for (line, name) in types(text).filter(|(_line, name)| !EXEMPT.contains(name)) {
            if let Some(other) = first.get(name) {
                problems.push(Problem {
                    file: file.clone(),
                    line,
                    what: format!("the type `{name}` has the name of the one in {other}"),
                    why: "a type name is unique in the workspace, so that it can be searched for",
                    instead: "rename one of the two to what it is",
                });
            } else {
                first.insert(name, format!("{file}:{line}"));
            }
        }
    }
    problems
}

fn is_product(file: &str) -> bool {
    let is_test = file.split('/').any(|part| part == "tests" || part == "tests.rs");
    file.starts_with(PACKAGES) && file.ends_with(".rs") && !is_test
}

/// Names of the types that a file defines at its top level, before its test module, with their lines.
fn types(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    (1..)
        .zip(text.get(..end).unwrap_or_default().lines())
        .filter_map(|(line, content)| Some((line, type_name(content)?)))
}

/// Name of the type that a line defines, if it defines one. Lines that are indented are not at the top level.
fn type_name(line: &str) -> Option<&str> {
    let item = line.strip_prefix("pub ").unwrap_or(line);
    let item = item.strip_prefix("pub(").and_then(|rest| Some(rest.split_once(") ")?.1)).unwrap_or(item);
    let (_keyword, rest) =
        item.split_once(' ').filter(|(word, _)| ["struct", "enum", "trait", "type"].contains(word))?;
    rest.split(|next: char| !next.is_alphanumeric() && next != '_').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_of_two_types_with_one_name_is_reported() {
        let tests = "\n#[cfg(test)]\nmod tests {\nstruct One;\n}\n";
        let files = [
            (
                "closewait-agent/src/a.rs",
                "pub(in crate::a) enum One<'a> {}\n    type One = u8;\npub type Result = u8;\n".to_owned(),
            ),
            ("closewait-agent/src/b.rs", format!("use a::One;\nstruct Two;{tests}")),
            ("closewait-agent/src/b/tests.rs", "struct Two;".to_owned()),
            (
                "closewait-engine/src/c.rs",
                "#[cfg(test)]\nmod tests;\npub struct One(u8);\ntype Result = u16;".to_owned(),
            ),
            ("xtask/src/d.rs", "trait Two {}".to_owned()),
        ];
        let found = check(&files.map(|(file, text)| (file.to_owned(), text)).into());
        let places: Vec<_> = found.iter().map(|problem| (problem.file.as_str(), problem.line)).collect();
        assert_eq!(places, [("closewait-engine/src/c.rs", 3)], "{found:?}");
        assert!(found[0].what.ends_with("in closewait-agent/src/a.rs:1"), "{found:?}");
    }
}
