//! Work that the host can block forever, on threads that can be left behind.
//!
//! A read below `/proc` or along a path may need a file system or a lock that a broken host never releases: the
//! server of an NFS mount is gone, the daemon of a FUSE mount hangs. [`each`] does such work on its own thread, and
//! abandons the thread after [`ANSWER_WITHIN`] without progress. While that thread is blocked, this module remembers
//! its subject and starts no other read of it ([`ItemJob::may_wait`]).
//!
//! # Which calls can wait
//!
//! | call | waits for | killable | treatment |
//! |---|---|---|---|
//! | `open`, `stat`, `statfs` through `/proc/PID/{exe,root,cwd,map_files,fd/N}` | the file system of the target (`proc_pid_get_link`, fs/proc/base.c) | NFS: yes; FUSE: only until the daemon has read the request (`request_wait_answer`, fs/fuse/dev.c) | may wait forever; not done at all on file systems of the list in `host/proc/mounts.rs` |
//! | `open` with `O_PATH` through `/proc/PID/exe` | `d_weak_revalidate`, which NFS and 9p have and FUSE has not (`complete_walk`, fs/namei.c) | yes | may wait forever |
//! | `/proc/PID/{maps,environ,auxv}` | `exec_update_lock` (`mm_access`, kernel/fork.c), then `mmap_lock` (`m_start`, fs/proc/task_mmu.c); `environ` faults pages in | yes | may wait forever (`environ` is read of Java virtual machines that are asked only) |
//! | `/proc/PID/cmdline` | `mmap_lock` (`access_remote_vm` of `get_mm_cmdline`, fs/proc/base.c), no page of a file (`FOLL_ANON`) | yes | may wait forever; read last, and not while a thread waits uninterruptibly |
//! | `/proc/PID/task/TID/{syscall,stack}` | `exec_update_lock` (`lock_trace`, fs/proc/base.c) | yes | may wait forever |
//! | `/proc/PID/{stat,wchan}`, the links `exe`, `fd/N`, `ns/net`, `/proc/PID/{fd,fdinfo}` | nothing at v5.10; `exec_update_lock` in kernels that have "proc: protect ptrace_may_access() with exec_update_lock" (observed on 6.18.44 in `do_task_stat` and `proc_ns_readlink`) | yes | deadline, once for each process |
//! | `/proc/PID/cgroup` | `cgroup_mutex` (`proc_cgroup_show`, kernel/cgroup/cgroup.c) | no | deadline |
//! | `/proc/PID/mountinfo` | `namespace_sem` (`m_start`, fs/namespace.c), and for btrfs its own tree (`btrfs_show_options`, fs/btrfs/super.c) | no | deadline |
//! | `cgroup.events`, `cgroup.freeze`, `freezer.state` | v1: `freezer_mutex` (`freezer_read`, kernel/cgroup/legacy_freezer.c); v2: nothing | no | deadline |
//! | a path of `mountinfo`, `/var/log/pods`, the folders of `PATH`, `/sys/fs/cgroup` | every file system along the path (`d_revalidate`) | as the first line | deadline |
//! | `/proc/PID/{stat,status}` | the last user of a memory frees it (`mmput`, kernel/fork.c) | no | deadline |
//! | `/proc/PID/{comm,limits}`, `schedstat` | no sleeping lock except those of the folder in `/proc` | | deadline |
//! | listing `/proc`, `/proc/PID/{fd,task}`; `stat` of `/proc/PID/fd` | the lock of the folder in `/proc` | | deadline |
//! | `/proc/PID/fdinfo/N` of io_uring and of UNIX sockets | a lock that is only tried, a spin lock (fs/io_uring.c, net/unix/af_unix.c) | | deadline |
//! | `/proc/sys/net/netfilter/*` | nothing | | deadline |
//! | `open_by_handle_at` on cgroup2 | the lock of the folder above (`reconnect_path`, fs/exportfs/expfs.c) | | deadline |
//! | `setns` into a network namespace, `sock_diag` | no file system | | on its own thread, which the agent waits for |
//!
//! All at v5.10, where the lock is named `exec_update_mutex`. A starting program holds it while it closes its files
//! (`do_close_on_exec` in `begin_new_exec`, fs/exec.c), which waits for the file systems of those files: so a whole
//! process can become unreadable. Every call with any doubt has a deadline, so all calls have one.
//!
//! A killable wait ends with the process (`exit_group`), so the agent can always end. An unkillable one keeps the
//! process as a zombie until it is over, which is why the agent does not open programs on file systems in user space.

