//! Native frames.

use super::{
    process::Process,
    stack::{Stack, StackError},
};

/// Returns the stacks of the threads of a process, in machine code.
///
/// # Errors
///
/// If its memory cannot be read.
pub fn stacks(_process: &Process<'_>) -> Result<Vec<Stack>, StackError> {
    Err(StackError::OtherProgram("native"))
}
