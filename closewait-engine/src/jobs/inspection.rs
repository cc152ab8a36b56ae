//! Inspection of stuck sockets before the agent reports them: refresh the sockets, scan for their owners, inspect the owners. Each
//! step is an [`Output`] and ends with a fact.

use std::time::Duration;

use crate::{
    Engine,
    diagnose::grouping::Grouping,
    flow::flows::Flows,
    model::{Finding, InspectionRequest, Output, Role, Socket},
    time::BootTime,
};

/// Interval at which stuck sockets are refreshed. A refresh takes some microseconds for each of them.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// Interval of scans for owners if nothing else is a reason for one. A scan takes longer the more files are open on the
/// whole host.
const OWNER_SCAN_INTERVAL: Duration = Duration::from_secs(60);
/// Age at which owners are too old for an answer to a query.
pub(crate) const MAX_OWNER_AGE: Duration = Duration::from_secs(10);
/// CPU time to judge one socket among all others, measured with 12,000.
const COST_PER_SOCKET: Duration = Duration::from_micros(2);
/// Shortest time between two inspections, so that sockets that get stuck one after the other share one.
const MIN_INSPECTION_INTERVAL: Duration = Duration::from_millis(100);
/// Longest delay of the report of a due socket, however long an inspection takes.
const REPORT_GRACE: Duration = Duration::from_secs(1);
/// Time after which a socket that is due is reported, once its refresh was asked for.
const REFRESH_GRACE: Duration = Duration::from_millis(250);
/// Number of sockets that are reported at a time: the findings of a million at once would take a gigabyte.
const MAX_REPORTED: usize = 16_384;
/// Largest part of all sockets in one report, if that is more than [`MAX_REPORTED`]: each report groups all of them
/// again.
const MAX_REPORTED_PART: usize = 8;
/// Share of one CPU that inspections may use: one part in this number.
const CPU_SHARE: u32 = 50;
/// CPU time that inspections may use at once after a quiet time.
const MAX_CPU_CREDIT: Duration = Duration::from_millis(200);
/// Longest time between two inspections.
const MAX_INSPECTION_INTERVAL: Duration = Duration::from_secs(10);

/// CPU time that inspections may use: a bucket that fills with one part in [`CPU_SHARE`] of the time that passes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Time that may be used at once.
    credit: Duration,
    /// Time that was used beyond the credit; one of the two is zero.
    debt: Duration,
    at: BootTime,
}

impl Budget {
    pub(crate) fn new(now: BootTime) -> Self {
        Self { credit: MAX_CPU_CREDIT, debt: Duration::ZERO, at: now }
    }

    /// Takes the cost of an inspection that ended at `at`. Returns after what time the next may begin.
    fn spend(&mut self, at: BootTime, cost: Duration) -> Duration {
        let earned = at.since(self.at) / CPU_SHARE;
        self.at = self.at.max(at);
        let (have, owe) = (self.credit.saturating_add(earned), self.debt.saturating_add(cost));
        self.credit = have.saturating_sub(owe).min(MAX_CPU_CREDIT);
        self.debt = owe.saturating_sub(have).min(MAX_INSPECTION_INTERVAL / CPU_SHARE);
        self.debt.saturating_mul(CPU_SHARE).max(MIN_INSPECTION_INTERVAL)
    }
}

/// Step of an inspection. Each step waits for an answer; `asked` is the time at which the inspection began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InspectionStep {
    /// No inspection is running.
    Idle,
    /// The sockets are refreshed. With `full`, owners are searched for and inspected after that.
    Refreshing { asked: BootTime, full: bool },
    /// A scan for owners is running.
    Scanning { asked: BootTime },
    /// The owners are being inspected.
    Inspecting { asked: BootTime },
    /// The results are being reported, some sockets at a time, as of `at`.
    Reporting { asked: BootTime, at: BootTime, worked: Duration },
}

