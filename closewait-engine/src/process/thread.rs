//! State of threads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::syscall::{Awaited, Syscall, WaitKind, WaitLimit};
use crate::text::Comm;

/// Maximum number of thread names that a group stores.
const NAMES: usize = 3;
/// Minimum share of the time, in thousandths, in which a busy thread uses a CPU or is ready to run.
const BUSY_PERMILLE: u32 = 900;
/// Minimum share of the time, in thousandths, in which a busy thread uses a CPU.
const MIN_USED_PERMILLE: u32 = 20;

/// State of a thread in the scheduler (`task_state_array`, fs/proc/array.c at v5.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ThreadState {
    /// `R`: the thread runs or is ready to run.
    Running,
    /// `S`, or `I` for a kernel thread: the thread waits, and a signal wakes it.
    Sleeping,
    /// `D`: the thread waits uninterruptibly.
    DiskSleep,
    /// `T`, `t`: a signal or a debugger has stopped the thread.
    Stopped,
    /// `Z`, `X`: the thread has ended.
    Zombie,
    /// Any other state.
    Other,
}

impl ThreadState {
    /// Converts the letter in `/proc/PID/stat`.
    pub fn from_letter(letter: u8) -> Self {
        match letter {
            b'R' => Self::Running,
            b'S' | b'I' => Self::Sleeping,
            b'D' => Self::DiskSleep,
            b'T' | b't' => Self::Stopped,
            b'Z' | b'X' | b'x' => Self::Zombie,
            _ => Self::Other,
        }
    }
}

/// Thread at the time of its inspection. An unknown fact is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Name of the thread.
    pub comm: Comm,
    /// State in the scheduler.
    pub state: ThreadState,
    /// System call in which the thread is; `None` also if it is in none.
    pub syscall: Option<Syscall>,
    /// Argument that says what the system call waits for: a futex's address, a descriptor, or of poll the number of descriptors.
    pub arg: Option<u64>,
    /// Longest possible wait in the call; `None` if unknown.
    #[serde(default)]
    pub limit: Option<WaitLimit>,
    /// Kernel function in which the thread waits.
    pub wchan: Option<String>,
    /// CPU use, in thousandths of one CPU.
    pub cpu_permille: Option<u32>,
    /// Share of the time in which the thread ran or was ready to run, in thousandths: its CPU use if it had a CPU of its own.
    #[serde(default)]
    pub wanted_permille: Option<u32>,
    /// Whether the thread is the first one of its process.
    pub main: bool,
}

/// Threads with the same state, system call and object of their wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadGroup {
    /// Number of threads.
    pub count: u32,
    /// State in the scheduler.
    pub state: ThreadState,
    /// System call in which the threads are; `None` also if they are in none.
    pub syscall: Option<Syscall>,
    /// Futex address or descriptor that all threads of the group wait for, or 1 if each waits in poll for one descriptor; `None`
    /// also if each waits for an address or a descriptor of its own.
    pub arg: Option<u64>,
    /// Longest possible wait in the call; `None` if unknown.
    #[serde(default)]
    pub limit: Option<WaitLimit>,
    /// Whether each thread waits for an address or a descriptor of its own, as the threads of a JVM do.
    pub own: bool,
    /// Kernel function in which the first thread of the group waits.
    pub wchan: Option<String>,
    /// Distinct names of the threads, at most 3.
    pub comms: Vec<Comm>,
    /// Highest CPU use of a thread, in thousandths of one CPU.
    pub busiest_permille: Option<u32>,
    /// CPU use of the process's first thread, in thousandths of one CPU, if it is in the group.
    pub main_permille: Option<u32>,
    /// Whether the process's first thread is in the group.
    pub has_main: bool,
    /// Largest share of the time in which a thread ran or was ready to run, in thousandths; `None` if it is unknown for all
    /// threads.
    #[serde(default)]
    pub busiest_wanted_permille: Option<u32>,
    /// Share of the time in which the process's first thread ran or was ready to run, in thousandths, if it is in the group.
    #[serde(default)]
    pub main_wanted_permille: Option<u32>,
}

impl ThreadGroup {
    /// Returns the place of the wait: a system call, otherwise a kernel function.
    pub fn place(&self) -> Option<String> {
        self.syscall.map(|call| call.to_string()).or_else(|| self.wchan.clone())
    }

