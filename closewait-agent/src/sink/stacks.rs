//! Text and JSON of `closewait stacks`.

use std::{fmt::Write as _, io};

use serde::Serialize;

use super::{
    Form, json,
    schema::{SCHEMA_VERSION, StackGroupObject},
};
#[cfg(test)]
use crate::sink::document::*;
use closewait_engine::{
    stacks::{CodeFrame, LockOwner, StackGroup, ThreadWork, carriers::PinnedCarriers},
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
    /// Number of its threads that were left out, because they are too many; `unread` says so, too.
    pub threads_left_out: usize,
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
    if let Some(pinned) = PinnedCarriers::of(page.groups, false) {
        let _infallible = writeln!(text, "\n{}", pinned_line(&pinned));
    }
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

/// Returns what the threads of a group do, with their state in the words of the runtime.
fn headline(group: &StackGroup) -> String {
    let state =
        group.state.as_ref().filter(|_| !group.are_tasks()).map(|state| format!(", {state}")).unwrap_or_default();
    format!("{}{state}", group.headline())
}

/// Returns what the carriers of virtual threads do, all of which are pinned, and the owner of the lock that they wait for.
pub(super) fn pinned_line(pinned: &PinnedCarriers) -> String {
    format!("{}{}", pinned.headline(), owner_clause(pinned.lock_owner.as_ref(), "; "))
}

/// Returns the owner of a lock behind a separator; nothing for a lock whose owner is unknown.
pub(super) fn owner_clause(lock_owner: Option<&LockOwner>, separator: &str) -> String {
    lock_owner.map_or_else(String::new, |lock_owner| format!("{separator}held by {}", held_by(lock_owner)))
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

/// Returns the first frames of a group, a line each, with a mark at the application's own, and the number of the others. The application's
/// own is always there, with its caller, in place of some that it has called.
pub(super) fn frame_lines(group: &StackGroup) -> Vec<String> {
    let line = |at: usize, frame: &CodeFrame| format!("{} {frame}", if group.place == Some(at) { '>' } else { ' ' });
    let frames = || group.frames.iter().enumerate().map(|(at, frame)| line(at, frame));
    let more = |number: usize, and: &str| (number > 0).then(|| format!("  {and}{number} more"));
    // The last two of those that are shown.
    let outer = group.place.unwrap_or(0).max(MAX_SHOWN_FRAMES - 2);
    let inner = MAX_SHOWN_FRAMES - 2;
    let mut lines: Vec<String> = frames().take(inner).collect();
    lines.extend(more(outer - inner, "").filter(|_| group.frames.len() > outer));
    lines.extend(frames().skip(outer).take(2));
    lines.extend(more(group.frames.len().saturating_sub(outer + 2), "and "));
    lines
}

fn frames(group: &StackGroup, text: &mut String) {
    for line in frame_lines(group) {
        let _infallible = writeln!(text, "  {line}");
    }
    if let Some(why) = group.cut.as_ref().filter(|_| group.frames.len() <= MAX_SHOWN_FRAMES) {
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
    /// Number of its threads that were left out, because they are too many.
    threads_left_out: usize,
    /// Groups of threads with equal stacks: those that are not idle first, then the larger ones.
    groups: Vec<StackGroupObject<'a>>,
    /// Reasons why stacks are missing, a sentence each.
    unread: &'a [String],
}

impl<'a> ProcessStacksLine<'a> {
    fn of(page: &'a StacksPage<'_>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            pid: page.pid,
            comm: page.comm.as_str(),
            threads: page.threads,
            threads_left_out: page.threads_left_out,
            groups: page.groups.iter().map(|group| StackGroupObject::new(group, None)).collect(),
            unread: page.unread,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use closewait_engine::{
        stacks::{CodeLanguage, CodeStack, group_stacks},
        testing::python_stack as stack,
    };

    #[test]
    fn the_place_of_the_application_comes_first_and_idle_threads_are_a_line() {
        let queue = ("get", "/usr/lib/python3.11/queue.py", 171);
        let worker = ("_worker", "/usr/lib/python3.11/concurrent/futures/thread.py", 81);
        let waiting = [queue, ("reserve", "/srv/app/orders.py", 7), worker];
        let stacks = [stack(11, &waiting), stack(12, &waiting), stack(13, &[worker])];
        let groups = group_stacks(&stacks);
        let comm = Comm::from_name(b"python3");
        let unread = ["the stacks of machine code were not read: it ended".to_owned()];
        let page =
            StacksPage { pid: 10, comm: &comm, threads: 4, threads_left_out: 0, groups: &groups, unread: &unread };
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
    fn the_place_of_the_application_is_shown_in_a_long_stack() {
        let library = |line| ("wait", "/usr/lib/python3/dist-packages/pool.py", line);
        let shown = |inner: u32, outer: u32| {
            let mut frames: Vec<_> = (1..=inner).map(library).collect();
            frames.push(("reserve", "/srv/app/orders.py", 7));
            frames.extend((1..=outer).map(|line| ("caller", "/srv/app/orders.py", line)));
            frame_lines(&group_stacks(&[stack(11, &frames)])[0])
        };
        let lines = shown(14, 5);
        assert_eq!(lines.len(), MAX_SHOWN_FRAMES + 2, "{lines:#?}");
        assert_eq!(
            lines[9..],
            ["  wait (pool.py:10)", "  4 more", "> reserve (orders.py:7)", "  caller (orders.py:1)", "  and 4 more"]
        );
        for inner in [9, 10] {
            let lines = shown(inner, 11 - inner);
            assert_eq!(lines.len(), MAX_SHOWN_FRAMES, "{lines:#?}");
            assert_eq!(lines.iter().position(|line| line.starts_with('>')), Some(inner as usize));
        }
        assert_eq!(shown(11, 0).last().unwrap(), "> reserve (orders.py:7)");
        assert_eq!(shown(0, 12).last().unwrap(), "  and 1 more");
    }

    #[test]
    fn the_owner_of_a_lock_is_named() {
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
        let page = StacksPage { pid: 10, comm: &comm, threads: 2, threads_left_out: 0, groups: &groups, unread: &[] };
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
