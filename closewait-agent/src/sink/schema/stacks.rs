//! JSON objects of stacks.

use serde::Serialize;

use super::seconds;
#[cfg(test)]
use crate::sink::document::*;
use closewait_engine::{
    stacks::{CodeFrame, LockOwner, ProcessStacks, StackGroup, ThreadWork},
    time::BootTime,
};

/// Maximum number of groups of stacks in an event.
const MAX_GROUPS: usize = 8;

/// Threads, goroutines or tasks with equal stacks.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct StackGroupObject<'a> {
    /// Kind of these: `thread`, `goroutine`, or `task` of an event loop.
    unit: &'static str,
    /// Number of threads, goroutines or tasks.
    count: u32,
    /// The first 8 threads, in the agent's pid namespace; empty for goroutines that no thread runs, and for tasks.
    tids: &'a [u32],
    /// Names of the first 8 threads or tasks that have one in the runtime: `http-nio-8080-exec-1`, `Task-7`; empty where no reader knows them.
    names: &'a [String],
    /// Kind of code: `go`, `python`, `php`, `ruby`, `jvm` or `native`.
    language: &'static str,
    /// State in the words of the runtime; `null` if the runtime has none.
    state: Option<&'a str>,
    /// Whether the threads wait for their next piece of work.
    idle: bool,
    /// Event that the threads wait for, in words; `null` if the stack does not show it.
    waits_for: Option<&'static str>,
    /// Thread that owns the lock that these wait for; `null` if the runtime does not say it.
    lock_owner: Option<LockOwnerObject<'a>>,
    /// Number of the frame in `frames`, from 0, that is the application's innermost one; `null` if there is none.
    place: Option<usize>,
    /// Frames, innermost first.
    frames: Vec<FrameObject<'a>>,
    /// Reason why outer frames are missing; `null` if all are there.
    cut: Option<&'a str>,
    /// Time for which some of these threads were at this line in each sample, in seconds: 0 in the first sample, `null` in an answer of
    /// one sample.
    at_line_seconds: Option<f64>,
    /// Time since the sample, in seconds; `null` in an answer of one sample.
    age_seconds: Option<f64>,
}

/// Thread that owns a lock that others wait for.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct LockOwnerObject<'a> {
    /// Name of the thread; `null` if it has none.
    name: Option<&'a str>,
    /// Thread, in the agent's pid namespace; `null` for a virtual thread that no thread runs.
    tid: Option<u32>,
    /// Event that it waits for itself, in words; `null` if its stack does not show it.
    waits_for: Option<&'static str>,
    /// The application's innermost frame in its stack; `null` if there is none.
    place: Option<FrameObject<'a>>,
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
    /// Converts the first groups of a sample, for an event at `now`.
    pub(in crate::sink) fn first(stacks: &'a ProcessStacks, now: BootTime) -> Vec<Self> {
        let age_seconds = Some(seconds(now.since(stacks.at)));
        let groups = stacks.groups.iter().take(MAX_GROUPS);
        groups.map(|group| Self { age_seconds, ..Self::new(group, Some(stacks.at)) }).collect()
    }

    /// Converts a group of a sample that was taken at `at`.
    pub(in crate::sink) fn new(group: &'a StackGroup, at: Option<BootTime>) -> Self {
        Self {
            unit: group.unit(),
            count: group.count,
            tids: &group.tids,
            names: &group.names,
            language: group.language.name(),
            state: group.state.as_deref(),
            idle: group.is_idle(),
            waits_for: group.waits_for(),
            lock_owner: group.lock_owner.as_ref().map(LockOwnerObject::of),
            place: group.place,
            frames: group.frames.iter().map(FrameObject::of).collect(),
            cut: group.cut.as_deref(),
            at_line_seconds: at.zip(group.since).map(|(at, since)| seconds(at.since(since))),
            age_seconds: None,
        }
    }
}

impl<'a> LockOwnerObject<'a> {
    fn of(lock_owner: &'a LockOwner) -> Self {
        Self {
            name: lock_owner.name.as_deref(),
            tid: lock_owner.tid,
            waits_for: waits_for(lock_owner.work),
            place: lock_owner.place.as_ref().map(FrameObject::of),
        }
    }
}

impl<'a> FrameObject<'a> {
    fn of(frame: &'a CodeFrame) -> Self {
        Self {
            function: frame.function.as_deref(),
            file: frame.file.as_deref(),
            line: frame.line,
            object: frame.object.as_deref(),
        }
    }
}

const fn waits_for(work: ThreadWork) -> Option<&'static str> {
    match work {
        ThreadWork::Idle(work) => Some(work),
        ThreadWork::Waits(wait) => Some(wait.words()),
        ThreadWork::Unknown => None,
    }
}
