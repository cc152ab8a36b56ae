//! Processes whose stacks are read, which nothing stops, signals, wakes or changes.

use std::{
    ffi::{CString, c_int},
    fs, io,
    net::TcpStream,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use crate::{
    ability,
    agent::{Agent, Running, closewait, finish},
    clock::{patience, poll_until},
    footprint::{Footprint, disturbed, forget_writes, written_pages},
    net::{Id, Namespace, V4},
    unresponsive::hand_over,
};

/// Number of agents, one after another: each reads a process about once a minute.
const AGENTS: usize = 3;
/// Number of readings of each process by `closewait stacks` while an agent runs.
const READINGS: usize = 10;
/// Time in which a process must not change before it counts as blocked.
const QUIET: Duration = Duration::from_secs(1);

/// Program that writes a byte for each signal to the file of its first argument, and whose two threads wait for ever.
const PYTHON: &str = r"
import os, signal, sys, threading
signals = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
signal.set_wakeup_fd(signals)
for one in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(one, lambda number, frame: None)
lock = threading.Lock()
lock.acquire()
def reserve():
    lock.acquire()
threading.Thread(target=reserve).start()
reserve()
";
/// The same with goroutines, and a thread that never runs. The runtime's own threads run now and then.
const GO: &str = r#"
package main

import ("os"; "os/signal"; "runtime"; "sync"; "syscall")

var lock sync.Mutex

func reserve() { lock.Lock() }

func main() {
	file, _ := os.OpenFile(os.Args[1], os.O_WRONLY|os.O_APPEND, 0)
	signals := make(chan os.Signal, 1000)
	signal.Notify(signals)
	lock.Lock()
	for i := 0; i < 4; i++ {
		go reserve()
	}
	go func() {
		for range signals {
			file.Write([]byte("s"))
		}
	}()
	runtime.LockOSThread()
	for {
		syscall.Pause()
	}
}
"#;

/// Process with a socket in CLOSE_WAIT that waits for ever.
struct Target {
    name: &'static str,
    pid: u32,
    id: Id,
    /// Text that its stacks contain.
    shown: &'static str,
    /// Whether all its threads wait for ever; otherwise only the main thread does.
    is_all_blocked: bool,
    /// File with a byte for each received signal.
    signals: PathBuf,
    _process: OwnProcess,
    /// Open client, so that the socket exits only by its owner.
    _client: TcpStream,
}

/// Keeps a process until the end of the test.
enum OwnProcess {
    Started { _running: Running },
    Forked(libc::pid_t),
}

impl Drop for OwnProcess {
    fn drop(&mut self) {
        let Self::Forked(pid) = self else { return };
        // SAFETY: takes numbers only; the child has not been waited for, so the number is still its own.
        unsafe { libc::kill(*pid, libc::SIGKILL) };
        // SAFETY: takes numbers, and no place for a status.
        unsafe { libc::waitpid(*pid, std::ptr::null_mut(), 0) };
    }
}

/// File of the process that [`Target::of_machine_code`] forks.
static SIGNALS: AtomicI32 = AtomicI32::new(-1);

extern "C" fn count_signal(_signal: c_int) {
    // SAFETY: one byte of a text that lives as long as the program; write is safe in a signal handler (signal-safety(7)).
    unsafe { libc::write(SIGNALS.load(Ordering::Relaxed), c"s".as_ptr().cast(), 1) };
}

/// Counts all signals that can be caught, and waits for ever.
fn wait_forever(signals: &CString) -> ! {
    // SAFETY: a text that ends in a zero and outlives the call.
    SIGNALS.store(unsafe { libc::open(signals.as_ptr(), libc::O_WRONLY | libc::O_APPEND) }, Ordering::Relaxed);
    for signal in 1..=64 {
        // Fails for those that cannot be caught.
        // SAFETY: the handler makes only a system call.
        unsafe { libc::signal(signal, count_signal as *const () as libc::sighandler_t) };
    }
    loop {
        // SAFETY: takes nothing.
        unsafe { libc::pause() };
    }
}

impl Target {
    /// Forks this program: a kernel without any other can run this test.
    fn of_machine_code(ns: &Namespace, folder: &Path) -> Self {
        let signals = counter(folder, "code");
        let path = CString::new(signals.as_os_str().as_bytes()).expect("no zero in a path");
        let pair = ns.pair(V4);
        // SAFETY: the child makes only system calls.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            wait_forever(&path);
        }
        assert!(pid > 0, "fork: {}", io::Error::last_os_error());
        let process = OwnProcess::Forked(pid);
        drop(pair.server);
        pair.client.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let pid = pid.unsigned_abs();
        let (id, client) = (pair.id, pair.client);
        let (name, shown) = ("machine code", "wait_forever");
        Self { name, pid, id, shown, is_all_blocked: true, signals, _process: process, _client: client }
    }

    fn started(
        name: &'static str,
        shown: &'static str,
        ns: &Namespace,
        mut command: Command,
        signals: PathBuf,
    ) -> Self {
        command.arg(&signals);
        let (running, handed) = hand_over(command, ns.pair(V4));
        handed.fin();
        let (pid, id, client) = (running.pid(), handed.id.clone(), handed.into_client());
        let process = OwnProcess::Started { _running: running };
        Self { name, pid, id, shown, is_all_blocked: name != "Go", signals, _process: process, _client: client }
    }

    fn of_python(ns: &Namespace, folder: &Path) -> Option<Self> {
        let mut command = Command::new("python3");
        let has = command.arg("--version").output().is_ok_and(|output| output.status.success());
        ability::tell_whether("start a program of CPython", has);
        let mut command = Command::new("python3");
        command.args(["-c", PYTHON]);
        has.then(|| Self::started("CPython", "reserve", ns, command, counter(folder, "python")))
    }

    fn of_go(ns: &Namespace, folder: &Path) -> Option<Self> {
        let (source, program) = (folder.join("blocked.go"), folder.join("blocked"));
        fs::write(&source, GO).expect("a source");
        let mut build = Command::new("go");
        build.arg("build").arg("-o").arg(&program).arg(&source).env("GOTOOLCHAIN", "local").env("GOPROXY", "off");
        let built = build.output();
        ability::tell_whether("start a program of Go", built.is_ok());
        let built = built.ok()?;
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut command = Command::new(program);
        // Without these, the runtime signals its own threads, and runs for collections.
        command.env("GODEBUG", "asyncpreemptoff=1").env("GOGC", "off");
        Some(Self::started("Go", "main.reserve", ns, command, counter(folder, "go")))
    }

    fn threads(&self) -> Vec<u32> {
        if !self.is_all_blocked {
            return vec![self.pid];
        }
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).expect("threads");
        threads
            .map(|entry| entry.expect("a thread").file_name().to_str().and_then(|tid| tid.parse().ok()).expect("a tid"))
            .collect()
    }

    fn footprint(&self) -> Footprint {
        Footprint::read(self.pid, &self.threads(), &self.signals)
    }

    /// Waits until it catches all signals, and nothing of it changes any more.
    fn settled(&self) -> Footprint {
        let mut last = self.footprint();
        let is_settled = || {
            thread::sleep(QUIET);
            let before = std::mem::replace(&mut last, self.footprint());
            before == last && last.catches_all()
        };
        assert!(poll_until(patience(), is_settled), "{}: it does not settle: {:#?}", self.name, self.footprint());
        last
    }

    /// Reads its stacks as a user does.
    fn read_stacks(&self) {
        let finished = finish(&mut closewait(&["stacks", &self.pid.to_string(), "--output", "json"]));
        assert_eq!(finished.code, Some(0), "{}: {finished:?}", self.name);
        assert!(finished.stdout.contains(self.shown), "{}: {}", self.name, finished.stdout);
    }

    /// Sends a signal to its main thread, which waits for ever.
    fn signal(&self) {
        let pid = self.pid.cast_signed();
        // SAFETY: takes numbers only.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGUSR1) };
        assert_eq!(sent, 0, "tgkill: {}", io::Error::last_os_error());
    }
}

