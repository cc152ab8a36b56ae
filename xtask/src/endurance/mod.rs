//! `cargo xtask restarts` and `cargo xtask soak`: agents that are killed, stopped and overloaded for long, and their reports
//! compared with a record of every socket.

mod population;
mod restarts;
mod soak;
mod watcher;

use std::ops::Range;

use fastrand::Rng;

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
        let mut command = exec::again();
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

/// Returns a random duration within a range of milliseconds.
fn millis(random: &mut Rng, range: Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}
