//! Opens files for recordings, without blocking, and without harm to existing files.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Seek as _, SeekFrom, Write},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, RawFd},
        unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::geteuid,
};
use thiserror::Error;

use super::{
    frame::{FrameKind, frame},
    reader::NAME,
};
use crate::{
    host::in_time::{CallFailure, call as begins, in_time},
    sink::write_fully,
};

/// Maximum time to open a file.
pub(super) const OPEN_PATIENCE: Duration = Duration::from_secs(3);
/// Mode of a recording: it has names of processes and addresses, for the agent's user only.
const MODE: u32 = 0o600;
/// Mode bits of all users but the owner.
const OTHERS: u32 = 0o077;
/// Maximum number of attempts to open a file that other processes remove and create meanwhile.
const MAX_ATTEMPTS: usize = 5;

/// Reason why a file cannot be recorded to or replayed.
#[derive(Debug, Error)]
pub enum FileError {
    /// A system call failed.
    #[error("{call} failed: {error}\nhint: {hint}")]
    Call {
        /// Name of the call.
        call: &'static str,
        /// Error of the system.
        error: io::Error,
        /// Action for the user.
        hint: &'static str,
    },
    /// The file belongs to another user, who could read or change it.
    #[error("it belongs to user {0}, who could read the recording\nhint: remove it, or name another file")]
    OtherOwner(u32),
    /// Other users may write to the directory, and could replace the recording.
    #[error(
        "other users may write to it, and could replace the recording\nhint: chmod go-w it, or name another directory"
    )]
    WritableByOthers,
    /// The path is a symbolic link.
    #[error("it is a symbolic link, which is not followed\nhint: name the file that it leads to")]
    Link,
    /// The file has other names.
    #[error("it has {0} names (hard links), and the recording would replace all of them\nhint: name another file")]
    OtherNames(u64),
    /// The file has other content.
    #[error("it is not empty and is no recording, so it stays as it is\nhint: remove it, or name another file")]
    SomethingElse,
    /// The path is a folder, a block device or a socket.
    #[error("it is {0}\nhint: name a file")]
    Kind(&'static str),
    /// The FIFO has no reader.
    #[error("it is a FIFO without a reader\nhint: start its reader first")]
    NoReader,
    /// The FIFO has no writer.
    #[error("the pipe is empty and has no writer\nhint: start its writer first")]
    NoWriter,
    /// The descriptor was not passed to this process.
    #[error("descriptor {0} was not handed to this process for writing\nhint: in bash, `--record >(COMMAND)` does")]
    Descriptor(RawFd),
    /// Another agent records to the file.
    #[error("another agent records to it\nhint: name another file")]
    InUse,
    /// Another process replaces the file repeatedly.
    #[error("another process removed and created it again\nhint: name a file in a folder of your own")]
    Replaced,
    /// The file system does not answer.
    #[error("{0}\nhint: check its file system (`stat FILE` shows whether it answers), or name a file on another one")]
    Unanswered(#[from] CallFailure),
}

pub(super) fn call(call: &'static str, hint: &'static str) -> impl Fn(io::Error) -> FileError {
    move |error| FileError::Call { call, error, hint }
}

/// Destination of a recording: only whole frames, as far as possible.
#[derive(Debug)]
pub(super) struct Destination {
    file: File,
    /// Number of bytes in whole frames, in a file without other content.
    whole: Option<u64>,
}

impl Destination {
    /// Opens the file, FIFO, character device or inherited descriptor `path`. Does not wait for a file system that
    /// does not answer.
    pub(super) fn create(path: &Path) -> Result<Self, FileError> {
        in_time(path, OPEN_PATIENCE, create, drop)?
    }

    /// Removes the bytes after the last whole frame, after a failed write, and adds a frame that says that no more
    /// could be written, if there is space.
    fn end_at_whole_frame(&mut self) -> io::Result<()> {
        let Some(whole) = self.whole.take() else { return Ok(()) };
        self.file.set_len(whole)?;
        self.file.seek(SeekFrom::Start(whole))?;
        self.file.write_all(&frame(FrameKind::Unwritten, &[], whole).unwrap_or_default())
    }
}

impl Write for Destination {
    /// Writes a whole frame.
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        if let Err(error) = write_fully(&mut self.file, frame) {
            // The first error counts.
            let _failed: io::Result<()> = self.end_at_whole_frame();
            return Err(error);
        }
        if let Some(whole) = &mut self.whole {
            *whole += u64::try_from(frame.len()).unwrap_or(u64::MAX);
        }
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Destination {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn create(path: &Path) -> Result<Destination, FileError> {
    if let Some(number) = descriptor(path) {
        return inherited(number).map(|file| Destination { file, whole: None });
    }
    for _ in 0..MAX_ATTEMPTS {
        begins("open");
        match options().create_new(true).mode(MODE).open(path) {
            Ok(file) => return own(file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => {
                return Err(call("open", "check that its folder exists, and that you may write to it")(source));
            }
        }
        match open_existing(path)? {
            Existing::Taken(destination) => return Ok(destination),
            Existing::Gone => {}
        }
    }
    Err(FileError::Replaced)
}

/// Returns options for writing, without following a link and without blocking.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    options
}

/// Prepares a file that was created, for any umask.
fn own(file: File) -> Result<Destination, FileError> {
    begins("fchmod");
    file.set_permissions(Permissions::from_mode(MODE)).map_err(call("fchmod", "name a file in another folder"))?;
    lock(&file)?;
    Ok(Destination { file, whole: Some(0) })
}

pub(super) fn lock(file: &File) -> Result<(), FileError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(FileError::InUse),
        Err(TryLockError::Error(source)) => Err(call("flock", "name a file in another folder")(source)),
    }
}

enum Existing {
    Taken(Destination),
    /// The file was removed, by another process or here.
    Gone,
}

/// Opens an existing file, if it belongs to this user and has no other content.
fn open_existing(path: &Path) -> Result<Existing, FileError> {
    begins("open");
    let file = match options().open(path) {
        Ok(file) => file,
        Err(error) => {
            return match error.raw_os_error() {
                Some(libc::ENOENT) => Ok(Existing::Gone),
                Some(libc::ELOOP) => Err(FileError::Link),
                Some(libc::EISDIR) => Err(FileError::Kind("a folder")),
                Some(libc::ENXIO) => {
                    let fifo = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_fifo());
                    Err(if fifo {
                        FileError::NoReader
                    } else {
                        FileError::Kind("a socket, or a device without a driver")
                    })
                }
                _ => Err(call("open", "check that you may write to it")(error)),
            };
        }
    };
    begins("fstat");
    let found = file.metadata().map_err(call("fstat", "name another file"))?;
    let kind = found.file_type();
    if kind.is_block_device() {
        return Err(FileError::Kind("a block device"));
    }
    if kind.is_char_device() {
        return Ok(Existing::Taken(Destination { file, whole: None }));
    }
    if found.uid() != geteuid().as_raw() {
        return Err(FileError::OtherOwner(found.uid()));
    }
    if !kind.is_file() {
        return Ok(Existing::Taken(Destination { file, whole: None }));
    }
    match found.nlink() {
        0 => return Ok(Existing::Gone),
        1 => {}
        names => return Err(FileError::OtherNames(names)),
    }
    begins("flock");
    lock(&file)?;
    begins("read");
    if !is_ours(&file)? {
        return Err(FileError::SomethingElse);
    }
    if found.mode() & OTHERS != 0 {
        // Other processes may have it open, and would read the recording.
        begins("unlink");
        fs::remove_file(path).map_err(call("unlink", "remove it, or name another file"))?;
        return Ok(Existing::Gone);
    }
    begins("ftruncate");
    file.set_len(0).map_err(call("ftruncate", "name another file"))?;
    Ok(Existing::Taken(Destination { file, whole: Some(0) }))
}

