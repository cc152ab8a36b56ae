//! An engine on a model kernel that loses records: the engine has to know the kernel's sockets nevertheless.
//!
//! The model kernel has a few addresses that it reuses, a few connections in two namespaces, and the kernel program's entry times in
//! slots and a hash map. Each change is written to the ring, is dropped because the ring is full, or is missed because the kernel program
//! was already running. After a scan of everything, the engine has to know the sockets of the kernel, except for lost exits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::{entry_times::EntryTimes, *};
use crate::testing::owner;

/// Fate of the record of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Written,
    /// The map has the change, but the ring was full.
    RingFull,
    /// The kernel program did not run.
    Skipped,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A connection (`ends` in `netns`) at address `slot` gets its FIN.
    Enter {
        slot: u64,
        ends: u16,
        netns: u32,
        fate: Fate,
    },
    Leave {
        slot: u64,
        fate: Fate,
    },
    /// The agent reads this number of records.
    Read(usize),
    /// This number of milliseconds passes, and the agent does the work that is due.
    Time(u64),
    /// A scan of everything, while this number of older records are unread in the ring.
    Scan {
        behind: usize,
    },
    /// This number of facts of the concurrent scan arrive.
    Scanned(usize),
    /// The agent announces the sockets whose entries have no record yet, and reads the ring.
    Announce,
    /// The agent ends and another one starts; the kernel program, its map and the ring remain.
    Restart,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![6 => Just(Fate::Written), 1 => Just(Fate::RingFull), 1 => Just(Fate::Skipped)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_u64, 1..4_u16, 1..3_u32, fate())
            .prop_map(|(slot, ends, netns, fate)| Step::Enter { slot, ends, netns, fate }),
        5 => (0..4_u64, fate()).prop_map(|(slot, fate)| Step::Leave { slot, fate }),
        2 => (0..6_usize).prop_map(Step::Read),
        2 => prop_oneof![0..3_u64, 500..30_000_u64].prop_map(Step::Time),
        2 => (0..4_usize).prop_map(|behind| Step::Scan { behind }),
        3 => (0..4_usize).prop_map(Step::Scanned),
        1 => Just(Step::Announce),
        1 => Just(Step::Restart),
    ]
}

/// Socket in CLOSE_WAIT of the model kernel.
#[derive(Clone, Debug)]
struct Real {
    socket: Socket,
    entered: BootTime,
    /// Whether the map has the entry time of an earlier socket at the same address.
    stale: bool,
}

struct Kernel {
    millis: u64,
    /// Last cookie; `None` as for kernels before 5.12, which report no cookies.
    cookies: Option<u64>,
    sockets: BTreeMap<SocketKey, Real>,
    since: EntryTimes,
    /// Whether the kernel program defers records of entries.
    defers: bool,
    ring: VecDeque<SocketEvent>,
    counters: Counters,
    /// Entry and exit of each socket by cookie, except for sockets with a stale entry time.
    lives: BTreeMap<u64, (BootTime, Option<BootTime>)>,
    /// Addresses with an exit that was lost since the agent started, or that the agent could take for the exit of another socket.
    lost_exits: BTreeSet<SocketKey>,
    /// Whether a record was lost since the last scan.
    lost_since_scan: bool,
}

impl Kernel {
    fn new(cookies: bool, defers: bool) -> Self {
        Self {
            defers,
            millis: 1_000_000,
            cookies: cookies.then_some(0),
            sockets: BTreeMap::new(),
            since: EntryTimes::default(),
            ring: VecDeque::new(),
            counters: Counters { skipped: Some(0), ..Counters::default() },
            lives: BTreeMap::new(),
            lost_exits: BTreeSet::new(),
            lost_since_scan: false,
        }
    }

    fn now(&self) -> BootTime {
        at(self.millis)
    }

    fn write(&mut self, fate: Fate, record: SocketEvent) {
        self.lost_since_scan |= fate != Fate::Written;
        match fate {
            Fate::Written => self.ring.push_back(record),
            Fate::RingFull => self.counters.ring_full += 1,
            Fate::Skipped => self.counters.skipped = self.counters.skipped.map(|skipped| skipped + 1),
        }
    }

    fn enter(&mut self, key: SocketKey, ends: u16, netns: u32, fate: Fate) {
        let taken = |real: &Real| (real.socket.local.port, real.socket.netns) == (ends, Some(netns));
        if self.sockets.contains_key(&key) || self.sockets.values().any(taken) {
            return;
        }
        self.cookies = self.cookies.map(|last| last + 1);
        let (at, cookie) = (self.now(), self.cookies);
        let socket = Socket { netns: Some(netns), cookie, inode: Some(at.0), ..socket_on_port(ends) };
        let known = if fate == Fate::Skipped { self.since.get(key) } else { None };
        let (replaced, deferred) =
            if fate == Fate::Skipped { (false, false) } else { self.since.enter(key, at, self.defers) };
        self.counters.replaced += u64::from(replaced);
        let stale = known.is_some();
        self.lives.extend(cookie.filter(|_| !stale).map(|cookie| (cookie, (at, None))));
        self.sockets.insert(key, Real { socket: socket.clone(), entered: at, stale });
        if !deferred {
            self.write(fate, SocketEvent::Enter { key, at, socket });
        }
    }

