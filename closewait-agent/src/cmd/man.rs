//! Manual pages in `contrib/man`, generated from the definitions of the command line, the settings and the events.
//!
//! Only tests contain this module: `cargo xtask docs` writes the pages, `cargo xtask docs --check` compares them, and packages
//! take them from there, for every architecture. So the program does not contain the generator.

mod commands;
mod events;
mod page;
mod settings;

use std::path::PathBuf;

use self::page::ManPage;
use tests_support::generated;

/// Returns every page.
fn pages() -> Vec<ManPage> {
    let mut pages = commands::pages();
    pages.extend([settings::page(), events::page()]);
    pages
}

#[test]
fn the_manual_pages_match_the_definitions() {
    let folder = "contrib/man";
    let pages: Vec<_> = pages().into_iter().map(ManPage::into_file).collect();
    let is_old = |(name, text): &&(String, String)| !generated::is_current(&format!("{folder}/{name}"), text);
    let old: Vec<_> = pages.iter().filter(is_old).map(|(name, _)| name).collect();
    assert!(
        old.is_empty(),
        "{old:?} in {folder} do not match the definitions; run `cargo xtask docs` and commit the result"
    );
    let files = std::fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(folder)).unwrap();
    let unknown: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|file| !pages.iter().any(|(name, _)| name == file))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?} in {folder} are pages of commands that no longer exist; remove them");
}

#[test]
fn every_page_that_a_page_refers_to_exists() {
    let pages: Vec<_> = pages().into_iter().map(ManPage::into_file).collect();
    for (name, text) in &pages {
        let (_, see_also) = text.split_once(".SH \"SEE ALSO\"\n").unwrap_or_else(|| panic!("{name} refers to no page"));
        let see_also = see_also.lines().filter(|line| !line.starts_with('.')).collect::<String>();
        let references = see_also.split(", ").map(|reference| {
            let reference = reference.trim().replace("\\fB", "").replace("\\fR", "").replace("\\-", "-");
            let (name, section) = reference.trim_end_matches(')').split_once('(').unwrap();
            format!("{name}.{section}")
        });
        for reference in references {
            assert!(pages.iter().any(|(page, _)| *page == reference), "{name}: there is no page {reference}");
            assert_ne!(*name, reference, "{name} refers to itself");
        }
    }
}
