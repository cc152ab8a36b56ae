//! Entry times of the model kernel, as the kernel program stores them: slots by address, and a hash map for sockets whose slot is
//! taken.

use std::{cell::Cell, collections::BTreeMap};

use closewait_common::slots::{self, CLAIMS, EntryPlace, OWNER, SlotWords, WORDS};

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

    /// Stores an entry. Returns whether the exit of an earlier socket at its address was missed, as far as the program sees it.
    pub(super) fn enter(&mut self, key: SocketKey, at: BootTime) -> bool {
        let sk = address(key);
        match slots::enter(self.slot(key), sk, slots::low(sk), at.0) {
            EntryPlace::Slot => false,
            EntryPlace::Replaced => true,
            EntryPlace::Taken => self.hash.insert(key, at).is_some(),
        }
    }

    /// Removes an entry, and returns its time.
    pub(super) fn leave(&mut self, key: SocketKey) -> Option<BootTime> {
        slots::leave(self.slot(key), address(key)).map(BootTime).or_else(|| self.hash.remove(&key))
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
    assert!(!times.enter(other, at(1)) && !times.enter(key, at(2)));
    assert_eq!(times.leave(other), Some(at(1)));
    // The exit of the second one was missed, and its address enters again.
    assert!(!times.enter(key, at(3)));
    assert_eq!((times.all(), times.get(key)), (vec![(key, at(2)), (key, at(3))], Some(at(3))));
    times.forget(key, at(2));
    assert_eq!(times.all(), [(key, at(3))]);
    assert!(times.enter(key, at(4)), "now the exit of its slot was missed");
    times.forget(key, at(3));
    assert_eq!(times.leave(key), Some(at(4)));
}
