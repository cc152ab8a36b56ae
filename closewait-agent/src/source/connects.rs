//! Stacks of owners in their `connect(2)`, which the kernel program samples while the agent watches them.
//!
//! The inspection reads the samples of the time since the last one, and extends the watch. Nothing wakes the agent for them. A watch
//! ends by itself, so that without an agent the kernel program samples nothing.

use std::{collections::BTreeMap, fmt, mem::offset_of, net::Ipv6Addr, time::Duration};

use aya::maps::{HashMap, MapData, MapError, RingBuf};
use closewait_common::connect::{CONNECT_RECORD_SIZE, ConnectRecord, ConnectWatch, key};
use closewait_stacks::{CopiedStack, Registers};

use super::stacks;
use crate::{clock, host::deadline::Patience};
use closewait_engine::{
    model::{ConnectQuestion, Endpoint, InspectionFact},
    stacks::{ConnectSample, ConnectSamples},
    time::BootTime,
};

/// Maximum number of samples of a process and a remote port in each [`INTERVAL`].
const MAX_SAMPLES: u64 = 4;
/// Time after which a watch is extended, and more connections are sampled. Samples are read with every inspection.
const INTERVAL: Duration = Duration::from_secs(5);
/// Maximum number of records of one pass: more than the ring buffer has space for.
const MAX_RECORDS: usize = 64;
/// Time after which a pass reads the stacks of no further process.
const MAX_TIME: Duration = Duration::from_millis(100);
/// Duration of a watch. While there are stuck sockets, an inspection extends it every ten seconds at least.
const WATCH_TIME: Duration = Duration::from_secs(30);

/// Reads samples, and tells the kernel program what to sample.
pub struct ConnectReader {
    ring: RingBuf<MapData>,
    watches: HashMap<MapData, u64, ConnectWatch>,
    watched: BTreeMap<u64, WatchedConnects>,
}

/// Entry of the kernel program's map.
#[derive(Clone, Copy, Debug)]
struct WatchedConnects {
    question: ConnectQuestion,
    /// Time of the write.
    written: BootTime,
    /// Number of connections since then that were read.
    seen: u64,
}

/// Sample of the kernel program.
struct KernelSample {
    at: BootTime,
    netns: Option<u32>,
    remote: Endpoint,
    copy: CopiedStack,
}

impl fmt::Debug for ConnectReader {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("ConnectReader").field("watched", &self.watched).finish_non_exhaustive()
    }
}

impl ConnectReader {
    /// Creates a reader of these maps. The first pass removes the entries of an earlier agent.
    pub fn new(ring: RingBuf<MapData>, watches: HashMap<MapData, u64, ConnectWatch>) -> Self {
        // No process has the number 0.
        let none =
            WatchedConnects { question: ConnectQuestion { pid: 0, port: 0 }, written: BootTime::default(), seen: 0 };
        let watched = watches.keys().flatten().map(|key| (key, none)).collect();
        Self { ring, watches, watched }
    }

    /// Hands the connections since the last pass to `each`, and watches those of `questions` from now on, and no others.
    pub fn read(
        &mut self,
        questions: &[ConnectQuestion],
        patience: &mut Patience,
        mut each: impl FnMut(InspectionFact),
    ) {
        let began = clock::now();
        let mut samples = BTreeMap::<u32, Vec<KernelSample>>::new();
        for _ in 0..MAX_RECORDS {
            let Some(record) = self.ring.next() else { break };
            if let Some((pid, sample)) = KernelSample::parse(&record) {
                samples.entry(pid).or_default().push(sample);
            }
        }
        let mut read = self.count();
        if let Err(error) = self.watch(questions, began) {
            log::debug!("connections are not sampled: {error}");
        }
        for (pid, samples) in samples {
            if clock::now().since(began) >= MAX_TIME {
                log::debug!("there is no time for the stacks in which process {pid} connected");
                continue;
            }
            let (places, copies): (Vec<_>, Vec<_>) =
                samples.into_iter().map(|KernelSample { at, netns, remote, copy }| ((at, netns, remote), copy)).unzip();
            match stacks::read_copies(pid, copies, patience) {
                Ok(stacks) => {
                    for ((at, netns, remote), stack) in places.into_iter().zip(stacks) {
                        if let Some(of) = read.get_mut(&ConnectQuestion { pid, port: remote.port }) {
                            of.samples.push(ConnectSample { at, netns, remote, stack });
                        }
                    }
                }
                Err(error) => log::debug!("the stacks in which process {pid} connected are unknown: {error}"),
            }
        }
        read.into_values().for_each(|samples| each(InspectionFact::Connects(Box::new(samples))));
    }

    /// Returns the number of connections of each watch since the last pass, if there were any.
    fn count(&mut self) -> BTreeMap<ConnectQuestion, ConnectSamples> {
        let mut read = BTreeMap::new();
        for (key, watched) in &mut self.watched {
            let ConnectQuestion { pid, port } = watched.question;
            // Of an entry that cannot be read, no later connection is known.
            let connects = self.watches.get(key, 0).map_or(watched.seen, |watch| watch.connects);
            let new = connects.saturating_sub(std::mem::replace(&mut watched.seen, connects));
            if new > 0 {
                read.insert(watched.question, ConnectSamples { pid, port, connects: new, samples: Vec::new() });
            }
        }
        read
    }

