//! A kernel that loses records, and an engine that has to find out what is there all the same.
//!
//! The model kernel has a few addresses that it uses again and again, a few connections in two namespaces, and the
//! program's map of times of entry. Each change is written to the ring, finds no room there, or goes by unnoticed
//! because the program was running already. The truth is what the kernel has; after a scan over everything the engine has
//! to know it, but for leavings that were lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::testing::owner;

/// What became of the record of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Written,
    /// The map knows of it, the ring had no room.
    RingFull,
    /// The program did not run.
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
    /// The agent reads so many records.
    Read(usize),
    /// So many milliseconds pass, and the agent does what is due.
    Time(u64),
    /// A scan over everything, while so many records that are older lie unread in the ring.
    Walk {
        behind: usize,
    },
    /// So many facts of the scan that runs beside the agent are handed in.
    Scanned(usize),
    /// The agent ends and another begins; the program, its map and the ring live on.
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
        2 => (0..4_usize).prop_map(|behind| Step::Walk { behind }),
        3 => (0..4_usize).prop_map(Step::Scanned),
        1 => Just(Step::Restart),
    ]
}

/// One socket in CLOSE_WAIT, as it is.
#[derive(Clone, Debug)]
struct Real {
    socket: Socket,
    entered: BootTime,
    /// The map still had the time of one before it at the same address, and says that.
    stale: bool,
}

struct Kernel {
    millis: u64,
    /// Kernels before 5.12 give no cookie.
    cookies: Option<u64>,
    sockets: BTreeMap<SocketKey, Real>,
    since: BTreeMap<SocketKey, BootTime>,
    ring: VecDeque<SocketEvent>,
    counters: Counters,
    /// When each socket entered, and when it left, by its cookie. Not those of which the map had the time of another.
    lives: BTreeMap<u64, (BootTime, Option<BootTime>)>,
    /// Addresses of which a leaving was lost since the agent began, or could have been taken for that of another.
    lost_leavings: BTreeSet<SocketKey>,
    /// Something was lost since the last scan looked.
    lost_since_scan: bool,
}

