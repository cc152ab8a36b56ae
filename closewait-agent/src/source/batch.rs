//! Refresh of many sockets at once: copies of their facts, compared with those of the last refresh.
//!
//! A kernel program copies the words that have the facts of a record ([`CopyPlan`]). This keeps only a checksum of each socket's
//! words. If it is still the same, nothing has changed, and the engine needs no record.
//!
//! The checksum is Multilinear with random 128-bit keys, of which each agent has its own (Lemire and Kaser, "Strongly universal
//! string hashing is fast", 2014): two different copies have equal checksums with a probability of 2^-64, whatever the copies are,
//! because the keys are known to no program but the agent.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, RandomState},
    io, mem,
    sync::atomic::{AtomicU64, Ordering},
};

use closewait_common::{
    batch::{CopyBatch, CopyWindows, SOCKETS, WINDOWS, WORD, WORDS, Window},
    config::{Abilities, Layout, MISSING},
    tcp::{IPPROTO_TCP, state},
};
use closewait_engine::{model::SocketKey, time::BootTime};

use super::mapping::MappedArray;

/// Cost of one read of the kernel's memory, in words that are read.
const READ_COST: usize = 10;
/// Number of checksums up to which those of sockets that are gone are kept.
const MIN_LIMIT: usize = 4096;

/// Words of a [`CopyBatch`].
const TIME: usize = mem::offset_of!(CopyBatch, time_ns) / WORD;
const ADDRESSES: usize = mem::offset_of!(CopyBatch, sockets) / WORD;
const FAILED: usize = mem::offset_of!(CopyBatch, failed) / WORD;
const COPIES: usize = mem::offset_of!(CopyBatch, copies) / WORD;
/// Size of a [`CopyBatch`], words.
pub(super) const BATCH_WORDS: usize = size_of::<CopyBatch>() / WORD;

/// Bits of a word in a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bits {
    /// Index of the word in a copy.
    index: usize,
    mask: u64,
}

impl Bits {
    /// Returns the bits of a copy, at the lower end of a number.
    fn of(self, copy: &[AtomicU64]) -> u64 {
        (self.word(copy)) >> self.mask.trailing_zeros()
    }

    /// Returns the bits of a copy, at their place.
    fn word(self, copy: &[AtomicU64]) -> u64 {
        copy.get(self.index).map_or(0, |word| word.load(Ordering::Relaxed)) & self.mask
    }
}

/// Parts of the kernel's structs that have the facts of a record of [`closewait_common::record::kind::REFRESHED`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CopyPlan {
    /// Parts to copy.
    pub(super) windows: CopyWindows,
    /// Bits of the facts.
    facts: Vec<Bits>,
    /// Pointer of which only matters whether it is null: it changes with the neighbors of the timer.
    timer_runs: Option<Bits>,
    state: Bits,
    protocol: Bits,
}

impl CopyPlan {
    /// Returns the plan for a kernel; `None` if a part that identifies a socket is unknown, or if the parts are too many.
    pub(super) fn new(layout: &Layout, abilities: &Abilities) -> Option<Self> {
        let mut masks = BTreeMap::<usize, u64>::new();
        let mut add = |offset: u32, bytes: &[u8]| {
            for (at, byte) in (offset as usize..).zip(bytes) {
                let mut word = [0; WORD];
                word[at % WORD] = *byte;
                *masks.entry(at / WORD).or_default() |= u64::from_ne_bytes(word);
            }
        };
        for (offset, bytes, is_needed) in fields(layout) {
            match (offset, is_needed) {
                (MISSING, true) => return None,
                (MISSING, false) => {}
                _ => add(offset, &[0xff; 16][..bytes]),
            }
        }
        let options = [abilities.keepopen_bit, abilities.done_bit];
        let options = options.into_iter().filter(|bit| *bit < u64::BITS).fold(0, |all, bit| all | 1_u64 << bit);
        if layout.sock_flags != MISSING {
            add(layout.sock_flags, &options.to_ne_bytes());
        }
        let is_aligned = (layout.sock_timer_pprev as usize).is_multiple_of(WORD);
        let timer = Some(layout.sock_timer_pprev as usize / WORD).filter(|_| layout.sock_timer_pprev != MISSING);
        if timer.is_some_and(|word| !is_aligned || masks.insert(word, u64::MAX).is_some()) {
            return None;
        }
        let words: Vec<usize> = masks.keys().copied().collect();
        let possible = (1..WORDS).filter_map(|gap| windows(&words, gap));
        let windows = possible.min_by_key(|windows| {
            windows.iter().filter(|one| one.words > 0).map(|one| READ_COST + one.words as usize).sum::<usize>()
        })?;
        let bits = |word: usize, mask: u64| Some(Bits { index: place(&windows, word)?, mask });
        let part = |offset: u32, bytes: usize| {
            let mut word = [0; WORD];
            word.get_mut(offset as usize % WORD..)?.get_mut(..bytes)?.fill(0xff);
            bits(offset as usize / WORD, u64::from_ne_bytes(word))
        };
        let timer_runs = match timer {
            Some(word) => Some(bits(word, masks.remove(&word)?)?),
            None => None,
        };
        let facts = masks.iter().map(|(word, mask)| bits(*word, *mask)).collect::<Option<_>>()?;
        let (state, protocol) = (part(layout.sock_state, 1)?, part(layout.sock_protocol, 2)?);
        Some(Self { windows, facts, timer_runs, state, protocol })
    }
}