    /// Makes the kernel program sample these connections, each up to the limit, and no others.
    fn watch(&mut self, questions: &[ConnectQuestion], now: BootTime) -> Result<(), MapError> {
        let wanted: BTreeMap<u64, ConnectQuestion> =
            questions.iter().map(|question| (key(question.pid, question.port), *question)).collect();
        let before = std::mem::take(&mut self.watched);
        for key in before.keys().filter(|key| !wanted.contains_key(key)) {
            match self.watches.remove(key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        for (key, question) in wanted {
            let known = before.get(&key).filter(|known| now.since(known.written) < INTERVAL);
            if known.is_none() {
                let until_ns = (now + WATCH_TIME).0;
                self.watches.insert(key, ConnectWatch { until_ns, most: MAX_SAMPLES, connects: 0, samples: 0 }, 0)?;
            }
            self.watched.insert(key, known.copied().unwrap_or(WatchedConnects { question, written: now, seen: 0 }));
        }
        Ok(())
    }

    /// Ends all watches, while no inspection wants any.
    pub fn rest(&mut self) {
        if let Err(error) = self.watch(&[], clock::now()) {
            log::debug!("a watch of connections was not removed: {error}");
        }
    }
}

impl KernelSample {
    /// Parses a record of the kernel program; `None` if it has another size.
    fn parse(record: &[u8]) -> Option<(u32, Self)> {
        if record.len() != CONNECT_RECORD_SIZE {
            return None;
        }
        let number = |at: usize| Some(u64::from_ne_bytes(record.get(at..at + 8)?.try_into().ok()?));
        let half = |at: usize| Some(u32::from_ne_bytes(record.get(at..at + 4)?.try_into().ok()?));
        let quarter = |at: usize| Some(u16::from_ne_bytes(record.get(at..at + 2)?.try_into().ok()?));
        let address = offset_of!(ConnectRecord, head.remote_address);
        let address: [u8; 16] = record.get(address..address + 16)?.try_into().ok()?;
        let stack = record.get(offset_of!(ConnectRecord, stack)..)?;
        let stack = stack.get(..usize::from(quarter(offset_of!(ConnectRecord, head.stack_len))?))?;
        let registers = Registers {
            pc: number(offset_of!(ConnectRecord, head.pc))?,
            sp: number(offset_of!(ConnectRecord, head.sp))?,
            fp: Some(number(offset_of!(ConnectRecord, head.fp))?),
            lr: Some(number(offset_of!(ConnectRecord, head.lr))?).filter(|lr| *lr != 0),
        };
        let remote = Endpoint {
            address: Ipv6Addr::from(address).to_canonical(),
            port: quarter(offset_of!(ConnectRecord, head.remote_port))?,
        };
        let sample = Self {
            at: BootTime(number(offset_of!(ConnectRecord, head.time_ns))?),
            netns: half(offset_of!(ConnectRecord, head.netns)).filter(|netns| *netns != 0),
            remote,
            copy: CopiedStack { tid: half(offset_of!(ConnectRecord, head.tid))?, registers, bytes: stack.to_vec() },
        };
        Some((half(offset_of!(ConnectRecord, head.pid))?, sample))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_parsed_and_a_wrong_length_is_no_record() {
        let mut record = vec![0; CONNECT_RECORD_SIZE];
        let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
        put(offset_of!(ConnectRecord, head.time_ns), &7_u64.to_ne_bytes());
        put(offset_of!(ConnectRecord, head.pc), &0x4000_u64.to_ne_bytes());
        put(offset_of!(ConnectRecord, head.pid), &11_u32.to_ne_bytes());
        put(offset_of!(ConnectRecord, head.tid), &12_u32.to_ne_bytes());
        put(offset_of!(ConnectRecord, head.remote_port), &443_u16.to_ne_bytes());
        put(offset_of!(ConnectRecord, head.stack_len), &512_u16.to_ne_bytes());
        put(offset_of!(ConnectRecord, head.remote_address), &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 7]);
        let (pid, sample) = KernelSample::parse(&record).unwrap();
        assert_eq!((pid, sample.copy.tid, sample.at, sample.netns), (11, 12, BootTime(7), None));
        assert_eq!((sample.remote.to_string().as_str(), sample.copy.bytes.len()), ("10.0.0.7:443", 512));
        let registers = sample.copy.registers;
        assert_eq!((registers.pc, registers.fp, registers.lr), (0x4000, Some(0), None));
        let at = offset_of!(ConnectRecord, head.stack_len);
        record[at..at + 2].copy_from_slice(&u16::MAX.to_ne_bytes());
        assert!(KernelSample::parse(&record).is_none());
        assert!(KernelSample::parse(&record[1..]).is_none());
    }
}
