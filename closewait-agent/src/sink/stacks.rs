//! Text and JSON of `closewait stacks`.

use std::{fmt::Write as _, io};

use serde::Serialize;

use super::{Form, json, schema::SCHEMA_VERSION};
#[cfg(test)]
use crate::sink::document::*;
use closewait_engine::{
    stacks::{CodeFrame, CodeLanguage, LockOwner, StackGroup, ThreadWork},
    text::{Comm, count},
};

/// Maximum number of frames of a group in text; JSON has all.
const MAX_SHOWN_FRAMES: usize = 12;

/// Stacks of a process to show.
#[derive(Debug)]
pub struct StacksPage<'a> {
    /// The process.
    pub pid: u32,
    /// Name of the process.
    pub comm: &'a Comm,
    /// Number of threads.
    pub threads: usize,
    /// Groups of equal stacks, those that are not idle first.
    pub groups: &'a [StackGroup],
    /// Reasons why stacks are missing.
    pub unread: &'a [String],
}

/// Writes the stacks of a process as text, or as one JSON object.
///
/// # Errors
///
/// If a value cannot be written as JSON.
pub fn render(page: &StacksPage<'_>, form: Form, to: &mut Vec<u8>) -> io::Result<()> {
    match form {
        Form::Json => json::write_line(&ProcessStacksLine::of(page), to),
        Form::Text => {
            to.extend_from_slice(text(page).as_bytes());
            Ok(())
        }
    }
}

fn text(page: &StacksPage<'_>) -> String {
    let mut text = String::new();
    let total: u64 = page.groups.iter().map(|group| u64::from(group.count)).sum();
    let threads = count(page.threads as u64, "thread");
    let stacks = count(total, "stack");
    // Writing to a string cannot fail.
    let _infallible = writeln!(text, "{}[{}]: {threads}, {stacks}", page.comm, page.pid);
    for group in page.groups {
        let _infallible = writeln!(text, "\n{}", headline(group));
        if let Some(lock_owner) = &group.lock_owner {
            let _infallible = writeln!(text, "  held by {}", held_by(lock_owner));
        }
        if !group.is_idle() {
            frames(group, &mut text);
        }
    }
    for why in page.unread {
        let _infallible = writeln!(text, "\nnot read: {why}");
    }
    text
}

/// Returns what the threads of a group do, in a line: `8 threads wait for a lock in reserve (orders.py:7)`.
fn headline(group: &StackGroup) -> String {
    let one = if group.language == CodeLanguage::Go { "goroutine" } else { "thread" };
    let who = count(group.count, one);
    let (s, is) = if group.count == 1 { ("s", "is") } else { ("", "are") };
    let place = match group.place() {
        Some(place) => format!(" in {place}"),
        None => String::new(),
    };
    let state = match &group.state {
        Some(state) => format!(", {state}"),
        None => String::new(),
    };
    match group.work {
        ThreadWork::Idle(work) => format!("{who} {is} idle: wait{s} for {work}{state}"),
        ThreadWork::Waits(wait) => format!("{who} wait{s} for {}{place}{state}", wait.words()),
        ThreadWork::Unknown => format!("{who}{place}{state}"),
    }
}

/// Returns the thread that owns a lock, and what it does: `audit[24026], which waits for a period of time in Orders.write
/// (Orders.java:94)`.
fn held_by(lock_owner: &LockOwner) -> String {
    let name = lock_owner.name.as_deref().unwrap_or("a thread without a name");
    let tid = lock_owner.tid.map_or_else(String::new, |tid| format!("[{tid}]"));
    let work = match lock_owner.work {
        ThreadWork::Idle(work) => format!(", which is idle: waits for {work}"),
        ThreadWork::Waits(wait) => format!(", which waits for {}", wait.words()),
        ThreadWork::Unknown => String::new(),
    };
    let place = lock_owner.place.as_ref().map_or_else(String::new, |place| format!(" in {place}"));
    format!("{name}{tid}{work}{place}")
}

fn frames(group: &StackGroup, text: &mut String) {
    for (at, frame) in group.frames.iter().take(MAX_SHOWN_FRAMES).enumerate() {
        let mark = if group.place == Some(at) { '>' } else { ' ' };
        let _infallible = writeln!(text, "  {mark} {frame}");
    }
    let more = group.frames.len().saturating_sub(MAX_SHOWN_FRAMES);
    if more > 0 {
        let _infallible = writeln!(text, "    and {more} more");
    } else if let Some(why) = &group.cut {
        let _infallible = writeln!(text, "    not read further: {why}");
    }
}

/// Stacks of a process.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(rename = "ProcessStacks"))]
pub(super) struct ProcessStacksLine<'a> {
    /// Version of the schema.
    #[cfg_attr(test, schemars(with = "Version"))]
    schema_version: u32,
    /// Process.
    pid: u32,
    /// Name of the process.
    comm: &'a str,
    /// Number of threads of the process.
    threads: usize,
    /// Groups of threads with equal stacks: those that are not idle first, then the larger ones.
    groups: Vec<StackGroupObject<'a>>,
    /// Reasons why stacks are missing, a sentence each.
    unread: &'a [String],
}

