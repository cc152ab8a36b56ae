//! Programs that share a slot, in every order of their steps.

extern crate std;

use core::cell::Cell;
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::resume_unwind,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    vec::Vec,
};

use proptest::prelude::*;

use super::*;

const SK: u64 = 0xffff_8881_0203_0400;

/// Enters with a deferred record.
fn put(slot: &impl SlotWords, sk: u64, now_ns: u64) -> EntryPlace {
    enter(slot, sk, low(sk), now_ns, pending(now_ns))
}

/// Leaves. Returns the entry time.
fn take(slot: &impl SlotWords, sk: u64) -> Option<u64> {
    leave(slot, sk).map(|stay| stay.entered_ns)
}

/// A slot of one thread.
#[derive(Default)]
struct Words([Cell<u64>; WORDS]);

impl SlotWords for Words {
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

/// What a program does with the only slot: the entry or exit of one of its sockets, a look at a socket, or a search of the agent for
/// entries without a record.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Enter(u64),
    Leave(u64),
    Peek(u64),
    Announce,
}

/// Lets one program at a time make a step, as `order` says.
struct Turns {
    /// Next position in the order; which programs have ended.
    state: Mutex<(usize, BTreeSet<usize>)>,
    changed: Condvar,
    order: Vec<usize>,
}

/// A program with the shared slot: each access to a word is a step.
struct Program<'a> {
    number: usize,
    turns: &'a Turns,
    slot: &'a [AtomicU64; WORDS],
    hash: &'a Mutex<BTreeMap<u64, u64>>,
    stays: &'a Mutex<Stays>,
}

/// Stays in the slot: address and entry time.
#[derive(Default)]
struct Stays {
    begun: BTreeSet<(u64, u64)>,
    reported: Vec<(u64, u64)>,
}

impl Turns {
    /// Makes a step of program `number` when its turn comes.
    fn step<T>(&self, number: usize, work: impl FnOnce() -> T) -> T {
        let mut state = self.state.lock().unwrap();
        loop {
            let (at, ended) = &mut *state;
            // Turns of programs that have ended are skipped; after the order, the first one that runs has the turn.
            while self.order.get(*at).is_some_and(|next| ended.contains(next)) {
                *at += 1;
            }
            let next = self.order.get(*at).copied().or_else(|| (0..3).find(|one| !ended.contains(one)));
            if next == Some(number) {
                let result = work();
                *at += 1;
                self.changed.notify_all();
                return result;
            }
            state = self.changed.wait(state).unwrap();
        }
    }

    fn end(&self, number: usize) {
        self.state.lock().unwrap().1.insert(number);
        self.changed.notify_all();
    }
}

/// Ends a program, also one that panics: the others would wait for it.
impl Drop for Program<'_> {
    fn drop(&mut self) {
        self.turns.end(self.number);
    }
}

impl SlotWords for Program<'_> {
    fn load(&self, word: usize) -> u64 {
        self.turns.step(self.number, || self.slot[word].load(Ordering::Relaxed))
    }
    fn store(&self, word: usize, value: u64) {
        self.turns.step(self.number, || self.slot[word].store(value, Ordering::Relaxed));
    }
    fn add(&self, word: usize, value: u64) {
        self.turns.step(self.number, || self.slot[word].fetch_add(value, Ordering::Relaxed));
    }
}

