//! Identity and activity of processes, from two reads of `/proc`, and locations of sockets without an owner. Nothing
//! here traces or stops a process, or waits for something that does not answer: see [`crate::host::deadline`].

mod process_read;
mod runtime;

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use self::process_read::{ProcessRead, Second};
use crate::host::{
    deadline::{self, ItemJob, Patience, ReadFailure, ReadResult},
    proc::{self, fdinfo},
};
use closewait_engine::{
    model::{SocketLocation, Task},
    process::{Process, ThreadState},
    text::Comm,
    time::{BootTime, nanos},
};

/// Maximum number of processes per inspection.
const MAX_PROCESSES: usize = 64;
/// Maximum number of threads per process.
const MAX_THREADS: usize = 512;
/// Maximum number of threads of all processes together; each takes some 30 microseconds.
const MAX_ALL_THREADS: usize = 2048;
/// Maximum number of children per process.
const MAX_WORKERS: usize = 16;
/// Minimum time between two reads: CPU time has ticks of 1 to 10 ms, so a shorter time is meaningless.
const MIN_WINDOW: Duration = Duration::from_millis(5);

/// The first of two reads of some processes.
#[derive(Debug)]
pub struct Sampling {
    begun: BootTime,
    reads: Vec<ProcessRead>,
    patience: Patience,
}

/// CPU time of one thread at one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    tid: u32,
    started_ns: u64,
    /// Nanoseconds; of whole ticks if `delay_ns` is unknown.
    cpu_ns: u64,
    /// Time that the thread was runnable and waited for a CPU, nanoseconds.
    delay_ns: Option<u64>,
    /// Number of voluntary context switches, if the thread was runnable; else `None`.
    waits: Option<u64>,
}

/// Shares of one CPU between two readings of one thread, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CpuShares {
    /// Share that the thread used.
    used: u32,
    /// Share of the time in which the thread was runnable, on a CPU or not.
    wanted: Option<u32>,
}

/// Part of a process to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// Everything.
    All,
    /// Only reads that cannot block forever, after a first attempt that did.
    Calm,
}

impl Sampling {
    /// Reads `pids` at time `at`: 64 processes at most, 512 threads of each, 2048 threads in all. Omits processes
    /// that have ended. Adds what does not answer in time to the `unseen` of its process.
    pub fn begin(pids: &[u32], at: BootTime) -> Self {
        Self::begin_within(pids, at, Patience::default())
    }

    /// Begins the inspection with a time limit.
    pub(super) fn begin_within(pids: &[u32], at: BootTime, mut patience: Patience) -> Self {
        let pids: Vec<u32> = pids.iter().copied().take(MAX_PROCESSES).collect();
        let threads = Arc::new(AtomicUsize::new(MAX_ALL_THREADS));
        let mut reads = BTreeMap::new();
        let mut late = read_processes(pids.clone(), Reads::All, &threads, &mut patience, &mut reads);
        let workers = workers(&reads);
        late.extend(read_processes(workers.clone(), Reads::All, &threads, &mut patience, &mut reads));
        // Reads processes again whose threads were not read, without the reads that may block.
        let unread =
            |late: &&(u32, ReadFailure)| reads.get(&late.0).is_none_or(|process_read| !process_read.has_threads);
        let again: Vec<u32> = late.iter().filter(unread).map(|(pid, _why)| *pid).collect();
        let later = read_processes(again, Reads::Calm, &threads, &mut patience, &mut reads);
        for (pid, why) in late.iter().chain(&later) {
            match reads.get_mut(pid) {
                Some(process_read) => process_read.is_late(why),
                None => log::debug!("process {pid} was not read: {why}"),
            }
        }
        let reads = pids.iter().chain(&workers).filter_map(|pid| reads.remove(pid)).collect();
        Self { begun: at, reads, patience }
    }

    /// Returns the time that is left for the rest of the inspection.
    pub(super) fn patience(&mut self) -> &mut Patience {
        &mut self.patience
    }

    /// Returns the time of the first read.
    pub fn began(&self) -> BootTime {
        self.begun
    }

    /// Whether any thread was running at the first read: only then a second read is useful.
    pub fn has_running(&self) -> bool {
        let mut threads = self.reads.iter().flat_map(|process_read| &process_read.threads);
        threads.any(|(_, thread)| thread.state == ThreadState::Running)
    }

    /// Reads the CPU time of the threads again, at `at`. Omits processes that have ended meanwhile.
    pub fn finish(self, at: BootTime) -> Vec<Process> {
        let window = at.since(self.begun);
        let Self { mut reads, mut patience, .. } = self;
        let asked: Vec<_> = reads.iter().map(|process_read| process_read.second(window >= MIN_WINDOW)).collect();
        let mut answers = BTreeMap::new();
        let work = |second: &Second, job: &ItemJob<_>| job.put(second.read(job));
        deadline::each(asked, &mut patience, work, |second, result| {
            let answer = match result {
                ReadResult::Value(answer) => answer,
                ReadResult::Unanswered(why) => Err(format!("the CPU time of its threads was not read: {why}")),
            };
            // An answer that arrived before the time limit counts.
            answers.entry(second.pid()).or_insert(answer);
        });
        reads.retain_mut(|process_read| process_read.is_same(answers.remove(&process_read.process.pid), window));
        reads.into_iter().map(|process_read| process_read.process).collect()
    }
}

