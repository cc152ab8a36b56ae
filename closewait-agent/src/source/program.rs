//! Object file with the kernel programs.

mod attach;
mod connects;
mod refresh;
mod watched;

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use aya::{
    Btf, BtfError, Ebpf, EbpfError, EbpfLoader, include_bytes_aligned,
    maps::{HashMap, Map, MapError, PerCpuArray, RingBuf},
    programs::{Iter, ProgramError, ProgramInfo},
};
use aya_log::{EbpfLogger, Level};
use closewait_common::{
    batch::{WINDOWS, Window},
    config::{Abilities, openers},
    kept::Kept,
    names, passes, slots,
    stats::{Counter, Stats},
};
use log::Log;
use thiserror::Error;

pub use self::refresh::{RefreshKind, Refreshed};
use super::{
    batch::{Copier, CopyPlan},
    inspector::ProxyPeerReader,
    passes::PassTable,
    pins::{Pinned, Pins, PinsError},
    scanner::{ScanPrograms, Scanner},
    slots::SlotTable,
    types,
};
use crate::{
    clock,
    host::{
        confine::refuse_files,
        error_text::in_one_line,
        plan::{Plan, Tracepoint},
        tracefs::TracefsError,
    },
};
use closewait_engine::{
    model::{Counters, PassedSockets, SocketKey},
    time::{BootTime, nanos},
};

/// The kernel program, compiled by the build script; empty in a build without the tools for it.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/closewait-ebpf"));

/// Checks that this binary was built with its kernel program.
///
/// # Errors
///
/// If it was not: [`KernelProgramError::NotBuilt`].
pub fn check_built() -> Result<(), KernelProgramError> {
    if OBJECT.is_empty() { Err(KernelProgramError::NotBuilt) } else { Ok(()) }
}

/// Logs the verifier's work for a program, which takes most of the start-up time.
fn log_verified(name: &str, info: Result<ProgramInfo, ProgramError>) {
    let count = info.ok().and_then(|info| info.verified_instruction_count());
    log::debug!(
        "{name}: the verifier processed {} instructions",
        count.map_or("?".to_owned(), |count| count.to_string())
    );
}

/// Maps that outlive the agent, except those of connections.
const PINNED: [&str; 9] = [
    names::KEPT,
    names::RING,
    names::STATS,
    names::OPENERS,
    names::SLOTS,
    names::PASSES,
    names::SINCE,
    names::WATCHED,
    names::WATCHING,
];

/// Size of a ring buffer without a writer, bytes.
const UNUSED_RING: u32 = 4096;

