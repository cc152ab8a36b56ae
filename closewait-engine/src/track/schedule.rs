//! Schedule of reports: the sockets in the order in which they are due.
//!
//! Nearly all sockets are due at the same age, so they arrive in the order of their due times, and nearly all exit long before. A
//! queue costs less than a tree for them, and each socket knows its place in the queue; only sockets that arrive out of order are
//! in sorted lists. Both have only the numbers of the sockets: the slab has the times.

use std::collections::VecDeque;

use super::{packed::NO_PLACE, slab::Slab};
use crate::{model::SocketKey, time::BootTime};

/// Minimum length of a queue whose gaps are removed.
const SMALL: usize = 4096;
/// In place of the number of a socket that has exited.
const GAP: u32 = u32::MAX;
/// Maximum length of a sorted list; in tests less, so that there are several. Small lists would lie between memory that is soon
/// freed, and keep its pages.
const MAX_LIST: usize = if cfg!(test) { 8 } else { 4096 };

/// Time at which a socket is due, and its key.
type Due = (BootTime, SocketKey);

fn due(slab: &Slab, id: u32) -> Due {
    let packed = slab.get(id);
    (packed.due, packed.key)
}

/// Numbers of all sockets, in ascending order of their due times and keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Schedule {
    /// Numbers in ascending order. The first one is never a gap.
    queue: VecDeque<u32>,
    /// Place of the first number in the queue. Places wrap around.
    first_place: u32,
    gaps: usize,
    /// Greatest due time in the queue so far.
    last: Option<Due>,
    others: SortedLists,
}

impl Schedule {
    /// Returns the number of the socket that is due first.
    pub(super) fn first(&self, slab: &Slab) -> Option<u32> {
        let (queued, other) = (self.queue.front().copied(), self.others.first());
        queued.into_iter().chain(other).min_by_key(|id| due(slab, *id))
    }

    /// Iterates over all sockets, the one that is due first at first.
    pub(super) fn iter(&self, slab: &Slab) -> impl Iterator<Item = u32> {
        let mut queued = self.queue.iter().copied().filter(|id| *id != GAP).peekable();
        let mut others = self.others.iter().peekable();
        std::iter::from_fn(move || match (queued.peek(), others.peek()) {
            (Some(one), Some(other)) if due(slab, *other) < due(slab, *one) => others.next(),
            (None, _) => others.next(),
            (Some(_), _) => queued.next(),
        })
    }

    /// Schedules a report of the socket that gets a number. Returns its place. `is_first` is whether it is its first report: further
    /// ones are too late for the queue.
    pub(super) fn insert(&mut self, slab: &Slab, id: u32, at: Due, is_first: bool) -> u32 {
        if !is_first || self.last.is_some_and(|last| at <= last) {
            self.others.insert(slab, id, at);
            return NO_PLACE;
        }
        let mut place = self.first_place.wrapping_add(self.queue.len() as u32);
        if place == NO_PLACE {
            // Places wrap around, and skip this one.
            place = 0;
            if self.queue.is_empty() {
                self.first_place = 0;
            } else {
                self.queue.push_back(GAP);
                self.gaps += 1;
            }
        }
        self.queue.push_back(id);
        self.last = Some(at);
        place
    }

    /// Removes the report of a socket.
    pub(super) fn remove(&mut self, slab: &mut Slab, id: u32) {
        let packed = slab.get(id);
        if packed.place == NO_PLACE {
            self.others.remove(slab, id);
            return;
        }
        let index = packed.place.wrapping_sub(self.first_place) as usize;
        if let Some(slot) = self.queue.get_mut(index) {
            debug_assert_eq!(*slot, id, "the place of another socket");
            *slot = GAP;
            self.gaps += 1;
        }
        while self.queue.front() == Some(&GAP) {
            self.queue.pop_front();
            self.first_place = self.first_place.wrapping_add(1);
            self.gaps -= 1;
        }
        if self.queue.is_empty() {
            self.last = None;
        }
        if self.queue.len() > SMALL && self.gaps > self.queue.len() / 2 {
            self.compact(slab);
        }
        if self.queue.capacity() > SMALL && self.queue.len() < self.queue.capacity() / 8 {
            self.queue.shrink_to(2 * self.queue.len());
        }
    }

