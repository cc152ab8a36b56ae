//! The file system that a guest boots from: busybox, `ss` with its libraries, the agent and its tests.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::exec;

const INIT: &str = include_str!("init.sh");

/// A tree of files in the making.
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// An empty one in `root`.
    pub(super) fn new(root: &Path) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root).with_context(|| format!("cannot remove {}; delete it", root.display()))?;
        }
        let tree = Self { root: root.to_owned() };
        tree.write("/init", INIT, 0o755)?;
        Ok(tree)
    }

    /// A file of the guest's with this text.
    pub(super) fn write(&self, path: &str, text: &str, mode: u32) -> Result<()> {
        let to = self.prepare(path)?;
        fs::write(&to, text).with_context(|| format!("cannot write {}", to.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot change the mode of {}", to.display()))
    }

    /// A file of this machine's at `path` of the guest's.
    pub(super) fn copy(&self, from: &Path, path: &str) -> Result<()> {
        let to = self.prepare(path)?;
        fs::copy(from, &to).map(drop).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
    }

    /// A program of this machine's with the libraries that it is linked with, all where they are here.
    pub(super) fn copy_program(&self, program: &Path) -> Result<()> {
        let libraries = exec::quiet(Command::new("ldd").arg(program))?;
        let program = program.to_str().context("the path of a program is not UTF-8")?;
        for file in libraries.split_whitespace().filter(|word| word.starts_with('/')).chain([program]) {
            self.copy(Path::new(file), file)?;
        }
        Ok(())
    }

    /// Packs the tree into one file, in the format that kernels unpack.
    ///
    /// busybox does it: the guest needs it anyway, and a program that is there is less to keep than a writer of the format.
    pub(super) fn pack(&self, busybox: &Path, into: &Path) -> Result<()> {
        let mut names = BTreeSet::new();
        list(&self.root, &self.root, &mut names)?;
        let file = File::create(into).with_context(|| format!("cannot create {}; is it yours?", into.display()))?;
        let mut command = Command::new(busybox);
        command.args(["cpio", "-o", "-H", "newc"]).current_dir(&self.root);
        let shown = exec::shown(&command);
        let started = command.stdin(Stdio::piped()).stdout(file).stderr(Stdio::null()).spawn();
        let mut child = started.with_context(|| format!("cannot start {shown}; install busybox-static"))?;
        {
            let mut stdin = child.stdin.take().context("the child has no stdin although it was asked for")?;
            for name in &names {
                writeln!(stdin, "{name}").with_context(|| format!("cannot tell {shown} what to pack"))?;
            }
        }
        let status = child.wait().with_context(|| format!("waiting for {shown} failed"))?;
        if !status.success() {
            bail!("{shown} failed ({status}); is there room for {}?", into.display());
        }
        Ok(())
    }

    /// Where a file of the guest's is here, its folder made.
    fn prepare(&self, path: &str) -> Result<PathBuf> {
        let to = self.root.join(path.trim_start_matches('/'));
        let parent = to.parent().context("a file of the guest's has no folder")?;
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}; is it yours?", parent.display()))?;
        Ok(to)
    }
}

/// Everything below `dir`, by its path in `root`. In order, a folder comes before what is in it.
fn list(root: &Path, dir: &Path, names: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
        let name = path.strip_prefix(root).ok().and_then(Path::to_str);
        names.insert(name.with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned());
        if path.is_dir() {
            list(root, &path, names)?;
        }
    }
    Ok(())
}
