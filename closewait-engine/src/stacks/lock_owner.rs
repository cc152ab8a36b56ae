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
    /// Stack of the thread.
    pub(super) stack: CodeStack,
}

impl LockOwner {
    /// Returns the owner of the lock that the thread of `stack` waits for, one of `stacks`.
    pub(super) fn of(stack: &CodeStack, stacks: &[CodeStack]) -> Option<Self> {
        let lock_owner = stacks.get(usize::try_from(stack.lock_owner?).ok()?)?;
        Some(Self::new(lock_owner.clone()))
    }

    /// Returns the owner of a lock, by its stack.
    pub(super) fn new(stack: CodeStack) -> Self {
        let group = group(&stack);
        Self { name: stack.name.clone(), tid: stack.tid, work: group.work, place: group.place().cloned(), stack }
    }
}
