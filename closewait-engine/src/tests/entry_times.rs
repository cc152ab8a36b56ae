//! Entry times of the model kernel, as the kernel program stores them: slots by address, and a hash map for sockets whose slot is
//! taken.

use std::{cell::Cell, collections::BTreeMap};

use closewait_common::slots::{self, ANNOUNCED, CLAIMS, EntryPlace, OWNER, PENDING, SlotWords, WORDS};

use super::*;

/// Fewer than the addresses of the model kernel, so that sockets collide.
const SLOTS: u64 = 2;

/// Slots and hash map.
#[derive(Default)]
pub(super) struct EntryTimes {
    slots: [ModelSlot; SLOTS as usize],
    hash: BTreeMap<SocketKey, BootTime>,
}

#[derive(Default)]
struct ModelSlot([Cell<u64>; WORDS]);

impl SlotWords for ModelSlot {
    fn load(&self, word: usize) -> u64 {
        self.0[word].get()
    }

    fn store(&self, word: usize, value: u64) {
        self.0[word].set(value);
    }

    fn add(&self, word: usize, value: u64) {
        self.0[word].set(self.0[word].get().wrapping_add(value));
    }
}

/// Returns the address of a socket of the model kernel, whose keys follow each other.
const fn address(key: SocketKey) -> u64 {
    (key.0 - KEY.0 + 1) << 6
}

/// Returns the socket at an address.
const fn key(address: u64) -> SocketKey {
    SocketKey((address >> 6) + KEY.0 - 1)
}

impl EntryTimes {
    fn slot(&self, key: SocketKey) -> &ModelSlot {
        &self.slots[(key.0 % SLOTS) as usize]
    }

    /// Stores an entry. Returns whether the exit of an earlier socket at its address was missed, as far as the program sees it, and
    /// whether the record of the entry is deferred: as `defers` asks, if there is room in a slot.
    pub(super) fn enter(&mut self, key: SocketKey, at: BootTime, defers: bool) -> (bool, bool) {
        let sk = address(key);
        let record = if defers { slots::pending(at.0) } else { ANNOUNCED };
        match slots::enter(self.slot(key), sk, slots::low(sk), at.0, record) {
            EntryPlace::Slot => (false, defers),
            EntryPlace::Replaced => (true, defers),
            EntryPlace::Taken => (self.hash.insert(key, at).is_some(), false),
        }
    }

    /// Removes an entry. Returns its time, and whether it has no record yet.
    pub(super) fn leave(&mut self, key: SocketKey) -> Option<(BootTime, bool)> {
        let of_slot =
            slots::leave(self.slot(key), address(key)).map(|stay| (BootTime(stay.entered_ns), stay.is_pending));
        of_slot.or_else(|| self.hash.remove(&key).map(|at| (at, false)))
    }

    /// Announces all entries that have no record and whose sockets are present, as the agent does, and returns them.
    pub(super) fn announce(&self, is_present: impl Fn(SocketKey) -> bool) -> Vec<(SocketKey, BootTime)> {
        let announce = |slot: &ModelSlot| {
            let (record, owner) = (slot.load(PENDING), slot.load(OWNER) & !CLAIMS);
            let at = slots::peek(slot, owner).filter(|at| owner != 0 && slots::pending(*at) == record)?;
            if !is_present(key(owner)) {
                return None;
            }
            slot.store(PENDING, ANNOUNCED);
            Some((key(owner), BootTime(at)))
        };
        self.slots.iter().filter_map(announce).collect()
    }

    /// Returns the time of an entry, as a refresh reads it.
    pub(super) fn get(&self, key: SocketKey) -> Option<BootTime> {
        slots::peek(self.slot(key), address(key)).map(BootTime).or_else(|| self.hash.get(&key).copied())
    }

    /// Returns all entries, as an audit reads them: of an address with two, the later one last.
    pub(super) fn all(&self) -> Vec<(SocketKey, BootTime)> {
        let hash = self.hash.iter().map(|(key, at)| (*key, *at));
        let slots = self.slots.iter().filter_map(|slot| {
            let owner = slot.load(OWNER) & !CLAIMS;
            let at = slots::peek(slot, owner).filter(|_| owner != 0)?;
            Some((key(owner), BootTime(at)))
        });
        hash.chain(slots).collect()
    }

    /// Removes the entries of an address up to this one, as the agent does.
    pub(super) fn forget(&mut self, key: SocketKey, entered: BootTime) {
        if slots::peek(self.slot(key), address(key)).is_some_and(|at| at <= entered.0) {
            let _time = slots::leave(self.slot(key), address(key));
        }
        if self.hash.get(&key).is_some_and(|at| *at <= entered) {
            self.hash.remove(&key);
        }
    }
}

#[test]
fn an_address_can_have_an_entry_in_its_slot_and_an_older_one_in_the_hash_map() {
    let mut times = EntryTimes::default();
    let (key, other) = (KEY, SocketKey(KEY.0 + SLOTS));
    assert_eq!([times.enter(other, at(1), true), times.enter(key, at(2), true)], [(false, true), (false, false)]);
    assert_eq!(times.leave(other), Some((at(1), true)));
    // The exit of the second one was missed, and its address enters again.
    assert_eq!(times.enter(key, at(3), true), (false, true));
    assert_eq!((times.announce(|_| true), times.announce(|_| true)), (vec![(key, at(3))], vec![]));
    assert_eq!((times.all(), times.get(key)), (vec![(key, at(2)), (key, at(3))], Some(at(3))));
    times.forget(key, at(2));
    assert_eq!(times.all(), [(key, at(3))]);
    assert_eq!(times.enter(key, at(4), false), (true, false), "now the exit of its slot was missed");
    times.forget(key, at(3));
    assert_eq!(times.leave(key), Some((at(4), false)));
}
