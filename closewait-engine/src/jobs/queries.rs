//! Queries: the steps before an answer.
//!
//! ```text
//! an agent:         refresh sockets, scan for owners if the last scan is too old -> inspect new cgroups -> answer
//! a one-off scan:   scan everything -> scan for owners if some sockets have none -> inspect all owners -> answer
//! ```
//!
//! Each step is a command among the outputs, and ends with an observation. A query that has waited for too long is answered from
//! the current state.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Engine,
    context::host_context::MAX_PROCESSES,
    jobs::inspection::{MAX_OWNER_AGE, REFRESH_INTERVAL},
    model::{AnswerNeeds, InspectionRequest, Output, QueryCommand, QueryEvent, QueryId, SocketKey},
    snapshot::query::Filter,
    time::BootTime,
    track::socket_view::{InspectedSocket, Owners, SocketView},
};

/// Maximum time before an answer. The client waits for 5 s.
const MAX_QUERY_WAIT: Duration = Duration::from_secs(2);

/// Minimum time in CLOSE_WAIT after which a socket without a scan makes a query scan for owners, unless the answer needs all of them.
/// On a busy host there always is a younger one, which most likely exits before the scan ends.
const UNSCANNED_AGE: Duration = Duration::from_secs(1);

/// Minimum age of an inspection after which a query inspects owners that it did not cover. Owners over a limit are never covered.
const NEW_OWNER_AGE: Duration = Duration::from_secs(1);

/// Unanswered query.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PendingQuery {
    id: QueryId,
    step: QueryStep,
    #[serde(default)]
    needs: AnswerNeeds,
    until: BootTime,
}

/// Step of a query. Each step waits for an observation.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum QueryStep {
    /// The agent scans everything, for a one-off scan.
    ScanningAll,
    /// The agent refreshes sockets until `refreshed` is set, and the query waits for the owner scan with the number `scan`.
    Refreshing { refreshed: bool, scan: Option<u64> },
    /// The agent inspects cgroups; with `owners`, also owners and everything else.
    Inspecting { owners: bool },
}

/// Unanswered queries, and the owner scans that they wait for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Queries {
    pending: Vec<PendingQuery>,
    /// Number of requested owner scans. They end in the same order.
    scans_asked: u64,
    /// Number of owner scans that have ended.
    scans_ended: u64,
}

impl Queries {
    /// Counts a requested owner scan, and returns its number.
    pub(crate) fn scan_asked(&mut self) -> u64 {
        self.scans_asked += 1;
        self.scans_asked
    }

    /// Counts an owner scan that has ended.
    pub(crate) fn scan_ended(&mut self) {
        self.scans_ended += 1;
    }

    /// Returns the latest time of the next answer.
    pub(crate) fn poll_timeout(&self) -> Option<BootTime> {
        self.pending.iter().map(|query| query.until).min()
    }
}

impl Engine {
    pub(crate) fn query_event(&mut self, event: QueryEvent) {
        match event {
            QueryEvent::Asked { query, at, owner_ended, needs } => self.asked(query, at, owner_ended, needs),
            QueryEvent::ScannedAll { query } => {
                let has_unheld = self.scanned.is_some_and(|began| self.tracker.has_unheld(began));
                let scan = has_unheld.then(|| self.scan_owners());
                self.set_query_step(query, QueryStep::Refreshing { refreshed: true, scan });
            }
            QueryEvent::Refreshed { query } => {
                let pending = self.queries.pending.iter_mut().find(|pending| pending.id == query);
                if let Some(QueryStep::Refreshing { refreshed, .. }) = pending.map(|pending| &mut pending.step) {
                    *refreshed = true;
                }
            }
            QueryEvent::Inspected { query } => {
                let pending = self.queries.pending.iter().find(|pending| pending.id == query);
                if matches!(pending.map(|pending| pending.step), Some(QueryStep::Inspecting { owners: true })) {
                    self.owners_inspected(self.now);
                }
                self.answer_query(query);
            }
        }
        self.continue_queries();
    }

