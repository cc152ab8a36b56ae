//! What processes are and do, from two looks at `/proc`, and where sockets are that none of them holds. Nobody is traced
//! or stopped.

use std::{collections::BTreeMap, io, path::Path, time::Duration};

use crate::{
    clock,
    engine::{
        model::{Place, Task},
        process::{Process, Runtime, Syscall, Thread, ThreadState, group},
        text::{Comm, harmless, harmless_path},
        time::{Boot, nanos},
        workload::Workload,
    },
    host::proc::{self, fdinfo},
};

/// Processes that are looked at.
const PROCESSES: usize = 64;
/// Threads of one process that are looked at.
const THREADS: usize = 512;
/// Threads of all processes together: some 30 microseconds each.
const ALL_THREADS: usize = 2048;
/// CPU time is counted in ticks of 1 to 10 ms, so that a shorter time between two looks says nothing.
const WINDOW: Duration = Duration::from_millis(5);
/// Libraries that tell a runtime.
const LIBRARIES: [(&str, Runtime); 4] = [
    ("libjvm.so", Runtime::Jvm),
    ("libcoreclr.so", Runtime::DotNet),
    ("libpython", Runtime::CPython),
    ("libruby", Runtime::Ruby),
];

/// The first of two looks at some processes.
#[derive(Debug)]
pub struct Sampling {
    begun: Boot,
    looks: Vec<Look>,
}

/// One process.
#[derive(Debug)]
struct Look {
    process: Process,
    threads: Vec<(Reading, Thread)>,
}

/// CPU time of one thread at the first look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    tid: u32,
    started_ns: u64,
    /// Nanoseconds; `exact` if not of whole ticks.
    cpu_ns: u64,
    exact: bool,
}

impl Sampling {
    /// Looks at all of `pids`, but at no more than 64, at `at`; of threads at no more than 512 each, 2048 in all. Those that have ended are left out.
    pub fn begin(pids: &[u32], at: Boot) -> Self {
        let mut rest = ALL_THREADS;
        let look = |pid: &u32| {
            let look = Look::at(*pid, rest.min(THREADS))?;
            rest = rest.saturating_sub(look.threads.len());
            Some(look)
        };
        Self { begun: at, looks: pids.iter().take(PROCESSES).filter_map(look).collect() }
    }

    /// When it was.
    pub fn began(&self) -> Boot {
        self.begun
    }

    /// Whether any thread was seen running: of others a second look has little to tell.
    pub fn has_running(&self) -> bool {
        let mut threads = self.looks.iter().flat_map(|look| &look.threads);
        threads.any(|(_, thread)| thread.state == ThreadState::Running)
    }

    /// Reads once more, at `at`, what CPU time the threads have used. A process that has ended meanwhile is left out.
    pub fn finish(self, at: Boot) -> Vec<Process> {
        let window = at.since(self.begun);
        self.looks.into_iter().filter_map(|look| look.finish(window)).collect()
    }
}

impl Look {
    fn at(pid: u32, most_threads: usize) -> Option<Self> {
        let folder = proc::folder(Path::new("/proc"), pid);
        let stat = proc::stat(&folder).ok()?;
        let mut unseen = Vec::new();
        let mut process = Process {
            pid,
            comm: Comm::from_name(&stat.comm),
            started_ns: Some(clock::of_proc(stat.started_ns).0),
            parent: Some(stat.parent).filter(|parent| *parent > 0),
            exe: seen("its program", proc::exe(&folder), &mut unseen).map(|path| harmless(&path)),
            runtime: None,
            fds_open: seen("its descriptors", proc::descriptors(&folder), &mut unseen).flatten(),
            fds_limit: seen("its limits", proc::open_files_limit(&folder), &mut unseen).flatten(),
            threads: proc::status(&folder).ok().and_then(|status| status.threads),
            workload: proc::cgroup(&folder).ok().flatten().map(|path| Box::new(Workload::parse(&harmless_path(&path)))),
            threads_seen: 0,
            groups: Vec::new(),
            cpu_permille: None,
            unseen: Vec::new(),
        };
        let mut denied = None;
        let threads: Vec<_> = proc::threads(&folder, most_threads)
            .into_iter()
            .filter_map(|(tid, folder)| look_at_thread(&folder, tid, tid == pid, &mut denied))
            .collect();
        let _call: Option<()> =
            denied.and_then(|error| seen("the system calls of its threads", Err(error), &mut unseen));
        // The kernel waits for the lock of its memory, and one of these may have it.
        let stuck = threads.iter().any(|(_, thread)| thread.state == ThreadState::DiskSleep);
        process.runtime = runtime(&folder, process.exe.as_deref(), stuck, &mut unseen);
        process.threads_seen = u32::try_from(threads.len()).unwrap_or(u32::MAX);
        if let Some(more) =
            process.threads.and_then(|all| all.checked_sub(process.threads_seen)).filter(|more| *more > 0)
        {
            unseen.push(format!(
                "{more} of its threads were not looked at: no more than {THREADS} are, or they have begun since"
            ));
        }
        process.unseen = unseen;
        Some(Self { process, threads })
    }

    fn finish(self, window: Duration) -> Option<Process> {
        let Self { mut process, mut threads } = self;
        let folder = proc::folder(Path::new("/proc"), process.pid);
        // Its pid may be another's by now.
        let started = proc::stat(&folder).ok()?.started_ns;
        if Some(clock::of_proc(started).0) != process.started_ns {
            return None;
        }
        if window >= WINDOW {
            for (first, thread) in &mut threads {
                let folder = folder.join("task").join(first.tid.to_string());
                thread.cpu_permille =
                    Reading::of(&folder, first.tid).ok().and_then(|last| permille(*first, last, window));
            }
            let shares: Vec<u32> = threads.iter().filter_map(|(_, thread)| thread.cpu_permille).collect();
            process.cpu_permille = (!shares.is_empty()).then(|| shares.iter().sum());
        }
        let threads: Vec<Thread> = threads.into_iter().map(|(_, thread)| thread).collect();
        process.groups = group(&threads);
        Some(process)
    }
}

