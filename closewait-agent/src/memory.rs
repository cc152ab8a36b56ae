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

/// Releases free memory to the system. With musl it does nothing: musl has no such call, and releases memory in `free`.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` takes any number and only releases unused pages.
    let _anything_released = unsafe { libc::malloc_trim(0) };
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
