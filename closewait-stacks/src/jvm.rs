//! Threads of a Java virtual machine, from the dumps that it writes about itself.
//!
//! HotSpot writes two: [`text`], of the attach command `threaddump -l`, has the threads of the system, their locks and who has them;
//! [`json`], a file that `Thread.dump_to_file` makes since JDK 21, also has the virtual threads. [`merged`] puts them together.
//!
//! A program chooses the names of its threads and functions, and with a name of several lines it can forge whole threads. A dump is
//! what a program says about itself: every part of it is bounded here, and callers escape what they show.

mod frame;
pub mod json;
mod lock;
pub mod text;

use std::{collections::HashMap, fmt};

use super::stack::{Frame, MAX_FRAMES, Stack};
pub use lock::{HeldLock, WaitedLock};

/// Maximum size of a dump, bytes; a larger one is cut.
pub const MAX_DUMP_BYTES: usize = 16 << 20;
/// Maximum number of threads that are kept.
pub const MAX_JVM_THREADS: usize = 4096;
/// Maximum number of bytes of a name.
const MAX_NAME_BYTES: usize = 512;
/// Maximum number of locks of a thread in a dump.
const MAX_LOCKS: usize = 64;

/// Thread of a Java virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JvmThread {
    /// Name of the thread; virtual threads often have none.
    pub name: String,
    /// Number of the thread that runs it in the pid namespace of the program; `None` for a virtual thread that waits, and if it is
    /// unknown.
    pub inner_tid: Option<u32>,
    /// Whether it is a virtual thread.
    pub is_virtual: bool,
    /// Number, state and frames; its `tid` is unknown.
    pub stack: Stack,
    /// Number of the virtual thread that runs on this one.
    pub carries: Option<u64>,
    /// Lock that it waits for.
    pub waits: Option<WaitedLock>,
    /// Locks that it has.
    pub holds: Vec<HeldLock>,
}

impl JvmThread {
    /// Whether it waits without giving its carrier back, as virtual threads do in `synchronized` before JDK 24
    /// (`java.lang.VirtualThread.parkOnCarrierThread`).
    pub fn is_pinned(&self) -> bool {
        self.is_virtual && self.calls(|name| name.starts_with("java.lang.VirtualThread.parkOnCarrierThread"))
    }

    /// Whether it has no frames at all.
    fn is_blank(&self) -> bool {
        self.stack.frames.is_empty() && self.stack.cut.is_none()
    }

    /// Whether any of its functions fulfills a condition.
    fn calls(&self, condition: impl Fn(&str) -> bool) -> bool {
        self.stack.frames.iter().any(|frame| frame.function.as_deref().is_some_and(&condition))
    }

    /// Adds a frame outside of the others.
    fn push(&mut self, frame: Frame) {
        if self.stack.frames.len() < MAX_FRAMES {
            self.stack.frames.push(frame);
        } else {
            self.stack.cut = Some(format!("only {MAX_FRAMES} frames are read"));
        }
    }
}

/// First release of the JDK that has virtual threads, and writes a dump of them.
pub const FIRST_WITH_VIRTUAL_THREADS: u32 = 21;

/// Whether a machine can have virtual threads, as far as the dump of its other threads shows it: threads that carry or wake them, or are
/// named like those. Before [`FIRST_WITH_VIRTUAL_THREADS`], only other pools have threads with such names.
pub fn has_virtual_threads(threads: &[JvmThread]) -> bool {
    threads.iter().any(|thread| {
        let name = thread.name.as_str();
        thread.is_virtual
            || thread.carries.is_some()
            || name.starts_with("VirtualThread-")
            || name.starts_with("ForkJoinPool-") && name.contains("-worker-")
    })
}

/// Returns the threads of a dump in text, and the virtual threads of a later one in JSON, which also adds locks. A thread of the later one
/// that has no frames is a virtual one that has not begun: in JDK 21, thousands of them are the requests that no carrier is free for.
pub fn merged(mut threads: Vec<JvmThread>, later: Vec<JvmThread>) -> Vec<JvmThread> {
    let places: HashMap<_, _> =
        threads.iter().enumerate().filter_map(|(at, thread)| Some((thread.stack.number?, at))).collect();
    let carriers: HashMap<_, _> =
        threads.iter().filter_map(|thread| Some((thread.carries?, thread.inner_tid?))).collect();
    for mut thread in later {
        let number = thread.stack.number;
        let place = number.and_then(|number| places.get(&number).copied());
        let is_full = threads.len() >= MAX_JVM_THREADS;
        match place.and_then(|at| threads.get_mut(at)) {
            // The first dump has where it was, and this one the names that locks have here.
            Some(known) => {
                // Positions of frames are those of the other dump.
                let room = (2 * MAX_LOCKS).saturating_sub(known.holds.len());
                known.holds.extend(thread.holds.drain(..).take(room).map(|lock| HeldLock { frame: None, ..lock }));
            }
            // JDK 21 does not say that a thread which has not begun is virtual. Others have a stack as soon as they are listed.
            None if (thread.is_virtual || thread.is_blank()) && !is_full => {
                thread.is_virtual = true;
                thread.inner_tid = number.and_then(|number| carriers.get(&number).copied());
                threads.push(thread);
            }
            None => {}
        }
    }
    threads
}

/// Returns for each thread the position of the one that has the lock that it waits for; `None` if it waits for none, or none of the
/// others has it.
pub fn lock_owners(threads: &[JvmThread]) -> Vec<Option<usize>> {
    let mut by_number = HashMap::new();
    let mut by_lock = HashMap::new();
    for (at, thread) in threads.iter().enumerate() {
        by_number.extend(thread.stack.number.map(|number| (number, at)));
        by_lock.extend(thread.holds.iter().map(|lock| (lock.identity.as_str(), at)));
    }
    let lock_owner = |(at, thread): (usize, &JvmThread)| {
        let lock = thread.waits.as_ref()?;
        let named = lock.owner.and_then(|owner| by_number.get(&owner));
        named.or_else(|| by_lock.get(lock.identity.as_str())).copied().filter(|lock_owner| *lock_owner != at)
    };
    threads.iter().enumerate().map(lock_owner).collect()
}

/// Returns the beginning of a text, at most `most` bytes long.
fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

impl fmt::Display for JvmThread {
    /// Writes name, numbers and state in a line, and a line for each lock and frame.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:?}", self.name)?;
        if self.is_virtual {
            to.write_str(if self.is_pinned() { ", virtual, pinned" } else { ", virtual" })?;
        }
        if let Some(tid) = self.inner_tid {
            write!(to, ", tid {tid}")?;
        }
        if let Some(number) = self.carries {
            write!(to, ", carries number {number}")?;
        }
        write!(to, ", {}", self.stack)?;
        if let Some(lock) = &self.waits {
            write!(to, "\n  waits for {lock}")?;
        }
        self.holds.iter().try_for_each(|lock| write!(to, "\n  has {lock}"))
    }
}
