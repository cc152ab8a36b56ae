//! Two engines with the same sockets: one gets a record at each entry, and the other one deferred records, as the agent has them
//! written. Both have to find the same at the same times.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::testing::owner;

/// Interval of the turns of both event loops, milliseconds.
const TURN: u64 = 50;
/// Interval of searches for sockets that stay, and the age from which on one does, milliseconds.
const SEARCH: u64 = 250;

#[derive(Clone, Copy, Debug)]
enum Step {
    Enter { slot: u64, port: u16, overflows: bool },
    Leave { slot: u64, how: usize },
    Millis(u64),
    View,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..8_u64, 1..4_u16, prop::bool::weighted(0.1))
            .prop_map(|(slot, port, overflows)| Step::Enter { slot, port, overflows }),
        5 => (0..8_u64, 0..4_usize).prop_map(|(slot, how)| Step::Leave { slot, how }),
        4 => prop_oneof![0..40_u64, 40..600_u64, 600..1_500_u64].prop_map(Step::Millis),
        1 => Just(Step::View),
    ]
}

struct Present {
    socket: Socket,
    entered: BootTime,
    is_pending: bool,
}

struct Twins {
    millis: u64,
    sockets: BTreeMap<SocketKey, Present>,
    /// Dwell times as the kernel program counts them, and the number of entries.
    dwelt: Vec<u64>,
    entered: u64,
    at_once: Engine,
    deferred: Engine,
}

