//! The tracepoint's program, attached while the agent runs, or pinned.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{
    maps::Array,
    programs::{
        BtfTracePoint, ProgramError, TracePoint, links::FdLink, tp_btf::BtfTracePointLinkId,
        trace_point::TracePointLinkId,
    },
};
use closewait_common::{
    config::Abilities,
    kept::{self, Kept},
    names,
};

use super::{
    super::{
        calls,
        pins::{Adoption, Pinned, Pins},
    },
    Choices, KernelProgramError, KernelPrograms, OBJECT, log_verified,
};
use crate::host::{
    plan::{Plan, Tracepoint},
    tracefs,
};
use closewait_engine::{model::Counters, time::BootTime};

/// Link that keeps the tracepoint's program attached, if it is not pinned.
pub(super) enum Link {
    Btf(BtfTracePointLinkId),
    Classic(TracePointLinkId),
}

/// Returns the notes of an agent without pins to adopt.
pub(super) fn notes(plan: &Plan, abilities: &Abilities, log_level: u8, choices: Choices) -> Kept {
    let Choices { max_sockets, ring_bytes, .. } = choices;
    let mut program = DefaultHasher::new();
    OBJECT.hash(&mut program);
    // Read-only globals are part of the program for the kernel.
    format!("{:?} {:?} {abilities:?} {log_level}", plan.layout, plan.trace_layout).hash(&mut program);
    Kept {
        layout: kept::LAYOUT,
        hook: match plan.hook {
            Tracepoint::Btf => kept::hook::BTF,
            Tracepoint::Classic => kept::hook::CLASSIC,
        },
        // 0 means that there is none.
        program: program.finish().max(1),
        max_sockets,
        ring_bytes,
        reported_ns: 0,
        reported: [0; closewait_common::histogram::BUCKETS],
    }
}

const fn program_of(hook: Tracepoint) -> &'static str {
    match hook {
        Tracepoint::Btf => names::PROGRAM_BTF,
        Tracepoint::Classic => names::PROGRAM_CLASSIC,
    }
}

fn not_pinned(error: impl std::error::Error + Send + Sync + 'static) -> KernelProgramError {
    KernelProgramError::Pin(Box::new(error))
}

impl KernelPrograms {
    /// Attaches the tracepoint, which records every change from then on. If a pinned program does the same, that one
    /// continues instead.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the program, or tracefs is needed and unavailable.
    pub fn attach(&mut self) -> Result<(), KernelProgramError> {
        if let Some(mut pinned) = self.pinned.take() {
            if pinned.adoption == Adoption::All {
                let failed = |error| KernelProgramError::Program {
                    name: program_of(self.plan.hook),
                    source: ProgramError::IOError(error),
                };
                pinned.program = Some(calls::pinned(&pinned.pins().program()).map_err(failed)?);
            } else {
                self.replace(&pinned)?;
            }
            self.pinned = Some(pinned);
        } else {
            self.attach_own(None)?;
        }
        self.watch_ports(&[])?;
        // Without the kernel's types the programs could read nothing.
        if self.btf.is_some() { self.load_refresh() } else { Ok(()) }
    }

    /// Ends the program of an earlier agent, and pins one of this agent. Both miss changes between the two.
    fn replace(&mut self, pinned: &Pinned) -> Result<(), KernelProgramError> {
        // In case of an interruption: adopted maps stay usable, new ones are not complete yet.
        let layout = if pinned.adoption == Adoption::Maps { kept::LAYOUT } else { 0 };
        self.write_notes(&Kept { layout, program: 0, ..pinned.kept })?;
        pinned.pins().detach()?;
        if let Err(error) = self.attach_own(Some(pinned.pins())) {
            // Maps that no program updates are worse than none.
            pinned.pins().clear()?;
            return Err(error);
        }
        self.write_notes(&pinned.kept)
    }

