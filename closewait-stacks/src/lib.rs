//! Stacks of the threads of a process, read from its memory.
//!
//! Nothing here stops, signals or changes a process: [`Memory`] has a read and no write. What a process has in its memory is hostile
//! input, so one limit ends every walk ([`ReadLimit`](memory::ReadLimit)), and names are escaped where they are shown.
//!
//! - [`memory`]: reads with a limit ([`limit`]); [`live`]: those of a running process; [`image`]: those of a saved one, for tests.
//! - [`elf`]: executables and libraries as they are loaded; [`files`]: symbols that are only in their files.
//! - A module for each kind of program: [`go`], [`python`], [`php`], [`ruby`], [`native`]; [`jvm`] parses what a Java virtual machine
//!   writes about itself.
//!
//! A process runs while it is read, so a stack can be torn. One sample is an indication; two samples that agree are evidence.

mod blocks;
mod calls;
pub mod elf;
pub mod files;
pub mod go;
pub mod image;
pub mod jvm;
mod kind;
pub mod limit;
pub mod live;
pub mod memory;
pub mod native;
mod numbers;
pub mod php;
pub mod process;
pub mod python;
pub mod ruby;
mod runtime;
pub mod stack;

pub use kind::ProgramKind;
pub use memory::{Memory, MemoryError, MemoryReader};
pub use process::{CopiedStack, Mapping, Registers, Symbols, TargetProcess, TargetThread};
pub use stack::{Frame, Stack, StackError};
