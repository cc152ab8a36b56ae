//! Maps, with the reasons for their sizes, and the only writes to them.

use core::arch::asm;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_NOEXIST, BPF_RB_NO_WAKEUP},
    btf_maps::SkStorage,
    helpers::generated::bpf_get_smp_processor_id,
    macros::{btf_map, map},
    maps::{Array, HashMap, PerCpuArray, RingBuf, ring_buf::RingBufEntry},
};
use closewait_common::{
    Record,
    batch::CopyBatch,
    connect::{CONNECT_RING_BYTES, ConnectRecord, ConnectWatch, WATCHED_CONNECTS},
    histogram,
    kept::Kept,
    names::KNOWN_NAMESPACES,
    passes::{self, CGROUP, DWELL, FIRST_BUCKET, LAST_NS, LONGEST_NS, MAX_PARTS, PLACES, Side},
    record::{Detailed, OpenerRecord},
    slots::{self, ANNOUNCED, EntryPlace, MAX_SLOTS, Slot, SlotWords, Stay},
    stats::{Counter, Stats},
    watched::{WATCHED_PORTS, Watched},
};

use crate::globals::ability;

/// Default number of sockets with a stored time of entry; `--max-sockets` changes it.
const SOCKETS: u32 = 262_144;
/// Default size of the ring buffer, bytes; `--ring-buffer` changes it. Holds some 23,000 records: a quarter of a
/// second at the highest connection rate of two cores on loopback.
const RING_BYTES: u32 = 4 << 20;

#[map(name = "cw_ring")]
static RING: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// Times of entry into CLOSE_WAIT, at places that the address of the `struct sock` tells. Unlike the cookie, the address
/// exists on every kernel, and unlike the hash of its connection, it never changes. It is unique while the socket is in that
/// state. The agent maps the array into its memory to read it and to free slots.
#[map(name = "cw_slots")]
static SLOTS: Array<Slot> = Array::with_max_entries(MAX_SLOTS, BPF_F_MMAPABLE);

/// Times of entry of sockets whose slot is taken, `CLOCK_BOOTTIME` nanoseconds, by the address of the `struct sock`.
///
/// Preallocated: otherwise the kernel's allocator runs in softirqs, where it has a use-after-free and a leak on many
/// kernels (docs/kernel-safety.md), and it is slower.
#[map(name = "cw_since")]
static SINCE: HashMap<u64, u64> = HashMap::with_max_entries(SOCKETS, 0);

/// Counts of sockets without records, of flows whose keys the agent writes into them. The agent maps the array into its memory.
#[map(name = "cw_passes")]
static PASSES: Array<passes::Part> = Array::with_max_entries(PLACES * MAX_PARTS, BPF_F_MMAPABLE);

/// The agent's own notes beside maps that outlive it; no program reads them.
#[map(name = "cw_kept")]
static KEPT: Array<Kept> = Array::with_max_entries(1, 0);

/// Copies of sockets. The agent maps the array into its memory, and runs the program that writes there never twice at the same
/// time.
#[map(name = "cw_batch")]
static BATCH: Array<CopyBatch> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Returns the memory for copies of sockets.
#[inline(always)]
pub(crate) fn batch() -> Option<*mut CopyBatch> {
    BATCH.get_ptr_mut(0)
}

#[map(name = "cw_stats")]
static STATS: PerCpuArray<Stats> = PerCpuArray::with_max_entries(1, 0);

/// Opener of each socket. The kernel frees it with the socket, so no entry is left behind and the map is never full.
#[btf_map(name = "cw_openers")]
pub(crate) static OPENERS: SkStorage<OpenerRecord> = SkStorage::new();

/// Network namespaces whose sockets are known to the agent, except their descriptors. Filled by the agent.
#[map(name = "cw_known")]
static KNOWN: HashMap<u32, u32> = HashMap::with_max_entries(KNOWN_NAMESPACES, 0);

/// Whether the agent knows the sockets of a network namespace.
#[inline(always)]
pub(crate) fn is_known(netns: u32) -> bool {
    KNOWN.get_ptr(netns).is_some()
}

/// Ports whose closes are counted. Filled by the agent.
#[map(name = "cw_watched")]
static WATCHED: HashMap<u64, Watched> = HashMap::with_max_entries(WATCHED_PORTS, 0);

/// Number of watched ports: while it is 0, a close costs one read of it.
#[map(name = "cw_watching")]
static WATCHING: Array<u32> = Array::with_max_entries(1, 0);

/// Whether any port is watched.
#[inline(always)]
pub(crate) fn watches_any() -> bool {
    let Some(count) = WATCHING.get_ptr(0) else { return false };
    // SAFETY: the pointer is to a live map value, and 4 aligned bytes do not tear.
    unsafe { count.read() != 0 }
}

