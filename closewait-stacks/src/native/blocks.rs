//! Memory of a stack, read in blocks.

use crate::{
    memory::{MemoryError, MemoryReader, ReadBound},
    process::TargetProcess,
};

/// Number of bytes that are read from the top of a stack at first. Most stacks of blocked threads are shorter.
const FIRST: u64 = 8 << 10;
/// Number of bytes of each further block.
const NEXT: u64 = 4 << 10;
/// Maximum number of blocks of one stack.
const MAX_BLOCKS: usize = 64;

/// Memory of one stack.
pub(super) struct StackBlocks<'a> {
    process: &'a TargetProcess<'a>,
    blocks: Vec<(u64, Vec<u8>)>,
    /// Whether nothing else is read: the thread has run on since the copy.
    is_copy: bool,
    /// Address that a copy does not have.
    missed: Option<u64>,
}

impl<'a> StackBlocks<'a> {
    /// Reads the top of the stack at `sp`.
    pub(super) fn new(process: &'a TargetProcess<'a>, sp: u64) -> Result<Self, MemoryError> {
        let mut stack = Self { process, blocks: Vec::new(), is_copy: false, missed: None };
        stack.add(sp, FIRST)?;
        Ok(stack)
    }

    /// Returns a stack of which only a copy of its top at `sp` is known.
    pub(super) fn copied(process: &'a TargetProcess<'a>, sp: u64, bytes: Vec<u8>) -> Self {
        Self { process, blocks: vec![(sp, bytes)], is_copy: true, missed: None }
    }

    /// Returns the last address that a copy does not have.
    pub(super) const fn missed(&self) -> Option<u64> {
        self.missed
    }

    /// Returns the memory of the process.
    pub(super) const fn memory(&self) -> MemoryReader<'a> {
        self.process.memory
    }

    /// Returns the 8 bytes at `address`.
    pub(super) fn u64(&mut self, address: u64) -> Result<u64, MemoryError> {
        if let Some(value) = self.find(address) {
            return Ok(value);
        }
        if self.is_copy {
            self.missed = Some(address);
            return Err(MemoryError::Unreadable { address, len: 8 });
        }
        self.add(address, NEXT)?;
        self.find(address).ok_or(MemoryError::Unreadable { address, len: 8 })
    }

    fn find(&self, address: u64) -> Option<u64> {
        self.blocks.iter().find_map(|(start, bytes)| {
            let from = usize::try_from(address.checked_sub(*start)?).ok()?;
            Some(u64::from_le_bytes(bytes.get(from..from.checked_add(8)?)?.try_into().ok()?))
        })
    }

    fn add(&mut self, address: u64, len: u64) -> Result<(), MemoryError> {
        let mapping = self.process.mapping(address).filter(|mapping| mapping.readable && !mapping.shared);
        let mapping = mapping.ok_or(MemoryError::Unreadable { address, len: 8 })?;
        if self.blocks.len() >= MAX_BLOCKS {
            return Err(MemoryError::Limit(ReadBound::Reads));
        }
        // A stack that grows while it is read only gets lower addresses.
        let len = usize::try_from(len.min(mapping.end - address)).unwrap_or(0);
        self.blocks.push((address, self.process.memory.bytes(address, len)?));
        Ok(())
    }
}
