//! Exits from CLOSE_WAIT by cause, and dwell times in the buckets of metrics.

pub mod exponential;

use std::time::Duration;

use closewait_common::histogram::{index, lower_edge, upper_edge};

use serde::{Deserialize, Serialize};

use self::exponential::ExponentialBuckets;
use crate::{
    model::{Dwell, ExitCause, Socket},
    time::{BootTime, nanos},
};

/// Number of finite upper bounds of the dwell time buckets.
pub const DWELL_BOUNDS: usize = 13;

/// Nominal upper bounds of the dwell time buckets, milliseconds.
const NOMINAL_MILLIS: [u64; DWELL_BOUNDS] =
    [1, 10, 100, 1000, 5000, 10_000, 30_000, 60_000, 300_000, 900_000, 3_600_000, 21_600_000, 86_400_000];

/// Upper bounds of the dwell time buckets, nanoseconds: the ends of the kernel program's buckets that contain the nominal bounds, so
/// that the counts are exact. They exceed the nominal bounds by 3.2 % at most.
pub const DWELL_BOUNDS_NANOS: [u64; DWELL_BOUNDS] = {
    let mut bounds = [0; DWELL_BOUNDS];
    let mut i = 0;
    while i < DWELL_BOUNDS {
        bounds[i] = upper_edge(index(NOMINAL_MILLIS[i] * 1_000_000));
        i += 1;
    }
    bounds
};

/// Exit that is an example of a dwell time bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DwellExemplar {
    /// Socket cookie, as in events.
    pub cookie: u64,
    /// Inode of the network namespace; `None` if unknown.
    pub netns: Option<u32>,
    /// Exact dwell time.
    pub dwell: Duration,
    /// Time of the exit.
    pub at: BootTime,
}

/// Number of finished dwell times since the kernel program was loaded, by bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct DwellBuckets {
    /// Number of sockets in each bucket of [`DWELL_BOUNDS_NANOS`], then above the last bound. Not cumulative.
    pub counts: [u64; DWELL_BOUNDS + 1],
    /// Sum of the dwell times, seconds, estimated from the middle of each of the kernel program's buckets: at most 1.6 % off.
    pub sum_seconds: f64,
    /// The same dwell times in finer buckets, with the error that [`exponential::MAX_ERROR`] states.
    pub exponential: ExponentialBuckets,
    /// Latest exit in each bucket with a known cookie.
    pub exemplars: [Option<DwellExemplar>; DWELL_BOUNDS + 1],
}

/// Exits since the start of the agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ExitLog {
    counts: [u64; ExitCause::ALL.len()],
    exemplars: [Option<DwellExemplar>; DWELL_BOUNDS + 1],
}

impl ExitLog {
    /// Counts an exit at `at` after `dwell`.
    pub(crate) fn left(&mut self, at: BootTime, how: ExitCause, socket: &Socket, dwell: Option<Dwell>) {
        if let Some(count) = self.counts.get_mut(how as usize) {
            *count = count.saturating_add(1);
        }
        let (Some(Dwell::Exact(dwell)), Some(cookie)) = (dwell, socket.cookie) else { return };
        if let Some(exemplar) = self.exemplars.get_mut(bucket(nanos(dwell))) {
            *exemplar = Some(DwellExemplar { cookie, netns: socket.netns, dwell, at });
        }
    }

    /// Counts exits of sockets that their programs closed, and that are no exemplars.
    pub(crate) fn closed(&mut self, sockets: u64) {
        if let Some(count) = self.counts.get_mut(ExitCause::Closed as usize) {
            *count = count.saturating_add(sockets);
        }
    }

    /// Returns the number of exits by cause.
    pub(crate) fn counts(&self) -> [(ExitCause, u64); ExitCause::ALL.len()] {
        ExitCause::ALL.map(|how| (how, self.counts.get(how as usize).copied().unwrap_or(0)))
    }