impl Program<'_> {
    /// Runs its deeds, as the kernel program does: what finds its slot taken uses the hash map. `time` tells entries apart.
    fn run(&self, deeds: &[Deed], time: &AtomicU64, entered: &Mutex<BTreeSet<(u64, u64)>>) {
        let mut own = BTreeMap::new();
        for deed in deeds {
            match *deed {
                Deed::Enter(sk) => {
                    let now = time.fetch_add(1, Ordering::Relaxed);
                    entered.lock().unwrap().insert((sk, now));
                    own.insert(sk, now);
                    match put(self, sk, now) {
                        EntryPlace::Slot => drop(self.stays.lock().unwrap().begun.insert((sk, now))),
                        EntryPlace::Replaced => panic!("no exit was missed"),
                        EntryPlace::Taken => assert_eq!(self.hash(|hash| hash.insert(sk, now)), None),
                    }
                }
                Deed::Leave(sk) => {
                    let stay = leave(self, sk);
                    if let Some(Stay { entered_ns, is_pending: true }) = stay {
                        self.stays.lock().unwrap().reported.push((sk, entered_ns));
                    }
                    let found = stay.map(|stay| stay.entered_ns).or_else(|| self.hash(|hash| hash.remove(&sk)));
                    assert_eq!(found, own.remove(&sk), "{sk:x}");
                }
                Deed::Peek(sk) => {
                    let seen = peek(self, sk);
                    assert!(seen.is_none_or(|at| entered.lock().unwrap().contains(&(sk, at))), "{seen:?}");
                }
                Deed::Announce => self.announce(),
            }
        }
    }

    /// Announces the socket in the slot, as the agent does.
    fn announce(&self) {
        let record = self.load(PENDING);
        let (owner, entered_ns) = (self.load(OWNER) & !CLAIMS, record >> 1);
        if owner == 0 || record == ANNOUNCED || record != pending(entered_ns) || peek(self, owner) != Some(entered_ns) {
            return;
        }
        let word = &self.slot[PENDING];
        self.turns.step(self.number, || {
            if word.compare_exchange(record, ANNOUNCED, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                self.stays.lock().unwrap().reported.push((owner, entered_ns));
            }
        });
    }

    fn hash<T>(&self, work: impl FnOnce(&mut BTreeMap<u64, u64>) -> T) -> T {
        self.turns.step(self.number, || work(&mut self.hash.lock().unwrap()))
    }
}

/// Runs up to three programs in an order of steps, and checks every time that they read.
fn play(programs: &[Vec<Deed>], order: Vec<usize>) {
    let ended = (programs.len()..3).collect();
    let turns = Turns { state: Mutex::new((0, ended)), changed: Condvar::new(), order };
    let (slot, hash) = (<[AtomicU64; WORDS]>::default(), Mutex::new(BTreeMap::new()));
    let (time, entered, stays) = (AtomicU64::new(1), Mutex::new(BTreeSet::new()), Mutex::default());
    thread::scope(|scope| {
        let run = |(number, deeds): (usize, &Vec<Deed>)| {
            let (program, deeds) =
                (Program { number, turns: &turns, slot: &slot, hash: &hash, stays: &stays }, deeds.clone());
            let (time, entered) = (&time, &entered);
            scope.spawn(move || program.run(&deeds, time, entered))
        };
        let running: Vec<_> = programs.iter().enumerate().map(run).collect();
        running.into_iter().for_each(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic)));
    });
    assert_eq!(slot[OWNER].load(Ordering::Relaxed), 0, "every socket has left");
    assert!(hash.lock().unwrap().is_empty());
    let Stays { begun, mut reported } = stays.into_inner().unwrap();
    reported.sort_unstable();
    assert_eq!(reported, Vec::from_iter(begun), "each entry has one record");
}

fn sk(number: u64) -> u64 {
    SK + number * 64
}

#[test]
fn a_slot_has_one_socket_until_it_leaves() {
    let slot = Words::default();
    assert_eq!((take(&slot, sk(1)), peek(&slot, sk(1))), (None, None));
    assert_eq!(put(&slot, sk(1), 10), EntryPlace::Slot);
    assert_eq!(put(&slot, sk(2), 20), EntryPlace::Taken);
    assert_eq!((take(&slot, sk(2)), peek(&slot, sk(2)), peek(&slot, sk(1))), (None, None, Some(10)));
    assert_eq!(take(&slot, sk(1)), Some(10));
    assert_eq!((take(&slot, sk(1)), peek(&slot, sk(1))), (None, None));
    assert_eq!(put(&slot, sk(2), 30), EntryPlace::Slot);
    assert_eq!(take(&slot, sk(2)), Some(30));
}

