//! Identity of a process, and the state of its threads.

mod command_line;
mod image;
mod next_step;
mod runtime;
mod service;
mod syscall;
mod thread;

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};

pub use self::{
    command_line::{can_have_script, script},
    image::ProcessImage,
    next_step::{NextStep, Tool},
    runtime::ProgramRuntime,
    service::Service,
    syscall::{Architecture, Syscall, SyscallArgs, UnknownArchitecture, WaitKind, WaitLimit},
    thread::{Thread, ThreadGroup, ThreadState, group},
};
use super::{
    stacks::ProcessStacks,
    text::{Comm, harmless_field},
    time::BootTime,
    workload::Workload,
};

/// Minimum CPU use, in thousandths of one CPU, at which a busy thread gets the CPU time that it wants.
const ALL_PERMILLE: u32 = 900;
/// Maximum number of statements in the description of a process's activity.
const MAX_STATEMENTS: usize = 2;

/// Process at the time of its inspection. An unknown fact is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// PID in the agent's pid namespace.
    pub pid: u32,
    /// Name of the first thread.
    pub comm: Comm,
    /// Start time, nanoseconds since boot on `CLOCK_BOOTTIME`, to the tick of 10 ms (`do_task_stat`, fs/proc/array.c at
    /// v5.10).
    pub started_ns: Option<u64>,
    /// Number of the program that it runs; `None` if the agent did not read it. See [`ProcessImage`].
    #[serde(default)]
    pub exec_id: Option<u64>,
    /// PID of the parent; `None` also if the parent is in another pid namespace.
    pub parent: Option<u32>,
    /// Path of the program file, with ` (deleted)` behind it if the file no longer exists.
    #[serde(default, deserialize_with = "harmless_field")]
    pub exe: Option<String>,
    /// Runtime of the program, if it is a known one.
    pub runtime: Option<ProgramRuntime>,
    /// Version of the runtime, in the runtime's own format; `None` if the agent did not read it.
    #[serde(default, deserialize_with = "harmless_field")]
    pub runtime_version: Option<String>,
    /// Telling word of the command line, such as the script of an interpreter: [`script`]; `None` if there is none or the agent
    /// did not read it. Nothing else of the command line is stored.
    #[serde(default, deserialize_with = "harmless_field")]
    pub script: Option<String>,
    /// Signals that the process catches: bit 0 is signal 1.
    #[serde(default)]
    pub signals_caught: Option<u64>,
    /// Tools that exist on the host. The engine adds them to each process that it stores.
    #[serde(skip)]
    pub tools: Option<BTreeSet<Tool>>,
    /// Tools that the agent searched for and did not find. The engine adds them to each process that it stores.
    #[serde(skip)]
    pub missing_tools: BTreeSet<Tool>,
    /// Stacks of its threads, if they were read in the last two minutes. The engine adds them to each process that it stores.
    #[serde(skip)]
    pub stacks: Option<Arc<ProcessStacks>>,
    /// Number of open descriptors.
    pub fds_open: Option<u64>,
    /// Limit of open descriptors: the soft limit of `RLIMIT_NOFILE`.
    pub fds_limit: Option<u64>,
    /// Number of threads.
    pub threads: Option<u32>,
    /// Unit, container or pod of the cgroup.
    pub workload: Option<Box<Workload>>,
    /// Number of inspected threads.
    pub threads_seen: u32,
    /// Inspected threads, grouped by activity; the largest group comes first.
    pub groups: Vec<ThreadGroup>,
    /// CPU use of the inspected threads, in thousandths of one CPU.
    pub cpu_permille: Option<u32>,
    /// Whether `cgroup.freeze` or the freezer of cgroup v1 has frozen the cgroup; `None` if the agent did not read it.
    #[serde(default)]
    pub frozen: Option<bool>,
    /// Path of the file that freezes the cgroup: `cgroup.freeze`, or `freezer.state` of cgroup v1; `None` if it is unknown or the
    /// cgroup is not frozen.
    #[serde(default, deserialize_with = "harmless_field")]
    pub frozen_by: Option<String>,
    /// Whether its network namespace is another than the agent's, in which users run commands; `None` if the agent did not read it.
    #[serde(default)]
    pub other_netns: Option<bool>,
    /// Facts that the agent could not read, each a sentence with the reason.
    #[serde(deserialize_with = "harmless_field")]
    pub unseen: Vec<String>,
}

