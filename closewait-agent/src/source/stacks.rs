//! Reads of the stacks of processes, on a thread that can be left behind.
//!
//! Nothing stops, signals or changes a process. A read of its memory can block as those of `/proc/PID/maps` do, see
//! [`crate::host::deadline`].

use std::{cell::Cell, fs::File, io, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use closewait_stacks::{
    CopiedStack, Frame, Mapping, Memory, MemoryError, MemoryReader, Stack, StackError, Symbols, TargetProcess,
    TargetThread,
    files::FileSymbols,
    go,
    live::{self, LiveMemory},
    memory::ReadLimit,
    native, php, python, ruby,
};
use thiserror::Error;

use super::places::MemoryPlaces;
use crate::{
    clock,
    host::{
        deadline::{self, ItemJob, Patience, ReadFailure, Subject},
        error_text,
        proc::{self, LinkedFile},
    },
};
use closewait_engine::{
    process::ProcessImage,
    stacks::{CodeFrame, CodeLanguage, CodeStack, ProcessStacks},
    text::{Comm, count, harmless},
    time::BootTime,
};

/// Maximum number of threads of all processes of a pass.
pub(super) const MAX_THREADS: usize = 2048;
/// CPU time after which a pass over several processes begins no further one.
const MAX_CPU: Duration = Duration::from_millis(50);
/// Limits of one pass over one process or several ones.
const LIMITS: StackLimits =
    StackLimits { threads: MAX_THREADS, reads: 100_000, cpu: Duration::from_secs(2), time: Duration::from_secs(4) };
/// CPU time that a pass over several processes gives to each.
const MAX_PROCESS_CPU: Duration = Duration::from_millis(200);
/// Time that a pass over several processes gives to each: on a busy machine, the agent has a part of a CPU. Less than
/// [`Patience::for_stacks`], so that what was read is not lost.
const MAX_PROCESS_TIME: Duration = Duration::from_millis(800);
/// Time to find the code of copied stacks, less than [`Patience::for_one_read`].
const MAX_COPIES_TIME: Duration = Duration::from_millis(300);
/// Maximum number of bytes that one pass reads from a process.
const MAX_BYTES: u64 = 64 << 20;
/// Number of reads after which the thread shows that it makes progress.
const READS_BETWEEN_SIGNS: u32 = 64;

/// Maximum number of bytes of the names in all frames of a process, as they are shown: four times those of 2,048 requests in a web
/// server.
const MAX_NAMES: usize = 24 << 20;

/// Number of threads and reads that remain for a pass.
#[derive(Clone, Copy, Debug)]
struct StackLimits {
    /// Number of threads.
    threads: usize,
    /// Number of reads of the processes' memory, 1 to 2 us each.
    reads: u32,
    /// CPU time of each process.
    cpu: Duration,
    /// Time of each process.
    time: Duration,
}

/// Stacks of a process, as a pass reads them.
#[derive(Clone, Debug)]
pub struct StacksRead {
    /// Name of the process.
    pub comm: Comm,
    /// Program that the process ran before the read; `None` if another program read it.
    pub image: Option<ProcessImage>,
    /// Number of threads of the process.
    pub threads: usize,
    /// Number of its threads that were left out, because they are too many.
    pub threads_left_out: usize,
    /// Stacks: those of the runtime where there is a reader for it, those of the machine code otherwise.
    pub stacks: Vec<CodeStack>,
    /// Reasons why stacks are missing, a sentence each.
    pub unread: Vec<String>,
}

/// Cost of a read.
#[derive(Clone, Copy, Debug)]
struct StackCost {
    cpu: Duration,
    /// Number of reads of the process's memory.
    reads: u32,
}

/// Reason why no stacks were read.
#[derive(Debug, Error)]
pub enum StacksError {
    /// The process has ended, or never existed.
    #[error("there is no process {0}\nhint: `closewait list` shows the owners of sockets")]
    NoProcess(u32),
    /// The process has no memory of its own.
    #[error(
        "process {0} has no memory: it is a thread of the kernel, or ends\nhint: `closewait list` shows the owners of sockets"
    )]
    NoMemory(u32),
    /// The process may not be read.
    #[error(
        "the memory of process {pid} cannot be read\nhint: run as root, or with CAP_SYS_PTRACE; a security module can refuse it to root, too"
    )]
    Denied {
        /// The process.
        pid: u32,
        /// Error of the first read.
        source: io::Error,
    },
    /// The process cannot be read for another reason.
    #[error("the memory of process {pid} cannot be read")]
    Unreadable {
        /// The process.
        pid: u32,
        /// Error of the first read.
        source: io::Error,
    },
    /// The reads did not answer.
    #[error("the stacks of process {pid} were not read: {why}")]
    Unanswered {
        /// The process.
        pid: u32,
        /// Reason.
        why: ReadFailure,
    },
}

