//! `cargo xtask tidy`: rules of the house that the compiler cannot check.
//!
//! The rules are tables: [`layers`] for what may use what, [`manifests`] for Cargo.toml, [`names`] for types, [`files`] for every
//! tracked text file, [`pages`] for Markdown, [`phrases`] for text that users see, [`workflow`] for CI. A rule that has to be broken is a rule to change
//! here, with its reason.

mod files;
mod layers;
mod manifests;
mod names;
mod pages;
mod phrases;
mod source;
mod workflow;

use std::{collections::BTreeMap, fmt};

use crate::prelude::*;

/// A line that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    file: String,
    /// 1 is the first.
    line: usize,
    /// What is forbidden there.
    what: String,
    why: &'static str,
    /// What to do.
    instead: &'static str,
}

impl Problem {
    fn new(file: &str, line: usize, what: String, why: &'static str, instead: &'static str) -> Self {
        Self { file: file.to_owned(), line, what, why, instead }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}; {}", self.file, self.line, self.what, self.why, self.instead)
    }
}

/// Text files of the repository by path, in order.
type Files = BTreeMap<String, String>;

/// Checks everything and reports all that is wrong at once.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let files = read_files(workspace)?;
    let mut problems = layers::check(&files)?;
    problems.extend(manifests::check(&files));
    problems.extend(files::check(&files));
    problems.extend(names::check(&files)?);
    problems.extend(pages::check(&files));
    problems.extend(phrases::check(&files)?);
    problems.extend(workflow::check(&files));
    problems.sort();
    for problem in &problems {
        eprintln!("{problem}");
    }
    let count = problems.len();
    ensure!(count == 0, "{count} lines break a rule; each message above ends with what to do");
    Ok(())
}

/// What git tracks or would: a new file counts before it is added.
fn read_files(workspace: &Workspace) -> Result<Files> {
    let list = exec::output(
        Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&workspace.root),
    )
    .context("tidy checks the files that git knows; run it in a clone")?;
    let mut files = Files::new();
    for name in list.split_terminator('\0') {
        let path = workspace.root.join(name);
        // Git lists what is deleted but not committed yet, and links to folders.
        if path.is_file() {
            // Recordings and the like are not text, and no rule is about them.
            if let Ok(text) = String::from_utf8(fs::read(&path)?) {
                files.insert(name.to_owned(), text);
            }
        }
    }
    Ok(files)
}
