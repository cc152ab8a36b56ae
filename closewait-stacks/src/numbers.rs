//! Threads of the kernel that belong to the threads of a runtime.

use std::collections::BTreeMap;

use object::elf;

use super::{
    blocks::word,
    memory::{MemoryError, MemoryReader, readable},
    process::TargetThread,
};

/// Numbers of the threads of a process.
pub(crate) struct ThreadNumbers<'a> {
    memory: MemoryReader<'a>,
    machine: u16,
    /// `TargetThread::tid` of each `TargetThread::inner_tid`.
    by_inner: BTreeMap<u32, u32>,
}

impl<'a> ThreadNumbers<'a> {
    pub(crate) fn new(memory: MemoryReader<'a>, machine: u16, threads: &[TargetThread]) -> Self {
        let by_inner = threads.iter().map(|thread| (thread.inner_tid, thread.tid)).collect();
        Self { memory, machine, by_inner }
    }

    /// Returns the number of the thread that the program itself numbers `inner`; `None` if there is none.
    pub(crate) fn of_inner(&self, inner: u64) -> Option<u32> {
        self.by_inner.get(&u32::try_from(inner).ok()?).copied()
    }

    /// Returns the number of the thread whose `struct pthread` is at `address`; `None` if that is not certain.
    ///
    /// The struct has the number at a fixed offset: in glibc behind its header and a list (`tid`, nptl/descr.h at 2.31 and 2.41,
    /// `tcbhead_t`, sysdeps/x86_64/nptl/tls.h), in musl (src/internal/pthread_impl.h at v1.2.5) behind its first words. The struct of
    /// x86_64 and that of musl also have their own address, which tells them from other memory.
    ///
    /// # Errors
    ///
    /// If the limit of reads is reached.
    pub(crate) fn of_pthread(&self, address: u64) -> Result<Option<u32>, MemoryError> {
        if address == 0 || !address.is_multiple_of(8) {
            return Ok(None);
        }
        let Some(start) = readable(self.memory.array::<24>(address))? else { return Ok(None) };
        let is_own = |at: usize| word(&start, at) == address;
        let places: &[u64] = match self.machine {
            elf::EM_X86_64 if is_own(0) && is_own(16) => &[0x2d0, 0x30],
            elf::EM_X86_64 if is_own(0) => &[0x30],
            elf::EM_AARCH64 if is_own(0) => &[0x20],
            elf::EM_AARCH64 => &[0xd0],
            _ => &[],
        };
        for place in places {
            let inner = readable(self.memory.u32(address.wrapping_add(*place)))?;
            if let Some(tid) = inner.and_then(|inner| self.of_inner(inner.into())) {
                return Ok(Some(tid));
            }
        }
        Ok(None)
    }
}
