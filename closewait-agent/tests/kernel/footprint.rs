//! State of a process that a debugger, a signal or a write to its memory would change.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    hash::{DefaultHasher, Hasher as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

/// Lines of `/proc/PID/task/TID/status` that are compared.
const LINES: [&str; 9] = [
    "State",
    "TracerPid",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "voluntary_ctxt_switches",
    "nonvoluntary_ctxt_switches",
];
/// Size of a page, bytes.
const PAGE: u64 = 4096;
/// Number of pages that are read at once.
const PAGES: u64 = 256;
/// Bit of an entry of `/proc/PID/pagemap`: the page was written since `clear_refs` (Documentation/admin-guide/mm/soft-dirty.rst, v6.18).
const SOFT_DIRTY: u64 = 1 << 55;

/// State of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Lines of the status of each compared thread.
    threads: BTreeMap<u32, BTreeMap<String, String>>,
    /// Pending, blocked, ignored and caught signals in `/proc/PID/stat`.
    signals: Vec<String>,
    descriptors: usize,
    /// Resident memory that no file backs; it grows if a page is copied for a write.
    anonymous: String,
    maps: String,
    /// Checksum of all writable memory.
    memory: u64,
    /// Number of signals that the process has counted itself.
    pub(crate) received: u64,
}

impl Footprint {
    /// Reads the state of a process, as far as these threads go. It writes a byte to the file `signals` for each signal.
    pub(crate) fn read(pid: u32, threads: &[u32], signals: &Path) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
        let (_, after_name) = stat.rsplit_once(") ").expect("a name");
        Self {
            threads: threads.iter().map(|tid| (*tid, status(pid, *tid, &LINES))).collect(),
            // Fields 31 to 34; the first after the name is the third (proc(5)).
            signals: after_name.split(' ').skip(28).take(4).map(str::to_owned).collect(),
            anonymous: status(pid, pid, &["RssAnon"]).remove("RssAnon").expect("RssAnon"),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count(),
            maps: fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps"),
            memory: memory(pid),
            received: fs::metadata(signals).expect("the counter of signals").len(),
        }
    }

    /// Returns this state with the memory of another one.
    pub(crate) fn with_memory_of(self, other: &Self) -> Self {
        let Self { anonymous, maps, memory, .. } = other.clone();
        Self { anonymous, maps, memory, ..self }
    }

    /// Returns the number of times that the first compared thread has given up the CPU by itself.
    pub(crate) fn switches(&self) -> &str {
        let first = self.threads.values().next().expect("a thread");
        &first["voluntary_ctxt_switches"]
    }

    /// Whether all signals are caught that can be, of those with a name.
    pub(crate) fn catches_all(&self) -> bool {
        let catchable: u64 = (1..32)
            .filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal))
            .fold(0, |all, signal| all | 1 << (signal - 1));
        let caught = |status: &BTreeMap<_, String>| u64::from_str_radix(&status["SigCgt"], 16).expect("a number");
        self.threads.values().all(|status| caught(status) & catchable == catchable)
    }
}

/// Returns lines of the status of a thread.
fn status(pid: u32, tid: u32, names: &[&str]) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).expect("status");
    let lines = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| names.contains(name));
    lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// Returns the threads of a process that are stopped, traced, or have a pending signal, now.
pub(crate) fn disturbed(pid: u32) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("threads").flatten();
    // A thread of a runtime can end meanwhile.
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let is_disturbed = |line: &str| match line.split_once(':') {
        Some(("State", value)) => value.trim().starts_with(['t', 'T']),
        Some(("TracerPid", value)) => value.trim() != "0",
        Some(("SigPnd" | "ShdPnd", value)) => !value.trim().trim_matches('0').is_empty(),
        _ => false,
    };
    texts.filter(|text| text.lines().any(is_disturbed)).collect()
}

/// Returns first address and length of each writable mapping.
fn writable(pid: u32) -> Vec<(u64, u64)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let range = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (start, end) = (number(start)?, number(end)?);
        rest.starts_with("rw").then_some((start, end - start))
    };
    maps.lines().filter_map(range).collect()
}

fn memory(pid: u32) -> u64 {
    let file = File::open(format!("/proc/{pid}/mem")).expect("memory");
    let mut hasher = DefaultHasher::new();
    for (start, len) in writable(pid) {
        for offset in (0..len).step_by((PAGE * PAGES) as usize) {
            let mut bytes = vec![0; (len - offset).min(PAGE * PAGES) as usize];
            file.read_exact_at(&mut bytes, start + offset).expect("a writable mapping");
            hasher.write(&bytes);
        }
    }
    hasher.finish()
}

/// Number of pages in writable mappings that were written since [`forget_writes`].
pub(crate) fn written_pages(pid: u32) -> usize {
    let file = File::open(format!("/proc/{pid}/pagemap")).expect("pagemap");
    let mut count = 0;
    for (start, len) in writable(pid) {
        let mut entries = vec![0; (len / PAGE * 8) as usize];
        file.read_exact_at(&mut entries, start / PAGE * 8).expect("entries of a mapping");
        let entries = entries.chunks_exact(8).map(|entry| u64::from_ne_bytes(entry.try_into().expect("8 bytes")));
        count += entries.filter(|entry| entry & SOFT_DIRTY != 0).count();
    }
    count
}

/// Makes the kernel watch for writes to the memory of a process. Returns `false` if this kernel cannot (`CONFIG_MEM_SOFT_DIRTY`): there,
/// no page counts as written.
pub(crate) fn forget_writes(pid: u32) -> bool {
    let can = written_pages(pid) > 0;
    fs::write(format!("/proc/{pid}/clear_refs"), "4").expect("clear_refs");
    can
}
