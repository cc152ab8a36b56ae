//! JSON objects of stacks.

use serde::Serialize;

use super::seconds;
#[cfg(test)]
use crate::sink::document::*;
use closewait_engine::{
    stacks::{CodeFrame, StackGroup, ThreadWork},
    time::BootTime,
};

/// Threads with equal stacks.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct StackGroupObject<'a> {
    /// Number of threads or goroutines.
    count: u32,
    /// The first 8 threads, in the agent's pid namespace; empty for goroutines that no thread runs.
    tids: &'a [u32],
    /// Kind of code: `go`, `python` or `native`.
    language: &'static str,
    /// State in the words of the runtime; `null` if the runtime has none.
    state: Option<&'a str>,
    /// Whether the threads wait for their next piece of work.
    idle: bool,
    /// Event that the threads wait for, in words; `null` if the stack does not show it.
    waits_for: Option<&'static str>,
    /// Number of the frame in `frames`, from 0, that is the application's innermost one; `null` if there is none.
    place: Option<usize>,
    /// Frames, innermost first.
    frames: Vec<FrameObject<'a>>,
    /// Reason why outer frames are missing; `null` if all are there.
    cut: Option<&'a str>,
    /// Time for which some of these threads were at this line in each sample, in seconds: 0 in the first sample, `null` in an answer of
    /// one sample.
    at_line_seconds: Option<f64>,
}

/// Call of a function that has not returned.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct FrameObject<'a> {
    /// Name of the function; `null` if it is unknown.
    function: Option<&'a str>,
    /// Source file, as the program names it; `null` if it is unknown.
    file: Option<&'a str>,
    /// Line in the source file, from 1; `null` if it is unknown.
    line: Option<u32>,
    /// Path of the executable or library; `null` for interpreted code.
    object: Option<&'a str>,
}

impl<'a> StackGroupObject<'a> {
    /// Converts a group of a sample that was taken at `at`.
    pub(in crate::sink) fn new(group: &'a StackGroup, at: Option<BootTime>) -> Self {
        let frame = |frame: &'a CodeFrame| FrameObject {
            function: frame.function.as_deref(),
            file: frame.file.as_deref(),
            line: frame.line,
            object: frame.object.as_deref(),
        };
        Self {
            count: group.count,
            tids: &group.tids,
            language: group.language.name(),
            state: group.state.as_deref(),
            idle: group.is_idle(),
            waits_for: match group.work {
                ThreadWork::Idle(work) => Some(work),
                ThreadWork::Waits(wait) => Some(wait.words()),
                ThreadWork::Unknown => None,
            },
            place: group.place,
            frames: group.frames.iter().map(frame).collect(),
            cut: group.cut.as_deref(),
            at_line_seconds: at.zip(group.since).map(|(at, since)| seconds(at.since(since))),
        }
    }
}
