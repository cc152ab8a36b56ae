//! What the tests of the agent and xtask share: the agent as a child process, sockets in network namespaces, the contract of
//! its output, and what the kernel can do and reports.
//!
//! It depends on no part of the product: it starts the binary and reads what that prints.

pub mod ability;
pub mod agent;
pub mod blame;
pub mod clock;
pub mod kmsg;
pub mod net;
pub mod schema;
pub mod socket;
