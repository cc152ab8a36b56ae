//! Report of all groups at one time.

use std::{cmp::Reverse, collections::BTreeSet};

use super::{
    query::{EVERYTHING, Filter, ReportContent},
    urgency::Urgency,
    view::facts_of,
};
use crate::{
    Engine,
    diagnose::grouping::Grouping,
    flow::group_key::FlowKey,
    flow::growth::Members,
    model::{IncidentCourse, IncidentReport, ReportedGroup},
    time::BootTime,
    track::socket_view::SocketView,
};

/// Maximum number of groups of an [`IncidentReport`].
const MAX_REPORT_GROUPS: usize = 64;
/// Maximum number of groups that are judged for an [`IncidentReport`]: those that grow, then those with the most sockets.
pub(super) const MAX_RANKED_GROUPS: usize = 1024;

impl Engine {
    /// Returns a report of all groups with sockets in CLOSE_WAIT at `now`, the most urgent first, without the courses of incidents.
    pub fn report(&self, now: BootTime) -> IncidentReport {
        self.report_of(now, &EVERYTHING, ReportContent::Groups)
    }

    /// Returns a report of the sockets in CLOSE_WAIT at `now` that match `filter`, in groups, the most urgent first. Growth and
    /// forecasts are those of the whole port or remote endpoint.
    pub fn report_of(&self, now: BootTime, filter: &Filter, content: ReportContent) -> IncidentReport {
        let grouping = self.grouping(now);
        let in_close_wait =
            |members: &Members<'_>| members.iter().filter(|one| one.exit().is_none() && one.latest() <= now).count();
        let (members, all, mut matching) = if filter.is_empty() {
            let sizes = self.sizes_in(&grouping);
            let judged = self.most_important(sizes.iter().map(|(flow_key, size)| (*flow_key, *size)));
            (self.members_in(&grouping, |flow_key| judged.contains(&flow_key)), sizes.len(), 0)
        } else {
            let fitting = self.unclosed().filter(|one| self.fits(*one, filter, &grouping, now));
            let mut members = self.members_of(fitting, |_flow_key| true);
            let (all, matching) = (members.len(), members.values().map(in_close_wait).sum());
            let judged = self.most_important(members.iter().map(|(flow_key, members)| (*flow_key, members.len())));
            members.retain(|flow_key, _| judged.contains(flow_key));
            (members, all, matching)
        };
        let (mut ranked, mut others) = (Vec::new(), 0);
        for (flow_key, members) in &members {
            let oldest_first = members.oldest_first(now);
            let Some(pileup) = self.pileup(*flow_key, &oldest_first, &grouping, now) else {
                others += 1;
                continue;
            };
            if !filter.matches_verdict(pileup.verdict.class) {
                others += 1;
                matching -= in_close_wait(members);
                continue;
            }
            // The oldest sockets come first.
            let is_stuck = |one: &SocketView<'_>| one.dwell(now).at_least() >= self.config.stuck_after;
            let stuck = oldest_first.partition_point(is_stuck) as u64;
            let oldest = oldest_first.first().map(|one| one.latest());
            let piles_up_since = pileup.incident.map(|incident| incident.began);
            ranked.push((
                (pileup.urgency(), oldest, *flow_key),
                ReportedGroup { piles_up_since, stuck, pileup, course: None },
            ));
            // The evidence of a group can have many KB.
            if ranked.len() >= MAX_REPORT_GROUPS * 2 {
                keep_most_urgent(&mut ranked);
            }
        }
        keep_most_urgent(&mut ranked);
        let mut resolved = Vec::new();
        if content == ReportContent::Courses {
            for ((.., flow_key), group) in &mut ranked {
                group.course = self.course(*flow_key, group, now, filter.is_empty());
            }
            resolved.extend(self.resolved.iter().filter(|one| filter.matches_resolved(&one.end)).cloned());
        }
        IncidentReport {
            at: now,
            host: self.config.host.name.clone(),
            watched: self.config.watching.then(|| now.since(self.began)),
            stuck_after: self.config.stuck_after,
            totals: self.totals(),
            untracked: self.tracker.untracked(),
            unseen: self.config.unseen_sockets.clone(),
            stack_frames: self.stack_frames(),
            more: all.saturating_sub(ranked.len() + others) as u64,
            matching: (!filter.is_empty()).then_some(matching as u64),
            groups: ranked.into_iter().map(|(_, group)| group).collect(),
            resolved,
        }
    }

    /// Returns the [`MAX_RANKED_GROUPS`] of these flows, each with its number of sockets, that a report judges.
    fn most_important(&self, sizes: impl Iterator<Item = (FlowKey, usize)>) -> BTreeSet<FlowKey> {
        let grows = |flow_key: &FlowKey| self.flows.as_ref().is_some_and(|flows| flows.growth(*flow_key).is_some());
        let mut flows: Vec<_> = sizes.collect();
        if flows.len() > MAX_RANKED_GROUPS {
            flows.sort_by_key(|(flow_key, size)| (Reverse(grows(flow_key)), Reverse(*size), *flow_key));
            flows.truncate(MAX_RANKED_GROUPS);
        }
        flows.into_iter().map(|(flow_key, _)| flow_key).collect()
    }

    /// Whether the facts about a socket match a filter at `now`.
    fn fits<'a>(&'a self, one: SocketView<'a>, filter: &Filter, grouping: &Grouping<'a>, now: BootTime) -> bool {
        let facts = || facts_of(one, grouping, &self.host_context, now);
        filter.matches_ends(one.ends()) && filter.matches_facts(&facts().to_compare(), now)
    }

    /// Returns the course of a group's incident; if the group is `whole`, until `now`.
    fn course(&self, flow_key: FlowKey, group: &ReportedGroup, now: BootTime, whole: bool) -> Option<IncidentCourse> {
        let counts = whole.then_some((now, group.pileup.count, group.stuck));
        let mut course = self.flows.as_ref()?.course(flow_key, counts)?;
        let evidence = &group.pileup.evidence;
        let open = evidence.process.as_deref().and_then(|process| process.fds_open);
        if let [.., before, last] = course.points.as_mut_slice()
            && last.at == now
            && evidence.process_at.is_some_and(|read| read > before.at)
        {
            last.descriptors = open;
        }
        Some(course)
    }

    /// Returns the groups of the tracked sockets, judged as of `now`.
    pub(crate) fn grouping(&self, now: BootTime) -> Grouping<'_> {
        let flows = self.flows.as_ref();
        Grouping::new(now, self.config.stuck_after, &self.tracker, &self.host_context, &self.group_keys, flows)
            .with_lingering(&self.lingering)
    }
}

/// Group of a report with its rank: the urgency, then the oldest socket.
type RankedGroup = ((Urgency, Option<BootTime>, FlowKey), ReportedGroup);

/// Sorts groups by urgency, and drops those beyond the limit of a report.
fn keep_most_urgent(ranked: &mut Vec<RankedGroup>) {
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.truncate(MAX_REPORT_GROUPS);
}
