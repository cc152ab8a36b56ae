//! Sockets that have entered CLOSE_WAIT and have no record of that yet.
//!
//! The kernel program writes one record for a socket that leaves healthy, and only counts it if its flow is busy. The agent has the records
//! of the others written: a few times a second of those that stay, and of all before the engine decides anything and before an answer;
//! and it takes the counts at the same times. So the engine's findings and answers are those that it would have with a record at each
//! entry and exit. On a calm host it searches less often, but in time for every socket that gets stuck.

use std::time::Duration;

use super::{Pending, Runtime};
use crate::{clock, source::records::RecordSource};
use closewait_engine::{model::Observation, time::BootTime};

/// Minimum `--stuck-after` with which records are deferred.
pub const MIN_DEFERRING: Duration = Duration::from_secs(1);
/// Interval of the searches for sockets that stay.
const INTERVAL: Duration = Duration::from_millis(250);
/// Interval of these searches on a calm host, where the wake-ups for them are most of what an agent costs.
const CALM_INTERVAL: Duration = Duration::from_millis(750);
/// Time without a record and without a count after which the host is calm.
const CALM_AFTER: Duration = Duration::from_secs(2);
/// Time after an entry from which on the socket counts as one that stays. Most exit sooner.
const STAYS_AFTER: Duration = Duration::from_millis(250);
// The engine knows each socket before that can be stuck.
const _: () = assert!(STAYS_AFTER.as_millis() + CALM_INTERVAL.as_millis() <= MIN_DEFERRING.as_millis());
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

    /// Announces all sockets if the engine has work at `now` or a scan has ended, and else those that stay, if it is time for that.
    pub(super) fn announce_due(&mut self, now: BootTime) {
        let may_count_again = !self.pending.counts && !self.pending.scans();
        if may_count_again || self.engine.state().poll_timeout().is_some_and(|due| due <= now) {
            self.announce_all();
        } else if self.next_announcement().is_some_and(|next| next <= now) {
            self.announce(STAYS_AFTER);
        }
    }

    /// Returns the time of the next search; `None` if there is nothing to find.
    pub(super) fn next_announcement(&self) -> Option<BootTime> {
        let Pending { announced, busy_at, is_busy, .. } = self.pending;
        let is_calm = !is_busy && announced.since(busy_at) >= CALM_AFTER;
        self.source.defers().then(|| announced + if is_calm { CALM_INTERVAL } else { INTERVAL })
    }

    fn announce(&mut self, age: Duration) {
        let now = clock::now();
        self.pending.announced = now;
        let mut is_complete = false;
        for _ in 0..MAX_ROUNDS {
            is_complete = self.source.announce(now - age);
            self.drain_all();
            if is_complete {
                break;
            }
        }
        if !is_complete {
            log::debug!("more sockets than fit into the ring buffer wait for their records");
        }
        // What a scan has found and is still in CLOSE_WAIT is announced now, so its exit has a record.
        let may_begin = is_complete && age.is_zero();
        self.take_passed(!self.pending.scans() && (self.pending.counts || may_begin));
        if std::mem::take(&mut self.pending.is_busy) {
            self.pending.busy_at = now;
        }
    }

    /// Hands the counts of sockets without records to the engine. During a scan the kernel may not count: the scan may find a socket that
    /// exits a moment later, and only a record tells the engine of that.
    pub(super) fn take_passed(&mut self, may_count: bool) {
        self.pending.counts = may_count;
        for passed in self.source.take_passed(clock::now(), may_count) {
            self.pending.is_busy = true;
            self.engine.handle(Observation::from(passed));
        }
    }
}
