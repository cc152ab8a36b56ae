//! Contract between the kernel program and the agent, defined once.
//!
//! Rules for all shared data:
//!
//! - `repr(C)`, integers and byte arrays only: the verifier has no `bool`, `enum` or `Option`.
//! - Padding is a named field, so that no byte is left unset.
//! - Sizes and offsets are asserted at compile time, for both sides, because both compile this crate.
//! - Units are in the name (`_ns`, `_bytes`, `_ticks`).
//! - A missing fact has an unset flag ([`Record::has`]); zero is never "unknown".

#![no_std]

pub mod batch;
pub mod config;
pub mod connect;
pub mod histogram;
pub mod kept;
pub mod names;
pub mod passes;
pub mod record;
pub mod refresh;
pub mod slots;
pub mod stats;
pub mod tcp;
pub mod watched;

pub use record::{Detailed, Record};
