//! Reads of waiting threads, and of busy, stopped or frozen processes.

use std::{
    fs,
    mem::MaybeUninit,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use closewait::{clock, source::processes::Sampling};
use closewait_engine::{
    process::{Occupation, Process, ThreadGroup, WaitKind, WaitLimit},
    text::Comm,
};
use rustix::{
    event::epoll,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use crate::{
    ability::{Ability, can},
    agent::{Running, finish},
    clock::{patience, poll_until},
    memory::unified,
};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(1000);

fn until(what: &str, done: impl FnMut() -> bool) {
    assert!(poll_until(patience(), done), "{what}");
}

fn inspect(pid: u32) -> Process {
    let sampling = Sampling::begin(&[pid], clock::now());
    thread::sleep(Duration::from_millis(50));
    sampling.finish(clock::now()).pop().expect("a process")
}

/// Returns what the thread of this process with this name waits for.
fn wait(name: &str) -> Option<(WaitKind, Option<WaitLimit>)> {
    let process = inspect(process::id());
    let is_one = |group: &&ThreadGroup| group.comms.contains(&Comm::from_name(name.as_bytes()));
    let group = process.groups.iter().find(is_one)?;
    Some((group.wait()?, group.limit))
}

fn spawn(name: &str, wait: impl FnOnce() + Send + 'static) {
    thread::Builder::new().name(name.to_owned()).spawn(wait).expect("a thread");
}

#[test]
fn waits_have_a_kind_and_a_limit() {
    let locked = Arc::new(Mutex::new(()));
    let held = locked.lock().expect("a lock");
    let lock = Arc::clone(&locked);
    spawn("for a lock", move || drop(lock.lock()));
    let late = Arc::new((Mutex::new(()), Condvar::new()));
    let other = Arc::clone(&late);
    spawn("for a while", move || {
        let (lock, condition) = &*other;
        drop(condition.wait_timeout(lock.lock().expect("a lock"), LONG));
    });
    let (ours, theirs) = UnixStream::pair().expect("socketpair");
    spawn("for events", move || {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll_create1");
        epoll::add(&epoll, &theirs, epoll::EventData::new_u64(0), epoll::EventFlags::IN).expect("epoll_ctl");
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 1];
        drop(epoll::wait(&epoll, &mut events, None));
    });
    spawn("for a time", || thread::sleep(Duration::from_secs(20)));
    for (name, kind, limit) in [
        ("for a lock", WaitKind::Lock, WaitLimit::Unlimited),
        ("for a while", WaitKind::Lock, WaitLimit::Limited),
        ("for events", WaitKind::Events, WaitLimit::Unlimited),
        ("for a time", WaitKind::Sleep, WaitLimit::Limited),
    ] {
        until(name, || wait(name) == Some((kind, Some(limit))));
    }
    drop((held, ours));
    late.1.notify_all();
}

#[test]
fn a_stopped_process_waits_for_nothing_but_to_continue() {
    let child = Running::spawn(Command::new("sleep").arg("1000"));
    let pid = child.pid();
    let only = |process: &Process| (process.groups[0].wait(), process.groups[0].limit);
    let sleeps = (Some(WaitKind::Sleep), Some(WaitLimit::Limited));
    until("it sleeps", || only(&inspect(pid)) == sleeps);
    signal(pid, libc::SIGSTOP);
    until("it is stopped", || inspect(pid).is_stopped());
    let stopped = inspect(pid);
    assert_eq!(only(&stopped), (None, None), "{stopped:?}");
    assert_eq!(stopped.activity().as_deref(), Some("it is stopped, by a signal or a debugger"));
    assert_eq!(stopped.occupation(), Occupation::Halted);
    let command = stopped.next_step(None).command.expect("a command");
    assert_eq!(command, format!("kill -CONT {pid}"));
    assert_eq!(finish(Command::new("sh").args(["-c", &command])).code, Some(0));
    // The kernel restarts the call, whose number and arguments are gone then.
    let restarted = if can(Ability::WaitChannels) { sleeps } else { (Some(WaitKind::Other), None) };
    until("it sleeps again", || only(&inspect(pid)) == restarted);
}

#[test]
fn a_frozen_process_is_reported_and_thawed_by_the_next_step() {
    let (top, mount) = unified();
    is_frozen_in(&top, ("cgroup.freeze", "1", "0"));
    mount.iter().for_each(|mount| crate::setup::unmount(mount));
    let v1 = Path::new("/sys/fs/cgroup/freezer");
    if v1.join("cgroup.procs").exists() {
        is_frozen_in(v1, ("freezer.state", "FROZEN", "THAWED"));
    }
}

/// Freezes a process by the cgroup above its own.
fn is_frozen_in(top: &Path, (file, freeze, thaw): (&str, &str, &str)) {
    let child = Running::spawn(Command::new("sleep").arg("1000"));
    let outer = top.join(format!("closewait frozen-{}", process::id()));
    let cgroup = FrozenCgroup { inner: outer.join("inner"), file: outer.join(file), thaw: thaw.to_owned() };
    fs::create_dir_all(&cgroup.inner).expect("two cgroups");
    fs::write(cgroup.inner.join("cgroup.procs"), child.pid().to_string()).expect("moving a process");
    assert_eq!(inspect(child.pid()).frozen, Some(false));
    fs::write(&cgroup.file, freeze).expect("freezing a cgroup");
    until("it is frozen", || inspect(child.pid()).frozen == Some(true));
    let frozen = inspect(child.pid());
    assert_eq!(frozen.activity().as_deref(), Some("its cgroup is frozen"));
    let by = frozen.frozen_by.as_deref().expect("a file");
    assert!(by.ends_with(&format!("/closewait frozen-{}/{file}", process::id())), "{by}");
    let command = frozen.next_step(None).command.expect("a command");
    assert_eq!(command, format!("echo {thaw} > '{by}'"));
    assert_eq!(finish(Command::new("sh").args(["-c", &command])).code, Some(0));
    until("it is thawed", || inspect(child.pid()).frozen == Some(false));
    drop(child);
}

/// Cgroups of a test, thawed and removed with it: a frozen process of cgroup v1 does not end.
struct FrozenCgroup {
    inner: PathBuf,
    file: PathBuf,
    thaw: String,
}

impl Drop for FrozenCgroup {
    fn drop(&mut self) {
        let _thawed: std::io::Result<()> = fs::write(&self.file, &self.thaw);
        let empty = || fs::read_to_string(self.inner.join("cgroup.procs")).is_ok_and(|pids| pids.is_empty());
        // A process that a failed test left inside keeps them.
        for _ in 0..100 {
            if empty() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        for folder in [Some(&*self.inner), self.inner.parent()].into_iter().flatten() {
            let _busy: std::io::Result<()> = fs::remove_dir(folder);
        }
    }
}

#[test]
fn a_process_that_shares_its_processor_is_busy() {
    let spinning: Vec<Running> = thread::spawn(|| {
        // Children inherit it.
        let allowed = sched_getaffinity(None).expect("sched_getaffinity");
        let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).expect("a processor");
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(None, &one).expect("sched_setaffinity");
        // It ends after ten minutes of CPU time, also if this test is killed.
        let spin = || Running::spawn(Command::new("sh").args(["-c", "ulimit -t 600; while :; do :; done"]));
        vec![spin(), spin(), spin()]
    })
    .join()
    .expect("three processes");
    // One may get the CPU for all of a short time.
    until("one gets a part of what it wants", || {
        spinning.iter().any(|child| {
            let process = inspect(child.pid());
            let told = process.activity().unwrap_or_default();
            process.busy_thread().is_some_and(|share| share < 900)
                && told.starts_with("a thread is always ready to run but gets only ")
        })
    });
}

fn signal(pid: u32, signal: libc::c_int) {
    // SAFETY: takes numbers only; the process is our child, which was not waited for.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}
