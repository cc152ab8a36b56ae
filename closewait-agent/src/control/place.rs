//! Socket file: created with the right mode, never in place of another file, removed only by its creator.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, RenameFlags, fchmod, open, renameat_with},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with},
};

use super::{
    error::{ControlError, MAX_SOCKET_PATH},
    peer::{OTHERS_WRITE, folder_of, own_user},
};
use crate::host::in_time::{CallFailure, InTime, START_PATIENCE, call, in_time};

/// Mode of a created folder: any user may see that no agent runs.
const FOLDER_MODE: u32 = 0o755;
/// Mode bit of a folder: users with write access cannot change files of others.
const STICKY: u32 = 0o1000;
/// Maximum number of connections that wait for the agent in the kernel.
const BACKLOG: i32 = 128;
/// Maximum number of attempts while other processes create and remove the file.
const MAX_TRIES: usize = 5;

/// File of a UNIX socket that this process has bound.
#[derive(Clone, Debug)]
pub struct SocketFile {
    path: PathBuf,
    file: FileId,
}

/// Identity of a file, unique on the host while the file exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    /// Time of the last change of the content, which for a socket is its bind: inode numbers are reused.
    modified: (i64, i64),
}

impl FileId {
    fn of(found: &fs::Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino(), modified: (found.mtime(), found.mtime_nsec()) }
    }
}

/// Listener, its file, and warnings about the folder.
pub(super) type Occupied = (UnixListener, SocketFile, Vec<String>);

/// Runs [`occupy`] without waiting for a file system that does not answer.
pub(super) fn occupy_in_time(path: &Path, mode: u32) -> Result<Occupied, ControlError> {
    let undo = |late: Result<Occupied, _>| {
        if let Ok((_listener, file, _doubts)) = late {
            file.leave();
        }
    };
    in_time(path, START_PATIENCE, move |path| occupy(path, mode), undo)
        .unwrap_or_else(|why| Err(ControlError::Unanswered { path: path.to_owned(), why, asked: false }))
}

/// Listens at `path`, on a socket with this mode. Replaces a socket that an agent of the own user or of root has left behind; leaves any other
/// file unchanged. Returns, with the listener, warnings about the folder.
fn occupy(path: &Path, mode: u32) -> Result<Occupied, ControlError> {
    let failed = |call| move |error| ControlError::Listen { call, path: path.to_owned(), error };
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(ControlError::TooLong { path: path.to_owned() });
    }
    create_folder(folder_of(path))?;
    let socket = new_socket().map_err(failed("socket"))?;
    // The file gets the mode of the socket's own inode (`unix_bind_bsd`, net/unix/af_unix.c, v6.18), so it never has
    // another one. The umask can only remove bits.
    fchmod(&socket, Mode::from_raw_mode(mode)).map_err(|error| failed("fchmod")(error.into()))?;
    let address = SocketAddrUnix::new(path).map_err(|error| failed("bind")(error.into()))?;
    for _ in 0..MAX_TRIES {
        call("lstat");
        match fs::symlink_metadata(path) {
            Ok(found) => clear(path, &found)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("lstat")(error)),
        }
        call("bind");
        match bind(&socket, &address) {
            Ok(()) => return finish(path, socket, mode),
            // Another process was faster; check which.
            Err(Errno::ADDRINUSE) => {}
            Err(error) => return Err(failed("bind")(error.into())),
        }
    }
    Err(failed("bind")(Errno::ADDRINUSE.into()))
}

/// Gives the bound socket its mode, and only then accepts connections.
fn finish(path: &Path, socket: OwnedFd, mode: u32) -> Result<Occupied, ControlError> {
    let failed = |call| move |error| ControlError::Listen { call, path: path.to_owned(), error };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    call("open");
    let file = File::from(open(path, flags, Mode::empty()).map_err(|error| failed("open")(error.into()))?);
    let found = file.metadata().map_err(failed("fstat"))?;
    if found.mode() & 0o7777 != mode {
        // By the descriptor: another file may be at the path by now.
        let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::set_permissions(itself, Permissions::from_mode(mode)).map_err(failed("chmod"))?;
    }
    listen(&socket, BACKLOG).map_err(|error| failed("listen")(error.into()))?;
    let place = SocketFile { path: path.to_owned(), file: FileId::of(&found) };
    call("lstat");
    // Before `listen`, an agent that started at the same time may have taken this socket for a stale one.
    if !place.is_there() {
        return Err(ControlError::Taken { path: path.to_owned() });
    }
    Ok((UnixListener::from(socket), place, warnings(path)))
}

