//! Where observations come from.
//!
//! - [`program`]: the object with the kernel programs, loaded as the plan says.
//! - [`ring`]: records of the tracepoint, as they come.
//! - [`snapshot`]: the sockets that are in CLOSE_WAIT now.
//! - `test_run`: a system call that aya does not offer.
//! - [`diag`]: the same asked of `sock_diag`, where the kernel has no iterators.

pub mod diag;
pub mod program;
pub mod ring;
pub mod snapshot;
mod test_run;
