//! State of one process after the first read, and the additions of the second.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use super::{MAX_THREADS, Reading, Reads, runtime, shares};
use crate::{
    clock,
    host::{
        caps,
        deadline::{ItemJob, ReadFailure, Subject},
        freezer, netns, proc,
    },
};
use closewait_engine::{
    process::{
        Architecture, Process, ProgramRuntime, Syscall, SyscallArgs, Thread, ThreadState, can_have_script, group,
        script,
    },
    text::{Comm, harmless, harmless_path, is_harmful},
    workload::Workload,
};

/// Architecture of this host's system calls; `None` if the engine does not know their numbers.
pub(super) const ARCHITECTURE: Option<Architecture> = if cfg!(target_arch = "x86_64") {
    Some(Architecture::X86_64)
} else if cfg!(target_arch = "aarch64") {
    Some(Architecture::Aarch64)
} else {
    None
};

/// Process, as far as it has been read.
#[derive(Clone, Debug)]
pub(super) struct ProcessRead {
    pub(super) process: Process,
    pub(super) threads: Vec<(Reading, Thread)>,
    /// Whether its threads have been read.
    pub(super) has_threads: bool,
}

/// Threads of a process to read a second time.
#[derive(Debug)]
pub(super) struct Second {
    pid: u32,
    started_ns: Option<u64>,
    tids: Vec<u32>,
}

/// CPU times of the threads of a process; `None` if it has ended, or the reason why they cannot be read.
pub(super) type ThreadReadings = Result<Option<Vec<Reading>>, String>;

impl ProcessRead {
    /// Reads a process, and sends several versions of the result, each more complete than the one before. `None` if
    /// the process has ended.
    pub(super) fn at(pid: u32, reads: Reads, rest: &AtomicUsize, job: &ItemJob<Option<Self>>) {
        let folder = proc::folder(Path::new("/proc"), pid);
        let free = job.about(Subject::Process(pid, None));
        let mut process_read = Self::default(pid);
        match process_read.read(&folder, (reads, free), rest, job) {
            Ok(()) => job.put(Some(process_read)),
            Err(error) if proc::is_gone(&error) => job.put(None),
            Err(error) => {
                let _unread: Option<()> = seen("its state", Err(error), &mut process_read.process.unseen);
                job.put(Some(process_read));
            }
        }
    }

    fn read(
        &mut self,
        folder: &Path,
        (reads, free): (Reads, Result<(), ReadFailure>),
        rest: &AtomicUsize,
        job: &ItemJob<Option<Self>>,
    ) -> io::Result<()> {
        job.step("its name");
        self.process.comm = Comm::from_name(&proc::comm(folder)?);
        self.read_calm_facts(folder, job);
        job.put(Some(self.clone()));
        match (free, reads) {
            (Ok(()), _) => {}
            (Err(why), Reads::All) => {
                self.process.unseen.push(format!("what it does was not read: {why}"));
                return Ok(());
            }
            (Err(_), Reads::Calm) => return Ok(()),
        }
        job.step("its state");
        let stat = proc::stat(folder)?;
        self.process.comm = Comm::from_name(&stat.comm);
        self.process.started_ns = Some(clock::of_proc(stat.started_ns).0);
        self.process.exec_id = stat.exec_id();
        self.process.parent = Some(stat.parent).filter(|parent| *parent > 0);
        self.read_facts(folder, job);
        job.put(Some(self.clone()));
        // From now on, reads may block on this process as it is now: `may_wait` checks.
        let _waits = job.about(Subject::Process(self.process.pid, Some(stat.started_ns)));
        self.read_threads(folder, reads, rest, job);
        // The remaining reads can block forever, so this sends everything read so far.
        job.put(Some(self.clone()));
        self.read_runtime(folder, reads, stat.started_ns, job);
        self.read_script(folder, reads, job);
        Ok(())
    }

    /// Returns a process of which nothing has been read.
    fn default(pid: u32) -> Self {
        let process = Process::unread(pid, Comm::from_name(b""));
        Self { process, threads: Vec::new(), has_threads: false }
    }

    /// Reads the facts that never block on any kernel.
    fn read_calm_facts(&mut self, folder: &Path, job: &ItemJob<Option<Self>>) {
        let Self { process, .. } = self;
        let unseen = &mut process.unseen;
        job.step("its status");
        let status = seen("its status", proc::status(folder), unseen);
        process.threads = status.as_ref().and_then(|status| status.threads);
        process.signals_caught = status.and_then(|status| status.caught);
        job.step("its limits");
        process.fds_limit = seen("its limits", proc::open_files_limit(folder), unseen).flatten();
        job.step("its cgroup");
        let Some(paths) = seen("its cgroup", proc::cgroups(folder), unseen) else { return };
        process.workload = paths.named.as_ref().map(|path| Box::new(Workload::parse(&harmless_path(path))));
        // Sends everything read so far, in case the next file does not answer.
        job.put(Some(self.clone()));
        let Self { process, .. } = self;
        job.step("its freezer");
        let freezer = freezer::state(&paths);
        process.frozen = freezer.as_ref().map(|state| state.frozen);
        // A path that needs escapes would not work in a command.
        let file = freezer.and_then(|state| state.file?.into_os_string().into_string().ok());
        process.frozen_by = file.filter(|file| !file.chars().any(is_harmful));
    }

