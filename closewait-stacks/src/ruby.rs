//! Frames of MRI, the reference implementation of Ruby: 2.7, 3.1 and 3.3.
//!
//! The walk goes from `ruby_current_vm_ptr` over threads, since 3.0 those of each ractor, to their control frames. Libraries of 3.3
//! do not export that symbol: then the pointer is the one, in their variables, to a virtual machine whose main thread names it. Each
//! step checks what it finds: threads name their machine, execution contexts their thread, and objects have their types. What does not
//! fit is an error, or ends the stack with [`Stack::cut`].
//!
//! Verified on x86_64 with `Thread#backtrace` of running programs: 2.7.4, 3.1.2 and 3.3.8 of Debian. Other versions are an error.
//!
//! Not supported: other implementations, such as JRuby and TruffleRuby. A fiber that waits has no frames here.

mod layout;
mod methods;
mod objects;
mod sequences;
mod vm;
mod walk;

use super::{
    process::TargetProcess,
    stack::{Stack, StackError},
};

/// Returns the stacks of the threads of a Ruby program. A stack has the state `running` if its frames changed while they were read: then
/// only the frames that did not change are there. Methods of the interpreter and of extensions have a name only.
///
/// # Errors
///
/// If the process is none, its version is not supported, or its memory cannot be read.
pub fn stacks(process: &TargetProcess<'_>) -> Result<Vec<Stack>, StackError> {
    walk::RubyWalk::new(process, vm::RunningRuby::find(process)?).stacks()
}
