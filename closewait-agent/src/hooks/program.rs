//! Programs of hooks: only those that no user except root and the agent's can change.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, access},
    process::geteuid,
};
use thiserror::Error;

use super::HookEventKind;
use crate::host::{
    foreign_writer::{CheckError, ForeignWriter, foreign_writer},
    in_time::{CallFailure, START_PATIENCE, call, in_time},
};

/// Reason why a program cannot be a hook.
#[derive(Debug, Error)]
pub enum HookProgramError {
    /// The program does not exist.
    #[error("{call} of {} failed: {error}\nhint: give the path of a program, without arguments: a script can have them", path.display())]
    Missing {
        /// Name of the system call.
        call: &'static str,
        /// Path of the program.
        path: PathBuf,
        /// Error of the system.
        error: io::Error,
    },
    /// The program's file system does not answer.
    #[error("{} cannot be checked\nhint: check its file system, or put the program on another one", path.display())]
    Unanswered {
        /// Path of the program.
        path: PathBuf,
        /// System call that did not answer, and its duration.
        #[source]
        why: CallFailure,
    },
    /// The path is a folder or another non-file.
    #[error("{} is not a file\nhint: give the path of a program", .0.display())]
    NoFile(PathBuf),
    /// The program is not executable.
    #[error("this user cannot run {}: access(X_OK) failed: {error}\nhint: make it executable: chmod +x", path.display())]
    NotExecutable {
        /// Path of the program.
        path: PathBuf,
        /// Error of the system.
        error: io::Error,
    },
    /// Any user can write to the file or to a folder above it.
    #[error(
        "any user may write to {}, and so choose what runs with this agent's privileges\n\
         hint: remove that permission (chmod o-w), or put the program elsewhere", .0.display()
    )]
    OthersWrite(PathBuf),
    /// A user or group of the access control list can write to the file or to a folder above it.
    #[error(
        "{who} may write to {} by its access control list, and so choose what runs with this agent's privileges\n\
         hint: remove that permission (setfacl -b), or put the program elsewhere", path.display()
    )]
    ListedWrite {
        /// The file, or a folder above it.
        path: PathBuf,
        /// User or group that may write to it.
        who: String,
    },
    /// The owner of the file, or of a folder above it, can write to it.
    #[error(
        "{} belongs to user {owner}, who could choose what runs with this agent's privileges\n\
         hint: change its owner to root (chown), or put the program elsewhere", path.display()
    )]
    OthersOwn {
        /// The file, or a folder above it.
        path: PathBuf,
        /// Owner of the file or folder.
        owner: u32,
    },
}

/// Programs of hooks, each checked to be executable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookPrograms {
    /// Program for sockets that get stuck.
    pub stuck: Option<PathBuf>,
    /// Program for groups that grow.
    pub pileup: Option<PathBuf>,
}

impl HookPrograms {
    /// Checks each program, and stores its path with links resolved.
    ///
    /// # Errors
    ///
    /// Each setting whose program does not exist, is not executable, can be changed by other users, or whose file system
    /// does not answer within two seconds.
    pub fn find(stuck: Option<&Path>, pileup: Option<&Path>) -> Result<Self, Vec<(&'static str, HookProgramError)>> {
        let mut errors = Vec::new();
        let mut find = |setting, path: Option<&Path>| {
            let path = path?;
            let found = in_time(path, START_PATIENCE, find, drop)
                .unwrap_or_else(|why| Err(HookProgramError::Unanswered { path: path.to_owned(), why }));
            found.map_err(|error| errors.push((setting, error))).ok()
        };
        let programs = Self { stuck: find("on-stuck", stuck), pileup: find("on-pileup", pileup) };
        if errors.is_empty() { Ok(programs) } else { Err(errors) }
    }

    /// Returns the program for an event.
    pub(super) fn of(&self, kind: HookEventKind) -> Option<&Path> {
        match kind {
            HookEventKind::Stuck => self.stuck.as_deref(),
            HookEventKind::Pileup => self.pileup.as_deref(),
        }
    }
}

