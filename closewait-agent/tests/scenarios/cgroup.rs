//! A control group of the test's own: with a limit of CPU time, or to freeze its processes.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

/// Folder of the hierarchies.
const ROOT: &str = "/sys/fs/cgroup";
/// Period over which the kernel limits the CPU time, in microseconds: its default.
const PERIOD: u32 = 100_000;

/// A control group, on hosts with version 1 or 2.
pub(crate) struct Cgroup {
    path: PathBuf,
    is_unified: bool,
}

impl Cgroup {
    /// Creates a group for at most this share of one CPU, in percent.
    pub(crate) fn with_cpu(percent: u32) -> Self {
        let group = Self::new("cpu");
        let quota = PERIOD / 100 * percent;
        if group.is_unified {
            write(&Path::new(ROOT).join("cgroup.subtree_control"), "+cpu");
            write(&group.path.join("cpu.max"), &format!("{quota} {PERIOD}"));
        } else {
            write(&group.path.join("cpu.cfs_quota_us"), &quota.to_string());
        }
        group
    }

    /// Creates a group whose processes can be frozen.
    pub(crate) fn freezer() -> Self {
        Self::new("freezer")
    }

    /// Creates a group, in version 1 in the hierarchy of a controller.
    fn new(controller: &str) -> Self {
        let root = Path::new(ROOT);
        let is_unified = root.join("cgroup.controllers").exists();
        let parent = if is_unified { root.to_owned() } else { root.join(controller) };
        let path = parent.join(format!("closewait-scenarios-{}", process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path, is_unified }
    }

    /// Moves a process into the group.
    pub(crate) fn add(&self, pid: u32) {
        write(&self.path.join("cgroup.procs"), &pid.to_string());
    }

    /// Freezes the processes of the group.
    pub(crate) fn freeze(&self) {
        let (file, state) = if self.is_unified { ("cgroup.freeze", "1") } else { ("freezer.state", "FROZEN") };
        write(&self.path.join(file), state);
    }

    /// Lets the processes of the group run, if they are frozen: in version 1, no signal reaches them otherwise.
    pub(crate) fn thaw(&self) {
        let (file, state) = if self.is_unified { ("cgroup.freeze", "0") } else { ("freezer.state", "THAWED") };
        let file = self.path.join(file);
        if file.exists() {
            write(&file, state);
        }
    }

    /// Removes the group, and returns whether there was no process in it.
    pub(crate) fn remove(&self) -> bool {
        fs::remove_dir(&self.path).is_ok()
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
