//! The standard library's source, where cargo's `-Z build-std` looks for it.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{package, step, toolchain::Toolchain};
use crate::exec;

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
    let place = place(toolchain);
    remove_link(&place)?;
    let unpacked = setup_dir.join("rust-src");
    let folder = unpacked.join("usr").join("src").join(format!("rustc-{}", toolchain.release));
    if !is_complete(&folder) {
        let by_rustup = exec::which("rustup").is_some() && with_rustup(toolchain).is_ok();
        if by_rustup && is_present(toolchain) {
            return Ok(());
        }
        step(&format!("unpack Debian's rust-src {} for the standard library's source", toolchain.release), || {
            package::unpack(setup_dir, "rust-src", &toolchain.release, &unpacked)
        })
        .with_context(|| {
            format!(
                "no source of the standard library for rustc {}; run `rustup component add rust-src` where rustup can \
                 download, or put the folder `library` of that release into {}",
                toolchain.release,
                place.display()
            )
        })?;
        if !is_complete(&folder) {
            bail!("the package rust-src has no {}; report this with the package's version", folder.display());
        }
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
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start rustup; is it installed?")?;
        match exec::wait_at_most(&mut child, RUSTUP_LIMIT)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("rustup failed ({status}); Debian's package is next"),
            None => bail!("rustup took more than {RUSTUP_LIMIT:?}; Debian's package is next"),
        }
    })
}

/// Removes a link left by a setup whose folder is gone or of another release. A real folder is not ours to remove.
fn remove_link(place: &Path) -> Result<()> {
    match fs::symlink_metadata(place) {
        Ok(meta) if meta.is_symlink() => {
            fs::remove_file(place).with_context(|| not_writable(place, &format!("rm '{}'", place.display())))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

fn link(folder: &Path, place: &Path) -> Result<()> {
    let by_hand = format!("ln -sfn '{}' '{}'", folder.display(), place.display());
    let parent = place.parent().context("the toolchain's folder has no parent; check `rustc --print sysroot`")?;
    fs::create_dir_all(parent).with_context(|| not_writable(parent, &format!("mkdir -p '{}'", parent.display())))?;
    match symlink(folder, place) {
        Ok(()) => Ok(()),
        // Another target folder's setup was faster; its source is as good.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_complete(place) => Ok(()),
        Err(error) => Err(error).with_context(|| not_writable(place, &by_hand)),
    }
}

fn not_writable(path: &Path, by_hand: &str) -> String {
    format!(
        "cannot change {} in the toolchain's folder; run this as the toolchain's owner:\n  {by_hand}\n",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::toolchain::tests::VERBOSE;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn toolchain(&self) -> Toolchain {
            Toolchain::parse(VERBOSE, self.0.join("sysroot").to_str().unwrap()).unwrap()
        }

        fn source(&self, name: &str) -> PathBuf {
            let folder = self.0.join(name);
            fs::create_dir_all(folder.join("library/core/src")).unwrap();
            fs::write(folder.join("library/Cargo.lock"), "").unwrap();
            fs::write(folder.join("library/core/src/lib.rs"), "").unwrap();
            folder
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_link_to_this_release_is_enough() {
        let scratch = Scratch::new("link");
        let toolchain = scratch.toolchain();
        assert!(!is_present(&toolchain));
        link(&scratch.source("rustc-1.95.0"), &place(&toolchain)).unwrap();
        assert!(is_present(&toolchain));
    }

    #[test]
    fn a_link_to_another_release_is_replaced() {
        let scratch = Scratch::new("release");
        let toolchain = scratch.toolchain();
        link(&scratch.source("rustc-1.94.0"), &place(&toolchain)).unwrap();
        assert!(!is_present(&toolchain));
        remove_link(&place(&toolchain)).unwrap();
        link(&scratch.source("rustc-1.95.0"), &place(&toolchain)).unwrap();
        assert!(is_present(&toolchain));
    }

    #[test]
    fn a_dangling_link_is_replaced() {
        let scratch = Scratch::new("dangling");
        let toolchain = scratch.toolchain();
        let gone = scratch.source("rustc-1.95.0");
        link(&gone, &place(&toolchain)).unwrap();
        fs::remove_dir_all(&gone).unwrap();
        assert!(!is_present(&toolchain));
        remove_link(&place(&toolchain)).unwrap();
        fs::create_dir_all(scratch.0.join("new")).unwrap();
        link(&scratch.source("new/rustc-1.95.0"), &place(&toolchain)).unwrap();
        assert!(is_present(&toolchain));
    }

    #[test]
    fn a_component_from_rustup_is_left_alone() {
        let scratch = Scratch::new("component");
        let toolchain = scratch.toolchain();
        scratch.source("sysroot/lib/rustlib/src/rust");
        assert!(is_present(&toolchain));
        remove_link(&place(&toolchain)).unwrap();
        assert!(is_present(&toolchain));
    }
}
