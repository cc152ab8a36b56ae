//! Kernel programs and maps that outlive the agent: files of a BPF file system.
//!
//! The program continues while no agent runs: it stores times of entry, counts, and fills the ring buffer. The next
//! agent adopts all of it if its own program would be the same. If only the program would differ, it adopts the maps
//! and attaches its own program. It removes maps of a layout that it does not know, without reading them.

mod recognize;

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData};
use closewait_common::{
    kept::{Kept, LAYOUT, OLDEST_LAYOUT},
    names,
};
use rustix::fs::fstatfs;
use thiserror::Error;

use self::recognize::Contents;
use crate::host::in_time::{CallFailure, START_PATIENCE, call, in_time};

/// Default folder of `--pin`.
pub const DEFAULT: &str = "/sys/fs/bpf/closewait";

/// Mode of the directory. A lookup of a pin while it is removed can use freed memory (docs/kernel-safety.md), so no
/// other user may enter. Another user could also open and change the maps.
const MODE: u32 = 0o700;
/// File of the link, which keeps the program attached.
const LINK: &str = "link";
/// File of the program, for its own counters.
const PROGRAM: &str = "program";
/// File of the notes, before layout 3.
const OLD_KEPT: &str = "CLOSEWAIT_KEPT";
/// Names of all files that an agent creates, and of those that agents created before layout 3, to remove all of them.
/// The link comes first: its removal ends the program.
const FILES: [&str; 18] = [
    LINK,
    PROGRAM,
    names::KEPT,
    names::RING,
    names::SINCE,
    names::SLOTS,
    names::PASSES,
    names::STATS,
    names::OPENERS,
    names::WATCHED,
    names::WATCHING,
    names::CONNECTS,
    names::CONNECT_WATCHES,
    OLD_KEPT,
    "CLOSEWAIT_RING",
    "CLOSEWAIT_SINCE",
    "CLOSEWAIT_STATS",
    "CLOSEWAIT_OPENERS",
];

/// Outcome for the maps and the program of an earlier agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// No pins existed.
    Fresh,
    /// Maps and program continue.
    All,
    /// The maps continue, with a program of this agent.
    Maps,
    /// The pins could not be used, and were removed.
    Replaced {
        /// Reason of the refusal.
        why: String,
    },
}

impl Adoption {
    /// Name in events.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::All => "adopted",
            Self::Maps => "maps_adopted",
            Self::Replaced { .. } => "replaced",
        }
    }
}

/// Pinned files, and this agent's use of them.
pub struct Pinned {
    pins: Pins,
    /// Outcome for the pins that existed.
    pub adoption: Adoption,
    /// The notes for the next agent.
    pub kept: Kept,
    /// The program of the earlier agent, if it continues.
    pub(super) program: Option<OwnedFd>,
}

/// Reason why nothing can be pinned.
#[derive(Debug, Error)]
pub enum PinsError {
    /// The directory cannot be created or opened.
    #[error(
        "{call} of {} failed\nhint: run as root; if no BPF file system is there, mount it (mount -t bpf bpf /sys/fs/bpf)",
        dir.display()
    )]
    Directory {
        /// Name of the failed call.
        call: &'static str,
        /// The directory.
        dir: PathBuf,
        /// Error of the call.
        #[source]
        source: io::Error,
    },
    /// The directory is not on a BPF file system, so nothing in it is pinned.
    #[error("{} is not on a BPF file system\nhint: give --pin a directory below /sys/fs/bpf; if that is not mounted: mount -t bpf bpf /sys/fs/bpf", .0.display())]
    Elsewhere(PathBuf),
    /// The directory, or a file in it, belongs to another program or user.
    #[error(
        "{} cannot be used for pins: {why}; nothing changed\n\
         hint: give --pin a directory that does not exist yet, such as {DEFAULT}", dir.display()
    )]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// Sign that it is not closewait's.
        why: String,
    },
    /// A file system along the path does not answer.
    #[error("{} cannot be opened\nhint: check its file system, or give --pin another directory", dir.display())]
    Unanswered {
        /// The directory.
        dir: PathBuf,
        /// System call that did not answer, and its duration.
        #[source]
        why: CallFailure,
    },
    /// Another agent uses the directory: both would read one ring buffer.
    #[error("another agent uses {}\nhint: stop it, or give this one another directory with --pin", .0.display())]
    Taken(PathBuf),
    /// A file of an older agent cannot be removed.
    #[error("unlink of {} failed\nhint: remove it manually", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Error of the call.
        #[source]
        source: io::Error,
    },
}

