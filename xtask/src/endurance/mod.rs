//! `cargo xtask restarts` and `cargo xtask soak`: agents that are killed, stopped and overloaded for long, and their reports
//! compared with a record of every socket.

mod population;
mod restarts;
mod soak;
mod watcher;

use std::ops::Range;

pub(crate) use self::{restarts::Restarts, soak::Soak, watcher::Agents};
use crate::prelude::*;
use crate::{build, faults, namespaces, root};

/// Builds, starts this program again as root, and runs `work` there, in its own network and with its own BPF file system.
pub(crate) fn run(
    workspace: &Workspace,
    binary: Option<&Path>,
    work: impl FnOnce(&Agents<'_>) -> Result<()>,
) -> Result<()> {
    let Some(binary) = binary else {
        build::release(workspace)?;
        return root::again(workspace, "attaching to the kernel");
    };
    exec::with_scratch("endurance", |dir| {
        let pins = pins(dir);
        fs::create_dir(&pins)?;
        namespaces::mount_in_new_namespace("bpf", &pins)?;
        namespaces::enter_new_network()?;
        let result = faults::watched(|| work(&Agents { binary, dir }));
        // The mount would end with the process, and the pinned maps with it, but its folder has to be removed.
        namespaces::detach(&pins)?;
        result
    })
}

/// Where the BPF file system is mounted.
fn pins(dir: &Path) -> PathBuf {
    dir.join("pins")
}

/// A load of short connections in a network namespace of its own. Dropping it ends the load.
struct Load(Child);

impl Load {
    /// Starts a load that ends after ten minutes at the latest.
    fn start() -> Result<Self> {
        let mut command = Command::new(exec::this()?);
        command.args(["loadgen", "--pairs", "1", "--seconds", "600"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        exec::start(&mut command).map(Self)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        exec::kill(&mut self.0);
    }
}

/// Pseudo-random numbers, the same for the same seed (xorshift64*).
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// Returns one of `0..below`.
    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below.max(1)
    }

    /// Returns a duration within a range of milliseconds.
    fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.below(range.end - range.start))
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