/// Reads the stacks of a process.
///
/// # Errors
///
/// If its memory cannot be read, or a read does not answer in time.
pub fn read(pid: u32, patience: &mut Patience) -> Result<StacksRead, StacksError> {
    read_within(pid, LIMITS, patience).map(|(read, _cost)| read)
}

/// Reads the stacks of processes, in this order, and hands those of each to `each`; those of a process that could not be read have a
/// reason instead. Omits the processes for which the limits of the pass leave nothing.
pub fn read_each(pids: &[u32], patience: &mut Patience, mut each: impl FnMut(ProcessStacks)) {
    let (mut left, mut cpu) = (StackLimits { cpu: MAX_PROCESS_CPU, time: MAX_PROCESS_TIME, ..LIMITS }, Duration::ZERO);
    let (began, mut done) = (clock::now(), 0);
    for pid in pids.iter().copied() {
        if left.threads == 0 || left.reads == 0 || cpu >= MAX_CPU {
            break;
        }
        let at = clock::now();
        match read_within(pid, left, patience) {
            Ok((read, cost)) => {
                cpu += cost.cpu;
                left.threads = left.threads.saturating_sub(read.threads - read.threads_left_out);
                left.reads = left.reads.saturating_sub(cost.reads);
                each(ProcessStacks::new(pid, at, &read.stacks, read.unread).of_image(read.image));
            }
            // The first one had all of the time, and would keep others waiting the next time, too.
            Err(StacksError::Unanswered { why: ReadFailure::NoTime, .. }) if done > 0 => break,
            Err(error) => each(ProcessStacks::new(pid, at, &[], vec![error_text::in_one_line(error)])),
        }
        done += 1;
    }
    if !pids.is_empty() {
        log::debug!(
            "stacks of {done} of {} processes with {} threads: {} us of CPU time in {} us",
            pids.len(),
            MAX_THREADS - left.threads,
            cpu.as_micros(),
            clock::now().since(began).as_micros()
        );
    }
}

fn read_within(pid: u32, limits: StackLimits, patience: &mut Patience) -> Result<(StacksRead, StackCost), StacksError> {
    let subject = Subject::Stacks(pid);
    deadline::run_in_steps(subject, "its stacks", patience, move |job| read_now(pid, limits, job))
        .map_err(|why| StacksError::Unanswered { pid, why })?
        .map_err(|source| StacksError::of(pid, source))
}

/// Returns the stacks of copies that were made of threads of a process: one for each.
pub(super) fn read_copies(
    pid: u32,
    copies: Vec<CopiedStack>,
    patience: &mut Patience,
) -> Result<Vec<CodeStack>, StacksError> {
    let limits = StackLimits { cpu: MAX_PROCESS_CPU, time: MAX_COPIES_TIME, ..LIMITS };
    let read = move |job: &ItemJob<_>| {
        let within = (limits, ReadingEnd::of(limits));
        with_process(pid, within, job, &[], |process, _| copied_stacks(process, &copies)).map(|(stacks, _)| stacks)
    };
    deadline::run_in_steps(Subject::Stacks(pid), "the code of its stacks", patience, read)
        .map_err(|why| StacksError::Unanswered { pid, why })?
        .map_err(|source| StacksError::of(pid, source))
}