/// Creates the file in which a process counts its signals.
fn counter(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(format!("{name}.signals"));
    fs::write(&path, "").expect("a file");
    path
}

/// Forbids huge pages to this process and to those that it starts: khugepaged marks the pages that it joins as written
/// (`collapse_huge_page`, mm/khugepaged.c at v6.18).
fn forbid_huge_pages() {
    // SAFETY: takes numbers only.
    let set = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    assert_eq!(set, 0, "prctl: {}", io::Error::last_os_error());
}

/// Folder that is removed with its content.
struct OwnFolder(PathBuf);

impl Drop for OwnFolder {
    fn drop(&mut self) {
        // If this fails, the files stay in the folder for temporary files, which is harmless.
        let _left = fs::remove_dir_all(&self.0);
    }
}

/// Runs an agent until it has read the stacks of all processes, and `closewait stacks` beside it.
fn read_all(targets: &[Target], folder: &Path) {
    let socket = folder.join("agent.sock");
    let socket = socket.to_str().expect("UTF-8");
    let mut agent = Agent::start(&["--stuck-after", "300ms", "--stacks", "auto", "--socket", socket]);
    for target in targets {
        agent.wait_for_socket("stuck", &target.id);
        (0..READINGS).for_each(|_| target.read_stacks());
    }
    for Target { name, pid, shown, .. } in targets {
        let report =
            || finish(&mut closewait(&["report", "--pid", &pid.to_string(), "--output", "json", "--socket", socket]));
        // The first inspection may have no time for a process.
        let has_read = || report().stdout.contains(shown);
        assert!(poll_until(patience(), has_read), "{name}: the agent has not read {shown}: {:?}", report());
    }
    agent.stop().totals();
}

