//! Settings of the allocator. The C library's allocator keeps memory after a peak, and one heap per thread.

/// Minimum number of sockets of a peak: fewer take less than a megabyte.
const MIN_PEAK: u64 = 10_000;

/// Detector of peaks in the number of tracked sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peak {
    most: u64,
}

impl Peak {
    /// Updates the count. Returns whether the last peak is over: less than half of it remains.
    pub fn is_over(&mut self, count: u64) -> bool {
        let over = self.most >= MIN_PEAK && count < self.most / 2;
        self.most = if over { count } else { self.most.max(count) };
        over
    }
}

/// Whether the memory for this many sockets is worth releasing.
pub fn is_much(count: u64) -> bool {
    count >= MIN_PEAK
}

/// Makes all later threads share one heap. Otherwise memory that a scan frees stays in the heap of its thread, some
/// megabytes each, where the event loop cannot use it. Only glibc has more than one heap.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `mallopt` takes two numbers and only changes how memory is allocated later.
    let _set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Releases free memory to the system.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` takes any number and only releases unused pages.
    let _anything_released = unsafe { libc::malloc_trim(0) };
    #[cfg(target_env = "musl")]
    heap::release();
}

/// The heap of static binaries.
#[cfg(target_env = "musl")]
mod heap {
    use std::{
        alloc::{GlobalAlloc, Layout},
        sync::{Mutex, MutexGuard, PoisonError},
    };

    use dlmalloc::Dlmalloc;

    #[global_allocator]
    static HEAP: Heap = Heap(Mutex::new(Dlmalloc::new()));

    /// dlmalloc in place of musl's allocator, which needs a third more of the CPU for a list of 100,000 sockets (docs/performance.md)
    /// and has no call that releases what is free. It is Rust: a C compiler for each architecture is not necessary. The crate's own
    /// `GlobalDlmalloc` has no such call, either.
    struct Heap(Mutex<Dlmalloc>);

    /// Releases free memory at the end of the heap.
    pub(super) fn release() {
        // SAFETY: `trim` only releases pages without an allocation.
        let _anything_released = unsafe { HEAP.lock().trim(0) };
    }

    impl Heap {
        fn lock(&self) -> MutexGuard<'_, Dlmalloc> {
            // No allocation panics, so a panic elsewhere has left nothing half done.
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    // SAFETY: all allocations are of one heap behind a lock, with the sizes and alignments of the caller. `Mutex` does not allocate
    // (std/src/sys/sync/mutex/futex.rs at 1.95), so no call comes here while the lock is held. After `fork` the child only calls
    // `execve` and system calls (`Command::pre_exec` in signals.rs), and needs no heap.
    unsafe impl GlobalAlloc for Heap {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's layout has a size that is not 0, as `malloc` wants.
            unsafe { self.lock().malloc(layout.size(), layout.align()) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            // SAFETY: as in `alloc`.
            unsafe { self.lock().calloc(layout.size(), layout.align()) }
        }

        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            // SAFETY: the caller has `at` from this heap, with this layout.
            unsafe { self.lock().free(at, layout.size(), layout.align()) }
        }

        unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            // SAFETY: as in `dealloc`; `size` is not 0.
            unsafe { self.lock().realloc(at, layout.size(), layout.align(), size) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_over_once_each_time_that_half_of_it_is_gone() {
        let mut peak = Peak::default();
        let over: Vec<bool> = [5000, 0, 20_000, 10_000, 9_999, 9_000, 0, 50_000, 20_000, 15_000, 9_000]
            .into_iter()
            .map(|count| peak.is_over(count))
            .collect();
        assert_eq!(over, [false, false, false, false, true, false, false, false, true, false, true]);
    }
}
