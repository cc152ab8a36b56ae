//! DescendantWatch over the sockets of this process's descendants.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    mem, thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use aya::maps::{MapData, RingBuf};
use closewait_common::{config::MISSING, record::SIZE};

use crate::{
    clock,
    cmd::list::{engine_of_scan, find_out},
    host::{
        descendants::descendants,
        facts::HostFacts,
        limits::{Limits, RequestedLimits, limits},
        memory_limit,
        plan::{HookChoice, plan, unseen_sockets},
    },
    sink::check::left_behind::{Fate, LeftBehind},
    source::{
        inspector::Inspector,
        program::{Choices, KernelPrograms, Loader},
        scanner::Scanner,
    },
};
use closewait_engine::{
    decode::Decoder,
    model::{Dwell, Endpoint, Observation, Role, Socket, SocketEvent, Task},
    process::Service,
    snapshot::{query::Filter, view::Row},
    time::BootTime,
};

/// Time between the end of the kernel program and that of its ring buffer: a wake-up may be in progress
/// (docs/kernel-safety.md).
const DETACH_DELAY: Duration = Duration::from_millis(50);
/// Time for which an ended process still counts: its records are in the ring buffer. Later, another process may have its pid.
const ENDED_FOR: Duration = Duration::from_secs(10);
/// Minimum dwell time after which a verdict treats a socket as stuck.
const MIN_STUCK_AFTER: Duration = Duration::from_millis(1);
/// Maximum number of groups of sockets; sockets of any more are only counted.
const MAX_GROUPS: usize = 64;

/// Maximum number of sockets whose entries are stored.
const MAX_ENTRIES: usize = 65_536;

/// Network namespace, local and remote end of a socket.
type SocketEnds = (Option<u32>, Endpoint, Endpoint);

