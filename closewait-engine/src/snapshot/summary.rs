//! Number of listed sockets, and of the groups that they belong to.

use std::{collections::BTreeSet, rc::Rc};

use serde::{Deserialize, Serialize};

use crate::{
    Engine,
    diagnose::grouping::Grouping,
    flow::group_key::FlowKey,
    snapshot::report::MAX_RANKED_GROUPS,
    snapshot::urgency::UrgencyCounts,
    snapshot::view::{Row, Selection},
    time::BootTime,
};

/// Number of listed sockets, and of the groups that they belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListSummary {
    /// Number of listed sockets in CLOSE_WAIT.
    pub sockets: u64,
    /// Number of listed sockets that have exited CLOSE_WAIT and still have a descriptor.
    pub gone: u64,
    /// Groups with at least one listed socket, by the urgency of the whole group.
    pub groups: UrgencyCounts,
}

/// Builder of a [`ListSummary`], which gets one row after the other and does not store them.
pub struct ListSummaryBuilder<'a> {
    engine: &'a Engine,
    now: BootTime,
    /// Groups of all sockets.
    grouping: Rc<Grouping<'a>>,
    flows: BTreeSet<FlowKey>,
    sockets: u64,
    gone: u64,
}

impl Engine {
    /// Begins the summary of the rows of a selection.
    pub fn summarize<'a>(&'a self, selection: &Selection<'a>) -> ListSummaryBuilder<'a> {
        let (now, grouping) = (selection.now, selection.grouping());
        ListSummaryBuilder { engine: self, now, grouping, flows: BTreeSet::new(), sockets: 0, gone: 0 }
    }

    /// Returns the number of these groups by their urgency at `now`.
    fn urgencies(&self, now: BootTime, flows: &BTreeSet<FlowKey>, grouping: &Grouping<'_>) -> UrgencyCounts {
        let mut counts = UrgencyCounts::default();
        if flows.is_empty() {
            return counts;
        }
        let members = self.members_in(grouping, |flow_key| flows.contains(&flow_key));
        for (flow_key, members) in members.iter().take(MAX_RANKED_GROUPS) {
            if let Some(pileup) = self.pileup(*flow_key, &members.oldest_first(now), grouping, now) {
                counts.add(pileup.urgency());
            }
        }
        counts.others = members.len().saturating_sub(MAX_RANKED_GROUPS) as u64;
        counts
    }
}

impl ListSummaryBuilder<'_> {
    /// Counts a row.
    pub fn add(&mut self, row: &Row<'_>) {
        if row.gone.is_some() {
            self.gone += 1;
        } else {
            self.sockets += 1;
        }
        self.flows.insert(self.engine.flow_of(&row.socket));
    }

    /// Returns the summary. The groups have the urgency that they have in a report on all sockets.
    pub fn finish(self) -> ListSummary {
        let Self { engine, now, grouping, flows, sockets, gone } = self;
        ListSummary { sockets, gone, groups: engine.urgencies(now, &flows, &grouping) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Config,
        model::{SocketEvent, SocketKey},
        snapshot::query::{EVERYTHING, Filter},
        testing::socket_on_port,
    };

    #[test]
    fn groups_count_if_one_of_their_sockets_is_listed() {
        let mut engine = Engine::new(Config::default(), BootTime(0));
        for (key, port) in (1..).zip([80, 80, 81, 82]) {
            let (key, at) = (SocketKey((1 << 63) + key), BootTime(1_000_000_000));
            engine.handle(SocketEvent::Enter { key, at, socket: socket_on_port(port) });
        }
        let now = BootTime(10_000_000_000);
        let summary = |ports: &[u16]| {
            let filter = Filter { ports: ports.to_vec(), ..Filter::default() };
            let selection = engine.select(now, &filter);
            let mut summary = engine.summarize(&selection);
            selection.for_each(|row| summary.add(&row));
            let ListSummary { sockets, gone, groups } = summary.finish();
            assert_eq!(groups.others, 0);
            (sockets, gone, groups.total())
        };
        assert_eq!(summary(&[]), (4, 0, 3));
        assert_eq!(summary(&[80]), (2, 0, 1));
        assert_eq!(summary(&[1]), (0, 0, 0));
        let mut expected = UrgencyCounts::default();
        engine.report(now).groups.iter().for_each(|group| expected.add(group.pileup.urgency()));
        let selection = engine.select(now, &EVERYTHING);
        let mut all = engine.summarize(&selection);
        selection.for_each(|row| all.add(&row));
        assert_eq!(all.finish().groups, expected, "the same groups as in a report");
    }
}
