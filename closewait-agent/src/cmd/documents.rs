//! Compares the files of `docs/schema/` with the types that are written, or writes them.

use std::path::PathBuf;

use serde_json::{Map, Value};
use tests_support::generated;

use super::{config, doctor};
use crate::sink::document::{self, Document, page, root};

fn all() -> Vec<Document> {
    let mut documents = document::documents();
    documents.push(Document::new(
        "doctor",
        "`doctor`",
        "Check of the host, or the summary behind all checks",
        &[root::<doctor::CheckLine<'_>>, root::<doctor::SummaryLine<'_>>],
    ));
    documents.push(Document::new(
        "config",
        "`config show` and `config check`",
        "Setting of the agent, or problem of its configuration",
        &[root::<config::SettingLine>, root::<config::ProblemLine>],
    ));
    documents
}

#[test]
fn the_schemas_match_the_types() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/schema");
    let documents = all();
    let files = documents.iter().map(|document| (format!("{}.json", document.name), document.file()));
    let files: Vec<_> = files.chain([("README.md".to_owned(), page(&documents))]).collect();
    let is_old = |(name, text): &&(String, String)| !generated::is_current(&format!("docs/schema/{name}"), text);
    let old: Vec<_> = files.iter().filter(is_old).map(|(name, _)| name).collect();
    assert!(
        old.is_empty(),
        "{old:?} in docs/schema do not match the types; run `cargo xtask docs` and commit the result"
    );
    let count = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(count, files.len(), "docs/schema has a file of a document that no longer exists");
}

/// Returns the checksum of a schema without its descriptions: any change of members, types or values changes it.
fn checksum(schema: &Value) -> String {
    fn without_texts(schema: &mut Value) {
        match schema {
            Value::Object(keywords) => {
                // A member may have the name of a keyword; then it is an object.
                keywords.retain(|keyword, value| !(matches!(&**keyword, "description" | "title") && value.is_string()));
                keywords.values_mut().for_each(without_texts);
            }
            Value::Array(items) => items.iter_mut().for_each(without_texts),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut schema = schema.clone();
    without_texts(&mut schema);
    format!("{:08x}", crc32fast::hash(schema.to_string().as_bytes()))
}

/// Returns what has to be in the changelog for these schemas, and is not: the newest line that names the file of a schema has its
/// checksum.
fn unexplained(changelog: &str, documents: &[Document]) -> Vec<String> {
    let line = |document: &Document| {
        let (file, checksum) = (format!("`docs/schema/{}.json`", document.name), checksum(&document.schema));
        let newest = changelog.lines().find(|line| line.starts_with("- ") && line.contains(&file));
        let is_known = newest.is_some_and(|line| line.contains(&format!("({checksum})")));
        (!is_known).then(|| format!("- {file} ({checksum}): WHAT CHANGED"))
    };
    documents.iter().filter_map(line).collect()
}

#[test]
fn a_schema_changes_only_with_a_line_in_the_changelog() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../CHANGELOG.md");
    let missing = unexplained(&std::fs::read_to_string(path).unwrap(), &all());
    assert!(
        missing.is_empty(),
        "schemas have changed; tell users in CHANGELOG.md, under `### Schemas` of the unreleased version, with these lines (one line \
         for each file; the number is a checksum without descriptions):\n{}",
        missing.join("\n")
    );
}

#[test]
fn a_change_of_a_schema_needs_a_line_and_a_new_description_does_not() {
    let document = |member: &str, text: &str| Document {
        name: "kill",
        printed_by: "",
        schema: serde_json::json!({ "description": text, "properties": { member: { "description": text }, "description": {} } }),
    };
    let first = unexplained("", &[document("count", "Number.")]);
    assert!(first.len() == 1 && first[0].starts_with("- `docs/schema/kill.json` ("), "{first:?}");
    let changelog = format!("## Unreleased\n{}\n", first[0]);
    assert!(unexplained(&changelog, &[document("count", "Number of sockets.")]).is_empty());
    let second = unexplained(&changelog, &[document("counts", "Number.")]);
    assert_eq!(second.len(), 1, "another member");
    // The newest line counts, so a change back needs a line, too.
    let changelog = format!("{}\n{changelog}", second[0]);
    assert!(unexplained(&changelog, &[document("counts", "Number.")]).is_empty());
    assert_eq!(unexplained(&changelog, &[document("count", "Number.")]), first);
}

/// Names in the pages that are no members or values of the output, but of the kernel.
const OTHER_NAMES: [&str; 2] = ["ip_local_port_range", "sk_err"];

#[test]
fn pages_name_members_that_exist() {
    let documents = all();
    let schemas: String = documents.iter().map(Document::file).collect();
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for page in ["events.md", "pileups.md"] {
        let text = std::fs::read_to_string(docs.join(page)).unwrap();
        let names = text.split('`').skip(1).step_by(2);
        let names = names
            .filter(|name| name.contains('_') && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()));
        for name in names.filter(|name| !OTHER_NAMES.contains(name)) {
            assert!(schemas.contains(&format!("\"{name}\"")), "docs/{page}: there is no member or value `{name}`");
        }
    }
}

/// Calls the function with every schema that has members.
fn objects<'a>(schema: &'a Value, each: &mut impl FnMut(&'a Map<String, Value>)) {
    match schema {
        Value::Object(keywords) => {
            if let Some(Value::Object(members)) = keywords.get("properties") {
                each(members);
            }
            keywords.values().for_each(|value| objects(value, each));
        }
        Value::Array(items) => items.iter().for_each(|value| objects(value, each)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_member_has_a_description_with_its_unit_and_the_meaning_of_null() {
    for Document { name: document, schema, .. } in all() {
        objects(&schema, &mut |members| {
            for (name, member) in members {
                let text = member["description"].as_str().unwrap_or_default();
                assert!(
                    text.ends_with('.') && text.len() > 5,
                    "{document}: `{name}` has no description: add a doc comment"
                );
                let in_seconds = name.ends_with("_seconds") || name == "seconds_ago";
                assert!(!in_seconds || text.contains(" seconds"), "{document}: `{name}` has no unit: {text}");
                let is_nullable = member["type"].to_string().contains("\"null\"") || !member["anyOf"].is_null();
                let says_null = text.contains("`null`") || text.contains("otherwise");
                assert!(!is_nullable || says_null, "{document}: what does `null` mean for `{name}`? {text}");
            }
        });
    }
}
