//! The program file of a process.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{
    elf,
    mounts::{Behind, Mounts},
    parse::lines,
};

/// What is read of a list of mounts.
const MOUNTINFO: u64 = 4 << 20;
/// Sections that the Go linker writes.
const GO: [&[u8]; 2] = [b".go.buildinfo", b".note.go.buildid"];

/// Whether the Go linker made a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Linker {
    /// It did.
    Go,
    /// It did not.
    Other,
    /// The file was not opened: it lies on a file system that may not answer, of this type.
    NotOpened(String),
}

/// Reads which linker made the program of a process. May wait for the file's own file system.
///
/// # Errors
///
/// If the process has ended, or its program may not be read.
pub fn linker(process: &Path) -> io::Result<Linker> {
    // This opens nothing in the file system: FUSE is not asked at all, NFS only whether the file is still the same.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(process.join("exe"))?;
    match file_system(process, &file)? {
        Some(Behind::Local) => {}
        Some(Behind::Served(kind)) => return Ok(Linker::NotOpened(kind)),
        None => return Ok(Linker::NotOpened("unknown type".to_owned())),
    }
    // What is run is a regular file (`do_open_execat` in fs/exec.c, v5.10), but what is not certain is checked.
    if !file.metadata()?.is_file() {
        return Ok(Linker::Other);
    }
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(again)?;
    Ok(if elf::has_section(&file, &GO) { Linker::Go } else { Linker::Other })
}

/// Reads the beginning of a file below the root of a process; `None` if the root lies on a file system that may not answer. The
/// path may lead neither to another file system nor through a link: nothing that the process can choose is waited for.
///
/// # Errors
///
/// If the process has ended, or the file may not be read so.
pub fn read_in_root(process: &Path, path: &Path) -> io::Result<Option<Vec<u8>>> {
    // The link is to the root itself: opening it asks no file system.
    let root =
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(process.join("root"))?;
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
    file.take(super::SMALL).read_to_end(&mut text)?;
    Ok(Some(text))
}

/// The file system behind a file, by the mount that it was opened through; `None` if that is in no list of mounts, as after
/// `umount --lazy`.
fn file_system(process: &Path, file: &File) -> io::Result<Option<Behind>> {
    let about = super::read(Path::new(&format!("/proc/self/fdinfo/{}", file.as_raw_fd())), super::SMALL)?;
    let Some(mount) = lines(&about).find_map(|line| line.strip_prefix(b"mnt_id:")).map(<[u8]>::trim_ascii) else {
        return Ok(None);
    };
    // The host's first process has the mounts that container runtimes make, and sees below them.
    let hosts = || match super::read(Path::new("/proc/1/mountinfo"), MOUNTINFO) {
        Ok(text) if !text.is_empty() => Ok(text),
        Ok(_) | Err(_) => super::read(Path::new("/proc/self/mountinfo"), MOUNTINFO),
    };
    // A program that has changed its root does not list the mount that it was started from.
    for list in [process.join("mountinfo"), "/proc/self/mountinfo".into()] {
        match super::read(&list, MOUNTINFO) {
            Ok(text) => {
                if let Some(behind) = Mounts::parse(&text).behind(mount, hosts, &backing_file)? {
                    return Ok(Some(behind));
                }
            }
            Err(error) if super::is_refused(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The file behind a loop device `MAJOR:MINOR`. The kernel tells its name without a look at the file
/// (`loop_attr_backing_file_show` in drivers/block/loop.c, v5.10).
fn backing_file(device: &[u8]) -> Option<Vec<u8>> {
    let path = format!("/sys/dev/block/{}/loop/backing_file", str::from_utf8(device).ok()?);
    super::read(Path::new(&path), super::SMALL).ok().map(|text| text.trim_ascii_end().to_owned())
}

#[cfg(fuzzing)]
pub(super) fn fuzz(text: &[u8]) {
    drop(Mounts::parse(text).behind(b"1", || Ok(text.into()), &|_| None));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_program_is_not_of_go() {
        let linker = linker(Path::new("/proc/self")).unwrap();
        // These tests may be built on a file system that is served.
        assert!(matches!(linker, Linker::Other | Linker::NotOpened(_)), "{linker:?}");
    }

    #[test]
    fn a_file_in_proc_is_on_proc() {
        let file = File::open("/proc/version").unwrap();
        assert_eq!(file_system(Path::new("/proc/self"), &file).unwrap(), Some(Behind::Local));
    }
}
