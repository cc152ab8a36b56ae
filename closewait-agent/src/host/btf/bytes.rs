//! Bytes of a file of types: mapped if possible.

use std::{
    fs::File,
    io::{self, Read as _},
    ops::Deref,
    os::fd::AsRawFd as _,
    path::Path,
    ptr::NonNull,
    slice,
};

use super::VMLINUX;

/// Bytes of a file of types.
pub(super) enum FileBytes {
    /// Bytes that were read.
    Owned(Vec<u8>),
    /// Bytes of the kernel.
    Mapped(TypesMapping),
}

/// Mapping of [`VMLINUX`], which never changes. The kernel maps all of its pages at once, so that no access faults
/// (`btf_sysfs_vmlinux_mmap` in kernel/bpf/sysfs_btf.c, v6.16).
pub(super) struct TypesMapping {
    at: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping is readable memory that nothing changes, and belongs to this value alone.
unsafe impl Send for TypesMapping {}
// SAFETY: as above.
unsafe impl Sync for TypesMapping {}

impl FileBytes {
    /// Reads a file. Maps the kernel's own types where the kernel allows that: reading them takes 1,400 system calls, as sysfs
    /// returns a page at a time (`kernfs_file_read_iter` in fs/kernfs/file.c, v6.18).
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        // Only a file that nobody can truncate: memory behind its end would be no memory.
        if path == Path::new(VMLINUX)
            && let Some(mapping) = TypesMapping::of(&file)
        {
            return Ok(Self::Mapped(mapping));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Self::Owned(bytes))
    }
}

impl TypesMapping {
    /// Maps a file of sysfs; `None` if the kernel does not.
    fn of(file: &File) -> Option<Self> {
        if !rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type == libc::SYSFS_MAGIC) {
            return None;
        }
        let length = usize::try_from(file.metadata().ok()?.len()).ok().filter(|length| *length > 0)?;
        // SAFETY: a new mapping of a descriptor that is open, at an address that the kernel chooses.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        if at == libc::MAP_FAILED {
            return None;
        }
        NonNull::new(at.cast()).map(|at| Self { at, length })
    }
}

impl Drop for TypesMapping {
    fn drop(&mut self) {
        // SAFETY: this value has the mapping alone, and nothing borrows it any more.
        let _unmapped = unsafe { libc::munmap(self.at.as_ptr().cast(), self.length) };
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            // SAFETY: `length` bytes from `at` are mapped until this value is dropped, and the kernel's types never change.
            Self::Mapped(TypesMapping { at, length }) => unsafe { slice::from_raw_parts(at.as_ptr(), *length) },
        }
    }
}
