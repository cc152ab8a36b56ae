//! Compares the files of `docs/schema/` with the types that are written, or writes them.

use std::path::PathBuf;

use super::doctor;
use crate::sink::document::{self, Document, page, root};

fn all() -> Vec<Document> {
    let mut documents = document::documents();
    documents.push(Document::new(
        "doctor",
        "`doctor`",
        "Check of the host, or the summary behind all checks",
        &[root::<doctor::CheckLine<'_>>, root::<doctor::SummaryLine<'_>>],
    ));
    documents
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the test compares the files in docs/ with the types, and writes the files with BLESS=1"
)]
fn the_schemas_match_the_types() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/schema");
    let documents = all();
    let files = documents.iter().map(|document| (format!("{}.json", document.name), document.file()));
    let files: Vec<_> = files.chain([("README.md".to_owned(), page(&documents))]).collect();
    if std::env::var_os("BLESS").is_some_and(|bless| bless == "1") {
        std::fs::create_dir_all(&folder).unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(folder.join(name), text).unwrap());
    }
    let is_old =
        |(name, text): &&(String, String)| std::fs::read_to_string(folder.join(name)).ok().as_ref() != Some(text);
    let old: Vec<_> = files.iter().filter(is_old).map(|(name, _)| name).collect();
    assert!(
        old.is_empty(),
        "{old:?} in docs/schema do not match the types; run `cargo xtask docs` and commit the result"
    );
    let count = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(count, files.len(), "docs/schema has a file of a document that no longer exists");
}
