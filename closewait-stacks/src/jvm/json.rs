//! Dump of threads in JSON, with virtual threads: the file of `jcmd PID Thread.dump_to_file -format=json FILE`.
//!
//! Members are those of `jdk.internal.vm.ThreadDumper` (java.base): numbers, names and frames in JDK 21; states, locks and their owners
//! too in JDK 25; numbers are strings up to there, and numbers of JSON in an early build of JDK 28.

use serde::Deserialize;

use super::{HeldLock, JvmThread, MAX_DUMP_BYTES, MAX_JVM_THREADS, MAX_NAME_BYTES, WaitedLock, cut, frame};
use crate::StackError;

/// Maximum number of locks of a thread.
const MAX_LOCKS: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DumpFile {
    thread_dump: DumpObject,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DumpObject {
    #[serde(default)]
    thread_containers: Vec<ThreadContainer>,
}

#[derive(Deserialize)]
struct ThreadContainer {
    #[serde(default)]
    threads: Vec<ThreadObject>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ThreadObject {
    tid: Option<JvmNumber>,
    name: Option<String>,
    state: Option<String>,
    #[serde(default, rename = "virtual")]
    is_virtual: bool,
    #[serde(default)]
    stack: Vec<String>,
    park_blocker: Option<ParkBlocker>,
    blocked_on: Option<String>,
    #[serde(default)]
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
    #[serde(default)]
    locks: Vec<Option<String>>,
}

/// Number, or a string with one.
#[derive(Deserialize)]
#[serde(untagged)]
enum JvmNumber {
    Number(u64),
    Text(String),
}

impl JvmNumber {
    fn value(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
        }
    }
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
    let threads = file.thread_dump.thread_containers.into_iter().flat_map(|container| container.threads);
    Ok(threads.take(MAX_JVM_THREADS).map(thread).collect())
}

fn thread(object: ThreadObject) -> JvmThread {
    let short = |text: &str| cut(text, MAX_NAME_BYTES).to_owned();
    let mut thread = JvmThread {
        name: short(&object.name.unwrap_or_default()),
        is_virtual: object.is_virtual,
        ..JvmThread::default()
    };
    thread.stack.number = object.tid.and_then(|number| number.value());
    thread.stack.state = object.state.as_deref().map(short);
    object.stack.iter().filter_map(|text| frame::parse(text)).for_each(|frame| thread.push(frame));
    // JDK 21 does not say which threads are virtual.
    let outermost = object.stack.last().map_or("", String::as_str);
    thread.is_virtual |= outermost.contains("java.lang.VirtualThread.run(");
    let lock = |object: &str, owner| WaitedLock { identity: short(object), class: class(object), owner };
    thread.waits = match (&object.blocked_on, &object.park_blocker) {
        (Some(monitor), _) => Some(lock(monitor, None)),
        (None, Some(ParkBlocker { object: Some(object), owner })) => {
            Some(lock(object, owner.as_ref().and_then(JvmNumber::value)))
        }
        (None, _) => None,
    };
    for owned in &object.monitors_owned {
        let depth = owned.depth.as_ref().and_then(JvmNumber::value).and_then(|depth| usize::try_from(depth).ok());
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
