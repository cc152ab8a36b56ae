//! The standard library's source, where cargo's `-Z build-std` looks for it.

use std::os::unix::fs::symlink;

use super::{Toolchain, step};
use crate::apt::Apt;
use crate::prelude::*;

/// Seconds for rustup: a component of a few megabytes takes longer only on a network that does not answer.
const RUSTUP_LIMIT: &str = "60";
/// Suites that may have the source of a released compiler. Older ones have none that can build closewait.
const SUITES: [&str; 4] = ["trixie-backports", "forky-backports", "forky", "sid"];

/// Puts the source in place: with rustup, else from Debian's package.
pub(super) fn install(dir: &Path, toolchain: &Toolchain, place: &Path) -> Result<()> {
    let release = toolchain.value("release")?;
    // rustup knows a toolchain by the name of its folder.
    let name = toolchain.sysroot.file_name().context("`rustc --print sysroot` names no folder; is rustc installed?")?;
    let mut rustup = Command::new("timeout");
    rustup.args([RUSTUP_LIMIT, "rustup", "component", "add", "rust-src", "--toolchain"]).arg(name);
    if exec::which("rustup").is_some() && step("rustup component add rust-src", || exec::quiet(&mut rustup)).is_ok() {
        return Ok(());
    }
    let unpacked = dir.join("rust-src");
    step(&format!("unpack Debian's rust-src {release}"), || unpack(&dir.join("apt"), release, &unpacked))
        .with_context(|| {
            format!(
                "no source of the standard library for rustc {release}\nhint: where rustup can download, run\n    \
                 rustup component add rust-src\nor copy the folder `library` of that release into {}",
                place.display()
            )
        })?;
    let folder = unpacked.join("usr/src").join(format!("rustc-{release}"));
    let parent = place.parent().context("the toolchain's folder has no parent; check `rustc --print sysroot`")?;
    fs::create_dir_all(parent)?;
    symlink(&folder, place).with_context(|| {
        let (folder, place) = (folder.display(), place.display());
        format!(
            "cannot change the toolchain's folder\nhint: run this as its owner:\n    ln -sfn '{folder}' '{place}'\n"
        )
    })
}

/// Removes the link to the source of another release: it outlives an update of the toolchain in the same folder.
pub(super) fn remove_outdated_link(toolchain: &Toolchain) -> Result<()> {
    let place = toolchain.sysroot.join("lib/rustlib/src/rust");
    let folder = format!("rustc-{}", toolchain.value("release")?);
    match fs::read_link(&place) {
        Ok(to) if !to.ends_with(&folder) || !to.is_dir() => Ok(fs::remove_file(&place)?),
        _ => Ok(()),
    }
}

/// Downloads the package whose upstream version is that of the compiler, and unpacks it.
fn unpack(work: &Path, release: &str, into: &Path) -> Result<()> {
    let apt = Apt::new(work, &SUITES)?;
    // The mirror need not have every suite.
    let updated = apt.update();
    let madison = apt.versions("rust-src")?;
    let mut versions = madison.lines().filter_map(|line| Some(line.split('|').nth(1)?.trim()));
    let Some(version) = versions.find(|version| is_of(version, release)) else {
        updated?;
        bail!("Debian has no rust-src {release} in {SUITES:?}");
    };
    apt.unpack(&format!("rust-src={version}"), into)?;
    exec::remove_dir(work)
}

/// Returns whether `1.95.0+dfsg1-2~bpo13+1` is a package of 1.95.0.
fn is_of(version: &str, release: &str) -> bool {
    version.split(['+', '-', '~']).next() == Some(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_link_to_another_release_or_to_nothing_is_removed() {
        exec::with_scratch("link", |sysroot| {
            let toolchain = Toolchain { version: "release: 1.95.0\n".to_owned(), sysroot: sysroot.to_owned() };
            let place = sysroot.join("lib/rustlib/src/rust");
            fs::create_dir_all(place.parent().unwrap())?;
            for (folder, exists, stays) in
                [("rustc-1.94.0", true, false), ("rustc-1.95.0", false, false), ("new/rustc-1.95.0", true, true)]
            {
                if exists {
                    fs::create_dir_all(sysroot.join(folder))?;
                }
                symlink(sysroot.join(folder), &place)?;
                remove_outdated_link(&toolchain)?;
                assert_eq!(place.is_symlink(), stays, "{folder}");
            }
            fs::remove_file(&place)?;
            fs::create_dir(&place)?;
            remove_outdated_link(&toolchain)?;
            assert!(place.is_dir(), "a component of rustup stays");
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn a_package_is_of_exactly_one_release() {
        assert!(is_of("1.95.0+dfsg1-2~bpo13+1", "1.95.0") && is_of("1.95.0-1", "1.95.0"));
        assert!(!is_of("1.95.1+dfsg1-2", "1.95.0") && !is_of("1.95.0+dfsg1-2", "1.95"));
    }
}
