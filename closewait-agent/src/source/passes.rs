//! Flows whose sockets are counted in the kernel if they pass through CLOSE_WAIT within moments, and their counts, mapped into this
//! process. [`closewait_common::passes`] describes how the kernel program uses them.
//!
//! A flow gets a place when it has had some records of such sockets within a moment, and loses it when it has been quiet for a minute.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    mem::offset_of,
    net::{IpAddr, Ipv6Addr},
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use closewait_common::{
    Record,
    passes::{
        BUCKETS, DWELL, FIRST_BUCKET, KEY_WORDS, LAST_NS, LONGEST_NS, NO_KEY, PART_WORDS, PLACES, PassKey, Side, index,
    },
    record::{SIZE, flag, kind},
    tcp::state,
};

use super::mapping::MappedArray;
use closewait_engine::{
    model::{Endpoint, PassedSockets, PileupGroup, Role},
    time::BootTime,
};

/// Number of records of a flow within [`MOMENT`] from which on it is counted.
const MIN_RECORDS: u32 = 8;
const MOMENT: Duration = Duration::from_millis(500);
/// Maximum number of flows whose records are counted within a moment.
const MAX_CANDIDATES: usize = 1024;
/// Time without an exit after which a flow loses its place.
const QUIET: Duration = Duration::from_secs(60);
/// Time for which a place keeps its counts after that. A program that has read the key before it was removed adds its count a moment
/// later.
const LEFT_ALONE: Duration = Duration::from_secs(10);

/// Flow with a place.
#[derive(Debug)]
struct CountedFlow {
    key: PassKey,
    /// Time of the last exit, or of the end of the counting.
    changed: BootTime,
    /// Whether no program counts it any more.
    has_ended: bool,
    /// Of each part: time of the last exit when its counts were last taken, and whether they were taken again since, because the last
    /// count may have been added at the same time.
    taken: Vec<(u64, bool)>,
}

/// Flows that the kernel program counts, and their counts.
#[derive(Debug)]
pub(super) struct PassTable {
    memory: MappedArray,
    /// Number of parts of a place.
    parts: u32,
    /// Flows by place.
    flows: BTreeMap<u32, CountedFlow>,
    /// Number of records of other flows since [`Self::moment`].
    candidates: HashMap<PassKey, u32>,
    moment: BootTime,
    /// Whether flows get places at all.
    registers: bool,
    /// Whether the program counts now.
    counts: bool,
    /// Time of the last take; of adopted pins, a time before the last one of their agent.
    since: BootTime,
}

impl PassTable {
    /// Maps an array map with this number of parts for each place at `now`. What an earlier agent had counted ends; its counts, which are of
    /// exits after `since`, can be taken, and nothing is counted before. `registers` is whether flows may get places: the engine can do
    /// without their records.
    ///
    /// # Errors
    ///
    /// If `mmap` fails.
    pub(super) fn map(
        map: BorrowedFd<'_>,
        parts: u32,
        registers: bool,
        (since, now): (BootTime, BootTime),
    ) -> io::Result<Self> {
        let memory = MappedArray::new(map, (PLACES * parts) as usize * PART_WORDS)?;
        let mut table = Self {
            memory,
            parts,
            flows: BTreeMap::new(),
            candidates: HashMap::new(),
            moment: BootTime(0),
            registers,
            counts: false,
            since,
        };
        table.adopt(now);
        Ok(table)
    }

    /// Takes over the flows of an earlier agent, and ends their counting.
    fn adopt(&mut self, now: BootTime) {
        for place in 0..PLACES {
            let key = self.part(place, 0).first_chunk::<KEY_WORDS>().map(|words| words.each_ref().map(load));
            if let Some(key) = key.map(PassKey).filter(|key| key.side().is_some()) {
                self.flows.insert(place, CountedFlow::new(key, now, self.parts));
                self.end(place, now);
            }
        }
    }