    /// Returns the kernel program's dwell time counts, `kernel`, in the buckets of metrics.
    pub(crate) fn dwell_buckets(&self, kernel: &[u64]) -> DwellBuckets {
        let (mut counts, mut sum_nanos) = ([0_u64; DWELL_BOUNDS + 1], 0.0);
        let mut exponential = ExponentialBuckets::default();
        for (i, found) in kernel.iter().enumerate().filter(|(_, found)| **found > 0) {
            let (low, high) = (lower_edge(i), upper_edge(i));
            if let Some(count) = counts.get_mut(bucket(high)) {
                // A recording can contain any counts.
                *count = count.saturating_add(*found);
            }
            let middle = low as f64 + (high - low) as f64 / 2.0;
            exponential.add(middle / 1e9, *found);
            sum_nanos += middle * *found as f64;
        }
        DwellBuckets { counts, sum_seconds: sum_nanos / 1e9, exponential, exemplars: self.exemplars }
    }
}

/// Returns the number of the bucket that counts a dwell time.
fn bucket(nanos: u64) -> usize {
    DWELL_BOUNDS_NANOS.partition_point(|bound| *bound < nanos)
}

#[cfg(test)]
mod tests {
    use closewait_common::histogram::BUCKETS;

    use super::*;
    use crate::testing::socket;

    fn log(millis: &[u64]) -> ExitLog {
        let mut log = ExitLog::default();
        for (cookie, millis) in (1..).zip(millis) {
            let socket = Socket { cookie: Some(cookie), ..socket() };
            let dwell = Dwell::Exact(Duration::from_millis(*millis));
            log.left(BootTime(cookie), ExitCause::Closed, &socket, Some(dwell));
        }
        log
    }

    #[test]
    fn the_index_of_a_cause_is_its_place_in_the_list() {
        for (place, how) in ExitCause::ALL.into_iter().enumerate() {
            assert_eq!(how as usize, place);
        }
    }

    #[test]
    fn a_bound_exceeds_its_nominal_value_by_a_thirty_second_at_most() {
        for (bound, nominal) in DWELL_BOUNDS_NANOS.into_iter().zip(NOMINAL_MILLIS.map(|millis| millis * 1_000_000)) {
            assert!(bound >= nominal && bound <= nominal + nominal / 31, "{bound} for {nominal}");
        }
        assert!(DWELL_BOUNDS_NANOS.is_sorted());
    }

    #[test]
    fn every_kernel_bucket_lies_in_one_bucket() {
        for i in 0..BUCKETS {
            assert_eq!(bucket(lower_edge(i)), bucket(upper_edge(i)), "kernel bucket {i}");
        }
    }

    #[test]
    fn counts_and_sum_follow_from_the_kernel_counts() {
        let mut kernel = vec![0; BUCKETS];
        for millis in [1, 1, 700, 3_000, 100_000_000] {
            kernel[index(millis * 1_000_000)] += 1;
        }
        let buckets = ExitLog::default().dwell_buckets(&kernel);
        assert_eq!(buckets.counts, [2, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let sum = 100_003.702;
        assert!((buckets.sum_seconds - sum).abs() < sum * 0.016, "{}", buckets.sum_seconds);
        assert_eq!(ExitLog::default().dwell_buckets(&[]).sum_seconds, 0.0);
        // Impossible counts of a damaged recording.
        assert_eq!(ExitLog::default().dwell_buckets(&[u64::MAX; BUCKETS]).counts[0], u64::MAX);
    }

    #[test]
    fn the_latest_exit_is_the_exemplar_of_its_bucket() {
        let exemplars = log(&[2, 3, 20_000]).dwell_buckets(&[]).exemplars;
        let cookies: Vec<_> = exemplars.iter().map(|one| one.map(|one| one.cookie)).collect();
        let mut expected = [None; DWELL_BOUNDS + 1];
        (expected[1], expected[6]) = (Some(2), Some(3));
        assert_eq!(cookies, expected);
    }

    #[test]
    fn an_exit_without_cookie_or_exact_dwell_time_is_counted_and_no_exemplar() {
        let mut log = ExitLog::default();
        let unnamed = Socket { cookie: None, ..socket() };
        let between = Dwell::Between { at_least: Duration::ZERO, at_most: None };
        log.left(BootTime(1), ExitCause::Reset, &unnamed, Some(Dwell::Exact(Duration::from_secs(1))));
        log.left(BootTime(1), ExitCause::Reset, &socket(), Some(between));
        log.left(BootTime(1), ExitCause::Unknown, &socket(), None);
        let counts: Vec<_> = log.counts().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counts, [(ExitCause::Reset, 2), (ExitCause::Unknown, 1)]);
        assert_eq!(log.dwell_buckets(&[]).exemplars, [None; DWELL_BOUNDS + 1]);
    }
}
