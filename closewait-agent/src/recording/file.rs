//! Opens what recordings are written to and read from, without waiting, and without harm to what is there.

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

/// How long a file system may take to open a file.
const OPEN_PATIENCE: Duration = Duration::from_secs(3);
/// Only who may run the agent may read what it has seen: names of processes, addresses.
const MODE: u32 = 0o600;
/// Everybody but the owner.
const OTHERS: u32 = 0o077;
/// Attempts to open a file that others remove and create meanwhile.
const MAX_ATTEMPTS: usize = 5;

/// Reason why a file cannot be recorded to or replayed.
#[derive(Debug, Error)]
pub enum FileError {
    /// A system call failed.
    #[error("{call} failed: {error}\nhint: {hint}")]
    Call {
        /// The call.
        call: &'static str,
        /// What the system said.
        error: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// It belongs to another user, who could read or change it.
    #[error("it belongs to user {0}, who could read the recording\nhint: remove it, or name another file")]
    OtherOwner(u32),
    /// It is a symbolic link.
    #[error("it is a symbolic link, which is not followed\nhint: name the file that it leads to")]
    Link,
    /// It has other names.
    #[error("it has {0} names (hard links), and would be overwritten under all of them\nhint: name another file")]
    OtherNames(u64),
    /// It has something else in it.
    #[error("it is not empty and is no recording, so it is not overwritten\nhint: remove it, or name another file")]
    SomethingElse,
    /// It is a folder, a block device or a socket.
    #[error("it is {0}\nhint: name a file")]
    Kind(&'static str),
    /// Nobody reads a FIFO.
    #[error("it is a FIFO without a reader\nhint: start its reader first")]
    NoReader,
    /// Nobody writes to a FIFO.
    #[error("the pipe is empty and has no writer\nhint: start its writer first")]
    NoWriter,
    /// A descriptor that this process did not get.
    #[error("descriptor {0} was not handed to this process for writing\nhint: in bash, `--record >(COMMAND)` does")]
    Descriptor(RawFd),
    /// Another agent records to it.
    #[error("another agent records to it\nhint: name another file")]
    InUse,
    /// Somebody replaces it all the time.
    #[error("it was removed and created again by somebody else\nhint: name a file in a folder of your own")]
    Replaced,
    /// The file system does not answer.
    #[error("{0}\nhint: see to its file system (`stat FILE` shows whether it answers), or name a file on another")]
    Unanswered(#[from] CallFailure),
}

fn call(call: &'static str, hint: &'static str) -> impl Fn(io::Error) -> FileError {
    move |error| FileError::Call { call, error, hint }
}

/// What a recording is written to: whole frames, as far as that can be seen to.
#[derive(Debug)]
pub(super) struct Destination {
    file: File,
    /// Bytes of whole frames in a file that has nothing else.
    whole: Option<u64>,
}

impl Destination {
    /// Opens the file, FIFO, character device or inherited descriptor `path`. It does not wait for a file system that does
    /// not answer.
    pub(super) fn create(path: &Path) -> Result<Self, FileError> {
        in_time(path, OPEN_PATIENCE, create, drop)?
    }

    /// After a write has failed: what comes after the last whole frame is removed, and in its place the recording says
    /// that more could not be written, if there is room to say it.
    fn end_at_whole_frame(&mut self) -> io::Result<()> {
        let Some(whole) = self.whole.take() else { return Ok(()) };
        self.file.set_len(whole)?;
        self.file.seek(SeekFrom::Start(whole))?;
        self.file.write_all(&frame(FrameKind::Unwritten, &[], whole).unwrap_or_default())
    }
}

impl Write for Destination {
    /// Writes all of a frame.
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        if let Err(error) = write_fully(&mut self.file, frame) {
            // The error that came first is told.
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
            Err(source) => return Err(call("open", "is its folder there, and may you write to it?")(source)),
        }
        match open_existing(path)? {
            Existing::Taken(destination) => return Ok(destination),
            Existing::Gone => {}
        }
    }
    Err(FileError::Replaced)
}

/// For writing, without following a link and without waiting.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    options
}

/// A file that was created, whatever the umask.
fn own(file: File) -> Result<Destination, FileError> {
    begins("fchmod");
    file.set_permissions(Permissions::from_mode(MODE)).map_err(call("fchmod", "name a file in another folder"))?;
    lock(&file)?;
    Ok(Destination { file, whole: Some(0) })
}

fn lock(file: &File) -> Result<(), FileError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(FileError::InUse),
        Err(TryLockError::Error(source)) => Err(call("flock", "name a file in another folder")(source)),
    }
}

