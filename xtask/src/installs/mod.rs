//! `cargo xtask installs`: the native packages in clean systems, each booted in a container of systemd-nspawn.
//!
//! Debian 11, 12 and 13 get the Debian package. `foreign` is Debian 13 with rpm and pacman, which install the other packages with
//! their scripts. The Alpine package is only listed: Debian has no apk.

mod lifecycle;
mod lists;
mod roots;

use std::{collections::BTreeSet, env, ffi::OsString};

use crate::dist::Arch;
use crate::package::{self, Release, native::Format, native::Nfpm};
use crate::prelude::*;
use crate::root;
use lifecycle::Manager;
use roots::Root;

#[derive(Args)]
pub(crate) struct Options {
    /// Systems to install in, one after the other [default: all]
    #[arg(value_name = "SYSTEM")]
    roots: Vec<Root>,
    /// Build nothing: take the files of an earlier `cargo xtask dist` from DIR/ARCH, as in target/static
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
}

/// The same package in two versions.
pub(crate) struct Versions {
    first: PathBuf,
    second: PathBuf,
}

/// Makes the packages, then tries them as root.
pub(crate) fn run(workspace: &Workspace, binary: Option<&Path>, options: &Options) -> Result<()> {
    let dir = workspace.target.join("installs");
    let mut wanted: BTreeSet<_> = options.roots.iter().copied().collect();
    if wanted.is_empty() {
        wanted.extend(Root::ALL);
    }
    if binary.is_none() {
        root::install(workspace, "package")?;
        root::install(workspace, "installs")?;
        let arch = Arch::of_this_machine()?;
        let built = package::binaries(workspace, arch, options.binaries.as_deref())?;
        make(workspace, arch, &built.binary, &dir, &wanted)?;
        let binary = ["--binary".into(), built.binary.into()];
        let args: Vec<OsString> = env::args_os().skip(1).chain(binary).collect();
        return root::become_program(&exec::this()?, &args, "installing packages in containers");
    }
    for system in wanted {
        let began = exec::now();
        println!("{}", system.description());
        for manager in system.managers() {
            let root = system.unpack(&dir)?;
            let versions = versions(&dir, manager.format())?;
            let tried = lifecycle::run(&root, &dir.join(format!("{}.log", system.name())), *manager, &versions);
            // A failed run leaves its system for a look at it.
            tried.with_context(|| format!("{}, in {}", manager.name(), root.display()))?;
            exec::remove_dir(&root)?;
        }
        if system == Root::Foreign {
            lists::compare(workspace, &system.unpack(&dir)?, &dir)?;
        }
        println!("{}: {:.0} s\n", system.name(), began.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Makes the packages for these systems in two versions, in `first` and `second`.
fn make(workspace: &Workspace, arch: Arch, binary: &Path, dir: &Path, wanted: &BTreeSet<Root>) -> Result<()> {
    let formats = if wanted.contains(&Root::Foreign) { &Format::ALL[..] } else { &[Format::Deb] };
    let release = Release::of(workspace)?;
    let nfpm = Nfpm::install(workspace, &release)?;
    for (folder, release) in [("first", &release), ("second", &release.next()?)] {
        let dir = dir.join(folder);
        exec::remove_dir(&dir)?;
        fs::create_dir_all(&dir)?;
        for format in formats {
            nfpm.package(release, (*format, arch), binary, &dir)?;
        }
    }
    Ok(())
}

/// Finds both versions of a package.
fn versions(dir: &Path, format: Format) -> Result<Versions> {
    let find = |folder: &str| {
        let mut files = fs::read_dir(dir.join(folder))?.collect::<Result<Vec<_>, _>>()?.into_iter();
        let of_format = |file: &fs::DirEntry| file.file_name().to_string_lossy().ends_with(format.suffix());
        let file = files.find(of_format).with_context(|| format!("there is no {} in {folder}", format.suffix()))?;
        Ok::<_, anyhow::Error>(file.path())
    };
    Ok(Versions { first: find("first")?, second: find("second")? })
}
