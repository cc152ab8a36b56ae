//! The kernels of the matrix: where Debian has them, and how they get into the target folder.

use std::collections::BTreeSet;

use crate::apt::{self, Apt};
use crate::prelude::*;

/// One kernel of the matrix.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The name that a user selects it by.
    pub(super) version: &'static str,
    /// Suites that have it, or have had it. Point releases move between them, and disappear.
    suites: &'static [&'static str],
    /// Names of its packages, with one `*`. The newest package that matches is taken.
    packages: &'static [&'static str],
    /// Beginning of a package that is preferred to newer ones while it can be had, for a bug that those do not have.
    unfixed: Option<&'static str>,
}

const fn kernel(
    version: &'static str,
    suites: &'static [&'static str],
    packages: &'static [&'static str],
    unfixed: Option<&'static str>,
) -> Kernel {
    Kernel { version, suites, packages, unfixed }
}

/// Oldest first. These are the kernels for virtual machines in the cloud, in which all that a boot without disks needs is
/// built in. What is unfixed in 6.18.15 is CVE-2026-74714: docs/kernel-safety.md.
pub(super) const KERNELS: [Kernel; 5] = [
    kernel("5.10", &["bullseye-security"], &["linux-image-5.10.0-*-cloud-amd64"], None),
    kernel("6.1", &["bookworm-security", "bookworm"], &["linux-image-6.1.0-*-cloud-amd64-unsigned"], None),
    kernel("6.12", &["trixie-security", "trixie"], &["linux-image-6.12.*-cloud-amd64-unsigned"], None),
    kernel("6.18", &["trixie-backports"], &["linux-image-6.18.*-cloud-amd64"], Some("linux-image-6.18.15+")),
    kernel("7.3", &["trixie-backports"], &["linux-binary-7.3.*-cloud-amd64", "linux-modules-7.3.*-cloud-amd64"], None),
];

/// Modules that the guest loads, in this order; some kernels have them built in.
pub(super) const MODULES: [&str; 3] = ["inet_diag", "tcp_diag", "unix_diag"];

/// The file to correct when Debian has renamed something.
const HERE: &str = "xtask/src/vm/kernels.rs";

impl Kernel {
    /// Returns the kernels with these versions, all without any, oldest first.
    pub(super) fn choose(versions: &[String]) -> Vec<&'static Self> {
        let wanted = |kernel: &&Self| versions.is_empty() || versions.iter().any(|version| version == kernel.version);
        KERNELS.iter().filter(wanted).collect()
    }

    /// The bootable image in the unpacked packages.
    pub(super) fn image(&self, dir: &Path) -> Result<PathBuf> {
        let image = self.find(dir, "vmlinuz*")?;
        image.with_context(|| format!("the packages of Linux {} have no vmlinuz; correct {HERE}", self.version))
    }

    /// The file of a module, if the kernel has it as one.
    pub(super) fn module(&self, dir: &Path, module: &str) -> Result<Option<PathBuf>> {
        self.find(dir, &format!("{module}.ko*"))
    }

    fn find(&self, dir: &Path, name: &str) -> Result<Option<PathBuf>> {
        let found = exec::quiet(Command::new("find").arg(self.folder(dir)).args(["-type", "f", "-name", name]))?;
        Ok(found.lines().next().map(PathBuf::from))
    }

    fn folder(&self, dir: &Path) -> PathBuf {
        dir.join(self.version)
    }

    /// Whether all of its packages are unpacked.
    fn is_present(&self, dir: &Path) -> bool {
        let entries = fs::read_dir(self.folder(dir)).into_iter().flatten();
        let names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        self.packages.iter().all(|package| names.iter().any(|name| matches(name, package)))
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
            let name = choose(&apt, package, kernel.unfixed)?;
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
fn choose(apt: &Apt, package: &str, preferred: Option<&str>) -> Result<Option<String>> {
    let names = apt.names(package.split('*').next().unwrap_or(package))?;
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

fn matches(name: &str, package: &str) -> bool {
    let middle = package.split_once('*').and_then(|(begin, end)| name.strip_prefix(begin)?.strip_suffix(end));
    middle.is_some_and(|middle| !middle.is_empty())
}

/// The numbers in a name, in which 46 comes after 9.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
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
        let package = "linux-image-6.12.*-cloud-amd64-unsigned";
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
        assert_eq!(Kernel::choose(&[]).len(), KERNELS.len());
        let some = Kernel::choose(&["7.3".to_owned(), "5.10".to_owned()]);
        assert_eq!(some.iter().map(|kernel| kernel.version).collect::<Vec<_>>(), ["5.10", "7.3"]);
    }
}
