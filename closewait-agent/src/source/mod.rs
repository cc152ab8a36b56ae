//! Sources of observations.
//!
//! - [`program`]: the object with the kernel programs, loaded as the plan says.
//! - [`pins`]: programs and maps that outlive the agent.
//! - [`ring`]: records of the tracepoint.
//! - [`records`]: the kernel side as the event loop uses it, with another implementation in tests.
//! - [`scanner`]: scans of present sockets and their owners, with the facilities of this host.
//! - [`worker`]: threads that scan and inspect, so that the event loop never waits.
//! - [`inspector`]: owners, cgroups, namespaces.
//! - [`connects`]: stacks in which owners connect.
//! - [`unread`]: requests that owners have not read.
//! - [`jvm`]: threads of a Java virtual machine, which it dumps itself.
//! - [`owners`]: owners of sockets, where the kernel has no iterator over open files.
//! - [`processes`]: identity and activity of owners, and locations of sockets without one.
//! - `pod_names`: names of pods and containers for workloads.
//! - `unix`: connections of owners over UNIX sockets, and the programs behind them.
//! - [`ended`]: whether a process has ended.
//! - `slots`: times of entry in memory that the kernel program shares.
//! - `batch`: refreshes of many sockets at once.
//! - `mapping`: memory of maps.
//! - `calls`: forms of a system call that aya does not offer.
//! - `types`: the few kernel types that aya needs.
//! - `files`: records of the iterators over open files.
//! - [`diag`]: sockets as `sock_diag` lists them.
//! - [`destroy`]: destruction of sockets; no source.

mod batch;
mod calls;
pub mod connects;
pub mod destroy;
pub mod diag;
pub mod ended;
pub mod files;
pub mod inspector;
pub mod jvm;
mod mapping;
pub mod owners;
mod passes;
pub mod pins;
mod places;
mod pod_names;
pub mod processes;
pub mod program;
pub mod records;
pub mod ring;
pub mod scanner;
mod slots;
pub mod stacks;
mod types;
mod unix;
pub mod unread;
pub mod worker;

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::OnceLock,
};

use closewait_engine::model::KeySecret;

/// Returns the secret from which this process derives keys for the endpoints of connections.
pub fn key_secret() -> KeySecret {
    static SECRET: OnceLock<KeySecret> = OnceLock::new();
    // The standard library seeds each `RandomState` with random bytes of the operating system, and its hashes do not
    // reveal the seed.
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
