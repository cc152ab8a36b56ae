//! Frames of CPython.

use super::{
    process::Process,
    stack::{Stack, StackError},
};

/// Returns the stacks of the threads of a Python program.
///
/// # Errors
///
/// If the process is not one, its version is not supported, or its memory cannot be read.
pub fn stacks(_process: &Process<'_>) -> Result<Vec<Stack>, StackError> {
    Err(StackError::OtherProgram("Python"))
}
