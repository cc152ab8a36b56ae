//! Two engines with the same sockets: one gets a record at each entry and at each exit, and the other one gets what [`Delivery`] says, as
//! the agent has it written. Both have to find the same at the same times.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    flow::group_key::FlowKey,
    model::{IncidentReport, PassedSockets, PileupGroup},
    testing::owner,
};

/// Interval of the turns of both event loops, milliseconds.
const TURN: u64 = 50;
/// Interval of searches for sockets that stay, and the age from which on one does, milliseconds.
const SEARCH: u64 = 250;
/// Age from which on a socket counts as stuck, milliseconds.
const STUCK_AFTER: u64 = 2_000;
/// Length of the interval of a cohort's entries, milliseconds.
const COHORT: u64 = STUCK_AFTER / 2;

/// Input of the second engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Records, deferred: that of an entry while its socket stays, or one record at the exit.
    Deferred,
    /// The same, but counts of healthy sockets instead of their records.
    Counted,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Enter { slot: u64, port: u16, overflows: bool },
    Leave { slot: u64, how: usize },
    Millis(u64),
    View,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..8_u64, 1..4_u16, prop::bool::weighted(0.1))
            .prop_map(|(slot, port, overflows)| Step::Enter { slot, port, overflows }),
        5 => (0..8_u64, 0..5_usize).prop_map(|(slot, how)| Step::Leave { slot, how }),
        4 => prop_oneof![0..40_u64, 40..600_u64, 600..1_500_u64].prop_map(Step::Millis),
        1 => Just(Step::View),
    ]
}

struct Present {
    socket: Socket,
    entered: BootTime,
    is_pending: bool,
    /// Whether a scan has found it. The tracker has it then.
    is_found: bool,
}

pub(super) struct Twins {
    delivery: Delivery,
    millis: u64,
    sockets: BTreeMap<SocketKey, Present>,
    /// Dwell times as the kernel program counts them, and the number of entries.
    dwelt: Vec<u64>,
    entered: u64,
    /// Number of sockets of each slot that exited with an open descriptor, so that the next one has another address.
    replaced: BTreeMap<u64, u64>,
    /// Counts that the second engine has not got, by flow.
    counts: BTreeMap<PileupGroup, PassedSockets>,
    /// Time at which it got the last ones.
    handed_over: BootTime,
    pub(super) at_once: Engine,
    pub(super) second: Engine,
}

impl Twins {
    pub(super) fn new(delivery: Delivery) -> Self {
        let config = Config {
            stuck_after: Duration::from_millis(STUCK_AFTER),
            histogram_every: Duration::from_secs(5),
            reads_progress: true,
            watching: true,
            ..config(Events::Stuck)
        };
        let engine = Engine::new(config, at(1_000_000));
        let mut twins = Self {
            delivery,
            millis: 1_000_000,
            sockets: BTreeMap::new(),
            dwelt: Vec::new(),
            entered: 0,
            replaced: BTreeMap::new(),
            counts: BTreeMap::new(),
            handed_over: at(1_000_000),
            at_once: engine.clone(),
            second: engine,
        };
        // The first flow after a time without any is counted when its first record arrives, and both would count at other times. The steps
        // end before an engine forgets a flow.
        twins.enter(64, 1, true);
        twins.leave(64, 0);
        if delivery == Delivery::Counted {
            // Without any socket, an entry brings the next count, and counts of sockets that have exited do not. This socket stays, so that
            // both engines count at the same times.
            twins.enter(65, 9, true);
        }
        twins
    }

    pub(super) fn step(&mut self, step: Step) {
        match step {
            Step::Enter { slot, port, overflows } => self.enter(slot, port, overflows),
            Step::Leave { slot, how } => self.leave(slot, how),
            Step::Millis(millis) => (0..millis).for_each(|_| self.millisecond()),
            Step::View => self.compare(),
        }
        self.millisecond();
    }

    /// Returns the address of the socket in a slot.
    fn key(&self, slot: u64) -> SocketKey {
        let replaced = self.replaced.get(&slot).copied().unwrap_or_default();
        SocketKey(KEY.0 + (slot + 128 * replaced) * 64)
    }

    fn enter(&mut self, slot: u64, port: u16, overflows: bool) {
        let key = self.key(slot);
        if self.sockets.contains_key(&key) {
            return;
        }
        self.entered += 1;
        let entered = at(self.millis);
        let socket = Socket { cookie: Some(self.millis), ..socket_of(slot, port) };
        let event = SocketEvent::Enter { key, at: entered, socket: socket.clone() };
        self.at_once.handle(event.clone());
        if overflows {
            self.second.handle(event);
        }
        self.sockets.insert(key, Present { socket, entered, is_pending: !overflows, is_found: false });
    }

