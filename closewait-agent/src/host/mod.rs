//! What this host offers: [`facts`] gathers it, [`plan`] decides from it what to attach. [`confine`] gives up what only the
//! start of an agent needed.
//!
//! Nothing here knows of the engine, of sinks or of commands.

pub mod btf;
pub mod caps;
pub mod cgroups;
pub mod confine;
pub mod deadline;
pub mod facts;
pub mod freezer;
pub mod in_time;
pub mod limits;
pub mod memory_limit;
pub mod mountinfo;
pub mod netns;
pub mod open_files;
pub mod plan;
pub mod pods;
pub mod poll;
pub mod proc;
#[cfg(test)]
pub(crate) mod testing;
pub mod tools;
pub mod tracefs;

use std::{
    io, panic,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

/// Everything here that reads the text of a file of `/proc` or the name of one, for the fuzz target.
#[cfg(fuzzing)]
pub fn fuzz(text: &[u8]) {
    proc::fuzz(text);
    cgroups::fuzz(text);
    pods::fuzz(text);
}

/// Runs `f` on a thread of its own, so that whatever it does to its namespaces ends with it.
fn on_fresh_thread<T: Send>(name: &str, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, f)?;
        // A panic of the caller's closure goes on in the caller.
        Ok(worker.join().unwrap_or_else(|payload| panic::resume_unwind(payload)))
    })
}

/// Locks a mutex whose value is whole after each assignment, so that a panic of its last holder does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
