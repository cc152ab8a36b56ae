//! Inspection of stuck sockets before a report: refresh the sockets, scan for their owners, inspect the owners. Each step is an
//! [`Output`] and ends with an observation.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Engine,
    diagnose::grouping::Grouping,
    flow::flows::Flows,
    model::{Finding, InspectionRequest, Output, Role, SocketKey},
    process::Process,
    time::BootTime,
    track::socket_view::{InspectedSocket, Owners, SocketView},
};

/// Interval of refreshes of stuck sockets. A refresh takes a few microseconds per socket.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// Interval of scans for owners without another reason. The duration of a scan depends on the number of open files of the host.
const OWNER_SCAN_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum age of owners for an answer to a query.
pub(crate) const MAX_OWNER_AGE: Duration = Duration::from_secs(10);
/// CPU time to judge one of many sockets, measured with 12,000 of them.
const COST_PER_SOCKET: Duration = Duration::from_micros(2);
/// Minimum interval of inspections, so that sockets that get stuck one after the other share an inspection.
const MIN_INSPECTION_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum delay of a report, if an inspection takes longer.
const REPORT_GRACE: Duration = Duration::from_secs(1);
/// Maximum delay of a report after the request for a refresh, if there is no time for a full inspection.
const REFRESH_GRACE: Duration = Duration::from_millis(250);
/// Maximum number of sockets in one report: the findings on a million sockets would take a gigabyte.
const MAX_REPORTED: usize = 16_384;
/// Divisor of the number of all sockets for the size of a report, if that is more than [`MAX_REPORTED`]: each report groups all
/// sockets again.
const MAX_REPORTED_PART: usize = 32;
/// Divisor of one CPU for the share that inspections may use.
const CPU_SHARE: u32 = 50;
/// Maximum CPU time that inspections may save up.
const MAX_CPU_CREDIT: Duration = Duration::from_millis(200);
/// Maximum interval of inspections.
const MAX_INSPECTION_INTERVAL: Duration = Duration::from_secs(10);

/// CPU time that inspections may use: a token bucket that fills at the rate of one part in [`CPU_SHARE`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Budget {
    /// CPU time that is available now.
    credit: Duration,
    /// CPU time that was used beyond the credit; at least one of `credit` and `debt` is zero.
    debt: Duration,
    at: BootTime,
}

impl Budget {
    pub(crate) fn new(now: BootTime) -> Self {
        Self { credit: MAX_CPU_CREDIT, debt: Duration::ZERO, at: now }
    }

    /// Subtracts the cost of an inspection that ended at `at`. Returns the time until the next inspection may begin.
    fn spend(&mut self, at: BootTime, cost: Duration) -> Duration {
        let earned = at.since(self.at) / CPU_SHARE;
        self.at = self.at.max(at);
        let (have, owe) = (self.credit.saturating_add(earned), self.debt.saturating_add(cost));
        self.credit = have.saturating_sub(owe).min(MAX_CPU_CREDIT);
        self.debt = owe.saturating_sub(have).min(MAX_INSPECTION_INTERVAL / CPU_SHARE);
        self.debt.saturating_mul(CPU_SHARE).max(MIN_INSPECTION_INTERVAL)
    }
}

/// Step of an inspection. Each step waits for an observation; `asked` is the start of the inspection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum InspectionStep {
    /// No inspection is running.
    Idle,
    /// The agent refreshes the sockets. With `full`, it scans for owners and inspects them after that.
    Refreshing { asked: BootTime, full: bool },
    /// The agent scans for owners.
    Scanning { asked: BootTime },
    /// The agent inspects the owners.
    Inspecting { asked: BootTime },
    /// The engine reports the sockets as of `at`, in parts.
    Reporting { asked: BootTime, at: BootTime, worked: Duration },
}

impl Engine {
    /// Returns the time at which the next inspection is due; `None` while one is running.
    pub(crate) fn next_inspection_due(&self) -> Option<BootTime> {
        if self.inspection != InspectionStep::Idle {
            return None;
        }
        let refresh = self.has_stuck().then_some(self.refresh);
        let suspects = self.has_suspects().then_some(BootTime::default());
        let due = [self.tracker.next_due(), self.lingering.next_due(), refresh, suspects].into_iter().flatten().min();
        due.map(|due| due.max(self.next_inspection))
    }