mod patience;
mod single;

use std::{
    any::Any,
    fmt, fs, io,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

pub use self::{
    patience::Patience,
    single::{BoxedAnswer, run, run_in_steps},
};
use super::lock;
use crate::clock;
use closewait_engine::text::duration;

/// Time without any progress after which a thread is left behind.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// Number of threads left behind from which on the agent starts no reads that can wait forever.
const MAX_STUCK: usize = 8;
/// Number of threads left behind that read stacks from which on the agent reads no stacks. They do not count for [`MAX_STUCK`].
const MAX_SLOW_STACKS: usize = 2;
/// Number of threads left behind that peek at sockets from which on no further peeks start. They do not count for [`MAX_STUCK`].
const MAX_STUCK_PEEKS: usize = 1;
/// Number of threads left behind from which on the agent starts no reads at all.
const MAX_ABANDONED: usize = 16;
/// Interval between two checks of a silent thread.
const TICK: Duration = Duration::from_millis(50);
/// Factor on [`ANSWER_WITHIN`] for a runnable thread that gets no CPU.
const STARVED_FACTOR: u32 = 8;
/// Maximum number of values in a queue; a thread that produces more waits.
const MAX_QUEUED_VALUES: usize = 64;

/// Threads of this process that were left behind.
static ABANDONED: Mutex<Vec<Abandoned>> = Mutex::new(Vec::new());

/// CPU time of the reader threads since this process began, nanoseconds.
static CPU_USED: AtomicU64 = AtomicU64::new(0);

/// Returns the CPU time that the threads of [`each`] and of [`counted`] have used since this process began. It is not part of their
/// callers' CPU time.
pub fn cpu_used() -> Duration {
    Duration::from_nanos(CPU_USED.load(Ordering::Relaxed))
}

/// Does `work`, and adds its CPU time to [`cpu_used`]. The caller is a thread whose CPU time nothing else counts.
pub fn counted<T>(work: impl FnOnce() -> T) -> T {
    let start = clock::thread_cpu();
    let result = work();
    let used = clock::thread_cpu().saturating_sub(start);
    CPU_USED.fetch_add(u64::try_from(used.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    result
}

/// Object of a read that may block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A process: its pid, and its start in nanoseconds since boot, because the kernel reuses pids. `None` stands for
    /// reads that need only the process itself.
    Process(u32, Option<u64>),
    /// A path.
    Path(PathBuf),
    /// The stacks of a process, by its pid. Such a read can also compute for long.
    Stacks(u32),
    /// The unread bytes of the sockets of a process, by its pid.
    Peek(u32),
}

/// Reason why a value was not read.
#[derive(Debug)]
pub enum ReadFailure {
    /// The read was tried, and did not answer in time.
    Late {
        /// Name of the read, as the job gave it.
        step: &'static str,
    },
    /// Not tried: an earlier read of the same subject has not answered.
    StillWaits,
    /// Not tried: too many other reads have not answered.
    TooMany,
    /// Not tried: the time of this inspection is used up.
    NoTime,
    /// Not tried: no thread could start.
    NoThread(io::Error),
    /// The read of the stacks did not end, or an earlier one has not.
    SlowStacks,
    /// Not tried: reads of the stacks of other processes have not ended.
    OtherSlowStacks,
}

impl fmt::Display for ReadFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = duration(ANSWER_WITHIN);
        match self {
            Self::Late { step } => write!(f, "{step} did not answer within {limit} (its file system may hang)"),
            Self::StillWaits => write!(f, "an earlier read has not been answered (its file system may hang)"),
            Self::TooMany => write!(f, "too many other reads have not been answered (a file system may hang)"),
            Self::NoTime => write!(f, "reads of others have used up the time of this inspection"),
            Self::NoThread(error) => write!(f, "starting a thread failed: {error}"),
            Self::SlowStacks => write!(f, "reading them takes too long"),
            Self::OtherSlowStacks => write!(f, "reading the stacks of other processes takes too long"),
        }
    }
}

