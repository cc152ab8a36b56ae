//! Calls on a path that a user gave, on a thread that can be left behind.
//!
//! Such a path can lead anywhere: to an NFS mount whose server is gone, to a FUSE mount whose daemon hangs. Every system
//! call that walks it ([`call`] names them) waits for those file systems, so none is made on the thread of an event loop,
//! nor on the only thread of a command. [`super::deadline`] says the same of paths that the host gives.
//!
//! A thread that is left behind ends when the file system answers, or with the process. Only a wait that cannot be killed
//! keeps the process until it is over: of FUSE that of a request that the daemon has read and not answered
//! (`request_wait_answer`, fs/fuse/dev.c, v6.18), of NFS none (`rpc_wait_bit_killable`, net/sunrpc/sched.c, v6.18), of a
//! block device that does not answer any (`folio_lock`, `wait_on_buffer`).

use std::{
    cell::RefCell,
    fmt, io, panic,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{sync::oneshot, time::sleep};

use super::lock;
use crate::clock;
use closewait_engine::text::duration;

/// Time for one thing that an agent does with a path at its start.
pub const START_PATIENCE: Duration = Duration::from_secs(2);

/// Paths that threads wait for which were left behind, in this process.
static LEFT_BEHIND: Mutex<Vec<(u64, PathBuf)>> = Mutex::new(Vec::new());

thread_local! {
    /// Progress of the call on this thread.
    static CALL: RefCell<Option<Arc<Mutex<Progress>>>> = const { RefCell::new(None) };
}

/// Reason why a call on a path gave no result.
#[derive(Debug)]
pub enum CallFailure {
    /// It was tried, and there was no answer in time.
    Late {
        /// The system call.
        call: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
    /// It was not tried: an earlier call on the same path has not been answered.
    StillWaits,
    /// It was not tried: there is no thread.
    NoThread(io::Error),
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late { call, waited } => {
                write!(f, "{call} did not answer within {} (its file system may hang)", duration(*waited))
            }
            Self::StillWaits => write!(f, "an earlier call has not been answered (its file system may hang)"),
            Self::NoThread(error) => write!(f, "starting a thread failed: {error}; is a limit on processes reached?"),
        }
    }
}

impl std::error::Error for CallFailure {}

/// What is known of a thread from outside.
#[derive(Debug, Default)]
struct Progress {
    call: &'static str,
    ended: bool,
}

/// Names the system call that this thread makes next, for the error of the caller that waits for it.
pub fn call(name: &'static str) {
    CALL.with_borrow(|progress| {
        if let Some(progress) = progress {
            lock(progress).call = name;
        }
    });
}

/// Work on a path that another thread does.
#[derive(Debug)]
pub struct InTime<T> {
    thread: PathThread,
    result: Receiver<T>,
}

impl<T: Send + 'static> InTime<T> {
    /// Begins `work` on `path`. If the caller gave up before there is a result, `undo` takes it.
    ///
    /// # Errors
    ///
    /// If earlier work on the same path was left behind and still waits, or a thread cannot be started.
    pub fn begin(
        path: &Path,
        work: impl FnOnce(&Path) -> T + Send + 'static,
        undo: impl FnOnce(T) + Send + 'static,
    ) -> Result<Self, CallFailure> {
        // Without room, so that a result is taken by exactly one of the two.
        let (done, result) = mpsc::sync_channel(0);
        let work = move |path: &Path| {
            if let Err(mpsc::SendError(late)) = done.send(work(path)) {
                undo(late);
            }
        };
        Ok(Self { thread: PathThread::start(path, work)?, result })
    }

    /// Waits for the result. A panic of the work goes on here.
    ///
    /// # Errors
    ///
    /// If it is not there in time.
    pub fn wait(self, patience: Duration) -> Result<T, CallFailure> {
        let Self { thread, result } = self;
        match result.recv_timeout(patience) {
            Ok(value) => {
                // It has nothing left to do: no thread with all rights stays.
                thread.join();
                Ok(value)
            }
            Err(RecvTimeoutError::Disconnected) => {
                thread.join();
                Err(CallFailure::StillWaits)
            }
            Err(RecvTimeoutError::Timeout) => Err(thread.leave_behind(patience)),
        }
    }
}

/// Does `work` on `path`, on a thread of its own, which is left behind if it does not end in time. Then `undo` takes what
/// comes of it.
///
/// # Errors
///
/// If there is no answer in time, or it was not tried.
pub fn in_time<T: Send + 'static>(
    path: &Path,
    patience: Duration,
    work: impl FnOnce(&Path) -> T + Send + 'static,
    undo: impl FnOnce(T) + Send + 'static,
) -> Result<T, CallFailure> {
    InTime::begin(path, work, undo)?.wait(patience)
}

/// As [`in_time`], for a task: others go on meanwhile. It waits no longer than until `stop` is ready, either.
///
/// # Errors
///
/// As of [`in_time`].
pub async fn in_time_of_task<T: Send + 'static>(
    path: &Path,
    patience: Duration,
    stop: impl Future<Output = ()>,
    work: impl FnOnce(&Path) -> T + Send + 'static,
    undo: impl FnOnce(T) + Send + 'static,
) -> Result<T, CallFailure> {
    let (done, mut result) = oneshot::channel();
    let thread = PathThread::start(path, move |path| {
        if let Err(late) = done.send(work(path)) {
            undo(late);
        }
    })?;
    let began = clock::now();
    tokio::select! {
        done = &mut result => match done {
            Ok(value) => return Ok(value),
            Err(_panicked) => {
                thread.join();
                return Err(CallFailure::StillWaits);
            }
        },
        () = sleep(patience) => {}
        () = stop => {}
    }
    result.close();
    // It may have come in the last moment.
    let waited = clock::now().since(began).min(patience);
    result.try_recv().map_err(|_none| thread.leave_behind(waited))
}