    fn asked(&mut self, query: QueryId, at: BootTime, owner_ended: bool, needs: AnswerNeeds) {
        let step = if self.config.watching {
            let present = if needs == AnswerNeeds::Counts { Vec::new() } else { self.not_refreshed(at) };
            let lingering = self.descriptors_left();
            let refreshed = present.is_empty() && lingering.is_empty();
            if !refreshed {
                self.outputs.push_back(Output::Query(QueryCommand::Refresh { query, present, lingering }));
            }
            QueryStep::Refreshing { refreshed, scan: self.owner_scan_for_query(at, owner_ended, needs) }
        } else {
            self.outputs.push_back(Output::Query(QueryCommand::ScanAll { query }));
            QueryStep::ScanningAll
        };
        self.queries.pending.push(PendingQuery { id: query, step, needs, until: at + MAX_QUERY_WAIT });
    }

    /// Returns the number of the owner scan that has to end before the answer to a query at `at`; `None` if none is needed.
    fn owner_scan_for_query(&mut self, at: BootTime, owner_ended: bool, needs: AnswerNeeds) -> Option<u64> {
        let min_age = match needs {
            AnswerNeeds::Everything => Duration::ZERO,
            AnswerNeeds::LastingOwners => UNSCANNED_AGE,
            AnswerNeeds::Counts => return None,
        };
        if owner_ended {
            // A running scan may have found the descriptors of the ended process.
            return Some(self.scan_owners());
        }
        let is_old = self.scanned.is_none_or(|scanned| at.since(scanned) >= MAX_OWNER_AGE);
        let needs_scan = |one: SocketView<'_>| !one.is_scanned() && at.since(one.latest()) >= min_age;
        if !is_old && !self.tracker.stored().any(needs_scan) {
            return None;
        }
        let Queries { scans_asked, scans_ended, .. } = self.queries;
        Some(if scans_asked > scans_ended { scans_asked } else { self.scan_owners() })
    }

    /// Requests a scan for owners. Returns its number.
    pub(crate) fn scan_owners(&mut self) -> u64 {
        // `poll_output` fills in the namespaces.
        self.outputs.push_back(Output::ScanOwners { known: Vec::new() });
        self.queries.scan_asked()
    }

    fn set_query_step(&mut self, query: QueryId, step: QueryStep) {
        if let Some(pending) = self.queries.pending.iter_mut().find(|pending| pending.id == query) {
            pending.step = step;
        }
    }

    /// Continues each query whose step has ended.
    pub(crate) fn continue_queries(&mut self) {
        let ended = self.queries.scans_ended;
        let may_inspect = |pending: &&PendingQuery| match pending.step {
            QueryStep::Refreshing { refreshed, scan } => refreshed && scan.is_none_or(|scan| scan <= ended),
            QueryStep::ScanningAll | QueryStep::Inspecting { .. } => false,
        };
        let next = self.queries.pending.iter().filter(may_inspect).map(|pending| (pending.id, pending.needs));
        for (query, needs) in next.collect::<Vec<_>>() {
            if needs == AnswerNeeds::Counts && self.config.watching {
                self.answer_query(query);
                continue;
            }
            let owners = self.needs_owners();
            let request = self.request_for_query(owners);
            if !owners && request.cgroups.is_empty() {
                self.answer_query(query);
            } else {
                let request = Box::new(request);
                self.outputs.push_back(Output::Query(QueryCommand::Inspect { query, request }));
                self.set_query_step(query, QueryStep::Inspecting { owners });
            }
        }
    }

    /// Answers the queries that have waited for too long at `now`.
    pub(crate) fn answer_late_queries(&mut self, now: BootTime) {
        let late = self.queries.pending.iter().filter(|pending| pending.until <= now).map(|pending| pending.id);
        for query in late.collect::<Vec<_>>() {
            self.answer_query(query);
        }
    }

