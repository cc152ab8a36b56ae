//! Where observations come from.
//!
//! - [`program`]: the object with the kernel programs, loaded as the plan says.
//! - [`pins`]: programs and maps that outlive the agent.
//! - [`ring`]: records of the tracepoint, as they come.
//! - [`records`]: the kernel side as the event loop uses it; its tests have another.
//! - [`scanner`]: the sockets that are there now, and who holds them, by whatever this host offers.
//! - [`worker`]: threads that scan and inspect, so that the event loop never waits.
//! - [`inspector`]: owners, cgroups, namespaces.
//! - [`owners`]: who holds which socket, where the kernel has no iterator over open files.
//! - [`processes`]: what owners are and do, and where sockets are that nobody holds.
//! - [`ended`]: whether a process has ended.
//! - `calls`: forms of a system call that aya does not offer.
//! - `types`: the little that aya has to know of the kernel's types.
//! - `files`: records of the iterators over open files.
//! - [`diag`]: sockets as `sock_diag` lists them.
//! - [`destroy`]: no source at all: sockets are destroyed.

mod calls;
pub mod destroy;
pub mod diag;
pub mod ended;
pub mod files;
pub mod inspector;
pub mod owners;
pub mod pins;
pub mod processes;
pub mod program;
pub mod records;
pub mod ring;
pub mod scanner;
mod types;
pub mod worker;

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::OnceLock,
};

use closewait_engine::model::KeySecret;

/// Secret of the keys that this process makes of the ends of connections.
pub fn key_secret() -> KeySecret {
    static SECRET: OnceLock<KeySecret> = OnceLock::new();
    // The standard library seeds each `RandomState` with random bytes of the operating system, and what it hashes to does not
    // tell the seed.
    *SECRET.get_or_init(|| KeySecret([0, 1].map(|part: u64| RandomState::new().hash_one(part))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_secret_that_is_not_the_one_of_tests() {
        assert_eq!(key_secret(), key_secret());
        assert_ne!(key_secret(), KeySecret::default());
        let KeySecret([first, second]) = key_secret();
        assert_ne!(first, second);
    }
}