#[test]
fn no_reader_of_stacks_stops_signals_wakes_or_changes_a_process() {
    forbid_huge_pages();
    let folder = OwnFolder(std::env::temp_dir().join(format!("closewait-untouched-{}", process::id())));
    fs::create_dir(&folder.0).expect("a folder");
    let ns = Namespace::new();
    let mut targets = vec![Target::of_machine_code(&ns, &folder.0)];
    targets.extend(Target::of_python(&ns, &folder.0));
    targets.extend(Target::of_go(&ns, &folder.0));
    let before: Vec<Footprint> = targets.iter().map(Target::settled).collect();
    let sees_writes: Vec<bool> = targets.iter().map(|target| forget_writes(target.pid)).collect();
    ability::tell_whether("see writes to memory (soft-dirty)", sees_writes.iter().all(|sees| *sees));
    // The runtime of Go writes now and then.
    let written =
        || targets.iter().filter(|target| target.is_all_blocked).map(|target| written_pages(target.pid)).sum::<usize>();
    assert_eq!(written(), 0, "before the readings");

    let (is_over, samples) = (AtomicBool::new(false), AtomicU64::new(0));
    let watch = || {
        let mut seen = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            seen.extend(targets.iter().flat_map(|target| disturbed(target.pid)));
            samples.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_micros(500));
        }
        seen
    };
    let seen = thread::scope(|scope| {
        let watcher = scope.spawn(watch);
        let read = std::panic::catch_unwind(|| (0..AGENTS).for_each(|_| read_all(&targets, &folder.0)));
        is_over.store(true, Ordering::Relaxed);
        let seen = watcher.join().expect("the watcher");
        read.unwrap_or_else(|cause| std::panic::resume_unwind(cause));
        seen
    });
    let samples = samples.into_inner();
    ability::tell("samples of processes whose stacks are read", &samples.to_string());
    assert!(samples > 100, "only {samples} samples");
    assert!(seen.is_empty(), "stopped, traced or signaled: {seen:#?}");
    for (target, before) in targets.iter().zip(&before) {
        let after = target.footprint();
        assert_eq!(after.received, 0, "{} has received signals", target.name);
        // The runtime of Go works with its own memory.
        let after = if target.is_all_blocked { after } else { after.with_memory_of(before) };
        assert_eq!(&after, before, "{}", target.name);
    }
    assert_eq!(written(), 0, "pages were written");

    // All of this sees a signal.
    for (target, (before, sees_writes)) in targets.iter().zip(before.iter().zip(sees_writes)) {
        target.signal();
        let is_seen = || target.footprint().received == 1 && target.footprint().switches() != before.switches();
        assert!(poll_until(patience(), is_seen), "{}: {:?}", target.name, target.footprint());
        assert!(!sees_writes || written_pages(target.pid) > 0, "{}: a handler writes to its stack", target.name);
    }
}