/// Returns the children of event loops among `reads`, which may do work for them: 64 at most, 16 of each.
fn workers(reads: &BTreeMap<u32, ProcessRead>) -> Vec<u32> {
    let masters = reads.values().map(|read| &read.process).filter(|process| process.is_event_loop_runtime());
    let children = |process: &Process| {
        let folder = proc::folder(Path::new("/proc"), process.pid);
        proc::children(&folder, process.pid).unwrap_or_default().into_iter().take(MAX_WORKERS)
    };
    masters.flat_map(children).filter(|pid| !reads.contains_key(pid)).take(MAX_PROCESSES).collect()
}

/// Reads processes, and stores the last state of each in `found`. Returns those that did not answer.
fn read_processes(
    pids: Vec<u32>,
    reads: Reads,
    threads: &Arc<AtomicUsize>,
    patience: &mut Patience,
    found: &mut BTreeMap<u32, ProcessRead>,
) -> Vec<(u32, ReadFailure)> {
    let mut late = Vec::new();
    let threads = Arc::clone(threads);
    let work = move |pid: &u32, job: &ItemJob<Option<ProcessRead>>| ProcessRead::at(*pid, reads, &threads, job);
    deadline::each(pids, patience, work, |pid, result| match result {
        ReadResult::Value(Some(process_read)) => drop(found.insert(*pid, process_read)),
        ReadResult::Value(None) => drop(found.remove(pid)),
        ReadResult::Unanswered(why) => late.push((*pid, why)),
    });
    late
}

impl Reading {
    fn of(folder: &Path, tid: u32) -> io::Result<Self> {
        Ok(Self::from(folder, tid, &proc::stat(folder)?))
    }

    fn from(folder: &Path, tid: u32, stat: &proc::Stat) -> Self {
        let kept = proc::schedstat(folder);
        let runs = ThreadState::from_letter(stat.state) == ThreadState::Running;
        let waits = runs.then(|| proc::status(folder).ok()?.voluntary_switches).flatten();
        Self {
            tid,
            started_ns: stat.started_ns,
            cpu_ns: kept.map_or(stat.cpu_ns, |kept| kept.run_ns),
            delay_ns: kept.map(|kept| kept.delay_ns),
            waits,
        }
    }
}

/// Computes the shares of one CPU. `None` if the readings are of two threads or in two units.
fn shares(first: Reading, last: Reading, window: Duration) -> Option<CpuShares> {
    let same =
        (first.tid, first.started_ns, first.delay_ns.is_some()) == (last.tid, last.started_ns, last.delay_ns.is_some());
    let used = last.cpu_ns.checked_sub(first.cpu_ns).filter(|_| same)?;
    // A tick within the window can be longer than the window.
    let permille = |time: u64| {
        u32::try_from((u128::from(time) * 1000 / u128::from(nanos(window)).max(1)).min(1000)).unwrap_or(1000)
    };
    // A thread that was runnable both times and never waited in between was runnable all the time. The kernel counts
    // a delay when it ends, and with a CPU limit of the cgroup, one delay can be longer than the window.
    let all_the_time = first.waits.is_some() && first.waits == last.waits;
    let delayed = || last.delay_ns?.checked_sub(first.delay_ns?);
    let wanted = if all_the_time { Some(1000) } else { delayed().map(|delay| permille(used.saturating_add(delay))) };
    Some(CpuShares { used: permille(used), wanted })
}

/// Finds the locations of sockets that no descriptor refers to, by their inodes, and omits those that it cannot find.
/// Reads every descriptor of every process.
pub fn places(inodes: &[u64], patience: &mut Patience) -> Vec<(u64, SocketLocation)> {
    if inodes.is_empty() {
        return Vec::new();
    }
    let root = Path::new("/proc");
    let found = fdinfo::elsewhere(root, inodes, patience);
    if let Some(why) = &found.unseen {
        log::debug!("sockets without an owner may have one elsewhere: {why}");
    }
    let named: Vec<u32> = found.in_flight.iter().chain(found.io_uring.values()).copied().collect();
    let names = names(root, named, patience);
    let task = |pid: u32| Some(Task { pid, comm: names.get(&pid)?.clone() });
    let in_flight: Vec<Task> = found.in_flight.iter().copied().filter_map(task).collect();
    // If the socket may also be in an instance that does not list its files, or in a process that could not be read,
    // no process is blamed.
    let seen_all = !found.nameless && found.unseen.is_none();
    let mut places = BTreeMap::new();
    for inode in inodes {
        let place = match found.io_uring.get(inode) {
            Some(pid) => task(*pid).map(SocketLocation::IoUring),
            None => (seen_all && !in_flight.is_empty()).then(|| SocketLocation::InFlight(in_flight.clone())),
        };
        if let Some(place) = place {
            places.insert(*inode, place);
        }
    }
    places.into_iter().collect()
}

/// Returns the names of some processes.
fn names(root: &Path, pids: Vec<u32>, patience: &mut Patience) -> BTreeMap<u32, Comm> {
    let mut names = BTreeMap::new();
    let root = root.to_owned();
    let work = move |pid: &u32, job: &ItemJob<Comm>| {
        if let Ok(name) = proc::comm(&proc::folder(&root, *pid)) {
            job.put(Comm::from_name(&name));
        }
    };
    deadline::each(pids, patience, work, |pid, result| match result {
        ReadResult::Value(name) => drop(names.insert(*pid, name)),
        ReadResult::Unanswered(why) => log::debug!("the name of process {pid} was not read: {why}"),
    });
    names
}

#[cfg(test)]
mod tests;