impl Engine {
    /// Returns the time at which the next inspection is due; `None` while one is running.
    pub(crate) fn next_inspection_due(&self) -> Option<BootTime> {
        if self.inspection != InspectionStep::Idle {
            return None;
        }
        let refresh = self.tracker.has_stuck().then_some(self.refresh);
        let suspects = self.has_suspects().then_some(BootTime::default());
        let due = [self.tracker.next_due(), self.lingering.next_due(), refresh, suspects].into_iter().flatten().min();
        due.map(|due| due.max(self.next_inspection))
    }

    /// Returns the time at which due sockets have to be reported even if the inspection has not ended.
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

    /// Begins an inspection if one is due at `now`, and reports sockets for which none was possible in time.
    pub(crate) fn inspect_or_report(&mut self, now: BootTime) {
        if self.next_inspection_due().is_some_and(|next| next <= now) {
            self.inspect(now);
        } else if self.report_deadline().is_some_and(|deadline| deadline <= now) {
            // Each report judges all sockets.
            self.next_late_report = now + self.judging().saturating_mul(2).clamp(MIN_INSPECTION_INTERVAL, REPORT_GRACE);
            match self.inspection {
                // It takes microseconds, and tells what the verdict depends on most.
                InspectionStep::Idle => {
                    self.outputs.push_back(Output::Refresh(self.tracker.due(now)));
                    self.inspection = InspectionStep::Refreshing { asked: now, full: false };
                }
                InspectionStep::Refreshing { asked, .. }
                | InspectionStep::Scanning { asked }
                | InspectionStep::Inspecting { asked }
                | InspectionStep::Reporting { asked, .. } => self.report_stuck(now - REPORT_GRACE, asked, now),
            }
        }
    }

    /// Whether a group is to be reported as piling up.
    fn has_suspects(&self) -> bool {
        self.flows.as_ref().is_some_and(Flows::has_suspects)
    }

    /// Begins an inspection. Facts from a socket's entry may have changed, for example because a program has accepted
    /// it, so sockets are refreshed before each report.
    pub(crate) fn inspect(&mut self, now: BootTime) {
        let gone = self.lingering.due(now);
        if !gone.is_empty() {
            self.outputs.push_back(Output::RefreshLingering(gone));
        }
        let mut keys = self.tracker.due(now);
        if self.refresh <= now {
            keys.extend(self.tracker.stuck(now));
        }
        keys.extend(self.oldest_of_suspects());
        self.outputs.push_back(Output::Refresh(keys));
        self.inspection = InspectionStep::Refreshing { asked: now, full: true };
    }

