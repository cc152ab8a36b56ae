//! Incidents that do not begin with growth: an agent that starts beside a program whose limit is reached sees a level count.

use std::collections::BTreeSet;

use crate::{Engine, flow::group_key::FlowKey, model::Owner, time::BootTime, track::socket_view::SocketView};

/// Maximum number of flows that one inspection looks at; those beyond it wait until others have an incident.
const MAX_LOOKED_AT: usize = 32;

impl Engine {
    /// Suspects the flows without an incident that have reached a limit, at the end of an inspection at `at`.
    pub(crate) fn suspect_exhausted(&mut self, at: BootTime) {
        let calm = self.flows.as_ref().map(|flows| flows.without_incident(MAX_LOOKED_AT)).unwrap_or_default();
        if calm.is_empty() {
            return;
        }
        let mut members = self.members(|flow_key| calm.contains(&flow_key));
        members.retain(|_, members| members.iter().any(|one| self.is_at_limit(one)));
        if members.is_empty() {
            return;
        }
        let grouping = self.grouping(at);
        let exhausted = members.iter().filter(|(flow_key, members)| {
            let pileup = self.pileup(**flow_key, &members.oldest_first(at), &grouping, at);
            pileup.is_some_and(|pileup| pileup.reached_limit().is_some())
        });
        let exhausted: BTreeSet<FlowKey> = exhausted.map(|(flow_key, _)| *flow_key).collect();
        if let Some(flows) = &mut self.flows {
            flows.suspect(&exhausted);
        }
    }

    /// Whether the socket can be one of a group that has reached a limit. It is cheap, unlike a report.
    fn is_at_limit(&self, one: SocketView<'_>) -> bool {
        let is_full = |owner: &Owner| {
            let process = self.host_context.processes().get(&owner.task.pid);
            process.and_then(|process| process.descriptors()).is_some_and(|(open, limit)| open >= limit)
        };
        one.accepted() == Some(false) || one.owners().is_some_and(|owners| owners.iter().any(is_full))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        Config,
        model::{
            Finding, IncidentState, InspectionEnd, InspectionFact, Limit, Output, Pileup, RefreshEnd, ScanEnd,
            ScanFact, Since, Socket, SocketKey,
        },
        testing::{owner, process, socket_on_port},
    };

    fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    /// Plays an agent that starts at `start` seconds beside a server with `count` sockets in CLOSE_WAIT, none of which changes, and
    /// with 64 descriptors, of which `open` are open. Returns its incidents of two minutes.
    fn incidents(start: u64, count: u64, open: u64) -> Vec<Pileup> {
        let mut engine = Engine::new(Config::default(), at(start));
        for number in 0..count {
            let mut socket = Socket { inode: Some(number + 1), ..socket_on_port(80) };
            socket.remote.port = u16::try_from(10_000 + number).unwrap();
            let (key, since) = (SocketKey((1 << 63) + number), Since::Exact(at(10 + number)));
            engine.handle(ScanFact::Present { key, at: at(start), since, socket });
        }
        let mut incidents = Vec::new();
        for now in start..start + 120 {
            engine.handle_timeout(at(now));
            while let Some(output) = engine.poll_output() {
                match output {
                    Output::Refresh(_) => engine.handle(RefreshEnd::Inspection { at: at(now), lingering: true }),
                    Output::ScanOwners { .. } => {
                        for number in 0..count {
                            let (key, owner) = (SocketKey((1 << 63) + number), owner("server", 7, 9));
                            engine.handle(ScanFact::Descriptor { key, at: None, inode: number + 1, owner });
                        }
                        engine.handle(ScanEnd::Descriptors { began: at(now), blind: None, saw_listeners: true });
                    }
                    Output::InspectOwners(_) => {
                        let process = Box::new(process("server", 7, Some((open, 64))));
                        engine.handle(InspectionFact::Process { at: at(now), process });
                        engine.handle(InspectionEnd::Owners { at: at(now), worked: Duration::ZERO });
                    }
                    Output::Finding(Finding::Pileup { pileup, .. }) => incidents.push(*pileup),
                    Output::Finding(_)
                    | Output::StillStuck { .. }
                    | Output::RefreshLingering(_)
                    | Output::Audit { .. }
                    | Output::RefreshSuspects(_)
                    | Output::Query(_)
                    | Output::WatchPorts(_)
                    | Output::Forget(_)
                    | Output::ReadCounters => {}
                }
            }
        }
        incidents
    }

    #[test]
    fn a_limit_that_is_reached_is_an_incident_without_growth() {
        let first = incidents(300, 60, 64);
        let states: Vec<_> = first.iter().map(|pileup| pileup.incident.unwrap().state).collect();
        assert_eq!(states, [IncidentState::Opened, IncidentState::Exhausted]);
        assert!(first.iter().all(|pileup| pileup.reached_limit() == Some(Limit::Descriptors)));
        // The next agent continues it.
        let id = |incidents: &[Pileup]| incidents[0].incident.unwrap().id;
        assert_eq!(id(&incidents(700, 60, 64)), id(&first));
    }

    #[test]
    fn a_level_count_below_the_limit_is_none() {
        assert_eq!(incidents(300, 60, 63), []);
        assert_eq!(incidents(300, 2, 64), [], "others have used the descriptors");
    }
}
