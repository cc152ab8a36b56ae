//! Counts of sockets without records.

use super::{Flows, cohorts};
use crate::{flow::group_key::FlowKey, model::PassedSockets};

/// Limit of the counts that damaged recordings can reach, so that no sum of a few counts overflows.
const MAX_COUNT: u64 = u64::MAX / 8;

impl Flows {
    /// Counts `count` sockets that entered and that their program closed, as [`Self::entered`] and [`Self::left`] do for each. All count in
    /// the cohort of the last exit: those that entered before its start are few, because they dwell for moments.
    ///
    /// None of them remains, so the next count of the present sockets need not come sooner.
    pub(crate) fn passed(&mut self, key: FlowKey, passed: &PassedSockets, count: u64) {
        let PassedSockets { last, longest, .. } = *passed;
        let number = self.number(last);
        let stuck_after = self.stuck_after;
        let (key, stats) = self.stats_mut(key, last);
        add(&mut stats.entered, count);
        add(&mut stats.closed, count);
        cohorts::passed(&mut stats.cohorts, number, count);
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
