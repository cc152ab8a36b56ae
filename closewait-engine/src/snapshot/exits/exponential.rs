//! Dwell times in exponential buckets, as native histograms of Prometheus have them.
//!
//! The bounds of the kernel program's buckets are powers of two in nanoseconds, and equal steps between them; those of exponential
//! buckets are powers of two in seconds, and equal ratios between them. So they do not coincide: each bucket of the kernel program
//! counts wholly in the exponential bucket that contains its middle. A dwell time can be up to half of its kernel bucket outside
//! of the exponential bucket that counts it, 1.6 % at most. [`MAX_ERROR`] has that in it.

/// Binary logarithm of the number of buckets for each power of two, as in the field `schema` of a native histogram. This is the
/// highest one whose buckets (4.4 % wide) are nowhere narrower than those of the kernel program (3.2 % at most): with the next one,
/// 2.2 %, some buckets could never count anything.
pub const SCHEMA: i32 = 4;
/// Maximum relative distance between a dwell time and any value in the bucket that counts it, and so between a quantile of the dwell
/// times and the same one of the buckets, however that is interpolated. From -5.7 % to +6.1 %.
pub const MAX_ERROR: f64 = 0.061;

/// Number of dwell times in exponential buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExponentialBuckets {
    /// Number of dwell times of 0 ns.
    pub zero: u64,
    /// Index and number of each bucket that is not empty, in the order of the indexes. The bucket `i` is for times above
    /// 2^((i-1)/16) seconds, up to 2^(i/16) seconds.
    pub counts: Vec<(i32, u64)>,
}

impl ExponentialBuckets {
    /// Counts `found` dwell times of the kernel bucket with the middle `seconds`, which is not below any earlier one.
    pub(super) fn add(&mut self, seconds: f64, found: u64) {
        if seconds <= 0.0 {
            self.zero = self.zero.saturating_add(found);
            return;
        }
        let index = index(seconds);
        match self.counts.last_mut() {
            // A recording can contain any counts.
            Some((last, count)) if *last == index => *count = count.saturating_add(found),
            _ => self.counts.push((index, found)),
        }
    }
}

/// Returns the index of the bucket that contains a time above 0. The nanoseconds of a `u64` have indexes between -478 and 546.
fn index(seconds: f64) -> i32 {
    (seconds.log2() * f64::from(1 << SCHEMA)).ceil() as i32
}

#[cfg(test)]
mod tests {
    use closewait_common::histogram::{BUCKETS, index as kernel_index, lower_edge, upper_edge};
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::exits::ExitLog;

    /// Returns the buckets of kernel counts.
    fn of(kernel: &[u64]) -> ExponentialBuckets {
        ExitLog::default().dwell_buckets(kernel).exponential
    }

    fn bounds(index: i32) -> (f64, f64) {
        let bound = |index: i32| (f64::from(index) / f64::from(1 << SCHEMA)).exp2();
        (bound(index - 1), bound(index))
    }

    fn is_near(value: f64, exact: f64) -> bool {
        (value / exact - 1.0).abs() <= MAX_ERROR
    }

    /// Returns the index of the bucket that counts the dwell times of each kernel bucket but the one of 0 ns.
    fn indexes() -> Vec<i32> {
        let of_kernel_bucket = |i: usize| {
            let mut kernel = vec![0; BUCKETS];
            kernel[i] = 1;
            let found = of(&kernel);
            assert_eq!((found.zero, found.counts.len(), found.counts[0].1), (0, 1, 1), "kernel bucket {i}");
            found.counts[0].0
        };
        (1..BUCKETS).map(of_kernel_bucket).collect()
    }

    #[test]
    fn every_value_of_a_bucket_is_within_the_error_of_every_dwell_time_in_it() {
        let (mut least, mut most) = (1.0_f64, 1.0_f64);
        for (index, i) in indexes().into_iter().zip(1..) {
            let (low, high) = bounds(index);
            for dwell in [lower_edge(i), upper_edge(i)].map(|nanos| nanos as f64 / 1e9) {
                assert!(is_near(low, dwell) && is_near(high, dwell), "{dwell} s in {low} to {high}");
                (least, most) = (least.min(low / dwell), most.max(high / dwell));
            }
        }
        // The documented numbers are not too large, either.
        assert!((0.943..0.9435).contains(&least) && (1.0605..1.061).contains(&most), "{least} to {most}");
    }

    #[test]
    fn no_bucket_is_empty_for_want_of_a_kernel_bucket() {
        let indexes = indexes();
        assert_eq!((indexes.first(), indexes.last()), (Some(&-478), Some(&546)));
        assert!(indexes.is_sorted());
        // From 64 ns on, where the buckets of the kernel program become wider than 1 ns.
        assert!(indexes[63..].windows(2).all(|pair| pair[1] - pair[0] <= 1));
    }

    #[test]
    fn zero_has_a_bucket_of_its_own() {
        assert_eq!(of(&[]), ExponentialBuckets::default());
        assert_eq!(of(&[7]), ExponentialBuckets { zero: 7, counts: Vec::new() });
        assert_eq!(of(&[7, 2]), ExponentialBuckets { zero: 7, counts: vec![(-478, 2)] });
        // An upper bound belongs to its bucket.
        assert_eq!((index(1.0), index(1.0001), index(2.0)), (0, 1, 16));
    }

    #[test]
    fn impossible_counts_cause_no_panic() {
        let all = of(&[u64::MAX; BUCKETS]);
        assert!(all.zero == u64::MAX && all.counts.iter().all(|(_, count)| *count == u64::MAX));
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_the_error(
            mut dwells in prop::collection::vec(prop_oneof![1_u64..2_000, 1_000_000_u64..100_000_000_000_000], 1..200),
            per_cent in 1_usize..=100,
        ) {
            let mut kernel = vec![0; BUCKETS];
            dwells.iter().for_each(|nanos| kernel[kernel_index(*nanos)] += 1);
            let buckets = of(&kernel).counts;
            prop_assert_eq!(buckets.iter().map(|(_, count)| *count).sum::<u64>(), dwells.len() as u64);
            dwells.sort_unstable();
            let rank = (dwells.len() * per_cent).div_ceil(100).max(1);
            let exact = dwells[rank - 1] as f64 / 1e9;
            let mut seen = 0;
            let mut reached = buckets.iter().filter(|(_, count)| {
                seen += count;
                seen >= rank as u64
            });
            let (low, high) = bounds(reached.next().expect("all are counted").0);
            prop_assert!(is_near(low, exact) && is_near(high, exact), "{exact} s in {low} to {high}");
        }
    }
}
