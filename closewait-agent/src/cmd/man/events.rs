//! Page of the events, from the types that are written: the same text as in `docs/schema/README.md`.

use super::page::ManPage;
use crate::sink::document::{
    documents,
    page::{DescribedMember, RULES, constants, described, lines, parts, tag, text},
};

const DESCRIPTION: &str = "\
`closewait run --output json` writes events as lines of JSON, one object per line; `closewait tail` and `closewait replay` write the \
same. A hook (`--on-stuck`, `--on-pileup`) gets its event on standard input. `--events` selects the events: `incidents`, `stuck` or \
`all`.";

/// Returns the page.
pub(super) fn page() -> ManPage {
    let mut page = ManPage::new("closewait-events", 7, "Events that closewait writes as JSON");
    page.heading("SYNOPSIS");
    page.code("closewait run --output json [--events WHICH]\nclosewait tail --output json [--events WHICH]");
    page.heading("DESCRIPTION");
    page.markdown(DESCRIPTION);
    page.markdown(RULES.trim_end());
    let events: Vec<_> = documents().into_iter().filter(|document| document.name == "events").collect();
    page.heading("EVENTS");
    for line in events.iter().filter_map(|document| lines(&document.schema)).flatten() {
        page.subheading(&tag(line));
        page.paragraph(text(&line["description"]));
        members(&mut page, line);
    }
    page.heading("PARTS");
    page.paragraph("Objects and sets of values that are members of the events above, in alphabetical order.");
    for (name, part) in parts(&events) {
        page.subheading(name);
        page.paragraph(text(&part["description"]));
        for (value, meaning) in constants(part) {
            page.item(&format!("`{value}`"), meaning);
        }
        if part.get("enum").is_none() {
            members(&mut page, part);
        }
    }
    page.see_also(["closewait(1)", "closewait-run(1)", "closewait-tail(1)", "closewait-replay(1)"]);
    page
}

fn members(page: &mut ManPage, object: &serde_json::Value) {
    for DescribedMember { name, kind, meaning } in described(object) {
        page.item(&format!("`{name}` ({kind})"), meaning);
    }
}
