//! Ends of processes that close sockets of one flow.

use serde::{Deserialize, Serialize};

use super::{EndedBy, FlowStats};
use crate::time::BootTime;

/// Last process that closed a socket by its end, and the first such socket as long as it counts as closed.
pub(super) type LastEnd = Option<(EndedBy, Option<FirstEnd>)>;

/// First socket that a process closed by its end.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct FirstEnd {
    at: BootTime,
    /// Time of the last close before it.
    before: Option<BootTime>,
}

impl FlowStats {
    /// Takes in a close at `at` that is reported after later ends.
    pub(super) fn closed_before_end(&mut self, at: BootTime) {
        if let Some((_, Some(first))) = &mut self.last_end
            && at <= first.at
        {
            first.before = first.before.max(Some(at));
        }
    }

    /// Whether a process that closes a socket by its end at `at` has finished it.
    ///
    /// A process for one connection has. One that ends with several, as after a crash or a signal, has finished none of them: the kernel
    /// closes them, which says nothing about the processes that continue. Its first socket then no longer counts as closed.
    pub(super) fn finishes_by_end(&mut self, by: EndedBy, at: BootTime) -> bool {
        let Some((_, first)) = self.last_end.as_mut().filter(|(last, _)| *last == by) else {
            self.last_end = Some((by, Some(FirstEnd { at, before: self.last_closed })));
            return true;
        };
        if let Some(FirstEnd { at, before }) = first.take() {
            self.closed = self.closed.saturating_sub(1);
            self.lost += 1;
            // Unless another process has closed one since.
            if self.last_closed == Some(at) {
                self.last_closed = before;
            }
        }
        false
    }
}
