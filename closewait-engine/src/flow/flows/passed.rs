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