/// Result for an item.
#[derive(Debug)]
pub enum ReadResult<T> {
    /// A value that the work has sent; one item can have any number of them.
    Value(T),
    /// The work was left behind, or not started. Values may have come before.
    Unanswered(ReadFailure),
}

/// Work on one item, as its thread sees it.
pub struct ItemJob<T> {
    index: usize,
    watch: Arc<Watch>,
    values: SyncSender<Message<T>>,
}

impl<T> ItemJob<T> {
    /// Sends a value.
    pub fn put(&self, value: T) {
        // If this thread was left behind, there is no receiver.
        let _left_behind = self.values.send(Message::Value(self.index, value));
        self.progress();
    }

    /// Names the subject that this thread may block on.
    ///
    /// # Errors
    ///
    /// If another thread is already blocked on the same subject.
    pub fn about(&self, subject: Subject) -> Result<(), ReadFailure> {
        let waits = is_blocked_on(&lock(&ABANDONED), &subject);
        self.watch.doing().subject = Some(subject);
        self.progress();
        if waits { Err(ReadFailure::StillWaits) } else { Ok(()) }
    }

    /// Names the next read, and restarts the time of [`ANSWER_WITHIN`].
    pub fn step(&self, step: &'static str) {
        self.watch.doing().step = step;
        self.progress();
    }