    fn leave(&mut self, slot: u64, how: usize) {
        let key = self.key(slot);
        let Some(Present { socket, entered, is_pending, is_found }) = self.sockets.remove(&key) else { return };
        let at = at(self.millis);
        self.dwelt.push(u64::try_from(at.since(entered).as_millis()).unwrap());
        let (how, fd_open, is_healthy, ended) = [
            (ExitCause::Closed, Some(false), true, None),
            (ExitCause::Shutdown, Some(true), true, None),
            (ExitCause::Reset, Some(true), false, None),
            (ExitCause::Aborted, Some(false), false, None),
            (ExitCause::Closed, Some(false), false, Some(true)),
        ][how];
        // The record of an exit that is not healthy has more facts than that of the entry.
        let socket = if is_healthy {
            socket
        } else {
            Socket {
                inode: Some(at.0),
                accepted: Some(true),
                sent_bytes: Some(3),
                cgroup: socket.cgroup.or(Some(7)),
                ..socket
            }
        };
        let (closer, wrote) = (ended.map(|_| owner("worker", 7, 3).task), Some(how == ExitCause::Reset));
        // The kernel program does not know cohorts: it counts sockets in that of the last exit, which differs by one at most from that of
        // the entry.
        let cohort = |at: BootTime| at.0 / (COHORT * 1_000_000);
        let is_in_one_cohort = cohort(entered) == cohort(at);
        if self.delivery == Delivery::Counted && fd_open == Some(true) {
            // Its address is free again only after its descriptor was closed, which the record of another socket there shows, and counts do
            // not. Here the next refresh shows it.
            *self.replaced.entry(slot).or_default() += 1;
        }
        let is_counted = how == ExitCause::Closed && is_healthy && is_pending && !is_found && is_in_one_cohort;
        let flow = self.second.group_keys.flow(&socket).group();
        let pass = SocketEvent::Pass { key, entered, at, socket, how, closer, fd_open, wrote, ended };
        let (_, leave) = pass.clone().split();
        self.at_once.handle(leave.clone());
        if self.delivery == Delivery::Counted && is_counted {
            self.count(flow, entered, at);
        } else {
            self.second.handle(if is_pending { pass } else { leave });
        }
    }

    /// Counts a healthy socket of a flow, as the kernel program does.
    fn count(&mut self, flow: PileupGroup, entered: BootTime, at: BootTime) {
        let dwell = at.since(entered);
        let since = self.handed_over;
        let nothing = PassedSockets { at, flow: flow.clone(), since, last: at, longest: dwell, dwell: Vec::new() };
        let passed = self.counts.entry(flow).or_insert(nothing);
        (passed.last, passed.longest) = (at, passed.longest.max(dwell));
        let bucket = u16::try_from(closewait_common::histogram::index(time::nanos(dwell))).unwrap();
        match passed.dwell.iter_mut().find(|(of, _)| *of == bucket) {
            Some((_, count)) => *count += 1,
            None => passed.dwell.push((bucket, 1)),
        }
    }

    /// Hands the counts to the second engine, as the agent does before each decision and answer.
    fn hand_over(&mut self) {
        let now = at(self.millis);
        self.handed_over = now;
        for passed in std::mem::take(&mut self.counts).into_values() {
            self.second.handle(PassedSockets { at: now, ..passed });
        }
    }

    /// Announces sockets that have entered at `until` or before.
    fn announce(&mut self, until: BootTime) {
        for (key, one) in self.sockets.iter_mut().filter(|(_, one)| one.is_pending && one.entered <= until) {
            one.is_pending = false;
            self.second.handle(SocketEvent::Enter { key: *key, at: one.entered, socket: one.socket.clone() });
        }
    }

    fn millisecond(&mut self) {
        self.millis += 1;
        let now = at(self.millis);
        if self.millis.is_multiple_of(COHORT) {
            self.hand_over();
        }
        if !self.millis.is_multiple_of(TURN) {
            return;
        }
        self.hand_over();
        if self.second.poll_timeout().is_some_and(|due| due <= now) {
            self.announce(now);
        } else if self.millis.is_multiple_of(SEARCH) {
            self.announce(now - Duration::from_millis(SEARCH));
        }
        self.at_once.handle_timeout(now);
        self.second.handle_timeout(now);
        self.put_out(now);
    }