impl SocketFile {
    /// Whether the file is at its path.
    fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| FileId::of(&found) == self.file)
    }

    /// Starts the removal of the file on a new thread, unless another file is at its path.
    ///
    /// # Errors
    ///
    /// If the kernel refuses another thread, or too many wait for file systems already.
    pub fn begin_to_leave(self) -> Result<InTime<()>, CallFailure> {
        let path = self.path.clone();
        InTime::begin(&path, move |_path| self.leave(), drop)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file, unless another one is at its path.
    fn leave(&self) {
        if let Err(error) = remove(&self.path, self.file) {
            log::debug!("the socket {} stays: {error}", self.path.display());
        }
    }
}

/// Creates a non-blocking stream socket.
pub(super) fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// Removes the stale socket at `path`, which has the metadata `found`.
fn clear(path: &Path, found: &fs::Metadata) -> Result<(), ControlError> {
    let failed = |call| move |error| ControlError::Listen { call, path: path.to_owned(), error };
    if let Some(what) = other_than_socket(found.file_type()) {
        return Err(ControlError::Occupied { path: path.to_owned(), what });
    }
    let owner = found.uid();
    if owner != 0 && owner != own_user() {
        return Err(ControlError::Foreign { path: path.to_owned(), owner });
    }
    let address = SocketAddrUnix::new(path).map_err(|error| failed("connect")(error.into()))?;
    call("connect");
    match new_socket().map(|socket| connect(&socket, &address)).map_err(failed("socket"))? {
        // Only a listening socket has a full backlog.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => return Err(ControlError::Taken { path: path.to_owned() }),
        Err(Errno::CONNREFUSED) => {}
        // The socket was removed meanwhile.
        Err(Errno::NOENT) => return Ok(()),
        // It belongs to root, and this process is not root.
        Err(Errno::ACCESS) => return Err(ControlError::Foreign { path: path.to_owned(), owner }),
        Err(error) => return Err(failed("connect")(error.into())),
    }
    remove(path, FileId::of(found)).map_err(failed("removing the socket that was left behind"))
}

/// Returns the type of a file with its article, if it is no socket.
fn other_than_socket(kind: fs::FileType) -> Option<&'static str> {
    if kind.is_socket() {
        return None;
    }
    Some(if kind.is_file() {
        "a regular file"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a FIFO"
    } else {
        "a device"
    })
}

/// Removes the file at `path` only if it is this one: moves it aside, checks it there, and moves it back if it is
/// another. Neither move replaces a file.
fn remove(path: &Path, file: FileId) -> io::Result<()> {
    let is_it = |path: &Path| {
        call("lstat");
        fs::symlink_metadata(path).is_ok_and(|found| FileId::of(&found) == file)
    };
    if !is_it(path) {
        return Ok(());
    }
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.left", std::process::id()));
    let aside = folder_of(path).join(name);
    call("renameat2");
    renameat_with(CWD, path, CWD, &aside, RenameFlags::NOREPLACE)?;
    if is_it(&aside) {
        call("unlink");
        return fs::remove_file(&aside);
    }
    renameat_with(CWD, &aside, CWD, path, RenameFlags::NOREPLACE).map_err(|error| {
        let why = format!("what was at {} is at {} now: {error}", path.display(), aside.display());
        io::Error::other(why)
    })
}