/// Returns the entry of a port, if the port is watched.
#[inline(always)]
pub(crate) fn watched(key: u64) -> Option<*mut Watched> {
    WATCHED.get_ptr_mut(key)
}

/// Counts one close of a watched port at `now_ns`.
#[inline(always)]
pub(crate) fn count_close(watched: *mut Watched, now_ns: u64) {
    // SAFETY: `watched` points to a map value of that type.
    add_one(unsafe { &raw mut (*watched).closes });
    // SAFETY: as above.
    let last_ns = unsafe { &raw mut (*watched).last_ns };
    // SAFETY: as above. If two CPUs write at the same time, either value is right.
    unsafe { last_ns.write(now_ns) };
}

/// Stacks of connecting programs. The agent reads them with its next inspection, without a wake-up. Loaded with one page if it
/// wants none.
#[map(name = "cw_connects")]
static CONNECTS: RingBuf = RingBuf::with_byte_size(CONNECT_RING_BYTES, 0);

/// Processes and remote ports whose connects are sampled. Filled by the agent.
#[map(name = "cw_connect_of")]
static CONNECT_WATCHES: HashMap<u64, ConnectWatch> = HashMap::with_max_entries(WATCHED_CONNECTS, 0);

/// Returns the entry of a process and a remote port, if its connects are watched.
#[inline(always)]
pub(crate) fn connect_watch(key: u64) -> Option<*mut ConnectWatch> {
    CONNECT_WATCHES.get_ptr_mut(key)
}

/// Counts a connect at `now_ns`. Returns whether it is to be sampled, and counts the sample.
#[inline(always)]
pub(crate) fn may_sample(watch: *mut ConnectWatch, now_ns: u64) -> bool {
    // SAFETY: `watch` points to a map value of that type, and 8 aligned bytes do not tear.
    let ConnectWatch { until_ns, most, samples, .. } = unsafe { watch.read_volatile() };
    if now_ns >= until_ns {
        return false;
    }
    // SAFETY: as above.
    add_one(unsafe { &raw mut (*watch).connects });
    if samples >= most {
        return false;
    }
    // SAFETY: as above.
    add_one(unsafe { &raw mut (*watch).samples });
    true
}

/// Reserves space for the sample of a connect; `None` if there is none.
#[inline(always)]
pub(crate) fn reserve_connect() -> Option<RingBufEntry<ConnectRecord>> {
    CONNECTS.reserve::<ConnectRecord>(0)
}

/// Hands the sample of a connect to the agent.
#[inline(always)]
pub(crate) fn submit_connect(entry: RingBufEntry<ConnectRecord>) {
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// Buffer for a record. On the stack, Linux 6.1's verifier follows every combination of present and missing fields:
/// 189,000 instructions instead of some thousand.
#[map(name = "cw_work")]
static WORK: PerCpuArray<Detailed> = PerCpuArray::with_max_entries(3, 0);

/// Program that fills a record, each with its own slot: on a preemptible kernel, one program can interrupt another on
/// its CPU. The agent never runs one of them twice at the same time (`source/scanner.rs`).
#[derive(Clone, Copy)]
pub(crate) enum RecordSlot {
    /// The iterator over all open files.
    Files = 0,
    /// The refresh of one socket.
    Refresh = 1,
    /// The iterator over the open files of one process.
    ProxyPeers = 2,
}

/// Returns an empty record for `worker`. A program stays on its CPU from beginning to end (`bpf_iter_run_prog`,
/// kernel/bpf/bpf_iter.c at v5.10), and only one scan of each type runs at a time.
#[inline(always)]
pub(crate) fn work(worker: RecordSlot) -> Option<&'static mut Detailed> {
    let work = WORK.get_ptr_mut(worker as u32)?;
    // SAFETY: it points to a map value of that type, and by the rule above no other program uses it now.
    let work = unsafe { &mut *work };
    *work = crate::sock::EMPTY_DETAILED;
    Some(work)
}

/// Increments `counter` on this CPU.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    let Some(stats) = STATS.get_ptr_mut(0) else { return };
    // SAFETY: `stats` points to a map value of that type, and the index is one of its fields.
    let slot = unsafe { &raw mut (*stats).counters[counter as usize] };
    add_one(slot);
}