impl Twins {
    fn new() -> Self {
        let config = Config {
            stuck_after: Duration::from_secs(2),
            reads_progress: true,
            watching: true,
            ..config(Events::Stuck)
        };
        let engine = Engine::new(config, at(1_000_000));
        let (at_once, deferred) = (engine.clone(), engine);
        let mut twins =
            Self { millis: 1_000_000, sockets: BTreeMap::new(), dwelt: Vec::new(), entered: 0, at_once, deferred };
        // The first flow after a time without any is counted when its first record arrives, and both would count at other times. The steps
        // end before an engine forgets a flow.
        twins.enter(SocketKey(KEY.0 + 64 * 64), 64, 1, true);
        twins.leave(SocketKey(KEY.0 + 64 * 64), 0);
        twins
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Enter { slot, port, overflows } => self.enter(SocketKey(KEY.0 + slot * 64), slot, port, overflows),
            Step::Leave { slot, how } => self.leave(SocketKey(KEY.0 + slot * 64), how),
            Step::Millis(millis) => (0..millis).for_each(|_| self.millisecond()),
            Step::View => self.compare(),
        }
        self.millisecond();
    }

    fn enter(&mut self, key: SocketKey, slot: u64, port: u16, overflows: bool) {
        if self.sockets.contains_key(&key) {
            return;
        }
        self.entered += 1;
        let entered = at(self.millis);
        // Servers and clients: the ports of the others are those of clients.
        let (role, cgroup) = if port == 1 { (Some(Role::Server), None) } else { (None, Some(u64::from(port))) };
        let facts = Socket { role, cgroup, netns: Some(1), cookie: Some(self.millis), ..socket_on_port(port) };
        let mut socket = facts.at_entry();
        socket.remote.port = 1000 + u16::try_from(slot).unwrap();
        let event = SocketEvent::Enter { key, at: entered, socket: socket.clone() };
        self.at_once.handle(event.clone());
        if overflows {
            self.deferred.handle(event);
        }
        self.sockets.insert(key, Present { socket, entered, is_pending: !overflows });
    }

    fn leave(&mut self, key: SocketKey, how: usize) {
        let Some(Present { socket, entered, is_pending }) = self.sockets.remove(&key) else { return };
        let at = at(self.millis);
        self.dwelt.push(u64::try_from(at.since(entered).as_millis()).unwrap());
        let (how, fd_open, is_healthy) = [
            (ExitCause::Closed, Some(false), true),
            (ExitCause::Shutdown, Some(true), true),
            (ExitCause::Reset, Some(true), false),
            (ExitCause::Aborted, Some(false), false),
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
        let (closer, wrote, ended) = (None, Some(how == ExitCause::Reset), None);
        let pass = SocketEvent::Pass { key, entered, at, socket, how, closer, fd_open, wrote, ended };
        let (_, leave) = pass.clone().split();
        self.at_once.handle(leave.clone());
        self.deferred.handle(if is_pending { pass } else { leave });
    }

    /// Announces sockets that have entered at `until` or before.
    fn announce(&mut self, until: BootTime) {
        for (key, one) in self.sockets.iter_mut().filter(|(_, one)| one.is_pending && one.entered <= until) {
            one.is_pending = false;
            self.deferred.handle(SocketEvent::Enter { key: *key, at: one.entered, socket: one.socket.clone() });
        }
    }

    fn millisecond(&mut self) {
        self.millis += 1;
        let now = at(self.millis);
        if !self.millis.is_multiple_of(TURN) {
            return;
        }
        if self.deferred.poll_timeout().is_some_and(|due| due <= now) {
            self.announce(now);
        } else if self.millis.is_multiple_of(SEARCH) {
            self.announce(now - Duration::from_millis(SEARCH));
        }
        self.at_once.handle_timeout(now);
        self.deferred.handle_timeout(now);
        self.put_out(now);
    }

    /// Executes the commands of both engines, which have to be the same.
    fn put_out(&mut self, now: BootTime) {
        loop {
            let outputs = [self.at_once.poll_output(), self.deferred.poll_output()];
            assert_eq!(format!("{:?}", outputs[0]), format!("{:?}", outputs[1]), "at {now:?}");
            let [Some(output), _] = outputs else { return };
            let mut answers: Vec<Observation> = Vec::new();
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
                Output::ReadCounters => {
                    let counters = Counters { entered: self.entered, ..dwelt(&self.dwelt) };
                    answers.push(Observation::Counters { at: now, counters: Box::new(counters) });
                }
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
                self.deferred.handle(answer);
            }
        }
    }

    /// Compares what both engines answer now.
    fn compare(&mut self) {
        let now = at(self.millis);
        self.announce(now);
        let answer = |engine: &Engine| (format!("{:?}", engine.report(now)), engine.totals());
        assert_eq!(answer(&self.at_once), answer(&self.deferred));
        let rows = |engine: &Engine| format!("{:?}", engine.view(now).rows);
        assert_eq!(rows(&self.at_once), rows(&self.deferred));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn deferred_records_change_no_finding_and_no_answer(steps in prop::collection::vec(step(), 1..80)) {
        let mut twins = Twins::new();
        for step in steps {
            twins.step(step);
        }
        twins.compare();
        twins.at_once.stop();
        twins.deferred.stop();
        twins.put_out(at(twins.millis));
        twins.compare();
    }
}

#[test]
fn a_socket_that_a_scan_found_before_its_only_record_exits() {
    for found in [false, true] {
        let [mut two, mut one] = [engine(Events::All), engine(Events::All)];
        let exit = SocketEvent::Pass {
            key: KEY,
            entered: at(100),
            at: at(300),
            socket: socket().at_entry(),
            how: ExitCause::Closed,
            closer: None,
            fd_open: Some(false),
            wrote: None,
            ended: None,
        };
        for engine in [&mut two, &mut one] {
            if found {
                let since = Since::Between { earliest: None, latest: at(200) };
                engine.handle(ScanFact::Present { key: KEY, at: at(200), since, socket: socket() });
                assert_eq!(engine.totals().tracked, 1);
            }
        }
        let (enter, leave) = exit.clone().split();
        assert!(matches!(enter, Some(SocketEvent::Enter { key: KEY, .. })), "{enter:?}");
        enter.into_iter().chain([leave]).for_each(|event| two.handle(event));
        one.handle(exit);
        assert_eq!(findings(&mut one), findings(&mut two));
        assert_eq!((one.totals(), one.totals().tracked), (two.totals(), 0));
    }
}