/// Whether a file is empty or begins as a recording does, even if it was cut within its first line. The file is open
/// only for writing.
fn is_ours(file: &File) -> Result<bool, FileError> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let mut begins = Vec::new();
    let read = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let read = read.and_then(|file| file.take(NAME.len() as u64).read_to_end(&mut begins));
    read.map_err(call("read", "it may have other content: remove it, or name another file"))?;
    // A shorter part of the name can be anything.
    Ok(begins.is_empty() || (begins.starts_with(b"closewait ") && NAME.starts_with(&begins)))
}

/// Returns the number of the descriptor of this process that a path denotes: a shell's `>(COMMAND)`, or a standard
/// stream. Such a path is a link in `/proc`.
fn descriptor(path: &Path) -> Option<RawFd> {
    let own = format!("/proc/{}/fd/", process::id());
    let path = path.to_str()?;
    match path {
        "/dev/stdin" => return Some(0),
        "/dev/stdout" => return Some(1),
        "/dev/stderr" => return Some(2),
        _ => {}
    }
    let folders = ["/dev/fd/", "/proc/self/fd/", "/proc/thread-self/fd/", &own];
    let number = folders.into_iter().find_map(|folder| path.strip_prefix(folder))?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok()).flatten()
}

/// Copies a descriptor that this process inherited from its parent, which opened it.
fn inherited(number: RawFd) -> Result<File, FileError> {
    let none = || FileError::Descriptor(number);
    // SAFETY: takes numbers only; one that is not open is an error.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    // Descriptors that this process has opened itself all have FD_CLOEXEC.
    if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return Err(none());
    }
    // SAFETY: the descriptor was found to be open, and nothing in this process closes one that it has inherited.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if !fcntl_getfl(borrowed).is_ok_and(|mode| mode & OFlags::ACCMODE != OFlags::RDONLY) {
        return Err(none());
    }
    let copy = borrowed.try_clone_to_owned().map_err(call("fcntl", "check the limit on open files (ulimit -n)"))?;
    Ok(File::from(copy))
}

/// Opens a recording to play. Does not wait for a file system that does not answer, or for a writer of a FIFO.
///
/// # Errors
///
/// If it cannot be opened, or cannot be a recording.
pub fn open(path: &Path) -> Result<Box<dyn Read>, FileError> {
    let (first, file) = in_time(path, OPEN_PATIENCE, open_in_time, drop)??;
    Ok(Box::new(io::Cursor::new(first).chain(file)))
}

/// Opens the file. Returns it with the bytes that were read already.
fn open_in_time(path: &Path) -> Result<(Vec<u8>, File), FileError> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    begins("open");
    let mut file = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO) => FileError::Kind("a socket, or a device without a driver"),
        _ => call("open", "check that it exists, and that you may read it")(error),
    })?;
    begins("fstat");
    let kind = file.metadata().map_err(call("fstat", "check that you may read it"))?.file_type();
    if kind.is_dir() {
        return Err(FileError::Kind("a folder"));
    }
    let mut first = vec![0; 1];
    if kind.is_fifo() {
        // A FIFO without a writer is at its end; with a writer that has written nothing yet, a read would block.
        let length = match file.read(&mut first) {
            Ok(0) => return Err(FileError::NoWriter),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(call("read", "check that you may read it")(error)),
        };
        first.truncate(length);
    } else {
        first.clear();
    }
    // The open file description belongs to this process alone.
    fcntl_setfl(&file, OFlags::empty())
        .map_err(|errno| call("fcntl", "report this with the output of `closewait doctor`")(errno.into()))?;
    Ok((first, file))
}

#[cfg(test)]
mod tests;
