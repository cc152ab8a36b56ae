//! Lists of files: what a system has before and after, and what the packages of the formats have.

use std::collections::BTreeSet;

use super::{Format, lifecycle, versions};
use crate::package::contents;
use crate::prelude::*;

/// Folders in which a running system and its package managers keep records. Nothing with the name of closewait may stay there either.
const STATE: [&str; 8] = [
    "var/cache/",
    "var/lib/apt/",
    "var/lib/dpkg/",
    "var/lib/pacman/",
    "var/lib/rpm/",
    "var/lib/systemd/",
    "var/log/",
    "var/tmp/",
];

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

/// Checks the paths after a removal against those before the installation, and returns what is left that may be.
pub(super) fn left(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Result<String> {
    let may_change = |path: &&String| !path.contains("closewait") && STATE.iter().any(|state| path.starts_with(state));
    let (mut left, mut wrong) = (Vec::new(), Vec::new());
    for path in after.difference(before) {
        (if may_change(&path) { &mut left } else { &mut wrong }).push(path.as_str());
    }
    ensure!(wrong.is_empty(), "the removal has left {}", wrong.join(", "));
    let gone: Vec<_> = before.difference(after).filter(|path| !may_change(path)).map(String::as_str).collect();
    ensure!(gone.is_empty(), "the removal has taken what the package has not brought: {}", gone.join(", "));
    Ok(if left.is_empty() { "nothing".to_owned() } else { left.join(", ") })
}

/// Compares paths, permissions and owners in each package with contrib/package/nfpm.yaml. `root` has the programs that list them.
pub(super) fn compare(workspace: &Workspace, root: &Path, dir: &Path) -> Result<()> {
    let wanted = contents::read(&workspace.root)?;
    for format in Format::ALL {
        let wanted: BTreeSet<_> = wanted
            .iter()
            .filter(|file| file.is_in(format.name()))
            .map(|file| format!("{} 0/0 {}", permissions(file.mode), file.destination))
            .collect();
        let package = versions(dir, format)?.first;
        let name = package.file_name().context("a package has no name")?;
        fs::copy(&package, root.join("opt").join(name))?;
        let inside = format!("/opt/{}", name.display());
        let printed = exec::quiet(lifecycle::without_init(root)?.args(["sh", "-c", listing(format), "sh", &inside]))?;
        let listed: BTreeSet<_> = printed.lines().filter_map(files).collect();
        for line in listed.symmetric_difference(&wanted) {
            println!("  {}: {line}", format.name());
        }
        ensure!(listed == wanted, "the {} package has not the files of contrib/package/nfpm.yaml", format.name());
        println!("  {}: {} files as in contrib/package/nfpm.yaml", format.name(), listed.len());
    }
    println!("  not tried: the scripts of the apk, because Debian has no apk");
    Ok(())
}

/// A script that lists the content of the package `$1`.
fn listing(format: Format) -> &'static str {
    match format {
        Format::Deb => "dpkg-deb --fsys-tarfile \"$1\" | tar --list --verbose --numeric-owner",
        Format::Rpm => {
            "rpm --query --package --queryformat '[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} 0 0 0 %{FILENAMES}\\n]' \"$1\""
        }
        // Several archives, one after the other.
        Format::Apk => "tar --list --verbose --numeric-owner --gzip --ignore-zeros --file \"$1\"",
        Format::Archlinux => "tar --list --verbose --numeric-owner --zstd --file \"$1\"",
    }
}

/// Rewrites a line of `tar --list --verbose` for a regular file; `None`: something else, or a file that only describes the package.
fn files(line: &str) -> Option<String> {
    let mut fields = line.split_whitespace();
    let (permissions, owner) = (fields.next()?, fields.next()?);
    let path = fields.nth(3)?;
    let path = path.strip_prefix("./").or_else(|| path.strip_prefix('/')).unwrap_or(path);
    let regular = permissions.starts_with('-') && !path.starts_with('.');
    // rpm keeps names only.
    let owner = if owner == "root/root" { "0/0" } else { owner };
    regular.then(|| format!("{permissions} {owner} /{path}"))
}

/// Permissions of a regular file, as `ls` shows them.
fn permissions(mode: u32) -> String {
    let flag = |(at, letter): (u32, char)| if mode & 0o400 >> at == 0 { '-' } else { letter };
    std::iter::once('-').chain((0..9).zip("rwxrwxrwx".chars()).map(flag)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(paths: &[&str]) -> BTreeSet<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn a_removal_may_leave_records_of_the_system_only() {
        let before = set(&["etc/passwd", "var/log"]);
        assert_eq!(left(&before, &before).unwrap(), "nothing");
        assert_eq!(left(&before, &set(&["etc/passwd", "var/log", "var/log/dpkg.log"])).unwrap(), "var/log/dpkg.log");
        let kept = left(&before, &set(&["etc/passwd", "etc/closewait", "var/log"])).unwrap_err().to_string();
        assert_eq!(kept, "the removal has left etc/closewait");
        assert!(left(&before, &set(&["etc/passwd", "var/log", "var/lib/dpkg/info/closewait.list"])).is_err());
        assert!(left(&before, &set(&["var/log"])).unwrap_err().to_string().contains("etc/passwd"));
    }

    #[test]
    fn lines_of_all_listings_become_the_same() {
        let line = "-rwxr-xr-x 0/0 /usr/bin/closewait";
        for listed in [
            "-rwxr-xr-x 0/0  18999136 2026-11-27 22:21 ./usr/bin/closewait",
            "-rwxr-xr-x 0/0  18999136 2026-11-27 22:21 usr/bin/closewait",
            "-rwxr-xr-x root/root 0 0 0 /usr/bin/closewait",
        ] {
            assert_eq!(files(listed).as_deref(), Some(line));
        }
        assert_eq!(files("drwxr-xr-x root/root 0 2026-11-27 22:21 ./usr/"), None);
        assert_eq!(files("-rw-r--r-- root/root 0 2026-11-27 22:21 .PKGINFO"), None);
        assert_eq!((permissions(0o755), permissions(0o640)), ("-rwxr-xr-x".to_owned(), "-rw-r-----".to_owned()));
    }
}
