//! Threads of a Java virtual machine, by the attach protocol of HotSpot (`src/hotspot/os/posix/attachListener_posix.cpp` of JDK 22,
//! `src/hotspot/os/linux/attachListener_linux.cpp` before).
//!
//! Unlike [`super::stacks`], this makes the process act: it gets a signal at the first time, makes a socket in its `/tmp`, stops its
//! threads for the moment of the dump, and writes their stacks. So a user has to ask for it.
//!
//! | file | contents |
//! |---|---|
//! | `target` | whether the process is a HotSpot JVM that can answer: the signal ends other programs |
//! | `place` | its `/tmp`, which belongs to others: socket and trigger |
//! | `identity` | its user, as which a thread of this process asks |
//! | `attach` | signal, connection, request and answer |
//! | `threads` | stacks of the answer |

mod attach;
mod error;
mod identity;
mod place;
mod target;
mod threads;

use std::time::Duration;

use closewait_stacks::{
    jvm::{self, JvmThread, MAX_DUMP_BYTES, MAX_JVM_THREADS, json, text},
    live,
};

pub use self::error::{AttachError, JvmError};
use self::{attach::AttachSession, target::Hotspot};
use super::stacks::{MAX_THREADS, StacksRead};
use crate::host::{
    deadline::{self, ItemJob, Patience, Subject},
    proc,
};
use closewait_engine::text::Comm;

/// Kinds of threads to dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JvmThreads {
    /// Those of the system, with virtual ones that run on them.
    OfSystem,
    /// Virtual threads that wait, too: the machine writes them into a pipe in its `/tmp`.
    AllKinds,
}

/// Time for everything that the process itself has to do.
const DUMP_WITHIN: Duration = Duration::from_secs(4);

/// Has a Java virtual machine dump its threads. Blocks up to 5 s, and works on a thread of its own.
///
/// Needs the rights to read `/proc/PID/root` (`CAP_SYS_PTRACE` for other users), and for the processes of other users those to act as
/// them: `CAP_SETUID` and `CAP_SETGID`.
///
/// # Errors
///
/// If the process is no HotSpot JVM that can answer, or does not answer in time.
pub fn read(pid: u32, kinds: JvmThreads, patience: &mut Patience) -> Result<StacksRead, JvmError> {
    let work = move |job: &ItemJob<_>| read_now(pid, kinds, job);
    deadline::run_in_steps(Subject::Process(pid, None), "its attach mechanism", patience, work)
        .unwrap_or_else(|why| Err(AttachError::Unanswered(why)))
        .map_err(|why| JvmError { pid, why })
}

fn read_now<T>(pid: u32, kinds: JvmThreads, job: &ItemJob<T>) -> Result<StacksRead, AttachError> {
    let progress = || job.progress();
    let target = Hotspot::recognize(pid)?;
    progress();
    let session = AttachSession::new(&target, DUMP_WITHIN, &progress)?;
    let answer = session.ask(&["threaddump", "-l"], MAX_DUMP_BYTES)?;
    let mut parsed = text::parse(&answer.text).map_err(AttachError::Malformed)?;
    let mut left_out = Vec::new();
    if answer.is_cut {
        left_out.push(format!("the dump has more than {} MiB", MAX_DUMP_BYTES >> 20));
    }
    if kinds == JvmThreads::AllKinds && jvm::has_virtual_threads(&parsed) {
        match virtual_threads(&session) {
            Ok(more) => parsed = jvm::merged(parsed, more),
            Err(why) => left_out.push(format!("the virtual threads were not dumped: {why}")),
        }
    }
    // This thread has its own rights again.
    drop(session);
    progress();
    let unread = |error| AttachError::Unreadable { what: "its threads", error };
    let tasks = live::threads(pid, MAX_THREADS).map_err(unread)?;
    let comm = Comm::from_name(&proc::comm(&target.folder).map_err(unread)?);
    if parsed.len() >= MAX_JVM_THREADS {
        left_out.push(format!("more than {MAX_JVM_THREADS} threads: the others of the dump are not shown"));
    }
    let count = live::thread_count(pid).map_err(unread)?.max(tasks.len());
    let stacks = threads::code_stacks(parsed, &tasks);
    // The dump has all threads; only the numbers of some are unknown.
    Ok(StacksRead { comm, threads: count, threads_left_out: 0, stacks, unread: left_out })
}

/// Returns the threads of a dump that has the virtual ones, which JDK 21 and later write into a file.
fn virtual_threads(session: &AttachSession<'_>) -> Result<Vec<JvmThread>, AttachError> {
    let file = session.ask_for_file("Thread.dump_to_file -overwrite -format=json", MAX_DUMP_BYTES)?;
    if file.is_cut {
        return Err(AttachError::TooLarge(MAX_DUMP_BYTES));
    }
    json::parse(&file.text).map_err(AttachError::Malformed)
}
