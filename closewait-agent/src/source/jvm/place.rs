//! Files of the attach protocol in the `/tmp` of a process.
//!
//! Everybody in its container can write there. Nothing is opened through a link, what is there has to belong to the process's user, and
//! the socket is reached by the descriptor that was checked.

use std::{
    fs::File,
    hash::{BuildHasher as _, RandomState},
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, mknodat, openat, statat, unlinkat},
    io::Errno,
};

use super::{AttachError, target::Hotspot};
use crate::host::proc;

/// Folder of the files of the protocol, which no option changes (`os::get_temp_directory`, os_linux.cpp).
const FOLDER: &str = "tmp";

/// `/tmp` of a process, as it sees it itself.
pub(super) struct AttachFolder {
    folder: File,
    inner_pid: u32,
    user: u32,
}

impl AttachFolder {
    pub(super) fn of(target: &Hotspot) -> Result<Self, AttachError> {
        let folder = proc::folder_in_root(&target.folder, FOLDER).map_err(AttachError::unreadable("its /tmp"))?;
        let folder = folder.ok_or(AttachError::Unresponsive)?;
        Ok(Self { folder, inner_pid: target.inner_pid, user: target.user })
    }

    /// Returns the socket at which the process listens; `None` if there is none yet.
    pub(super) fn socket(&self) -> Result<Option<File>, AttachError> {
        let name = format!(".java_pid{}", self.inner_pid);
        let socket = match openat(&self.folder, &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        {
            Ok(socket) => File::from(socket),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(AttachError::Unreadable { what: "its socket", error: error.into() }),
        };
        let found = socket.metadata().map_err(AttachError::unreadable("its socket"))?;
        if found.file_type().is_socket() && found.uid() == self.user {
            Ok(Some(socket))
        } else {
            Err(AttachError::Foreign { name })
        }
    }

    /// Makes a pipe into which the process writes what is too much for an answer, and opens its end for reads. A file would take space,
    /// and its size would be the process's choice.
    pub(super) fn pipe(&self) -> Result<PlacedFile<'_>, AttachError> {
        let failed = |error: Errno| AttachError::Unreadable { what: "making a pipe in its /tmp", error: error.into() };
        let random = [0, 1].map(|part: u64| RandomState::new().hash_one(part));
        let name = format!(".closewait-{:016x}{:016x}", random[0], random[1]);
        mknodat(&self.folder, &name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).map_err(failed)?;
        // Without `NONBLOCK` this would wait for a writer, and so would the process without this reader.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&self.folder, &name, flags, Mode::empty()).map_err(failed)?;
        Ok(PlacedFile { folder: &self.folder, name, made: Some(File::from(made)) })
    }

    /// Makes the file that tells the process to listen when it gets the signal (`AttachListener::is_init_trigger`).
    pub(super) fn trigger(&self) -> Result<PlacedFile<'_>, AttachError> {
        let name = format!(".attach_pid{}", self.inner_pid);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.folder, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => {
                let made = File::from(file);
                Ok(PlacedFile { folder: &self.folder, name, made: Some(made) })
            }
            // Another program attaches at this moment, or has left the file.
            Err(Errno::EXIST) => {
                let found = statat(&self.folder, &name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(AttachError::unreadable("its trigger"))?;
                if found.st_mode & libc::S_IFMT == libc::S_IFREG && found.st_uid == self.user {
                    Ok(PlacedFile { folder: &self.folder, name, made: None })
                } else {
                    Err(AttachError::Foreign { name })
                }
            }
            Err(error) => Err(AttachError::Unreadable { what: "making its trigger in /tmp", error: error.into() }),
        }
    }
}

/// File in the `/tmp` of the process. If this process has made it, it is removed when this is dropped.
pub(super) struct PlacedFile<'a> {
    folder: &'a File,
    name: String,
    made: Option<File>,
}

