//! The kernels of the matrix: where Debian has them, and how they get into the target folder.

use std::collections::BTreeSet;

use super::apt::Apt;
use crate::{dist::Arch, prelude::*};

/// One kernel of the matrix.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The name that a user selects it by.
    pub(super) version: &'static str,
    /// Suites that have it, or have had it. Point releases move between them, and disappear.
    suites: &'static [&'static str],
    /// Regular expressions for its packages. The newest package that matches is taken.
    packages: &'static [&'static str],
    /// Beginning of a package that is preferred to newer ones while Debian has it, for CVE-2026-74714, which those do not have.
    unfixed: Option<&'static str>,
    /// The first version of the series without that bug. `None`: no version of the series has it.
    fixed_in: Option<&'static str>,
}

const fn kernel(
    version: &'static str,
    suites: &'static [&'static str],
    packages: &'static [&'static str],
    unfixed: Option<&'static str>,
    fixed_in: Option<&'static str>,
) -> Kernel {
    Kernel { version, suites, packages, unfixed, fixed_in }
}

/// Kernels of x86_64, oldest first. These are the kernels for virtual machines in the cloud, in which all that a boot without
/// disks needs is built in. docs/kernel-safety.md describes CVE-2026-74714, which versions from 5.15 to 7.1.8 have.
const X86_64: [Kernel; 5] = [
    kernel("5.10", &["bullseye-security"], &["^linux-image-5.10.0-[0-9]+-cloud-amd64$"], None, None),
    kernel(
        "6.1",
        &["bookworm-security", "bookworm"],
        &["^linux-image-6.1.0-[0-9]+-cloud-amd64-unsigned$"],
        None,
        Some("6.1.183"),
    ),
    kernel(
        "6.12",
        &["trixie-security", "trixie"],
        &["^linux-image-6.12.*-cloud-amd64-unsigned$"],
        None,
        Some("6.12.104"),
    ),
    kernel(
        "6.18",
        &["trixie-backports"],
        &["^linux-image-6.18.*-cloud-amd64$"],
        Some("linux-image-6.18.15+"),
        Some("6.18.45"),
    ),
    kernel(
        "7.3",
        &["trixie-backports"],
        &["^linux-binary-7.3.*-cloud-amd64$", "^linux-modules-7.3.*-cloud-amd64$"],
        None,
        None,
    ),
];

/// Kernels of aarch64, oldest first. The last one has pages of 16 KiB; Debian has no such kernel for the cloud, and none with
/// pages of 64 KiB. Of 5.10, the archive has the point releases only: the packages of the security updates are listed, and gone.
const AARCH64: [Kernel; 5] = [
    kernel("5.10", &["bullseye"], &["^linux-image-5.10.0-[0-9]+-cloud-arm64-unsigned$"], None, None),
    kernel(
        "6.1",
        &["bookworm-security", "bookworm"],
        &["^linux-image-6.1.0-[0-9]+-cloud-arm64-unsigned$"],
        None,
        Some("6.1.183"),
    ),
    kernel(
        "6.18",
        &["trixie-backports"],
        &["^linux-image-6.18.*-cloud-arm64$"],
        Some("linux-image-6.18.15+"),
        Some("6.18.45"),
    ),
    kernel(
        "7.3",
        &["trixie-backports"],
        &["^linux-binary-7.3.*-cloud-arm64$", "^linux-modules-7.3.*-cloud-arm64$"],
        None,
        None,
    ),
    kernel(
        "7.3-16k",
        &["trixie-backports"],
        &["^linux-binary-7.3.*-arm64-16k$", "^linux-modules-7.3.*-arm64-16k$"],
        None,
        None,
    ),
];

/// Modules that the guest loads, in this order; some kernels have them built in.
pub(super) const MODULES: [&str; 3] = ["inet_diag", "tcp_diag", "unix_diag"];

/// The file to correct when Debian has renamed something.
const HERE: &str = "xtask/src/vm/kernels.rs";