    /// Removes the gaps.
    fn compact(&mut self, slab: &mut Slab) {
        self.queue.retain(|id| *id != GAP);
        (self.gaps, self.first_place) = (0, 0);
        for (id, place) in self.queue.iter().zip(0..) {
            if let Some(packed) = slab.get_mut(*id) {
                packed.place = place;
            }
        }
    }
}

/// Numbers of sockets in ascending order of their due times, in lists that are not empty.
#[derive(Clone, Debug, Default)]
struct SortedLists(VecDeque<VecDeque<u32>>);

impl SortedLists {
    fn first(&self) -> Option<u32> {
        self.0.front()?.front().copied()
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flatten().copied()
    }

    /// Returns the index of the list that has, or gets, a due time.
    fn list(&self, slab: &Slab, at: Due) -> usize {
        // Most sockets are near one end.
        let begins_by = |list: &VecDeque<u32>| list.front().is_some_and(|id| due(slab, *id) <= at);
        if self.0.back().is_some_and(begins_by) {
            return self.0.len() - 1;
        }
        if self.0.get(1).is_none_or(|second| !begins_by(second)) {
            return 0;
        }
        self.0.partition_point(begins_by).saturating_sub(1)
    }

    fn insert(&mut self, slab: &Slab, id: u32, at: Due) {
        let number = self.list(slab, at);
        let Some(list) = self.0.get_mut(number) else {
            self.0.push_back(VecDeque::from([id]));
            return;
        };
        let index = match list.back() {
            Some(last) if due(slab, *last) < at => list.len(),
            _ => list.partition_point(|id| due(slab, *id) < at),
        };
        if list.len() < MAX_LIST {
            list.insert(index, id);
        } else if index == list.len() {
            // Nearly all arrive at the end: full lists take the least memory.
            self.0.insert(number + 1, VecDeque::from([id]));
        } else {
            list.insert(index, id);
            let rest = list.split_off(MAX_LIST / 2);
            list.shrink_to_fit();
            self.0.insert(number + 1, rest);
        }
    }