    fn answer_query(&mut self, query: QueryId) {
        let pending = &mut self.queries.pending;
        if let Some(index) = pending.iter().position(|pending| pending.id == query) {
            pending.remove(index);
            self.outputs.push_back(Output::Query(QueryCommand::Answer { query }));
        }
    }

    /// Whether an answer needs an inspection of owners: always for a one-off scan, for an agent if the last inspection is too old or
    /// has not covered an owner for as long.
    fn needs_owners(&self) -> bool {
        if !self.config.watching {
            return true;
        }
        let older_than = |age| self.inspected_owners_at.is_none_or(|at| self.now.since(at) >= age);
        // An inspection of stuck sockets does not cover the owners of others.
        let is_unknown =
            |pid: &u32| self.host_context.inspected_at(*pid).is_none_or(|at| self.now.since(at) >= MAX_OWNER_AGE);
        let any_unknown = || self.owner_pids(MAX_PROCESSES).iter().any(is_unknown);
        self.config.reads_progress
            && self.unclosed().next().is_some()
            && (older_than(MAX_OWNER_AGE) || (older_than(NEW_OWNER_AGE) && any_unknown()))
    }

    /// Returns the facts that an inspection reads before an answer: with `owners` all facts, otherwise the unknown cgroups.
    fn request_for_query(&mut self, owners: bool) -> InspectionRequest {
        if !owners {
            let cgroups = self.tracker.stored().filter_map(SocketView::cgroup);
            return InspectionRequest { cgroups: self.host_context.unnamed(cgroups), ..InspectionRequest::default() };
        }
        let Self { tracker, lingering, host_context, group_keys, config, now, .. } = self;
        let tracked = tracker.iter().map(InspectedSocket::from);
        let lingering = lingering.iter().map(|(_, one)| InspectedSocket::from((&one.socket, one.owners.as_deref())));
        let mut request = host_context.inspection_request(*now, false, tracked.chain(lingering));
        if config.reads_progress {
            let sockets = tracker.iter().map(|one| (group_keys.flow_of(one), one));
            request.peer_ends_of = host_context.peer_request(*now, sockets);
        }
        request
    }

    /// Returns the sockets that were not refreshed since they entered, or not recently at `now`.
    fn not_refreshed(&self, now: BootTime) -> Vec<SocketKey> {
        self.tracker.not_refreshed_since(now - REFRESH_INTERVAL.saturating_mul(2))
    }

    /// Returns the sockets that have exited CLOSE_WAIT and had a descriptor at their last refresh. No event reports its close.
    fn descriptors_left(&self) -> Vec<SocketKey> {
        self.lingering.iter().map(|(key, _)| key).filter(|key| !key.is_of_ends()).collect()
    }

    /// Returns the PIDs of at most `most` owners of sockets, as of the last scan.
    pub fn owner_pids(&self, most: usize) -> BTreeSet<u32> {
        let tracked = self.tracker.iter().filter_map(SocketView::owners);
        let lingering = self.lingering.iter().filter_map(|(_, one)| one.owners.as_deref()).map(Owners::Others);
        let (mut pids, mut last) = (BTreeSet::new(), None);
        for owners in tracked.chain(lingering) {
            for owner in &*owners {
                if pids.len() >= most {
                    return pids;
                }
                // Sockets of one owner often follow each other.
                if last.replace(owner.task.pid) != Some(owner.task.pid) {
                    pids.insert(owner.task.pid);
                }
            }
        }
        pids
    }

    /// Whether a tracked socket, or one that has exited and still has a descriptor, may match a filter after the refreshes, scans and
    /// inspections of a query.
    pub fn may_match(&self, filter: &Filter) -> bool {
        // A scan may find a socket whose record was lost, or that was dropped.
        let may_find = self.losses() != self.losses_at_scan || self.tracker.can_track_dropped();
        may_find
            || self.tracker.stored().any(|one| filter.matches_ends(one.ends()))
            || self.lingering.iter().any(|(_, one)| filter.matches_ends(one.ends()))
    }
}

#[cfg(test)]
mod tests;