impl StacksError {
    fn of(pid: u32, source: io::Error) -> Self {
        match source {
            gone if proc::is_gone(&gone) && proc::comm(&proc::folder(Path::new("/proc"), pid)).is_ok() => {
                Self::NoMemory(pid)
            }
            gone if proc::is_gone(&gone) => Self::NoProcess(pid),
            denied if proc::is_refused(&denied) => Self::Denied { pid, source: denied },
            source => Self::Unreadable { pid, source },
        }
    }
}

/// Memory of a process, which shows that its thread makes progress, and ends the reading with the time for it.
struct WatchedMemory<'a, T> {
    memory: LiveMemory,
    job: &'a ItemJob<T>,
    places: MemoryPlaces,
    /// File system of code that was not read.
    code_on: Cell<Option<&'static str>>,
    reads: Cell<u32>,
    end: ReadingEnd,
}

/// Time for the symbols of files, which is that of the caller's patience. It reads no memory.
struct NameTime<'a, T> {
    job: &'a ItemJob<T>,
}

impl<T> Memory for NameTime<'_, T> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        Err(MemoryError::Unreadable { address, len: into.len() })
    }

    fn may_go_on(&self) -> bool {
        self.job.progress();
        !self.job.is_left_behind()
    }
}

/// End of a reading, which then returns what it has.
#[derive(Clone, Copy)]
struct ReadingEnd {
    /// CPU time of the thread.
    cpu: Duration,
    time: BootTime,
}

impl ReadingEnd {
    /// Returns the end of a reading that begins now.
    fn of(limits: StackLimits) -> Self {
        Self { cpu: clock::thread_cpu() + limits.cpu, time: clock::now() + limits.time }
    }

    /// Whether it has not come, and the caller waits for the result. Shows that the thread makes progress.
    fn may_go_on<T>(self, job: &ItemJob<T>) -> bool {
        job.progress();
        !job.is_left_behind() && clock::thread_cpu() < self.cpu && clock::now() < self.time
    }
}

impl<T> Memory for WatchedMemory<'_, T> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let reads = self.reads.get().wrapping_add(1);
        self.reads.set(reads);
        if reads.is_multiple_of(READS_BETWEEN_SIGNS) {
            self.job.progress();
        }
        if let Err(refused) = self.places.check(address, into.len()) {
            self.code_on.set(self.code_on.get().or(refused.code_on));
            return Err(refused.error);
        }
        self.memory.read(address, into)
    }

    fn may_go_on(&self) -> bool {
        self.end.may_go_on(self.job)
    }
}

fn read_now<T>(pid: u32, limits: StackLimits, job: &ItemJob<T>) -> io::Result<(StacksRead, StackCost)> {
    let cpu_before = clock::thread_cpu();
    let stat = proc::stat(&proc::folder(Path::new("/proc"), pid))?;
    let comm = Comm::from_name(&stat.comm);
    let image = Some(ProcessImage { started_ns: clock::of_proc(stat.started_ns).0, exec_id: stat.exec_id() });
    let end = ReadingEnd::of(limits);
    let threads = live::threads(pid, limits.threads, &|| end.may_go_on(job))?;
    // Threads that end meanwhile are not left out.
    let most = if end.may_go_on(job) { limits.threads } else { threads.len() };
    let left_out = live::thread_count(pid)?.saturating_sub(most);
    let ((stacks, mut unread, reads), further) = with_process(pid, (limits, end), job, &threads, |process, limit| {
        let (stacks, mut unread) = stacks(process);
        unread.extend(limit.left_out());
        if let Some(bound) = limit.reached().filter(|_| unread.is_empty()) {
            unread.push(format!("some stacks or names were not read: {bound}"));
        }
        (stacks, unread, limits.reads.saturating_sub(limit.reads_left()))
    })?;
    unread.extend(further);
    unread.extend(unread_threads(left_out, threads.len()));
    let cpu = clock::thread_cpu().saturating_sub(cpu_before);
    let threads = threads.len() + left_out;
    Ok((StacksRead { comm, image, threads, threads_left_out: left_out, stacks, unread }, StackCost { cpu, reads }))
}

