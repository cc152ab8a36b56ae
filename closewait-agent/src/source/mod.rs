//! Where observations come from.
//!
//! - [`program`]: the object with the kernel programs, loaded as the plan says.
//! - [`pins`]: programs and maps that outlive the agent.
//! - [`ring`]: records of the tracepoint, as they come.
//! - [`snapshot`]: the sockets that are in CLOSE_WAIT now.
//! - [`walk`]: all of that, by whatever this host offers.
//! - [`inquiry`]: owners, cgroups, namespaces.
//! - [`holders`]: who holds which socket, where the kernel has no iterator over open files.
//! - [`processes`]: what owners are and do, and where sockets are that nobody holds.
//! - `calls`: forms of a system call that aya does not offer.
//! - `types`: the little that aya has to know of the kernel's types.
//! - [`diag`]: the same asked of `sock_diag`, where the kernel has no iterators.
//! - [`destroy`]: no source at all: sockets are destroyed.

mod calls;
pub mod destroy;
pub mod diag;
pub mod holders;
pub mod inquiry;
pub mod pins;
pub mod processes;
pub mod program;
pub mod ring;
pub mod snapshot;
mod types;
pub mod walk;