    pub(crate) fn refreshed_all(&mut self, at: BootTime) {
        let InspectionStep::Refreshing { asked, full } = self.inspection else { return };
        if !full {
            self.inspection = InspectionStep::Reporting { asked, at, worked: Duration::ZERO };
            self.report_more();
            return;
        }
        self.lingering.refreshed_due(asked);
        let is_due = self.tracker.next_due().is_some_and(|due| due <= asked);
        let is_old = self.scanned.is_none_or(|scanned| asked.since(scanned) >= OWNER_SCAN_INTERVAL);
        if is_due || self.has_suspects() || (is_old && self.tracker.has_stuck()) {
            self.inspection = InspectionStep::Scanning { asked };
            self.scan_owners();
        } else if self.config.reads_progress && self.refresh <= asked && self.tracker.has_stuck() {
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
        // A socket without the backlog of a listener has been connected, or its listener was told `listen(fd, 0)`.
        self.tracker.owner_scan_ended(began, complete, |socket| match host_context.listeners_of(socket).next() {
            Some(_) => Some(Role::Server),
            None => sees_all.then_some(Role::Client),
        });
        self.lingering.scan_ended(began, complete);
        self.note_dropped();
        self.inspect_owners();
    }

    /// Ends an inspection whose scan was not possible: owners remain as they are known, and the next inspection tries
    /// again.
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

    /// Returns what an inspection at `now` has to find out about the sockets that are stuck, due or suspected.
    pub(crate) fn owner_request(&mut self, now: BootTime) -> InspectionRequest {
        let suspects = self.suspects();
        let Self { tracker, host_context, flows, group_keys, config, .. } = self;
        let flows = flows.as_ref();
        let is_suspect =
            |socket: &Socket| flows.is_some_and(|flows| suspects.contains(&flows.counted_as(group_keys.flow(socket))));
        let tracked = tracker.stuck_or_due(now, is_suspect).map(|(_, one)| (&one.socket, one.owners.as_deref()));
        let mut request = host_context.inspection_request(now, tracked);
        if config.reads_progress {
            let tracked = tracker.stuck_or_due(now, is_suspect);
            let sockets = tracked.map(|(key, one)| (group_keys.flow(&one.socket), key, one));
            request.peer_ends_of = host_context.peer_request(now, sockets);
        }
        request
    }

    /// Updates the number of dropped facts: the most at one inspection. Counts of different inspections are not added,
    /// for they may be of the same facts.
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

    /// An inspection of owners ended at `at`.
    pub(crate) fn owners_inspected(&mut self, at: BootTime) {
        self.host_context.inspection_ended();
        self.inspected_owners_at = self.inspected_owners_at.max(Some(at));
    }

    /// Continues the report, if one is running.
    pub(crate) fn report_more(&mut self) {
        let InspectionStep::Reporting { asked, at, worked } = self.inspection else { return };
        self.report_stuck(asked, asked, asked);
        if self.tracker.next_due().is_none_or(|due| due > asked) {
            self.report_pileups(asked);
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

    /// CPU time that it takes to judge all sockets.
    fn judging(&self) -> Duration {
        COST_PER_SOCKET.saturating_mul(u32::try_from(self.tracker.len()).unwrap_or(u32::MAX))
    }

    /// Reports at `at` what was due at `due_by` and has not left since. Of sockets that were not refreshed since
    /// `refreshed`, what can have changed is not known.
    fn report_stuck(&mut self, due_by: BootTime, refreshed: BootTime, at: BootTime) {
        if self.tracker.next_due().is_none_or(|due| due > due_by) {
            return;
        }
        let forgotten = self.tracker.forget_what_was_not_refreshed(due_by, refreshed);
        let flows = self.flows.as_ref();
        let grouping =
            Grouping::new(at, self.config.stuck_after, &self.tracker, &self.host_context, &self.group_keys, flows);
        let due = self.tracker.due(due_by);
        let judged: Vec<_> = due
            .iter()
            .take(MAX_REPORTED.max(self.tracker.len() / MAX_REPORTED_PART))
            .filter_map(|key| {
                let tracked = self.tracker.get(*key)?;
                let (socket, owners) = (&tracked.socket, tracked.owners.as_deref());
                let workload = self.host_context.workload(socket, owners).cloned().map(Box::new);
                let process = grouping.process(socket, owners).cloned().map(Box::new);
                Some((*key, Box::new(grouping.verdict(*key, tracked)), workload, process))
            })
            .collect();
        for (key, verdict, workload, process) in judged {
            let Some((tracked, dwell)) = self.tracker.report(key, at) else { continue };
            let (socket, owners) = (tracked.socket.clone(), tracked.owners.clone());
            let finding = Finding::Stuck { at, socket, dwell, owners, verdict, workload, process };
            self.outputs.push_back(Output::Finding(finding));
        }
        self.tracker.remember(forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_after_a_quiet_time_and_debts_are_paid_at_a_fiftieth() {
        let at = |millis: u64| BootTime(millis * 1_000_000);
        let (cost, mut budget) = (Duration::from_millis(50), Budget::new(at(0)));
        let gaps: Vec<Duration> = (0..4).map(|_| budget.spend(at(0), cost)).collect();
        assert_eq!(gaps, [MIN_INSPECTION_INTERVAL; 4], "200 ms are there");
        assert_eq!(budget.spend(at(0), cost), Duration::from_millis(2500));
        assert_eq!(budget.spend(at(2500), cost), Duration::from_millis(2500));
        assert_eq!(
            budget.spend(at(10_000), cost),
            MIN_INSPECTION_INTERVAL,
            "after 7.5 s it has 150 ms again, less what is owed"
        );
        assert_eq!(budget.spend(at(10_000), Duration::from_secs(60)), MAX_INSPECTION_INTERVAL, "a debt is never older");
        assert_eq!(budget.spend(at(1_000_000), cost), MIN_INSPECTION_INTERVAL);
    }
}