    /// Returns the time at which the engine reports due sockets even if the inspection has not ended.
    pub(crate) fn report_deadline(&self) -> Option<BootTime> {
        let deadline = (self.tracker.next_due()? + REPORT_GRACE).max(self.next_late_report);
        match self.inspection {
            InspectionStep::Refreshing { asked, full: false } => Some(deadline.max(asked + REFRESH_GRACE)),
            InspectionStep::Reporting { .. } => None,
            InspectionStep::Idle
            | InspectionStep::Refreshing { full: true, .. }
            | InspectionStep::Scanning { .. }
            | InspectionStep::Inspecting { .. } => Some(deadline),
        }
    }

    /// Begins an inspection if one is due at `now`, and reports sockets whose inspection was not possible in time.
    pub(crate) fn inspect_or_report(&mut self, now: BootTime) {
        if self.next_inspection_due().is_some_and(|next| next <= now) {
            self.inspect(now);
        } else if self.report_deadline().is_some_and(|deadline| deadline <= now) {
            // Each report judges all sockets.
            self.next_late_report = now + self.judging().saturating_mul(2).clamp(MIN_INSPECTION_INTERVAL, REPORT_GRACE);
            match self.inspection {
                // A refresh takes microseconds, and gives the facts on which the verdict depends most.
                InspectionStep::Idle => {
                    self.outputs.push_back(Output::Refresh(self.tracker.due(now).collect()));
                    self.inspection = InspectionStep::Refreshing { asked: now, full: false };
                }
                InspectionStep::Refreshing { asked, .. }
                | InspectionStep::Scanning { asked }
                | InspectionStep::Inspecting { asked }
                | InspectionStep::Reporting { asked, .. } => self.report_stuck(now - REPORT_GRACE, asked, now),
            }
        }
    }

    /// Whether any socket is stuck, in CLOSE_WAIT or as before its end.
    fn has_stuck(&self) -> bool {
        self.tracker.has_stuck() || self.lingering.has_abandoned()
    }

    /// Whether the growth of a flow is suspected.
    fn has_suspects(&self) -> bool {
        self.flows.as_ref().is_some_and(Flows::has_suspects)
    }

    /// Begins an inspection. It refreshes sockets before each report, because facts from a socket's entry may have changed: a
    /// program may have accepted the socket since.
    pub(crate) fn inspect(&mut self, now: BootTime) {
        let gone = self.lingering.begin_refresh(now);
        if !gone.is_empty() {
            self.outputs.push_back(Output::RefreshLingering(gone));
        }
        let mut keys: Vec<SocketKey> = self.tracker.due(now).collect();
        if self.refresh <= now {
            keys.extend(self.tracker.stuck(now));
        }
        keys.extend(self.oldest_of_suspects());
        self.outputs.push_back(Output::Refresh(keys));
        self.inspection = InspectionStep::Refreshing { asked: now, full: true };
    }

    pub(crate) fn refreshed_all(&mut self, at: BootTime, lingering: bool) {
        let InspectionStep::Refreshing { asked, full } = self.inspection else { return };
        if !full {
            self.inspection = InspectionStep::Reporting { asked, at, worked: Duration::ZERO };
            self.report_more();
            return;
        }
        let closed = self.lingering.refreshed_due(asked, lingering);
        self.not_found_again(closed, asked);
        let is_due = self.tracker.next_due().is_some_and(|due| due <= asked);
        let is_old = self.scanned.is_none_or(|scanned| asked.since(scanned) >= OWNER_SCAN_INTERVAL);
        if is_due || self.has_suspects() || (is_old && self.has_stuck()) {
            self.inspection = InspectionStep::Scanning { asked };
            self.scan_owners();
        } else if self.config.reads_progress && self.refresh <= asked && self.has_stuck() {
            self.inspect_known_owners(asked);
        } else {
            self.inspected(asked, Duration::ZERO);
        }
    }

