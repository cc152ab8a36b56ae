//! The file system that a guest boots from: busybox, `ss` with its libraries, the agent and its tests.

use std::os::unix::fs::PermissionsExt as _;

use crate::prelude::*;

const INIT: &str = include_str!("init.sh");

/// A tree of files in the making.
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Starts an empty tree in `root`.
    pub(super) fn new(root: &Path) -> Result<Self> {
        exec::remove_dir(root)?;
        let tree = Self { root: root.to_owned() };
        tree.write("/init", INIT, 0o755)?;
        Ok(tree)
    }

    /// Writes a file of the guest.
    pub(super) fn write(&self, path: &str, text: &str, mode: u32) -> Result<()> {
        let to = self.prepare(path)?;
        fs::write(&to, text)?;
        Ok(fs::set_permissions(&to, std::fs::Permissions::from_mode(mode))?)
    }

    /// Copies a file of this machine to `path` of the guest.
    pub(super) fn copy(&self, from: &Path, path: &str) -> Result<()> {
        fs::copy(from, self.prepare(path)?)?;
        Ok(())
    }

    /// Packs the tree into one file, in the format that kernels unpack. busybox is there anyway: the guest needs it.
    pub(super) fn pack(&self, into: &Path) -> Result<()> {
        const SCRIPT: &str = "cd \"$1\" && busybox find . | busybox cpio -o -H newc >\"$0\"";
        let mut command = Command::new("busybox");
        command.args(["sh", "-c", SCRIPT]).args([into, &self.root]);
        exec::quiet(&mut command).with_context(|| format!("cannot pack {}; is the disk full?", into.display()))?;
        Ok(())
    }

    /// Returns the path here of a file of the guest, and creates its folder.
    fn prepare(&self, path: &str) -> Result<PathBuf> {
        let to = self.root.join(path.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a file of the guest has no folder")?)?;
        Ok(to)
    }
}