    /// Restarts the time of [`ANSWER_WITHIN`].
    pub fn progress(&self) {
        self.watch.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the caller no longer waits for the result.
    pub fn is_left_behind(&self) -> bool {
        self.watch.abandoned.load(Ordering::Acquire)
    }

    /// Whether the thread may try a read that can block forever.
    ///
    /// # Errors
    ///
    /// If another thread is already blocked on the same subject, or too many are blocked on others.
    pub fn may_wait(&self) -> Result<(), ReadFailure> {
        let subject = self.watch.doing().subject.clone();
        match subject {
            Some(subject) => may_wait_for(&subject),
            None => Ok(()),
        }
    }
}

/// Checks a subject as [`ItemJob::may_wait`] does.
fn may_wait_for(subject: &Subject) -> Result<(), ReadFailure> {
    allowed(&lock(&ABANDONED), subject)
}

fn allowed(abandoned: &[Abandoned], subject: &Subject) -> Result<(), ReadFailure> {
    if is_blocked_on(abandoned, subject) {
        return Err(if matches!(subject, Subject::Stacks(_)) {
            ReadFailure::SlowStacks
        } else {
            ReadFailure::StillWaits
        });
    }
    let (mut slow, mut peeks, mut others) = (0, 0, 0);
    for thread in abandoned {
        *match thread.subject {
            Some(Subject::Stacks(_)) => &mut slow,
            Some(Subject::Peek(_)) => &mut peeks,
            Some(Subject::Process(..) | Subject::Path(_)) | None => &mut others,
        } += 1;
    }
    match subject {
        Subject::Stacks(_) if slow >= MAX_SLOW_STACKS => Err(ReadFailure::OtherSlowStacks),
        Subject::Peek(_) if peeks >= MAX_STUCK_PEEKS => Err(ReadFailure::TooMany),
        Subject::Stacks(_) | Subject::Peek(_) | Subject::Process(..) | Subject::Path(_) if others >= MAX_STUCK => {
            Err(ReadFailure::TooMany)
        }
        Subject::Stacks(_) | Subject::Peek(_) | Subject::Process(..) | Subject::Path(_) => Ok(()),
    }
}

/// Whether a thread is blocked on a subject; the stacks and sockets of a process are a part of it.
fn is_blocked_on(abandoned: &[Abandoned], subject: &Subject) -> bool {
    let is_part = |whole: &Subject| {
        let (Subject::Stacks(own) | Subject::Peek(own)) = subject else { return false };
        matches!(whole, Subject::Process(pid, _) if own == pid)
    };
    abandoned.iter().filter_map(|thread| thread.subject.as_ref()).any(|whole| whole == subject || is_part(whole))
}

/// Does `work` for each of `items` in turn, on its own thread. Hands its results to `take`, on this thread.
///
/// If an item makes no progress for [`ANSWER_WITHIN`], its thread is left behind, and the next item starts on another
/// thread. A panic of `work` continues in the caller.
pub fn each<I, T>(
    items: Vec<I>,
    patience: &mut Patience,
    work: impl Fn(&I, &ItemJob<T>) + Send + Sync + 'static,
    mut take: impl FnMut(&I, ReadResult<T>),
) where
    I: Send + Sync + 'static,
    T: Send + 'static,
{
    let (items, work) = (Arc::new(items), Arc::new(work));
    let mut next = 0;
    while next < items.len() {
        let begun = if lock(&ABANDONED).len() >= MAX_ABANDONED {
            Err(ReadFailure::TooMany)
        } else if patience.is_over() {
            Err(ReadFailure::NoTime)
        } else {
            ReadThread::start(Arc::clone(&items), Arc::clone(&work), next).map_err(ReadFailure::NoThread)
        };
        let worker = match begun {
            Ok(worker) => worker,
            Err(why) => {
                refuse(items.get(next..).unwrap_or_default(), &why, &mut take);
                return;
            }
        };
        let began = clock::now();
        let end = worker.listen(patience, |index, value| {
            if let Some(item) = items.get(index) {
                take(item, ReadResult::Value(value));
            }
        });
        patience.takes = patience.takes.saturating_sub(clock::now().since(began));
        match end {
            ThreadEnd::Finished => return,
            ThreadEnd::Panicked(payload) => panic::resume_unwind(payload),
            ThreadEnd::LeftBehind(index, why) => {
                if let Some(item) = items.get(index) {
                    take(item, ReadResult::Unanswered(why));
                }
                next = index + 1;
            }
        }
    }
}

/// Reports for every item that it was not started.
fn refuse<I, T>(items: &[I], why: &ReadFailure, take: &mut impl FnMut(&I, ReadResult<T>)) {
    for item in items {
        take(
            item,
            ReadResult::Unanswered(match why {
                ReadFailure::Late { step } => ReadFailure::Late { step },
                ReadFailure::StillWaits => ReadFailure::StillWaits,
                ReadFailure::TooMany => ReadFailure::TooMany,
                ReadFailure::NoTime => ReadFailure::NoTime,
                ReadFailure::NoThread(error) => ReadFailure::NoThread(io::Error::new(error.kind(), error.to_string())),
                ReadFailure::SlowStacks => ReadFailure::SlowStacks,
                ReadFailure::OtherSlowStacks => ReadFailure::OtherSlowStacks,
            }),
        );
    }
}

/// Thread that was left behind.
struct Abandoned {
    subject: Option<Subject>,
    watch: Arc<Watch>,
}

/// State of a thread that others can read.
#[derive(Default)]
struct Watch {
    /// Index of the item in work.
    index: AtomicUsize,
    /// Counter that changes with any progress.
    ticks: AtomicU64,
    doing: Mutex<Doing>,
    abandoned: AtomicBool,
}

#[derive(Clone, Default)]
struct Doing {
    subject: Option<Subject>,
    step: &'static str,
    /// Folder of the thread below `/proc`; `None` until it runs.
    folder: Option<PathBuf>,
    /// Whether the thread has ended, or is about to.
    ended: bool,
}

impl Watch {
    fn doing(&self) -> MutexGuard<'_, Doing> {
        lock(&self.doing)
    }

    /// Whether the thread is running or runnable. This read cannot block: it is about this process.
    fn is_running(&self) -> bool {
        let Some(folder) = self.doing().folder.clone() else { return true };
        super::proc::stat(&folder).is_ok_and(|stat| stat.state == b'R')
    }
}

enum Message<T> {
    Value(usize, T),
    Panicked(Box<dyn Any + Send>),
}

/// Way in which a reader thread has ended.
enum ThreadEnd {
    Finished,
    Panicked(Box<dyn Any + Send>),
    LeftBehind(usize, ReadFailure),
}

struct ReadThread<T> {
    watch: Arc<Watch>,
    values: Receiver<Message<T>>,
    thread: JoinHandle<()>,
}

