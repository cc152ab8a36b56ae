//! Shared support of the agent's tests and xtask: the agent as a child process, sockets in network namespaces, the
//! contract of its output, the programs that get it, and the abilities and reports of the kernel.
//!
//! It depends on no part of the product: it starts the binary and reads its output.

pub mod ability;
pub mod agent;
pub mod blame;
pub mod clock;
pub mod engine;
pub mod first_thread;
pub mod generated;
pub mod http;
pub mod journal;
pub mod kmsg;
pub mod net;
pub mod schema;
pub mod sink;
pub mod socket;
