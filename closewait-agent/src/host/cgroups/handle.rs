//! Access to the folder of a cgroup by its id.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::MetadataExt as _,
        },
    },
    path::Path,
};

/// `FILEID_KERNFS` of `enum fid_type` (include/linux/exportfs.h, v5.10): 8 bytes, the id.
const FILEID_KERNFS: libc::c_int = 0xfe;
/// Suffix of the name of a removed file (`path_with_deleted`, fs/d_path.c at v5.10).
const DELETED: &[u8] = b" (deleted)";

/// `struct file_handle` (include/linux/fs.h, v5.10) with the handle of a kernfs node.
#[repr(C)]
struct Handle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    id: u64,
}

/// Outcome of opening a cgroup by its id.
#[derive(Debug)]
pub(super) enum Opened {
    /// Path from the root of the mount.
    Path(Vec<u8>),
    /// No cgroup below the mount has this id.
    Gone,
    /// This process or this kernel cannot open files by handles.
    NotAllowed,
    /// Another error, such as too many open files.
    Failed(io::Error),
}

/// Finds the path of a cgroup below the folder of a mount of cgroup2.
pub(super) fn open(mount: &File, id: u64) -> Opened {
    let folder = match open_by_id(mount, id) {
        Ok(folder) => folder,
        Err(error) => {
            return match error.raw_os_error() {
                // The node has been removed, or never existed (`__kernfs_fh_to_dentry` in fs/kernfs/mount.c, v5.10).
                Some(libc::ESTALE | libc::ENOENT) => Opened::Gone,
                // A missing capability, a container's filter, or a kernel or a file system without handles.
                Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL) => Opened::NotAllowed,
                _ => Opened::Failed(error),
            };
        }
    };
    match (link(mount.as_raw_fd()), link(folder.as_raw_fd())) {
        (Ok(root), Ok(path)) => match below(&root, &path) {
            Some(path) => Opened::Path(without_deleted(&root, path, id)),
            None => Opened::Gone,
        },
        (Err(error), _) | (_, Err(error)) => Opened::Failed(error),
    }
}

fn open_by_id(mount: &File, id: u64) -> io::Result<OwnedFd> {
    let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, id };
    // SAFETY: the pointer is to a `file_handle` with as many bytes behind it as it says, which lives until the call
    // returns; the descriptor is open as long as `mount` is.
    let fd = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut handle).cast::<libc::file_handle>(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, and nothing else in this process uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns the path of an open file. Accesses no file system (`d_path`, fs/d_path.c at v5.10).
fn link(fd: libc::c_int) -> io::Result<Vec<u8>> {
    Ok(fs::read_link(format!("/proc/self/fd/{fd}"))?.into_os_string().into_vec())
}

/// Returns the part of a path below a folder, with a leading slash. `None` for a path outside the folder, such as
/// that of a cgroup outside the mounted part of the hierarchy, which `d_path` cannot express.
fn below(root: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    match path.strip_prefix(root)? {
        b"" => Some(b"/".to_vec()),
        rest => rest.starts_with(b"/").then(|| rest.to_vec()),
    }
}

/// Removes the mark of a folder that was removed after it was opened, unless the name itself ends in these words.
fn without_deleted(root: &[u8], path: Vec<u8>, id: u64) -> Vec<u8> {
    let Some(shorter) = path.strip_suffix(DELETED) else { return path };
    let whole = [root, &path].concat();
    let is_named_so = fs::metadata(Path::new(std::ffi::OsStr::from_bytes(&whole))).is_ok_and(|meta| meta.ino() == id);
    if is_named_so { path } else { shorter.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_mount_are_returned() {
        assert_eq!(below(b"/sys/fs/cgroup", b"/sys/fs/cgroup/a/b"), Some(b"/a/b".to_vec()));
        assert_eq!(below(b"/sys/fs/cgroup", b"/sys/fs/cgroup"), Some(b"/".to_vec()));
        assert_eq!(below(b"/", b"/a"), Some(b"/a".to_vec()));
        for outside in [&b"/sys/fs/cgroups/a"[..], b"/other", b"", b"(unreachable)/a"] {
            assert_eq!(below(b"/sys/fs/cgroup", outside), None);
        }
    }
}
