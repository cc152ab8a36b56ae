//! Kernel programs and maps that outlive the agent: files of a BPF file system.
//!
//! The program goes on while no agent runs, keeps times of entry and counts, and fills the ring buffer. The next agent
//! adopts all of it if the program would be the same. If only the program would differ, it adopts the maps and attaches
//! its own program. Maps of another layout are never read: they are removed.

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
    kept::{Kept, LAYOUT},
    names,
};
use rustix::fs::fstatfs;
use thiserror::Error;

use self::recognize::Contents;
use crate::host::in_time::{CallFailure, START_PATIENCE, call, in_time};

/// Default folder of `--pin`.
pub const DEFAULT: &str = "/sys/fs/bpf/closewait";

/// Mode of the directory. Looking up a pin while it is removed can use memory that is freed (docs/kernel-safety.md), so nobody
/// else gets there; and who opens the maps could change them.
const MODE: u32 = 0o700;
/// The link that keeps the program attached.
const LINK: &str = "link";
/// The program, for its own counters.
const PROGRAM: &str = "program";
/// The notes, before layout 3.
const OLD_KEPT: &str = "CLOSEWAIT_KEPT";
/// Every file that an agent makes, and those that agents made before layout 3: they are removed with the others. The link
/// comes first: what is removed first ends the program.
const FILES: [&str; 14] = [
    LINK,
    PROGRAM,
    names::KEPT,
    names::RING,
    names::SINCE,
    names::STATS,
    names::OPENERS,
    names::WATCHED,
    names::WATCHING,
    OLD_KEPT,
    "CLOSEWAIT_RING",
    "CLOSEWAIT_SINCE",
    "CLOSEWAIT_STATS",
    "CLOSEWAIT_OPENERS",
];

/// What became of the maps and the program of an agent before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// There was nothing.
    Fresh,
    /// Both go on.
    All,
    /// The maps go on, with a program of this agent.
    Maps,
    /// They could not be used, and were removed.
    Replaced {
        /// Reason of the refusal.
        why: String,
    },
}

impl Adoption {
    /// The word that events use.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::All => "adopted",
            Self::Maps => "maps_adopted",
            Self::Replaced { .. } => "replaced",
        }
    }
}

/// Pinned files, and what this agent makes of them.
pub struct Pinned {
    pins: Pins,
    /// What became of what was there.
    pub adoption: Adoption,
    /// The notes for the next agent.
    pub kept: Kept,
    /// The program of an agent before, if it goes on.
    pub(super) program: Option<OwnedFd>,
}

/// Reason why nothing can be pinned.
#[derive(Debug, Error)]
pub enum PinsError {
    /// The directory cannot be made or opened.
    #[error(
        "{call} of {} failed; is a BPF file system there (mount -t bpf bpf /sys/fs/bpf), and are you root?",
        dir.display()
    )]
    Directory {
        /// What failed.
        call: &'static str,
        /// The directory.
        dir: PathBuf,
        /// Error of the call.
        #[source]
        source: io::Error,
    },
    /// Files elsewhere pin nothing.
    #[error("{} is not on a BPF file system; give --pin a directory below /sys/fs/bpf, mounted by: mount -t bpf bpf /sys/fs/bpf", .0.display())]
    Elsewhere(PathBuf),
    /// The directory, or a file in it, belongs to another program or user.
    #[error(
        "{} cannot be used for pins: {why}; nothing changed\n\
         hint: give --pin a directory that does not exist yet, such as {DEFAULT}", dir.display()
    )]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// What shows that it is not closewait's.
        why: String,
    },
    /// A file system along the path does not answer.
    #[error("{} cannot be opened; check its file system, or give --pin another directory", dir.display())]
    Unanswered {
        /// The directory.
        dir: PathBuf,
        /// System call that did not answer, and for how long.
        #[source]
        why: CallFailure,
    },
    /// Two agents would read one ring buffer.
    #[error("another agent uses {}; stop it, or give this one another directory with --pin", .0.display())]
    Taken(PathBuf),
    /// A file of an older agent stands in the way.
    #[error("unlink of {} failed; remove it by hand", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Error of the call.
        #[source]
        source: io::Error,
    },
}

/// A directory of pinned files that this process alone uses.
#[derive(Debug)]
pub struct Pins {
    dir: PathBuf,
    /// Locked for as long as it is open.
    lock: File,
}

