//! The pure core: observations and the time go in, findings come out.
//!
//! Nothing here reads a clock, a file or a socket, nor knows of threads, tokio or aya: the same observations give the same
//! findings, always. The caller
//!
//! 1. hands in everything that is there with [`Engine::handle`], snapshots before the records written meanwhile,
//! 2. calls [`Engine::handle_timeout`] with the time once that is after [`Engine::poll_timeout`],
//! 3. and takes what there is to do from [`Engine::poll_output`] until that gives nothing.

pub mod decode;
pub mod diagnose;
pub mod groups;
pub mod hints;
pub mod histogram;
pub mod listing;
pub mod model;
pub mod process;
pub mod query;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
pub mod time;
pub mod tracker;
pub mod view;
mod windows;
pub mod workload;

use std::{collections::VecDeque, ops::RangeInclusive, time::Duration};

use self::{
    model::{Counters, Finding, How, Observation, Output, Totals},
    time::Boot,
    tracker::Tracker,
    windows::Windows,
};

/// How soon a loss is looked for after something has happened.
const CHECK_COUNTERS_AFTER: Duration = Duration::from_secs(1);

/// Which sockets get `enter` and `leave` findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// Those that had been stuck.
    Stuck,
    /// Every one.
    All,
}

/// What the user has chosen, and what the host has.
#[derive(Clone, Debug)]
pub struct Config {
    /// Age at which a socket counts as stuck. Not zero.
    pub stuck_after: Duration,
    /// Which sockets get findings for their entering and leaving.
    pub events: Events,
    /// Length of a window of the histograms. Not zero.
    pub histogram_every: Duration,
    /// Ports that the kernel gives to connecting sockets (`ip_local_port_range`).
    pub ephemeral_ports: RangeInclusive<u16>,
}

/// The state of everything.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    tracker: Tracker,
    windows: Windows,
    counters: Counters,
    undecodable: u64,
    unwritten: u64,
    outputs: VecDeque<Output>,
    /// When to ask for the kernel's counters, for the end of a window or to see whether something was lost.
    window_ends: Boot,
    check_counters: Option<Boot>,
    reported: Losses,
    /// Since when an answer to [`Output::Look`] is awaited.
    looking: Option<Boot>,
    stopping: bool,
}

/// The counts that mean a loss.
type Losses = [u64; 6];

impl Engine {
    /// Begins at `now`.
    pub fn new(config: Config, now: Boot) -> Self {
        Self {
            tracker: Tracker::new(config.stuck_after),
            windows: Windows::new(now, config.ephemeral_ports.clone()),
            counters: Counters::default(),
            undecodable: 0,
            unwritten: 0,
            outputs: VecDeque::new(),
            window_ends: now + config.histogram_every,
            check_counters: None,
            reported: Losses::default(),
            looking: None,
            stopping: false,
            config,
        }
    }

    /// Takes in one fact.
    pub fn handle(&mut self, observation: Observation) {
        match observation {
            Observation::Enter { key, at, socket, replaced: _ } => {
                self.something_happened(at);
                if self.config.events == Events::All {
                    self.find(Finding::Enter { at, socket: socket.clone() });
                }
                if let Some(missed) = self.tracker.enter(key, at, socket)
                    && (missed.reported || self.config.events == Events::All)
                {
                    // It left at some time before this, nobody knows when or how.
                    let (socket, how) = (missed.socket, How::Unknown);
                    self.find(Finding::Leave {
                        at,
                        socket,
                        dwell: None,
                        how,
                        closer: None,
                        fd_open: None,
                        verdict: None,
                    });
                }
            }
            Observation::Leave { key, at, entered, socket, how, closer, fd_open } => {
                self.something_happened(at);
                let (dwell, tracked) = self.tracker.leave(key, at, entered, &socket);
                if let Some(dwell) = dwell {
                    self.windows.finished(&socket, dwell);
                }
                let stuck = tracked.is_some_and(|tracked| tracked.reported)
                    || dwell.is_some_and(|dwell| dwell.at_least() >= self.config.stuck_after);
                if stuck || self.config.events == Events::All {
                    self.find(Finding::Leave { at, socket, dwell, how, closer, fd_open, verdict: None });
                }
            }
            Observation::Present { key, at, since, socket }
            | Observation::Held { key, at, since, socket, holder: _ } => {
                self.tracker.present(key, at, since, socket);
            }
            Observation::Lingering { .. }
            | Observation::Listening { .. }
            | Observation::Leg { .. }
            | Observation::WalkEnded { .. }
            | Observation::Process { .. }
            | Observation::Cgroup { .. }
            | Observation::Namespace { .. }
            | Observation::Placed { .. }
            | Observation::InquiredAll => {}
            Observation::Looked { key, at, socket } => self.tracker.looked(key, at, &socket),
            Observation::LookedAtAll => self.report_stuck(),
            Observation::Counters { at, counters } => self.counters_read(at, *counters),
        }
    }