    /// Counts the record of a socket that passed, if it is one.
    pub(super) fn saw(&mut self, record: &[u8], now: BootTime) {
        if !self.registers || !self.counts {
            return;
        }
        let Some(key) = passed_flow(record) else { return };
        if now.since(self.moment) >= MOMENT {
            self.candidates.clear();
            self.moment = now;
        }
        if self.candidates.len() >= MAX_CANDIDATES && !self.candidates.contains_key(&key) {
            return;
        }
        let count = self.candidates.entry(key).or_insert(0);
        *count += 1;
        if *count == MIN_RECORDS {
            self.register(key, now);
        }
    }

    /// Has a flow counted, if one of its places is free.
    fn register(&mut self, key: PassKey, now: BootTime) {
        let is_counted = self.flows.values().any(|flow| flow.key == key && !flow.has_ended);
        let place = key.places().into_iter().find(|place| !self.flows.contains_key(place));
        if let Some(place) = place.filter(|_| !is_counted) {
            self.flows.insert(place, CountedFlow::new(key, now, self.parts));
            self.clear(place);
            self.write_key(place, key);
        }
    }

    /// Takes the counts since the last call. Then the program counts, or has each exit recorded if not `may_count`.
    pub(super) fn take(&mut self, now: BootTime, may_count: bool) -> Vec<PassedSockets> {
        self.set_counting(may_count);
        let since = std::mem::replace(&mut self.since, now);
        let mut taken = Vec::new();
        let places: Vec<u32> = self.flows.keys().copied().collect();
        for place in places {
            let passed = self.take_place(place, since, now);
            let Some(flow) = self.flows.get_mut(&place) else { continue };
            if passed.is_some() && !flow.has_ended {
                flow.changed = now;
            }
            let quiet_for = now.since(flow.changed);
            taken.extend(passed);
            if flow.has_ended && quiet_for >= LEFT_ALONE {
                self.flows.remove(&place);
            } else if !flow.has_ended && quiet_for >= QUIET {
                self.end(place, now);
            }
        }
        taken
    }

    /// Has the program count the exits of all flows with a place, or write a record of each.
    fn set_counting(&mut self, counts: bool) {
        if std::mem::replace(&mut self.counts, counts) == counts {
            return;
        }
        for (place, flow) in self.flows.iter().filter(|(_, flow)| !flow.has_ended) {
            self.write_first(*place, if counts { flow.key.0[0] } else { NO_KEY });
        }
    }

    /// Ends the counting of a flow.
    fn end(&mut self, place: u32, now: BootTime) {
        if let Some(flow) = self.flows.get_mut(&place) {
            (flow.has_ended, flow.changed) = (true, now);
            self.write_first(place, NO_KEY);
        }
    }

    fn take_place(&mut self, place: u32, since: BootTime, at: BootTime) -> Option<PassedSockets> {
        let key = self.flows.get(&place)?.key;
        let (mut dwell, mut last, mut longest) = (BTreeMap::<u16, u32>::new(), 0, 0);
        for part in 0..self.parts {
            let words = self.part(place, part);
            let last_ns = words.get(LAST_NS).map_or(0, load);
            let taken = self.flows.get_mut(&place).and_then(|flow| flow.taken.get_mut(part as usize));
            let Some(taken) = taken.filter(|taken| **taken != (last_ns, true)) else { continue };
            *taken = (last_ns, taken.0 == last_ns);
            let words = self.part(place, part);
            last = last.max(last_ns);
            for (pair, word) in words.get(DWELL..).unwrap_or_default().iter().enumerate() {
                if load(word) == 0 {
                    continue;
                }
                let counts = word.swap(0, Ordering::AcqRel).to_ne_bytes();
                let (counts, _) = counts.as_chunks::<4>();
                for (half, count) in counts.iter().map(|count| u32::from_ne_bytes(*count)).enumerate() {
                    let bucket = FIRST_BUCKET + pair * 2 + half;
                    if count > 0 && bucket < FIRST_BUCKET + BUCKETS {
                        let all = dwell.entry(bucket as u16).or_default();
                        *all = all.saturating_add(count);
                    }
                }
            }
            // Behind the counts, because a program writes it behind its count.
            if !dwell.is_empty() {
                longest = longest.max(words.get(LONGEST_NS).map_or(0, |word| word.swap(0, Ordering::AcqRel)));
            }
        }
        let flow = flow_of(key).filter(|_| !dwell.is_empty())?;
        let dwell = dwell.into_iter().collect();
        // A program writes the time after its count: the first one is from this moment.
        let last = if last == 0 { at } else { BootTime(last) };
        Some(PassedSockets { at, flow, since, last, longest: Duration::from_nanos(longest), dwell })
    }