impl Kernel {
    /// Returns all kernels of an architecture, oldest first.
    pub(super) const fn matrix(arch: Arch) -> &'static [Self] {
        match arch {
            Arch::X86_64 => &X86_64,
            Arch::Aarch64 => &AARCH64,
        }
    }

    /// Returns the names of the kernels of all architectures, each once.
    pub(super) fn versions() -> BTreeSet<&'static str> {
        X86_64.iter().chain(&AARCH64).map(|kernel| kernel.version).collect()
    }

    /// Returns the kernels of an architecture with these versions, all without any, oldest first.
    pub(super) fn choose(arch: Arch, versions: &[String]) -> Result<Vec<&'static Self>> {
        let matrix = Self::matrix(arch);
        if let Some(unknown) = versions.iter().find(|version| matrix.iter().all(|kernel| kernel.version != **version)) {
            let known: Vec<_> = matrix.iter().map(|kernel| kernel.version).collect();
            bail!("there is no Linux {unknown} for {}\nhint: choose from {}", arch.name(), known.join(", "));
        }
        let wanted = |kernel: &&Self| versions.is_empty() || versions.iter().any(|version| version == kernel.version);
        Ok(matrix.iter().filter(wanted).collect())
    }

    /// Returns the index in the matrix of the kernel that names itself like this in `uname -r`. `None`: it has none of that series.
    pub(super) fn place(arch: Arch, release: &str) -> Option<usize> {
        let is_like = |kernel: &Self| {
            let (series, flavor) = kernel.version.split_once('-').unwrap_or((kernel.version, ""));
            release.strip_prefix(series).is_some_and(|rest| rest.starts_with('.')) && release.ends_with(flavor)
        };
        let places = Self::matrix(arch).iter().enumerate().filter(|(_, kernel)| is_like(kernel));
        // The one with a flavor is more like it than the one without.
        places.max_by_key(|(_, kernel)| kernel.version.len()).map(|(place, _)| place)
    }

    /// Whether the kernel frees sockets that are in use (`bpf_iter_tcp_established_batch` in net/ipv4/tcp_ipv4.c), by the version
    /// that Debian names in `uname -v`: `#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-11-01)`. `None`: it names none.
    pub(super) fn has_broken_iterator(&self, build: &str) -> Option<bool> {
        let version = build.split_once("Debian ")?.1.split(['-', '~', '+']).next()?;
        Some(self.fixed_in.is_some_and(|fixed| numbers(version) < numbers(fixed)))
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
        let entries = fs::read_dir(self.folder(dir)).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension() != Some("partial".as_ref())).count() >= self.packages.len()
    }
}