/// Sockets by owner, port or remote endpoint, and name of their fate.
type Groups = BTreeMap<(u32, String, &'static str), LeftBehind>;

/// Attached kernel program, its records, and the descendants of this process.
pub(super) struct DescendantWatch {
    programs: KernelPrograms,
    ring: RingBuf<MapData>,
    capacity: usize,
    scanner: Scanner,
    inspector: Inspector,
    facts: HostFacts,
    max_tracked: u32,
    decoder: Decoder,
    /// Minimum dwell time of a socket that counts if its process ended.
    grace: Duration,
    /// Minimum dwell time of a socket that counts even if its program closed it.
    stuck_after: Option<Duration>,
    /// Time at which each descendant was last there.
    seen: BTreeMap<u32, BootTime>,
    /// Descendants at the last reading.
    present: BTreeSet<u32>,
    /// Sockets that the kernel closed because their process ended, or that their program closed late.
    closed: Groups,
    /// Number of such sockets in groups over the limit.
    more: u64,
    undecodable: u64,
    /// Entries of sockets since the start. A scan does not show that of a socket that no program has accepted.
    entered: HashMap<SocketEnds, BootTime>,
    /// Whether records say that a process ended.
    knows_ends: bool,
    /// Gaps of scans, each once.
    blind: BTreeSet<String>,
    /// Whether the descendants were read each time.
    knows_descendants: bool,
}

impl DescendantWatch {
    /// Attaches the kernel program. Later entries of all sockets are exact.
    ///
    /// # Errors
    ///
    /// If this kernel or these privileges do not allow it.
    pub(super) fn start(grace: Duration, stuck_after: Option<Duration>) -> anyhow::Result<Self> {
        // Before this process uses much memory itself.
        let memory = memory_limit::find();
        let loader = Loader::begin();
        let facts = HostFacts::gather();
        if let Some(unseen) = unseen_sockets(&facts) {
            bail!("the kernel's pids of the command's processes are unknown here: {unseen}");
        }
        let plan = plan(&facts, HookChoice::Auto)?;
        let Limits { max_sockets, max_tracked, ring_buffer, .. } = limits(RequestedLimits::default(), memory.as_ref());
        let knows_ends = plan.layout.task_flags != MISSING;
        let (healthy_below, ring_bytes) = (Duration::ZERO, ring_buffer);
        let choices =
            Choices { max_sockets, ring_bytes, healthy_below, defers: false, openers: false, connects: false };
        let mut programs = KernelPrograms::load(loader, &plan, Some(choices), None, false)?;
        let ring = programs.take_ring()?;
        let (scanner, inspector) = (programs.scanner()?, Inspector::new(programs.proxy_peer_reader()));
        programs.attach().context("attaching the kernel program failed")?;
        programs.forget_types();
        Ok(Self {
            programs,
            ring,
            capacity: ring_buffer as usize / SIZE,
            scanner,
            inspector,
            decoder: Decoder { tick: facts.tick, suspended: clock::suspended() },
            facts,
            max_tracked,
            grace,
            stuck_after,
            seen: BTreeMap::new(),
            present: BTreeSet::new(),
            closed: BTreeMap::new(),
            more: 0,
            undecodable: 0,
            entered: HashMap::new(),
            knows_ends,
            blind: BTreeSet::new(),
            knows_descendants: true,
        })
    }

    /// Reads the descendants and the records so far.
    pub(super) fn refresh(&mut self) {
        let now = clock::now();
        match descendants() {
            Ok(found) => {
                self.seen.extend(found.iter().map(|pid| (*pid, now)));
                self.present = found;
            }
            Err(why) => {
                log::debug!("the descendants were not read: {why}");
                self.knows_descendants = false;
            }
        }
        for _ in 0..self.capacity {
            let Some(record) = self.ring.next() else { break };
            let decoded = self.decoder.decode(&record);
            drop(record);
            match decoded {
                Ok(Observation::Socket(SocketEvent::Enter { at, socket, .. })) => {
                    if self.entered.len() < MAX_ENTRIES {
                        self.entered.insert(ends(&socket), at);
                    }
                }
                Ok(Observation::Socket(SocketEvent::Leave { at, entered, socket, closer, ended, .. })) => {
                    self.entered.remove(&ends(&socket));
                    if let Some((entered, closer)) = entered.zip(closer) {
                        self.closed(&closer, &socket, at.since(entered), ended);
                    }
                }
                Ok(_) => {}
                Err(_) => self.undecodable += 1,
            }
        }
        self.seen.retain(|_, last| now.since(*last) < ENDED_FOR);
    }

    /// Counts a socket that has exited CLOSE_WAIT after this time, if it is one of the command's and was closed too late or not
    /// by its program. `ended` is whether the closing process was ending, if known.
    fn closed(&mut self, closer: &Task, socket: &Socket, dwell: Duration, ended: Option<bool>) {
        let fate = if ended == Some(true) && dwell >= self.grace {
            Fate::ProcessEnded
        } else if self.stuck_after.is_some_and(|limit| dwell >= limit) {
            Fate::ClosedLate
        } else {
            return;
        };
        if !self.seen.contains_key(&closer.pid) {
            return;
        }
        let is_over = !add(&mut self.closed, closer, None, socket, dwell, fate);
        self.more += u64::from(is_over);
    }

    /// Whether there were descendants at the last reading.
    pub(super) fn has_descendants(&self) -> bool {
        !self.present.is_empty()
    }

    /// Scans for sockets in CLOSE_WAIT that the present descendants own, and that have entered since the start.
    pub(super) fn scan(&mut self) -> (Vec<LeftBehind>, u64) {
        let mut engine = engine_of_scan(&self.facts, self.grace.max(MIN_STUCK_AFTER), self.max_tracked);
        let inspector = &mut self.inspector;
        self.blind.extend(find_out(&mut engine, &mut self.scanner, || inspector));
        self.blind.extend(engine.state().blind().map(str::to_owned));
        let filter = Filter { pids: self.present.iter().copied().collect(), ..Filter::default() };
        let (mut groups, mut more) = (Groups::new(), 0);
        let now = clock::now();
        for row in engine.state().select(now, &filter).filter(|row| row.gone.is_none()) {
            let dwell = match row.dwell {
                Some(Dwell::Exact(dwell)) => dwell,
                // An entry before the start was not observed.
                _ => match self.entered.get(&ends(&row.socket)) {
                    Some(entered) => now.since(*entered),
                    None => continue,
                },
            };
            let Some(owner) = self.owner_of(&row) else { continue };
            let process = row.process.filter(|process| process.pid == owner.pid);
            let script = process.and_then(|process| process.script.as_deref());
            let fits = add(&mut groups, owner, script, &row.socket, dwell, Fate::Open(Box::new(row.verdict.clone())));
            more += u64::from(!fits);
        }
        (groups.into_values().collect(), more)
    }

    /// Returns the descendant that owns a socket, or its listener.
    fn owner_of<'r>(&self, row: &'r Row<'_>) -> Option<&'r Task> {
        let of_listener = row.listener.map(|listener| listener.owners.as_slice()).unwrap_or_default();
        let owners = row.owners.as_deref().unwrap_or_default().iter().chain(of_listener);
        owners.map(|owner| &owner.task).find(|task| self.present.contains(&task.pid))
    }

    /// Returns the sockets of the last scan and those that are closed, the largest group first, and the number of sockets
    /// over the limit.
    pub(super) fn left_behind(&mut self, (mut left, more): (Vec<LeftBehind>, u64)) -> (Vec<LeftBehind>, u64) {
        left.extend(mem::take(&mut self.closed).into_values());
        left.sort_by_key(|group| Reverse((group.count, group.longest)));
        (left, more + self.more)
    }

    /// Returns the reason why sockets may be missing, if there is one.
    pub(super) fn gap(&self) -> Option<String> {
        for what in &self.blind {
            log::warn!("{what}");
        }
        let lost = self.programs.counters().map(|counters| counters.ring_full + counters.map_full);
        match lost {
            Err(error) => return Some(format!("the kernel's counters cannot be read: {error}")),
            Ok(0) => {}
            Ok(lost) => return Some(format!("{lost} records of the kernel were lost, so sockets may be missing")),
        }
        if self.undecodable > 0 {
            return Some(format!("{} records of the kernel could not be read", self.undecodable));
        }
        if !self.knows_descendants {
            return Some("the processes of the command could not be read each time".to_owned());
        }
        (!self.knows_ends).then(|| {
            "sockets of processes that have ended are unknown, because this kernel has no type information (BTF)"
                .to_owned()
        })
    }
}

impl Drop for DescendantWatch {
    fn drop(&mut self) {
        self.programs.detach();
        thread::sleep(DETACH_DELAY);
    }
}

fn ends(socket: &Socket) -> SocketEnds {
    (socket.netns, socket.local, socket.remote)
}

/// Adds a socket to its group. Returns false if that would be one group too many.
fn add(groups: &mut Groups, owner: &Task, script: Option<&str>, socket: &Socket, dwell: Duration, fate: Fate) -> bool {
    let place = match socket.role {
        Some(Role::Server) => format!("on port {}", socket.local.port),
        Some(Role::Client) | None => format!("towards {}", socket.remote),
    };
    let key = (owner.pid, place, fate.name());
    if groups.len() >= MAX_GROUPS && !groups.contains_key(&key) {
        return false;
    }
    let (pid, place, _fate) = key.clone();
    let name = || {
        Service { workload: None, owner: Some((&owner.comm, owner.pid)), script }
            .process()
            .unwrap_or_else(|| pid.to_string())
    };
    let group = groups.entry(key).or_insert_with(|| LeftBehind {
        owner: owner.clone(),
        name: name(),
        place,
        count: 0,
        longest: Duration::ZERO,
        fate,
    });
    group.count += 1;
    group.longest = group.longest.max(dwell);
    true
}
