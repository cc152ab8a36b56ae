//! Memory of an array map, mapped into this process.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::{self, NonNull},
    slice,
    sync::atomic::AtomicU64,
};

/// Size of a word, bytes.
const WORD: usize = size_of::<AtomicU64>();

/// Words that a kernel program writes, perhaps at the same time.
#[derive(Debug)]
pub(super) struct MappedArray {
    first: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping belongs to this value alone, and all accesses to its memory are atomic.
unsafe impl Send for MappedArray {}
// SAFETY: as above.
unsafe impl Sync for MappedArray {}

impl MappedArray {
    /// Maps the first `words` words of an array map.
    ///
    /// # Errors
    ///
    /// If `mmap` fails.
    pub(super) fn new(map: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses. The kernel refuses one that is longer than the map, rounded up
        // to pages (`array_map_mmap`, kernel/bpf/arraymap.c at v5.10).
        let first = unsafe {
            libc::mmap(
                ptr::null_mut(),
                words * WORD,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        let first = Some(first).filter(|first| *first != libc::MAP_FAILED).and_then(|first| NonNull::new(first.cast()));
        Ok(Self { first: first.ok_or_else(io::Error::last_os_error)?, words })
    }

    /// Returns the words.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this number of words, aligned to a page, and lives as long as this value. Any bits are valid, and
        // other writers change them atomically, as the type says.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.words) }
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, of this length, and nothing refers to it any more.
        let _failed = unsafe { libc::munmap(self.first.as_ptr().cast(), self.words * WORD) };
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd as _, sync::atomic::Ordering};

    use super::*;

    #[test]
    fn two_mappings_have_the_same_words() {
        let file = File::from(rustix::fs::memfd_create("closewait-words", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(4096).unwrap();
        let (one, other) = (MappedArray::new(file.as_fd(), 512).unwrap(), MappedArray::new(file.as_fd(), 512).unwrap());
        one.words()[511].store(7, Ordering::Relaxed);
        drop(one);
        assert_eq!((other.words().len(), other.words()[511].load(Ordering::Relaxed)), (512, 7));
    }

    #[test]
    fn a_file_that_cannot_be_mapped_is_an_error() {
        assert!(MappedArray::new(File::open("/").unwrap().as_fd(), 1).is_err());
    }
}
