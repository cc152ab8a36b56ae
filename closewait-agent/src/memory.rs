//! Settings of the allocator. The C library's keeps memory by itself after a peak, and a heap for each thread.

/// Fewer sockets are no peak: it would be less than a megabyte.
const SMALL: u64 = 10_000;

/// Watches how many sockets are tracked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peak {
    most: u64,
}

impl Peak {
    /// Takes in the current count. Returns whether the last peak is over: less than half of it remains.
    pub fn is_over(&mut self, count: u64) -> bool {
        let over = self.most >= SMALL && count < self.most / 2;
        self.most = if over { count } else { self.most.max(count) };
        over
    }
}

/// Whether what was made for so many sockets is worth giving back.
pub fn is_much(count: u64) -> bool {
    count >= SMALL
}

/// Lets all threads share one heap, from the next thread on. Otherwise what a scan frees stays in the heap of its thread, some
/// megabytes each, and the event loop cannot use it.
pub fn share_one_heap() {
    // SAFETY: `mallopt` takes two numbers and only changes how memory is allocated later.
    let _set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Gives back what is free.
pub fn give_back() {
    // SAFETY: `malloc_trim` takes any number and only gives unused pages back.
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
