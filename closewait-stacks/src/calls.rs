//! Calls of an interpreter, read until they do not change, and their frames.

use super::{
    memory::{MemoryError, MemoryReader},
    stack::{FRAME_BYTES, Frame, MAX_FRAMES, Stack},
};

/// Maximum number of calls of a stack that are passed, with those that an interpreter adds for itself.
pub(crate) const MAX_PASSED: usize = 3 * MAX_FRAMES;
/// Number of times that calls are read while they change.
const TRIES: usize = 3;

pub(crate) const UNREADABLE: &str = "a frame cannot be read";
pub(crate) const DAMAGED: &str = "a frame does not fit its function";
pub(crate) const DEEP: &str = "more frames are not read";
pub(crate) const CYCLE: &str = "the frames form a cycle";

/// Call before its names are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawCall {
    /// Address of the interpreter's own frame.
    pub(crate) address: u64,
    /// Address of the instruction.
    pub(crate) instruction: u64,
    /// Address of the function.
    pub(crate) function: u64,
    /// Address of its variables; 0 where they are not used.
    pub(crate) variables: u64,
    /// Whether it is the outermost call of a stack that is read to its end.
    pub(crate) is_outermost: bool,
}

/// Calls, innermost first.
#[derive(Debug)]
pub(crate) struct RawCalls {
    pub(crate) calls: Vec<RawCall>,
    /// Reason why outer calls are missing.
    pub(crate) cut: Option<&'static str>,
    /// Whether inner calls are missing, because they changed.
    pub(crate) is_running: bool,
}

impl RawCalls {
    pub(crate) const fn new(calls: Vec<RawCall>, cut: Option<&'static str>) -> Self {
        Self { calls, cut, is_running: false }
    }

    /// Reads calls until they are the same twice. While they change, only outer calls that did not change are certain.
    pub(crate) fn settled(read: &dyn Fn() -> Result<Self, MemoryError>) -> Result<Self, MemoryError> {
        let mut raw = read()?;
        let mut same = raw.calls.len();
        for _ in 1..TRIES {
            let again = read()?;
            if again.calls == raw.calls {
                return Ok(again);
            }
            let pairs = raw.calls.iter().rev().zip(again.calls.iter().rev());
            same = same.min(pairs.take_while(|(one, other)| one == other).count());
            raw = again;
        }
        raw.calls.drain(..raw.calls.len() - same);
        Ok(Self { is_running: true, ..raw })
    }

    /// Returns the stack of these calls, whose frames `name` returns.
    pub(crate) fn stack(
        self,
        memory: MemoryReader<'_>,
        tid: Option<u32>,
        name: &dyn Fn(&RawCall) -> Result<NamedCall, MemoryError>,
    ) -> Result<Stack, MemoryError> {
        let mut frames = Vec::new();
        let mut cut = self.cut.map(str::to_owned);
        for call in &self.calls {
            let named = match name(call) {
                Ok(NamedCall::Call(frame)) => memory.keep(FRAME_BYTES).map(|()| NamedCall::Call(frame)),
                other => other,
            };
            let why = match named {
                Ok(NamedCall::Internal) => continue,
                Ok(NamedCall::Call(frame)) if frames.len() < MAX_FRAMES => {
                    frames.push(frame);
                    continue;
                }
                Ok(NamedCall::Call(_)) => format!("more than {MAX_FRAMES} frames"),
                Ok(NamedCall::Damaged) => DAMAGED.to_owned(),
                Err(MemoryError::Unreadable { .. } | MemoryError::Refused(_)) => UNREADABLE.to_owned(),
                Err(error @ MemoryError::Limit(_)) if frames.is_empty() => return Err(error),
                Err(error @ MemoryError::Limit(_)) => error.to_string(),
            };
            cut = Some(why);
            break;
        }
        let state = self.is_running.then(|| "running".to_owned());
        Ok(Stack { tid, number: None, name: None, state, frames, cut })
    }
}

/// Call with its names, or the reason why there is none.
#[derive(Debug)]
pub(crate) enum NamedCall {
    /// Call of a function.
    Call(Frame),
    /// Call that the interpreter adds for itself.
    Internal,
    /// Call that does not fit its function.
    Damaged,
}