impl Reading {
    fn of(folder: &Path, tid: u32) -> io::Result<Self> {
        Ok(Self::from(folder, tid, &proc::stat(folder)?))
    }

    fn from(folder: &Path, tid: u32, stat: &proc::Stat) -> Self {
        let run = proc::run_ns(folder);
        Self { tid, started_ns: stat.started_ns, cpu_ns: run.unwrap_or(stat.cpu_ns), exact: run.is_some() }
    }
}

fn look_at_thread(folder: &Path, tid: u32, main: bool, denied: &mut Option<io::Error>) -> Option<(Reading, Thread)> {
    let stat = proc::stat(folder).ok()?;
    let call = proc::syscall(folder).unwrap_or_else(|error| {
        *denied = Some(error);
        None
    });
    // The engine knows the numbers of one architecture.
    let call = call.filter(|_| cfg!(target_arch = "x86_64"));
    let thread = Thread {
        comm: Comm::from_name(&stat.comm),
        state: ThreadState::from_letter(stat.state),
        syscall: call.map(|call| Syscall(call.number)),
        arg: call.map(|call| call.first),
        wchan: proc::wchan(folder).map(|name| harmless(&name)),
        cpu_permille: None,
        main,
    };
    Some((Reading::from(folder, tid, &stat), thread))
}

/// The share of one CPU, in thousandths. `None` if the two are not of one thread or not of one kind.
fn permille(first: Reading, last: Reading, window: Duration) -> Option<u32> {
    let same = (first.tid, first.started_ns, first.exact) == (last.tid, last.started_ns, last.exact);
    let used = last.cpu_ns.checked_sub(first.cpu_ns).filter(|_| same)?;
    let share = u128::from(used) * 1000 / u128::from(nanos(window)).max(1);
    // A tick that falls into the window can be longer than the window.
    u32::try_from(share.min(1000)).ok()
}

/// What runs a process: by the name of its program, by what the Go linker wrote into it, by a library that it has.
fn runtime(folder: &Path, exe: Option<&str>, stuck: bool, unseen: &mut Vec<String>) -> Option<Runtime> {
    let exe = exe?;
    let name = exe.strip_suffix(" (deleted)").unwrap_or(exe).rsplit('/').next()?;
    if let Some(runtime) = by_name(name) {
        return Some(runtime);
    }
    if proc::is_go(folder).unwrap_or(false) {
        return Some(Runtime::Go);
    }
    if stuck {
        unseen.push("its libraries were not looked at: a thread waits without a way to be interrupted".to_owned());
        return None;
    }
    let names = LIBRARIES.map(|(name, _)| name);
    let library = seen("its libraries", proc::mapped(folder, &names), unseen).flatten()?;
    LIBRARIES.iter().find(|(name, _)| *name == library).map(|(_, runtime)| *runtime)
}

/// By the name of the program, a version behind it or not: `python3.12`, `php-fpm8.2`.
fn by_name(name: &str) -> Option<Runtime> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || ".-".contains(c));
    Some(match stem {
        "java" => Runtime::Jvm,
        "node" | "nodejs" => Runtime::Node,
        "python" => Runtime::CPython,
        "dotnet" => Runtime::DotNet,
        "ruby" => Runtime::Ruby,
        "php" | "php-fpm" | "php-cgi" => Runtime::Php,
        "nginx" => Runtime::Nginx,
        "haproxy" => Runtime::HaProxy,
        "envoy" => Runtime::Envoy,
        "postgres" => Runtime::Postgres,
        "beam.smp" | "beam" => Runtime::Beam,
        "perl" => Runtime::Perl,
        _ => return None,
    })
}

/// What was read; why not goes to `unseen`.
fn seen<T>(what: &str, read: io::Result<T>, unseen: &mut Vec<String>) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(error) => {
            let cure = if error.kind() == io::ErrorKind::PermissionDenied {
                "; grant CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
            } else {
                ""
            };
            unseen.push(format!("{what} cannot be read: {error}{cure}"));
            None
        }
    }
}

/// Where sockets are that no descriptor refers to, by their inodes; those of which that is not seen are left out. Takes
/// a look at every descriptor of every process.
pub fn places(inodes: &[u64]) -> Vec<(u64, Place)> {
    if inodes.is_empty() {
        return Vec::new();
    }
    let root = Path::new("/proc");
    let found = fdinfo::elsewhere(root, inodes);
    let task = |pid: u32| Some(Task { pid, comm: Comm::from_name(&proc::stat(&proc::folder(root, pid)).ok()?.comm) });
    let in_flight: Vec<Task> = found.in_flight.iter().copied().filter_map(task).collect();
    let mut places = BTreeMap::new();
    for inode in inodes {
        let place = match found.io_uring.get(inode) {
            Some(pid) => task(*pid).map(Place::IoUring),
            // Where it may as well be in an instance that does not name its files, nobody is blamed.
            None => (!found.nameless && !in_flight.is_empty()).then(|| Place::InFlight(in_flight.clone())),
        };
        if let Some(place) = place {
            places.insert(*inode, place);
        }
    }
    places.into_iter().collect()
}

#[cfg(test)]
mod tests;