/// Threads with equal stacks.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct StackGroupObject<'a> {
    /// Number of threads or goroutines.
    count: u32,
    /// The first 8 threads, in the agent's pid namespace; empty for goroutines that no thread runs.
    tids: &'a [u32],
    /// Names of the first 8 threads that have one in the runtime: `http-nio-8080-exec-1`; empty where no reader knows them.
    names: &'a [String],
    /// Kind of code: `go`, `python`, `jvm` or `native`.
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

impl<'a> ProcessStacksLine<'a> {
    fn of(page: &'a StacksPage<'_>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            pid: page.pid,
            comm: page.comm.as_str(),
            threads: page.threads,
            groups: page.groups.iter().map(StackGroupObject::of).collect(),
            unread: page.unread,
        }
    }
}

impl<'a> StackGroupObject<'a> {
    fn of(group: &'a StackGroup) -> Self {
        Self {
            count: group.count,
            tids: &group.tids,
            names: &group.names,
            language: group.language.name(),
            state: group.state.as_deref(),
            idle: group.is_idle(),
            waits_for: waits_for(group.work),
            lock_owner: group.lock_owner.as_ref().map(LockOwnerObject::of),
            place: group.place,
            frames: group.frames.iter().map(FrameObject::of).collect(),
            cut: group.cut.as_deref(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use closewait_engine::stacks::{CodeStack, group_stacks};

    fn stack(tid: u32, frames: &[(&str, &str, u32)]) -> CodeStack {
        let frame = |(function, file, line): &(&str, &str, u32)| CodeFrame {
            function: Some((*function).to_owned()),
            file: Some((*file).to_owned()),
            line: Some(*line),
            object: None,
        };
        let frames = frames.iter().map(frame).collect();
        CodeStack {
            language: CodeLanguage::Python,
            tid: Some(tid),
            name: None,
            state: None,
            lock_owner: None,
            frames,
            cut: None,
        }
    }

    #[test]
    fn the_place_of_the_application_comes_first_and_idle_threads_are_a_line() {
        let queue = ("get", "/usr/lib/python3.11/queue.py", 171);
        let worker = ("_worker", "/usr/lib/python3.11/concurrent/futures/thread.py", 81);
        let waiting = [queue, ("reserve", "/srv/app/orders.py", 7), worker];
        let stacks = [stack(11, &waiting), stack(12, &waiting), stack(13, &[worker])];
        let groups = group_stacks(&stacks);
        let comm = Comm::from_name(b"python3");
        let unread = ["the stacks of machine code were not read: it ended".to_owned()];
        let page = StacksPage { pid: 10, comm: &comm, threads: 4, groups: &groups, unread: &unread };
        let expected = "\
python3[10]: 4 threads, 3 stacks

2 threads wait for another thread in reserve (orders.py:7)
    get (queue.py:171)
  > reserve (orders.py:7)
    _worker (thread.py:81)

1 thread is idle: waits for work

not read: the stacks of machine code were not read: it ended
";
        assert_eq!(text(&page), expected);
        let mut json = Vec::new();
        render(&page, Form::Json, &mut json).unwrap();
        let object: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!((&object["groups"][0]["place"], &object["groups"][1]["idle"]), (&1.into(), &true.into()));
        assert!(object["groups"][0]["lock_owner"].is_null());
    }

    #[test]
    fn the_holder_of_a_lock_is_named() {
        let waits = CodeStack {
            language: CodeLanguage::Jvm,
            name: Some("http-1".to_owned()),
            state: Some("BLOCKED (on object monitor)".to_owned()),
            lock_owner: Some(1),
            ..stack(11, &[("shop.Orders.reserve", "Orders.java", 98)])
        };
        let sleep = ("java.lang.Thread.sleep", "Thread.java", 509);
        let holds = CodeStack {
            language: CodeLanguage::Jvm,
            name: Some("audit".to_owned()),
            ..stack(12, &[sleep, ("shop.Orders.write", "Orders.java", 94)])
        };
        let groups = group_stacks(&[waits, holds]);
        let comm = Comm::from_name(b"java");
        let page = StacksPage { pid: 10, comm: &comm, threads: 2, groups: &groups, unread: &[] };
        let expected = "\
java[10]: 2 threads, 2 stacks

1 thread waits for a period of time in shop.Orders.write (Orders.java:94)
    java.lang.Thread.sleep (Thread.java:509)
  > shop.Orders.write (Orders.java:94)

1 thread waits for a lock in shop.Orders.reserve (Orders.java:98), BLOCKED (on object monitor)
  held by audit[12], which waits for a period of time in shop.Orders.write (Orders.java:94)
  > shop.Orders.reserve (Orders.java:98)
";
        assert_eq!(text(&page), expected);
        let mut json = Vec::new();
        render(&page, Form::Json, &mut json).unwrap();
        let object: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let lock_owner = &object["groups"][1]["lock_owner"];
        assert_eq!((&lock_owner["name"], &lock_owner["place"]["line"]), (&"audit".into(), &94.into()));
    }
}
