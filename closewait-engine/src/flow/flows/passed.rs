//! Counts of sockets without records.

use super::{Flows, cohorts, cohorts::MAX_COHORTS};
use crate::{flow::group_key::FlowKey, model::PassedSockets};

/// Limit of the counts that damaged recordings can reach, so that no sum of a few counts overflows.
const MAX_COUNT: u64 = u64::MAX / 8;

impl Flows {
    /// Counts `count` sockets that entered and that their program closed, as [`Self::entered`] and [`Self::left`] do for each. They count in
    /// the cohorts of the time in which they exited, evenly: they dwell for moments. That time is long if the agent was stopped, or if the
    /// counts are those of pins without an agent.
    ///
    /// None of them remains, so the next count of the present sockets need not come sooner.
    pub(crate) fn passed(&mut self, key: FlowKey, passed: &PassedSockets, count: u64) {
        let PassedSockets { since, last, longest, .. } = *passed;
        let cohort = self.cohort();
        let stuck_after = self.stuck_after;
        let (key, stats) = self.stats_mut(key, last);
        add(&mut stats.entered, count);
        add(&mut stats.closed, count);
        for (number, share) in shares((since.0.min(last.0), last.0), cohort, count) {
            cohorts::passed(&mut stats.cohorts, number, share);
        }
        stats.last_closed = stats.last_closed.max(Some(last));
        stats.closed_before_end(last);
        stats.longest_closed[0] = stats.longest_closed[0].max(Some(longest));
        // As for each socket with a record. A dwell time this long is that of a damaged recording.
        if longest < stuck_after {
            stats.habit.closed(count, longest);
        }
        if key == FlowKey::Rest {
            add(&mut self.ungrouped, count);
        }
    }
}

/// Returns the numbers of the newest cohorts of a time, each with its share of `count`. `cohort` is the length of one, nanoseconds.
fn shares((since, last): (u64, u64), cohort: u64, count: u64) -> impl Iterator<Item = (u64, u64)> {
    let newest = last / cohort;
    let oldest = (since / cohort).max(newest.saturating_sub(MAX_COHORTS as u64 - 1));
    // Number of those that exited until a time.
    let until = move |at: u64| {
        let part = u128::from(at.clamp(since, last) - since) * u128::from(count);
        part.checked_div(u128::from(last - since)).map_or(0, |part| u64::try_from(part).unwrap_or(u64::MAX))
    };
    (oldest..=newest).filter_map(move |number| {
        let end = if number == newest { count } else { until((number + 1).saturating_mul(cohort)) };
        let share = end - until(number.saturating_mul(cohort));
        (share > 0).then_some((number, share))
    })
}

/// Adds to a count, up to the limit.
fn add(count: &mut u64, more: u64) {
    *count += more.min(MAX_COUNT.saturating_sub(*count));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{flow::flows::MAX_FLOWS, time::BootTime};

    const LAST: BootTime = BootTime(9_000_000_000);

    fn passed(key: FlowKey) -> PassedSockets {
        PassedSockets {
            at: LAST,
            flow: key.group(),
            since: LAST,
            last: LAST,
            longest: Duration::from_millis(3),
            dwell: vec![(7, 5)],
        }
    }

    #[test]
    fn counts_of_flows_over_the_limit_are_counted_together() {
        let mut flows = Flows::new(BootTime(0), Duration::from_secs(60));
        let key = |number: usize| FlowKey::Port(Some(u32::try_from(number).unwrap()), 80);
        (0..MAX_FLOWS).for_each(|number| flows.entered(key(number), BootTime(1)));
        for number in [0, MAX_FLOWS, MAX_FLOWS + 1] {
            flows.passed(key(number), &passed(key(number)), 5);
        }
        let counts = |key| flows.flow(key, None, LAST).map(|flow| (flow.entered, flow.closed));
        assert_eq!((counts(key(0)), counts(FlowKey::Rest), flows.ungrouped()), (Some((6, 5)), Some((10, 10)), 10));
    }

    #[test]
    fn counts_of_a_long_time_are_shared_by_its_cohorts() {
        let shares = |since, last, count| shares((since, last), 10, count).collect::<Vec<_>>();
        assert_eq!(shares(23, 23, 5), [(2, 5)]);
        assert_eq!(shares(21, 29, 5), [(2, 5)]);
        assert_eq!(shares(25, 45, 8), [(2, 2), (3, 4), (4, 2)]);
        assert_eq!(shares(5, 25, 1), [(2, 1)]);
        assert_eq!(shares(0, u64::MAX, u64::MAX).len(), MAX_COHORTS, "older ones are not kept");
        for (since, last, count) in [(0, 999, 7), (17, 400, 1_000_003), (1, 2, u64::MAX)] {
            assert_eq!(shares(since, last, count).into_iter().map(|(_, share)| share).sum::<u64>(), count);
        }
        assert_eq!(shares(0, 9, 0), []);
    }

    #[test]
    fn sockets_that_passed_before_a_hang_began_are_none_of_those_since() {
        let (key, second) = (FlowKey::Port(None, 80), |number: u64| BootTime(number * 1_000_000_000));
        let mut flows = Flows::new(BootTime(0), Duration::from_secs(10));
        // The program hangs at 40 s; the agent was stopped for a minute, and takes all counts at once.
        (40..60).for_each(|at| flows.entered(key, second(at)));
        flows.passed(key, &PassedSockets { since: second(1), last: second(40), ..passed(key) }, 390);
        let since_onset = flows.flow(key, Some(second(40)), second(75)).map(|flow| flow.since_onset_entered);
        assert!(since_onset.is_some_and(|entered| (20..=30).contains(&entered)), "{since_onset:?}");
    }

    #[test]
    fn counts_bring_no_count_of_the_present_sockets_and_delay_none() {
        let mut flows = Flows::new(BootTime(0), Duration::from_secs(60));
        let key = FlowKey::Port(None, 80);
        flows.handle_timeout(BootTime(7_000_000_000), std::iter::empty(), std::iter::empty());
        let mut due = Vec::new();
        for has_entered in [false, true] {
            if has_entered {
                flows.entered(key, LAST);
            }
            flows.passed(key, &passed(key), 5);
            due.push(flows.poll_timeout());
        }
        assert_eq!(due, [Some(BootTime(60_000_000_000)), Some(LAST + Duration::from_secs(2))]);
    }
}
