//! The standard library's source, where cargo's `-Z build-std` looks for it.

use std::{io, os::unix::fs::symlink};

use super::{package, step, toolchain::Toolchain};
use crate::prelude::*;

/// A component of a few megabytes; a network that takes longer is one that answers nothing.
const RUSTUP_LIMIT: Duration = Duration::from_secs(60);

/// Whether cargo will find the source, and it is this compiler's.
pub(super) fn is_present(toolchain: &Toolchain) -> bool {
    let place = place(toolchain);
    // A link from an earlier setup outlives a toolchain update that keeps the folder.
    is_complete(&place) && fs::read_link(&place).map_or(true, |to| is_for(&to, &toolchain.release))
}

/// Puts the source in place: with rustup, else from Debian's package.
pub(super) fn bring(setup_dir: &Path, toolchain: &Toolchain) -> Result<()> {
    let (place, release) = (place(toolchain), &toolchain.release);
    remove_link(&place)?;
    let unpacked = setup_dir.join("rust-src");
    let folder = unpacked.join("usr").join("src").join(format!("rustc-{release}"));
    if !is_complete(&folder) {
        let by_rustup = exec::which("rustup").is_some() && with_rustup(toolchain).is_ok();
        if by_rustup && is_present(toolchain) {
            return Ok(());
        }
        step(&format!("unpack Debian's rust-src {release} for the standard library's source"), || {
            package::unpack(setup_dir, "rust-src", release, &unpacked)
        })
        .with_context(|| {
            format!(
                "no source of the standard library for rustc {release}; run `rustup component add rust-src` where rustup \
                 can download, or put the folder `library` of that release into {}",
                place.display()
            )
        })?;
        ensure!(is_complete(&folder), "the package rust-src has no {}; report its version", folder.display());
    }
    link(&folder, &place)
}

/// Where cargo looks.
fn place(toolchain: &Toolchain) -> PathBuf {
    toolchain.sysroot.join("lib/rustlib/src/rust")
}

/// What cargo checks (the lock file) and what it builds.
fn is_complete(folder: &Path) -> bool {
    ["library/Cargo.lock", "library/core/src/lib.rs"].iter().all(|file| folder.join(file).is_file())
}

fn is_for(link_target: &Path, release: &str) -> bool {
    link_target.file_name().is_some_and(|name| name.to_str() == Some(&format!("rustc-{release}")))
}

fn with_rustup(toolchain: &Toolchain) -> Result<()> {
    step("rustup component add rust-src", || {
        let mut command = Command::new("rustup");
        command.args(["component", "add", "rust-src"]);
        // rustup knows a toolchain by the name of its folder.
        if let Some(name) = toolchain.sysroot.file_name() {
            command.arg("--toolchain").arg(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = exec::start(&mut command)?;
        match exec::wait_at_most(&mut child, RUSTUP_LIMIT)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("rustup failed ({status}); Debian's package is next"),
            None => bail!("rustup took more than {RUSTUP_LIMIT:?}; Debian's package is next"),
        }
    })
}

/// Removes a link left by a setup whose folder is gone or of another release. A real folder is not ours to remove.
fn remove_link(place: &Path) -> Result<()> {
    if place.is_symlink() {
        fs::remove_file(place).with_context(|| by_hand(&format!("rm '{}'", place.display())))?;
    }
    Ok(())
}

fn link(folder: &Path, place: &Path) -> Result<()> {
    let parent = place.parent().context("the toolchain's folder has no parent; check `rustc --print sysroot`")?;
    fs::create_dir_all(parent).with_context(|| by_hand(&format!("mkdir -p '{}'", parent.display())))?;
    match symlink(folder, place) {
        // The setup of another target folder was faster; its source is as good.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_complete(place) => Ok(()),
        result => result.with_context(|| by_hand(&format!("ln -sfn '{}' '{}'", folder.display(), place.display()))),
    }
}

fn by_hand(command: &str) -> String {
    format!("cannot change the toolchain's folder; run this as the toolchain's owner:\n  {command}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::toolchain::tests::VERBOSE;

    fn source(folder: &Path) {
        fs::create_dir_all(folder.join("library/core/src")).unwrap();
        fs::write(folder.join("library/Cargo.lock"), "").unwrap();
        fs::write(folder.join("library/core/src/lib.rs"), "").unwrap();
    }

    /// Hands a test an empty folder and a toolchain without a source.
    fn test_in(name: &str, test: impl FnOnce(&Path, &Toolchain)) {
        let work = |dir: &Path| {
            let toolchain = Toolchain::parse(VERBOSE, dir.join("sysroot").to_str().unwrap()).unwrap();
            assert!(!is_present(&toolchain));
            test(dir, &toolchain);
            Ok(())
        };
        exec::with_scratch(name, work).unwrap();
    }

    #[test]
    fn a_link_to_another_release_or_to_nothing_is_replaced() {
        test_in("link", |dir, toolchain| {
            for (folder, present) in [("rustc-1.94.0", false), ("rustc-1.95.0", true), ("new/rustc-1.95.0", true)] {
                source(&dir.join(folder));
                remove_link(&place(toolchain)).unwrap();
                link(&dir.join(folder), &place(toolchain)).unwrap();
                assert_eq!(is_present(toolchain), present, "{folder}");
            }
            fs::remove_dir_all(dir.join("new")).unwrap();
            assert!(!is_present(toolchain));
        });
    }

    #[test]
    fn a_component_from_rustup_is_left_alone() {
        test_in("component", |_dir, toolchain| {
            source(&place(toolchain));
            remove_link(&place(toolchain)).unwrap();
            assert!(is_present(toolchain));
        });
    }
}
