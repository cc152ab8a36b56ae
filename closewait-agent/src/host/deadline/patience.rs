//! Time that an inspection has.

use std::time::Duration;

use super::ANSWER_WITHIN;

/// Total time that one inspection waits for reads that do not answer.
pub(super) const INSPECTION_WAITS: Duration = Duration::from_secs(1);
/// Maximum time of one inspection, on a host that answers slowly.
const INSPECTION_TAKES: Duration = Duration::from_secs(5);

/// Remaining time of an inspection.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Time for reads that do not answer.
    pub(super) waits: Duration,
    /// Time in all.
    pub(super) takes: Duration,
}

impl Default for Patience {
    /// Time of one whole inspection: 1 s for reads that do not answer, 5 s in all.
    fn default() -> Self {
        Self { waits: INSPECTION_WAITS, takes: INSPECTION_TAKES }
    }
}

impl Patience {
    /// Time for one read that does not answer.
    pub fn for_one_read() -> Self {
        Self { waits: ANSWER_WITHIN, takes: 2 * ANSWER_WITHIN }
    }

    /// Time for the stacks of processes: twice as much, because the thread that reads them works itself and has a part of a CPU on a
    /// busy machine.
    pub fn for_stacks() -> Self {
        Self { waits: ANSWER_WITHIN, takes: 4 * ANSWER_WITHIN }
    }

    /// Whether nothing is left of it.
    pub(super) fn is_over(self) -> bool {
        self.waits.is_zero() || self.takes.is_zero()
    }
}
