//! Audit: comparison of the tracked state with the kernel, periodically and after any sign of loss.
//!
//! 1. [`Output::Audit`]: the agent reports every socket. Sockets that were not tracked were missed; the engine tracks them now.
//! 2. A tracked socket that the scan did not find may have exited, or the scan could not see it. The same is true for an entry time in
//!    the kernel's map. [`Output::RefreshSuspects`] refreshes each such socket by its address.
//! 3. Sockets that are not in CLOSE_WAIT then are phantoms: the engine drops them, and the agent deletes their entry times from the
//!    kernel's map.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    Engine, Losses,
    model::{Finding, Output, Since, Socket, SocketKey},
    time::BootTime,
};

/// Interval of audits without a sign of loss.
const AUDIT_INTERVAL: Duration = Duration::from_secs(300);
/// Minimum interval of audits after a sign of loss.
const MIN_AUDIT_INTERVAL: Duration = Duration::from_secs(10);
/// Minimum interval of audits as a multiple of the CPU time of the last one, so that audits use at most 2 % of a CPU.
const GAP_FACTOR: u32 = 50;
/// Maximum time between an event and the read of its record.
const MAX_RECORD_DELAY: Duration = Duration::from_millis(100);

/// Maximum number of exits that are stored during the scan of an audit.
const MAX_EXITS: usize = 65_536;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    Idle,
    /// The agent scans all sockets; the engine requested the scan at this time.
    Scanning {
        asked: BootTime,
    },
    /// The agent refreshes the suspects: tracked sockets, and untracked ones with entry times in the kernel's map.
    Refreshing {
        asked: BootTime,
        /// Whether the scan covered every network namespace.
        complete: bool,
        tracked: BTreeSet<SocketKey>,
        stored: BTreeMap<SocketKey, BootTime>,
    },
}

/// State of the audit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Audit {
    step: Step,
    next: BootTime,
    least_gap: Duration,
    last: Option<BootTime>,
    /// Losses at the start of the last audit.
    after: Losses,
    /// Whether the next audit also reads the kernel's map of entry times.
    sweep: bool,
    stored: BTreeMap<SocketKey, BootTime>,
    /// Exits since the running audit began; the kernel's map may have contained their entry times when the agent read it.
    exits: BTreeMap<SocketKey, BootTime>,
    /// Number of missed sockets that audits found.
    pub(crate) repaired: u64,
    /// Number of sockets that were tracked, or had an entry time in the kernel's map, and were not in CLOSE_WAIT.
    pub(crate) phantom: u64,
    /// `repaired` and `phantom` as of the last report.
    reported: (u64, u64),
}

impl Audit {
    pub(crate) fn new(now: BootTime) -> Self {
        Self {
            step: Step::Idle,
            next: now + AUDIT_INTERVAL,
            least_gap: MIN_AUDIT_INTERVAL,
            last: None,
            after: Losses::default(),
            sweep: false,
            stored: BTreeMap::new(),
            exits: BTreeMap::new(),
            repaired: 0,
            phantom: 0,
            reported: (0, 0),
        }
    }

    /// Schedules the next audit as soon as allowed after `at`, with the kernel's map, because sockets may have been missed.
    pub(crate) fn hurry(&mut self, at: BootTime) {
        self.sweep = true;
        let earliest = self.last.map_or(at, |last| at.max(last + self.least_gap));
        self.next = self.next.min(earliest);
    }

    /// Records an exit at `at`: the socket's entry time in the kernel's map is no longer valid.
    pub(crate) fn left(&mut self, key: SocketKey, at: BootTime) {
        match &mut self.step {
            Step::Idle => {}
            Step::Scanning { .. } => {
                self.stored.remove(&key);
                if self.exits.len() < MAX_EXITS {
                    self.exits.insert(key, at);
                }
            }
            Step::Refreshing { stored, .. } => {
                stored.remove(&key);
            }
        }
    }

    /// Returns the start of the next audit; `None` while one is running.
    pub(crate) fn poll_timeout(&self) -> Option<BootTime> {
        (self.step == Step::Idle).then_some(self.next)
    }
}

impl Engine {
    /// Schedules an audit if `losses` have changed since the last one.
    pub(crate) fn audit_after(&mut self, at: BootTime, losses: Losses) {
        if losses != self.audit.after {
            self.audit.hurry(at);
        }
    }

    /// Begins an audit, if one is due at `now`.
    pub(crate) fn audit(&mut self, now: BootTime) {
        if self.audit.poll_timeout().is_none_or(|next| next > now) {
            return;
        }
        let sweep = std::mem::take(&mut self.audit.sweep);
        self.audit.after = self.losses();
        self.audit.step = Step::Scanning { asked: now };
        self.tracker.scan_began(now);
        self.outputs.push_back(Output::Audit { sweep });
    }

    /// Counts an untracked socket that a scan found as repaired, unless its record has not been read yet. Sockets that the scan
    /// at the start finds do not count.
    pub(crate) fn found_new(&mut self, since: Since) {
        if self.tracker.scan_asked().is_some_and(|asked| since.latest() + MAX_RECORD_DELAY < asked) {
            self.audit.repaired += 1;
        }
    }

