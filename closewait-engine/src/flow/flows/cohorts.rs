//! Counts of the sockets that entered at about the same time.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Maximum number of cohorts of a flow. A cohort counts the sockets that entered in one interval, half as long as
/// `stuck_after`.
pub(super) const MAX_COHORTS: usize = 128;

/// Counts of one cohort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cohort {
    pub(super) number: u64,
    pub(super) entered: u32,
    pub(super) left: u32,
}

/// Counts an entry in a cohort.
pub(super) fn entered(cohorts: &mut VecDeque<Cohort>, number: u64) {
    if let Some(cohort) = of_number(cohorts, number) {
        cohort.entered = cohort.entered.saturating_add(1);
    }
}

/// Counts entries and exits of `sockets` sockets in a cohort.
pub(super) fn passed(cohorts: &mut VecDeque<Cohort>, number: u64, sockets: u64) {
    if let Some(cohort) = of_number(cohorts, number) {
        let sockets = u32::try_from(sockets).unwrap_or(u32::MAX);
        cohort.entered = cohort.entered.saturating_add(sockets);
        cohort.left = cohort.left.saturating_add(sockets);
    }
}

/// Returns a cohort of entries; `None` if it was dropped. Nearly always it is the last one; an entry can be reported after later ones.
fn of_number(cohorts: &mut VecDeque<Cohort>, number: u64) -> Option<&mut Cohort> {
    let before = cohorts.iter().rposition(|one| one.number <= number);
    if let Some(place) = before.filter(|before| cohorts.get(*before).is_some_and(|one| one.number == number)) {
        return cohorts.get_mut(place);
    }
    let mut place = before.map_or(0, |before| before + 1);
    // Pop before the insertion, so that the queue does not grow beyond the limit.
    if cohorts.len() >= MAX_COHORTS {
        if place == 0 {
            return None;
        }
        cohorts.pop_front();
        place -= 1;
    }
    cohorts.insert(place, Cohort { number, entered: 0, left: 0 });
    cohorts.get_mut(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(cohorts: &VecDeque<Cohort>) -> Vec<(u64, u32)> {
        cohorts.iter().map(|one| (one.number, one.entered)).collect()
    }

    #[test]
    fn cohorts_are_in_the_order_of_their_times_also_after_a_late_report() {
        let mut cohorts = VecDeque::new();
        [3, 3, 5, 4, 3, 1].into_iter().for_each(|number| entered(&mut cohorts, number));
        assert_eq!(numbers(&cohorts), [(1, 1), (3, 3), (4, 1), (5, 1)]);
    }

    #[test]
    fn over_the_limit_the_oldest_cohorts_are_dropped() {
        let mut cohorts = VecDeque::new();
        let last = MAX_COHORTS as u64 * 2;
        (0..MAX_COHORTS as u64).for_each(|number| entered(&mut cohorts, number * 2 + 2));
        entered(&mut cohorts, 1);
        assert_eq!((cohorts.len(), cohorts[0].number), (MAX_COHORTS, 2), "it would be the oldest");
        entered(&mut cohorts, last - 1);
        let end: Vec<_> = numbers(&cohorts).split_off(MAX_COHORTS - 3);
        assert_eq!((cohorts[0].number, end), (4, vec![(last - 2, 1), (last - 1, 1), (last, 1)]));
        assert_eq!(cohorts.len(), MAX_COHORTS);
    }
}
