//! Calls on a path from the user, on a thread that can be left behind.
//!
//! Such a path can lead anywhere: to an NFS mount whose server is gone, to a FUSE mount whose daemon hangs. Every
//! system call that resolves it ([`call`] names them) waits for those file systems, so none runs on the thread of an
//! event loop, or on the only thread of a command. [`super::deadline`] does the same for paths of the host.
//!
//! A thread that is left behind ends when the file system answers, or with the process. Only an unkillable wait
//! delays the end of the process: on FUSE, that for a request that the daemon has read and not answered
//! (`request_wait_answer`, fs/fuse/dev.c, v6.18); on NFS, none (`rpc_wait_bit_killable`, net/sunrpc/sched.c, v6.18);
//! on a block device that does not answer, any (`folio_lock`, `wait_on_buffer`).

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

/// Maximum time for one operation on a path at the agent's start.
pub const START_PATIENCE: Duration = Duration::from_secs(2);

/// Paths that block threads which were left behind, in this process.
static LEFT_BEHIND: Mutex<Vec<(u64, PathBuf)>> = Mutex::new(Vec::new());

thread_local! {
    /// Progress of the call on this thread.
    static CALL: RefCell<Option<Arc<Mutex<Progress>>>> = const { RefCell::new(None) };
}

/// Reason why a call on a path gave no result.
#[derive(Debug)]
pub enum CallFailure {
    /// The call was tried, and did not answer in time.
    Late {
        /// Name of the system call.
        call: &'static str,
        /// Time that the caller waited.
        waited: Duration,
    },
    /// Not tried: an earlier call on the same path has not answered.
    StillWaits,
    /// Not tried: no thread could start.
    NoThread(io::Error),
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late { call, waited } => {
                write!(f, "{call} did not answer within {} (its file system may hang)", duration(*waited))
            }
            Self::StillWaits => write!(f, "an earlier call has not been answered (its file system may hang)"),
            Self::NoThread(error) => {
                write!(f, "starting a thread failed: {error}; check the limits on processes and memory")
            }
        }
    }
}

impl std::error::Error for CallFailure {}

/// State of a thread that others can read.
#[derive(Debug, Default)]
struct Progress {
    call: &'static str,
    ended: bool,
}

/// Names the next system call of this thread, for the error of the caller that waits for it.
pub fn call(name: &'static str) {
    CALL.with_borrow(|progress| {
        if let Some(progress) = progress {
            lock(progress).call = name;
        }
    });
}

/// Work on a path, on another thread.
#[derive(Debug)]
pub struct InTime<T> {
    thread: PathThread,
    result: Receiver<T>,
}

impl<T: Send + 'static> InTime<T> {
    /// Starts `work` on `path`. If the caller gives up before there is a result, `undo` gets the result.
    ///
    /// # Errors
    ///
    /// If earlier work on the same path still blocks, or no thread can start.
    pub fn begin(
        path: &Path,
        work: impl FnOnce(&Path) -> T + Send + 'static,
        undo: impl FnOnce(T) + Send + 'static,
    ) -> Result<Self, CallFailure> {
        // The channel has no buffer, so that exactly one of the two takes a result.
        let (done, result) = mpsc::sync_channel(0);
        let work = move |path: &Path| {
            if let Err(mpsc::SendError(late)) = done.send(work(path)) {
                undo(late);
            }
        };
        Ok(Self { thread: PathThread::start(path, work)?, result })
    }

    /// Waits for the result. A panic of the work continues here.
    ///
    /// # Errors
    ///
    /// If there is no result in time.
    pub fn wait(self, patience: Duration) -> Result<T, CallFailure> {
        let Self { thread, result } = self;
        match result.recv_timeout(patience) {
            Ok(value) => {
                // The thread has finished: this leaves no thread with all capabilities.
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

/// Does `work` on `path`, on its own thread, which is left behind if it does not end in time. Then `undo` gets the
/// result.
///
/// # Errors
///
/// If there is no answer in time, or the work was not tried.
pub fn in_time<T: Send + 'static>(
    path: &Path,
    patience: Duration,
    work: impl FnOnce(&Path) -> T + Send + 'static,
    undo: impl FnOnce(T) + Send + 'static,
) -> Result<T, CallFailure> {
    InTime::begin(path, work, undo)?.wait(patience)
}

/// Does work as [`in_time`] does, from an async task, without blocking other tasks. Also stops waiting when `stop` is
/// ready.
///
/// # Errors
///
/// As for [`in_time`].
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
    // The result may have come in the last moment.
    let waited = clock::now().since(began).min(patience);
    result.try_recv().map_err(|_none| thread.leave_behind(waited))
}

/// Thread that works on one path.
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

    /// Waits for the end of the thread. A panic continues here.
    fn join(self) {
        if let Err(payload) = self.thread.join() {
            panic::resume_unwind(payload);
        }
    }

    fn leave_behind(self, waited: Duration) -> CallFailure {
        // Lock order everywhere.
        let mut left_behind = lock(&LEFT_BEHIND);
        let progress = lock(&self.progress);
        // A thread that ends right now removes itself from the list after this, or has ended already.
        if !progress.ended {
            left_behind.push((key(&self.progress), self.path));
        }
        CallFailure::Late { call: progress.call, waited }
    }
}

/// Guard that removes a thread from the list when it ends.
struct CallEnding(Arc<Mutex<Progress>>);

impl Drop for CallEnding {
    fn drop(&mut self) {
        let mut left_behind = lock(&LEFT_BEHIND);
        lock(&self.0).ended = true;
        left_behind.retain(|(thread, _)| *thread != key(&self.0));
    }
}

/// Returns an id of a thread that is unique while it runs.
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
        // A second call on the path does not start; other paths are independent.
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
