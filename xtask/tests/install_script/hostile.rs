//! Servers and archives that want to do harm, and those that are simply not what they should be.

use std::{fs, process::Command};

use tar::EntryType;

use crate::release::{ArchiveEntry, Release, find, text};

/// Program of a good release.
const GOOD: &str = "echo closewait 7.8.9";

#[test]
fn a_changed_archive_is_refused() {
    let release = Release::new("changed");
    let mut bytes = fs::read(release.archive()).unwrap();
    bytes.push(0);
    fs::write(release.archive(), bytes).unwrap();
    release.refuses(&["--yes"], "the checksum of closewait-");
}

#[test]
fn what_is_no_release_is_refused() {
    let release = Release::new("none");
    release.refuses(&["--yes", "--version", "7.8.8"], "has version 7.8.9, and not 7.8.8");
    release.refuses(&["--yes", "--version", "../x"], "is no version");
    release.refuses(&["--yes", "--key"], "--key has no value");
    let other = format!("{}  closewait-7.8.9-linux-other.tar.gz\n", "0".repeat(64));
    fs::write(release.sums(), other).unwrap();
    release.refuses(&["--yes"], "SHA256SUMS names no archive for ");
    fs::remove_file(release.sums()).unwrap();
    release.refuses(&["--yes"], "cannot download file://");
}

#[test]
fn a_page_in_the_place_of_checksums_is_called_that() {
    let release = Release::new("page");
    let good = fs::read_to_string(release.sums()).unwrap();
    for page in [
        format!("<!DOCTYPE html><title>\u{1b}[2JLog in</title>\n{good}"),
        format!("SHA256 (closewait) = 0\n{good}"),
        format!("{good}{}  a\u{1b}[2J.tar.gz\n", "0".repeat(64)),
        good.replace('\n', "\r\n"),
        good.replace(".tar.gz", "/../../x.tar.gz"),
        String::new(),
    ] {
        fs::write(release.sums(), page).unwrap();
        release.refuses(&["--yes"], "SHA256SUMS is not a list of checksums");
    }
}

#[test]
fn an_archive_has_only_files_with_harmless_names() {
    let release = Release::new("names");
    let regular = |name| (name, EntryType::Regular, "x".to_owned(), 0o644);
    let refused: [ArchiveEntry; 10] = [
        regular("share/a\u{1b}[2J"),
        regular("share/a\nb"),
        regular("share/a b"),
        regular("share/*"),
        regular("share/\u{fc}"),
        regular("share/../../../x"),
        regular("/tmp/closewait-x"),
        ("share/link", EntryType::Symlink, "/etc".to_owned(), 0o777),
        ("share/link", EntryType::Link, "/etc/passwd".to_owned(), 0o644),
        ("share/pipe", EntryType::Fifo, String::new(), 0o644),
    ];
    for entry in refused {
        release.pack(GOOD, std::slice::from_ref(&entry));
        let output = release.install(&["--yes"]);
        let reason = if entry.1 == EntryType::Regular { "has names that no" } else { "which no release has" };
        release.has_refused(&output, reason);
        // Another tar, find and grep.
        if let Some(output) = release.install_with_busybox() {
            release.has_refused(&output, "no release has");
        }
        assert!(!release.has_run(), "{entry:?}");
    }
    let own = format!("{}/bin/closewait", release.folder());
    release.pack(GOOD, &[("share/own", EntryType::Link, own, 0o644)]);
    release.refuses(&["--yes"], "which no release has");
    if let Some(output) = release.install_with_busybox() {
        release.has_refused(&output, "no release has");
        release.pack(GOOD, &[]);
        let output = release.install_with_busybox().unwrap();
        assert!(output.status.success() && release.has_run(), "{}", text(&output.stderr));
    }
}

#[test]
fn a_key_that_is_not_there_is_wrong_usage() {
    let release = Release::new("nokey");
    let output = release.install(&["--yes", "--key", "/nonexistent.pub"]);
    release.has_refused(&output, "cannot read the key /nonexistent.pub");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("hint: it is contrib/install/closewait.pub in the repository"));
}

#[test]
fn a_signature_of_another_key_is_refused() {
    let release = Release::new("key");
    if !tests_support::engine::has_engine("minisign", find("minisign").is_some()) {
        return;
    }
    let key = |name: &str| release.0.join(name).display().to_string();
    let minisign = |arguments: &[&str]| {
        let output = Command::new("minisign").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    };
    for name in ["ours", "other"] {
        minisign(&["-G", "-W", "-p", &key(name), "-s", &key(&format!("{name}.secret"))]);
    }
    let sums = key("files/SHA256SUMS");
    let unsigned = release.install(&["--yes", "--key", &key("ours")]);
    release.has_refused(&unsigned, "cannot download");
    assert!(text(&unsigned.stderr).contains("hint: without a signature, there is nothing to compare"));
    minisign(&["-S", "-m", &sums, "-s", &key("ours.secret")]);
    release.refuses(&["--yes", "--key", &key("other")], "is not signed with the key");
    let output = release.install(&["--yes", "--key", &key("ours")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("and signed with "));
}
