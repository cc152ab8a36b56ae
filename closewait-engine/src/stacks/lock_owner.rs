//! Thread that owns the lock that others wait for.

use super::{
    frame::{CodeFrame, CodeStack},
    group::{ThreadWork, group},
};

/// Thread that owns a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockOwner {
    /// Name of the thread.
    pub name: Option<String>,
    /// Thread, in the agent's pid namespace; `None` for a virtual thread that no thread runs.
    pub tid: Option<u32>,
    /// Work that its stack shows.
    pub work: ThreadWork,
    /// The application's innermost frame in its stack; `None` if the stack has none of the application.
    pub place: Option<CodeFrame>,
}

impl LockOwner {
    /// Returns the owner of the lock that the thread of `stack` waits for, one of `stacks`.
    pub(super) fn of(stack: &CodeStack, stacks: &[CodeStack]) -> Option<Self> {
        let lock_owner = stacks.get(usize::try_from(stack.lock_owner?).ok()?)?;
        let group = group(lock_owner);
        Some(Self {
            name: lock_owner.name.clone(),
            tid: lock_owner.tid,
            work: group.work,
            place: group.place().cloned(),
        })
    }
}
