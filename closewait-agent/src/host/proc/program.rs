//! Program file of a process.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
};

use closewait_stacks::live::read_living;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{
    elf,
    mounts::{Behind, MountMark, Mounts},
    parse::lines,
};

/// Maximum bytes to read of a list of mounts.
pub(super) const MAX_MOUNTINFO_BYTES: u64 = 4 << 20;
/// Sections that the Go linker writes.
const GO: [&[u8]; 2] = [b".go.buildinfo", b".note.go.buildid"];

/// Linker of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Linker {
    /// The Go linker.
    Go,
    /// Another linker.
    Other,
    /// The file was not opened: it is on a file system of this type, which may not answer.
    NotOpened(String),
}

/// File behind a link in the folder of a process.
#[derive(Debug)]
pub enum LinkedFile {
    /// A regular file, open for reading.
    Opened(File),
    /// It is on a file system of this type, which may not answer.
    NotOpened(String),
    /// It is no regular file.
    Other,
}

/// Returns the linker of a process's program. May wait for the file's own file system.
///
/// # Errors
///
/// If the process has ended, or its program may not be read.
pub fn linker(process: &Path) -> io::Result<Linker> {
    Ok(match linked_file(process, "exe")? {
        LinkedFile::Opened(file) if elf::has_section(&file, &GO) => Linker::Go,
        LinkedFile::Opened(_) | LinkedFile::Other => Linker::Other,
        LinkedFile::NotOpened(kind) => Linker::NotOpened(kind),
    })
}

/// Opens the file behind a link in the folder of a process: `exe`, or one in `map_files`. May wait for the file's own file system.
///
/// # Errors
///
/// If the process has ended, or the file may not be read.
pub fn linked_file(process: &Path, link: &str) -> io::Result<LinkedFile> {
    // This opens nothing in the file system: FUSE gets no request at all, NFS only checks that the file is still the
    // same.
    let open = |folder: &Path| OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(folder.join(link));
    let open_of = |folder: &Path| match (open(folder), folder.file_name()) {
        // The folder of a thread has no `map_files`, but that of its number beside the process has. The caller compares the inode.
        (Err(error), Some(tid)) if folder != process && super::is_gone(&error) => open(&process.with_file_name(tid)),
        (opened, _) => opened,
    };
    let file = read_living(process, |_| true, open_of)?;
    match file_system(process, &file)? {
        Some(Behind::Local) => {}
        Some(Behind::Served(kind)) => return Ok(LinkedFile::NotOpened(kind)),
        None => return Ok(LinkedFile::NotOpened("unknown type".to_owned())),
    }
    // Programs are regular files (`do_open_execat` in fs/exec.c, v5.10); this checks it nevertheless.
    if !file.metadata()?.is_file() {
        return Ok(LinkedFile::Other);
    }
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(again)?;
    Ok(LinkedFile::Opened(file))
}

/// Reads the beginning of a file below the root of a process; `None` if the root is on a file system that may not
/// answer. The path must not lead to another file system or through a link, so the process cannot choose anything to
/// wait for.
///
/// # Errors
///
/// If the process has ended, or the file may not be read this way.
pub fn read_in_root(process: &Path, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let root = root_of(process)?;
    match file_system(process, &root)? {
        Some(Behind::Local) => {}
        Some(Behind::Served(_)) | None => return Ok(None),
    }
    let path = path.strip_prefix("/").unwrap_or(path);
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve)?);
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.take(super::MAX_FILE_BYTES).read_to_end(&mut text)?;
    Ok(Some(text))
}

/// Opens a folder below the root of a process, for paths that begin there (`O_PATH`); `None` if it or the root is on a file system that may
/// not answer. The path must not lead through a link, so the process cannot choose another folder; it may be a mount.
///
/// # Errors
///
/// If the process has ended, or the folder may not be opened this way.
pub fn folder_in_root(process: &Path, path: &str) -> io::Result<Option<File>> {
    let root = root_of(process)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let answers = |folder: &File| Ok::<_, io::Error>(matches!(file_system(process, folder)?, Some(Behind::Local)));
    if !answers(&root)? {
        return Ok(None);
    }
    let folder = File::from(rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve)?);
    Ok(answers(&folder)?.then_some(folder))
}

/// Opens the root of a process. The link is to the root itself: opening it accesses no file system.
fn root_of(process: &Path) -> io::Result<File> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let open = |folder: &Path| OpenOptions::new().read(true).custom_flags(flags).open(folder.join("root"));
    read_living(process, |_| true, open)
}

/// Returns the file system of a file, by the mount that it was opened through; `None` if no list of mounts has that
/// one, as after `umount --lazy`.
fn file_system(process: &Path, file: &File) -> io::Result<Option<Behind>> {
    let about = super::read(Path::new(&format!("/proc/self/fdinfo/{}", file.as_raw_fd())), super::MAX_FILE_BYTES)?;
    let Some(mount) = lines(&about).find_map(|line| line.strip_prefix(b"mnt_id:")).map(<[u8]>::trim_ascii) else {
        return Ok(None);
    };
    // The host's first process has the mounts of container runtimes, and the mounts below them.
    let hosts = || match super::read(Path::new("/proc/1/mountinfo"), MAX_MOUNTINFO_BYTES) {
        Ok(text) if !text.is_empty() => Ok(text),
        Ok(_) | Err(_) => super::read(Path::new("/proc/self/mountinfo"), MAX_MOUNTINFO_BYTES),
    };
    // A program that has changed its root does not list the mount that it was started from.
    for of in [process, Path::new("/proc/self")] {
        match read_living(of, |_| true, |folder| super::read(&folder.join("mountinfo"), MAX_MOUNTINFO_BYTES)) {
            Ok(text) => {
                if let Some(behind) = Mounts::parse(&text).behind(MountMark::Id(mount), hosts, &backing_file)? {
                    return Ok(Some(behind));
                }
            }
            Err(error) if super::is_refused(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Returns the file behind a loop device `MAJOR:MINOR`. The kernel prints its name without an access to the file
/// (`loop_attr_backing_file_show` in drivers/block/loop.c, v5.10).
pub(super) fn backing_file(device: &[u8]) -> Option<Vec<u8>> {
    let path = format!("/sys/dev/block/{}/loop/backing_file", str::from_utf8(device).ok()?);
    super::read(Path::new(&path), super::MAX_FILE_BYTES).ok().map(|text| text.trim_ascii_end().to_owned())
}

#[cfg(fuzzing)]
pub(super) fn fuzz(text: &[u8]) {
    drop(Mounts::parse(text).behind(MountMark::Id(b"1"), || Ok(text.into()), &|_| None));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_program_is_not_of_go() {
        let linker = linker(Path::new("/proc/self")).unwrap();
        // The file system of the build may have a server.
        assert!(matches!(linker, Linker::Other | Linker::NotOpened(_)), "{linker:?}");
    }

    #[test]
    fn a_file_in_proc_is_on_proc() {
        let file = File::open("/proc/version").unwrap();
        assert_eq!(file_system(Path::new("/proc/self"), &file).unwrap(), Some(Behind::Local));
    }
}
