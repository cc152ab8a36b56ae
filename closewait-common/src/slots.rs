//! Slots for entry times: an array in which the address of a socket tells the place.
//!
//! A slot holds one socket. A socket whose slot is taken by another one goes into the hash map ([`crate::names::SINCE`]), so a
//! lookup reads the slot first. An array costs a multiplication where the hash map costs a hash, a lock and a list.
//!
//! Programs on several CPUs, and on kernels before 6.1 a program and a softirq that interrupts it, claim one slot at the same time.
//! Linux 5.10 has no compare-and-swap for programs, and its atomic addition returns nothing and orders nothing
//! (`BPF_XADD`, kernel/bpf/verifier.c at v5.10). So everything that decides is one word, [`OWNER`], whose changes are all
//! additions:
//!
//! - 0: free.
//! - A number of claims, in the low bits that are 0 in the address of each socket ([`CLAIMS`]): programs that found it free, have
//!   added 1, and read the word again. A program that then reads 1 owns the slot, and adds the address of its socket. One that
//!   reads anything else subtracts its 1 and uses the hash map.
//! - The address of its socket plus 1, plus claims that are being withdrawn.
//!
//! Between entry and exit the kernel's lock of the socket orders the programs that own a slot. Nothing orders a reader:
//! [`CHECK`] tells whether a time belongs to an address.
//!
//! A slot also says whether a record of the entry is still to be written ([`PENDING`]): by the program at the exit, or by the agent,
//! which finds sockets that stay. The agent has a compare-and-swap and the program an addition, and both change the same word, so one
//! of them is first: if the agent is, the program reads [`ANNOUNCED`] plus its addition; if the program is, the agent's swap fails. The
//! word names the stay by its time, so the agent cannot take a later stay at the address for the one that it has read.

/// Maximum number of slots.
pub const MAX_SLOTS: u32 = 8192;
/// Part of `--max-sockets` that is slots: one eighth.
const SHARE: u32 = 8;
/// Index of the word that tells who owns a slot.
pub const OWNER: usize = 0;
/// Index of the entry time, `CLOCK_BOOTTIME` nanoseconds.
pub const ENTERED_NS: usize = 1;
/// Index of the exclusive or of address and entry time.
pub const CHECK: usize = 2;
/// Index of the word that says who writes the record of the entry: [`ANNOUNCED`], or [`pending`] of the entry time. The program
/// adds 1 at the exit.
pub const PENDING: usize = 3;
/// Number of words of a slot, which lies in one cache line.
pub const WORDS: usize = 4;
/// Value of [`PENDING`] of a socket whose entry has a record.
pub const ANNOUNCED: u64 = 0;
/// Bits of [`OWNER`] that count claims. Sockets are aligned to a cache line, 64 bytes at least (`SLAB_HWCACHE_ALIGN` in
/// `proto_register`, net/core/sock.c at v5.10); others go into the hash map.
pub const CLAIMS: u64 = 63;

/// A slot. All zero: free.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot(pub [u64; WORDS]);

const _: () = assert!(size_of::<Slot>() == 32);

/// Words of a slot, as a program has them on a CPU.
pub trait SlotWords {
    /// Reads a word.
    fn load(&self, word: usize) -> u64;
    /// Writes a word.
    fn store(&self, word: usize, value: u64);
    /// Adds to a word atomically, modulo 2^64.
    fn add(&self, word: usize, value: u64);
}

/// Socket that leaves its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stay {
    /// Time of the entry.
    pub entered_ns: u64,
    /// Whether the record of the exit has to report the entry, too.
    pub is_pending: bool,
}

/// Outcome for a socket that enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryPlace {
    /// The slot has its time.
    Slot,
    /// The slot has its time in place of that of an earlier socket with the same address, whose exit was missed.
    Replaced,
    /// The slot belongs to another socket, or is being claimed.
    Taken,
}

/// Returns the number of slots of an agent with this `--max-sockets`: a power of two.
pub const fn count(max_sockets: u32) -> u32 {
    let share = max_sockets / SHARE;
    if share >= MAX_SLOTS {
        MAX_SLOTS
    } else if share == 0 {
        1
    } else {
        1 << share.ilog2()
    }
}

