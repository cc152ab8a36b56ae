//! Queries: what the agent has to find out before it answers one, one step after the other.
//!
//! ```text
//! an agent:         refresh sockets, scan for owners if what is known is too old -> inspect new cgroups -> answer
//! a one-off scan:   scan everything -> scan for owners if some sockets have none -> inspect all owners -> answer
//! ```
//!
//! Each step is a command among the outputs, and its end comes back as a fact. A query that has waited for too long is answered
//! with what is known.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    Engine,
    jobs::inspection::{MAX_OWNER_AGE, REFRESH_INTERVAL},
    model::{InspectionRequest, Output, QueryCommand, QueryEvent, QueryId, SocketKey},
    time::BootTime,
};

/// Time after which a query is answered with what is known: the client waits for 5 s.
const QUERY_PATIENCE: Duration = Duration::from_secs(2);

/// Query that has no answer yet.
#[derive(Debug)]
struct PendingQuery {
    id: QueryId,
    step: QueryStep,
    until: BootTime,
}

/// Step of a query. Each waits for facts.
#[derive(Clone, Copy, Debug)]
enum QueryStep {
    /// A one-off scan searches for everything.
    ScanningAll,
    /// Sockets are being refreshed, until `refreshed`, and the owner scan with the number `scan` has not ended.
    Refreshing { refreshed: bool, scan: Option<u64> },
    /// Cgroups are being inspected, with `owners` everything else too.
    Inspecting { owners: bool },
}

/// Queries without an answer, and the owner scans that they wait for.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    pending: Vec<PendingQuery>,
    /// Number of owner scans that were asked for, and that have ended: they end in the same order.
    scans_asked: u64,
    scans_ended: u64,
}

impl Queries {
    /// Number of the next owner scan, which is asked for now.
    pub(crate) fn scan_asked(&mut self) -> u64 {
        self.scans_asked += 1;
        self.scans_asked
    }

    /// An owner scan ended.
    pub(crate) fn scan_ended(&mut self) {
        self.scans_ended += 1;
    }

    /// Returns the time at which the next query is answered with what is known.
    pub(crate) fn poll_timeout(&self) -> Option<BootTime> {
        self.pending.iter().map(|query| query.until).min()
    }
}

impl Engine {
    pub(crate) fn query_event(&mut self, event: QueryEvent) {
        match event {
            QueryEvent::Asked { query, at, owner_ended } => self.asked(query, at, owner_ended),
            QueryEvent::ScannedAll { query } => {
                let scan = self.tracker.has_unheld().then(|| self.scan_owners());
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

    fn asked(&mut self, query: QueryId, at: BootTime, owner_ended: bool) {
        let step = if self.config.watching {
            let (present, lingering) = (self.not_refreshed(at), self.descriptors_left());
            let refreshed = present.is_empty() && lingering.is_empty();
            if !refreshed {
                self.outputs.push_back(Output::Query(QueryCommand::Refresh { query, present, lingering }));
            }
            QueryStep::Refreshing { refreshed, scan: self.owner_scan_for_query(at, owner_ended) }
        } else {
            self.outputs.push_back(Output::Query(QueryCommand::ScanAll { query }));
            QueryStep::ScanningAll
        };
        self.queries.pending.push(PendingQuery { id: query, step, until: at + QUERY_PATIENCE });
    }

    /// Returns the number of the owner scan that has to end before a query that was asked at `at` is answered.
    fn owner_scan_for_query(&mut self, at: BootTime, owner_ended: bool) -> Option<u64> {
        if owner_ended {
            // A scan that is running may have seen its descriptors.
            return Some(self.scan_owners());
        }
        let is_old = self.scanned.is_none_or(|scanned| at.since(scanned) >= MAX_OWNER_AGE);
        if !is_old && self.tracker.iter().all(|(_, tracked)| tracked.owners.is_some()) {
            return None;
        }
        let Queries { scans_asked, scans_ended, .. } = self.queries;
        Some(if scans_asked > scans_ended { scans_asked } else { self.scan_owners() })
    }

    /// Asks for a scan for owners. Returns its number.
    pub(crate) fn scan_owners(&mut self) -> u64 {
        // The namespaces are filled in when the command is taken.
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
        let next: Vec<QueryId> = self.queries.pending.iter().filter(may_inspect).map(|pending| pending.id).collect();
        for query in next {
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

    /// Whether owners are to be inspected for an answer: by an agent if the last inspection is too old. A one-off scan has
    /// inspected nothing.
    fn needs_owners(&self) -> bool {
        let is_old = self.inspected_owners_at.is_none_or(|at| self.now.since(at) >= MAX_OWNER_AGE);
        !self.config.watching || (self.config.reads_progress && is_old && self.tracker.len() > 0)
    }

    /// Returns what an answer needs: with `owners` everything, else the cgroups that no inspection has found out.
    fn request_for_query(&mut self, owners: bool) -> InspectionRequest {
        if !owners {
            let cgroups = self.tracker.iter().filter_map(|(_, tracked)| tracked.socket.cgroup);
            return InspectionRequest { cgroups: self.host_context.unnamed(cgroups), ..InspectionRequest::default() };
        }
        let Self { tracker, lingering, host_context, group_keys, config, now, .. } = self;
        let tracked = tracker.iter().map(|(_, tracked)| (&tracked.socket, tracked.owners.as_deref()));
        let lingering = lingering.iter().map(|(_, one)| (&one.socket, one.owners.as_deref()));
        let mut request = host_context.inspection_request(*now, tracked.chain(lingering));
        if config.reads_progress {
            let sockets = tracker.iter().map(|(key, one)| (group_keys.flow(&one.socket), key, one));
            request.peer_ends_of = host_context.peer_request(*now, sockets);
        }
        request
    }

    /// Returns the sockets that were not refreshed since they entered, or for some time before `now`.
    fn not_refreshed(&self, now: BootTime) -> Vec<SocketKey> {
        self.tracker.not_refreshed_since(now - REFRESH_INTERVAL.saturating_mul(2))
    }

    /// Returns the sockets out of CLOSE_WAIT that had a descriptor when they were last refreshed: no event reports its
    /// close.
    fn descriptors_left(&self) -> Vec<SocketKey> {
        self.lingering.iter().map(|(key, _)| key).filter(|key| !key.is_of_ends()).collect()
    }

    /// Returns the processes that own sockets as of the last scan, `most` at most.
    pub fn owner_pids(&self, most: usize) -> BTreeSet<u32> {
        let tracked = self.tracker.iter().filter_map(|(_, one)| one.owners.as_deref());
        let lingering = self.lingering.iter().filter_map(|(_, one)| one.owners.as_deref());
        let mut pids = BTreeSet::new();
        for owner in tracked.chain(lingering).flatten() {
            if pids.len() >= most {
                break;
            }
            pids.insert(owner.task.pid);
        }
        pids
    }
}

#[cfg(test)]
mod tests;