    pub(crate) fn scan_ended(&mut self, began: BootTime, blind: Option<String>, saw_listeners: bool) {
        self.tracker.scan_ended();
        self.scanned = Some(began);
        let complete = blind.is_none();
        let sees_all = complete && saw_listeners;
        self.host_context.scan_ended(blind);
        let host_context = &self.host_context;
        // A socket without the backlog of a listener is a client's, or its listener called `listen(fd, 0)`.
        self.tracker.owner_scan_ended(began, complete, |socket| match host_context.listeners_of(socket).next() {
            Some(_) => Some(Role::Server),
            None => sees_all.then_some(Role::Client),
        });
        self.lingering.scan_ended(began, complete);
        self.note_dropped();
        self.inspect_owners();
    }

    /// Continues an inspection whose scan failed, with the owners of the previous scan. The next inspection scans again.
    pub(crate) fn scan_failed(&mut self, why: String) {
        self.tracker.scan_failed();
        self.host_context.scan_failed(why);
        self.inspect_owners();
    }

    /// Requests the inspection of owners, after the scan for them.
    fn inspect_owners(&mut self) {
        if let InspectionStep::Scanning { asked } = self.inspection {
            self.inspect_known_owners(asked);
        }
    }

    /// Requests the inspection of the owners as of the last scan.
    fn inspect_known_owners(&mut self, asked: BootTime) {
        self.inspection = InspectionStep::Inspecting { asked };
        let request = self.owner_request(asked);
        self.outputs.push_back(Output::InspectOwners(request));
        self.note_dropped();
    }

