//! Schedule of reports: the time at which each socket is due.
//!
//! Nearly all sockets are due at the same age, so they arrive in the order of their due times, and nearly all exit long before. A
//! queue costs less than half of a tree for them; only sockets that arrive out of order are stored in a tree.

use std::collections::{BTreeSet, VecDeque};

use crate::{model::SocketKey, time::BootTime};

/// Minimum length of a queue whose gaps are removed.
const SMALL: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Slot {
    due: (BootTime, SocketKey),
    /// Whether the socket of the slot has exited.
    gap: bool,
}

/// Due times with their sockets, in ascending order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedule {
    /// Slots in ascending order. The first slot is never a gap.
    queue: VecDeque<Slot>,
    gaps: usize,
    others: BTreeSet<(BootTime, SocketKey)>,
}

impl Schedule {
    /// Returns the earliest entry.
    pub(crate) fn first(&self) -> Option<(BootTime, SocketKey)> {
        let queued = self.queue.front().map(|place| place.due);
        let other = self.others.first().copied();
        queued.min(other).or(queued).or(other)
    }

    /// Iterates over all entries, earliest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (BootTime, SocketKey)> {
        let mut queued = self.queue.iter().filter(|place| !place.gap).map(|place| place.due).peekable();
        let mut others = self.others.iter().copied().peekable();
        std::iter::from_fn(move || match (queued.peek(), others.peek()) {
            (Some(queued), Some(other)) if other < queued => others.next(),
            (None, _) => others.next(),
            (Some(_), _) => queued.next(),
        })
    }

    /// Schedules the first report of a socket at `at`.
    pub(crate) fn insert_first(&mut self, at: BootTime, key: SocketKey) {
        if self.queue.back().is_none_or(|last| last.due < (at, key)) {
            self.queue.push_back(Slot { due: (at, key), gap: false });
        } else {
            self.others.insert((at, key));
        }
    }

    /// Schedules a further report of a socket at `at`, which is too late for the queue of first reports.
    pub(crate) fn insert_again(&mut self, at: BootTime, key: SocketKey) {
        self.others.insert((at, key));
    }

    /// Removes the report of a socket at `at`.
    pub(crate) fn remove(&mut self, at: BootTime, key: SocketKey) {
        let Some(place) = self.find((at, key)) else {
            self.others.remove(&(at, key));
            return;
        };
        place.gap = true;
        self.gaps += 1;
        while self.queue.front().is_some_and(|first| first.gap) {
            self.queue.pop_front();
            self.gaps -= 1;
        }
        if self.queue.len() > SMALL && self.gaps > self.queue.len() / 2 {
            self.queue.retain(|place| !place.gap);
            self.gaps = 0;
        }
        if self.queue.capacity() > SMALL && self.queue.len() < self.queue.capacity() / 8 {
            self.queue.shrink_to(2 * self.queue.len());
        }
    }

    /// Returns the slot of `due`. Most sockets that exit are near one end of the queue, so the search begins at both ends, with
    /// doubling steps.
    fn find(&mut self, due: (BootTime, SocketKey)) -> Option<&mut Slot> {
        let (first, last) = (self.queue.front()?.due, self.queue.back()?.due);
        if due < first || last < due {
            return None;
        }
        let (length, mut step) = (self.queue.len(), 1);
        let (mut from, mut to) = loop {
            let (near, far) = (step.min(length) - 1, length - step.min(length));
            if self.queue.get(near).is_none_or(|place| due <= place.due) {
                break (step / 2, near);
            }
            if self.queue.get(far).is_none_or(|place| place.due <= due) {
                break (far, length - 1 - step / 2);
            }
            step *= 2;
        };
        while from < to {
            let middle = usize::midpoint(from, to);
            if self.queue.get(middle)?.due < due {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        self.queue.get_mut(from).filter(|place| place.due == due && !place.gap)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        First(u64, u64),
        Again(u64, u64),
        /// Removes the entry at this fraction of all, in thousandths.
        Remove(usize),
        RemoveAny(u64, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let (at, key) = (0..50_u64, 0..4_u64);
        let one = prop_oneof![
            6 => (at.clone(), key.clone()).prop_map(|(at, key)| Step::First(at, key)),
            1 => (at.clone(), key.clone()).prop_map(|(at, key)| Step::Again(at, key)),
            4 => (0..1000_usize).prop_map(Step::Remove),
            1 => (at, key).prop_map(|(at, key)| Step::RemoveAny(at, key)),
        ];
        vec(one, 0..300)
    }

    proptest! {
        #[test]
        fn it_is_equivalent_to_an_ordered_set(steps in steps()) {
            let (mut due, mut set) = (Schedule::default(), BTreeSet::new());
            // Time advances with each step.
            for (now, step) in (0..).zip(steps) {
                match step {
                    Step::First(at, key) | Step::Again(at, key) => {
                        let one = (BootTime(now + at), SocketKey(key));
                        if set.insert(one) {
                            match step {
                                Step::Again(..) => due.insert_again(one.0, one.1),
                                Step::First(..) | Step::Remove(_) | Step::RemoveAny(..) => due.insert_first(one.0, one.1),
                            }
                        }
                    }
                    Step::Remove(part) => {
                        if let Some(one) = set.iter().nth(part * set.len() / 1000).copied() {
                            set.remove(&one);
                            due.remove(one.0, one.1);
                        }
                    }
                    Step::RemoveAny(at, key) => {
                        set.remove(&(BootTime(at), SocketKey(key)));
                        due.remove(BootTime(at), SocketKey(key));
                    }
                }
                prop_assert_eq!(due.first(), set.first().copied());
                prop_assert!(due.iter().eq(set.iter().copied()));
                prop_assert!(due.queue.front().is_none_or(|first| !first.gap));
            }
        }
    }

    fn key(number: u64) -> SocketKey {
        SocketKey(number)
    }

    #[test]
    fn gaps_take_no_memory() {
        let mut due = Schedule::default();
        let count = 1_000_000;
        due.insert_first(BootTime(0), key(0));
        for number in 1..count {
            due.insert_first(BootTime(number), key(number));
            due.remove(BootTime(number), key(number));
        }
        assert!(due.queue.capacity() <= 4 * SMALL, "{}", due.queue.capacity());
        assert_eq!(due.iter().collect::<Vec<_>>(), [(BootTime(0), key(0))]);
        for number in count..2 * count {
            due.insert_first(BootTime(number), key(number));
        }
        for number in (count..2 * count).rev() {
            due.remove(BootTime(number), key(number));
        }
        assert!(due.queue.capacity() <= 4 * SMALL, "{}", due.queue.capacity());
        assert_eq!(due.first(), Some((BootTime(0), key(0))));
    }

    #[test]
    fn first_reports_are_queued_and_further_ones_are_not() {
        let mut due = Schedule::default();
        for number in 0..1000 {
            due.insert_first(BootTime(number), key(number));
            due.remove(BootTime(number), key(number));
            due.insert_again(BootTime(1_000_000 + number), key(number));
        }
        due.insert_first(BootTime(1000), key(1000));
        assert_eq!((due.queue.len(), due.others.len()), (1, 1000));
    }
}
