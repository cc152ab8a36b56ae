//! Slots with entry times, mapped into this process. [`closewait_common::slots`] describes how the kernel program uses them.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU64, Ordering},
};

use closewait_common::slots::{self, ANNOUNCED, CLAIMS, ENTERED_NS, OWNER, PENDING, Slot, SlotWords, WORDS};

use super::mapping::MappedArray;

/// Number of reads of a slot that changes meanwhile, or of attempts to free it.
const ATTEMPTS: usize = 8;

/// A mapped slot.
#[derive(Clone, Copy)]
struct SharedSlot<'a>(&'a [AtomicU64; WORDS]);

const _: () = assert!(size_of::<[AtomicU64; WORDS]>() == size_of::<Slot>());

/// The slots of a kernel program, in memory that it writes at the same time.
#[derive(Debug)]
pub(super) struct SlotTable(MappedArray);

impl SlotTable {
    /// Maps an array map of `count` slots.
    ///
    /// # Errors
    ///
    /// If `mmap` fails.
    pub(super) fn map(map: BorrowedFd<'_>, count: u32) -> io::Result<Self> {
        MappedArray::new(map, count as usize * WORDS).map(Self)
    }

    /// Returns every socket that has a slot, and its entry time. Leaves out a slot that changes during each of some reads: its
    /// socket is entering or exiting now.
    pub(super) fn entries(&self) -> Vec<(u64, u64)> {
        let entry = |slot: SharedSlot<'_>| {
            (0..ATTEMPTS).find_map(|_| {
                let owner = slot.load(OWNER) & !CLAIMS;
                if owner == 0 { Some(None) } else { slots::peek(&slot, owner).map(|at| Some((owner, at))) }
            })
        };
        self.slots().iter().map(SharedSlot).filter_map(entry).flatten().collect()
    }

    /// Returns every socket whose entry has no record yet and was at `until` or before, with its entry time. Leaves out a slot that
    /// changes meanwhile: its socket is entering or exiting now.
    pub(super) fn pending(&self, until: u64) -> Vec<(u64, u64)> {
        let pending = |slot: SharedSlot<'_>| {
            let record = slot.load(PENDING);
            let (owner, entered_ns) = (slot.load(OWNER) & !CLAIMS, record >> 1);
            // A program adds 1 at the exit.
            let is_pending = record != ANNOUNCED && record == slots::pending(entered_ns) && entered_ns <= until;
            (is_pending && owner != 0 && slots::peek(&slot, owner) == Some(entered_ns)).then_some((owner, entered_ns))
        };
        self.slots().iter().map(SharedSlot).filter_map(pending).collect()
    }

    /// Announces the entry of a socket. Returns whether this was in time: else the record of the exit reports it.
    pub(super) fn announce(&self, sk: u64, entered_ns: u64) -> bool {
        let Some(slot) = self.slots().get(self.index(sk)) else { return false };
        let before = slots::pending(entered_ns);
        slot[PENDING].compare_exchange(before, ANNOUNCED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Frees the slot of a socket, unless another socket has entered at the address since `entered_ns`.
    pub(super) fn forget(&self, sk: u64, entered_ns: u64) {
        let Some(slot) = self.slots().get(self.index(sk)).map(SharedSlot) else { return };
        for _ in 0..ATTEMPTS {
            let owner = slot.load(OWNER);
            if owner & !CLAIMS != sk || slot.load(ENTERED_NS) > entered_ns {
                return;
            }
            // Claims that are being withdrawn stay, and their programs subtract them. One was the socket's own.
            let free = (owner & CLAIMS).saturating_sub(1);
            if slot.0[OWNER].compare_exchange(owner, free, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }

    /// Returns the index of the slot of a socket.
    fn index(&self, sk: u64) -> usize {
        // The number of slots is a power of two that `slots::MAX_SLOTS` limits.
        let mask = (self.slots().len() as u32).saturating_sub(1);
        slots::index(slots::low(sk), mask) as usize
    }

    fn slots(&self) -> &[[AtomicU64; WORDS]] {
        self.0.words().as_chunks().0
    }
}

impl SlotWords for SharedSlot<'_> {
    fn load(&self, word: usize) -> u64 {
        self.0.get(word).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, word: usize, value: u64) {
        if let Some(word) = self.0.get(word) {
            word.store(value, Ordering::Release);
        }
    }

    fn add(&self, word: usize, value: u64) {
        if let Some(word) = self.0.get(word) {
            word.fetch_add(value, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd as _};

    use closewait_common::slots::{EntryPlace, Stay};

    use super::*;

    const SK: u64 = 0xffff_8881_0203_0400;

    /// Slots in a file without a name, in place of a map.
    fn table(count: u32) -> (SlotTable, File) {
        let file = rustix::fs::memfd_create("closewait-slots", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(file);
        file.set_len(u64::from(count) * size_of::<Slot>() as u64).unwrap();
        (SlotTable::map(file.as_fd(), count).unwrap(), file)
    }

    fn enter(slot: SharedSlot<'_>, at: u64) -> EntryPlace {
        slots::enter(&slot, SK, slots::low(SK), at, slots::pending(at))
    }

    fn slot_of(table: &SlotTable, sk: u64) -> SharedSlot<'_> {
        SharedSlot(&table.slots()[table.index(sk)])
    }

    #[test]
    fn another_mapping_sees_the_entries_of_this_one() {
        let (table, file) = table(64);
        assert!(table.entries().is_empty());
        assert_eq!(enter(slot_of(&table, SK), 7), EntryPlace::Slot);
        let other = SlotTable::map(file.as_fd(), 64).unwrap();
        assert_eq!(other.entries(), [(SK, 7)]);
        drop(table);
        assert_eq!(slots::leave(&slot_of(&other, SK), SK), Some(Stay { entered_ns: 7, is_pending: true }));
        assert!(other.entries().is_empty());
    }

    #[test]
    fn an_entry_is_forgotten_unless_it_is_later_and_claims_stay() {
        let (table, _file) = table(1);
        let slot = slot_of(&table, SK);
        assert_eq!(enter(slot, 7), EntryPlace::Slot);
        // A program that finds the slot taken, before it has withdrawn its claim.
        slot.add(OWNER, 1);
        table.forget(SK, 6);
        table.forget(SK + 64, 7);
        assert_eq!(table.entries(), [(SK, 7)]);
        table.forget(SK, 7);
        assert_eq!((table.entries(), slot.load(OWNER)), (Vec::new(), 1));
        slot.add(OWNER, 1_u64.wrapping_neg());
        assert_eq!(enter(slot, 8), EntryPlace::Slot);
    }

    #[test]
    fn a_slot_that_is_being_written_is_left_out() {
        let (table, _file) = table(1);
        let slot = slot_of(&table, SK);
        slot.store(OWNER, SK + 1);
        slot.store(ENTERED_NS, 7);
        assert!(table.entries().is_empty(), "its check is that of another time");
        slot.store(OWNER, 1);
        assert!(table.entries().is_empty(), "it is being claimed");
    }

    #[test]
    fn either_the_agent_announces_an_entry_or_the_exit_reports_it() {
        let (table, _file) = table(1);
        let slot = slot_of(&table, SK);
        assert_eq!(enter(slot, 7), EntryPlace::Slot);
        assert_eq!((table.pending(6), table.pending(7)), (Vec::new(), vec![(SK, 7)]));
        assert!(!table.announce(SK, 6), "another stay");
        assert!(table.announce(SK, 7) && !table.announce(SK, 7), "once");
        assert!(table.pending(7).is_empty());
        assert_eq!(slots::leave(&slot, SK), Some(Stay { entered_ns: 7, is_pending: false }));
        assert_eq!(enter(slot, 9), EntryPlace::Slot);
        // A program at the exit, before it frees the slot.
        slot.add(PENDING, 1);
        assert!(table.pending(9).is_empty() && !table.announce(SK, 9));
        slot.add(PENDING, 1_u64.wrapping_neg());
        assert_eq!(slots::leave(&slot, SK), Some(Stay { entered_ns: 9, is_pending: true }));
        assert!(table.pending(9).is_empty() && !table.announce(SK, 9));
    }
}
