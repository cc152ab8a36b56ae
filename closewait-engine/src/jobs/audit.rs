//! Comparison of the tracked state with the kernel: periodically, and after any sign of loss.
//!
//! 1. [`Output::Audit`]: the agent hands in every socket. Sockets that were not tracked had been missed, and are
//!    tracked now.
//! 2. A tracked socket that was not among them may be one whose exit was missed, or one that the scan could not see.
//!    The same is true for an entry time in the kernel's map. [`Output::RefreshSuspects`] asks for each by its address.
//! 3. Sockets that are not in CLOSE_WAIT then are phantoms: they are dropped, and their entry times deleted in the
//!    kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    Engine, Losses,
    model::{Finding, Output, Since, Socket, SocketKey},
    time::BootTime,
};

/// Interval of audits without a sign of loss.
const AUDIT_INTERVAL: Duration = Duration::from_secs(300);
/// Shortest time between two audits, after a sign of loss.
const MIN_AUDIT_INTERVAL: Duration = Duration::from_secs(10);
/// Shortest time between two audits, as a multiple of the CPU time of the last: an audit may use two hundredths of a
/// CPU.
const GAP_FACTOR: u32 = 50;
/// Longest time between an event and the read of its record.
const MAX_RECORD_DELAY: Duration = Duration::from_millis(100);

/// Exits that are remembered while a scan for an audit is running.
const MAX_EXITS: usize = 65_536;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Idle,
    /// A scan of all sockets is running, asked for at this time.
    Scanning {
        asked: BootTime,
    },
    /// Suspects are being refreshed, with the kernel's entry times of those that are not tracked.
    Refreshing {
        asked: BootTime,
        /// Whether the scan covered every network namespace.
        complete: bool,
        tracked: BTreeSet<SocketKey>,
        stored: BTreeMap<SocketKey, BootTime>,
    },
}

/// State of the audit.
#[derive(Debug)]
pub(crate) struct Audit {
    step: Step,
    next: BootTime,
    least_gap: Duration,
    last: Option<BootTime>,
    /// Losses at the start of the last audit.
    after: Losses,
    /// Whether the kernel's times of entry are to be compared too.
    sweep: bool,
    stored: BTreeMap<SocketKey, BootTime>,
    /// Exits since the running audit began; the kernel's map may have contained their entry times when it was read.
    exits: BTreeMap<SocketKey, BootTime>,
    /// Sockets that were missed, and found.
    pub(crate) repaired: u64,
    /// Sockets that were tracked, or that the kernel kept a time of, and were not there.
    pub(crate) phantom: u64,
    /// Both counts as of the last report.
    said: (u64, u64),
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
            said: (0, 0),
        }
    }

    /// Makes the next audit come soon and compare everything, as sockets may have been missed.
    pub(crate) fn hurry(&mut self, at: BootTime) {
        self.sweep = true;
        let earliest = self.last.map_or(at, |last| at.max(last + self.least_gap));
        self.next = self.next.min(earliest);
    }

    /// Takes in that a socket left at `at`: its entry time in the kernel's map has no meaning any more.
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
    /// Something was lost, up to `losses`.
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

    /// A scan found a socket that was not tracked: one that was missed, unless its record is still under way. What the scan of
    /// the start finds was there before.
    pub(crate) fn found_new(&mut self, since: Since) {
        if self.tracker.scan_asked().is_some_and(|asked| since.latest() + MAX_RECORD_DELAY < asked) {
            self.audit.repaired += 1;
        }
    }

    /// The kernel keeps a time of entry for this address.
    pub(crate) fn stored(&mut self, key: SocketKey, entered: BootTime) {
        // Beyond the limit of exits it is not known which ones have left: the next audit finds them.
        let has_left =
            self.audit.exits.len() >= MAX_EXITS || self.audit.exits.get(&key).is_some_and(|exit| *exit >= entered);
        if !has_left && self.tracker.get(key).is_none_or(|tracked| tracked.since != Since::Exact(entered)) {
            self.audit.stored.insert(key, entered);
        }
    }

    /// Takes over the result of an audit's scan, which began at `began` and ended at `at`.
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
            let is_there = self.tracker.get(*key).filter(|_| !tracked.contains(key));
            // Of one that entered later there is a record to come; that of one that is there is its own, unless it cannot be.
            *entered + MAX_RECORD_DELAY < asked && is_there.is_none_or(|one| one.since.excludes(*entered))
        });
        let mut suspects = tracked.clone();
        suspects.extend(stored.keys());
        let suspects = suspects.into_iter().filter(|key| !key.is_of_ends()).collect();
        self.audit.step = Step::Refreshing { asked: at, complete, tracked, stored };
        self.outputs.push_back(Output::RefreshSuspects(suspects));
    }

    /// Takes over the refresh of an address that the kernel keeps a time of entry for, if it found a socket in
    /// CLOSE_WAIT.
    pub(crate) fn refreshed_stored(&mut self, key: SocketKey, at: BootTime, since: Option<Since>, socket: &Socket) {
        if self.tracker.get(key).is_some() {
            return;
        }
        let Step::Refreshing { stored, .. } = &mut self.audit.step else { return };
        if let Some(entered) = stored.remove(&key) {
            let repaired = self.audit.repaired;
            // The address can be that of another socket than the one whose time of entry the scan has read.
            self.present(key, at, since.unwrap_or(Since::Exact(entered)), socket.clone());
            // Not one that is known and found no room. A scan that is running may have counted it.
            self.audit.repaired = repaired + u64::from(self.tracker.get(key).is_some());
        }
    }

    /// Continues after the refresh of the suspects. `refreshed`: all that have an address were read. Without that, only a scan
    /// of every namespace proves that a socket is gone.
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
            // A record may have told meanwhile that it left, or that another entered at its address.
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
        if std::mem::replace(&mut self.audit.said, now) != now {
            let totals = self.totals();
            self.find(Finding::Health { at, totals });
        }
    }
}

#[cfg(test)]
mod tests;