impl Process {
    /// Returns a process of which only the pid and the name are known.
    pub fn unread(pid: u32, comm: Comm) -> Self {
        Self {
            pid,
            comm,
            started_ns: None,
            exec_id: None,
            parent: None,
            exe: None,
            runtime: None,
            runtime_version: None,
            script: None,
            signals_caught: None,
            tools: None,
            missing_tools: BTreeSet::new(),
            stacks: None,
            fds_open: None,
            fds_limit: None,
            threads: None,
            workload: None,
            threads_seen: 0,
            groups: Vec::new(),
            cpu_permille: None,
            frozen: None,
            frozen_by: None,
            other_netns: None,
            unseen: Vec::new(),
        }
    }

    /// Whether its threads were not read, as happens if a read of the process did not answer in time.
    pub(crate) const fn lacks_threads(&self) -> bool {
        self.threads_seen == 0
    }

    /// Describes the activity of the threads with the two most important statements; `None` if it is unknown.
    pub fn activity(&self) -> Option<String> {
        self.activity_beside(None, BootTime(0))
    }

    /// Describes the activity of the threads at `now`, whose stacks are known.
    pub fn activity_beside(&self, stacks: Option<&ProcessStacks>, now: BootTime) -> Option<String> {
        if self.frozen == Some(true) {
            return Some("its cgroup is frozen".to_owned());
        }
        if self.is_stopped() {
            return Some("it is stopped, by a signal or a debugger".to_owned());
        }
        let at_line = stacks.and_then(|stacks| Some(stacks.headline()? + &stacks.as_of(now)));
        let waits = || [self.event_loop(), self.most_threads()].into_iter().flatten();
        // A line of the program says more than the system call that its threads wait in.
        let waits: Vec<String> = if at_line.is_some() { at_line.into_iter().collect() } else { waits().collect() };
        let parts = [self.some_stopped(), self.busy(), self.stuck_in_kernel()].into_iter().flatten().chain(waits);
        let parts: Vec<String> = parts.take(MAX_STATEMENTS).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// Returns the CPU use of the busiest thread, in thousandths of one CPU, if that thread was running or ready to run nearly
    /// all of the time. A thread that is ready but gets less CPU time loses it to other threads or to a limit of its cgroup. If
    /// one thread serves all connections, only that thread counts.
    pub fn busy_thread(&self) -> Option<u32> {
        let shares = |group: &ThreadGroup| {
            if self.is_event_loop_runtime() {
                (group.main_permille, group.main_wanted_permille)
            } else {
                (group.busiest_permille, group.busiest_wanted_permille)
            }
        };
        let busy = |group: &ThreadGroup| {
            let (used, wanted) = shares(group);
            used.filter(|_| thread::is_busy(used, wanted))
        };
        self.groups.iter().filter_map(busy).max()
    }

    /// Returns the activity that could explain why the process does not close its sockets.
    pub fn occupation(&self) -> Occupation {
        if self.frozen == Some(true) || self.is_stopped() {
            return Occupation::Halted;
        }
        if self.busy_thread().is_some() {
            return Occupation::Busy;
        }
        // The first thread may only wait for the others, as in a JVM; then the others count.
        let main = self.groups.iter().find(|group| group.has_main).map_or(Occupation::Unknown, occupation_of);
        let in_kernel = self.groups.iter().any(|group| group.state == ThreadState::DiskSleep);
        main.max(if in_kernel { Occupation::Blocked } else { Occupation::Unknown })
    }

    /// Whether a signal or a debugger has stopped all inspected threads. Threads that have ended do not count.
    pub fn is_stopped(&self) -> bool {
        let stopped = self.in_state(ThreadState::Stopped);
        stopped > 0 && stopped + self.in_state(ThreadState::Zombie) == self.threads_seen
    }

    /// Returns the number of open descriptors and its limit. `None` also if the limit is far less: the process lowered it later, as the
    /// sandbox of sshd does. It is a little less if the process has inherited descriptors above it.
    pub fn descriptors(&self) -> Option<(u64, u64)> {
        let fits = |open: u64, limit: u64| limit > 0 && open <= limit.saturating_add(limit / 8);
        self.fds_open.zip(self.fds_limit).filter(|(open, limit)| fits(*open, *limit))
    }

    /// Whether the first thread does all work on the sockets of the process.
    pub fn is_event_loop_runtime(&self) -> bool {
        match self.runtime {
            Some(
                ProgramRuntime::Node
                | ProgramRuntime::Nginx
                | ProgramRuntime::Redis
                | ProgramRuntime::PgBouncer
                | ProgramRuntime::Squid
                | ProgramRuntime::Lighttpd,
            ) => true,
            // Each thread has an event loop.
            Some(ProgramRuntime::HaProxy) => self.threads == Some(1),
            Some(
                ProgramRuntime::Jvm
                | ProgramRuntime::Go
                | ProgramRuntime::CPython
                | ProgramRuntime::DotNet
                | ProgramRuntime::Ruby
                | ProgramRuntime::Php
                | ProgramRuntime::Envoy
                | ProgramRuntime::Postgres
                | ProgramRuntime::Beam
                | ProgramRuntime::Perl
                | ProgramRuntime::MySql
                | ProgramRuntime::Memcached
                | ProgramRuntime::Apache
                | ProgramRuntime::Varnish
                | ProgramRuntime::Inetd,
            )
            | None => false,
        }
    }

    fn some_stopped(&self) -> Option<String> {
        let count = self.in_state(ThreadState::Stopped);
        let are = || self.threads_are(count, "is", "are");
        (count > 0).then(|| format!("{} stopped, by a signal or a debugger", are()))
    }

    /// Returns the number of inspected threads in this state.
    fn in_state(&self, state: ThreadState) -> u32 {
        self.groups.iter().filter(|group| group.state == state).map(|group| group.count).sum()
    }

    fn busy(&self) -> Option<String> {
        let share = self.busy_thread()?.min(1000);
        let percent = share / 10;
        let who = if self.is_event_loop_runtime() { "the thread of its event loop" } else { "a thread" };
        Some(if share >= ALL_PERMILLE {
            format!("{who} runs at {percent} % of a CPU")
        } else {
            format!("{who} is always ready to run but gets only {percent} % of a CPU")
        })
    }

    fn stuck_in_kernel(&self) -> Option<String> {
        let group = self.groups.iter().find(|group| group.state == ThreadState::DiskSleep)?;
        let threads = self.threads_are(group.count, "waits", "wait");
        let place = group.place().map(|place| format!(" in {place}")).unwrap_or_default();
        Some(format!("{threads} uninterruptibly{place}"))
    }

    fn event_loop(&self) -> Option<String> {
        let group = self.groups.iter().find(|group| group.has_main && group.state == ThreadState::Sleeping)?;
        let polls = group.syscall.is_some_and(Syscall::waits_for_many);
        if self.is_event_loop_runtime() {
            return Some(format!("its event loop waits in {}", group.place()?));
        }
        if polls && self.threads == Some(1) {
            Some(format!("its only thread waits in {}", group.place()?))
        } else {
            None
        }
    }

    /// Describes the wait of more than half of the threads.
    fn most_threads(&self) -> Option<String> {
        let group = self.groups.first().filter(|group| group.count * 2 > self.threads_seen)?;
        // The statement about the event loop already covers this thread.
        let covered = group.count == 1 && self.event_loop().is_some();
        if covered || group.state != ThreadState::Sleeping {
            return None;
        }
        let same = match (group.count, group.same()) {
            (2.., Some(what)) => format!(" on the same {what}"),
            _ => group.own().map(|what| format!(", each on its own {what}")).unwrap_or_default(),
        };
        Some(format!("{} in {}{same}", self.threads_are(group.count, "waits", "wait"), group.place()?))
    }

    /// Formats a number of threads with a verb: `its only thread is`, `1 of 4 threads is`, `184 of 200 threads are`.
    fn threads_are(&self, count: u32, one: &str, many: &str) -> String {
        let verb = if count == 1 { one } else { many };
        match self.threads {
            Some(1) => format!("its only thread {verb}"),
            Some(all) if all > self.threads_seen => {
                format!("{count} of {} inspected threads {verb}", self.threads_seen)
            }
            Some(_) | None => format!("{count} of {} threads {verb}", self.threads_seen),
        }
    }
}

/// Activity of a process that could explain why it does not close its sockets. A greater value explains more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Occupation {
    /// The activity is unknown.
    Unknown,
    /// The first thread waits for an event, a connection, a child process or a signal, like the first process of a server whose
    /// other processes do the work.
    Idle,
    /// The first thread sleeps, or waits for something else.
    Waits,
    /// The first thread waits for a lock or for one descriptor, or a thread waits uninterruptibly.
    Blocked,
    /// A thread uses, or is ready to use, nearly all of a CPU.
    Busy,
    /// The process is stopped or frozen.
    Halted,
}

fn occupation_of(group: &ThreadGroup) -> Occupation {
    match group.wait() {
        Some(WaitKind::Events | WaitKind::Accept | WaitKind::Child | WaitKind::Signal) => Occupation::Idle,
        Some(WaitKind::Event | WaitKind::Sleep | WaitKind::Connect | WaitKind::Other) => Occupation::Waits,
        Some(_) if group.limit == Some(WaitLimit::Limited) => Occupation::Waits,
        Some(WaitKind::Lock | WaitKind::Read(_) | WaitKind::Write | WaitKind::FileLock | WaitKind::Open) => {
            Occupation::Blocked
        }
        None => Occupation::Unknown,
    }
}

#[cfg(test)]
mod tests;
