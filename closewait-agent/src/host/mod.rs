//! Facilities of this host: [`facts`] gathers them, [`plan`] decides what to attach. [`confine`] drops the
//! capabilities that only the start of an agent needed.
//!
//! No module here uses the engine, sinks or commands.

pub mod btf;
pub mod caps;
pub mod cgroups;
pub mod confine;
mod datagram;
pub mod deadline;
pub mod descendants;
pub mod error_text;
pub mod facts;
pub mod foreign_writer;
pub mod freezer;
pub mod helper;
pub mod in_time;
pub mod journal;
pub mod limits;
pub mod memory_limit;
pub mod mountinfo;
pub mod netns;
pub mod open_files;
pub mod peer_credentials;
pub mod plan;
pub mod pods;
pub mod poll;
pub mod proc;
pub mod service_manager;
#[cfg(test)]
pub(crate) mod testing;
pub mod tools;
pub mod tracefs;

use std::{
    io, panic,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

/// Parses text of `/proc` and file names with everything here that does, for the fuzz target.
#[cfg(fuzzing)]
pub fn fuzz(text: &[u8]) {
    proc::fuzz(text);
    cgroups::fuzz(text);
    pods::fuzz(text);
}

/// Runs `f` on a new thread, so that changes to its namespaces end with it.
fn on_fresh_thread<T: Send>(name: &str, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, f)?;
        // A panic of the caller's closure continues in the caller.
        Ok(worker.join().unwrap_or_else(|payload| panic::resume_unwind(payload)))
    })
}

/// Locks a mutex whose value is consistent after each assignment, so that a panic of an earlier owner does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