enum Existing {
    Taken(Destination),
    /// Somebody has removed it, or it was removed here.
    Gone,
}

/// Takes what is there, if it is this user's own and nothing is lost by it.
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
                _ => Err(call("open", "may you write to it?")(error)),
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
        // Others may have it open, and would read what comes.
        begins("unlink");
        fs::remove_file(path).map_err(call("unlink", "remove it, or name another file"))?;
        return Ok(Existing::Gone);
    }
    begins("ftruncate");
    file.set_len(0).map_err(call("ftruncate", "name another file"))?;
    Ok(Existing::Taken(Destination { file, whole: Some(0) }))
}

/// Whether a file is empty or begins as a recording does, also one that was cut within its first line. It is open for writing
/// only.
fn is_ours(file: &File) -> Result<bool, FileError> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let mut begins = Vec::new();
    let read = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let read = read.and_then(|file| file.take(NAME.len() as u64).read_to_end(&mut begins));
    read.map_err(call("read", "it may have something else in it: remove it, or name another file"))?;
    // A shorter part of the name can be anything.
    Ok(begins.is_empty() || (begins.starts_with(b"closewait ") && NAME.starts_with(&begins)))
}

/// The number of a descriptor of this process that a path stands for: what a shell writes for `>(COMMAND)`, and the
/// standard streams. Such a path is a link in `/proc`.
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

/// A copy of a descriptor that this process was started with: whoever started it has opened it.
fn inherited(number: RawFd) -> Result<File, FileError> {
    let none = || FileError::Descriptor(number);
    // SAFETY: takes numbers only; one that is not open is an error.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    // Those that this process has opened itself are closed on exec, all of them.
    if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return Err(none());
    }
    // SAFETY: the descriptor was found to be open, and nothing in this process closes one that it has inherited.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if !fcntl_getfl(borrowed).is_ok_and(|mode| mode & OFlags::ACCMODE != OFlags::RDONLY) {
        return Err(none());
    }
    let copy = borrowed.try_clone_to_owned().map_err(call("fcntl", "is a limit on open files reached?"))?;
    Ok(File::from(copy))
}

/// Opens a recording to be played. It does not wait for a file system that does not answer, nor for somebody who writes
/// to a FIFO.
///
/// # Errors
///
/// If it cannot be opened, or cannot be a recording.
pub fn open(path: &Path) -> Result<Box<dyn Read>, FileError> {
    let (first, file) = in_time(path, OPEN_PATIENCE, open_in_time, drop)??;
    Ok(Box::new(io::Cursor::new(first).chain(file)))
}

/// The file, and what was read of it already.
fn open_in_time(path: &Path) -> Result<(Vec<u8>, File), FileError> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    begins("open");
    let mut file = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO) => FileError::Kind("a socket, or a device without a driver"),
        _ => call("open", "is it there, and may you read it?")(error),
    })?;
    begins("fstat");
    let kind = file.metadata().map_err(call("fstat", "may you read it?"))?.file_type();
    if kind.is_dir() {
        return Err(FileError::Kind("a folder"));
    }
    let mut first = vec![0; 1];
    if kind.is_fifo() {
        // Without a writer it is at its end; with one that has written nothing yet, a read would have to wait.
        let length = match file.read(&mut first) {
            Ok(0) => return Err(FileError::NoWriter),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(call("read", "may you read it?")(error)),
        };
        first.truncate(length);
    } else {
        first.clear();
    }
    // The open file description is this process's own.
    fcntl_setfl(&file, OFlags::empty()).map_err(|errno| call("fcntl", "report this")(errno.into()))?;
    Ok((first, file))
}

#[cfg(test)]
mod tests;