/// Opens the memory of a process, and hands the process with these threads to `read`. Returns its result, and a
/// sentence about each kind of thing in files that was not read.
fn with_process<T, R>(
    pid: u32,
    (limits, end): (StackLimits, ReadingEnd),
    job: &ItemJob<T>,
    threads: &[TargetThread],
    read: impl FnOnce(&TargetProcess<'_>, &ReadLimit) -> R,
) -> io::Result<(R, Vec<String>)> {
    let folder = proc::folder(Path::new("/proc"), pid);
    let memory = LiveMemory::open(pid)?;
    let mappings = live::mappings(pid)?;
    let places = MemoryPlaces::of(&folder, &mappings)?;
    let memory = WatchedMemory { memory, job, places, code_on: Cell::new(None), reads: Cell::new(0), end };
    job.progress();
    let open = |mapping: &Mapping| match memory.may_go_on() {
        true => opened(&folder, mapping),
        false => Err(io::ErrorKind::TimedOut.into()),
    };
    let limit = ReadLimit::new(limits.reads, MAX_BYTES);
    let reader = MemoryReader::new(&memory, &limit);
    // Without the names of large files, the frames remain.
    let (names, names_limit) = (NameTime { job }, ReadLimit::new(0, 0));
    let symbols = FileSymbols::new(&open, MemoryReader::new(&names, &names_limit));
    let process = TargetProcess { memory: reader, mappings: &mappings, threads, symbols: &symbols as &dyn Symbols };
    let result = read(&process, &limit);
    let code = memory.code_on.get().map(|on| format!("code on {on}, which may not answer"));
    let names = names_limit.reached().map(|bound| format!("names of functions in files: {bound}"));
    Ok((result, code.into_iter().chain(names).collect()))
}

/// Returns the stacks of copies: of Go with lines, and otherwise of machine code.
fn copied_stacks(process: &TargetProcess<'_>, copies: &[CopiedStack]) -> Vec<CodeStack> {
    let (language, stacks) = match go::copied_stacks(process, copies) {
        Ok(stacks) => (CodeLanguage::Go, stacks),
        Err(_other_program) => (CodeLanguage::Native, native::copied_stacks(process, copies)),
    };
    code_stacks(language, stacks, &mut { MAX_NAMES })
}

/// Returns the sentence about threads that were left out; `None` if there are none.
fn unread_threads(left_out: usize, read: usize) -> Option<String> {
    (left_out > 0).then(|| format!("{} beyond the first {read}", count(left_out as u64, "thread")))
}

/// Opens the file of a mapping, if its file system is one that answers. The program itself needs no more privileges than its memory;
/// other files need `CAP_CHECKPOINT_RESTORE` (`proc_map_files_get_link`, fs/proc/base.c at v5.10).
fn opened(process: &Path, mapping: &Mapping) -> io::Result<File> {
    let map = format!("map_files/{:x}-{:x}", mapping.start, mapping.end);
    for link in ["exe", &map] {
        match proc::linked_file(process, link)? {
            LinkedFile::Opened(file) if file.metadata()?.ino() == mapping.inode => return Ok(file),
            LinkedFile::Opened(_) | LinkedFile::Other => {}
            LinkedFile::NotOpened(kind) => return Err(io::Error::other(format!("it is on {kind}"))),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Reads the stacks with the readers of all kinds of programs that this process can be.
fn stacks(process: &TargetProcess<'_>) -> (Vec<CodeStack>, Vec<String>) {
    let (mut unread, mut names_left) = (Vec::new(), MAX_NAMES);
    let mut of = |language: CodeLanguage, read: Result<Vec<Stack>, StackError>| match read {
        Ok(stacks) => Some(code_stacks(language, stacks, &mut names_left)),
        Err(StackError::OtherProgram(_)) => None,
        Err(error) => {
            unread.push(format!(
                "the stacks of {} were not read: {}",
                name(language),
                harmless(error.to_string().as_bytes())
            ));
            None
        }
    };
    // Goroutines move between threads, whose own stacks say little.
    if let Some(stacks) = of(CodeLanguage::Go, go::stacks(process)) {
        return (stacks, unread);
    }
    let native = of(CodeLanguage::Native, native::stacks(process)).unwrap_or_default();
    // Programs in machine code can contain several interpreters.
    let readers: [(_, fn(&TargetProcess<'_>) -> _); 3] =
        [(CodeLanguage::Python, python::stacks), (CodeLanguage::Php, php::stacks), (CodeLanguage::Ruby, ruby::stacks)];
    let stacks = readers.into_iter().fold(native, |others, (language, read)| match of(language, read(process)) {
        Some(own) => beside(own, others),
        None => others,
    });
    (stacks, unread)
}

const fn name(language: CodeLanguage) -> &'static str {
    match language {
        CodeLanguage::Go => "Go",
        CodeLanguage::Python => "Python",
        CodeLanguage::Native => "machine code",
        CodeLanguage::Jvm => "the JVM",
        CodeLanguage::Php => "PHP",
        CodeLanguage::Ruby => "Ruby",
    }
}

/// Returns the stacks of an interpreter's threads, and those of the others. A thread that waits does so in a function of the interpreter,
/// which has no frame of its language: the frames of machine code inside the interpreter's loop are put before the others. A thread
/// that runs no script has all of them.
fn beside(mut own: Vec<CodeStack>, others: Vec<CodeStack>) -> Vec<CodeStack> {
    /// Functions in which the interpreters run code.
    const LOOPS: [&str; 3] = ["_PyEval_EvalFrameDefault", "execute_ex", "rb_vm_exec"];
    for other in others {
        let is_same = |stack: &&mut CodeStack| stack.tid.is_some() && stack.tid == other.tid;
        match own.iter_mut().find(is_same).filter(|_| other.language == CodeLanguage::Native) {
            Some(stack) if stack.frames.is_empty() => stack.frames = other.frames,
            Some(stack) => {
                let is_loop = |frame: &CodeFrame| {
                    frame.function.as_deref().is_some_and(|name| LOOPS.iter().any(|known| name.contains(known)))
                };
                if let Some(at) = other.frames.iter().position(is_loop) {
                    stack.frames.splice(0..0, other.frames.into_iter().take(at));
                }
            }
            None => own.push(other),
        }
    }
    own
}

/// Makes the stacks of a reader harmless: names come from the process's memory. Takes their bytes from `names_left`, and ends a stack
/// without them: the frames of a reader share their names, and these do not.
fn code_stacks(language: CodeLanguage, stacks: Vec<Stack>, names_left: &mut usize) -> Vec<CodeStack> {
    let mut code_frames = |frames: Vec<Frame>| {
        let mut kept = Vec::with_capacity(frames.len());
        for frame in frames {
            let [function, file, object] =
                [frame.function, frame.file, frame.object].map(|name| name.map(|name| harmless(name.as_bytes())));
            let len = [&function, &file, &object].into_iter().flatten().map(String::len).sum();
            let left = names_left.checked_sub(len).ok_or("the names of this process are too long");
            *names_left = left.unwrap_or(0);
            if let Err(why) = left {
                return (kept, Some(why.to_owned()));
            }
            kept.push(CodeFrame { function, file, line: frame.line, object });
        }
        (kept, None)
    };
    let text = |text: String| harmless(text.as_bytes());
    let stack = |mut stack: Stack| {
        // A frame that only a frame pointer shows may not exist, and so may none that it returns to.
        if let Some(at) = stack.frames.iter().position(|frame| frame.is_guess) {
            stack.frames.truncate(at);
            stack.cut = Some("the callers are uncertain".to_owned());
        }
        let (frames, too_long) = code_frames(stack.frames);
        CodeStack {
            language,
            tid: stack.tid,
            name: stack.name.map(|name| harmless(name.as_bytes())),
            lock_owner: None,
            state: stack.state.map(text),
            frames,
            cut: too_long.or(stack.cut.map(text)),
        }
    };
    stacks.into_iter().map(stack).collect()
}

#[cfg(test)]
mod tests;
