//! The kernels of the matrix: where Debian has them, and how they get into the target folder.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt::{self, Apt},
    exec,
};

/// One kernel of the matrix.
#[derive(Debug)]
pub(super) struct Kernel {
    /// As one asks for it.
    pub(super) version: &'static str,
    /// Those that have it, or have had it. Point releases move between them, and disappear.
    suites: &'static [&'static str],
    /// Beginning and end of the names of its packages. Of each, the newest that matches is taken.
    packages: &'static [(&'static str, &'static str)],
    /// A version that is taken instead of the newest as long as it can be had, for a bug that later ones do not have.
    unfixed: Option<&'static str>,
}

/// Oldest first. Those for virtual machines in the cloud, which have all that a boot without disks needs built in.
pub(super) const KERNELS: [Kernel; 5] = [
    Kernel {
        version: "5.10",
        suites: &["bullseye-security"],
        packages: &[("linux-image-5.10.0-", "-cloud-amd64")],
        unfixed: None,
    },
    Kernel {
        version: "6.1",
        suites: &["bookworm-security", "bookworm"],
        packages: &[("linux-image-6.1.0-", "-cloud-amd64-unsigned")],
        unfixed: None,
    },
    Kernel {
        version: "6.12",
        suites: &["trixie-security", "trixie"],
        packages: &[("linux-image-6.12.", "-cloud-amd64-unsigned")],
        unfixed: None,
    },
    Kernel {
        version: "6.18",
        suites: &["trixie-backports"],
        packages: &[("linux-image-6.18.", "-cloud-amd64")],
        // CVE-2026-74714: docs/kernel-safety.md.
        unfixed: Some("linux-image-6.18.15+"),
    },
    Kernel {
        version: "7.3",
        suites: &["trixie-backports"],
        packages: &[("linux-binary-7.3.", "-cloud-amd64"), ("linux-modules-7.3.", "-cloud-amd64")],
        unfixed: None,
    },
];

/// Modules that the guest loads, in this order; some kernels have them built in.
pub(super) const MODULES: [&str; 3] = ["inet_diag", "tcp_diag", "unix_diag"];

impl Kernel {
    /// The kernels with these versions, all for none, oldest first.
    pub(super) fn choose(versions: &[String]) -> Result<Vec<&'static Self>> {
        if let Some(unknown) = versions.iter().find(|version| KERNELS.iter().all(|kernel| kernel.version != **version))
        {
            let known: Vec<_> = KERNELS.iter().map(|kernel| kernel.version).collect();
            bail!(
                "there is no kernel {unknown} in the matrix; choose of {}, or add it in xtask/src/vm/kernels.rs",
                known.join(", ")
            );
        }
        let wanted = |kernel: &&Self| versions.is_empty() || versions.iter().any(|version| version == kernel.version);
        Ok(KERNELS.iter().filter(wanted).collect())
    }

    /// The bootable image in the unpacked packages.
    pub(super) fn image(&self, dir: &Path) -> Result<PathBuf> {
        let found = find(&self.folder(dir), &|name| name.starts_with("vmlinuz"))?;
        found.into_iter().next().with_context(|| {
            format!(
                "the packages of Linux {} have no vmlinuz; correct their names in xtask/src/vm/kernels.rs",
                self.version
            )
        })
    }

    /// The file of a module, if the kernel has it as one.
    pub(super) fn module(&self, dir: &Path, module: &str) -> Result<Option<PathBuf>> {
        let is_it =
            |name: &str| name.strip_prefix(module).is_some_and(|rest| rest == ".ko" || rest.starts_with(".ko."));
        Ok(find(&self.folder(dir), &is_it)?.into_iter().next())
    }

    fn folder(&self, dir: &Path) -> PathBuf {
        dir.join(self.version)
    }

    /// Whether all of its packages are unpacked.
    fn is_present(&self, dir: &Path) -> bool {
        let Ok(entries) = fs::read_dir(self.folder(dir)) else { return false };
        let names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        self.packages.iter().all(|package| names.iter().any(|name| matches(name, *package)))
    }
}