    /// Executes the commands of both engines, which have to be the same.
    fn put_out(&mut self, now: BootTime) {
        self.hand_over();
        loop {
            let outputs = self.next_outputs(now);
            assert_eq!(format!("{:?}", outputs[0]), format!("{:?}", outputs[1]), "at {now:?}");
            let [Some(output), _] = outputs else { return };
            let mut answers: Vec<Observation> = Vec::new();
            if matches!(output, Output::ScanOwners { .. } | Output::Audit { .. }) {
                self.sockets.values_mut().for_each(|one| one.is_found = true);
            }
            let all = || self.sockets.iter();
            match output {
                Output::Refresh(keys) => {
                    answers.extend(keys.iter().filter_map(|key| Some((*key, self.sockets.get(key)?))).map(
                        |(key, one)| {
                            let since = Some(Since::Exact(one.entered));
                            Observation::from(RefreshFact::Present { key, at: now, since, socket: one.socket.clone() })
                        },
                    ));
                    answers.push(RefreshEnd::Inspection { at: now, lingering: true }.into());
                }
                Output::ScanOwners { .. } => {
                    answers.extend(all().map(|(key, one)| {
                        let (key, since, socket) = (*key, Since::Exact(one.entered), one.socket.clone());
                        ScanFact::Owned { key, at: now, since, socket, owner: owner("worker", 7, 3) }.into()
                    }));
                    answers.push(ScanEnd::Descriptors { began: now, blind: None, saw_listeners: true }.into());
                    answers.push(ScanEnd::Owners.into());
                }
                Output::InspectOwners(_) => {
                    answers.push(InspectionEnd::Owners { at: now, worked: Duration::from_micros(1) }.into());
                }
                Output::ReadCounters => answers.push(self.counters(now)),
                Output::Audit { .. } => {
                    answers.extend(all().map(|(key, one)| {
                        let (key, since, socket) = (*key, Since::Exact(one.entered), one.socket.clone());
                        ScanFact::Present { key, at: now, since, socket }.into()
                    }));
                    answers.push(ScanEnd::Descriptors { began: now, blind: None, saw_listeners: true }.into());
                    answers.push(ScanEnd::Audit { began: now, at: now, complete: true, cost: None }.into());
                }
                Output::RefreshSuspects(keys) => {
                    assert!(keys.is_empty(), "{keys:?}");
                    answers.push(RefreshEnd::Suspects { at: now, complete: true }.into());
                }
                Output::Finding(_)
                | Output::StillStuck { .. }
                | Output::RefreshLingering(_)
                | Output::Query(_)
                | Output::WatchPorts(_)
                | Output::Forget(_) => {}
            }
            for answer in answers {
                self.at_once.handle(answer.clone());
                self.second.handle(answer);
            }
        }
    }

    /// Returns the next outputs of both engines. Each engine asks for the kernel's counters a second after the first record of which it
    /// knows, and counts say when the last of their sockets exited. So each gets its counters by itself if there are counts, and all else has
    /// to be the same.
    fn next_outputs(&mut self, now: BootTime) -> [Option<Output>; 2] {
        let (counters, delivery) = (self.counters(now), self.delivery);
        [&mut self.at_once, &mut self.second].map(|engine| {
            loop {
                let output = engine.poll_output();
                if delivery == Delivery::Deferred || output != Some(Output::ReadCounters) {
                    return output;
                }
                engine.handle(counters.clone());
            }
        })
    }

    /// Returns the counts of the kernel program.
    fn counters(&self, now: BootTime) -> Observation {
        let counters = Counters { entered: self.entered, ..dwelt(&self.dwelt) };
        Observation::Counters { at: now, counters: Box::new(counters) }
    }

    /// Compares what both engines answer now.
    pub(super) fn compare(&mut self) {
        let now = at(self.millis);
        self.announce(now);
        self.hand_over();
        let totals = |engine: &Engine| match self.delivery {
            Delivery::Deferred => engine.totals(),
            // See `next_outputs`: those that the kernel program counts are as old as the last reading.
            Delivery::Counted => Totals { entered: 0, left: 0, ..engine.totals() },
        };
        let answer = |engine: &Engine| {
            let report = IncidentReport { totals: totals(engine), ..engine.report(now) };
            (format!("{report:?}"), engine.exits.counts())
        };
        assert_eq!(answer(&self.at_once), answer(&self.second));
        let rows = |engine: &Engine| format!("{:?}", engine.view(now).rows);
        assert_eq!(rows(&self.at_once), rows(&self.second));
        for flow in (0..8).flat_map(|slot| (1..4).map(move |port| (slot, port))) {
            let counts = |engine: &Engine| counts_of(engine, engine.group_keys.flow(&socket_of(flow.0, flow.1)), now);
            assert_eq!(counts(&self.at_once), counts(&self.second), "{flow:?} at {now:?}");
        }
    }

    /// Ends both engines, and compares what they still find.
    pub(super) fn stop(&mut self) {
        self.compare();
        self.at_once.stop();
        self.second.stop();
        self.put_out(at(self.millis));
        self.compare();
    }
}

/// Returns a socket of a server, on port 1, or of a client.
fn socket_of(slot: u64, port: u16) -> Socket {
    let (role, cgroup) = if port == 1 { (Some(Role::Server), None) } else { (None, Some(u64::from(port))) };
    let mut socket = Socket { role, cgroup, netns: Some(1), ..socket_on_port(port) }.at_entry();
    socket.remote.port = 1000 + u16::try_from(slot).unwrap();
    if role.is_none() {
        // Of the ephemeral ports. A socket of unknown role on another one counts in the histogram of its port if it has a record, and in that
        // of other sockets if it is counted with its remote endpoint.
        socket.local.port = 40_000 + port;
    }
    socket
}

/// Returns all counts of a flow, and its longest healthy dwell time.
pub(super) fn counts_of(engine: &Engine, key: FlowKey, now: BootTime) -> impl PartialEq + std::fmt::Debug + use<> {
    let flows = engine.flows.as_ref().unwrap();
    (flows.flow(key, Some(now - Duration::from_millis(2 * STUCK_AFTER)), now), flows.longest_healthy(key))
}
