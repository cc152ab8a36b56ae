//! Directory of a flight recording: used through its descriptor only, and opened again only if it was removed.

use std::{
    collections::VecDeque,
    ffi::CString,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, fsync, openat, unlinkat},
    process::geteuid,
};

use super::{Retention, name, number};
use crate::{
    clock::{self, TimeAnchor},
    host::in_time::{call as begins, in_time},
    recording::{
        failure::of_folder,
        file::{FileError, OPEN_PATIENCE, call, lock},
        reader::NAME,
    },
};
use closewait_engine::{text::harmless_path, time::BootTime};

/// Minimum of the size limit of a flight recording, bytes.
pub const MIN_RETAINED_BYTES: u64 = 1 << 20;
/// Mode of a directory that the agent creates.
const FOLDER_MODE: u32 = 0o700;
/// Mode of a segment: it has names of processes and addresses, for the agent's user only.
const FILE_MODE: u32 = 0o600;
/// Mode bits with which other users may replace segments.
const OTHERS_WRITE: u32 = 0o022;

/// Whether a path names a directory, for which a recording has segments: it ends with a slash, or is a directory.
pub fn is_folder(path: &Path) -> bool {
    let ends_with_slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let is_dir = || {
        let found =
            in_time(path, OPEN_PATIENCE, |path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()), drop);
        found.unwrap_or(false)
    };
    ends_with_slash || is_dir()
}

/// Segment that is not being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KnownSegment {
    number: u64,
    bytes: u64,
    /// Time at which it is deleted; `None` without a limit.
    expires: Option<BootTime>,
}

/// Directory of a flight recording.
#[derive(Debug)]
pub(super) struct SegmentFolder {
    path: PathBuf,
    folder: File,
    retention: Retention,
    /// Finished segments, oldest first.
    known: VecDeque<KnownSegment>,
    /// Number of the next segment.
    next: u64,
    /// Names that look like segments and are something else.
    pub(super) foreign: Vec<String>,
}

impl SegmentFolder {
    /// Opens a directory for writing, and creates it if it does not exist. Does not wait for a file system that does not
    /// answer.
    pub(super) fn open(path: &Path, retention: Retention) -> Result<Self, FileError> {
        in_time(path, OPEN_PATIENCE, move |path| open(path, retention), drop)?
    }

    /// Creates the next segment, in a new directory of the same path if this one was removed. Returns its number.
    pub(super) fn create(&mut self) -> io::Result<(u64, File)> {
        match self.create_here() {
            // Only a removed directory has no place for a file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.open_again().map_err(of_folder)?;
                self.create_here()
            }
            created => created,
        }
    }

    /// Opens the path again, with all checks. The numbers of segments go on.
    fn open_again(&mut self) -> Result<(), FileError> {
        let again = Self::open(&self.path, self.retention)?;
        *self = Self { next: self.next.max(again.next), ..again };
        Ok(())
    }

    fn create_here(&mut self) -> io::Result<(u64, File)> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let number = self.next;
        self.next += 1;
        let file = File::from(openat(&self.folder, name(number), flags, Mode::from_raw_mode(FILE_MODE))?);
        // For any umask.
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
        fsync(&self.folder)?;
        Ok((number, file))
    }

    /// Returns the number of the next segment.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Adds a finished segment that ended at `now`.
    pub(super) fn finished(&mut self, number: u64, bytes: u64, now: BootTime) {
        let expires = self.retention.time.map(|time| now + time);
        self.known.push_back(KnownSegment { number, bytes, expires });
    }

    /// Deletes a segment.
    pub(super) fn delete(&self, number: u64) -> io::Result<()> {
        Ok(unlinkat(&self.folder, name(number), AtFlags::empty())?)
    }

    /// Deletes expired segments, and the oldest ones while they and `bytes` more exceed the limit.
    pub(super) fn prune(&mut self, bytes: u64, now: BootTime) {
        let mut total = self.known.iter().fold(bytes, |total, one| total.saturating_add(one.bytes));
        while let Some(oldest) = self.known.front().copied() {
            let expired = oldest.expires.is_some_and(|expires| expires <= now);
            if !expired && total <= self.retention.bytes {
                break;
            }
            self.known.pop_front();
            total = total.saturating_sub(oldest.bytes);
            match self.delete(oldest.number) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let name = name(oldest.number);
                    log::warn!("an old segment of the recording stays: removing {name} failed: {error}");
                }
                _ => {}
            }
        }
    }
}

