//! Counts of healthy sockets that had no records.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PileupGroup;
use crate::time::BootTime;

/// Sockets of one flow that entered and exited CLOSE_WAIT since the last such counts, each closed by its program within moments. They had
/// no records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedSockets {
    /// Time at which the agent took the counts.
    pub at: BootTime,
    /// Flow: `local_port` of servers, or `remote` of clients, with their namespaces.
    pub flow: PileupGroup,
    /// Time of the counts before these, or a time before that: all of these sockets exited later.
    pub since: BootTime,
    /// Time of the last exit.
    pub last: BootTime,
    /// Longest dwell time.
    pub longest: Duration,
    /// Counts of dwell times: bucket of [`closewait_common::histogram`], number of sockets. Their sum is the number of sockets.
    pub dwell: Vec<(u16, u32)>,
}

impl PassedSockets {
    /// Returns the number of sockets.
    pub fn count(&self) -> u64 {
        // A damaged recording can contain any counts, so the sum saturates.
        self.dwell.iter().fold(0, |all: u64, (_, count)| all.saturating_add(u64::from(*count)))
    }
}
