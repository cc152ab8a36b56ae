//! Result of a read: stacks and frames.

use std::sync::Arc;

use super::memory::MemoryError;

/// Maximum number of frames of a stack; those nearest to the innermost one come first.
pub const MAX_FRAMES: usize = 128;
/// Number of bytes that a frame counts for the limit of what a reading keeps: those of its forms before and after its names are known.
pub(crate) const FRAME_BYTES: usize = 128;

/// State of a task of Python that waits. No thread has it.
pub const TASK_STATE: &str = "waiting";

/// Stack of a thread, or of what a runtime runs on its threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// Thread that runs it, see [`super::TargetThread::tid`]; `None` for what no thread runs at the moment, and if it is unknown.
    pub tid: Option<u32>,
    /// Number that the runtime has given to a goroutine, or to another thread of its own.
    pub number: Option<u64>,
    /// Name of a task of Python; `None` for a thread.
    pub name: Option<Arc<str>>,
    /// State in the words of the runtime: `semacquire`, `IO wait`; [`TASK_STATE`] of a task of Python.
    pub state: Option<String>,
    /// Frames, innermost first.
    pub frames: Vec<Frame>,
    /// Reason why outer frames are missing; `None` if the outermost frame is there.
    pub cut: Option<String>,
}

/// Call of a function that has not returned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Name of the function, at most [`MAX_FUNCTION_BYTES`](super::limit::MAX_FUNCTION_BYTES) long; `None` if it is unknown.
    pub function: Option<Arc<str>>,
    /// Source file, as the program names it, at most [`MAX_FILE_BYTES`](super::limit::MAX_FILE_BYTES) long.
    pub file: Option<Arc<str>>,
    /// Line in the source file, from 1.
    pub line: Option<u32>,
    /// Path of the executable or library that has the function, as long as that of a source file at most; `None` for interpreted code.
    pub object: Option<Arc<str>>,
    /// Address in memory of machine code: that of the instruction, or of the last byte of the call; `None` for other code.
    pub address: Option<u64>,
    /// Whether only a frame pointer leads to it or to a frame inside of it, without a table for unwinding: frames inside of it can be
    /// missing, and it may be none.
    pub is_guess: bool,
}

/// Reason why no stack was read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StackError {
    /// The process does not run this kind of program.
    #[error("no {0} program")]
    OtherProgram(&'static str),
    /// The version of the runtime is not supported.
    #[error("{runtime} {version} is not supported")]
    Version {
        /// Name of the runtime.
        runtime: &'static str,
        /// Version of the runtime, as far as it is known.
        version: String,
    },
    /// What was found is not what a runtime has there.
    #[error("{0}")]
    Unexpected(String),
    /// The memory could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl std::fmt::Display for Frame {
    /// Writes `function (file:line)`, or the object if no file is known.
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(self.function.as_deref().unwrap_or("?"))?;
        match (&self.file, self.line, &self.object) {
            (Some(file), Some(line), _) => write!(to, " ({file}:{line})"),
            (Some(file), None, _) => write!(to, " ({file})"),
            (None, _, Some(object)) => write!(to, " ({object})"),
            (None, _, None) => Ok(()),
        }?;
        if self.is_guess { to.write_str(" by frame pointer") } else { Ok(()) }
    }
}

impl std::fmt::Display for Stack {
    /// Writes a line with thread, number and state, and a line for each frame.
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.tid, self.number) {
            _ if let Some(name) = &self.name => write!(to, "task {name}")?,
            (Some(tid), None) => write!(to, "thread {tid}")?,
            (None, Some(number)) => write!(to, "number {number}")?,
            (Some(tid), Some(number)) => write!(to, "thread {tid}, number {number}")?,
            (None, None) => to.write_str("unknown thread")?,
        }
        if let Some(state) = &self.state {
            write!(to, ": {state}")?;
        }
        for frame in &self.frames {
            write!(to, "\n  {frame}")?;
        }
        self.cut.iter().try_for_each(|why| write!(to, "\n  ... {why}"))
    }
}