    /// Drops counts of another flow that an agent left behind when it was killed.
    fn clear(&self, place: u32) {
        for part in 0..self.parts {
            self.part(place, part).iter().skip(KEY_WORDS).for_each(|word| word.store(0, Ordering::Release));
        }
    }

    /// Writes a key into all parts of a place, the first word last: it makes the others valid.
    fn write_key(&self, place: u32, key: PassKey) {
        for part in 0..self.parts {
            for (word, value) in self.part(place, part).iter().zip(key.0).skip(1) {
                word.store(value, Ordering::Release);
            }
        }
        if self.counts {
            self.write_first(place, key.0[0]);
        }
    }

    fn write_first(&self, place: u32, value: u64) {
        for part in 0..self.parts {
            if let Some(word) = self.part(place, part).first() {
                word.store(value, Ordering::Release);
            }
        }
    }

    /// Returns the words of a part.
    fn part(&self, place: u32, part: u32) -> &[AtomicU64] {
        let start = index(place, part, self.parts - 1) as usize * PART_WORDS;
        self.memory.words().get(start..start + PART_WORDS).unwrap_or_default()
    }
}

impl CountedFlow {
    fn new(key: PassKey, now: BootTime, parts: u32) -> Self {
        Self { key, changed: now, has_ended: false, taken: vec![(0, false); parts as usize] }
    }
}

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Acquire)
}

/// Returns the flow of the record of a socket that passed and that the kernel program could have counted; `None` for any other record.
fn passed_flow(record: &[u8]) -> Option<PassKey> {
    /// Flags of such a record.
    const PASSED: u32 = flag::ENTERED | flag::FILE | flag::FILE_GONE;
    let byte = |at: usize| record.get(at).copied();
    let is_exit = record.len() == SIZE && byte(offset_of!(Record, kind)) == Some(kind::LEAVE);
    if !is_exit || byte(offset_of!(Record, new_state)) != Some(state::LAST_ACK) {
        return None;
    }
    let number = |at: usize| Some(u32::from_ne_bytes(*record.get(at..)?.first_chunk()?));
    let port = |at: usize| Some(u16::from_ne_bytes(*record.get(at..)?.first_chunk()?));
    let (flags, netns) = (number(offset_of!(Record, flags))?, number(offset_of!(Record, netns))?);
    if flags & PASSED != PASSED || netns == 0 {
        return None;
    }
    if flags & flag::BACKLOG != 0 {
        return Some(PassKey::server(netns, port(offset_of!(Record, local_port))?));
    }
    let cgroup = u64::from_ne_bytes(*record.get(offset_of!(Record, cgroup)..)?.first_chunk()?);
    let remote = *record.get(offset_of!(Record, remote_address)..)?.first_chunk()?;
    let cgroup = if flags & flag::CGROUP == 0 { 0 } else { cgroup };
    Some(PassKey::client(netns, cgroup, remote, port(offset_of!(Record, remote_port))?))
}

/// Returns a flow as the engine describes it.
fn flow_of(key: PassKey) -> Option<PileupGroup> {
    let (netns, port) = (Some(key.netns()), key.port());
    Some(match key.side()? {
        Side::Server => {
            PileupGroup { role: Some(Role::Server), netns, cgroup: None, local_port: Some(port), remote: None }
        }
        Side::Client => {
            let address = IpAddr::V6(Ipv6Addr::from(key.remote())).to_canonical();
            let remote = Some(Endpoint { address, port });
            PileupGroup { role: None, netns, cgroup: key.cgroup(), local_port: None, remote }
        }
    })
}

#[cfg(test)]
mod tests;
