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
//! | `dump` | the answers, parsed |
//! | `threads` | stacks of the answers |
//! | `asker` | questions of a running agent, which has dropped the rights for all of this |
//! | `helper` | the process that asks for the agent: it has the rights, and parses nothing |
//! | `wire` | what the agent and its helper send each other |
//! | `limits` | how often the helper asks a process, and how many |
//!
//! ```text
//! inspection -> asker's thread -> socket -> helper -> attach protocol -> JVM
//!            <- stacks (parsed) <-------- bytes <-----------------------
//! ```

mod asker;
mod attach;
mod dump;
mod error;
mod helper;
mod identity;
mod limits;
mod place;
mod target;
mod threads;
mod wire;

use std::time::Duration;

use closewait_stacks::{jvm::MAX_DUMP_BYTES, live};

pub use self::{
    asker::{JvmAsker, JvmHelper},
    error::{AttachError, JvmError},
    helper::serve_jvm_dumps,
};
use self::{attach::AttachSession, dump::JvmDump, target::Hotspot};
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
    let may_go_on = || {
        job.progress();
        !job.is_left_behind()
    };
    let target = Hotspot::recognize(pid)?;
    let session = AttachSession::new(&target, DUMP_WITHIN, &may_go_on)?;
    let mut dump = JvmDump::parse(&session.threads(MAX_DUMP_BYTES)?, MAX_DUMP_BYTES)?;
    if kinds == JvmThreads::AllKinds && dump.has_virtual_threads() {
        dump.add_virtual(session.virtual_threads(MAX_DUMP_BYTES));
    }
    // This thread has its own rights again.
    drop(session);
    job.progress();
    let unread = |error| AttachError::Unreadable { what: "its threads", error };
    let tasks = live::threads(pid, MAX_THREADS, &|| true).map_err(unread)?;
    let comm = Comm::from_name(&proc::comm(&target.folder).map_err(unread)?);
    let count = live::thread_count(pid).map_err(unread)?.max(tasks.len());
    let (stacks, left_out) = dump.into_stacks(&tasks);
    // The dump has all threads; only the numbers of some are unknown.
    Ok(StacksRead { comm, image: None, threads: count, threads_left_out: 0, stacks, unread: left_out })
}
