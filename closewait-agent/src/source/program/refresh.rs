//! Programs that the agent runs to read known sockets again.

use std::os::fd::{AsFd as _, BorrowedFd};

use aya::{
    maps::Map,
    programs::{Program, RawTracePoint},
};
use closewait_common::{batch::SOCKETS, names};

use super::{
    super::{
        batch::{BATCH_WORDS, Copied, Copier},
        calls,
        mapping::Mapping,
    },
    KernelProgramError, KernelPrograms, log_verified,
};
use crate::host::error_text::in_one_line;
use closewait_engine::{model::SocketKey, time::BootTime};

/// State of the sockets that [`KernelPrograms::refresh`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshKind {
    /// Sockets in CLOSE_WAIT.
    Waiting = 0,
    /// Sockets whose connection has ended, but that still have a descriptor.
    Lingering = 1,
}

/// Result of a refresh.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// Whether all sockets were read.
    pub complete: bool,
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
        match Mapping::new(map.fd().as_fd(), BATCH_WORDS) {
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
        let mut refreshed = Refreshed { complete: true, unchanged: Vec::new() };
        let keys: Vec<SocketKey> = keys.iter().copied().filter(|key| !key.is_of_ends()).collect();
        let one_by_one = match (kind, self.copier.take()) {
            (RefreshKind::Waiting, Some(mut copier)) => {
                let changed = self.copy(&mut copier, &keys, is_known, &mut refreshed);
                self.copier = Some(copier);
                changed
            }
            (_, copier) => {
                self.copier = copier;
                keys
            }
        };
        refreshed.complete = self.refresh_each(&one_by_one, kind);
        refreshed
    }

    /// Copies sockets in CLOSE_WAIT, and adds those that have not changed to `refreshed`. Returns the sockets that need a record.
    fn copy(
        &self,
        copier: &mut Copier,
        keys: &[SocketKey],
        is_known: impl Fn(SocketKey) -> bool,
        refreshed: &mut Refreshed,
    ) -> Vec<SocketKey> {
        let Some(program) = raw_tracepoint(self.ebpf.program(names::COPY)) else { return keys.to_vec() };
        let mut changed = Vec::new();
        for keys in keys.chunks(SOCKETS) {
            let run = |count| calls::raw_tracepoint(program, [count, 0]);
            let copied = copier.copy(keys, run, &is_known, |key, copied, at| match copied {
                Copied::Gone => {}
                Copied::Unchanged => refreshed.unchanged.push((key, at)),
                Copied::Changed => changed.push(key),
            });
            if let Err(error) = copied {
                log::debug!("copying sockets failed (bpf(BPF_PROG_TEST_RUN)): {error}");
                changed.extend(keys);
            }
        }
        changed
    }

    /// Lets the program write a record of each socket that is still of `kind`. Returns whether it could.
    fn refresh_each(&self, keys: &[SocketKey], kind: RefreshKind) -> bool {
        let Some(program) = raw_tracepoint(self.ebpf.program(names::REFRESH)) else { return false };
        for key in keys {
            if let Err(error) = calls::raw_tracepoint(program, [key.0, kind as u64]) {
                log::debug!("refreshing a socket failed (bpf(BPF_PROG_TEST_RUN)): {error}");
                return false;
            }
        }
        true
    }

    /// Takes note that the engine has handled the records of all refreshes so far. `has` is whether a socket was refreshed at a time or
    /// later.
    pub fn records_handled(&mut self, has: impl Fn(SocketKey, BootTime) -> bool) {
        if let Some(copier) = &mut self.copier {
            copier.records_handled(has);
        }
    }
}

/// Returns a loaded program.
fn raw_tracepoint(program: Option<&Program>) -> Option<BorrowedFd<'_>> {
    let Some(Program::RawTracePoint(program)) = program else { return None };
    program.fd().ok().map(|program: &aya::programs::ProgramFd| program.as_fd())
}
