//! JSON object of the stacks in which connections were opened.

use serde::Serialize;

use super::StackGroupObject;
#[cfg(test)]
use crate::sink::document::*;
use closewait_engine::stacks::ConnectStacks;

/// Stacks in which a process opened connections to the remote endpoint of a group.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct OpenedInObject<'a> {
    /// Number of connections, sampled or not, that the process has opened to the remote port while it was watched.
    connects: u64,
    /// Number of connections to the remote endpoint whose stacks were sampled.
    sampled: u32,
    /// Groups of equal stacks, the most frequent first, 4 at most. `count` is the number of connections, and `tids` is empty.
    stacks: Vec<StackGroupObject<'a>>,
}

impl<'a> OpenedInObject<'a> {
    pub(in crate::sink) fn new(connects: &'a ConnectStacks) -> Self {
        Self {
            connects: connects.connects,
            sampled: connects.sampled(),
            stacks: connects.groups.iter().map(|group| StackGroupObject::new(group, None)).collect(),
        }
    }
}
