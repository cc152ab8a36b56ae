//! The program file of a process.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
};

use super::{elf, parse::lines};

/// What is read of a list of mounts.
const MOUNTINFO: u64 = 4 << 20;
/// File systems of which another machine or a program is the server. A file there is not opened: the server may be gone,
/// and then a thread that has opened one of FUSE's or 9p's can wait in a way that no signal ends
/// (`request_wait_answer` in fs/fuse/dev.c and `p9_client_rpc` in net/9p/client.c, v5.10).
const SERVED: [&str; 22] = [
    "9p",
    "afs",
    "autofs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "fuse",
    "fuseblk",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "pvfs2",
    "smb3",
    "vboxsf",
    "virtiofs",
    "vmhgfs",
];
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
    let kind = file_system(process, &file)?;
    if kind.as_deref().is_none_or(is_served) {
        return Ok(Linker::NotOpened(kind.unwrap_or_else(|| "unknown type".to_owned())));
    }
    // What is run is a regular file (`do_open_execat` in fs/exec.c, v5.10), but what is not certain is checked.
    if !file.metadata()?.is_file() {
        return Ok(Linker::Other);
    }
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(again)?;
    Ok(if elf::has_section(&file, &GO) { Linker::Go } else { Linker::Other })
}

/// The type of the file system of a file, by the mount that it was opened through; `None` if that is in no list of
/// mounts, as after `umount --lazy`.
fn file_system(process: &Path, file: &File) -> io::Result<Option<String>> {
    let about = super::read(Path::new(&format!("/proc/self/fdinfo/{}", file.as_raw_fd())), super::SMALL)?;
    let Some(mount) = lines(&about).find_map(|line| line.strip_prefix(b"mnt_id:")).map(<[u8]>::trim_ascii) else {
        return Ok(None);
    };
    // A program that has changed its root does not list the mount that it was started from.
    for list in [process.join("mountinfo"), "/proc/self/mountinfo".into()] {
        match super::read(&list, MOUNTINFO) {
            Ok(text) => {
                if let Some(kind) = type_of_mount(&text, mount) {
                    return Ok(Some(kind));
                }
            }
            Err(error) if super::is_refused(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The type of the file system of the mount with this number (proc_pid_mountinfo(5)).
fn type_of_mount(mountinfo: &[u8], mount: &[u8]) -> Option<String> {
    lines(mountinfo).find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        if fields.next()? != mount {
            return None;
        }
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        Some(String::from_utf8_lossy(kind).into_owned())
    })
}

/// Whether a file system of this type has a server that may not answer. FUSE's have a name behind it: `fuse.sshfs`.
pub fn is_served(kind: &str) -> bool {
    let stem = kind.split_once('.').map_or(kind, |(stem, _name)| stem);
    SERVED.contains(&stem)
}

#[cfg(fuzzing)]
pub(super) fn fuzz(text: &[u8]) {
    drop(type_of_mount(text, b"1"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        assert_eq!(file_system(Path::new("/proc/self"), &file).unwrap().as_deref(), Some("proc"));
    }

    #[test]
    fn the_type_is_behind_the_optional_fields() {
        let text = b"31 23 0:28 / /a rw shared:4 master:2 - ext4 - rw\n\
                     311 23 0:29 / /b rw - fuse.sshfs host:/ rw\n97 1 0:5 / /c rw -";
        assert_eq!(type_of_mount(text, b"31").as_deref(), Some("ext4"));
        assert_eq!(type_of_mount(text, b"311").as_deref(), Some("fuse.sshfs"));
        assert_eq!((type_of_mount(text, b"97"), type_of_mount(text, b"3")), (None, None));
    }

    #[test]
    fn file_systems_with_a_server_are_known_by_their_type() {
        for kind in ["fuse", "fuse.sshfs", "fuseblk", "nfs", "nfs4", "cifs", "9p", "virtiofs"] {
            assert!(is_served(kind), "{kind}");
        }
        for kind in ["ext4", "xfs", "btrfs", "overlay", "tmpfs", "squashfs", "zfs", "fusectl"] {
            assert!(!is_served(kind), "{kind}");
        }
    }

    proptest! {
        #[test]
        fn any_list_of_mounts_is_survived(text: Vec<u8>) {
            drop(type_of_mount(&text, b"1"));
            drop(type_of_mount(&[b"1 ", text.as_slice()].concat(), b"1"));
        }
    }
}
