//! The kernels of the matrix: where Debian has them, and how they get into the target folder.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use fs_err as fs;

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

/// The file to correct when Debian has renamed something.
const HERE: &str = "xtask/src/vm/kernels.rs";

impl Kernel {
    /// Returns the kernels with these versions, all without any, oldest first.
    pub(super) fn choose(versions: &[String]) -> Result<Vec<&'static Self>> {
        let known = KERNELS.each_ref().map(|kernel| kernel.version);
        if let Some(unknown) = versions.iter().find(|version| !known.contains(&version.as_str())) {
            let known = known.join(", ");
            anyhow::bail!("there is no kernel {unknown} in the matrix; choose of {known}, or add it in {HERE}");
        }
        let wanted = |kernel: &&Self| versions.is_empty() || versions.iter().any(|version| version == kernel.version);
        Ok(KERNELS.iter().filter(wanted).collect())
    }

    /// The bootable image in the unpacked packages.
    pub(super) fn image(&self, dir: &Path) -> Result<PathBuf> {
        let found = find(&self.folder(dir), &|name| name.starts_with("vmlinuz"))?;
        found.with_context(|| format!("the packages of Linux {} have no vmlinuz; correct {HERE}", self.version))
    }

    /// The file of a module, if the kernel has it as one.
    pub(super) fn module(&self, dir: &Path, module: &str) -> Result<Option<PathBuf>> {
        let is_module = |rest: &str| rest == ".ko" || rest.starts_with(".ko.");
        find(&self.folder(dir), &|name| name.strip_prefix(module).is_some_and(is_module))
    }

    fn folder(&self, dir: &Path) -> PathBuf {
        dir.join(self.version)
    }

    /// Whether all of its packages are unpacked.
    fn is_present(&self, dir: &Path) -> bool {
        let entries = fs::read_dir(self.folder(dir)).into_iter().flatten();
        let names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        self.packages.iter().all(|package| names.iter().any(|name| matches(name, *package)))
    }
}

/// Downloads and unpacks the kernels that are not in `dir` yet. `work` is for apt's own files.
pub(super) fn bring(dir: &Path, work: &Path, kernels: &[&Kernel]) -> Result<()> {
    let missing: Vec<_> = kernels.iter().filter(|kernel| !kernel.is_present(dir)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let suites: BTreeSet<&str> = missing.iter().flat_map(|kernel| kernel.suites.iter().copied()).collect();
    let apt = Apt::new(work, &stanzas(&suites)?)?;
    apt.update()
        .with_context(|| format!("cannot get the lists of {suites:?}; remove a suite that is gone from {HERE}"))?;
    for kernel in missing {
        let start = exec::now();
        fs::create_dir_all(kernel.folder(dir))?;
        for package in kernel.packages {
            let name = choose(&apt, *package, kernel.unfixed)?;
            let name =
                name.with_context(|| format!("no package {package:?} in {:?}; correct {HERE}", kernel.suites))?;
            apt.unpack(&name, &kernel.folder(dir).join(&name))?;
            println!("vm: unpacked {name} ({:.1} s)", start.elapsed().as_secs_f64());
        }
    }
    Ok(())
}

/// The suites in apt's format, at the machine's own mirrors.
fn stanzas(suites: &BTreeSet<&str>) -> Result<String> {
    let ((_codename, archives), security) = (apt::release_archives()?, apt::security_archives()?);
    let stanza = |suite: &&str| {
        let archive = if suite.ends_with("-security") { security.first() } else { archives.first() };
        let archive =
            archive.with_context(|| format!("apt's configuration names no archive that has {suite}; add it"))?;
        Ok(archive.stanza(suite) + "\n")
    };
    suites.iter().map(stanza).collect()
}

/// Returns the newest package whose name matches and that can be downloaded: apt also knows names that others depend on. A
/// name with the beginning `preferred` comes first.
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

/// The first file below a folder whose name is wanted.
fn find(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let (entry, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
        let found = match entry? {
            kind if kind.is_dir() => find(&path, wanted)?,
            kind if kind.is_file() && path.file_name().and_then(|name| name.to_str()).is_some_and(wanted) => Some(path),
            _ => None,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
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