/// What `--unpin` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpinned {
    /// There was nothing to remove.
    Nothing,
    /// Files and directory are gone.
    All,
    /// The files are gone. The directory stays: it has files of others, or something is mounted there.
    Files,
}

impl Pins {
    /// Opens `dir` for this process alone; makes it if it is not there. A directory that is there is used and changed only if
    /// it is empty and this user's own, or has the pins of an agent.
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
        // Before anything is made, so that a typing error leaves nothing behind.
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
            // Also of one that was made with another umask.
            pins.lock.set_permissions(Permissions::from_mode(MODE)).map_err(failed("fchmod"))?;
        }
        Ok(pins)
    }

    /// Removes what an agent has pinned in `dir`: its program ends. The directory goes too, unless others use it.
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

    /// Locks a directory that is there, and looks whether it may be used. Changes nothing.
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

    /// Which directory it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Path of a map by the descriptor of the directory: the path of the user, with file systems along it that may not
    /// answer, is not walked again.
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

    /// Decides what to adopt, for an agent whose notes would be `wanted`. What cannot be used is removed.
    ///
    /// # Errors
    ///
    /// If a file cannot be removed.
    pub(super) fn adopt(self, wanted: Kept) -> Result<Pinned, PinsError> {
        let (adoption, kept) = match self.kept() {
            Ok(None) => (Adoption::Fresh, wanted),
            Ok(Some(kept)) if kept.hook == wanted.hook => {
                let goes_on = kept.program == wanted.program && self.link().exists() && self.program().exists();
                (if goes_on { Adoption::All } else { Adoption::Maps }, Kept { program: wanted.program, ..kept })
            }
            Ok(Some(_)) => (Adoption::Replaced { why: "it is for another hook".to_owned() }, wanted),
            Err(why) => (Adoption::Replaced { why }, wanted),
        };
        if let Adoption::Replaced { .. } = adoption {
            self.clear()?;
        }
        Ok(Pinned { pins: self, adoption, kept, program: None })
    }

    /// What the agent before has left, if all of its maps are there and mean what they mean to this one. The error says
    /// why it cannot be used; `Ok(None)` if there is nothing.
    fn kept(&self) -> Result<Option<Kept>, String> {
        let path = self.map(names::KEPT);
        if !path.exists() {
            // Left by one that was interrupted before it had written its notes.
            let rest = FILES.iter().any(|name| self.map(name).exists());
            return if rest { Err("it is not complete".to_owned()) } else { Ok(None) };
        }
        let notes = MapData::from_pin(&path).map(Map::Array).and_then(Array::<_, Kept>::try_from);
        let notes = notes.map_err(|error| format!("its notes cannot be read: {error}"))?;
        let kept = notes.get(&0, 0).map_err(|error| format!("its notes cannot be read: {error}"))?;
        match kept.layout {
            LAYOUT => Ok(Some(kept)),
            0 => Err("it is not complete".to_owned()),
            other => Err(format!("its layout has version {other}, this agent knows {LAYOUT}")),
        }
    }

    /// Removes every file that an agent made. The program ends, if there is one.
    ///
    /// # Errors
    ///
    /// If one cannot be removed.
    pub(super) fn clear(&self) -> Result<(), PinsError> {
        FILES.iter().try_for_each(|name| self.remove_file(name))
    }

    /// Removes the link and the program: the program ends, what it has kept stays.
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

    /// What a person has to know of it, of an agent that asked for so many sockets and such a ring buffer.
    pub fn sentences(&self, max_sockets: u32, ring_bytes: u32) -> Vec<String> {
        let dir = self.pins.dir.display();
        let mut said = Vec::new();
        if let Adoption::Replaced { why } = &self.adoption {
            said.push(format!(
                "what an earlier agent had pinned in {dir} was removed, {why}: sockets that were there have an age \
                 between two bounds"
            ));
        }
        for (what, asked, kept) in
            [("--max-sockets", max_sockets, self.kept.max_sockets), ("--ring-buffer", ring_bytes, self.kept.ring_bytes)]
        {
            if asked != kept {
                said.push(format!(
                    "{what} stays {kept} and not {asked}, as pinned in {dir}; to change it, end the agent and remove \
                     what is pinned: closewait run --unpin"
                ));
            }
        }
        said
    }
}

/// Does `work` on a thread that can be left behind if a file system along the path hangs.
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
    fn a_directory_without_a_parent_is_said() {
        let error = Pins::open(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(error.to_string().starts_with("statfs of /nowhere/at/all failed"), "{error}");
    }
}