/// Returns the members that a record of a refreshed socket depends on, with their sizes, and whether each is needed to identify a
/// socket: as closewait-ebpf/src/sock.rs reads them. A pointer has the same target as long as it is the same: a socket has a reference
/// to its namespace and its cgroup, and a `struct socket` lives as long as its `struct sock` points to it.
fn fields(layout: &Layout) -> [(u32, usize, bool); 29] {
    [
        (layout.sock_state, 1, true),
        (layout.sock_protocol, 2, true),
        (layout.sock_family, 2, true),
        (layout.inet_sport, 2, true),
        (layout.sock_dport, 2, true),
        (layout.sock_rcv_saddr, 4, true),
        (layout.sock_daddr, 4, true),
        (layout.sock_v6_rcv_saddr, 16, false),
        (layout.sock_v6_daddr, 16, false),
        (layout.sock_cookie, 8, false),
        (layout.sock_net, 8, false),
        (layout.sock_socket, 8, true),
        (layout.sock_cgroup, 8, false),
        (layout.sock_max_ack_backlog, 4, false),
        (layout.sock_timer_expires, 4, false),
        (layout.tcp_rcv_nxt, 4, false),
        (layout.tcp_copied_seq, 4, false),
        (layout.tcp_bytes_received, 8, false),
        (layout.tcp_bytes_sent, 8, false),
        (layout.tcp_rcv_tstamp, 4, false),
        (layout.tcp_lrcvtime, 4, false),
        (layout.tcp_lsndtime, 4, false),
        (layout.tcp_write_seq, 4, false),
        (layout.tcp_snd_una, 4, false),
        (layout.tcp_bytes_acked, 8, false),
        (layout.tcp_timeout, 4, false),
        (layout.tcp_pending, 1, false),
        (layout.tcp_retransmits, 1, false),
        (layout.tcp_probes_out, 1, false),
    ]
}

/// Returns parts that cover these words, if they fit: words with a gap of at most `gap` words lie in one part.
fn windows(words: &[usize], gap: usize) -> Option<CopyWindows> {
    let mut windows = [Window::NONE; WINDOWS];
    let mut to = 0;
    let parts = words.chunk_by(|before, word| word - before <= gap);
    for (number, part) in parts.enumerate() {
        let (first, last) = (part.first()?, part.last()?);
        let words = last - first + 1;
        *windows.get_mut(number)? =
            Window { offset: u32::try_from(first * WORD).ok()?, words: words as u32, to: to as u32 };
        to += words;
    }
    (to <= WORDS).then_some(windows)
}

/// Returns the index in a copy of a word of the kernel's memory.
fn place(windows: &CopyWindows, word: usize) -> Option<usize> {
    windows.iter().find_map(|window| {
        let within = word.checked_sub(window.offset as usize / WORD)?;
        (within < window.words as usize).then_some(window.to as usize + within)
    })
}

/// Result of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// The socket is not in CLOSE_WAIT.
    Gone,
    /// The socket has the facts of its last record.
    Unchanged,
    /// The socket may have other facts, so a record is needed.
    Changed,
}

/// Copies of sockets, and the checksums of those of the last refreshes.
pub(super) struct Copier {
    memory: MappedArray,
    plan: CopyPlan,
    /// First key of the checksum, and one for each word.
    keys: Vec<u128>,
    /// Checksums of the copies of which the engine has the facts.
    known: HashMap<SocketKey, u64, foldhash::fast::RandomState>,
    /// Checksums of copies whose facts the engine gets with the record of a refresh after this time.
    pending: Vec<(SocketKey, u64, BootTime)>,
    /// Number of checksums beyond which those of sockets that are gone are dropped.
    limit: usize,
}