/// Returns the resolved path of a program, if it may be run. Waits for its file system.
pub(super) fn find(path: &Path) -> Result<PathBuf, HookProgramError> {
    // SAFETY: takes nothing and cannot fail.
    find_for(path, geteuid().as_raw())
}

fn find_for(path: &Path, user: u32) -> Result<PathBuf, HookProgramError> {
    let missing = |call| move |error| HookProgramError::Missing { call, path: path.to_owned(), error };
    call("realpath");
    let path = fs::canonicalize(path).map_err(missing("realpath"))?;
    call("stat");
    if !fs::metadata(&path).map_err(missing("stat"))?.is_file() {
        return Err(HookProgramError::NoFile(path));
    }
    let writer = foreign_writer(&path, user).map_err(|CheckError { call, error }| missing(call)(error))?;
    match writer {
        None => {}
        Some((path, ForeignWriter::Any)) => return Err(HookProgramError::OthersWrite(path)),
        Some((path, ForeignWriter::Listed(who))) => return Err(HookProgramError::ListedWrite { path, who }),
        Some((path, ForeignWriter::Owner(owner))) => return Err(HookProgramError::OthersOwn { path, owner }),
    }
    call("access");
    match executable(&path) {
        Ok(()) => Ok(path),
        Err(error) => Err(HookProgramError::NotExecutable { path, error }),
    }
}

fn executable(path: &Path) -> io::Result<()> {
    Ok(access(path, Access::EXEC_OK)?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _},
        process,
    };

    use rustix::{
        fs::{XattrFlags, removexattr, setxattr},
        io::Errno,
    };

    use super::*;
    use crate::host::foreign_writer::testing::access_list;

    /// Folder with a program in it, removed after the test.
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

        fn find(&self) -> Result<PathBuf, HookProgramError> {
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
        assert!(matches!(&error, HookProgramError::Missing { call: "realpath", .. }));
        assert!(error.to_string().contains("without arguments"), "{error}");
        assert!(matches!(find(&place.0), Err(HookProgramError::NoFile(_))));
        place.set("hook", 0o644);
        assert!(matches!(place.find(), Err(HookProgramError::NotExecutable { .. })));
    }

    #[test]
    fn what_others_can_write_or_replace_is_refused() {
        let place = Place::new("others");
        place.set("hook", 0o757);
        assert!(matches!(place.find(), Err(HookProgramError::OthersWrite(path)) if path.ends_with("hook")));
        place.set("hook", 0o755);
        place.set("", 0o777);
        assert!(matches!(place.find(), Err(HookProgramError::OthersWrite(path)) if !path.ends_with("hook")));
        // As in /tmp: only its owner can replace the file.
        place.set("", 0o1777);
        assert!(place.find().is_ok());
    }

    #[test]
    fn what_a_listed_user_can_write_or_replace_is_refused() {
        let place = Place::new("listed");
        let list = access_list(&[(2, 7, 65534), (0x10, 7, u32::MAX)]);
        for name in ["hook", ""] {
            let (path, attribute) = (place.0.join(name), "system.posix_acl_access");
            match setxattr(&path, attribute, &list, XattrFlags::empty()) {
                Err(Errno::OPNOTSUPP) => return,
                set => set.unwrap(),
            }
            let refused = place.find().unwrap_err();
            assert!(matches!(&refused, HookProgramError::ListedWrite { who, .. } if who == "user 65534"), "{refused}");
            removexattr(&path, attribute).unwrap();
            assert!(place.find().is_ok());
        }
    }

    #[test]
    fn a_program_of_another_user_is_refused() {
        let place = Place::new("foreign");
        let owner = fs::metadata(&place.0).unwrap().uid();
        if owner == 0 {
            std::os::unix::fs::chown(place.0.join("hook"), Some(4711), None).unwrap();
            assert!(matches!(place.find(), Err(HookProgramError::OthersOwn { owner: 4711, .. })));
            assert!(find_for(&place.0.join("hook"), 4711).is_ok());
        } else {
            let refused = find_for(&place.0.join("hook"), owner + 1);
            assert!(matches!(refused, Err(HookProgramError::OthersOwn { .. })));
        }
    }
}
