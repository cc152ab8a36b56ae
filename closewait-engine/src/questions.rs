//! What has to be found out before a question is answered, beside what inspections find out.

use std::collections::BTreeSet;

use super::{
    Engine,
    inspection::{HOLDERS_LAST, REFRESH_EVERY},
    model::{Inquiry, SocketKey},
    time::BootTime,
};

impl Engine {
    /// What is to be found out of the sockets that stay, at `now`: for a single look, which asks by itself.
    pub fn inquiry(&mut self, now: BootTime) -> Inquiry {
        let tracked = self.tracker.iter().map(|(_, tracked)| (&tracked.socket, tracked.holders.as_deref()));
        let lingering = self.lingering.iter().map(|(_, one)| (&one.socket, one.holders.as_deref()));
        self.host_context.inquiry(now, tracked.chain(lingering))
    }

    /// Sockets of which nobody has looked at what changes since they entered, or for some time before `now`.
    pub fn not_looked_at(&self, now: BootTime) -> Vec<SocketKey> {
        self.tracker.not_looked_at_since(now - REFRESH_EVERY.saturating_mul(2))
    }

    /// Whether holders are to be searched for before the question of somebody is answered at `now`.
    pub fn wants_walk(&self, now: BootTime) -> bool {
        let is_old = self.walked.is_none_or(|walked| now.since(walked) >= HOLDERS_LAST);
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