    fn read_facts(&mut self, folder: &Path, job: &ItemJob<Option<Self>>) {
        let Self { process, .. } = self;
        let unseen = &mut process.unseen;
        job.step("its descriptors");
        process.fds_open = seen("its descriptors", proc::descriptors(folder), unseen).flatten();
        job.step("the path of its program");
        process.exe = seen("its program", proc::exe(folder), unseen).map(|path| harmless(&path));
        job.step("its network namespace");
        let own = netns::of_process(Path::new("/proc/self"));
        process.other_netns = netns::of_process(folder).ok().zip(own.ok()).map(|(its, own)| its != own);
    }

    fn read_threads(&mut self, folder: &Path, reads: Reads, rest: &AtomicUsize, job: &ItemJob<Option<Self>>) {
        let Self { process, threads, has_threads } = self;
        job.step("its threads");
        let most = rest.load(Ordering::Relaxed).min(MAX_THREADS);
        let Some(tids) = seen("its threads", proc::threads(folder, most), &mut process.unseen) else {
            *has_threads = true;
            return;
        };
        let may_wait = match (reads, job.may_wait()) {
            (Reads::All, Ok(())) => true,
            (Reads::All, Err(why)) => {
                process.unseen.push(format!("the system calls of its threads were not read: {why}"));
                false
            }
            (Reads::Calm, _) => false,
        };
        let mut denied = None;
        let read = |(tid, folder): (u32, PathBuf)| thread(&folder, tid, tid == process.pid, may_wait, &mut denied, job);
        threads.extend(tids.into_iter().filter_map(read));
        if let Some(error) = denied {
            let _call: Option<()> = seen("the system calls of its threads", Err(error), &mut process.unseen);
        }
        *has_threads = true;
        rest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |rest| Some(rest.saturating_sub(threads.len())))
            .unwrap_or_default();
        process.threads_seen = u32::try_from(threads.len()).unwrap_or(u32::MAX);
        let more = process.threads.and_then(|all| all.checked_sub(process.threads_seen)).filter(|more| *more > 0);
        if let Some(more) = more {
            process.unseen.push(format!(
                "{more} of its threads were not inspected: the limit is {MAX_THREADS}, or they started later"
            ));
        }
    }

    fn read_runtime(&mut self, folder: &Path, reads: Reads, started_ns: u64, job: &ItemJob<Option<Self>>) {
        let Self { process, threads, .. } = self;
        let Some(exe) = process.exe.as_deref() else { return };
        process.runtime = runtime::by_path(exe);
        if process.runtime == Some(ProgramRuntime::Jvm) {
            self.read_version(folder, reads, started_ns, job);
            return;
        }
        if process.runtime.is_some() || reads == Reads::Calm {
            return;
        }
        if let Err(why) = job.may_wait() {
            process.unseen.push(format!("its program and its libraries were not read: {why}"));
            return;
        }
        // The kernel takes the lock of the process's memory, and one of these threads may have it.
        let stuck = threads.iter().any(|(_, thread)| thread.state == ThreadState::DiskSleep);
        let of = (process.pid, started_ns);
        process.runtime = runtime::by_files(folder, of, exe, stuck, job, &mut process.unseen);
    }

    /// Reads the telling word of the command line, last of all: the read can wait for the lock of the process's memory, and
    /// everything else is more important.
    fn read_script(&mut self, folder: &Path, reads: Reads, job: &ItemJob<Option<Self>>) {
        let exe = self.process.exe.as_deref().filter(|exe| can_have_script(exe));
        let is_stuck = || self.threads.iter().any(|(_, thread)| thread.state == ThreadState::DiskSleep);
        let Some(exe) = exe.filter(|_| reads == Reads::All && job.may_wait().is_ok() && !is_stuck()) else { return };
        job.put(Some(self.clone()));
        job.step("its command line");
        // A process can hide it, or have none. Then its name has to do.
        self.process.script = proc::command_line(folder).ok().and_then(|line| script(exe, &line));
    }

    /// Reads the version of a JVM from the file of its JDK, or else from the path of its program.
    fn read_version(&mut self, folder: &Path, reads: Reads, started_ns: u64, job: &ItemJob<Option<Self>>) {
        let Self { process, .. } = self;
        let Some(exe) = process.exe.as_deref() else { return };
        process.runtime_version = runtime::jdk_of_path(exe);
        // Sends everything read so far, in case the file does not answer.
        let program = (process.pid, started_ns, exe.to_owned());
        job.put(Some(self.clone()));
        if reads == Reads::All && job.may_wait().is_ok() {
            job.step("the version of its JDK");
            let version = runtime::jdk_of_files(folder, program);
            let Self { process, .. } = self;
            process.runtime_version = version.or(process.runtime_version.take());
        }
    }

    /// Adds that a read did not answer.
    pub(super) fn is_late(&mut self, why: &ReadFailure) {
        let why = match why {
            ReadFailure::Late { .. } => format!("{why}; what is read after it was left out"),
            ReadFailure::StillWaits
            | ReadFailure::TooMany
            | ReadFailure::NoTime
            | ReadFailure::NoThread(_)
            | ReadFailure::SlowStacks
            | ReadFailure::OtherSlowStacks => {
                format!("not everything was read: {why}")
            }
        };
        self.process.unseen.push(why);
    }

    /// Returns the threads to read a second time.
    pub(super) fn second(&self, cpu_time: bool) -> Second {
        let tids = if cpu_time { self.threads.iter().map(|(first, _)| first.tid).collect() } else { Vec::new() };
        Second { pid: self.process.pid, started_ns: self.process.started_ns, tids }
    }

    /// Adds the result of the second read. Returns whether it is still the same process: another one may have its
    /// pid.
    pub(super) fn is_same(&mut self, answer: Option<ThreadReadings>, window: Duration) -> bool {
        let Self { process, threads, .. } = self;
        match answer {
            Some(Ok(None)) => return false,
            Some(Ok(Some(last))) => {
                let last: BTreeMap<u32, Reading> = last.into_iter().map(|reading| (reading.tid, reading)).collect();
                for (first, thread) in threads.iter_mut() {
                    let shares = last.get(&first.tid).and_then(|last| shares(*first, *last, window));
                    thread.cpu_permille = shares.map(|shares| shares.used);
                    thread.wanted_permille = shares.and_then(|shares| shares.wanted);
                }
            }
            Some(Err(why)) => process.unseen.push(why),
            None => {}
        }
        let shares: Vec<u32> = threads.iter().filter_map(|(_, thread)| thread.cpu_permille).collect();
        process.cpu_permille = (!shares.is_empty()).then(|| shares.iter().sum());
        let threads: Vec<Thread> = threads.drain(..).map(|(_, thread)| thread).collect();
        process.groups = group(&threads);
        true
    }
}