#[test]
fn an_address_that_enters_again_replaces_the_entry_whose_exit_was_missed() {
    let slot = Words::default();
    assert_eq!(put(&slot, SK, 10), EntryPlace::Slot);
    assert_eq!(put(&slot, SK, 20), EntryPlace::Replaced);
    // A claim that another program has not withdrawn yet.
    slot.add(OWNER, 1);
    assert_eq!(put(&slot, SK, 30), EntryPlace::Replaced);
    assert_eq!((peek(&slot, SK), take(&slot, SK)), (Some(30), Some(30)));
    assert_eq!(slot.load(OWNER), 1);
}

#[test]
fn a_claim_without_an_end_takes_only_its_slot() {
    let slot = Words::default();
    // A program that was interrupted for ever right after its claim.
    slot.add(OWNER, 1);
    assert_eq!(put(&slot, SK, 10), EntryPlace::Taken);
    assert_eq!((take(&slot, SK), peek(&slot, SK), slot.load(OWNER)), (None, None, 1));
}

#[test]
fn a_time_that_belongs_to_another_address_is_not_read() {
    let slot = Words::default();
    assert_eq!(put(&slot, sk(1), 10), EntryPlace::Slot);
    // The next owner's address has arrived, its time not yet.
    slot.store(OWNER, sk(2) + 1);
    assert_eq!(peek(&slot, sk(2)), None);
    slot.store(ENTERED_NS, 20);
    assert_eq!(peek(&slot, sk(2)), None);
    slot.store(CHECK, 20 ^ sk(2));
    assert_eq!(peek(&slot, sk(2)), Some(20));
}

#[test]
fn an_address_that_is_not_aligned_uses_the_hash_map() {
    let slot = Words::default();
    assert_eq!(put(&slot, SK + 8, 10), EntryPlace::Taken);
    assert_eq!((take(&slot, SK + 8), slot.load(OWNER)), (None, 0));
}

#[test]
fn an_eighth_of_the_sockets_are_slots_and_indices_stay_below_their_number() {
    let counts = [0, 1, 15, 16, 64, 1000, 65_535, 65_536, 262_144, u32::MAX].map(count);
    assert_eq!(counts, [1, 1, 1, 2, 8, 64, 4096, 8192, 8192, 8192]);
    for slots in counts {
        assert!((0..10_000).all(|number| index(low(sk(number)), slots - 1) < slots));
    }
}

#[test]
fn sockets_at_equal_distances_spread_over_the_slots() {
    // 13 sockets of 2,432 bytes in each block of 32 KiB, as in the kernel's cache of TCP sockets.
    let address = |number: u64| 0xffff_8881_0200_0000 + number / 13 * 32_768 + number % 13 * 2432;
    let used =
        |sockets| (0..sockets).map(|number| index(low(address(number)), MAX_SLOTS - 1)).collect::<BTreeSet<_>>().len();
    // At random it would be 971 and 5,178.
    assert!(used(1024) > 930 && used(8192) > 4900, "{} and {}", used(1024), used(8192));
}

#[test]
fn every_order_of_two_entries_and_exits_keeps_both_times() {
    let programs = [[Deed::Enter(sk(1)), Deed::Leave(sk(1))], [Deed::Enter(sk(2)), Deed::Leave(sk(2))]];
    let programs = programs.map(Vec::from);
    // Each makes at most ten steps: the turns of 20 steps are the bits of a number with ten ones. All orders of the first 14
    // cover the claims of both.
    for bits in (0..1_u32 << 14).filter(|bits| (4..=10).contains(&bits.count_ones())) {
        play(&programs, (0..14).map(|bit| (bits >> bit & 1) as usize).collect());
    }
}

#[test]
fn every_order_of_an_exit_and_a_search_reports_the_entry_once() {
    // Two stays at one address. A search makes at most six steps.
    let stays = [Deed::Enter(sk(1)), Deed::Leave(sk(1))].repeat(2);
    let programs = [stays, Vec::from([Deed::Announce; 2])];
    // The first entry makes seven steps; the next 14 are an exit and the second entry.
    for bits in (0..1_u32 << 14).filter(|bits| (2..=12).contains(&bits.count_ones())) {
        play(&programs, [0; 7].into_iter().chain((0..14).map(|bit| (bits >> bit & 1) as usize)).collect());
    }
}

