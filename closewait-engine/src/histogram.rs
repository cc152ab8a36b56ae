//! Histograms of dwell times, with the buckets of the kernel program.

use std::time::Duration;

use closewait_common::histogram::{BUCKETS, index, upper_edge};
use serde::{Deserialize, Serialize};

/// Counts for every bucket of [`closewait_common::histogram`], nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    #[serde(with = "crate::model::sparse")]
    counts: Vec<u64>,
    /// Longest recorded dwell time, nanoseconds; `None` if no exact time is known.
    longest: Option<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], longest: None }
    }
}

impl Histogram {
    /// Returns the increase from `before` to `now`; both are counts since the same time. Missing buckets of a shorter
    /// slice count as zeroes, and a decrease as no change.
    pub fn difference(now: &[u64], before: &[u64]) -> Self {
        let counts = (0..BUCKETS).map(|i| {
            let count = |of: &[u64]| of.get(i).copied().unwrap_or(0);
            count(now).saturating_sub(count(before))
        });
        Self { counts: counts.collect(), longest: None }
    }

    /// Counts one dwell time.
    pub fn record(&mut self, dwell: Duration) {
        let nanos = super::time::nanos(dwell);
        if let Some(count) = self.counts.get_mut(index(nanos)) {
            *count = count.saturating_add(1);
        }
        self.longest = self.longest.max(Some(nanos));
    }

    /// Adds counts of buckets; those of buckets that do not exist count in the last one. `longest` is the longest dwell time among them.
    pub fn record_counts(&mut self, counts: &[(u16, u32)], longest: Duration) {
        for (bucket, more) in counts {
            if let Some(count) = self.counts.get_mut(usize::from(*bucket).min(BUCKETS - 1)) {
                *count = count.saturating_add(u64::from(*more));
            }
        }
        self.longest = self.longest.max(Some(super::time::nanos(longest)));
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
        self.longest = self.longest.max(other.longest);
    }

    /// Sets the longest dwell time, which is more precise than the edge of the highest bucket.
    pub fn with_longest(mut self, longest: Option<Duration>) -> Self {
        self.longest = longest.map(super::time::nanos);
        self
    }

    /// Returns counts and quantiles.
    pub fn summary(&self) -> Summary {
        // A recording can contain any counts, so the sum saturates.
        let count = self.counts.iter().fold(0, |all: u64, count| all.saturating_add(*count));
        let buckets: Vec<_> = self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(i, count)| (Duration::from_nanos(upper_edge(i)), *count))
            .collect();
        // A longest dwell time outside the highest bucket is that of a socket that the buckets do not count.
        let top = self.counts.iter().rposition(|count| *count > 0);
        let longest = self.longest.filter(|longest| Some(index(*longest)) == top);
        let max = top.map(|top| Duration::from_nanos(longest.unwrap_or(upper_edge(top))));
        let quantile = |per_cent: u128| {
            let rank = (u128::from(count) * per_cent).div_ceil(100).max(1);
            let mut seen = 0;
            let bucket = buckets.iter().find(|(_, count)| {
                seen += u128::from(*count);
                seen >= rank
            });
            bucket.map(|(edge, _)| max.map_or(*edge, |max| max.min(*edge)))
        };
        Summary { count, p50: quantile(50), p90: quantile(90), p99: quantile(99), max, buckets }
    }
}

/// Counts and quantiles of a histogram. Quantiles are upper edges of buckets: at most 3.2 % too high, never too low.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of sockets.
    pub count: u64,
    /// Median dwell time; `None` without sockets.
    pub p50: Option<Duration>,
    /// Dwell time that nine in ten sockets do not exceed; `None` without sockets.
    pub p90: Option<Duration>,
    /// Dwell time that ninety-nine in a hundred sockets do not exceed; `None` without sockets.
    pub p99: Option<Duration>,
    /// Longest dwell time; `None` without sockets.
    pub max: Option<Duration>,
    /// Upper edge and count of each bucket that is not empty.
    pub buckets: Vec<(Duration, u64)>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(millis: impl IntoIterator<Item = u64>) -> Summary {
        let mut histogram = Histogram::default();
        for millis in millis {
            histogram.record(Duration::from_millis(millis));
        }
        histogram.summary()
    }

    #[test]
    fn an_empty_histogram_has_no_quantiles() {
        assert_eq!(Histogram::default().summary(), Summary::default());
    }

    #[test]
    fn one_value_is_every_quantile() {
        let summary = of([1500]);
        let value = Some(Duration::from_millis(1500));
        assert_eq!((summary.count, summary.p50, summary.p99, summary.max), (1, value, value, value));
    }

    #[test]
    fn a_longest_dwell_time_outside_the_highest_bucket_is_ignored() {
        let summary = Histogram::difference(&[0, 5], &[0, 2]).with_longest(Some(Duration::from_secs(9))).summary();
        assert_eq!((summary.count, summary.max), (3, Some(Duration::from_nanos(1))));
    }

    #[test]
    fn a_decreased_count_counts_as_zero() {
        assert_eq!(Histogram::difference(&[1, 2], &[3, 3]).summary().count, 0);
    }

    proptest! {
        #[test]
        fn quantiles_are_never_too_low_and_little_too_high(mut millis in prop::collection::vec(0_u64..10_000_000, 1..200)) {
            let summary = of(millis.iter().copied());
            millis.sort_unstable();
            for (per_cent, got) in [(50, summary.p50), (90, summary.p90), (99, summary.p99), (100, summary.max)] {
                let exact = millis[(millis.len() * per_cent).div_ceil(100).max(1) - 1];
                let exact = Duration::from_millis(exact);
                let got = got.expect("there are values");
                prop_assert!(got >= exact && got <= exact + exact / 31, "p{per_cent}: {got:?} for {exact:?}");
            }
        }
    }

    #[test]
    fn impossible_counts_cause_no_panic() {
        let mut histogram = Histogram::difference(&[u64::MAX; BUCKETS], &[]);
        histogram.record(Duration::from_millis(1));
        histogram.add(&histogram.clone());
        let summary = histogram.summary();
        assert_eq!(summary.count, u64::MAX);
        assert!(summary.p50.is_some() && summary.p50 <= summary.p99);
    }

    #[test]
    fn counts_of_buckets_are_added_and_those_of_others_count_in_the_last_one() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::from_nanos(3));
        histogram.record_counts(&[(3, 2), (5, 1)], Duration::from_nanos(5));
        let summary = histogram.summary();
        let expected = [(Duration::from_nanos(3), 3), (Duration::from_nanos(5), 1)];
        assert_eq!((summary.count, &summary.buckets[..], summary.max), (4, &expected[..], Some(expected[1].0)));
        histogram.record_counts(&[(BUCKETS as u16, 1), (u16::MAX, u32::MAX)], Duration::MAX);
        let last = histogram.summary().buckets.pop();
        assert_eq!(last, Some((Duration::from_nanos(u64::MAX), u64::from(u32::MAX) + 1)));
    }
}