/// Counts one socket with a dwell time in the bucket `index`.
#[inline(always)]
pub(crate) fn count_dwell(index: usize) {
    let Some(stats) = STATS.get_ptr_mut(0) else { return };
    // SAFETY: `stats` points to a map value of that type.
    let mut slot = unsafe { &raw mut (*stats).dwell }.cast::<u64>();
    // The verifier does not follow the arithmetic of `index`, and before 5.11 it forgets the bounds of a number that the compiler keeps on
    // the stack between the check and its use: all in one, without a register for anything else. The slot is null beyond the last.
    // SAFETY: the instructions change only these two registers.
    unsafe {
        asm!(
            "if {index} > {last} goto +3",
            "{index} <<= 3",
            "{slot} += {index}",
            "goto +1",
            "{slot} = 0",
            index = inout(reg) index => _,
            slot = inout(reg) slot,
            last = const histogram::BUCKETS - 1,
        );
    }
    if slot.is_null() {
        return;
    }
    add_one(slot);
}

/// Counts the pass of a socket of the flow with this key and cgroup, after `dwell_ns`, which is in the bucket `index`, at `now_ns`. Returns
/// whether the flow is one of those that are counted, and the dwell time one that has a bucket.
#[inline(always)]
pub(crate) fn count_pass(
    key: passes::PassKey,
    cgroup: impl FnOnce() -> u64,
    (index, dwell_ns): (usize, u64),
    now_ns: u64,
) -> bool {
    let Some(part) = part_of_flow(key, cgroup) else { return false };
    let bucket = index.wrapping_sub(FIRST_BUCKET);
    let mut count = part.wrapping_add(DWELL).cast::<u32>();
    // As in `count_dwell`. Before the time of the exit, by which the agent sees that there is a count.
    // SAFETY: the instructions change only these two registers.
    unsafe {
        asm!(
            "if {bucket} > {last} goto +3",
            "{bucket} <<= 2",
            "{count} += {bucket}",
            "goto +1",
            "{count} = 0",
            bucket = inout(reg) bucket => _,
            count = inout(reg) count,
            last = const passes::BUCKETS - 1,
        );
    }
    if count.is_null() {
        return false;
    }
    // SAFETY: it lies in a map value: aligned, and alive as long as the program runs.
    unsafe { asm!("lock *(u32 *)(r1 + 0) += w2", in("r1") count, in("r2") 1_u64) };
    let word = OwnWords(part);
    if word.load(LONGEST_NS) < dwell_ns {
        word.store(LONGEST_NS, dwell_ns);
    }
    word.store(LAST_NS, now_ns);
    true
}

/// Returns the counts of a flow with this key and cgroup on this CPU, if it has a place.
#[inline(always)]
fn part_of_flow(key: passes::PassKey, cgroup: impl FnOnce() -> u64) -> Option<*mut u64> {
    // SAFETY: the helper has no conditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let [first, second] = key.places();
    let first = part_of(first, cpu, key);
    if key.side() == Some(Side::Server) {
        // The cgroup is no part of its key.
        return first.or_else(|| part_of(second, cpu, key));
    }
    let second = part_of(second, cpu, key);
    if first.is_none() && second.is_none() {
        return None;
    }
    let cgroup = cgroup();
    let is_own = |part: &*mut u64| OwnWords(*part).load(CGROUP) == cgroup;
    first.filter(is_own).or(second.filter(is_own))
}

/// Returns the counts at this place and of this CPU, if the place is that of a flow with this key, apart from the cgroup.
#[inline(always)]
fn part_of(place: u32, cpu: u32, key: passes::PassKey) -> Option<*mut u64> {
    let part = PASSES.get_ptr_mut(passes::index(place, cpu, ability!(part_mask)))?.cast::<u64>();
    let words = OwnWords(part);
    (0..CGROUP).all(|word| words.load(word) == key.0[word]).then_some(part)
}

/// Increments a number atomically.
#[inline(always)]
fn add_one(slot: *mut u64) {
    add(slot, 1);
}

/// Adds to a number atomically, because before Linux 6.1 a softirq on this CPU can interrupt the program with
/// another run of it. `AtomicU64` has no `fetch_add` on this target, which has no compare-and-swap in its base
/// instruction set.
#[inline(always)]
fn add(slot: *mut u64, value: u64) {
    // SAFETY: `slot` lies in a map value: aligned, and alive as long as the program runs.
    unsafe { asm!("lock *(u64 *)({slot} + 0) += {value}", slot = in(reg) slot, value = in(reg) value) };
}

/// Words of a map value that other CPUs and the agent change.
struct OwnWords(*mut u64);

impl SlotWords for OwnWords {
    #[inline(always)]
    fn load(&self, word: usize) -> u64 {
        let from = self.0.wrapping_add(word);
        // SAFETY: `word` is below the number of words of the live map value. 8 aligned bytes do not tear.
        unsafe { from.read_volatile() }
    }