impl AsFd for SegmentFolder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

fn open(path: &Path, retention: Retention) -> Result<SegmentFolder, FileError> {
    // With a slash at the end, a symbolic link would be followed.
    let path: PathBuf = path.components().collect();
    begins("mkdir");
    match DirBuilder::new().mode(FOLDER_MODE).create(&path) {
        // A path with an error in its last name would otherwise go unnoticed.
        Ok(()) => log::info!("created {} for the recording", harmless_path(path.as_os_str().as_encoded_bytes())),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(call("mkdir", "check that the directory above it exists, and that you may write to it")(error));
        }
    }
    let folder = open_folder(&path)?;
    begins("fstat");
    let found = folder.metadata().map_err(call("fstat", "name another directory"))?;
    if found.uid() != geteuid().as_raw() {
        return Err(FileError::OtherOwner(found.uid()));
    }
    if found.mode() & OTHERS_WRITE != 0 {
        return Err(FileError::WritableByOthers);
    }
    lock(&folder)?;
    begins("getdents");
    let (mut known, mut foreign, mut last) = (Vec::new(), Vec::new(), 0);
    for number in numbers(&folder).map_err(call("getdents", "name another directory"))? {
        last = last.max(number);
        begins("openat");
        match own_segment(&folder, number) {
            Some((bytes, age)) => known.push((number, bytes, age)),
            None => foreign.push(name(number)),
        }
    }
    let now = clock::now();
    let known = known.into_iter().map(|(number, bytes, age)| {
        let expires = retention.time.map(|time| now + time.saturating_sub(age));
        KnownSegment { number, bytes, expires }
    });
    Ok(SegmentFolder { path, retention, known: known.collect(), next: last + 1, foreign, folder })
}

/// Opens a directory, without following a link.
pub(super) fn open_folder(path: &Path) -> Result<File, FileError> {
    begins("open");
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_DIRECTORY);
    options.open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => FileError::Link,
        Some(libc::ENOTDIR) if path.is_symlink() => FileError::Link,
        Some(libc::ENOTDIR) => FileError::Kind("no directory"),
        _ => call("open", "check that you may read it")(error),
    })
}

/// Returns the numbers of all files with the name of a segment, in ascending order.
pub(super) fn numbers(folder: &File) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in Dir::read_from(folder)? {
        numbers.extend(number(entry?.file_name().to_bytes()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens a segment for reading, if it is a regular file.
pub(super) fn open_segment(folder: &File, number: u64) -> io::Result<File> {
    let path = CString::new(name(number)).map_err(io::Error::other)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(openat(folder, path.as_c_str(), flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// Returns the size and the age of a segment; `None` if the file is something else, which has to stay.
fn own_segment(folder: &File, number: u64) -> Option<(u64, Duration)> {
    let file = open_segment(folder, number).ok()?;
    let found = file.metadata().ok()?;
    if found.uid() != geteuid().as_raw() || found.nlink() != 1 {
        return None;
    }
    let mut first = Vec::new();
    let length = found.len();
    file.take(NAME.len() as u64).read_to_end(&mut first).ok()?;
    // An empty file is a segment whose agent was killed before the first write.
    NAME.starts_with(&first).then(|| (length, age(&found)))
}

/// Returns the time since the last write; zero if the wall clock has been set back since.
fn age(found: &fs::Metadata) -> Duration {
    let wall = TimeAnchor::now().wall(clock::now());
    found.modified().ok().and_then(|modified| wall.duration_since(modified).ok()).unwrap_or_default()
}