    /// Writes the records of entries that have none, as the agent has it do.
    fn announce(&mut self) {
        for (key, at) in self.since.announce(|key| self.sockets.contains_key(&key)) {
            let socket = self.sockets[&key].socket.clone();
            self.ring.push_back(SocketEvent::Enter { key, at, socket });
        }
    }

    fn leave(&mut self, key: SocketKey, fate: Fate) {
        let Some(Real { socket, .. }) = self.sockets.remove(&key) else { return };
        let stay = if fate == Fate::Skipped { None } else { self.since.leave(key) };
        if fate != Fate::Written {
            self.lost_exits.insert(key);
        }
        let (at, how) = (self.now(), ExitCause::Closed);
        if let Some((_, left)) = socket.cookie.and_then(|cookie| self.lives.get_mut(&cookie)) {
            *left = Some(at);
        }
        let (closer, fd_open, wrote, ended) = (None, Some(false), None, None);
        let record = if let Some((entered, true)) = stay {
            SocketEvent::Pass { key, entered, at, socket, how, closer, fd_open, wrote, ended }
        } else {
            let entered = stay.map(|(entered, _)| entered);
            SocketEvent::Leave { key, at, entered, socket, how, closer, fd_open, wrote, ended }
        };
        self.write(fate, record);
    }

    /// Returns the fact of a scan about a socket.
    fn present(&self, key: SocketKey, real: &Real) -> ScanFact {
        let (at, since) = self.since(key, real);
        ScanFact::Present { key, at, since, socket: real.socket.clone() }
    }

    /// Returns the current time, and the entry of a socket as known to a scan or a refresh.
    fn since(&self, key: SocketKey, real: &Real) -> (BootTime, Since) {
        let second = Duration::from_secs(1);
        let at = self.now();
        let between = Since::Between { earliest: Some(real.entered - second), latest: (real.entered + second).min(at) };
        (at, self.since.get(key).map_or(between, Since::Exact))
    }
}

/// Model kernel with an agent.
struct World {
    kernel: Kernel,
    engine: Engine,
    /// Facts of scans that the engine has not processed yet.
    scanned: VecDeque<Observation>,
    /// Facts of the last refresh of each socket.
    refreshed: BTreeMap<SocketKey, Socket>,
}

impl World {
    fn new(cookies: bool, defers: bool) -> Self {
        let kernel = Kernel::new(cookies, defers);
        let engine = Engine::new(Config { reads_progress: true, ..config(Events::All) }, kernel.now());
        Self { kernel, engine, scanned: VecDeque::new(), refreshed: BTreeMap::new() }
    }

    fn step(&mut self, step: Step) {
        let key = |slot| SocketKey(KEY.0 + slot);
        self.kernel.millis += 1;
        match step {
            Step::Enter { slot, ends, netns, fate } => self.kernel.enter(key(slot), ends, netns, fate),
            Step::Leave { slot, fate } => self.kernel.leave(key(slot), fate),
            Step::Read(records) => self.read(records),
            Step::Time(millis) => {
                self.kernel.millis += millis;
                self.announce();
                self.engine.handle_timeout(self.kernel.now());
                self.put_out();
            }
            // Only an agent that starts performs a scan without a command of the engine.
            Step::Scan { .. } if !self.scanned.is_empty() => {}
            Step::Scanned(facts) => self.take_in(facts),
            Step::Announce => self.announce(),
            Step::Scan { behind } => {
                self.read(self.kernel.ring.len().saturating_sub(behind));
                self.scan_all();
            }
            Step::Restart => {
                self.engine = Engine::new(Config { reads_progress: true, ..config(Events::All) }, self.kernel.now());
                self.scanned.clear();
                self.refreshed.clear();
                // Losses of the previous agent do not affect this one, unless records of entries are still unread.
                if self.kernel.ring.is_empty() {
                    self.kernel.lost_exits.clear();
                }
                self.scan_all();
            }
        }
        self.put_out();
        self.engine.tracker.check();
    }

    fn announce(&mut self) {
        if self.kernel.defers {
            self.kernel.announce();
            self.read(usize::MAX);
        }
    }

    fn read(&mut self, records: usize) {
        for _ in 0..records {
            let Some(record) = self.kernel.ring.pop_front() else { return };
            self.engine.handle(record);
            self.engine.tracker.check();
        }
    }

