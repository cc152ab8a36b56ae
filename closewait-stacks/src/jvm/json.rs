//! Dump of threads in JSON, with virtual threads: the file of `jcmd PID Thread.dump_to_file -format=json FILE`.
//!
//! Members are those of `jdk.internal.vm.ThreadDumper` (java.base): numbers, names and frames in JDK 21; states, locks and their owners
//! too in JDK 25; numbers are strings up to there, and numbers of JSON in an early build of JDK 28.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};

use super::{HeldLock, JvmThread, MAX_DUMP_BYTES, MAX_JVM_THREADS, MAX_LOCKS, MAX_NAME_BYTES, WaitedLock, cut, frame};
use crate::{StackError, stack::MAX_FRAMES};

/// Maximum number of containers of threads that are read; each executor and each scope is one.
const MAX_CONTAINERS: usize = 1 << 16;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DumpFile {
    thread_dump: DumpObject,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DumpObject {
    #[serde(default, deserialize_with = "threads_of_containers")]
    thread_containers: Vec<JvmThread>,
}

#[derive(Deserialize)]
struct ThreadContainer {
    #[serde(default, deserialize_with = "threads")]
    threads: Vec<JvmThread>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ThreadObject {
    tid: Option<JvmNumber>,
    name: Option<String>,
    state: Option<String>,
    #[serde(default, rename = "virtual")]
    is_virtual: bool,
    #[serde(default, deserialize_with = "stack")]
    stack: Vec<String>,
    park_blocker: Option<ParkBlocker>,
    blocked_on: Option<String>,
    #[serde(default, deserialize_with = "monitors")]
    monitors_owned: Vec<OwnedMonitors>,
}

#[derive(Deserialize)]
struct ParkBlocker {
    object: Option<String>,
    owner: Option<JvmNumber>,
}

#[derive(Deserialize)]
struct OwnedMonitors {
    depth: Option<JvmNumber>,
    #[serde(default, deserialize_with = "locks")]
    locks: Vec<Option<String>>,
}

/// Number, or a string with one; `None` for a string without.
struct JvmNumber(Option<u64>);

impl<'de> Deserialize<'de> for JvmNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = JvmNumber;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a number")
    }

    fn visit_u64<E>(self, number: u64) -> Result<JvmNumber, E> {
        Ok(JvmNumber(Some(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<JvmNumber, E> {
        Ok(JvmNumber(text.parse().ok()))
    }
}

/// Reads up to `most` elements of a list, which `add` adds to those that are kept: a short text can have millions of elements.
struct ListVisitor<T, U> {
    most: usize,
    add: fn(&mut Vec<U>, T),
}

impl<'de, T: Deserialize<'de>, U> Visitor<'de> for ListVisitor<T, U> {
    type Value = Vec<U>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<U>, A::Error> {
        let mut kept = Vec::new();
        for _ in 0..self.most {
            let Some(element) = list.next_element()? else { return Ok(kept) };
            (self.add)(&mut kept, element);
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(kept)
    }
}

fn threads_of_containers<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<JvmThread>, D::Error> {
    let add = |kept: &mut Vec<JvmThread>, container: ThreadContainer| {
        let room = MAX_JVM_THREADS.saturating_sub(kept.len());
        kept.extend(container.threads.into_iter().take(room));
    };
    list.deserialize_seq(ListVisitor { most: MAX_CONTAINERS, add })
}

fn threads<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<JvmThread>, D::Error> {
    let add = |kept: &mut Vec<JvmThread>, object| kept.push(thread(object));
    list.deserialize_seq(ListVisitor { most: MAX_JVM_THREADS, add })
}

/// Reads the frames that are kept, one more if there are more, and the outermost one.
fn stack<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<String>, D::Error> {
    let add = |kept: &mut Vec<String>, frame: String| {
        kept.truncate(MAX_FRAMES + 1);
        kept.push(frame);
    };
    list.deserialize_seq(ListVisitor { most: usize::MAX, add })
}

fn monitors<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<OwnedMonitors>, D::Error> {
    list.deserialize_seq(ListVisitor { most: MAX_LOCKS, add: Vec::push })
}

fn locks<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<Option<String>>, D::Error> {
    list.deserialize_seq(ListVisitor { most: MAX_LOCKS, add: Vec::push })
}

/// Parses a dump.
///
/// # Errors
///
/// If it is no dump, or larger than [`MAX_DUMP_BYTES`].
pub fn parse(dump: &[u8]) -> Result<Vec<JvmThread>, StackError> {
    if dump.len() > MAX_DUMP_BYTES {
        return Err(StackError::Unexpected(format!("the dump has {} bytes", dump.len())));
    }
    // The message would quote the dump.
    let file: DumpFile = serde_json::from_slice(dump)
        .map_err(|error| StackError::Unexpected(format!("the dump is malformed in line {}", error.line())))?;
    Ok(file.thread_dump.thread_containers)
}

fn thread(object: ThreadObject) -> JvmThread {
    let short = |text: &str| cut(text, MAX_NAME_BYTES).to_owned();
    let mut thread = JvmThread {
        name: short(&object.name.unwrap_or_default()),
        is_virtual: object.is_virtual,
        ..JvmThread::default()
    };
    thread.stack.number = object.tid.and_then(|number| number.0);
    thread.stack.state = object.state.as_deref().map(short);
    object.stack.iter().filter_map(|text| frame::parse(text)).for_each(|frame| thread.push(frame));
    // JDK 21 does not say which threads are virtual.
    let outermost = object.stack.last().map_or("", String::as_str);
    thread.is_virtual |= outermost.contains("java.lang.VirtualThread.run(");
    let lock = |object: &str, owner| WaitedLock { identity: short(object), class: class(object), owner };
    thread.waits = match (&object.blocked_on, &object.park_blocker) {
        (Some(monitor), _) => Some(lock(monitor, None)),
        (None, Some(ParkBlocker { object: Some(object), owner })) => {
            Some(lock(object, owner.as_ref().and_then(|number| number.0)))
        }
        (None, _) => None,
    };
    for owned in &object.monitors_owned {
        let depth = owned.depth.as_ref().and_then(|number| number.0).and_then(|depth| usize::try_from(depth).ok());
        let frame = depth.filter(|depth| *depth < thread.stack.frames.len());
        let room = MAX_LOCKS.saturating_sub(thread.holds.len());
        let locks = owned.locks.iter().flatten().take(room);
        thread.holds.extend(locks.map(|lock| HeldLock { identity: short(lock), class: class(lock), frame }));
    }
    thread
}

/// Returns the class in `java.lang.Object@3b872ed5`.
fn class(object: &str) -> Option<String> {
    object.rsplit_once('@').map(|(class, _)| cut(class, MAX_NAME_BYTES).to_owned())
}
