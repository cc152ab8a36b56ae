//! The manual pages in `contrib/man`, read by `man`.
//!
//! `.ci/packages shells` installs it. CI sets `CLOSEWAIT_REQUIRE_SHELLS=1`: then a missing `man` is a failure. Without that variable
//! the test says that it did not run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tests_support::engine::has_shell;

/// Returns the files of all pages.
fn pages() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/man");
    let pages: Vec<_> = fs::read_dir(folder).expect("pages").map(|file| file.expect("a page").path()).collect();
    assert!(!pages.is_empty(), "no pages");
    pages
}

/// Returns what `man` prints for a page, with all warnings of the formatter on standard error.
fn man(page: &Path) -> Output {
    let mut man = Command::new("man");
    man.args(["--warnings=w", "--local-file"]).arg(page);
    man.env("MANWIDTH", "80")
        .env("LC_ALL", "C.UTF-8")
        .env_remove("MANROFFSEQ")
        .env_remove("MANOPT")
        .output()
        .expect("man")
}

/// Whether `man` is there. In minimal images of Ubuntu it is a script that only tells how to get it.
fn has_man() -> bool {
    let version = Command::new("man").arg("--version").output();
    let is_there = version.is_ok_and(|version| version.status.success() && version.stdout.starts_with(b"man 2"));
    has_shell("man-db", is_there)
}

#[test]
fn man_shows_every_page_without_a_warning() {
    if !has_man() {
        return;
    }
    for page in pages() {
        let output = man(&page);
        let warnings = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && warnings.is_empty(), "{}: {warnings}", page.display());
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.contains("NAME") && text.contains("SEE ALSO"), "{text}");
        assert!(!text.contains('`') && !text.contains('\u{2018}'), "{}: a backtick is left: {text}", page.display());
    }
}

#[test]
fn a_mistake_in_a_page_is_a_warning() {
    if !has_man() {
        return;
    }
    let wrong = std::env::temp_dir().join(format!("closewait-wrong-{}.1", std::process::id()));
    fs::write(&wrong, ".TH WRONG 1\n.SH NAME\nwrong \\- page\n.nosuchmacro\n").expect("a page");
    let output = man(&wrong);
    fs::remove_file(&wrong).expect("a page");
    assert!(!output.stderr.is_empty(), "the test of the pages would not notice it");
}

#[test]
fn apropos_finds_the_name_and_the_description_of_every_page() {
    if !has_man() {
        return;
    }
    for page in pages() {
        let output = Command::new("lexgrog").arg(&page).output().expect("lexgrog is part of man-db");
        let (text, name) =
            (String::from_utf8_lossy(&output.stdout), page.file_stem().expect("a name").to_string_lossy());
        assert!(output.status.success() && text.contains(&format!("\"{name} - ")), "{}: {text}", page.display());
    }
}