    fn remove(&mut self, slab: &Slab, id: u32) {
        let at = due(slab, id);
        let number = self.list(slab, at);
        let Some(list) = self.0.get_mut(number) else { return };
        let index = if list.front() == Some(&id) { 0 } else { list.partition_point(|id| due(slab, *id) < at) };
        debug_assert_eq!(list.get(index), Some(&id), "another socket");
        if list.get(index) == Some(&id) {
            list.remove(index);
        }
        if list.is_empty() {
            self.0.remove(number);
        } else if list.len() < list.capacity() / 4 {
            list.shrink_to(2 * list.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::track::packed::Packed;

    /// Schedule with the sockets that it is about.
    #[derive(Default)]
    struct Scheduled {
        slab: Slab,
        schedule: Schedule,
        ids: std::collections::BTreeMap<Due, u32>,
    }

    impl Scheduled {
        fn insert(&mut self, at: Due, is_first: bool) {
            let id = self.slab.next_id();
            let place = self.schedule.insert(&self.slab, id, at, is_first);
            let mut packed = Packed::wide(at.1, at.0);
            packed.place = place;
            self.slab.put(id, packed);
            self.ids.insert(at, id);
        }

        fn remove(&mut self, at: Due) {
            let id = self.ids.remove(&at).unwrap();
            self.schedule.remove(&mut self.slab, id);
            self.slab.remove(id);
        }

        fn all(&self) -> Vec<Due> {
            self.schedule.iter(&self.slab).map(|id| due(&self.slab, id)).collect()
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        First(u64, u64),
        Again(u64, u64),
        /// Removes the entry at this fraction of all, in thousandths.
        Remove(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let (at, key) = (0..50_u64, 0..4_u64);
        let one = prop_oneof![
            6 => (at.clone(), key.clone()).prop_map(|(at, key)| Step::First(at, key)),
            3 => (at, key).prop_map(|(at, key)| Step::Again(at, key)),
            4 => (0..1000_usize).prop_map(Step::Remove),
        ];
        vec(one, 0..300)
    }

    proptest! {
        #[test]
        fn it_is_equivalent_to_an_ordered_set(steps in steps()) {
            let (mut scheduled, mut set) = (Scheduled::default(), BTreeSet::new());
            // Time advances with each step.
            for (now, step) in (0..).zip(steps) {
                let added: Vec<(Due, bool)> = match step {
                    Step::First(at, key) => vec![((BootTime(now + at), SocketKey(key)), true)],
                    Step::Again(at, key) => vec![((BootTime(now + at), SocketKey(key)), false)],
                    Step::Remove(part) => {
                        if let Some(one) = set.iter().nth(part * set.len() / 1000).copied() {
                            set.remove(&one);
                            scheduled.remove(one);
                        }
                        Vec::new()
                    }
                };
                for (one, is_first) in added {
                    if set.insert(one) {
                        scheduled.insert(one, is_first);
                    }
                }
                let first = scheduled.schedule.first(&scheduled.slab);
                prop_assert_eq!(first.map(|id| due(&scheduled.slab, id)), set.first().copied());
                prop_assert!(scheduled.all().iter().eq(&set));
                prop_assert!(scheduled.schedule.queue.front() != Some(&GAP));
            }
            while let Some(one) = set.pop_last() {
                scheduled.remove(one);
            }
            prop_assert!(scheduled.schedule.queue.is_empty() && scheduled.schedule.others.0.is_empty());
        }
    }

    fn at(number: u64) -> Due {
        (BootTime(number), SocketKey(number))
    }

    #[test]
    fn gaps_take_no_memory() {
        let mut due = Scheduled::default();
        let count = 1_000_000;
        due.insert(at(0), true);
        for number in 1..count {
            due.insert(at(number), true);
            due.remove(at(number));
        }
        assert!(due.schedule.queue.capacity() <= 4 * SMALL, "{}", due.schedule.queue.capacity());
        assert_eq!(due.all(), [at(0)]);
        for number in count..2 * count {
            due.insert(at(number), true);
        }
        for number in (count..2 * count).rev() {
            due.remove(at(number));
        }
        assert!(due.schedule.queue.capacity() <= 4 * SMALL, "{}", due.schedule.queue.capacity());
        assert_eq!(due.all(), [at(0)]);
    }

    #[test]
    fn places_wrap_around() {
        let mut due = Scheduled::default();
        due.schedule.first_place = u32::MAX - 3;
        for number in 0..10 {
            due.insert(at(number), true);
        }
        for number in [5, 2, 9, 0, 1] {
            due.remove(at(number));
        }
        assert_eq!(due.all(), [3, 4, 6, 7, 8].map(at));
        for number in [3, 4, 6, 7, 8] {
            due.remove(at(number));
        }
        assert!(due.schedule.queue.is_empty());
        due.schedule.first_place = u32::MAX;
        due.insert(at(1), true);
        due.remove(at(1));
        assert!(due.all().is_empty());
    }

    #[test]
    fn first_reports_are_queued_and_further_ones_are_not() {
        let mut due = Scheduled::default();
        for number in 0..1000 {
            due.insert(at(number), true);
            due.remove(at(number));
            due.insert(at(1_000_000 + number), false);
        }
        due.insert(at(1000), true);
        assert_eq!((due.schedule.queue.len(), due.schedule.others.0.iter().map(VecDeque::len).sum()), (1, 1000));
    }
}
