//! What the kernel program and the agent agree on, defined once.
//!
//! Rules for everything that crosses the border between the two:
//!
//! - `repr(C)`, integers and byte arrays only: the verifier knows no `bool`, `enum` or `Option`.
//! - Padding is a named field, so that no byte is left unset.
//! - Sizes and offsets are asserted at compile time, which holds for both sides because both compile this crate.
//! - Units are in the name (`_ns`, `_bytes`, `_ticks`).
//! - A fact that is missing has a flag that is not set; [`Record::has`] tells, and zero is never "unknown".

#![no_std]

pub mod config;
pub mod histogram;
pub mod kept;
pub mod names;
pub mod record;
pub mod stats;
pub mod tcp;
pub mod watched;

pub use record::{Detailed, Record};