    /// Scans all sockets, and compares the engine with the kernel if no older records are unread.
    fn scan_all(&mut self) {
        let began = self.kernel.now();
        for (key, real) in &self.kernel.sockets {
            self.engine.handle(self.kernel.present(*key, real));
        }
        self.engine.handle(ScanEnd::Descriptors { began, blind: None, saw_listeners: true });
        if self.kernel.ring.is_empty() {
            self.compare_with_kernel();
        }
    }

    /// Performs the scan of an audit now; its facts arrive later.
    fn audit(&mut self, sweep: bool) {
        self.announce();
        self.read(usize::MAX);
        let began = self.kernel.now();
        self.kernel.lost_since_scan = false;
        self.scanned.extend(self.kernel.sockets.iter().map(|(key, real)| self.kernel.present(*key, real).into()));
        self.scanned.push_back(ScanEnd::Descriptors { began, blind: None, saw_listeners: true }.into());
        if sweep {
            let stored = |(key, entered)| Observation::from(ScanFact::StoredEntry { key, entered });
            self.scanned.extend(self.kernel.since.all().into_iter().map(stored));
        }
        let cost = Some(Duration::from_millis(1));
        self.scanned.push_back(ScanEnd::Audit { began, at: began, complete: true, cost }.into());
    }

    /// Performs a scan for owners now; its facts arrive later.
    fn scan(&mut self, known: &[u32]) {
        self.announce();
        self.read(usize::MAX);
        let began = self.kernel.now();
        for (key, real) in &self.kernel.sockets {
            let (key, owner) = (*key, owner("worker", 7, 3));
            if real.socket.netns.is_some_and(|netns| known.contains(&netns)) {
                let inode = real.socket.inode.unwrap_or_default();
                self.scanned.push_back(ScanFact::Descriptor { key, at: Some(began), inode, owner }.into());
            } else {
                let ((at, since), socket) = (self.kernel.since(key, real), real.socket.clone());
                self.scanned.push_back(ScanFact::Owned { key, at, since, socket, owner }.into());
            }
        }
        self.scanned.push_back(ScanEnd::Descriptors { began, blind: None, saw_listeners: true }.into());
    }

    /// Lets the engine process this number of facts of scans.
    fn take_in(&mut self, facts: usize) {
        for _ in 0..facts {
            let Some(fact) = self.scanned.pop_front() else { return };
            let fact = if let Observation::ScanEnd(ScanEnd::Audit { began, complete, cost, .. }) = fact {
                self.kernel.millis += 1;
                ScanEnd::Audit { began, at: self.kernel.now(), complete, cost }.into()
            } else {
                fact
            };
            self.engine.handle(fact);
            self.engine.tracker.check();
            self.put_out();
        }
    }

    /// Refreshes sockets. The results come after all earlier records. There is no record of a socket with the facts of its last
    /// refresh.
    fn refresh(&mut self, keys: &[SocketKey]) {
        let is_known = |key: &SocketKey, real: &Real| {
            self.engine.refreshed_at(*key).is_some() && self.refreshed.get(key) == Some(&real.socket)
        };
        let found = keys.iter().filter_map(|key| Some((*key, is_known(key, self.kernel.sockets.get(key)?))));
        let found: Vec<(SocketKey, bool)> = found.collect();
        self.read(usize::MAX);
        for (key, is_known) in found {
            let Some(real) = self.kernel.sockets.get(&key) else { continue };
            let ((at, since), socket) = (self.kernel.since(key, real), real.socket.clone());
            if is_known {
                self.engine.handle(RefreshFact::Unchanged { key, at });
                continue;
            }
            self.engine.handle(RefreshFact::Present { key, at, since: Some(since), socket: socket.clone() });
            if self.engine.refreshed_at(key) >= Some(at) {
                self.refreshed.insert(key, socket);
            }
        }
    }

