//! Agents that die, stand still and lose, for long: what they say compared with what is known of every socket.

mod population;
mod restarts;
mod soak;
mod watcher;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};

pub(crate) use self::{restarts::Restarts, soak::Soak};
use crate::{
    build,
    exec::{self, Workspace},
    faults, namespaces, root,
};

/// `cargo xtask restarts`.
pub(crate) fn restarts(workspace: &Workspace, options: &Restarts) -> Result<()> {
    let Some(binary) = &options.binary else {
        return again_as_root(workspace, "restarts", &["--rounds".to_owned(), options.rounds.to_string()]);
    };
    in_own_namespaces(|dir| restarts::run(binary, options, dir))
}

/// `cargo xtask soak`.
pub(crate) fn soak(workspace: &Workspace, options: &Soak) -> Result<()> {
    let Some(binary) = &options.binary else {
        return again_as_root(workspace, "soak", &options.again());
    };
    in_own_namespaces(|dir| soak::run(binary, options, dir))
}

/// Builds as the calling user, then starts this program again as root.
fn again_as_root(workspace: &Workspace, name: &str, again: &[String]) -> Result<()> {
    build::release(workspace)?;
    let mut args: Vec<OsString> = [name, "--binary"].map(OsString::from).to_vec();
    args.push(workspace.closewait().into());
    args.extend(again.iter().map(OsString::from));
    root::become_program(&exec::this()?, &args, "attaching to the kernel")
}

/// A folder for files, with a BPF file system in `pins`, for `work`; network and mounts are the process's own.
fn in_own_namespaces(work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("closewait-endurance-{}", std::process::id()));
    let pins = pins(&dir);
    fs::create_dir_all(&pins).with_context(|| format!("cannot create {}; is the folder writable?", pins.display()))?;
    namespaces::mount_bpf(&pins)?;
    namespaces::enter_new_network()?;
    let result = faults::watched(|| work(&dir));
    // The mount ends with the process, and what is pinned with it; the folders below it are in its way until then.
    namespaces::unmount(&pins)?;
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}; delete it", dir.display()))?;
    result
}

fn pins(dir: &Path) -> PathBuf {
    dir.join("pins")
}

/// Many short connections, in a network namespace of their own. Dropping it ends them.
struct Load(Child);

impl Load {
    /// For at most ten minutes.
    fn start() -> Result<Self> {
        let mut command = Command::new(exec::this()?);
        command.args(["loadgen", "--pairs", "1", "--seconds", "600"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot start {}", exec::shown(&command)))?;
        Ok(Self(child))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It fails only for one that has ended.
        let _ended = self.0.kill();
        let _waited = self.0.wait();
    }
}

/// Numbers that look like chance, and are the same for the same seed (xorshift64*).
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// One of `0..below`.
    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_the_same_twice_and_reaches_all() {
        let draw = || {
            let mut chance = Chance::new(7);
            (0..100).map(|_| chance.below(5)).collect::<Vec<_>>()
        };
        let drawn = draw();
        assert_eq!(drawn, draw());
        assert!((0..5).all(|wanted| drawn.contains(&wanted)));
    }
}