impl<T: Send + 'static> ReadThread<T> {
    fn start<I, F>(items: Arc<Vec<I>>, work: Arc<F>, from: usize) -> io::Result<Self>
    where
        I: Send + Sync + 'static,
        F: Fn(&I, &ItemJob<T>) + Send + Sync + 'static,
    {
        let (sender, values) = mpsc::sync_channel(MAX_QUEUED_VALUES);
        let watch = Arc::new(Watch { index: AtomicUsize::new(from), ..Watch::default() });
        let watched = Arc::clone(&watch);
        let thread = thread::Builder::new().name("host reader".to_owned()).spawn(move || {
            let _ending = Ending(Arc::clone(&watched));
            watched.doing().folder =
                fs::read_link("/proc/thread-self").ok().map(|link| PathBuf::from("/proc").join(link));
            for (index, item) in items.iter().enumerate().skip(from) {
                if watched.abandoned.load(Ordering::Acquire) {
                    return;
                }
                watched.index.store(index, Ordering::Release);
                let job = ItemJob { index, watch: Arc::clone(&watched), values: sender.clone() };
                let mut doing = watched.doing();
                (doing.subject, doing.step) = (None, "it");
                drop(doing);
                job.progress();
                let worked = counted(|| panic::catch_unwind(AssertUnwindSafe(|| work(item, &job))));
                if let Err(payload) = worked {
                    let _left_behind = sender.send(Message::Panicked(payload));
                    return;
                }
            }
        })?;
        Ok(Self { watch, values, thread })
    }

    /// Receives values until the thread ends or is left behind.
    fn listen(self, patience: &mut Patience, mut take: impl FnMut(usize, T)) -> ThreadEnd {
        let (mut seen, mut quiet) = (self.watch.ticks.load(Ordering::Relaxed), Duration::ZERO);
        let began = clock::now();
        loop {
            match self.values.recv_timeout(TICK) {
                Ok(Message::Value(index, value)) => take(index, value),
                Ok(Message::Panicked(payload)) => return ThreadEnd::Panicked(payload),
                Err(RecvTimeoutError::Disconnected) => {
                    // The thread is ending, and the agent must not drop capabilities before it has.
                    let _panicked = self.thread.join();
                    return ThreadEnd::Finished;
                }
                Err(RecvTimeoutError::Timeout) => {
                    quiet += TICK;
                    let ticks = self.watch.ticks.load(Ordering::Relaxed);
                    if ticks != seen {
                        (seen, quiet) = (ticks, Duration::ZERO);
                    }
                }
            }
            let late = quiet >= ANSWER_WITHIN.min(patience.waits) && !quiet.is_zero();
            let starved = late && quiet < ANSWER_WITHIN * STARVED_FACTOR && self.watch.is_running();
            if late && !starved {
                patience.waits = patience.waits.saturating_sub(quiet);
                return self.leave_behind(|step| ReadFailure::Late { step });
            }
            if clock::now().since(began) >= patience.takes {
                return self.leave_behind(|_step| ReadFailure::NoTime);
            }
        }
    }

    fn leave_behind(self, why: impl FnOnce(&'static str) -> ReadFailure) -> ThreadEnd {
        let index = self.watch.index.load(Ordering::Acquire);
        let mut abandoned = lock(&ABANDONED);
        let doing = self.watch.doing().clone();
        // It computes, and does not wait for anything.
        let is_slow = matches!(doing.subject, Some(Subject::Stacks(_))) && self.watch.is_running();
        // A thread that ends right now removes itself after this, or has done so already.
        if !doing.ended {
            abandoned.push(Abandoned { subject: doing.subject, watch: Arc::clone(&self.watch) });
        }
        self.watch.abandoned.store(true, Ordering::Release);
        ThreadEnd::LeftBehind(index, if is_slow { ReadFailure::SlowStacks } else { why(doing.step) })
    }
}

/// Guard that removes a thread from the list when it ends.
struct Ending(Arc<Watch>);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut abandoned = lock(&ABANDONED);
        self.0.doing().ended = true;
        abandoned.retain(|thread| !Arc::ptr_eq(&thread.watch, &self.0));
    }
}

#[cfg(test)]
mod tests;
