//! Frames of CPython 3.8 to 3.15.
//!
//! The walk goes from `_PyRuntime` over interpreters and thread states to frames. Offsets of the structs come from the process itself
//! where it publishes them (`_Py_DebugOffsets`, 3.13 and later), else from a table per minor version. Each step checks what it finds:
//! a thread state names its interpreter, and objects have the types `code`, `str` and `bytes`. What does not fit is an error, or ends the
//! stack with [`Stack::cut`]; so an unknown layout gives no frames instead of wrong ones.
//!
//! Verified on x86_64 with running interpreters, whose own report (`sys._current_frames`) has the same frames: 3.8.18, 3.9.2, 3.9.18,
//! 3.10.13, 3.11.2, 3.11.7, 3.12.1, 3.13.0, 3.13.5, 3.14.10 and 3.15.2, as executables and as libraries, and with `Py_DEBUG` 3.9.2 and
//! 3.13.5. In one release of each minor version, the lines of some 20,000 code objects were those of `PyCode_Addr2Line`. Other releases,
//! and aarch64, rest on the headers and on the checks of each step.
//!
//! Not supported: builds without the global interpreter lock (3.13t and later), builds with `Py_TRACE_REFS`, other implementations such
//! as PyPy. A greenlet that waits (gevent, eventlet) has no frames here.
//!
//! Tasks of asyncio that wait are verified in the same way, against the coroutines that the program itself follows: 3.8.18, 3.9.18,
//! 3.10.13, 3.11.2, 3.11.7, 3.12.1, 3.13.0, 3.13.18, 3.14.10 and 3.15.2, with 39 or 40 tasks each.

mod code;
mod coroutines;
mod heap;
mod layout;
mod lines;
mod objects;
mod runtime;
mod task_layout;
mod tasks;
mod walk;

use super::{
    process::TargetProcess,
    stack::{Stack, StackError},
};

/// Returns the stacks of the threads of a Python program, newest thread first, then those of the tasks of asyncio that wait, oldest first.
///
/// A stack has the state `holds the GIL` if its thread holds the global interpreter lock, `waits for the GIL` if 3.15 or later says so,
/// and `running` if its frames changed while they were read: then only the frames that did not change are there. A thread that runs
/// code of several interpreters has one stack for each of them. Threads without frames of Python are left out. A task has no thread, but a name,
/// and the state [`TASK_STATE`](super::stack::TASK_STATE).
///
/// # Errors
///
/// If the process is not one, its version is not supported, or its memory cannot be read.
pub fn stacks(process: &TargetProcess<'_>) -> Result<Vec<Stack>, StackError> {
    walk::PythonWalk::new(process, runtime::RunningPython::find(process)?).stacks()
}
