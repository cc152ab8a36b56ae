//! Sockets that have entered CLOSE_WAIT and have no record of that yet.
//!
//! The kernel program writes one record for a socket that leaves healthy. The agent has the records of the others written: a few times
//! a second of those that stay, and of all before the engine decides anything and before an answer. So the engine's findings and
//! answers are those that it would have with a record at each entry.

use std::time::Duration;

use super::Runtime;
use crate::{clock, source::records::RecordSource};
use closewait_engine::time::BootTime;

/// Minimum `--stuck-after` with which records are deferred.
pub const MIN_DEFERRING: Duration = Duration::from_secs(1);
/// Interval of the searches for sockets that stay.
const INTERVAL: Duration = Duration::from_millis(250);
/// Time after an entry from which on the socket counts as one that stays. Most exit sooner.
const STAYS_AFTER: Duration = Duration::from_millis(250);
/// Maximum number of reads of the ring buffer for one search: it may be much smaller than the number of sockets.
const MAX_ROUNDS: usize = 64;

impl<S: RecordSource> Runtime<S> {
    /// Takes over what an earlier agent's program has deferred, even if this agent's program defers nothing.
    pub(super) fn announce_adopted(&mut self) {
        self.announce(Duration::ZERO);
    }

    /// Announces every socket that is in CLOSE_WAIT now.
    pub(super) fn announce_all(&mut self) {
        if self.source.defers() {
            self.announce(Duration::ZERO);
        }
    }

    /// Announces all sockets if the engine has work at `now`, and else those that stay, if it is time for that.
    pub(super) fn announce_due(&mut self, now: BootTime) {
        if self.engine.state().poll_timeout().is_some_and(|due| due <= now) {
            self.announce_all();
        } else if self.next_announcement().is_some_and(|next| next <= now) {
            self.announce(STAYS_AFTER);
        }
    }

    /// Returns the time of the next search; `None` if there is nothing to find.
    pub(super) fn next_announcement(&self) -> Option<BootTime> {
        self.source.defers().then(|| self.pending.announced + INTERVAL)
    }

    fn announce(&mut self, age: Duration) {
        let now = clock::now();
        self.pending.announced = now;
        for _ in 0..MAX_ROUNDS {
            let is_complete = self.source.announce(now - age);
            self.drain_all();
            if is_complete {
                return;
            }
        }
        log::debug!("more sockets than fit into the ring buffer wait for their records");
    }
}