/// Directory of pinned files, for this process alone.
#[derive(Debug)]
pub struct Pins {
    dir: PathBuf,
    /// The directory, locked while it is open.
    lock: File,
}

/// Outcome of `--unpin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpinned {
    /// There was nothing to remove.
    Nothing,
    /// Files and directory are gone.
    All,
    /// The files are gone. The directory stays, because it has files of others or a mount on it.
    Files,
}

impl Pins {
    /// Opens `dir` for this process alone, and creates it if it does not exist. Uses and changes an existing
    /// directory only if it is empty and owned by this user, or has the pins of an agent.
    ///
    /// # Errors
    ///
    /// If it is not on a BPF file system, another process has it, it belongs to another program or user, the system refuses, or
    /// a file system along the path does not answer within two seconds.
    pub fn open(dir: &Path) -> Result<Self, PinsError> {
        with(dir, Self::open_and_wait)?
    }

    fn open_and_wait(dir: &Path) -> Result<Self, PinsError> {
        let failed = |call| move |source| PinsError::Directory { call, dir: dir.to_owned(), source };
        let parent = dir.parent().unwrap_or(dir);
        call("stat");
        // Checked before anything is created, so that a typing error leaves nothing behind.
        if !is_bpf(if dir.exists() { dir } else { parent }).map_err(failed("statfs"))? {
            return Err(PinsError::Elsewhere(dir.to_owned()));
        }
        call("mkdir");
        match DirBuilder::new().mode(MODE).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("mkdir")(error)),
            Ok(()) | Err(_) => {}
        }
        let (pins, contents) = Self::lock(dir)?;
        if contents == Contents::Empty {
            // Also for a directory that was created with another umask.
            pins.lock.set_permissions(Permissions::from_mode(MODE)).map_err(failed("fchmod"))?;
        }
        Ok(pins)
    }

    /// Removes the pins of an agent from `dir`, which ends its program. Also removes the directory, unless others use
    /// it.
    ///
    /// # Errors
    ///
    /// As for [`Pins::open`], and if a file cannot be removed.
    pub fn unpin(dir: &Path) -> Result<Unpinned, PinsError> {
        with(dir, Self::unpin_and_wait)?
    }

    fn unpin_and_wait(dir: &Path) -> Result<Unpinned, PinsError> {
        let failed = |call| move |source| PinsError::Directory { call, dir: dir.to_owned(), source };
        call("stat");
        if !dir.exists() {
            return Ok(Unpinned::Nothing);
        }
        if !is_bpf(dir).map_err(failed("statfs"))? {
            return Err(PinsError::Elsewhere(dir.to_owned()));
        }
        if fs::read_dir(dir).map_err(failed("open"))?.next().is_none() {
            return Ok(Unpinned::Nothing);
        }
        let (pins, contents) = Self::lock(dir)?;
        pins.clear()?;
        if matches!(contents, Contents::Ours { others: 1.. }) {
            return Ok(Unpinned::Files);
        }
        call("rmdir");
        match fs::remove_dir(dir) {
            Ok(()) => Ok(Unpinned::All),
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy) => {
                Ok(Unpinned::Files)
            }
            Err(error) => Err(failed("rmdir")(error)),
        }
    }

    /// Locks an existing directory, and checks whether it may be used. Changes nothing.
    fn lock(dir: &Path) -> Result<(Self, Contents), PinsError> {
        let failed = |call| move |source| PinsError::Directory { call, dir: dir.to_owned(), source };
        call("open");
        let lock = File::open(dir).map_err(failed("open"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(PinsError::Taken(dir.to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(failed("flock")(error)),
        }
        let about = lock.metadata().map_err(failed("fstat"))?;
        match recognize::contents(dir, &about).map_err(failed("getdents64"))? {
            Ok(contents) => Ok((Self { dir: dir.to_owned(), lock }, contents)),
            Err(why) => Err(PinsError::NotOurs { dir: dir.to_owned(), why }),
        }
    }

    /// Path of the directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Path of a map, relative to the descriptor of the directory. It avoids the user's path, which may lead through
    /// file systems that do not answer.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.lock.as_raw_fd())).join(name)
    }

    /// Returns the path of the pinned link.
    pub(super) fn link(&self) -> PathBuf {
        self.map(LINK)
    }

    /// Returns the path of the pinned program.
    pub(super) fn program(&self) -> PathBuf {
        self.map(PROGRAM)
    }

    /// Decides what to adopt, for an agent whose notes would be `wanted`. Removes what cannot be used.
    ///
    /// # Errors
    ///
    /// If a file cannot be removed.
    pub(super) fn adopt(self, wanted: Kept) -> Result<Pinned, PinsError> {
        let (adoption, kept) = match self.kept() {
            Ok(None) => (Adoption::Fresh, wanted),
            Ok(Some(kept)) if kept.hook == wanted.hook => {
                let goes_on = kept.program == wanted.program && self.link().exists() && self.program().exists();
                let kept = Kept { program: wanted.program, layout: LAYOUT, ..kept };
                (if goes_on { Adoption::All } else { Adoption::Maps }, kept)
            }
            Ok(Some(_)) => (Adoption::Replaced { why: "it is for another hook".to_owned() }, wanted),
            Err(why) => (Adoption::Replaced { why }, wanted),
        };
        if let Adoption::Replaced { .. } = adoption {
            self.clear()?;
        }
        Ok(Pinned { pins: self, adoption, kept, program: None })
    }

    /// Returns the notes of the earlier agent, if all of its maps exist and have a layout that this agent can use. The error
    /// is the reason why they cannot be used; `Ok(None)` if nothing exists.
    fn kept(&self) -> Result<Option<Kept>, String> {
        let path = self.map(names::KEPT);
        if !path.exists() {
            // An agent was interrupted before it had written its notes.
            let rest = FILES.iter().any(|name| self.map(name).exists());
            return if rest { Err("it is not complete".to_owned()) } else { Ok(None) };
        }
        let notes = MapData::from_pin(&path).map(Map::Array).and_then(Array::<_, Kept>::try_from);
        let notes = notes.map_err(|error| format!("its notes cannot be read: {error}"))?;
        let kept = notes.get(&0, 0).map_err(|error| format!("its notes cannot be read: {error}"))?;
        match kept.layout {
            OLDEST_LAYOUT..=LAYOUT => Ok(Some(kept)),
            0 => Err("it is not complete".to_owned()),
            other => Err(format!("its layout has version {other}, this agent knows {LAYOUT}")),
        }
    }

    /// Removes every file that an agent creates. This ends the program, if there is one.
    ///
    /// # Errors
    ///
    /// If a file cannot be removed.
    pub(super) fn clear(&self) -> Result<(), PinsError> {
        FILES.iter().try_for_each(|name| self.remove_file(name))
    }

    /// Removes the link and the program, which ends the program. The maps stay.
    pub(super) fn detach(&self) -> Result<(), PinsError> {
        self.remove_file(LINK)?;
        self.remove_file(PROGRAM)
    }

    fn remove_file(&self, name: &str) -> Result<(), PinsError> {
        match fs::remove_file(self.map(name)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(PinsError::Remove { path: self.dir.join(name), source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Pinned {
    /// Returns the paths of all pins.
    pub(super) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Returns messages for the user about what was adopted, for an agent with these requested sizes.
    pub fn sentences(&self, max_sockets: u32, ring_bytes: u32) -> Vec<String> {
        let dir = self.pins.dir.display();
        let mut messages = Vec::new();
        if let Adoption::Replaced { why } = &self.adoption {
            messages.push(format!(
                "removed the pins of an earlier agent in {dir} ({why}): the age of sockets that existed before lies \
                 between two bounds"
            ));
        }
        for (what, asked, kept) in
            [("--max-sockets", max_sockets, self.kept.max_sockets), ("--ring-buffer", ring_bytes, self.kept.ring_bytes)]
        {
            if asked != kept {
                messages.push(format!(
                    "{what} stays {kept} and not {asked}, as pinned in {dir}; to change it, end the agent and remove \
                     the pins: closewait run --unpin"
                ));
            }
        }
        messages
    }
}

/// Runs `work` on a thread that can be left behind if a file system along the path hangs.
fn with<T: Send + 'static>(dir: &Path, work: impl FnOnce(&Path) -> T + Send + 'static) -> Result<T, PinsError> {
    in_time(dir, START_PATIENCE, work, drop).map_err(|why| PinsError::Unanswered { dir: dir.to_owned(), why })
}

/// Whether a path is on a BPF file system.
fn is_bpf(path: &Path) -> io::Result<bool> {
    call("open");
    let file = File::open(path)?;
    Ok(fstatfs(&file)?.f_type == libc::BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_elsewhere_is_refused_and_not_made() {
        let here = std::env::temp_dir();
        let dir = here.join("closewait-not-pinned");
        let error = Pins::open(&dir).unwrap_err();
        assert!(matches!(error, PinsError::Elsewhere(_)), "{error}");
        assert!(!dir.exists());
    }

    #[test]
    fn a_directory_without_a_parent_is_reported() {
        let error = Pins::open(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(error.to_string().starts_with("statfs of /nowhere/at/all failed"), "{error}");
    }
}
