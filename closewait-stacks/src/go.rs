//! Goroutines of Go programs.

use super::{
    process::Process,
    stack::{Stack, StackError},
};

/// Returns the stacks of the goroutines of a Go program.
///
/// # Errors
///
/// If the process is not one, its version is not supported, or its memory cannot be read.
pub fn stacks(_process: &Process<'_>) -> Result<Vec<Stack>, StackError> {
    Err(StackError::OtherProgram("Go"))
}