/// Creates the folder and its parents, with the right mode for any umask.
fn create_folder(folder: &Path) -> Result<(), ControlError> {
    let failed = |call| move |error| ControlError::Listen { call, path: folder.to_owned(), error };
    call("stat");
    match fs::metadata(folder) {
        Ok(_there) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("stat")(error)),
    }
    create_folder(folder_of(folder))?;
    call("mkdir");
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(failed("mkdir")(error)),
    }
    call("open");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let created = File::from(open(folder, flags, Mode::empty()).map_err(|error| failed("open")(error.into()))?);
    created.set_permissions(Permissions::from_mode(FOLDER_MODE)).map_err(failed("fchmod"))
}

/// Returns which users can replace the socket at `path`, one sentence each.
fn warnings(path: &Path) -> Vec<String> {
    let folder = folder_of(path);
    call("stat");
    let Ok(found) = fs::metadata(folder) else { return Vec::new() };
    let (owner, mode, shown) = (found.uid(), found.mode(), folder.display());
    let mut warnings = Vec::new();
    if owner != 0 && owner != own_user() {
        warnings.push(format!(
            "control socket: {shown} belongs to user {owner}, who can replace the socket; use a folder of its own"
        ));
    }
    if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
        warnings.push(format!(
            "control socket: users other than its owner may write to {shown} (mode {:04o}) and can replace the socket; use a \
             folder of its own",
            mode & 0o7777
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use std::os::unix::{ffi::OsStrExt as _, net::UnixDatagram};

    use super::*;
    use crate::control::SOCKET_MODE;

    /// Folder that is removed after the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("closewait-place-{}-{name}", std::process::id()));
            fs::create_dir(&folder).unwrap();
            fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
            Self(folder)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("agent.sock")
        }

        fn names(&self) -> Vec<OsString> {
            let mut names: Vec<_> = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _left = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn occupy_control(path: &Path) -> Result<Occupied, ControlError> {
        occupy(path, SOCKET_MODE)
    }

    #[test]
    fn a_socket_that_was_left_behind_is_replaced_and_nothing_else_is_left() {
        let folder = Folder::new("stale");
        drop(UnixListener::bind(folder.socket()).unwrap());
        let (_listener, place, warnings) = occupy_control(&folder.socket()).unwrap();
        assert_eq!((mode(&folder.socket()), warnings), (0o600, vec![]));
        assert_eq!(folder.names(), ["agent.sock"]);
        place.leave();
        assert!(folder.names().is_empty());
    }

    #[test]
    fn whatever_is_no_stale_socket_stays_and_is_named() {
        let folder = Folder::new("others");
        let path = folder.socket();
        let refused = || occupy_control(&path).unwrap_err().to_string();

        fs::write(&path, "precious").unwrap();
        let error = refused();
        assert!(error.contains("is a regular file") && error.contains("hint: "), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();

        // A link to a stale socket, or to nothing, too.
        drop(UnixListener::bind(folder.0.join("other.sock")).unwrap());
        for target in ["other.sock", "nothing"] {
            std::os::unix::fs::symlink(target, &path).unwrap();
            assert!(refused().contains("is a symbolic link"));
            assert_eq!(fs::read_link(&path).unwrap(), Path::new(target));
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(folder.names(), ["other.sock"], "a dangling link is not followed by bind either");

        fs::create_dir(&path).unwrap();
        assert!(refused().contains("is a folder"));
        fs::remove_dir(&path).unwrap();

        rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(refused().contains("is a FIFO"));
        fs::remove_file(&path).unwrap();

        let _other_kind = UnixDatagram::bind(&path).unwrap();
        assert!(refused().contains("another agent"), "somebody has it open");
        assert_eq!(folder.names(), ["agent.sock", "other.sock"]);
    }

    #[test]
    fn a_socket_of_another_user_stays() {
        let folder = Folder::new("foreign");
        drop(UnixListener::bind(folder.socket()).unwrap());
        if std::os::unix::fs::chown(folder.socket(), Some(4711), None).is_err() {
            return;
        }
        let error = occupy_control(&folder.socket()).unwrap_err();
        assert!(matches!(error, ControlError::Foreign { owner: 4711, .. }), "{error}");
        assert_eq!(folder.names(), ["agent.sock"]);
    }

    #[test]
    fn a_socket_with_a_full_backlog_is_in_use() {
        let folder = Folder::new("full");
        let socket = new_socket().unwrap();
        let address = SocketAddrUnix::new(folder.socket()).unwrap();
        bind(&socket, &address).unwrap();
        listen(&socket, 0).unwrap();
        let waiting = new_socket().unwrap();
        connect(&waiting, &address).unwrap();
        assert!(matches!(occupy_control(&folder.socket()), Err(ControlError::Taken { .. })));
    }

    #[test]
    fn only_the_own_file_is_removed_at_the_end() {
        let folder = Folder::new("next");
        let (_first_listener, first, _) = occupy_control(&folder.socket()).unwrap();
        fs::remove_file(folder.socket()).unwrap();
        let (_second_listener, second, _) = occupy_control(&folder.socket()).unwrap();
        first.leave();
        assert!(second.is_there());
        second.leave();
        assert!(folder.names().is_empty());
        // And no other file that has appeared there.
        let (_listener, third, _) = occupy_control(&folder.socket()).unwrap();
        fs::remove_file(folder.socket()).unwrap();
        fs::write(folder.socket(), "precious").unwrap();
        third.leave();
        assert_eq!(fs::read(folder.socket()).unwrap(), b"precious");
    }

    #[test]
    fn a_file_that_appears_between_check_and_removal_is_moved_back() {
        let folder = Folder::new("between");
        drop(UnixListener::bind(folder.socket()).unwrap());
        let stale = FileId::of(&fs::symlink_metadata(folder.socket()).unwrap());
        fs::remove_file(folder.socket()).unwrap();
        fs::write(folder.socket(), "precious").unwrap();
        remove(&folder.socket(), stale).unwrap();
        assert_eq!(fs::read(folder.socket()).unwrap(), b"precious");
        assert_eq!(folder.names(), ["agent.sock"]);
    }

    #[test]
    fn folders_are_created_closed_to_writers() {
        let folder = Folder::new("deep");
        let path = folder.0.join("a/b/agent.sock");
        let (_listener, place, warnings) = occupy_control(&path).unwrap();
        assert_eq!((mode(&folder.0.join("a")), mode(&folder.0.join("a/b")), mode(&path)), (0o755, 0o755, 0o600));
        assert!(warnings.is_empty());
        place.leave();
        assert!(folder.0.join("a/b").exists());
    }

    #[test]
    fn a_folder_that_others_can_change_is_named() {
        let folder = Folder::new("open");
        let with = |mode| {
            fs::set_permissions(&folder.0, Permissions::from_mode(mode)).unwrap();
            let (_listener, place, warnings) = occupy_control(&folder.socket()).unwrap();
            place.leave();
            warnings
        };
        let warnings = with(0o777);
        assert!(warnings.len() == 1 && warnings[0].contains("mode 0777"), "{warnings:?}");
        assert_eq!(with(0o1777), Vec::<String>::new(), "in a sticky folder files of others cannot be replaced");
        assert!(with(0o775)[0].contains("mode 0775"));
        if std::os::unix::fs::chown(&folder.0, Some(4711), None).is_ok() {
            let warnings = with(0o755);
            assert!(warnings.len() == 1 && warnings[0].contains("belongs to user 4711"), "{warnings:?}");
        }
    }

    #[test]
    fn a_path_that_fits_no_address_is_refused_and_the_longest_that_fits_is_not() {
        let folder = Folder::new("long");
        let of_length = |length: usize| {
            let path = folder.0.as_os_str().as_bytes().len() + 1;
            folder.0.join("x".repeat(length - path))
        };
        let (_listener, place, _) = occupy_control(&of_length(MAX_SOCKET_PATH)).unwrap();
        place.leave();
        let error = occupy_control(&of_length(MAX_SOCKET_PATH + 1)).unwrap_err();
        assert!(matches!(&error, ControlError::TooLong { .. }), "{error}");
        assert!(error.to_string().contains("108 bytes") && error.to_string().contains("shorter"), "{error}");
        assert!(folder.names().is_empty());
    }
}
