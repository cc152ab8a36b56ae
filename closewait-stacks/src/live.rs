//! Memory, mappings, threads and symbol files of a running process.
//!
//! Reading needs `CAP_SYS_PTRACE` for processes of other users (`mm_access`, kernel/fork.c at v5.10). A read can block: on a page of a
//! file system that does not answer, and on the lock of a process that changes its mappings. Callers run it where that harms nobody.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::{
    memory::{Memory, MemoryError},
    process::{Mapping, Registers, TargetThread},
};

/// Maximum number of mappings that are read; the kernel allows 65,530 by default (`vm.max_map_count`).
const MAX_MAPPINGS: usize = 65_530;
/// Maximum number of bytes of the list of mappings, whose paths the process chooses: a large JVM has 1 MB.
const MAX_MAPS_BYTES: u64 = 8 << 20;

/// Maximum number of bytes of `status`: 5,000 supplementary groups. The number of a thread in a container is behind them, and then unknown.
const MAX_STATUS_BYTES: u64 = 64 << 10;
/// Maximum number of bytes of `comm`, `stat` and `syscall`, which have up to 400.
const MAX_LINE_BYTES: u64 = 512;
/// Maximum number of threads among which one that lives is searched: others than the first one disappear when they end, unless another
/// process traces them.
const MAX_ENDED: usize = 64;

/// Memory of a running process.
#[derive(Debug)]
pub struct LiveMemory(File);

impl LiveMemory {
    /// Opens the memory of a process, for reads only.
    ///
    /// # Errors
    ///
    /// If the process has ended or may not be read.
    pub fn open(pid: u32) -> io::Result<Self> {
        // Linux 5.10 opens that of an ended first thread, too, and reads nothing (`proc_mem_open` and `mem_rw`, fs/proc/base.c).
        let folder = folder(pid);
        Ok(Self(File::open(living_thread(&folder).unwrap_or(folder).join("mem"))?))
    }
}

impl Memory for LiveMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        // Whatever the reason is, these bytes are unknown.
        self.0.read_exact_at(into, address).map_err(|_unread| MemoryError::Unreadable { address, len: into.len() })
    }
}

/// Returns the mappings of a process, sorted by address.
///
/// # Errors
///
/// If the process has ended or may not be read, or the list of mappings is too long.
pub fn mappings(pid: u32) -> io::Result<Vec<Mapping>> {
    read_living(&folder(pid), |mappings: &Vec<_>| !mappings.is_empty(), mappings_in)
}

fn mappings_in(folder: &Path) -> io::Result<Vec<Mapping>> {
    let mut list = BufReader::new(File::open(folder.join("maps"))?.take(MAX_MAPS_BYTES));
    let (mut mappings, mut line) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    loop {
        line.clear();
        bytes += list.read_until(b'\n', &mut line)? as u64;
        if bytes >= MAX_MAPS_BYTES || mappings.len() >= MAX_MAPPINGS {
            return Err(io::Error::other("its list of mappings is too long"));
        }
        if line.is_empty() {
            return Ok(mappings);
        }
        mappings.extend(Mapping::parse(String::from_utf8_lossy(line.trim_ascii_end()).as_ref()));
    }
}

/// Returns up to `most` threads of a process, with the registers of those that are in a system call. Returns those that it has when
/// `may_go_on` is no longer true, which it asks before each.
///
/// # Errors
///
/// If the process has ended.
pub fn threads(pid: u32, most: usize, may_go_on: &dyn Fn() -> bool) -> io::Result<Vec<TargetThread>> {
    // All threads of a process are in the pid namespace of the first one: outside of containers, each has one number.
    let has_inner = numbers(&folder(pid)).is_none_or(|numbers| numbers.len() > 1);
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))?.take(most) {
        let entry = entry?;
        if !may_go_on() {
            break;
        }
        let Some(tid) = entry.file_name().to_str().and_then(|tid| tid.parse().ok()) else { continue };
        // A thread can end at any time; its siblings remain.
        if let Some(thread) = thread(tid, &entry.path(), has_inner) {
            threads.push(thread);
        }
    }
    Ok(threads)
}

/// Returns the number of threads of a process: that of the links of its folder, without two (`proc_task_getattr`, fs/proc/base.c at
/// v5.10).
///
/// # Errors
///
/// If the process has ended.
pub fn thread_count(pid: u32) -> io::Result<usize> {
    let links = fs::metadata(format!("/proc/{pid}/task"))?.nlink();
    Ok(usize::try_from(links.saturating_sub(2)).unwrap_or(usize::MAX))
}

/// Returns the folder of a thread of a process whose first thread has ended; `None` if the first one lives, or no thread does.
///
/// A program can end its first thread with `pthread_exit` while others go on. The kernel keeps that thread as a zombie, which has
/// neither memory nor descriptors nor namespaces any more. So in `/proc/PID`, `fd`, `maps` and `cmdline` are empty, the links `exe`,
/// `root` and `ns/net` lead nowhere, and `mem` and `environ` cannot be opened (ESRCH), nor `mountinfo` (EINVAL). All of these are as
/// before in `/proc/PID/task/TID` of another thread (seen on Linux 6.18). `stat`, `status`, `comm`, `limits` and `task` remain.
pub fn living_thread(process: &Path) -> Option<PathBuf> {
    let threads = process.join("task");
    let first = threads.join(process.file_name()?);
    if !has_ended(&first)? {
        return None;
    }
    let others = fs::read_dir(&threads).ok()?.take(MAX_ENDED).map_while(Result::ok).map(|entry| entry.path());
    others.filter(|folder| *folder != first).find(|folder| has_ended(folder) == Some(false))
}

