//! Packages of Debian without touching the machine's packages or apt's own files.
//!
//! Mirror and keyring come from the machine's apt configuration; lists, cache and state are folders of ours.

mod sources;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

pub(crate) use sources::{release_archives, security_archives};

use crate::exec;

/// Some suites, and apt's working folders for them.
pub(crate) struct Apt {
    work: PathBuf,
}

impl Apt {
    /// Empties `work` and makes it ready for these suites, in apt's deb822 format.
    pub(crate) fn new(work: &Path, stanzas: &str) -> Result<Self> {
        if exec::which("apt-get").is_none() || exec::which("dpkg").is_none() {
            bail!("apt-get or dpkg is not installed, so there is no package of Debian to be had");
        }
        let make = |dir: PathBuf| {
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}; is it yours?", dir.display()))
        };
        // A suite that cannot be had must not leave its lists to the next one.
        if work.exists() {
            fs::remove_dir_all(work).with_context(|| format!("cannot remove {}; delete it", work.display()))?;
        }
        make(work.join("lists/partial"))?;
        make(work.join("state"))?;
        make(work.join("cache/archives/partial"))?;
        let sources = work.join("debian.sources");
        fs::write(&sources, stanzas).with_context(|| format!("cannot write {}", sources.display()))?;
        Ok(Self { work: work.to_owned() })
    }

    /// Downloads the lists. A suite that cannot be had is an error.
    pub(crate) fn update(&self) -> Result<()> {
        exec::quiet(self.tool("apt-get").args(["--error-on=any", "update"])).map(drop)
    }

    /// What `apt-cache madison` says of a package.
    pub(crate) fn versions(&self, package: &str) -> Result<String> {
        exec::quiet(self.tool("apt-cache").args(["madison", package]))
    }

    /// The packages whose names begin so, one a line.
    pub(crate) fn names(&self, beginning: &str) -> Result<String> {
        exec::quiet(self.tool("apt-cache").args(["pkgnames", beginning]))
    }

    /// Downloads `PACKAGE` or `PACKAGE=VERSION` into the working folder.
    pub(crate) fn download(&self, package: &str) -> Result<PathBuf> {
        for old in self.packages()? {
            fs::remove_file(&old).with_context(|| format!("cannot remove {}; delete it", old.display()))?;
        }
        exec::quiet(self.tool("apt-get").arg("download").arg(package))?;
        let deb = self.packages()?.pop();
        deb.with_context(|| format!("apt-get left no package in {}; try again", self.work.display()))
    }

    fn packages(&self) -> Result<Vec<PathBuf>> {
        let files = fs::read_dir(&self.work).with_context(|| format!("cannot list {}", self.work.display()))?;
        let files = files.filter_map(|entry| Some(entry.ok()?.path()));
        Ok(files.filter(|file| file.extension().is_some_and(|extension| extension == "deb")).collect())
    }

    /// A tool of apt that reads our sources and writes our folders only.
    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.current_dir(&self.work).env("LC_ALL", "C");
        for (option, path) in [
            ("Dir::Etc::SourceList", self.work.join("debian.sources")),
            ("Dir::Etc::SourceParts", PathBuf::from("/dev/null")),
            ("Dir::State", self.work.join("state")),
            ("Dir::State::Lists", self.work.join("lists")),
            ("Dir::Cache", self.work.join("cache")),
        ] {
            command.arg("-o").arg(format!("{option}={}", path.display()));
        }
        // The target folder is not open to apt's own user, which downloads when root asks.
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none", "-o", "Acquire::Retries=2"]);
        command
    }
}

/// Unpacks beside the goal and renames, so that an interrupted run leaves nothing that looks complete.
pub(crate) fn extract(deb: &Path, into: &Path) -> Result<()> {
    let partial = into.with_extension("partial");
    for dir in [&partial, into] {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}; delete it", dir.display()))?;
        }
    }
    exec::quiet(Command::new("dpkg").arg("-x").arg(deb).arg(&partial))?;
    fs::rename(&partial, into).with_context(|| format!("cannot rename {} to {}", partial.display(), into.display()))
}