    fn attach_own(&mut self, pins: Option<&Pins>) -> Result<(), KernelProgramError> {
        let name = program_of(self.plan.hook);
        let refused = |source| KernelProgramError::Program { name, source };
        let program = self.ebpf.program_mut(name).ok_or(KernelProgramError::Missing(name))?;
        // A link that is taken out of its program detaches when it is dropped.
        let mut own = None;
        let link = match self.plan.hook {
            Tracepoint::Btf => {
                let btf = self.btf.as_ref().ok_or(KernelProgramError::Missing("BTF"))?;
                let program: &mut BtfTracePoint = program.try_into().map_err(refused)?;
                program.load(names::TRACEPOINT, btf).map_err(refused)?;
                log_verified(name, program.info());
                let link = program.attach().map_err(refused)?;
                if pins.is_none() {
                    own = Some(Link::Btf(link));
                    None
                } else {
                    Some(program.take_link(link).map(FdLink::from).map_err(refused)?)
                }
            }
            Tracepoint::Classic => {
                let program: &mut TracePoint = program.try_into().map_err(refused)?;
                program.load().map_err(refused)?;
                let link = tracefs::with_tracefs(|_path| program.attach(names::TRACEPOINT_GROUP, names::TRACEPOINT))?
                    .map_err(refused)?;
                if pins.is_none() {
                    own = Some(Link::Classic(link));
                    None
                } else {
                    let link = program.take_link(link).map_err(refused)?;
                    Some(FdLink::try_from(link).map_err(not_pinned)?)
                }
            }
        };
        self.link = own;
        if let Some((link, pins)) = link.zip(pins) {
            link.pin(pins.link()).map_err(not_pinned)?;
            self.ebpf
                .program_mut(name)
                .ok_or(KernelProgramError::Missing(name))?
                .pin(pins.program())
                .map_err(not_pinned)?;
        }
        Ok(())
    }

    /// Detaches the tracepoint's program, unless it is pinned. It writes no more records, and its counters stay
    /// readable.
    pub fn detach(&mut self) {
        let Some(link) = self.link.take() else { return };
        let detached = self.ebpf.program_mut(program_of(self.plan.hook)).map(|program| match link {
            Link::Btf(link) => <&mut BtfTracePoint>::try_from(program).and_then(|program| program.detach(link)),
            Link::Classic(link) => <&mut TracePoint>::try_from(program).and_then(|program| program.detach(link)),
        });
        if let Some(Err(error)) = detached {
            log::debug!("the program ends with its descriptors: {error}");
        }
    }

    /// Returns the pins, if there are any.
    pub fn pinned(&self) -> Option<&Pinned> {
        self.pinned.as_ref()
    }

    /// Stores for the next agent that a window of the histograms ended at `at`, with these counters.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn keep_reported(&mut self, at: BootTime, counters: &Counters) -> Result<(), KernelProgramError> {
        let Some(pinned) = &mut self.pinned else { return Ok(()) };
        pinned.kept.reported_ns = at.0;
        for (kept, count) in pinned.kept.reported.iter_mut().zip(&counters.dwell) {
            *kept = *count;
        }
        let kept = pinned.kept;
        self.write_notes(&kept)
    }

    fn write_notes(&mut self, kept: &Kept) -> Result<(), KernelProgramError> {
        let name = names::KEPT;
        let failed = |source| KernelProgramError::Map { name, source };
        let map = self.ebpf.map_mut(name).ok_or(KernelProgramError::Missing(name))?;
        let mut notes: Array<_, Kept> = Array::try_from(map).map_err(failed)?;
        notes.set(0, kept, 0).map_err(failed)
    }

    /// Returns the number of runs that the kernel skipped because a program was running on that CPU already:
    /// `recursion_misses` of `bpf_prog_show_fdinfo` (kernel/bpf/syscall.c at v5.12). `None` where the kernel does not
    /// show it.
    pub(super) fn skipped(&self) -> Option<u64> {
        let adopted = self.pinned.as_ref().and_then(|pinned| pinned.program.as_ref());
        let fd = match adopted {
            Some(program) => program.as_raw_fd(),
            None => self.ebpf.program(program_of(self.plan.hook))?.fd().ok()?.as_fd().as_raw_fd(),
        };
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        info.lines().find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse().ok())
    }
}