/// Downloads and unpacks the kernels that are not in `dir` yet. `work` is for apt's own files.
pub(super) fn download(dir: &Path, work: &Path, arch: Arch, kernels: &[&Kernel]) -> Result<()> {
    let missing: Vec<_> = kernels.iter().filter(|kernel| !kernel.is_present(dir)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let suites: BTreeSet<&str> = missing.iter().flat_map(|kernel| kernel.suites.iter().copied()).collect();
    let suites = Vec::from_iter(suites);
    let apt = Apt::new(work, arch, &suites)?;
    apt.update()
        .with_context(|| format!("cannot get the lists of {suites:?}; remove a suite that is gone from {HERE}"))?;
    for kernel in missing {
        let folder = kernel.folder(dir);
        // Packages of two versions do not fit together.
        exec::remove_dir(&folder)?;
        fs::create_dir_all(&folder)?;
        for package in kernel.packages {
            let start = exec::now();
            let name = preferred(apt.search(package)?, kernel.unfixed);
            let name =
                name.with_context(|| format!("no package {package:?} in {:?}; correct {HERE}", kernel.suites))?;
            apt.unpack(&name, &folder.join(&name))?;
            println!("vm: unpacked {name} ({:.1} s)", start.elapsed().as_secs_f64());
        }
    }
    Ok(())
}

/// Returns the name with the beginning `unfixed`, else the newest: in version numbers, 46 comes after 9.
fn preferred(names: Vec<String>, unfixed: Option<&str>) -> Option<String> {
    names.into_iter().max_by_key(|name| (unfixed.is_some_and(|beginning| name.starts_with(beginning)), numbers(name)))
}

fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_iterator_is_broken_before_the_fix_of_its_series() {
        let broken = |kernel: usize, version| {
            X86_64[kernel].has_broken_iterator(&format!("#1 SMP PREEMPT_DYNAMIC Debian {version}~bpo13+1 (2026-03-01)"))
        };
        assert_eq!([broken(0, "5.10.262-1"), broken(4, "7.3.4-1")], [Some(false); 2]);
        assert_eq!([broken(1, "6.1.182-1"), broken(1, "6.1.183-1")], [Some(true), Some(false)]);
        assert_eq!([broken(3, "6.18.9-1"), broken(3, "6.18.45-1")], [Some(true), Some(false)]);
        assert_eq!(X86_64[1].has_broken_iterator("#1 SMP PREEMPT_DYNAMIC @0"), None);
    }

    #[test]
    fn an_unfixed_version_comes_before_newer_ones_and_the_newest_has_the_highest_numbers() {
        let preferred = |names: [&str; 3], unfixed| preferred(names.map(str::to_owned).into(), unfixed).unwrap();
        assert_eq!(
            preferred(["l-5.10.0-46-cloud", "l-5.10.0-100-cloud", "l-5.10.0-9-cloud"], None),
            "l-5.10.0-100-cloud"
        );
        let names = ["l-6.18.45+deb13", "l-6.18.15+deb13", "l-6.18.150+deb13"];
        assert_eq!(preferred(names, Some("l-6.18.15+")), "l-6.18.15+deb13");
    }

    #[test]
    fn all_are_chosen_unless_some_are_named_and_the_oldest_is_first() {
        let chosen = |arch, versions: &[&str]| -> Result<Vec<_>> {
            let versions: Vec<_> = versions.iter().map(|version| (*version).to_owned()).collect();
            Ok(Kernel::choose(arch, &versions)?.into_iter().map(|kernel| kernel.version).collect())
        };
        assert_eq!(chosen(Arch::X86_64, &[]).unwrap().len(), X86_64.len());
        assert_eq!(chosen(Arch::X86_64, &["7.3", "5.10"]).unwrap(), ["5.10", "7.3"]);
        assert_eq!(chosen(Arch::Aarch64, &["7.3-16k", "6.1"]).unwrap(), ["6.1", "7.3-16k"]);
        let error = chosen(Arch::X86_64, &["5.10", "7.3-16k"]).unwrap_err().to_string();
        assert!(error.contains("no Linux 7.3-16k for x86_64\nhint: choose from 5.10, 6.1,"), "{error}");
    }

    #[test]
    fn a_release_has_the_place_of_its_series_and_flavor() {
        let places = ["5.10.0-32-cloud-arm64", "7.3.4+deb13-cloud-arm64", "7.3.4+deb13-arm64-16k", "7.30.1", "7.3"];
        assert_eq!(
            places.map(|release| Kernel::place(Arch::Aarch64, release)),
            [Some(0), Some(3), Some(4), None, None]
        );
    }

    #[test]
    fn each_kernel_of_an_architecture_has_packages_of_its_own() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let matrix = Kernel::matrix(arch);
            let packages: BTreeSet<_> = matrix.iter().flat_map(|kernel| kernel.packages).collect();
            assert_eq!(packages.len(), matrix.iter().map(|kernel| kernel.packages.len()).sum::<usize>());
            let of_it = |package: &str| package.contains(arch.debian_name());
            assert!(packages.iter().all(|package| of_it(package)), "{packages:?}");
        }
    }
}