    #[inline(always)]
    fn store(&self, word: usize, value: u64) {
        let to = self.0.wrapping_add(word);
        // SAFETY: as above.
        unsafe { to.write_volatile(value) };
    }

    #[inline(always)]
    fn add(&self, word: usize, value: u64) {
        add(self.0.wrapping_add(word), value);
    }
}

/// Returns the low half of a socket's address: of a pointer, the verifier lets programs copy 32 bits, but not shift them.
#[inline(always)]
fn low(sk: u64) -> u64 {
    let low;
    // SAFETY: it copies a register, and clears the upper half of the copy.
    unsafe { asm!("w2 = w1", in("r1") sk, out("r2") low, options(pure, nomem, nostack)) };
    low
}

/// Returns the slot of a socket with this low half of its address.
#[inline(always)]
fn slot(low: u64) -> Option<OwnWords> {
    Some(OwnWords(SLOTS.get_ptr_mut(slots::index(low, ability!(slot_mask)))?.cast()))
}

/// Stores the time of entry of a socket, and counts failures. Returns whether the record of the entry is deferred: as
/// `defers` asks, if the time is in a slot.
#[inline(always)]
pub(crate) fn store_entry(sk: u64, now_ns: u64, defers: bool) -> bool {
    let low = low(sk);
    let Some(slot) = slot(low) else { return false };
    let record = if defers { slots::pending(now_ns) } else { ANNOUNCED };
    match slots::enter(&slot, sk, low, now_ns, record) {
        EntryPlace::Slot => defers,
        EntryPlace::Replaced => {
            count(Counter::Replaced);
            defers
        }
        EntryPlace::Taken => {
            store_in_hash(sk, now_ns);
            false
        }
    }
}

/// Stores the time of entry of a socket whose slot is taken, and counts failures.
#[inline(always)]
fn store_in_hash(sk: u64, now_ns: u64) {
    if SINCE.insert(sk, now_ns, u64::from(BPF_NOEXIST)).is_ok() {
        return;
    }
    // Either there is an entry of a socket whose exit was missed, or the map is full.
    let was_there = SINCE.get_ptr(sk).is_some();
    if was_there && SINCE.insert(sk, now_ns, u64::from(BPF_ANY)).is_ok() {
        count(Counter::Replaced);
    } else {
        count(Counter::MapFull);
    }
}

/// Removes the time of entry of a socket. Returns it.
#[inline(always)]
pub(crate) fn take_entry(sk: u64) -> Option<Stay> {
    if let Some(stay) = slots::leave(&slot(low(sk))?, sk) {
        return Some(stay);
    }
    let entered_ns = peek_in_hash(sk)?;
    // It can only fail if another CPU has removed the entry meanwhile, which is fine.
    let _gone: Result<(), i32> = SINCE.remove(sk);
    Some(Stay { entered_ns, is_pending: false })
}

/// Returns the time of entry of a socket, if it is in a slot.
#[inline(always)]
pub(crate) fn peek_slot(sk: u64) -> Option<u64> {
    slots::peek(&slot(low(sk))?, sk)
}

/// Returns the time of entry of a socket, if it is stored.
#[inline(always)]
pub(crate) fn peek_entry(sk: u64) -> Option<u64> {
    peek_slot(sk).or_else(|| peek_in_hash(sk))
}

#[inline(always)]
fn peek_in_hash(sk: u64) -> Option<u64> {
    let entered_ns = SINCE.get_ptr(sk)?;
    // SAFETY: the pointer is to a live map value; a value that is reused meanwhile is a torn read at worst, and 8
    // aligned bytes do not tear.
    Some(unsafe { entered_ns.read() })
}

/// Writes one record to the ring buffer, or counts that it was full.
#[inline(always)]
pub(crate) fn emit(fill: impl FnOnce(&mut Record)) {
    let _is_written = emit_from(crate::sock::EMPTY, fill);
}

/// Writes one record to the ring buffer, starting from `first`, or counts that it was full. Returns whether there was room.
#[inline(always)]
pub(crate) fn emit_from<T: Copy + 'static>(first: T, fill: impl FnOnce(&mut T)) -> bool {
    let is_written = try_emit(first, fill);
    if !is_written {
        count(Counter::RingFull);
    }
    is_written
}

/// Writes one record to the ring buffer, starting from `first`. Returns whether there was room.
#[inline(always)]
pub(crate) fn try_emit<T: Copy + 'static>(first: T, fill: impl FnOnce(&mut T)) -> bool {
    let Some(mut entry) = RING.reserve::<T>(0) else { return false };
    fill(entry.write(first));
    // No flags: the kernel wakes the reader only if it had caught up, so a reader that waits a little before it drains
    // is woken once for the whole batch.
    entry.submit(0);
    true
}
