//! Where the flows of the last records are, so that most records need no keyed hash, which takes longer than all other work on the
//! counts of a flow.

use std::net::IpAddr;

use indexmap::map::Entry::Vacant;

use super::{FlowStats, Flows, MAX_FLOWS, MAX_REMOTES};
use crate::{flow::group_key::FlowKey, time::BootTime};

/// Number of slots, a power of two.
const SLOTS: usize = 1024;
/// In a slot without an index.
const NONE: u16 = u16::MAX;

/// Indexes of flows by slot. A slot can have the index of another flow, so the reader compares the key; whoever chooses ports only
/// makes the slots useless.
#[derive(Clone, Debug)]
pub(super) struct RecentFlows(Box<[u16]>);

impl Default for RecentFlows {
    fn default() -> Self {
        Self(Box::new([NONE; SLOTS]))
    }
}

impl RecentFlows {
    /// Returns the slot of a flow.
    pub(super) fn slot(key: FlowKey) -> usize {
        let number = match key {
            FlowKey::Port(netns, port) => usize::from(port) ^ netns.unwrap_or_default() as usize,
            FlowKey::Remote(_, remote) => {
                let last = match remote.address {
                    IpAddr::V4(v4) => v4.octets()[3],
                    IpAddr::V6(v6) => v6.octets()[15],
                };
                usize::from(remote.port) ^ usize::from(last)
            }
            FlowKey::Rest => 0,
        };
        number % SLOTS
    }

    /// Returns the index in a slot.
    pub(super) fn get(&self, slot: usize) -> Option<usize> {
        self.0.get(slot).filter(|index| **index != NONE).map(|index| usize::from(*index))
    }

    /// Stores an index.
    pub(super) fn set(&mut self, slot: usize, index: usize) {
        if let (Some(to), Ok(index)) = (self.0.get_mut(slot), u16::try_from(index)) {
            *to = index;
        }
    }
}

impl Flows {
    /// Returns the counts of a flow and the key under which they are stored: its own, or [`FlowKey::Rest`] over the limit.
    pub(super) fn stats_mut(&mut self, key: FlowKey, at: BootTime) -> (FlowKey, &mut FlowStats) {
        let slot = RecentFlows::slot(key);
        // The index may be that of another flow by now.
        let is_of_key = |index: &usize| self.flows.get_index(*index).is_some_and(|(known, _)| *known == key);
        let (key, index) = match self.recent.get(slot).filter(is_of_key) {
            Some(index) => (key, index),
            None => self.find_or_insert(key, slot),
        };
        let stats = &mut self.flows[index];
        stats.changed = stats.changed.max(at);
        (key, stats)
    }

    fn find_or_insert(&mut self, key: FlowKey, slot: usize) -> (FlowKey, usize) {
        let full = self.flows.len() >= MAX_FLOWS || (key.is_remote() && self.remotes >= MAX_REMOTES);
        let key = if full { self.counted_as(key) } else { key };
        let entry = self.flows.entry(key);
        let index = entry.index();
        if let Vacant(entry) = entry {
            self.remotes += usize::from(key.is_remote());
            entry.insert(FlowStats::default());
        }
        self.recent.set(slot, index);
        (key, index)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Ports whose flows share slots, some of which are evicted in between.
    #[test]
    fn flows_in_one_slot_are_not_mixed_up() {
        let mut flows = Flows::new(BootTime(0), Duration::from_secs(60));
        let key = |number: u16| FlowKey::Port(Some(1), number);
        for number in 0..5_000 {
            flows.entered(key(number % 2500), BootTime(u64::from(number)));
        }
        flows.flows.swap_remove(&key(3));
        flows.flows.swap_remove(&key(4));
        for number in 0..2500 {
            let (counted_as, stats) = flows.stats_mut(key(number), BootTime(9_999));
            let entered = if number == 3 || number == 4 { 0 } else { 2 };
            assert_eq!((counted_as, stats.entered), (key(number), entered));
        }
    }
}