fn deeds(number: u64) -> impl Strategy<Value = Vec<Deed>> {
    // Its sockets are its own: the kernel's lock of a socket keeps two programs from handling one at the same time.
    let own = move |socket: u64| sk(number * 2 + socket);
    let stay = (0..2_u64, 0..6_u64, any::<bool>()).prop_map(move |(socket, seen, both)| {
        let peek = Deed::Peek(sk(seen));
        if both {
            let other = own(1 - socket);
            let (first, second) = (own(socket), other);
            Vec::from([Deed::Enter(first), Deed::Enter(second), peek, Deed::Leave(first), Deed::Leave(second)])
        } else {
            Vec::from([Deed::Enter(own(socket)), peek, Deed::Leave(own(socket))])
        }
    });
    let search = (0..2_usize).prop_map(|searches| Vec::from_iter(core::iter::repeat_n(Deed::Announce, searches)));
    let stay = (search, stay).prop_map(|(search, stay)| [search, stay].concat());
    proptest::collection::vec(stay, 1..4).prop_map(|stays| stays.concat())
}

proptest! {
    #[test]
    fn three_programs_lose_no_time_in_any_order(
        first in deeds(0), second in deeds(1), third in deeds(2),
        order in proptest::collection::vec(0..3_usize, 0..120),
    ) {
        play(&[first, second, third], order);
    }
}

#[test]
fn threads_on_one_slot_lose_no_time() {
    struct Shared<'a>(&'a [AtomicU64; WORDS]);
    impl SlotWords for Shared<'_> {
        fn load(&self, word: usize) -> u64 {
            self.0[word].load(Ordering::Relaxed)
        }
        fn store(&self, word: usize, value: u64) {
            self.0[word].store(value, Ordering::Relaxed);
        }
        fn add(&self, word: usize, value: u64) {
            self.0[word].fetch_add(value, Ordering::Relaxed);
        }
    }
    let slot = <[AtomicU64; WORDS]>::default();
    let in_slot = AtomicU64::new(0);
    let (by_exits, by_searches, running) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(4));
    thread::scope(|scope| {
        scope.spawn(|| {
            while running.load(Ordering::Relaxed) > 0 {
                let record = slot[PENDING].load(Ordering::Acquire);
                let owner = slot[OWNER].load(Ordering::Acquire) & !CLAIMS;
                if record != ANNOUNCED
                    && record & 1 == 0
                    && owner != 0
                    && peek(&Shared(&slot), owner) == Some(record >> 1)
                {
                    let (old, new) = (Ordering::AcqRel, Ordering::Relaxed);
                    let swapped = slot[PENDING].compare_exchange(record, ANNOUNCED, old, new);
                    by_searches.fetch_add(u64::from(swapped.is_ok()), Ordering::Relaxed);
                }
            }
        });
        for number in 0..4_u64 {
            let (slot, in_slot, by_exits, running) = (Shared(&slot), &in_slot, &by_exits, &running);
            scope.spawn(move || {
                for time in 1..50_000_u64 {
                    let (sk, time) = (sk(number * 8 + time % 8), time << 3 | number);
                    if put(&slot, sk, time) == EntryPlace::Slot {
                        assert_eq!(peek(&slot, sk), Some(time));
                        let stay = leave(&slot, sk);
                        assert_eq!(stay.map(|stay| stay.entered_ns), Some(time));
                        let is_pending = stay.is_some_and(|stay| stay.is_pending);
                        by_exits.fetch_add(u64::from(is_pending), Ordering::Relaxed);
                        in_slot.fetch_add(1, Ordering::Relaxed);
                    } else {
                        assert_eq!(take(&slot, sk), None);
                    }
                }
                running.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    let in_slot = in_slot.into_inner();
    assert!(in_slot > 1000);
    assert_eq!(by_exits.into_inner() + by_searches.into_inner(), in_slot, "each entry has one record");
    assert_eq!(slot[OWNER].load(Ordering::Relaxed), 0);
}