/// A thread that works on one path.
#[derive(Debug)]
struct PathThread {
    path: PathBuf,
    progress: Arc<Mutex<Progress>>,
    thread: JoinHandle<()>,
}

impl PathThread {
    fn start(path: &Path, work: impl FnOnce(&Path) + Send + 'static) -> Result<Self, CallFailure> {
        if lock(&LEFT_BEHIND).iter().any(|(_, waits_for)| waits_for == path) {
            return Err(CallFailure::StillWaits);
        }
        let progress = Arc::new(Mutex::new(Progress { call: "the first call", ended: false }));
        let ending = CallEnding(Arc::clone(&progress));
        let own = path.to_owned();
        let thread = thread::Builder::new().name("closewait-path".to_owned()).spawn(move || {
            CALL.set(Some(Arc::clone(&ending.0)));
            work(&own);
            drop(ending);
        });
        Ok(Self { path: path.to_owned(), progress, thread: thread.map_err(CallFailure::NoThread)? })
    }

    /// Waits for its end. A panic goes on here.
    fn join(self) {
        if let Err(payload) = self.thread.join() {
            panic::resume_unwind(payload);
        }
    }

    fn leave_behind(self, waited: Duration) -> CallFailure {
        // In this order everywhere.
        let mut left_behind = lock(&LEFT_BEHIND);
        let progress = lock(&self.progress);
        // One that ends right now takes itself off the list after this, or has ended already.
        if !progress.ended {
            left_behind.push((key(&self.progress), self.path));
        }
        CallFailure::Late { call: progress.call, waited }
    }
}

/// Takes a thread off the list when it ends.
struct CallEnding(Arc<Mutex<Progress>>);

impl Drop for CallEnding {
    fn drop(&mut self) {
        let mut left_behind = lock(&LEFT_BEHIND);
        lock(&self.0).ended = true;
        left_behind.retain(|(thread, _)| *thread != key(&self.0));
    }
}

/// What tells a thread from others while it runs.
fn key(progress: &Arc<Mutex<Progress>>) -> u64 {
    Arc::as_ptr(progress).addr() as u64
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn what_answers_is_handed_over_and_what_does_not_is_left_behind_and_undone() {
        let path = Path::new("/in_time/thread");
        assert_eq!(in_time(path, LONG, |_path| 7, |_| unreachable!()).unwrap(), 7);
        let (go, gate) = mpsc::channel::<()>();
        let (undone, seen) = mpsc::channel();
        let hangs = move |_path: &Path| {
            call("lstat");
            let _gone = gate.recv();
            8
        };
        let late = in_time(path, SHORT, hangs, move |value| undone.send(value).unwrap()).unwrap_err();
        assert!(late.to_string().starts_with("lstat did not answer within 50ms"), "{late}");
        // Nothing is sent after it, and other paths are none of its business.
        assert!(matches!(in_time(path, LONG, |_path| 9, drop), Err(CallFailure::StillWaits)));
        assert_eq!(in_time(Path::new("/in_time/other"), LONG, |_path| 9, drop).unwrap(), 9);
        drop(go);
        assert_eq!(seen.recv_timeout(LONG).unwrap(), 8);
        let free = (0..1000).any(|_| {
            thread::sleep(Duration::from_millis(10));
            in_time(path, LONG, |_path| 10, drop).is_ok()
        });
        assert!(free, "it is tried again once the file system answers");
    }

    #[tokio::test]
    async fn a_task_waits_in_time_and_others_go_on() {
        let path = Path::new("/in_time/task");
        assert_eq!(in_time_of_task(path, LONG, pending(), |_path| 7, |_| unreachable!()).await.unwrap(), 7);
        let (go, gate) = mpsc::channel::<()>();
        let (undone, seen) = mpsc::channel();
        let hangs = move |_path: &Path| {
            call("execve");
            let _gone = gate.recv();
            8
        };
        let late = in_time_of_task(path, SHORT, pending(), hangs, move |value| undone.send(value).unwrap());
        let other = in_time_of_task(Path::new("/in_time/task/other"), LONG, pending(), |_path| 9, drop);
        let (late, other) = tokio::join!(late, other);
        assert!(matches!(late, Err(CallFailure::Late { call: "execve", .. })), "{late:?}");
        assert_eq!(other.unwrap(), 9);
        assert!(matches!(in_time_of_task(path, LONG, pending(), |_path| 9, drop).await, Err(CallFailure::StillWaits)));
        drop(go);
        assert_eq!(seen.recv_timeout(LONG).unwrap(), 8);
        let (_go, gate) = mpsc::channel::<()>();
        let stopped =
            in_time_of_task(Path::new("/in_time/stop"), LONG, ready(()), move |_path| gate.recv(), drop).await;
        assert!(matches!(stopped, Err(CallFailure::Late { .. })), "{stopped:?}");
    }
}