    /// Returns the object of the wait; `None` if the threads do not wait, or it is unknown.
    pub fn wait(&self) -> Option<WaitKind> {
        match self.state {
            ThreadState::Sleeping | ThreadState::DiskSleep => {}
            ThreadState::Running | ThreadState::Stopped | ThreadState::Zombie | ThreadState::Other => return None,
        }
        match (self.syscall, self.wchan.as_deref()) {
            (Some(call), wchan) => Some(call.wait(self.arg, wchan)),
            (None, wchan) => WaitKind::in_function(wchan?),
        }
    }

    /// Names the object that all threads of the group wait for.
    pub(super) fn same(&self) -> Option<&'static str> {
        self.arg?;
        self.waited_for()
    }

    /// Names the kind of object of which each thread waits for its own.
    pub(super) fn own(&self) -> Option<&'static str> {
        self.waited_for().filter(|_| self.own)
    }

    fn waited_for(&self) -> Option<&'static str> {
        match self.syscall?.awaited() {
            Awaited::Descriptor => Some("descriptor"),
            Awaited::Address => Some("address"),
            Awaited::Number | Awaited::Own => None,
        }
    }
}

/// Whether a thread is busy: it used a CPU (`used`), or ran or was ready to run (`wanted`), for [`BUSY_PERMILLE`] thousandths of
/// the time. If `wanted` is unknown, a thread that shares its CPU does not count as busy. Nor does one that got less than
/// [`MIN_USED_PERMILLE`]: on a crowded host, a thread that has just woken up may wait for a CPU all of the measured time.
pub(super) fn is_busy(used: Option<u32>, wanted: Option<u32>) -> bool {
    used.is_some_and(|used| used.max(wanted.unwrap_or(0)) >= BUSY_PERMILLE && used >= MIN_USED_PERMILLE)
}

/// Groups threads by state, system call and object of their wait; the largest group comes first.
pub fn group(threads: &[Thread]) -> Vec<ThreadGroup> {
    let mut groups = BTreeMap::new();
    for thread in threads {
        let arg = thread.arg.filter(|arg| match thread.syscall.map(Syscall::awaited) {
            Some(Awaited::Descriptor | Awaited::Address) => true,
            // Greater numbers do not matter.
            Some(Awaited::Number) => *arg == 1,
            Some(Awaited::Own) | None => false,
        });
        // If the system call is known, the kernel function adds nothing.
        let wchan = thread.wchan.as_deref().filter(|_| thread.syscall.is_none());
        // Busy threads get groups of their own, so that a group does not combine the CPU use of one thread with the wait of
        // another.
        let busy = is_busy(thread.cpu_permille, thread.wanted_permille);
        let key = (thread.state, thread.syscall, arg, thread.limit, wchan, busy);
        let group = groups.entry(key).or_insert_with(|| ThreadGroup {
            count: 0,
            state: thread.state,
            syscall: thread.syscall,
            arg,
            limit: thread.limit,
            own: false,
            wchan: thread.wchan.clone(),
            comms: Vec::new(),
            busiest_permille: None,
            main_permille: None,
            has_main: false,
            busiest_wanted_permille: None,
            main_wanted_permille: None,
        });
        group.count += 1;
        group.busiest_permille = group.busiest_permille.max(thread.cpu_permille);
        group.busiest_wanted_permille = group.busiest_wanted_permille.max(thread.wanted_permille);
        if thread.main {
            (group.has_main, group.main_permille) = (true, thread.cpu_permille);
            group.main_wanted_permille = thread.wanted_permille;
        }
        if group.comms.len() < NAMES && !group.comms.contains(&thread.comm) {
            group.comms.push(thread.comm.clone());
        }
    }
    let mut groups = merge_single_threads(groups.into_values().collect());
    groups.sort_by_key(|group| u32::MAX - group.count);
    groups
}

