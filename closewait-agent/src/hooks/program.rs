//! Which programs are run: only those that nobody but root or the agent's user can change.

use std::{
    ffi::CString,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::HookEventKind;
use crate::host::in_time::{CallFailure, START_PATIENCE, call, in_time};

/// Others may write.
const OTHERS_WRITE: u32 = 0o002;
/// Of a folder: who may write may still not touch what belongs to others.
const STICKY: u32 = 0o1000;

/// Why a program is not one to run.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// It is not there.
    #[error("{call} of {} failed: {error}; give the path of a program, without arguments: a script can have them", path.display())]
    Missing {
        /// The system call.
        call: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Its file system does not answer.
    #[error("{} cannot be looked at; see to its file system, or put the program on another", path.display())]
    Unanswered {
        /// Which.
        path: PathBuf,
        /// Which call, and how long it was waited for.
        #[source]
        why: CallFailure,
    },
    /// It is a folder or the like.
    #[error("{} is not a file; give the path of a program", .0.display())]
    NoFile(PathBuf),
    /// It cannot be run.
    #[error("{} cannot be run by this user: access(X_OK) failed: {error}; chmod +x it", path.display())]
    NotExecutable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Anybody can write to it, or replace it.
    #[error(
        "everybody may write to {}, and so choose what runs with this agent's rights; chmod o-w it, or put the program \
         elsewhere", .0.display()
    )]
    OthersWrite(PathBuf),
    /// Its owner can write to it, or replace it.
    #[error(
        "{} belongs to user {owner}, who could choose what runs with this agent's rights; chown it to root, or put the \
         program elsewhere", path.display()
    )]
    OthersOwn {
        /// The file, or a folder above it.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
}

/// Programs of hooks, each checked to be executable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookPrograms {
    /// For sockets that get stuck.
    pub stuck: Option<PathBuf>,
    /// For groups that grow.
    pub pileup: Option<PathBuf>,
}

impl HookPrograms {
    /// Looks at each and keeps where it is, links followed.
    ///
    /// # Errors
    ///
    /// If one is not there, cannot be run, others could change it, or its file system does not answer within two seconds.
    pub fn find(stuck: Option<&Path>, pileup: Option<&Path>) -> Result<Self, ProgramError> {
        let find = |path: &Path| {
            let owned = path.to_owned();
            in_time(path, START_PATIENCE, move || find(&owned), drop)
                .unwrap_or_else(|why| Err(ProgramError::Unanswered { path: path.to_owned(), why }))
        };
        Ok(Self { stuck: stuck.map(find).transpose()?, pileup: pileup.map(find).transpose()? })
    }

    /// The program for an event.
    pub(super) fn of(&self, kind: HookEventKind) -> Option<&Path> {
        match kind {
            HookEventKind::Stuck => self.stuck.as_deref(),
            HookEventKind::Pileup => self.pileup.as_deref(),
        }
    }
}

/// Where a program is, if it is one to run. Waits for its file system.
pub(super) fn find(path: &Path) -> Result<PathBuf, ProgramError> {
    // SAFETY: takes nothing and cannot fail.
    find_for(path, unsafe { libc::geteuid() })
}

fn find_for(path: &Path, user: u32) -> Result<PathBuf, ProgramError> {
    let missing = |call| move |error| ProgramError::Missing { call, path: path.to_owned(), error };
    call("realpath");
    let path = fs::canonicalize(path).map_err(missing("realpath"))?;
    call("stat");
    if !fs::metadata(&path).map_err(missing("stat"))?.is_file() {
        return Err(ProgramError::NoFile(path));
    }
    // Whoever can write to a folder can put another file in the place of this one.
    for part in path.ancestors() {
        let found = fs::metadata(part).map_err(missing("stat"))?;
        let shields = found.is_dir() && found.mode() & STICKY != 0;
        if found.mode() & OTHERS_WRITE != 0 && !shields {
            return Err(ProgramError::OthersWrite(part.to_owned()));
        }
        if found.uid() != 0 && found.uid() != user {
            return Err(ProgramError::OthersOwn { path: part.to_owned(), owner: found.uid() });
        }
    }
    call("access");
    match executable(&path) {
        Ok(()) => Ok(path),
        Err(error) => Err(ProgramError::NotExecutable { path, error }),
    }
}

fn executable(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends in a zero and outlives the call.
    match unsafe { libc::access(path.as_ptr(), libc::X_OK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _, process};

    use super::*;

    /// A folder with a program in it, gone after the test.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("closewait-program-{}-{name}", process::id()));
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("hook"), "#!/bin/sh\n").unwrap();
            let place = Self(folder);
            place.set("hook", 0o755);
            place.set("", 0o755);
            place
        }

        fn set(&self, name: &str, mode: u32) {
            fs::set_permissions(self.0.join(name), Permissions::from_mode(mode)).unwrap();
        }

        fn find(&self) -> Result<PathBuf, ProgramError> {
            find(&self.0.join("hook"))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _left = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_program_of_ones_own_is_found_by_any_path() {
        let place = Place::new("own");
        let found = place.find().unwrap();
        std::os::unix::fs::symlink("hook", place.0.join("link")).unwrap();
        assert_eq!(find(&place.0.join("link")).unwrap(), found);
        assert_eq!(find(&place.0.join("../").join(place.0.file_name().unwrap()).join("hook")).unwrap(), found);
    }

    #[test]
    fn what_is_no_program_is_refused_with_what_to_do() {
        let place = Place::new("none");
        let error = find(&place.0.join("hook --with arguments")).unwrap_err();
        assert!(matches!(&error, ProgramError::Missing { call: "realpath", .. }));
        assert!(error.to_string().contains("without arguments"), "{error}");
        assert!(matches!(find(&place.0), Err(ProgramError::NoFile(_))));
        place.set("hook", 0o644);
        assert!(matches!(place.find(), Err(ProgramError::NotExecutable { .. })));
    }

    #[test]
    fn what_others_can_write_or_replace_is_refused() {
        let place = Place::new("others");
        place.set("hook", 0o757);
        assert!(matches!(place.find(), Err(ProgramError::OthersWrite(path)) if path.ends_with("hook")));
        place.set("hook", 0o755);
        place.set("", 0o777);
        assert!(matches!(place.find(), Err(ProgramError::OthersWrite(path)) if !path.ends_with("hook")));
        // As in /tmp: nobody but its owner replaces the file.
        place.set("", 0o1777);
        assert!(place.find().is_ok());
    }

    #[test]
    fn what_belongs_to_somebody_else_is_refused() {
        let place = Place::new("foreign");
        let owner = fs::metadata(&place.0).unwrap().uid();
        if owner == 0 {
            std::os::unix::fs::chown(place.0.join("hook"), Some(4711), None).unwrap();
            assert!(matches!(place.find(), Err(ProgramError::OthersOwn { owner: 4711, .. })));
            assert!(find_for(&place.0.join("hook"), 4711).is_ok());
        } else {
            let refused = find_for(&place.0.join("hook"), owner + 1);
            assert!(matches!(refused, Err(ProgramError::OthersOwn { .. })));
        }
    }
}
