//! Programs that the agent runs to read known sockets again, and those whose entries have no record yet.

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::{
    maps::Map,
    programs::{Program, RawTracePoint},
};
use closewait_common::{batch::SOCKETS, names, refresh};

use super::{
    super::{
        batch::{BATCH_WORDS, Copied, Copier},
        calls,
        mapping::MappedArray,
    },
    KernelProgramError, KernelPrograms, log_verified,
};
use crate::host::error_text::in_one_line;
use closewait_engine::{model::SocketKey, time::BootTime};

/// Maximum number of sockets to announce before the ring buffer is read again.
const MAX_ANNOUNCED: usize = 1024;

/// State of the sockets that [`KernelPrograms::refresh`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshKind {
    /// Sockets in CLOSE_WAIT.
    Waiting = refresh::WAITING as isize,
    /// Sockets whose connection has ended, but that still have a descriptor.
    Lingering = refresh::LINGERING as isize,
}

/// Result of a refresh.
#[derive(Debug)]
pub struct Refreshed {
    /// Whether all sockets were read.
    pub complete: bool,
    /// Number of records in the ring buffer. It hides them from the agent while another CPU writes an earlier one.
    pub written: u64,
    /// Sockets that have no record, because they had the facts of their last refresh, each with a time at which they had them.
    pub unchanged: Vec<(SocketKey, BootTime)>,
}

impl KernelPrograms {
    /// Loads the programs for [`KernelPrograms::refresh`], and attaches them to nothing.
    pub(super) fn load_refresh(&mut self) -> Result<(), KernelProgramError> {
        self.load_unattached(names::REFRESH)?;
        let Some(plan) = self.copies.take() else {
            log::debug!("sockets are refreshed one by one: the kernel's types allow no copies");
            return Ok(());
        };
        if let Err(error) = self.load_unattached(names::COPY) {
            log::warn!(
                "sockets are refreshed one by one, which takes more time: {}",
                in_one_line(anyhow::Error::new(error))
            );
            return Ok(());
        }
        let name = names::BATCH;
        let Some(Map::Array(map)) = self.ebpf.map(name) else { return Err(KernelProgramError::Missing(name)) };
        match MappedArray::new(map.fd().as_fd(), BATCH_WORDS) {
            Ok(memory) => self.copier = Some(Copier::new(memory, plan)),
            Err(error) => log::debug!("sockets are refreshed one by one: mmap of {name} failed: {error}"),
        }
        Ok(())
    }

    fn load_unattached(&mut self, name: &'static str) -> Result<(), KernelProgramError> {
        let refused = |source| KernelProgramError::Program { name, source };
        let program = self.ebpf.program_mut(name).ok_or(KernelProgramError::Missing(name))?;
        let program: &mut RawTracePoint = program.try_into().map_err(refused)?;
        program.load().map_err(refused)?;
        log_verified(name, program.info());
        Ok(())
    }

    /// Refreshes sockets. When this returns, the ring buffer has a record of each that is still of `kind`, unless the kernel does not
    /// support it. Sockets in CLOSE_WAIT have none if their facts are those of the last refresh, and `is_known` says that the engine
    /// still has these.
    pub fn refresh(
        &mut self,
        keys: &[SocketKey],
        kind: RefreshKind,
        is_known: impl Fn(SocketKey) -> bool,
    ) -> Refreshed {
        let mut unchanged = Vec::new();
        let mut keys: Vec<SocketKey> = keys.iter().copied().filter(|key| !key.is_of_ends()).collect();
        if kind == RefreshKind::Waiting
            && let Some(mut copier) = self.copier.take()
        {
            keys = self.copy(&mut copier, &keys, is_known, &mut unchanged);
            self.copier = Some(copier);
        }
        let (complete, written) = self.refresh_each(&keys, kind);
        Refreshed { complete, written, unchanged }
    }

    /// Copies sockets in CLOSE_WAIT, and adds those that have not changed to `unchanged`. Returns the sockets that need a record.
    fn copy(
        &self,
        copier: &mut Copier,
        keys: &[SocketKey],
        is_known: impl Fn(SocketKey) -> bool,
        unchanged: &mut Vec<(SocketKey, BootTime)>,
    ) -> Vec<SocketKey> {
        let Some(program) = raw_tracepoint(self.ebpf.program(names::COPY)) else { return keys.to_vec() };
        let mut changed = Vec::new();
        for keys in keys.chunks(SOCKETS) {
            let run = |count| calls::raw_tracepoint(program, [count, 0]).map(drop);
            let copied = copier.copy(keys, run, &is_known, |key, copied, at| match copied {
                Copied::Gone => {}
                Copied::Unchanged => unchanged.push((key, at)),
                Copied::Changed => changed.push(key),
            });
            if let Err(error) = copied {
                log::debug!("copying sockets failed (bpf(BPF_PROG_TEST_RUN)): {error}");
                changed.extend(keys);
            }
        }
        changed
    }

    /// Lets the program write a record of each socket that is still of `kind`. Returns whether it could, and the number of records.
    fn refresh_each(&self, keys: &[SocketKey], kind: RefreshKind) -> (bool, u64) {
        let Some(program) = raw_tracepoint(self.ebpf.program(names::REFRESH)) else { return (keys.is_empty(), 0) };
        let mut written = 0;
        for key in keys {
            match calls::raw_tracepoint(program, [key.0, kind as u64]) {
                Ok(result) => written += u64::from(result.cast_signed() == refresh::WRITTEN),
                Err(error) => {
                    log::debug!("refreshing a socket failed (bpf(BPF_PROG_TEST_RUN)): {error}");
                    return (false, written);
                }
            }
        }
        (true, written)
    }

    /// Takes note that the engine has handled the records of all refreshes so far. `has` is whether a socket was refreshed at a time or
    /// later.
    pub fn records_handled(&mut self, has: impl Fn(SocketKey, BootTime) -> bool) {
        if let Some(copier) = &mut self.copier {
            copier.records_handled(has);
        }
    }

    /// Announces sockets that have entered at `until` or before and have no record of that yet: the ring buffer gets one, and `announced`
    /// the address and the entry time. A record of that kind without them is invalid: its socket has exited meanwhile, and the record
    /// of the exit reports both. Or an earlier agent had it written, whose sockets the scan at the start finds. Returns whether no socket
    /// is left; after some hundreds, or if the ring buffer is full, the caller reads it and announces the others.
    pub fn announce(&self, until: BootTime, announced: &mut HashSet<(u64, u64)>) -> bool {
        let Some(program) = raw_tracepoint(self.ebpf.program(names::REFRESH)) else { return true };
        let pending = self.slots.pending(until.0);
        for (sk, entered_ns) in pending.iter().take(MAX_ANNOUNCED) {
            match calls::raw_tracepoint(program, [*sk, refresh::ENTERED]).map(u32::cast_signed) {
                Ok(refresh::WRITTEN) => {
                    if self.slots.announce(*sk, *entered_ns) {
                        announced.insert((*sk, *entered_ns));
                    }
                }
                Ok(refresh::FULL) => return false,
                Ok(_) => {}
                Err(error) => {
                    log::debug!("announcing a socket failed (bpf(BPF_PROG_TEST_RUN)): {error}");
                    return true;
                }
            }
        }
        pending.len() <= MAX_ANNOUNCED
    }
}

/// Returns a loaded program.
fn raw_tracepoint(program: Option<&Program>) -> Option<BorrowedFd<'_>> {
    let Some(Program::RawTracePoint(program)) = program else { return None };
    program.fd().ok().map(|program: &aya::programs::ProgramFd| program.as_fd())
}