impl Second {
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn read(&self, job: &ItemJob<ThreadReadings>) -> ThreadReadings {
        job.step("its state");
        let folder = proc::folder(Path::new("/proc"), self.pid);
        // The first read found no thread, or still blocks.
        if self.started_ns.is_none() || job.about(Subject::Process(self.pid, None)).is_err() {
            return Ok(Some(Vec::new()));
        }
        match proc::stat(&folder) {
            Ok(stat) if Some(clock::of_proc(stat.started_ns).0) == self.started_ns => {}
            Ok(_other) => return Ok(None),
            Err(error) if proc::is_gone(&error) => return Ok(None),
            Err(error) => return Err(format!("the CPU time of its threads cannot be read: {error}")),
        }
        let task = folder.join("task");
        let read = |tid: &u32| {
            job.progress();
            Reading::of(&task.join(tid.to_string()), *tid).ok()
        };
        Ok(Some(self.tids.iter().filter_map(read).collect()))
    }
}

/// Reads one thread; `None` if it has ended. Sets `denied` to the reason why its system call was not read.
fn thread(
    folder: &Path,
    tid: u32,
    main: bool,
    may_wait: bool,
    denied: &mut Option<io::Error>,
    job: &ItemJob<Option<ProcessRead>>,
) -> Option<(Reading, Thread)> {
    job.step("its threads");
    let stat = proc::stat(folder).ok()?;
    let call = if may_wait {
        job.step("the system calls of its threads");
        proc::syscall(folder).unwrap_or_else(|error| {
            if !proc::is_gone(&error) {
                *denied = Some(error);
            }
            None
        })
    } else {
        None
    };
    let call = call.zip(ARCHITECTURE).map(|(call, of)| (Syscall::new(of, call.number), call.args));
    job.step("its threads");
    let wchan = proc::wchan(folder).map(|name| harmless(&name));
    let state = ThreadState::from_letter(stat.state);
    // A stopped thread waits only for SIGCONT.
    let waits = matches!(state, ThreadState::Sleeping | ThreadState::DiskSleep);
    let limit = |(call, args): (Syscall, SyscallArgs)| call.wait_limit(&args, wchan.as_deref());
    let thread = Thread {
        comm: Comm::from_name(&stat.comm),
        state,
        syscall: call.map(|(call, _)| call),
        arg: call.map(|(call, args)| call.awaited_of(&args)),
        limit: call.filter(|_| waits).and_then(limit),
        wchan,
        cpu_permille: None,
        wanted_permille: None,
        main,
    };
    Some((Reading::from(folder, tid, &stat), thread))
}

/// Returns a value that was read. Adds the reason to `unseen` if the read failed.
pub(super) fn seen<T>(what: &str, read: io::Result<T>, unseen: &mut Vec<String>) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(error) => {
            let fix = if proc::is_refused(&error) { caps::fix_for_unreadable() } else { String::new() };
            unseen.push(format!("{what} cannot be read: {error}{fix}"));
            None
        }
    }
}
