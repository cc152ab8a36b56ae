//! `docs/schema/README.md`: the members of all documents, as tables.

use super::Document;

/// Returns the page.
pub(crate) fn page(_documents: &[Document]) -> String {
    String::new()
}