    /// Some bytes at `at` were no record.
    pub fn undecodable(&mut self, at: Boot) {
        self.something_happened(at);
        self.undecodable += 1;
    }

    /// `lines` were dropped at `at` because nobody read them.
    pub fn unwritten(&mut self, at: Boot, lines: u64) {
        self.something_happened(at);
        self.unwritten += lines;
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Boot) {
        // What was true when a socket entered need not be true now: one that nobody had accepted may be in use.
        if self.looking.is_none() && self.tracker.next_due().is_some_and(|due| due <= now) {
            self.looking = Some(now);
            self.outputs.push_back(Output::Look(self.tracker.due(now)));
        }
        if self.window_ends <= now || self.check_counters.is_some_and(|check| check <= now) {
            self.check_counters = None;
            self.outputs.push_back(Output::ReadCounters);
        }
    }

    /// Ends: asks for the counters one last time, and stops when they are there.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.outputs.push_back(Output::ReadCounters);
    }

    /// When [`Engine::handle_timeout`] has something to do next.
    pub fn poll_timeout(&self) -> Option<Boot> {
        [self.tracker.next_due(), self.check_counters, Some(self.window_ends)].into_iter().flatten().min()
    }

    /// The next thing to do, if there is one.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Everything counted so far.
    pub fn totals(&self) -> Totals {
        let Counters { entered, left, left_unseen, ring_full, map_full, replaced, skipped, dwell: _ } = self.counters;
        Totals {
            entered,
            left,
            left_unseen,
            lost_ring_full: ring_full,
            lost_map_full: map_full,
            replaced,
            skipped_by_kernel: skipped,
            undecodable: self.undecodable,
            unwritten: self.unwritten,
            tracked: self.tracker.len() as u64,
        }
    }

    /// Reports what was due when the look was asked for, and has not left since.
    fn report_stuck(&mut self) {
        let Some(asked) = self.looking.take() else { return };
        while let Some((tracked, dwell)) = self.tracker.pop_due(asked) {
            let socket = tracked.socket.clone();
            let (group, legs) = (diagnose::Group::default(), diagnose::Legs::default());
            let case = diagnose::Case {
                now: asked,
                stuck_after: self.config.stuck_after,
                socket: &socket,
                dwell,
                entered: asked,
                gone: None,
                holders: None,
                place: None,
                untouched: Duration::ZERO,
                group: &group,
                listener: None,
                legs: &legs,
                processes: &[],
                conntrack: None,
            };
            let verdict = Box::new(diagnose::verdict(&case));
            let finding = Finding::Stuck { at: asked, socket, dwell, owners: None, verdict };
            self.outputs.push_back(Output::Finding(finding));
        }
    }

    fn find(&mut self, finding: Finding) {
        self.outputs.push_back(Output::Finding(finding));
    }

    fn something_happened(&mut self, at: Boot) {
        self.check_counters.get_or_insert(at + CHECK_COUNTERS_AFTER);
    }

    fn counters_read(&mut self, at: Boot, counters: Counters) {
        let before = std::mem::replace(&mut self.counters, counters);
        self.windows.kernel_counted(&before.dwell, &self.counters.dwell);
        if self.window_ends <= at || self.stopping {
            let ages = self.tracker.iter().map(|(_, tracked)| (&tracked.socket, tracked.since.dwell(at)));
            for finding in self.windows.end(at, ages) {
                self.outputs.push_back(Output::Finding(finding));
            }
            self.window_ends = at + self.config.histogram_every;
        }
        let losses = self.losses();
        if losses != self.reported {
            self.reported = losses;
            let totals = self.totals();
            self.find(Finding::Health { at, totals });
        }
        if self.stopping {
            let totals = self.totals();
            self.find(Finding::Stop { at, totals });
        }
    }

    fn losses(&self) -> Losses {
        let Counters { ring_full, map_full, replaced, skipped, .. } = self.counters;
        [ring_full, map_full, replaced, skipped.unwrap_or(0), self.undecodable, self.unwritten]
    }
}

#[cfg(test)]
mod tests;
