//! Comparing what is tracked with what the kernel has: periodically, and after any sign of loss.
//!
//! 1. [`Output::Audit`]: everything that is there is handed in. What was not tracked has been missed, and is tracked now.
//! 2. What is tracked and was not among it may be a socket whose leaving was missed, or one that the scan could not see.
//!    So may be what the kernel keeps a time of entry for: [`Output::RefreshSuspects`] asks for each by its address.
//! 3. Those that are not in CLOSE_WAIT then are phantoms: nothing more is said of them, and the kernel forgets them too.

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
/// And so many times as long as its CPU time: it may use two hundredths of a CPU.
const GAP_FACTOR: u32 = 50;
/// Longest time between an event and the read of its record.
const MAX_RECORD_DELAY: Duration = Duration::from_millis(100);

/// Exits that are remembered while a scan for an audit is running.
const MAX_EXITS: usize = 65_536;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Idle,
    /// Everything that is there is handed in, asked for at this time.
    Scanning {
        asked: BootTime,
    },
    /// Suspects are looked at, with the time of entry that the kernel keeps of those that are not tracked.
    Refreshing {
        asked: BootTime,
        /// Whether the scan looked into every network namespace.
        complete: bool,
        tracked: BTreeSet<SocketKey>,
        stored: BTreeMap<SocketKey, BootTime>,
    },
}

/// How far the comparison has come.
#[derive(Debug)]
pub(crate) struct Audit {
    step: Step,
    next: BootTime,
    least_gap: Duration,
    last: Option<BootTime>,
    /// What had been lost when the last one began.
    after: Losses,
    /// Whether the kernel's times of entry are to be compared too.
    sweep: bool,
    stored: BTreeMap<SocketKey, BootTime>,
    /// When sockets have left since the one that goes on began, of which the kernel may have kept a time when that was read.
    exits: BTreeMap<SocketKey, BootTime>,
    /// Sockets that were missed, and found.
    pub(crate) repaired: u64,
    /// Sockets that were tracked, or that the kernel kept a time of, and were not there.
    pub(crate) phantom: u64,
    /// Both as of the last time that this was said.
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

    /// There may be things that nobody has seen: so the next one comes soon, and compares all.
    pub(crate) fn hurry(&mut self, at: BootTime) {
        self.sweep = true;
        let earliest = self.last.map_or(at, |last| at.max(last + self.least_gap));
        self.next = self.next.min(earliest);
    }

    /// A socket left at `at`: what the kernel had kept of it says nothing any more.
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

    /// When the next one is to begin; never while one goes on.
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