impl Kernel {
    fn new(cookies: bool) -> Self {
        Self {
            millis: 1_000_000,
            cookies: cookies.then_some(0),
            sockets: BTreeMap::new(),
            since: BTreeMap::new(),
            ring: VecDeque::new(),
            counters: Counters { skipped: Some(0), ..Counters::default() },
            lives: BTreeMap::new(),
            lost_leavings: BTreeSet::new(),
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
        let known = if fate == Fate::Skipped { self.since.get(&key).copied() } else { self.since.insert(key, at) };
        let replaced = known.is_some() && fate != Fate::Skipped;
        self.counters.replaced += u64::from(replaced);
        let stale = fate == Fate::Skipped && known.is_some();
        self.lives.extend(cookie.filter(|_| !stale).map(|cookie| (cookie, (at, None))));
        self.sockets.insert(key, Real { socket: socket.clone(), entered: at, stale });
        self.write(fate, SocketEvent::Enter { key, at, socket });
    }

    fn leave(&mut self, key: SocketKey, fate: Fate) {
        let Some(Real { socket, .. }) = self.sockets.remove(&key) else { return };
        let entered = if fate == Fate::Skipped { None } else { self.since.remove(&key) };
        if fate != Fate::Written {
            self.lost_leavings.insert(key);
        }
        let (at, how) = (self.now(), ExitCause::Closed);
        if let Some((_, left)) = socket.cookie.and_then(|cookie| self.lives.get_mut(&cookie)) {
            *left = Some(at);
        }
        self.write(
            fate,
            SocketEvent::Leave { key, at, entered, socket, how, closer: None, fd_open: Some(false), wrote: None },
        );
    }

    /// What a scan over sockets finds at one of them.
    fn present(&self, key: SocketKey, real: &Real) -> ScanFact {
        let (at, since) = self.since(key, real);
        ScanFact::Present { key, at, since, socket: real.socket.clone() }
    }

    /// The time now, and when a socket has entered, as far as a scan or a refresh can tell.
    fn since(&self, key: SocketKey, real: &Real) -> (BootTime, Since) {
        let second = Duration::from_secs(1);
        let at = self.now();
        let between = Since::Between { earliest: Some(real.entered - second), latest: (real.entered + second).min(at) };
        (at, self.since.get(&key).map_or(between, |entered| Since::Exact(*entered)))
    }
}

/// A kernel and the agent on it.
struct World {
    kernel: Kernel,
    engine: Engine,
    /// What scans have found and the agent has not taken in yet.
    scanned: VecDeque<Observation>,
}

impl World {
    fn new(cookies: bool) -> Self {
        let kernel = Kernel::new(cookies);
        let engine = Engine::new(Config { reads_progress: true, ..config(Events::All) }, kernel.now());
        Self { kernel, engine, scanned: VecDeque::new() }
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
                self.engine.handle_timeout(self.kernel.now());
                self.put_out();
            }
            // An agent hands in a scan by itself only when it starts.
            Step::Walk { .. } if !self.scanned.is_empty() => {}
            Step::Scanned(facts) => self.take_in(facts),
            Step::Walk { behind } => {
                self.read(self.kernel.ring.len().saturating_sub(behind));
                self.walk();
            }
            Step::Restart => {
                self.engine = Engine::new(Config { reads_progress: true, ..config(Events::All) }, self.kernel.now());
                self.scanned.clear();
                // What the one before had missed is nothing to this one, unless it reads of the entering yet.
                if self.kernel.ring.is_empty() {
                    self.kernel.lost_leavings.clear();
                }
                self.walk();
            }
        }
        self.put_out();
        self.engine.tracker.check();
    }

    fn read(&mut self, records: usize) {
        for _ in 0..records {
            let Some(record) = self.kernel.ring.pop_front() else { return };
            self.engine.handle(record);
            self.engine.tracker.check();
        }
    }

    /// Everything that is there, then all records that were written before: nothing is left that could change it.
    fn walk(&mut self) {
        let began = self.kernel.now();
        for (key, real) in &self.kernel.sockets {
            self.engine.handle(self.kernel.present(*key, real));
        }
        self.engine.handle(ScanEnd::Descriptors { began, blind: None, saw_listeners: true });
        if self.kernel.ring.is_empty() {
            self.check_against_the_truth();
        }
    }

    /// Looks at everything now; what it finds is taken in later.
    fn audit(&mut self, sweep: bool) {
        self.read(usize::MAX);
        let began = self.kernel.now();
        self.kernel.lost_since_scan = false;
        self.scanned.extend(self.kernel.sockets.iter().map(|(key, real)| self.kernel.present(*key, real).into()));
        self.scanned.push_back(ScanEnd::Descriptors { began, blind: None, saw_listeners: true }.into());
        if sweep {
            let stored =
                |(key, entered): (&SocketKey, &BootTime)| ScanFact::StoredEntry { key: *key, entered: *entered };
            self.scanned.extend(self.kernel.since.iter().map(stored).map(Observation::from));
        }
        let cost = Some(Duration::from_millis(1));
        self.scanned.push_back(ScanEnd::Audit { began, at: began, complete: true, cost }.into());
    }

    /// The same, for owners.
    fn scan(&mut self, known: &[u32]) {
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

    /// Takes in so many facts of scans.
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

    /// Refreshes sockets: what is found comes through the ring, behind all that was written before.
    fn refresh(&mut self, keys: &[SocketKey]) {
        self.read(usize::MAX);
        for (key, real) in keys.iter().filter_map(|key| Some((*key, self.kernel.sockets.get(key)?))) {
            let ((at, since), socket) = (self.kernel.since(key, real), real.socket.clone());
            self.engine.handle(RefreshFact::Present { key, at, since: Some(since), socket });
        }
    }

    /// Does what the engine asks for, as the runtime does, and looks at what it says.
    fn put_out(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            let now = self.kernel.now();
            match output {
                Output::Refresh(keys) => {
                    self.refresh(&keys);
                    self.engine.handle(RefreshEnd::Inspection { at: now });
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
                    if !self.kernel.lost_since_scan {
                        // Whoever was lost is no longer there for the agent either.
                        self.kernel.lost_leavings.clear();
                        self.check_against_the_truth();
                    }
                }
                Output::WatchPorts(_) => {}
                Output::Forget(entries) => {
                    for (key, entered) in entries {
                        if self.kernel.since.get(&key) == Some(&entered) {
                            self.kernel.since.remove(&key);
                        }
                    }
                }
                Output::RefreshLingering(_) | Output::Finding(_) | Output::Query(_) => {}
            }
        }
    }

    fn check_against_the_truth(&self) {
        let now = self.kernel.now();
        for (key, real) in &self.kernel.sockets {
            let tracked = self.engine.tracker.get(*key);
            let tracked = tracked.unwrap_or_else(|| panic!("{key:?} is there and not known: {real:?}"));
            let who = |socket: &Socket| (socket.netns, socket.local, socket.remote, socket.cookie);
            assert_eq!(who(&tracked.socket), who(&real.socket), "{key:?} is taken for another");
            if real.stale {
                continue;
            }
            assert_possible(tracked.since.dwell(now), now.since(real.entered), &tracked.socket);
        }
        for (key, tracked) in self.engine.tracker.iter() {
            // Until the next audit.
            let flagged = self.kernel.lost_leavings.contains(&key);
            assert!(self.kernel.sockets.contains_key(&key) || flagged, "{key:?} is gone: {tracked:?}");
        }
    }

    fn take_in_all(&mut self) {
        while !self.scanned.is_empty() {
            self.take_in(usize::MAX);
        }
    }

    /// Reads everything, walks, and compares; then lets the loss be counted.
    fn settle(&mut self) {
        self.kernel.millis += 1;
        self.take_in_all();
        self.read(usize::MAX);
        self.put_out();
        self.take_in_all();
        self.walk();
        let lost = !self.kernel.lost_leavings.is_empty();
        self.engine.stop();
        self.put_out();
        self.engine.tracker.check();
        let totals = self.engine.totals();
        let counted = totals.lost_ring_full + totals.skipped_by_kernel.unwrap_or(0);
        assert!(!lost || counted > 0, "lost and not counted: {totals:?}");
        // Nothing is under way any more.
        self.kernel.millis += 1000;
        self.engine.audit.hurry(self.kernel.now());
        self.kernel.millis += 20_000;
        self.engine.handle_timeout(self.kernel.now());
        self.put_out();
        self.take_in_all();
        let tracked: BTreeSet<SocketKey> = self.engine.tracker.iter().map(|(key, _)| key).collect();
        assert!(tracked.iter().eq(self.kernel.sockets.keys()), "{tracked:?} after an audit");
        assert!(self.kernel.since.keys().all(|key| self.kernel.sockets.contains_key(key)), "the map was not swept");
    }
}

/// `told` is what is true.
fn assert_possible(told: Dwell, real: Duration, socket: &Socket) {
    match told {
        Dwell::Exact(dwell) => assert_eq!(dwell, real, "{socket:?}"),
        Dwell::Between { at_least, at_most } => {
            assert!(
                at_least <= real && at_most.is_none_or(|most| real <= most),
                "{real:?} is not {told:?}: {socket:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_a_walk_the_engine_knows_what_is_there_or_has_counted_a_loss(
        steps in prop::collection::vec(step(), 1..80),
        cookies: bool,
    ) {
        let mut world = World::new(cookies);
        for step in steps {
            world.step(step);
        }
        world.settle();
    }
}