impl PlacedFile<'_> {
    /// Returns its path, as the process sees it.
    pub(super) fn path(&self) -> String {
        format!("/{FOLDER}/{}", self.name)
    }

    /// Returns the open file; `None` for a file of another program.
    pub(super) fn file(&self) -> Option<&File> {
        self.made.as_ref()
    }
}

impl Drop for PlacedFile<'_> {
    fn drop(&mut self) {
        let Some(made) = &self.made else { return };
        let is_ours = || {
            let (own, found) =
                (made.metadata().ok()?, statat(self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW).ok()?);
            Some(own.dev() == found.st_dev && own.ino() == found.st_ino)
        };
        if is_ours() == Some(true)
            && let Err(error) = unlinkat(self.folder, &self.name, AtFlags::empty())
        {
            log::warn!("removing /tmp/{}, as the process sees it, failed: {error}", self.name);
        }
    }
}

/// Returns the path of an open file, which leads to it and nowhere else.
pub(super) fn path_of(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::{
        fs, io,
        os::unix::{fs::symlink, net::UnixListener},
        path::PathBuf,
    };

    use super::*;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("closewait-attach-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn folder(&self) -> AttachFolder {
            let user = rustix::process::geteuid().as_raw();
            AttachFolder { folder: File::open(&self.0).unwrap(), inner_pid: 7, user }
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn only_a_socket_of_the_user_is_its_socket() {
        let place = Place::new("socket");
        let (folder, socket) = (place.folder(), place.0.join(".java_pid7"));
        assert!(folder.socket().unwrap().is_none());
        fs::write(&socket, "").unwrap();
        assert!(matches!(folder.socket(), Err(AttachError::Foreign { .. })));
        fs::remove_file(&socket).unwrap();
        let elsewhere = place.0.join("elsewhere");
        let _listens = UnixListener::bind(&elsewhere).unwrap();
        symlink(&elsewhere, &socket).unwrap();
        assert!(matches!(folder.socket(), Err(AttachError::Foreign { .. })), "a link is followed");
        fs::rename(&elsewhere, &socket).unwrap();
        let found = folder.socket().unwrap().unwrap();
        std::os::unix::net::UnixStream::connect(path_of(&found)).unwrap();
        let others = AttachFolder { user: folder.user + 1, ..place.folder() };
        assert!(matches!(others.socket(), Err(AttachError::Foreign { .. })));
    }

    #[test]
    fn a_pipe_is_read_and_removed() {
        let place = Place::new("pipe");
        let folder = place.folder();
        let (pipe, other) = (folder.pipe().unwrap(), folder.pipe().unwrap());
        assert_ne!(pipe.path(), other.path());
        drop(other);
        let name = pipe.path().strip_prefix("/tmp/").unwrap().to_owned();
        fs::write(place.0.join(&name), "threads").unwrap();
        assert_eq!(io::read_to_string(pipe.file().unwrap()).unwrap(), "threads");
        drop(pipe);
        assert_eq!(fs::read_dir(&place.0).unwrap().count(), 0);
    }

    #[test]
    fn the_trigger_is_removed_and_that_of_others_is_not() {
        let place = Place::new("trigger");
        let (folder, file) = (place.folder(), place.0.join(".attach_pid7"));
        drop(folder.trigger().unwrap());
        assert_eq!(fs::metadata(&file).unwrap_err().kind(), io::ErrorKind::NotFound);
        let trigger = folder.trigger().unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
        // Somebody has put another file in its place.
        fs::remove_file(&file).unwrap();
        fs::write(&file, "").unwrap();
        drop(trigger);
        assert!(file.exists());
        drop(folder.trigger().unwrap());
        assert!(file.exists(), "it was there before");
        fs::remove_file(&file).unwrap();
        symlink("elsewhere", &file).unwrap();
        assert!(matches!(folder.trigger(), Err(AttachError::Foreign { .. })));
        assert!(!place.0.join("elsewhere").exists());
    }
}
