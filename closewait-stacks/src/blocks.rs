//! Memory that is read in blocks, and numbers in what was read.

use std::{
    cell::RefCell,
    collections::{BTreeMap, btree_map::Entry},
};

use super::memory::{MemoryError, MemoryReader};

/// Number of bytes that are read at once; it divides the size of every page, so a block is mapped whole or not at all.
pub(crate) const BLOCK: usize = 1024;
/// Maximum number of blocks that are kept.
const MAX_BLOCKS: usize = 4096;

/// Memory that is read in blocks, each of them once.
pub(crate) struct BlockReader<'a> {
    memory: MemoryReader<'a>,
    blocks: RefCell<BTreeMap<u64, Box<[u8; BLOCK]>>>,
}

impl<'a> BlockReader<'a> {
    pub(crate) const fn new(memory: MemoryReader<'a>) -> Self {
        Self { memory, blocks: RefCell::new(BTreeMap::new()) }
    }

    /// Forgets all blocks, so that each one is read again.
    pub(crate) fn forget(&self) {
        self.blocks.borrow_mut().clear();
    }

    pub(crate) fn fill(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let mut blocks = self.blocks.borrow_mut();
        self.memory.work(1 + into.len() as u64 / 8)?;
        if blocks.len() >= MAX_BLOCKS {
            blocks.clear();
        }
        let (mut at, mut rest) = (address, into);
        while !rest.is_empty() {
            let from = (at % BLOCK as u64) as usize;
            let start = at - from as u64;
            let block = match blocks.entry(start) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(Box::new(self.memory.array(start)?)),
            };
            let len = rest.len().min(BLOCK - from);
            let (now, later) = rest.split_at_mut(len);
            now.copy_from_slice(&block[from..from + len]);
            rest = later;
            at = at.wrapping_add(len as u64);
        }
        Ok(())
    }

    pub(crate) fn u64(&self, address: u64) -> Result<u64, MemoryError> {
        let mut bytes = [0; 8];
        self.fill(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Returns the 8 bytes at `at` as a number; 0 beyond the end.
pub(crate) fn word(bytes: &[u8], at: usize) -> u64 {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk());
    part.map_or(0, |part| u64::from_le_bytes(*part))
}

/// Returns the 4 bytes at `at` as a number with a sign; 0 beyond the end.
pub(crate) fn signed_half(bytes: &[u8], at: usize) -> i32 {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk());
    part.map_or(0, |part| i32::from_le_bytes(*part))
}

/// Returns the 4 bytes at `at` as a number; 0 beyond the end.
pub(crate) fn half(bytes: &[u8], at: usize) -> u32 {
    signed_half(bytes, at).cast_unsigned()
}