/// Merges groups of one thread that differ only in the object of their wait. Otherwise a pool whose threads each wait for a futex
/// of their own would have a group for each thread.
fn merge_single_threads(groups: Vec<ThreadGroup>) -> Vec<ThreadGroup> {
    let (alone, mut groups): (Vec<_>, Vec<_>) =
        groups.into_iter().partition(|group| group.count == 1 && group.same().is_some());
    let mut together = BTreeMap::<_, ThreadGroup>::new();
    for one in alone {
        let Some(group) = together.get_mut(&(one.state, one.syscall, one.limit)) else {
            together.insert((one.state, one.syscall, one.limit), one);
            continue;
        };
        group.count += 1;
        (group.arg, group.own) = (None, true);
        group.busiest_permille = group.busiest_permille.max(one.busiest_permille);
        group.busiest_wanted_permille = group.busiest_wanted_permille.max(one.busiest_wanted_permille);
        if one.has_main {
            (group.has_main, group.main_permille) = (true, one.main_permille);
            group.main_wanted_permille = one.main_wanted_permille;
        }
        for comm in one.comms {
            if group.comms.len() < NAMES && !group.comms.contains(&comm) {
                group.comms.push(comm);
            }
        }
    }
    groups.extend(together.into_values());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Architecture;

    fn thread(name: u8, syscall: i32, arg: u64) -> Thread {
        Thread {
            comm: Comm::from_kernel(&[name; 16]),
            state: ThreadState::Sleeping,
            syscall: Some(Syscall::new(Architecture::X86_64, syscall)),
            arg: Some(arg),
            limit: None,
            wchan: Some("futex_wait_queue".to_owned()),
            cpu_permille: Some(u32::from(name)),
            wanted_permille: None,
            main: name == b'm',
        }
    }

    #[test]
    fn different_futexes_and_descriptors_are_different_groups() {
        let threads = [thread(b'a', 202, 1), thread(b'b', 202, 2), thread(b'm', 202, 2), thread(b'd', 0, 2)];
        let groups = group(&threads);
        assert_eq!(groups.iter().map(|group| group.count).collect::<Vec<_>>(), [2, 1, 1]);
        assert_eq!((groups[0].arg, groups[0].same(), groups[0].has_main), (Some(2), Some("address"), true));
        let of_m = Some(u32::from(b'm'));
        assert_eq!((groups[0].busiest_permille, groups[0].main_permille), (of_m, of_m));
    }

    #[test]
    fn threads_that_wait_for_a_futex_each_are_one_group() {
        let threads = [thread(b'a', 202, 1), thread(b'b', 202, 2), thread(b'm', 202, 3), thread(b'd', 0, 2)];
        let groups = group(&threads);
        assert_eq!(groups.iter().map(|group| group.count).collect::<Vec<_>>(), [3, 1]);
        assert_eq!((groups[0].arg, groups[0].same(), groups[0].own()), (None, None, Some("address")));
        assert_eq!((groups[0].has_main, groups[0].comms.len()), (true, 3));
        assert_eq!((groups[1].own(), groups[1].same()), (None, Some("descriptor")));
    }

    #[test]
    fn arguments_without_meaning_do_not_divide_groups() {
        let groups = group(&[thread(b'a', 23, 1), thread(b'b', 23, 2)]);
        assert_eq!((groups.len(), groups[0].arg, groups[0].same()), (1, None, None));
    }

    #[test]
    fn poll_of_one_descriptor_is_no_wait_for_several() {
        let groups = group(&[thread(b'a', 7, 3), thread(b'b', 7, 2), thread(b'c', 7, 1), thread(b'd', 271, 1)]);
        let kinds: Vec<_> = groups.iter().map(|group| (group.count, group.wait(), group.same())).collect();
        let one = (1, Some(WaitKind::Event), None);
        assert_eq!(kinds, [(2, Some(WaitKind::Events), None), one, one]);
    }

    #[test]
    fn a_group_names_three_of_its_threads() {
        let threads: Vec<_> = b"aabcde".iter().map(|name| thread(*name, 202, 1)).collect();
        assert_eq!(group(&threads)[0].comms.len(), 3);
    }

    #[test]
    fn only_waiting_threads_have_an_object_of_their_wait() {
        let one = |thread: Thread| group(&[thread])[0].wait();
        assert_eq!(one(thread(b'a', 202, 1)), Some(WaitKind::Lock));
        assert_eq!(one(thread(b'a', 0, 7)), Some(WaitKind::Read(Some(7))));
        for state in [ThreadState::Running, ThreadState::Stopped, ThreadState::Zombie] {
            assert_eq!(one(Thread { state, ..thread(b'a', 202, 1) }), None, "{state:?}");
        }
        // Without the system call, as on an architecture with unknown numbers, the kernel function shows the object.
        assert_eq!(one(Thread { syscall: None, ..thread(b'a', 0, 1) }), Some(WaitKind::Lock));
        assert_eq!(one(Thread { syscall: None, wchan: None, ..thread(b'a', 0, 1) }), None);
        let each_its_own = group(&[thread(b'a', 0, 1), thread(b'a', 0, 2)]);
        assert_eq!(each_its_own[0].wait(), Some(WaitKind::Read(None)));
    }
}