/// Downloads and unpacks those that are not in `dir` yet. `work` is for apt's own files.
pub(super) fn bring(dir: &Path, work: &Path, kernels: &[&Kernel]) -> Result<()> {
    let missing: Vec<_> = kernels.iter().filter(|kernel| !kernel.is_present(dir)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let suites: BTreeSet<&str> = missing.iter().flat_map(|kernel| kernel.suites.iter().copied()).collect();
    let apt = Apt::new(work, &stanzas(&suites)?)?;
    apt.update().with_context(|| {
        format!(
            "cannot get the lists of {}; take a suite that has gone out of xtask/src/vm/kernels.rs",
            suites.iter().copied().collect::<Vec<_>>().join(", ")
        )
    })?;
    for kernel in missing {
        let start = exec::now();
        let folder = kernel.folder(dir);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}; is it yours?", folder.display()))?;
        for package in kernel.packages {
            let name = choose(&apt, *package, kernel.unfixed)?.with_context(|| {
                format!(
                    "no package {}*{} in {}; see with apt-cache what it is called by now, and correct \
                     xtask/src/vm/kernels.rs",
                    package.0,
                    package.1,
                    kernel.suites.join(", ")
                )
            })?;
            let deb = apt.download(&name)?;
            apt::extract(&deb, &folder.join(&name))?;
            fs::remove_file(&deb).with_context(|| format!("cannot remove {}; delete it", deb.display()))?;
            println!("vm: unpacked {name} ({:.1} s)", start.elapsed().as_secs_f64());
        }
    }
    Ok(())
}

/// The suites in apt's format, at the machine's own mirrors.
fn stanzas(suites: &BTreeSet<&str>) -> Result<String> {
    let (_codename, archives) = apt::release_archives()?;
    let (security, text) = (apt::security_archives()?, String::new());
    suites.iter().try_fold(text, |text, suite| {
        let archives = if suite.ends_with("-security") { &security } else { &archives };
        let archive = archives.first().with_context(|| {
            format!("apt's configuration names no archive that has {suite}; add the one with security updates to it")
        })?;
        Ok(format!("{text}{}\n", archive.stanza(suite)))
    })
}

/// The newest package whose name matches, of those that can be downloaded: apt also knows names that others depend on. One
/// with the beginning `preferred` is taken instead.
fn choose(apt: &Apt, package: (&str, &str), preferred: Option<&str>) -> Result<Option<String>> {
    let names = apt.names(package.0)?;
    for name in by_preference(names.lines().filter(|name| matches(name, package)), preferred) {
        if !apt.versions(name)?.trim().is_empty() {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// Names with the beginning `preferred` first, then the newest.
fn by_preference<'a>(names: impl Iterator<Item = &'a str>, preferred: Option<&str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_by_key(|name| (preferred.is_some_and(|beginning| name.starts_with(beginning)), numbers(name)));
    names.reverse();
    names
}

fn matches(name: &str, (beginning, end): (&str, &str)) -> bool {
    name.strip_prefix(beginning).and_then(|rest| rest.strip_suffix(end)).is_some_and(|middle| !middle.is_empty())
}

/// The numbers in a name, in which 46 comes after 9.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// All files below a folder whose names are wanted.
fn find(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(dir).with_context(|| format!("cannot list {}; delete it and try again", dir.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}; delete it and try again", dir.display()))?;
        let kind = entry.file_type().with_context(|| format!("cannot look at {}", entry.path().display()))?;
        if kind.is_dir() {
            found.extend(find(&entry.path(), wanted)?);
        } else if kind.is_file() && entry.file_name().to_str().is_some_and(wanted) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_the_one_with_the_highest_numbers() {
        let names = ["l-5.10.0-46-cloud", "l-5.10.0-9-cloud", "l-5.10.0-100-cloud"];
        let sorted = by_preference(names.into_iter(), None);
        assert_eq!(sorted, ["l-5.10.0-100-cloud", "l-5.10.0-46-cloud", "l-5.10.0-9-cloud"]);
    }

    #[test]
    fn an_unfixed_version_comes_before_newer_ones() {
        let names = ["l-6.18.45+deb13", "l-6.18.15+deb13", "l-6.18.150+deb13"];
        let sorted = by_preference(names.into_iter(), Some("l-6.18.15+"));
        assert_eq!(sorted, ["l-6.18.15+deb13", "l-6.18.150+deb13", "l-6.18.45+deb13"]);
    }

    #[test]
    fn variants_and_half_unpacked_packages_do_not_match() {
        let package = ("linux-image-6.12.", "-cloud-amd64-unsigned");
        assert!(matches("linux-image-6.12.118+deb13-cloud-amd64-unsigned", package));
        for other in [
            "linux-image-6.12.118+deb13-cloud-amd64",
            "linux-image-6.12.118+deb13-cloud-amd64-dbg",
            "linux-image-6.12.partial",
            "linux-image-6.12.-cloud-amd64-unsigned",
        ] {
            assert!(!matches(other, package), "{other}");
        }
    }

    #[test]
    fn all_are_chosen_unless_some_are_named_and_the_oldest_is_first() {
        assert_eq!(Kernel::choose(&[]).unwrap().len(), KERNELS.len());
        let some = Kernel::choose(&["7.3".to_owned(), "5.10".to_owned()]).unwrap();
        assert_eq!(some.iter().map(|kernel| kernel.version).collect::<Vec<_>>(), ["5.10", "7.3"]);
        let error = Kernel::choose(&["2.6".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("2.6") && error.contains("5.10, 6.1"), "{error}");
    }
}