/// Reads something of a process that its first thread loses when it ends: then again from a thread that lives, if `has_it` says that
/// the first result has nothing, or the read fails.
///
/// # Errors
///
/// If the read fails.
pub fn read_living<T>(
    process: &Path,
    has_it: impl Fn(&T) -> bool,
    read: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<T> {
    match read(process) {
        Ok(found) if has_it(&found) => Ok(found),
        other => living_thread(process).map_or(other, |living| read(&living)),
    }
}

/// Whether a thread has ended (`task_state_array`, fs/proc/array.c at v5.10); `None` if there is no such thread.
fn has_ended(thread: &Path) -> Option<bool> {
    let stat = read(&thread.join("stat"), MAX_LINE_BYTES).ok()?;
    // The name before it can contain anything.
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    Some(matches!(stat.get(name_end + 2)?, b'Z' | b'X'))
}

fn folder(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

/// Reads the first `most` bytes of a file.
fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns the numbers of a process or thread, one for each pid namespace, the innermost one last (`proc_pid_status`, fs/proc/array.c at
/// v5.10); `None` if they are unknown.
fn numbers(folder: &Path) -> Option<Vec<u32>> {
    let status = read(&folder.join("status"), MAX_STATUS_BYTES).ok()?;
    // The name of the thread is in it, too; the kernel cuts it in the middle of a character.
    let status = String::from_utf8_lossy(&status);
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().map(|number| number.parse().ok()).collect()
}

fn thread(tid: u32, folder: &Path, has_inner: bool) -> Option<TargetThread> {
    let name = read(&folder.join("comm"), MAX_LINE_BYTES).ok()?;
    let inner = if has_inner { numbers(folder).and_then(|numbers| numbers.last().copied()) } else { None };
    let call = read(&folder.join("syscall"), MAX_LINE_BYTES).unwrap_or_default();
    let call = String::from_utf8_lossy(&call);
    // A thread that has ended but was not reaped, as a first thread before all others: the kernel has freed its stack
    // (`collect_syscall`, lib/syscall.c at v5.10).
    if call.trim_end() == "-1 0x0 0x0" {
        return None;
    }
    Some(TargetThread {
        tid,
        inner_tid: inner.unwrap_or(tid),
        name: String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned(),
        registers: registers(&call),
    })
}

/// Parses `/proc/TID/syscall`: the last two numbers are stack pointer and program counter (`proc_pid_syscall`, fs/proc/base.c at
/// v5.10). `None` for a thread that runs.
fn registers(call: &str) -> Option<Registers> {
    let mut numbers = call.split_whitespace().rev();
    let mut hexadecimal = || u64::from_str_radix(numbers.next()?.strip_prefix("0x")?, 16).ok();
    let (pc, sp) = (hexadecimal()?, hexadecimal()?);
    Some(Registers { pc, sp, fp: None, lr: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_the_last_two_numbers() {
        let blocked = "7 0x7ffd6a1ef5a0 0x1 0xffffffff 0x0 0x0 0x0 0x7ffd6a1ef540 0x7f1ab35f8d2f\n";
        let (pc, sp) = (0x7f1a_b35f_8d2f, 0x7ffd_6a1e_f540);
        assert_eq!(registers(blocked), Some(Registers { pc, sp, fp: None, lr: None }));
        assert_eq!(registers("-1 0x7ffd6a1ef540 0x7f1ab35f8d2f\n"), Some(Registers { pc, sp, fp: None, lr: None }));
        assert_eq!(registers("running\n"), None);
        assert_eq!(registers(""), None);
    }

    fn threads_of_this_process() -> usize {
        threads(std::process::id(), usize::MAX, &|| true).unwrap().len()
    }

    #[test]
    fn a_thread_can_have_a_name_that_is_not_utf_8() {
        let (started, wait) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            fs::write("/proc/thread-self/comm", b"Thread-9 (gr\xc3").unwrap();
            started.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
            ended.recv().unwrap();
        });
        let own = wait.recv().unwrap();
        let own: u32 = own.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let threads = threads(std::process::id(), 512, &|| true).unwrap();
        let found = threads.iter().find(|thread| thread.tid == own).expect("the thread");
        assert_eq!((found.inner_tid, found.name.as_str()), (own, "Thread-9 (gr\u{fffd}"));
        // Other tests start and end threads meanwhile.
        let counts = || (thread_count(std::process::id()).unwrap(), threads_of_this_process());
        assert!((0..1000).map(|_| counts()).any(|(links, listed)| links == listed), "{:?}", counts());
        end.send(()).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn threads_are_read_as_long_as_there_is_time() {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || ended.recv());
        let asked = std::cell::Cell::new(0);
        let once = || asked.replace(asked.get() + 1) == 0;
        assert_eq!(threads(std::process::id(), 512, &once).unwrap().len(), 1);
        assert_eq!(asked.get(), 2, "the first one was read, the second one was not");
        drop(end);
        assert!(other.join().unwrap().is_err());
    }

    #[test]
    fn this_process_is_read() {
        let pid = std::process::id();
        let value = 0x1234_5678_9abc_def0_u64;
        let mut bytes = [0; 8];
        let memory = LiveMemory::open(pid).unwrap();
        memory.read(&raw const value as u64, &mut bytes).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), value);
        assert!(memory.read(8, &mut bytes).is_err());
        let mappings = mappings(pid).unwrap();
        assert!(
            mappings.iter().any(|mapping| mapping.executable) && mappings.is_sorted_by_key(|mapping| mapping.start)
        );
        let threads = threads(pid, 512, &|| true).unwrap();
        assert!(threads.iter().any(|thread| thread.tid == pid), "{threads:?}");
    }
}