    /// Adds an entry time from the kernel's map as a suspect, if no tracked socket has it.
    pub(crate) fn stored(&mut self, key: SocketKey, entered: BootTime) {
        // Over the limit of exits, it is unknown which sockets have exited: the next audit checks them.
        let has_exited =
            self.audit.exits.len() >= MAX_EXITS || self.audit.exits.get(&key).is_some_and(|exit| *exit >= entered);
        if !has_exited && self.tracker.get(key).is_none_or(|tracked| tracked.since() != Since::Exact(entered)) {
            self.audit.stored.insert(key, entered);
        }
    }

    /// Takes over the result of an audit's scan, which began at `began` and ended at `at`, and requests the refresh of the
    /// suspects.
    pub(crate) fn audit_scan_ended(&mut self, began: BootTime, at: BootTime, complete: bool, cost: Option<Duration>) {
        let Step::Scanning { asked } = self.audit.step else { return };
        let cost = cost.unwrap_or_else(|| at.since(asked));
        self.audit.least_gap = MIN_AUDIT_INTERVAL.max(cost.saturating_mul(GAP_FACTOR));
        self.audit.last = Some(at);
        self.audit.next = at + AUDIT_INTERVAL;
        let tracked: BTreeSet<SocketKey> = self.tracker.not_seen_since(began).into_iter().collect();
        let mut stored = std::mem::take(&mut self.audit.stored);
        self.audit.exits = BTreeMap::new();
        stored.retain(|key, entered| {
            let found = self.tracker.get(*key).filter(|_| !tracked.contains(key));
            // The record of a later entry is still to come. The entry time of a found socket is its own, unless that is impossible.
            *entered + MAX_RECORD_DELAY < asked && found.is_none_or(|one| one.since().excludes(*entered))
        });
        let mut suspects = tracked.clone();
        suspects.extend(stored.keys());
        let suspects = suspects.into_iter().filter(|key| !key.is_of_ends()).collect();
        self.audit.step = Step::Refreshing { asked: at, complete, tracked, stored };
        self.outputs.push_back(Output::RefreshSuspects(suspects));
    }

    /// Tracks a socket in CLOSE_WAIT that the refresh of a suspect found at the address of an entry time in the kernel's map.
    pub(crate) fn refreshed_stored(&mut self, key: SocketKey, at: BootTime, since: Option<Since>, socket: &Socket) {
        if self.tracker.get(key).is_some() {
            return;
        }
        let Step::Refreshing { stored, .. } = &mut self.audit.step else { return };
        if let Some(entered) = stored.remove(&key) {
            let (repaired, known) = (self.audit.repaired, self.tracker.len());
            // Another socket can have the address now than the one whose entry time the scan read.
            self.present(key, at, since.unwrap_or(Since::Exact(entered)), socket.clone());
            // A known socket does not count: it is over the limit, or was tracked by its endpoints. A running scan may have counted the
            // socket already.
            self.audit.repaired = repaired + u64::from(self.tracker.len() > known);
        }
    }

    /// Drops a socket that was not in CLOSE_WAIT at `at`: its exit was missed. The end of the next audit reports it. For a socket
    /// without a kernel address, an audit proves nothing if it cannot enter all network namespaces.
    pub(crate) fn gone(&mut self, key: SocketKey, at: BootTime) {
        if let Some(phantom) = self.tracker.take_if_not_seen_since(key, at) {
            self.audit.phantom += 1;
            self.missed_exit(at, phantom);
        }
    }

    /// Ends the audit after the refresh of the suspects. `refreshed` is whether the refresh read all sockets with a kernel address;
    /// otherwise only a scan of every namespace proves that a socket has exited.
    pub(crate) fn refreshed_suspects(&mut self, at: BootTime, refreshed: bool) {
        let Step::Refreshing { asked, complete, mut tracked, mut stored } =
            std::mem::replace(&mut self.audit.step, Step::Idle)
        else {
            return;
        };
        let is_proven = |key: &SocketKey| complete || (refreshed && !key.is_of_ends());
        tracked.retain(&is_proven);
        stored.retain(|key, _| is_proven(key));
        self.audit.phantom += stored.keys().filter(|key| !tracked.contains(key)).count() as u64;
        let mut forget: Vec<(SocketKey, BootTime)> = stored.into_iter().collect();
        for key in tracked {
            // Since then, a record may have reported its exit, or the entry of another socket at its address.
            let Some(phantom) = self.tracker.take_if_not_seen_since(key, asked) else { continue };
            self.audit.phantom += 1;
            if let Since::Exact(entered) = phantom.since {
                forget.push((key, entered));
            }
            self.missed_exit(at, phantom);
        }
        if !forget.is_empty() {
            self.outputs.push_back(Output::Forget(forget));
        }
        let now = (self.audit.repaired, self.audit.phantom);
        if std::mem::replace(&mut self.audit.reported, now) != now {
            let totals = self.totals();
            self.find(Finding::Health { at, totals });
        }
    }
}

#[cfg(test)]
mod tests;