    /// Returns the facts that an inspection at `now` reads about the stuck, due and suspected sockets.
    pub(crate) fn owner_request(&mut self, now: BootTime) -> InspectionRequest {
        let suspects = self.suspects();
        let Self { tracker, lingering, host_context, flows, group_keys, config, .. } = self;
        let flows = flows.as_ref();
        let is_suspect = |one: SocketView<'_>| {
            flows.is_some_and(|flows| suspects.contains(&flows.counted_as(group_keys.flow_of(one))))
        };
        let sockets = tracker.stuck_or_due(now, is_suspect).chain(lingering.abandoned()).map(InspectedSocket::from);
        let mut request = host_context.inspection_request(now, config.reads_stacks, sockets);
        if config.reads_progress {
            let tracked = tracker.stuck_or_due(now, is_suspect);
            let sockets = tracked.map(|one| (group_keys.flow_of(one), one));
            request.peer_ends_of = host_context.peer_request(now, sockets);
        }
        if config.reads_stacks {
            let clients = tracker.stuck_or_due(now, is_suspect).filter(|one| one.role() == Some(Role::Client));
            request.connects_of = host_context.connect_request(clients.filter_map(|one| {
                let (netns, remote) = group_keys.flow_of(one).remote()?;
                Some((netns, remote, one.owners()?))
            }));
        }
        if config.reads_requests {
            let waiting = tracker.stuck_or_due(now, is_suspect);
            let sockets = waiting.map(|one| (group_keys.flow_of(one), one));
            let is_tracked = |key| tracker.get(key).is_some();
            request.unread_of = host_context.unread_request(config.agent_pid, is_tracked, sockets);
        }
        request
    }

    /// Updates the number of dropped facts: the maximum of all inspections. Their sum would count the same facts again.
    fn note_dropped(&mut self) {
        let dropped = self.host_context.dropped() + self.tracker.dropped_owners() + self.lingering.dropped_owners();
        self.dropped = self.dropped.max(dropped);
    }

    pub(crate) fn inspected_owners(&mut self, at: BootTime, worked: Duration) {
        self.owners_inspected(at);
        let InspectionStep::Inspecting { asked } = self.inspection else { return };
        self.inspection = InspectionStep::Reporting { asked, at, worked };
        self.report_more();
    }

    /// Records the end of an inspection of owners.
    pub(crate) fn owners_inspected(&mut self, at: BootTime) {
        self.host_context.inspection_ended();
        // A child has all descriptors of its parent until it runs another program or ends, as a worker of a moment does.
        let ended = self.host_context.drop_ended();
        if !ended.is_empty() {
            self.tracker.drop_owners(&ended);
            self.lingering.drop_owners(&ended);
        }
        self.inspected_owners_at = self.inspected_owners_at.max(Some(at));
    }

    /// Continues the report, if one is running.
    pub(crate) fn report_more(&mut self) {
        let InspectionStep::Reporting { asked, at, worked } = self.inspection else { return };
        self.report_stuck(asked, asked, asked);
        if self.tracker.next_due().is_none_or(|due| due > asked) {
            self.suspect_exhausted(at);
            self.report_pileups(at);
            self.inspected(at, worked);
        }
    }

    pub(crate) fn inspected(&mut self, at: BootTime, worked: Duration) {
        self.inspection = InspectionStep::Idle;
        let gap = self.budget.spend(at, worked.saturating_add(self.judging()));
        self.next_inspection = at + gap;
        if self.refresh <= at {
            self.refresh = at + REFRESH_INTERVAL.max(gap);
        }
    }

    /// Returns the CPU time for judging all sockets.
    fn judging(&self) -> Duration {
        COST_PER_SOCKET.saturating_mul(u32::try_from(self.tracker.len() + self.lingering.stored()).unwrap_or(u32::MAX))
    }

    /// Reports at `at` the sockets that were due at `due_by` and are still in CLOSE_WAIT. For sockets that were not refreshed since
    /// `refreshed`, facts that can have changed are unknown.
    fn report_stuck(&mut self, due_by: BootTime, refreshed: BootTime, at: BootTime) {
        if self.tracker.next_due().is_none_or(|due| due > due_by) {
            return;
        }
        let forgotten = self.tracker.forget_stale_facts(due_by, refreshed);
        let Self { tracker, host_context, group_keys, lingering, outputs, config, .. } = self;
        let flows = self.flows.as_ref();
        let grouping = Grouping::new(at, config.stuck_after, tracker, host_context, group_keys, flows);
        let grouping = grouping.with_lingering(lingering);
        let most = MAX_REPORTED.max(tracker.len() / MAX_REPORTED_PART);
        let due: Vec<SocketKey> = tracker.due(due_by).take(most).collect();
        outputs.reserve_exact(due.len());
        let mut processes = BTreeMap::<u32, Arc<Process>>::new();
        for tracked in due.iter().filter_map(|key| tracker.get(*key)) {
            let (socket, owners) = (tracked.socket(), tracked.owners().map(Owners::into_vec));
            let workload = host_context.workload(&socket, owners.as_deref()).cloned().map(Box::new);
            let process = grouping.process(&socket, owners.as_deref());
            let process =
                process.map(|one| Arc::clone(processes.entry(one.pid).or_insert_with(|| Arc::new(one.clone()))));
            let flow_key = group_keys.flow(&socket);
            let flow_key = flows.map_or(flow_key, |flows| flows.counted_as(flow_key));
            let incident = flows.and_then(|flows| flows.incident(flow_key)).map(|incident| incident.id);
            let (verdict, group) = (Box::new(grouping.verdict(tracked)), Box::new(flow_key.group()));
            let dwell = tracked.dwell(at);
            let finding = Finding::Stuck { at, socket, dwell, owners, verdict, workload, process, group, incident };
            outputs.push_back(Output::Finding(finding));
        }
        drop(grouping);
        due.into_iter().for_each(|key| self.tracker.report(key, at));
        self.tracker.remember(forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_after_a_quiet_time_and_delays_later_inspections() {
        let at = |millis: u64| BootTime(millis * 1_000_000);
        let (cost, mut budget) = (Duration::from_millis(50), Budget::new(at(0)));
        let gaps: Vec<Duration> = (0..4).map(|_| budget.spend(at(0), cost)).collect();
        assert_eq!(gaps, [MIN_INSPECTION_INTERVAL; 4], "200 ms are available");
        assert_eq!(budget.spend(at(0), cost), Duration::from_millis(2500));
        assert_eq!(budget.spend(at(2500), cost), Duration::from_millis(2500));
        assert_eq!(
            budget.spend(at(10_000), cost),
            MIN_INSPECTION_INTERVAL,
            "after 7.5 s, 150 ms minus the debt are available"
        );
        assert_eq!(budget.spend(at(10_000), Duration::from_secs(60)), MAX_INSPECTION_INTERVAL, "the debt is limited");
        assert_eq!(budget.spend(at(1_000_000), cost), MIN_INSPECTION_INTERVAL);
    }
}
