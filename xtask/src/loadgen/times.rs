//! Times of many connections, in log-linear buckets.

/// Binary logarithm of the number of buckets of each power of two: the width of a bucket is at most 1/128 of its lower edge. The
/// 1/32 of closewait's own histogram is more than a microsecond at 50 us, as much as a tracer adds to a connection.
const POWER: u32 = 7;
/// Time in nanoseconds below which each has its own bucket.
const LINEAR: u64 = 2 << POWER;
/// Number of buckets that cover every `u64`.
const BUCKETS: usize = LINEAR as usize + ((63 - POWER as usize) << POWER);

/// Percentiles that the load generator prints: the name and the share of connections.
pub(crate) const PERCENTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// Number of connections by time.
pub(super) struct Times {
    counts: Vec<u64>,
}

impl Times {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; BUCKETS] }
    }

    /// Counts a connection that took `nanos` nanoseconds.
    pub(super) fn add(&mut self, nanos: u64) {
        self.counts[index(nanos)] += 1;
    }

    /// Adds the connections of another thread.
    pub(super) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
    }

    /// Returns the number of connections.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the time in microseconds that `share` of the connections did not exceed, as if those of a bucket were spread evenly
    /// over it. `None`: there were no connections.
    pub(super) fn percentile(&self, share: f64) -> Option<f64> {
        let rank = self.count() as f64 * share;
        let mut below = 0.0;
        for (index, count) in self.counts.iter().enumerate().filter(|(_index, count)| **count > 0) {
            let count = *count as f64;
            if below + count >= rank {
                let (lower, width) = bucket(index);
                return Some((lower as f64 + width as f64 * (rank - below) / count) / 1000.0);
            }
            below += count;
        }
        None
    }
}

/// Returns the bucket that counts a time.
fn index(nanos: u64) -> usize {
    if nanos < LINEAR {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - POWER;
    ((shift as usize) << POWER) + (nanos >> shift) as usize
}

/// Returns the lower edge and the width of a bucket.
fn bucket(index: usize) -> (u64, u64) {
    let index = index as u64;
    if index < LINEAR {
        return (index, 1);
    }
    let shift = (index >> POWER) - 1;
    ((index - (shift << POWER)) << shift, 1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_its_bucket() {
        assert_eq!((index(u64::MAX), bucket(0)), (BUCKETS - 1, (0, 1)));
        for at in 1..BUCKETS {
            let ((before, width), (lower, _)) = (bucket(at - 1), bucket(at));
            assert_eq!(before + width, lower, "bucket {at}");
            assert_eq!((index(lower), index(lower - 1)), (at, at - 1));
            assert!(lower < LINEAR || width <= lower >> POWER, "bucket {at}");
        }
    }

    #[test]
    fn percentiles_are_exact_to_a_bucket() {
        let mut times = Times::new();
        assert_eq!(times.percentile(0.5), None);
        (1..=1000).for_each(|us| times.add(us * 1000));
        for (name, share) in PERCENTILES {
            let (time, exact) = (times.percentile(share).unwrap(), share * 1000.0);
            assert!((time / exact - 1.0).abs() < 1.0 / 128.0, "{name}: {time} for {exact}");
        }
    }

    #[test]
    fn a_shift_of_less_than_a_bucket_shows() {
        // A bucket at 50 us is 256 ns wide; the times of a real load are spread over many.
        let mut both = [Times::new(), Times::new()];
        for (times, added) in both.iter_mut().zip([0, 100]) {
            (40_000..60_000).for_each(|nanos| times.add(nanos + added));
        }
        let [before, after] = both.map(|times| times.percentile(0.5).unwrap());
        assert!((after - before - 0.1).abs() < 0.01, "{before} {after}");
    }

    #[test]
    fn times_of_all_threads_count() {
        let (mut all, mut other) = (Times::new(), Times::new());
        all.add(100);
        other.add(u64::MAX);
        other.add(300);
        all.merge(&other);
        assert_eq!(all.count(), 3);
    }
}