/// Returns the low half of a socket's address, by which it is placed.
#[inline(always)]
pub const fn low(sk: u64) -> u64 {
    sk & 0xffff_ffff
}

/// Returns the index of the slot of a socket with this low half of its address. `mask` is the number of slots minus one.
#[inline(always)]
pub const fn index(low: u64, mask: u32) -> u32 {
    /// 2^64 divided by the golden ratio: multiples of it spread evenly, as do addresses at equal distances.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    (low.wrapping_mul(FACTOR) >> (64 - MAX_SLOTS.ilog2())) as u32 & mask
}

/// Returns the value of [`PENDING`] of a socket whose entry has no record yet. Even and not 0: no socket enters at 0.
#[inline(always)]
pub const fn pending(entered_ns: u64) -> u64 {
    entered_ns << 1
}

/// Stores the entry time of a socket, unless its slot is taken. `low` is the low half of its address, and `record` the value of
/// [`PENDING`].
#[inline(always)]
pub fn enter(slot: &impl SlotWords, sk: u64, low: u64, now_ns: u64, record: u64) -> EntryPlace {
    let owner = slot.load(OWNER);
    if owner != 0 || low & CLAIMS != 0 {
        if owner & !CLAIMS != sk {
            return EntryPlace::Taken;
        }
        write(slot, owner_of(slot), now_ns, record);
        return EntryPlace::Replaced;
    }
    slot.add(OWNER, 1);
    if slot.load(OWNER) != 1 {
        slot.add(OWNER, 1_u64.wrapping_neg());
        return EntryPlace::Taken;
    }
    slot.store(CHECK, sk);
    // A number instead of a pointer, as in `owner_of`.
    let sk = slot.load(CHECK);
    write(slot, sk, now_ns, record);
    slot.add(OWNER, sk);
    EntryPlace::Slot
}

/// Frees the slot of a socket. Returns its stay; `None` if the slot is not its own.
#[inline(always)]
pub fn leave(slot: &impl SlotWords, sk: u64) -> Option<Stay> {
    if slot.load(OWNER) & !CLAIMS != sk {
        return None;
    }
    let entered_ns = slot.load(ENTERED_NS);
    // A processor may delay the load behind the addition, after which another program writes its own time here, but not behind a
    // branch that depends on the load. No socket enters at 0.
    if entered_ns == 0 {
        return None;
    }
    let mut is_pending = false;
    // Only the entry makes it pending, and that was before.
    if slot.load(PENDING) != ANNOUNCED {
        slot.add(PENDING, 1);
        let record = slot.load(PENDING);
        // As above: the next owner of the slot writes this word, too. No addition results in 0.
        if record == 0 {
            return None;
        }
        is_pending = record == pending(entered_ns) + 1;
    }
    // The address and the claim.
    slot.add(OWNER, !owner_of(slot));
    Some(Stay { entered_ns, is_pending })
}

/// Returns the entry time of a socket, for a reader that nothing orders; `None` if the slot is not its own, or changes.
#[inline(always)]
pub fn peek(slot: &impl SlotWords, sk: u64) -> Option<u64> {
    if slot.load(OWNER) & !CLAIMS != sk {
        return None;
    }
    let entered_ns = slot.load(ENTERED_NS);
    (slot.load(CHECK) == entered_ns ^ sk).then_some(entered_ns)
}

/// Returns the address of the socket that owns a slot. The verifier refuses arithmetic with the address that the program was called
/// with, a pointer, but not with a number from memory.
#[inline(always)]
fn owner_of(slot: &impl SlotWords) -> u64 {
    slot.load(OWNER) & !CLAIMS
}

#[inline(always)]
fn write(slot: &impl SlotWords, sk: u64, now_ns: u64, record: u64) {
    slot.store(PENDING, record);
    slot.store(ENTERED_NS, now_ns);
    slot.store(CHECK, now_ns ^ sk);
}

// SAFETY: a `repr(C)` struct of `u64` alone: no padding, every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Slot {}

#[cfg(test)]
mod tests;
