//! What has to be found out before a question is answered, beside what inspections find out.

use std::collections::BTreeSet;

use super::{
    Engine,
    inspection::{MAX_OWNER_AGE, REFRESH_INTERVAL},
    model::{InspectionRequest, SocketKey},
    time::BootTime,
};

impl Engine {
    /// Returns what an inspection at `now` has to find out about all sockets: for a one-off scan, which inspects by
    /// itself.
    pub fn inspection_request(&mut self, now: BootTime) -> InspectionRequest {
        let tracked = self.tracker.iter().map(|(_, tracked)| (&tracked.socket, tracked.holders.as_deref()));
        let lingering = self.lingering.iter().map(|(_, one)| (&one.socket, one.holders.as_deref()));
        self.host_context.inspection_request(now, tracked.chain(lingering))
    }

    /// Returns the sockets that were not refreshed since they entered, or for some time before `now`.
    pub fn not_refreshed(&self, now: BootTime) -> Vec<SocketKey> {
        self.tracker.not_refreshed_since(now - REFRESH_INTERVAL.saturating_mul(2))
    }

    /// Returns whether a scan for owners has to come before the answer to a query at `now`.
    pub fn wants_owner_scan(&self, now: BootTime) -> bool {
        let is_old = self.scanned.is_none_or(|scanned| now.since(scanned) >= MAX_OWNER_AGE);
        is_old || self.tracker.iter().any(|(_, tracked)| tracked.holders.is_none())
    }

    /// Sockets out of CLOSE_WAIT that had a descriptor when they were last looked at. Nothing tells when that is closed, so they
    /// are to be looked at before the question of somebody is answered.
    pub fn descriptors_left(&self) -> Vec<SocketKey> {
        self.lingering.iter().map(|(key, _)| key).filter(|key| !key.is_of_ends()).collect()
    }

    /// Processes that hold sockets as of the last scan, `most` at most.
    pub fn owner_pids(&self, most: usize) -> BTreeSet<u32> {
        let tracked = self.tracker.iter().filter_map(|(_, one)| one.holders.as_deref());
        let lingering = self.lingering.iter().filter_map(|(_, one)| one.holders.as_deref());
        let mut pids = BTreeSet::new();
        for holder in tracked.chain(lingering).flatten() {
            if pids.len() >= most {
                break;
            }
            pids.insert(holder.task.pid);
        }
        pids
    }

    /// Whether the last walk left sockets without a holder that must have one, unless they are very odd.
    pub fn has_unheld(&self) -> bool {
        self.tracker.has_unheld()
    }

    /// Cgroups of tracked sockets whose workloads are not known yet, for the answer to a question.
    pub fn unnamed_cgroups(&self) -> Vec<u64> {
        let tracked = self.tracker.iter().filter_map(|(_, tracked)| tracked.socket.cgroup);
        self.host_context.unnamed(tracked)
    }
}
