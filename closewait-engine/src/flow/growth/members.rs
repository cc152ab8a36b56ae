//! Sockets by the flow that they are counted in.

use std::collections::{BTreeMap, HashMap};

use crate::{
    Engine, diagnose::grouping::Grouping, flow::group_key::FlowKey, model::Socket, time::BootTime,
    track::hashing::KeyedState, track::socket_view::SocketView,
};

/// Sockets of a flow, in no order.
#[derive(Default)]
pub(crate) struct Members<'a>(Vec<SocketView<'a>>);

impl<'a> Members<'a> {
    /// Returns the number of sockets.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Iterates over the sockets.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SocketView<'a>> {
        self.0.iter().copied()
    }

    /// Returns the sockets that had entered by `at`, the oldest first: records of later entries may have come in already.
    pub(crate) fn oldest_first(&self, at: BootTime) -> Vec<SocketView<'a>> {
        let mut entered: Vec<_> = self.iter().map(|one| (one.latest(), one)).collect();
        entered.retain(|(latest, _)| *latest <= at);
        // The ends are looked up only if they decide.
        let rest = |one: SocketView<'_>| (one.ends(), one.key());
        entered.sort_unstable_by(|one, other| one.0.cmp(&other.0).then_with(|| rest(one.1).cmp(&rest(other.1))));
        entered.into_iter().map(|(_, one)| one).collect()
    }
}

impl Engine {
    /// Returns the flow that a socket is counted in.
    pub(crate) fn flow_of(&self, socket: &Socket) -> FlowKey {
        self.counted_as(self.group_keys.flow(socket))
    }

    fn counted_as(&self, flow_key: FlowKey) -> FlowKey {
        self.flows.as_ref().map_or(flow_key, |flows| flows.counted_as(flow_key))
    }

    /// Returns the sockets in CLOSE_WAIT, and those that are as stuck as before although their peers have ended the connections, in no
    /// order.
    pub(crate) fn unclosed(&self) -> impl Iterator<Item = SocketView<'_>> {
        self.tracker.stored().chain(self.lingering.abandoned())
    }

    /// Returns the sockets of the wanted flows.
    pub(crate) fn members(&self, wanted: impl Fn(FlowKey) -> bool) -> BTreeMap<FlowKey, Members<'_>> {
        self.members_of(self.unclosed(), wanted)
    }

    /// Returns those of these sockets that are in the wanted flows.
    pub(crate) fn members_of<'a>(
        &self,
        sockets: impl Iterator<Item = SocketView<'a>>,
        wanted: impl Fn(FlowKey) -> bool,
    ) -> BTreeMap<FlowKey, Members<'a>> {
        // `None` for a flow that is not wanted.
        let mut found = HashMap::<FlowKey, Option<Members<'a>>, KeyedState>::default();
        for one in sockets {
            let flow_key = self.group_keys.flow_of(one);
            let is_wanted = || wanted(self.counted_as(flow_key)).then(Members::default);
            if let Some(members) = found.entry(flow_key).or_insert_with(is_wanted) {
                members.0.push(one);
            }
        }
        let mut members = BTreeMap::<FlowKey, Members<'a>>::new();
        // In any order, as members have none.
        for (flow_key, found) in found {
            found.into_iter().for_each(|found| members.entry(self.counted_as(flow_key)).or_default().0.extend(found.0));
        }
        members
    }

    /// Does what [`Self::members`] does with the sockets of `grouping`, which are sorted by flow already.
    pub(crate) fn members_in<'a>(
        &self,
        grouping: &Grouping<'a>,
        wanted: impl Fn(FlowKey) -> bool,
    ) -> BTreeMap<FlowKey, Members<'a>> {
        let mut members = BTreeMap::<FlowKey, Members<'a>>::new();
        for (flow_key, sockets) in grouping.flows() {
            let flow_key = self.counted_as(flow_key);
            if wanted(flow_key) {
                members.entry(flow_key).or_default().0.extend(sockets);
            }
        }
        members
    }

    /// Returns the number of sockets of each flow of `grouping`.
    pub(crate) fn sizes_in(&self, grouping: &Grouping<'_>) -> BTreeMap<FlowKey, usize> {
        let mut sizes = BTreeMap::new();
        for (flow_key, sockets) in grouping.flows() {
            *sizes.entry(self.counted_as(flow_key)).or_default() += sockets.count();
        }
        sizes
    }
}