    /// Executes the commands of the engine, as the runtime does, and checks its findings.
    fn put_out(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            let now = self.kernel.now();
            match output {
                Output::Refresh(keys) => {
                    self.refresh(&keys);
                    self.engine.handle(RefreshEnd::Inspection { at: now, lingering: true });
                }
                Output::ScanOwners { known } => self.scan(&known),
                Output::InspectOwners(_) => {
                    self.engine.handle(InspectionEnd::Owners { at: now, worked: Duration::from_millis(1) });
                }
                Output::ReadCounters => {
                    let counters = Box::new(self.kernel.counters.clone());
                    self.engine.handle(Observation::Counters { at: now, counters });
                }
                Output::Finding(Finding::Leave { socket, dwell: Some(dwell), .. }) => {
                    let life = socket.cookie.and_then(|cookie| self.kernel.lives.get(&cookie));
                    if let Some((entered, Some(left))) = life {
                        assert_possible(dwell, left.since(*entered), &socket);
                    }
                }
                Output::Finding(Finding::Stuck { at, socket, dwell, .. }) => {
                    let life = socket.cookie.and_then(|cookie| self.kernel.lives.get(&cookie));
                    if let Some((entered, _)) = life {
                        assert_possible(dwell, at.since(*entered), &socket);
                    }
                }
                Output::Audit { sweep } => self.audit(sweep),
                Output::RefreshSuspects(keys) => {
                    self.refresh(&keys);
                    self.engine.handle(RefreshEnd::Suspects { at: now, complete: true });
                    self.announce();
                    if !self.kernel.lost_since_scan {
                        // The audit has removed the sockets whose exits were lost.
                        self.kernel.lost_exits.clear();
                        self.compare_with_kernel();
                    }
                }
                Output::WatchPorts(_) => {}
                Output::Forget(entries) => {
                    entries.into_iter().for_each(|(key, entered)| self.kernel.since.forget(key, entered));
                }
                Output::RefreshLingering(_) | Output::StillStuck { .. } | Output::Finding(_) | Output::Query(_) => {}
            }
        }
    }

    fn compare_with_kernel(&self) {
        let now = self.kernel.now();
        for (key, real) in &self.kernel.sockets {
            let tracked = self.engine.tracker.get(*key);
            let tracked = tracked.unwrap_or_else(|| panic!("{key:?} is not tracked: {real:?}"));
            let who = |socket: &Socket| (socket.netns, socket.local, socket.remote, socket.cookie);
            assert_eq!(who(&tracked.socket()), who(&real.socket), "{key:?} is tracked as another socket");
            if real.stale {
                continue;
            }
            assert_possible(tracked.dwell(now), now.since(real.entered), &tracked.socket());
        }
        for tracked in self.engine.tracker.iter() {
            let key = tracked.key();
            // A socket whose exit was lost is tracked until the next audit.
            let flagged = self.kernel.lost_exits.contains(&key);
            assert!(self.kernel.sockets.contains_key(&key) || flagged, "{key:?} is gone: {tracked:?}");
        }
    }

    fn take_in_all(&mut self) {
        while !self.scanned.is_empty() {
            self.take_in(usize::MAX);
        }
    }

    /// Reads all records, scans, and compares the engine with the kernel; then checks that every loss is counted.
    fn settle(&mut self) {
        self.kernel.millis += 1;
        self.take_in_all();
        self.announce();
        self.read(usize::MAX);
        self.put_out();
        self.take_in_all();
        self.scan_all();
        let lost = !self.kernel.lost_exits.is_empty();
        self.engine.stop();
        self.put_out();
        self.engine.tracker.check();
        let totals = self.engine.totals();
        let counted = totals.lost_ring_full + totals.skipped_by_kernel.unwrap_or(0);
        assert!(!lost || counted > 0, "lost and not counted: {totals:?}");
        // No records and no facts are pending any more.
        self.kernel.millis += 1000;
        self.engine.audit.hurry(self.kernel.now());
        self.kernel.millis += 20_000;
        self.engine.handle_timeout(self.kernel.now());
        self.put_out();
        self.take_in_all();
        let tracked: BTreeSet<SocketKey> = self.engine.tracker.iter().map(|one| one.key()).collect();
        assert!(tracked.iter().eq(self.kernel.sockets.keys()), "{tracked:?} after an audit");
        assert!(
            self.kernel.since.all().iter().all(|(key, _)| self.kernel.sockets.contains_key(key)),
            "there are stale entry times"
        );
    }
}

/// Asserts that a dwell time, or its bounds, agree with the real one.
fn assert_possible(dwell: Dwell, real: Duration, socket: &Socket) {
    match dwell {
        Dwell::Exact(dwell) => assert_eq!(dwell, real, "{socket:?}"),
        Dwell::Between { at_least, at_most } => {
            assert!(
                at_least <= real && at_most.is_none_or(|most| real <= most),
                "{real:?} is not {dwell:?}: {socket:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_a_scan_the_engine_knows_all_sockets_or_has_counted_a_loss(
        steps in prop::collection::vec(step(), 1..80),
        cookies: bool,
        defers: bool,
    ) {
        let mut world = World::new(cookies, defers);
        for step in steps {
            world.step(step);
        }
        world.settle();
    }
}

#[test]
fn a_socket_whose_entry_was_missed_has_no_time_of_an_earlier_one() {
    let mut world = World::new(false, true);
    let enter = |fate| Step::Enter { slot: 1, ends: 1, netns: 1, fate };
    let leave = Step::Leave { slot: 1, fate: Fate::Written };
    [enter(Fate::Written), leave, enter(Fate::Skipped), Step::Restart].into_iter().for_each(|step| world.step(step));
    world.settle();
}