impl Copier {
    /// Returns a copier for a program with this plan, which has this map.
    pub(super) fn new(memory: MappedArray, plan: CopyPlan) -> Self {
        let mut keys = Vec::new();
        for _ in 0..plan.facts.len() + 2 {
            // The standard library seeds each `RandomState` from random bytes of the operating system.
            let half = || u128::from(RandomState::new().hash_one(keys.len()));
            let key = half() << 64 | half();
            keys.push(key);
        }
        Self { memory, plan, keys, known: HashMap::default(), pending: Vec::new(), limit: MIN_LIMIT }
    }

    /// Copies at most [`SOCKETS`] sockets by `run`, which runs the program for a number of sockets, and hands the result of each to
    /// `each`, with a time at which it was right. `is_known` is whether the engine still has the facts of a socket's last refresh.
    ///
    /// # Errors
    ///
    /// If `run` fails.
    pub(super) fn copy(
        &mut self,
        keys: &[SocketKey],
        run: impl FnOnce(u64) -> io::Result<()>,
        is_known: impl Fn(SocketKey) -> bool,
        mut each: impl FnMut(SocketKey, Copied, BootTime),
    ) -> io::Result<()> {
        let keys = keys.get(..SOCKETS).unwrap_or(keys);
        let Self { memory, plan, keys: secret, known, pending, .. } = self;
        let words = memory.words();
        for (word, key) in words.iter().skip(ADDRESSES).zip(keys) {
            word.store(key.0, Ordering::Relaxed);
        }
        run(keys.len() as u64)?;
        let at = BootTime(words.get(TIME).map_or(0, |word| word.load(Ordering::Relaxed)));
        let failed = words.iter().skip(FAILED);
        let copies = words.get(COPIES..).unwrap_or_default().chunks_exact(WORDS);
        for ((key, failed), copy) in keys.iter().copied().zip(failed).zip(copies) {
            if failed.load(Ordering::Relaxed) != 0 {
                each(key, Copied::Changed, at);
                continue;
            }
            if plan.state.of(copy) != u64::from(state::CLOSE_WAIT) {
                known.remove(&key);
                each(key, Copied::Gone, at);
                continue;
            }
            // Behind any other `struct sock`, the memory is not that of a `struct tcp_sock`.
            if plan.protocol.of(copy) != u64::from(IPPROTO_TCP) {
                each(key, Copied::Changed, at);
                continue;
            }
            let checksum = plan.checksum(secret, copy);
            if known.get(&key) == Some(&checksum) && is_known(key) {
                each(key, Copied::Unchanged, at);
            } else {
                pending.push((key, checksum, at));
                each(key, Copied::Changed, at);
            }
        }
        Ok(())
    }

    /// Keeps the checksums of the copies of which the engine has the facts since: `has` is whether a socket was refreshed at a time or
    /// later. A copy is older than the record, so if the socket changed between them, its next copy has another checksum.
    pub(super) fn records_handled(&mut self, has: impl Fn(SocketKey, BootTime) -> bool) {
        let Self { known, pending, limit, .. } = self;
        for (key, checksum, at) in pending.drain(..) {
            if has(key, at) {
                known.insert(key, checksum);
            } else {
                known.remove(&key);
            }
        }
        pending.shrink_to(2 * SOCKETS);
        if known.len() > *limit {
            known.retain(|key, _checksum| has(*key, BootTime(0)));
            known.shrink_to_fit();
            *limit = MIN_LIMIT.max(2 * known.len());
        }
    }
}

impl CopyPlan {
    fn checksum(&self, secret: &[u128], copy: &[AtomicU64]) -> u64 {
        let words = self.facts.iter().map(|bits| bits.word(copy));
        let timer = self.timer_runs.map_or(0, |bits| u64::from(bits.word(copy) != 0));
        let mut secret = secret.iter().copied();
        let first = secret.next().unwrap_or_default();
        let sum = secret.zip([timer].into_iter().chain(words)).fold(first, |sum, (key, word)| {
            // The lower half of the sum is not returned: only so are all differences equally probable.
            sum.wrapping_add(key.wrapping_mul(u128::from(word)))
        });
        (sum >> 64) as u64
    }
}

#[cfg(test)]
mod tests;
