//! Frames of PHP 7.4, 8.2 and 8.4, without thread safety: `php`, a worker of `php-fpm`, `mod_php`.
//!
//! The walk goes from `executor_globals` over `current_execute_data` from call to call. The version is that of the interface that the
//! first module names (`ZEND_MODULE_API_NO`). Each step checks what it finds: a function has one of two types, and the instruction of a
//! call is one of its function. What does not fit ends the stack with [`Stack::cut`].
//!
//! Verified on x86_64 with `debug_backtrace` of running scripts: 7.4.33, 8.2 and 8.4 of Debian. Other versions are an error.
//!
//! Not supported: builds with thread safety (ZTS, such as FrankenPHP), builds with `--enable-debug`. A fiber that waits has no frames
//! here, and neither has a generator that delegates to another (`yield from`).

mod version;
mod walk;

use super::{
    process::TargetProcess,
    stack::{Stack, StackError},
};

/// State of a process that runs no script: a worker that waits for a request.
pub const NO_SCRIPT: &str = "no script";

/// Returns the stack of a PHP program's first thread, which runs its script. Without a script it has no frames, and the state
/// [`NO_SCRIPT`].
///
/// # Errors
///
/// If the process is none, its version is not supported, or its memory cannot be read.
pub fn stacks(process: &TargetProcess<'_>) -> Result<Vec<Stack>, StackError> {
    walk::PhpWalk::new(process, version::RunningPhp::find(process)?).stack().map(|stack| vec![stack])
}
