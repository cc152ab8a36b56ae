//! Turns of the event loop that take long.

use std::time::Duration;

use log::Level;

use crate::clock;

/// CPU time of a turn that the log reports.
const LONG: Duration = Duration::from_millis(2);

/// Log of long turns of the event loop (level `debug`): during a turn, the agent answers nobody. `cargo xtask bench record`
/// reads it.
#[derive(Debug)]
pub(super) struct LoopTurns {
    /// CPU time of this thread at the end of the last turn.
    used: Duration,
}

impl LoopTurns {
    /// Begins the first turn: the start of the agent is none.
    pub(super) fn begin() -> Self {
        Self { used: clock::thread_cpu() }
    }

    /// Ends a turn. Time in which the loop waited does not count, nor does time in which other programs had the CPU.
    pub(super) fn ended(&mut self) {
        // Reading the clock takes a system call.
        if !log::log_enabled!(Level::Debug) {
            return;
        }
        let used = clock::thread_cpu();
        let turn = used.saturating_sub(std::mem::replace(&mut self.used, used));
        if turn >= LONG {
            log::debug!("a turn of the event loop took {} us of CPU time", turn.as_micros());
        }
    }
}