/// Error of a kernel program.
#[derive(Debug, Error)]
pub enum KernelProgramError {
    /// The build had no tools for the kernel program.
    #[error(
        "this binary was built without its kernel program\nhint: build it again, in a clone of the repository:\n    cargo xtask build"
    )]
    NotBuilt,
    /// The kernel's types could not be read.
    #[error("reading the kernel's BTF failed\nhint: `closewait doctor` shows what this kernel offers")]
    Btf(#[source] BtfError),
    /// The object or one of its maps was refused.
    #[error("loading the kernel programs failed\nhint: `closewait doctor` shows what is missing")]
    Load(#[source] EbpfError),
    /// A program was refused or could not be attached.
    #[error("the kernel refused program {name}\nhint: `closewait doctor` shows what is missing")]
    Program {
        /// Name of the program.
        name: &'static str,
        /// Error of the load.
        #[source]
        source: ProgramError,
    },
    /// A map could not be used.
    #[error("using map {name} failed\nhint: this is a bug in closewait; please report it")]
    Map {
        /// Name of the map.
        name: &'static str,
        /// Error of the map.
        #[source]
        source: MapError,
    },
    /// No free descriptor.
    #[error(
        "fcntl(F_DUPFD_CLOEXEC) failed\nhint: raise the limit on open files (`ulimit -n 1024`; LimitNOFILE=1024 in the systemd unit)"
    )]
    Descriptor(#[source] io::Error),
    /// The object file lacks a program or map.
    #[error("the object has no {0}\nhint: rebuild closewait with `cargo xtask build`")]
    Missing(&'static str),
    /// Pins of another program or layout are in the way.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// A program or its link could not be pinned.
    #[error(
        "pinning the program failed (bpf(BPF_OBJ_PIN))\n\
         hint: run without --pin; the classic tracepoint needs Linux 5.15 for it"
    )]
    Pin(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The classic tracepoint needs tracefs.
    #[error(transparent)]
    Tracefs(#[from] TracefsError),
}

/// User's choices for the kernel side.
#[derive(Clone, Copy, Debug)]
pub struct Choices {
    /// Number of sockets whose times of entry the kernel stores.
    pub max_sockets: u32,
    /// Bytes of the ring buffer, a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Dwell time below which no output shows a socket, so that its records need few fields.
    pub healthy_below: Duration,
    /// Whether the agent announces the entries of sockets that stay ([`KernelPrograms::announce`]). Else, or if the kernel has no types,
    /// each entry has a record at once.
    pub defers: bool,
    /// Whether to record which task opens each socket, if the kernel can: an allocation for each connection.
    pub openers: bool,
    /// Whether to sample the stacks of watched processes in their `connect(2)`, if the kernel can.
    pub connects: bool,
}

/// aya's loader, in creation on its own thread. In its constructor aya always parses all of the kernel's types, which takes 10 to 20 ms
/// of CPU time, although [`KernelPrograms::load`] replaces them by the few that are needed. So that thread may open no file; where the
/// kernel has no filters, it parses them while the agent examines the host.
pub struct Loader {
    making: io::Result<JoinHandle<EbpfLoader<'static>>>,
}

impl Loader {
    /// Starts the thread.
    pub fn begin() -> Self {
        let make = || {
            refuse_files();
            EbpfLoader::new()
        };
        Self { making: thread::Builder::new().name("closewait-types".to_owned()).spawn(make) }
    }

    fn ready<'a>(self) -> EbpfLoader<'a> {
        // Created here if the thread could not start, or panicked.
        self.making.ok().and_then(|making| making.join().ok()).unwrap_or_default()
    }
}

/// Loaded kernel programs. Dropping it detaches them, unless they are pinned.
pub struct KernelPrograms {
    ebpf: Ebpf,
    /// Needed to load iterators later; `None` where the kernel has no BTF.
    btf: Option<Btf>,
    plan: Plan,
    pinned: Option<Pinned>,
    link: Option<attach::Link>,
    /// Onsets of the ports whose closes are counted, nanoseconds, by the keys of the kernel's map; `None` before the
    /// first.
    watched: Option<BTreeMap<u64, u64>>,
    /// Whether the tracepoint's program samples connections.
    samples_connects: bool,
    /// Times of entry, except of sockets whose slot was taken.
    slots: Arc<SlotTable>,
    /// Copies of many sockets at once; `None` if this kernel's types do not allow them, before the load of its program.
    copies: Option<CopyPlan>,
    /// The same, with its program.
    copier: Option<Copier>,
    /// Whether the tracepoint's program defers records of entries.
    defers: bool,
    /// Flows whose sockets have no records if they pass; `None` if the program is not loaded to watch.
    passes: Option<PassTable>,
}

impl KernelPrograms {
    /// Loads the object for `plan`, and attaches nothing. `choices` sizes the ring and the map of the tracepoint;
    /// without it, they are just large enough for iterators. With `pins`, maps and program come from an earlier agent
    /// if they fit, and outlive this one.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the object.
    pub fn load(
        loader: Loader,
        plan: &Plan,
        choices: Option<Choices>,
        pins: Option<Pins>,
        log_kernel: bool,
    ) -> Result<Self, KernelProgramError> {
        check_built()?;
        let needs_btf = plan.hook == Tracepoint::Btf || plan.iterate_files;
        let btf = needs_btf.then(|| types::only(&plan.attachable)).transpose().map_err(KernelProgramError::Btf)?;
        let level = if log_kernel { Level::Debug as u8 } else { 0 };
        // The tracepoint's program stores the openers, and only the typed hook gives it the socket.
        let openers = match choices {
            Some(choices) if plan.hook == Tracepoint::Btf && plan.openers => {
                if choices.openers {
                    openers::ALL
                } else {
                    openers::WATCHED
                }
            }
            Some(_) | None => openers::NONE,
        };
        let healthy_below_ns = choices.map_or(0, |choices| nanos(choices.healthy_below));
        let samples_connects = plan.abilities.connects != 0 && choices.is_some_and(|choices| choices.connects);
        let connects = u32::from(samples_connects);
        // The record of an opener, and the classic tracepoint's, can only be written at once.
        let defers = choices.is_some_and(|choices| choices.defers)
            && plan.hook == Tracepoint::Btf
            && btf.is_some()
            && openers != openers::ALL;
        let abilities = Abilities { healthy_below_ns, openers, connects, defers: u32::from(defers), ..plan.abilities };
        // The notes are compared without the number of slots, which follows from the pinned `--max-sockets`.
        let pinned = match (pins, choices) {
            (Some(pins), Some(choices)) => Some(pins.adopt(attach::notes(plan, &abilities, level, choices))?),
            _ => None,
        };
        let choices = match (&pinned, choices) {
            (Some(Pinned { kept: Kept { max_sockets, ring_bytes, .. }, .. }), Some(choices)) => {
                Some(Choices { max_sockets: *max_sockets, ring_bytes: *ring_bytes, ..choices })
            }
            (_, choices) => choices,
        };
        let max_sockets = choices.map_or(1, |choices| choices.max_sockets);
        let slot_count = slots::count(max_sockets);
        // Without a choice, no program counts.
        let parts = choices.map_or(1, |_| passes::parts(aya::util::nr_cpus().map_or(1, |cpus| cpus as u32)));
        let abilities = Abilities { slot_mask: slot_count - 1, part_mask: parts - 1, ..abilities };
        let copies = CopyPlan::new(&plan.layout, &abilities).filter(|_| btf.is_some());
        let windows = copies.as_ref().map_or([Window::NONE; WINDOWS], |copies| copies.windows);
        let mut loader = loader.ready();
        loader
            .btf(btf.as_ref())
            .override_global(names::LAYOUT, &plan.layout, true)
            .override_global(names::TRACE_LAYOUT, &plan.trace_layout, true)
            .override_global(names::ABILITIES, &abilities, true)
            .override_global(names::WINDOWS, &windows[..], true)
            .override_global(aya_log::LEVEL, &level, true)
            .map_max_entries(names::SLOTS, slot_count)
            .map_max_entries(names::PASSES, choices.map_or(1, |_| passes::PLACES * parts))
            .map_max_entries(names::SINCE, max_sockets.saturating_sub(slot_count).max(1))
            .map_max_entries(names::RING, choices.map_or(UNUSED_RING, |choices| choices.ring_bytes));
        if !samples_connects {
            loader.map_max_entries(names::CONNECTS, UNUSED_RING);
        }
        if !log_kernel {
            loader.map_max_entries(names::LOG_RING, UNUSED_RING);
        }
        if let Some(pinned) = &pinned {
            for name in PINNED {
                loader.map_pin_path(name, pinned.pins().map(name));
            }
            // Another size than that of an agent that samples none.
            for name in [names::CONNECTS, names::CONNECT_WATCHES].iter().filter(|_| samples_connects) {
                loader.map_pin_path(name, pinned.pins().map(name));
            }
        }
        let ebpf = loader.load(OBJECT).map_err(KernelProgramError::Load)?;
        let name = names::SLOTS;
        let Some(Map::Array(map)) = ebpf.map(name) else { return Err(KernelProgramError::Missing(name)) };
        let slots = SlotTable::map(map.fd().as_fd(), slot_count);
        let slots =
            Arc::new(slots.map_err(|error| KernelProgramError::Map { name, source: MapError::IoError(error) })?);
        let name = names::PASSES;
        let Some(Map::Array(map)) = ebpf.map(name) else { return Err(KernelProgramError::Missing(name)) };
        // The agent before took its last counts after the end of its last window.
        let reported = pinned.as_ref().map(|pinned| BootTime(pinned.kept.reported_ns)).filter(|at| at.0 > 0);
        let now = clock::now();
        let times = (reported.unwrap_or(now), now);
        let passes = choices.map(|_| PassTable::map(map.fd().as_fd(), parts, defers, times)).transpose();
        let passes = passes.map_err(|error| KernelProgramError::Map { name, source: MapError::IoError(error) })?;
        let (plan, link, watched, copier) = (plan.clone(), None, None, None);
        Ok(Self { ebpf, btf, plan, pinned, link, watched, samples_connects, slots, copies, copier, defers, passes })
    }

    /// Whether the tracepoint's program defers records of entries.
    pub fn defers(&self) -> bool {
        self.defers
    }

    /// Takes note of a record: a flow with many of sockets that passed is counted in place of further records.
    pub fn saw(&mut self, record: &[u8], now: BootTime) {
        if let Some(passes) = &mut self.passes {
            passes.saw(record, now);
        }
    }

    /// Returns the counts of sockets that had no records, since the last call. `may_count` is whether the program may count from now on;
    /// else it records each exit.
    pub fn take_passed(&mut self, now: BootTime, may_count: bool) -> Vec<PassedSockets> {
        self.passes.as_mut().map(|passes| passes.take(now, may_count)).unwrap_or_default()
    }

    /// Returns the ring buffer with the tracepoint's records. Works once.
    ///
    /// # Errors
    ///
    /// If it was taken before, or cannot be mapped.
    pub fn take_ring(&mut self) -> Result<RingBuf<aya::maps::MapData>, KernelProgramError> {
        let name = names::RING;
        let map = self.ebpf.take_map(name).ok_or(KernelProgramError::Missing(name))?;
        RingBuf::try_from(map).map_err(|source| KernelProgramError::Map { name, source })
    }

    /// Hands the kernel program's own debug messages to the agent's log. They exist only if it was loaded with them.
    ///
    /// # Errors
    ///
    /// If their ring buffer cannot be used.
    pub fn take_logger(&mut self) -> Result<EbpfLogger<&'static dyn Log>, aya_log::Error> {
        EbpfLogger::init(&mut self.ebpf)
    }

    /// Loads the iterator over open files, if the plan allows it, and returns what scans need. Call it once, before
    /// [`Self::forget_types`].
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn scanner(&mut self) -> Result<Scanner, KernelProgramError> {
        let files = self.plan.iterate_files.then(|| self.iterator(names::ITER_FILES)).transpose()?;
        let name = names::KNOWN;
        let known = self.ebpf.take_map(name).ok_or(KernelProgramError::Missing(name))?;
        let known = HashMap::try_from(known).map_err(|source| KernelProgramError::Map { name, source })?;
        let name = names::SINCE;
        let Some(Map::HashMap(entries)) = self.ebpf.map(name) else { return Err(KernelProgramError::Missing(name)) };
        let entries = entries.fd().as_fd().try_clone_to_owned().map_err(KernelProgramError::Descriptor)?;
        let sees_all_processes = self.plan.sees_all_processes;
        let slots = Arc::clone(&self.slots);
        Ok(Scanner { programs: Some(ScanPrograms { files, known, slots, entries, sees_all_processes }) })
    }

    /// Loads the iterator over the open files of one process, if the plan allows it. An agent without it works, so this logs
    /// an error. Call it once, before [`Self::forget_types`].
    pub fn proxy_peer_reader(&mut self) -> ProxyPeerReader {
        let loaded = self.plan.iterate_files.then(|| self.iterator(names::ITER_PROXY_PEERS)).transpose();
        ProxyPeerReader(loaded.unwrap_or_else(|error| {
            log::warn!(
                "the other connections of owners stay unknown: {}",
                in_one_line(anyhow::Error::msg(error.to_string()))
            );
            None
        }))
    }

    /// Loads an iterator over open files. Returns its descriptor.
    fn iterator(&mut self, name: &'static str) -> Result<OwnedFd, KernelProgramError> {
        let refused = |source| KernelProgramError::Program { name, source };
        let program = self.ebpf.program_mut(name).ok_or(KernelProgramError::Missing(name))?;
        let iter: &mut Iter = program.try_into().map_err(refused)?;
        let btf = self.btf.as_ref().ok_or(KernelProgramError::Missing("BTF"))?;
        iter.load("task_file", btf).map_err(refused)?;
        log_verified(name, iter.info());
        iter.fd().map_err(refused)?.as_fd().try_clone_to_owned().map_err(KernelProgramError::Descriptor)
    }

    /// Frees the kernel's types, some megabytes. No iterator can be loaded after this; loaded ones continue.
    pub fn forget_types(&mut self) {
        self.btf = None;
    }

    /// Removes times of entry from the kernel's maps, each unless another socket has entered at the address since.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn forget(&mut self, entries: &[(SocketKey, BootTime)]) -> Result<(), KernelProgramError> {
        let name = names::SINCE;
        let failed = |source| KernelProgramError::Map { name, source };
        let map = self.ebpf.map_mut(name).ok_or(KernelProgramError::Missing(name))?;
        let mut since: HashMap<_, u64, u64> = HashMap::try_from(map).map_err(failed)?;
        for (key, entered) in entries {
            self.slots.forget(key.0, entered.0);
            match since.get(&key.0, 0) {
                Ok(kept) if kept <= entered.0 => match since.remove(&key.0) {
                    Err(MapError::KeyNotFound) | Ok(()) => {}
                    Err(source) => return Err(failed(source)),
                },
                Ok(_) | Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(failed(source)),
            }
        }
        Ok(())
    }

    /// Returns the uses of the kernel programs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the kernel's counters, summed over all CPUs.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn counters(&self) -> Result<Counters, KernelProgramError> {
        let name = names::STATS;
        let map = self.ebpf.map(name).ok_or(KernelProgramError::Missing(name))?;
        let failed = |source| KernelProgramError::Map { name, source };
        let stats: PerCpuArray<_, Stats> = PerCpuArray::try_from(map).map_err(failed)?;
        let of_cpus = stats.get(&0, 0).map_err(failed)?;
        let sum = |counter: Counter| of_cpus.iter().map(|cpu| cpu.counters[counter as usize]).sum();
        let dwell = (0..closewait_common::histogram::BUCKETS).map(|i| of_cpus.iter().map(|cpu| cpu.dwell[i]).sum());
        let dwell: Vec<u64> = dwell.collect();
        let left_unseen = sum(Counter::LeftUnseen);
        Ok(Counters {
            entered: sum(Counter::Entered),
            left: dwell.iter().sum::<u64>() + left_unseen,
            left_unseen,
            ring_full: sum(Counter::RingFull),
            map_full: sum(Counter::MapFull),
            replaced: sum(Counter::Replaced),
            skipped: self.skipped(),
            dwell,
        })
    }
}
