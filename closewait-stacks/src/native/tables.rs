//! Tables for unwinding, as they are loaded with the code of an object.
//!
//! The segment `PT_GNU_EH_FRAME` has a table of all functions, sorted by address, that refers to one frame description entry (FDE) for
//! each (Linux Standard Base 5.0, section 10.6.2). Only that entry and its common information entry (CIE) are read. Where the segment is
//! missing, `scan` finds the entries.

use std::collections::{BTreeMap, btree_map::Entry};

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameOffset, EndianSlice, LittleEndian, RegisterRule, UnwindContext,
    UnwindContextStorage, UnwindSection as _, UnwindTableRow, Vendor,
};
use object::elf;

use super::{
    rule::{CfaPlace, SavedPlace, UnwindRule},
    scan,
};
use crate::{
    elf::Object,
    memory::{MemoryError, MemoryReader},
};

/// Version, encodings of the address of `.eh_frame`, of the count and of the table that all linkers of Linux write: relative to the field
/// or to the table, 4 bytes each (`DW_EH_PE_pcrel | DW_EH_PE_sdata4` and others).
const HEADER: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
/// Number of bytes of the header.
const HEADER_LEN: u64 = 12;
/// Number of bytes of an entry of the table.
const ENTRY_LEN: u64 = 8;
/// Maximum number of entries that are read at once.
const BLOCK: u32 = 128;
/// Number of bytes of a CIE or FDE that are read at first: most are shorter.
const FIRST: u64 = 128;
/// Maximum number of bytes of an expression: those of glibc have some 20.
const MAX_EXPRESSION: usize = 256;
/// Maximum number of CIEs of an object that are kept; usual are some 5.
const MAX_COMMON: usize = 64;
/// Maximum number of bytes of a CIE or FDE. The longest FDE of Debian's libcrypto, libc and node has some 5,000.
const MAX_RECORD: usize = 16 << 10;

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// Room for the rules of one row, and for the rows that a program of call frame instructions remembers.
struct Room;

impl UnwindContextStorage<usize> for Room {
    // All registers of aarch64 that functions preserve, d8 to d15 among them, are 20; a signal frame of x86_64 has 17.
    type Rules = [(gimli::Register, RegisterRule<usize>); 48];
    type Stack = Box<[UnwindTableRow<usize, Self>; 8]>;
}

/// Index of the functions of an object.
pub(super) struct FunctionTable {
    index: FunctionIndex,
    /// CIEs by address.
    common: BTreeMap<u64, Vec<u8>>,
    is_aarch64: bool,
}

/// Addresses of functions and of their FDEs.
enum FunctionIndex {
    /// Table in the memory of the process.
    Header(HeaderTable),
    /// All of them, sorted.
    Found(Vec<(u64, u64)>),
}

/// Table of the segment `PT_GNU_EH_FRAME`.
struct HeaderTable {
    address: u64,
    count: u32,
    /// Entries that a search has already compared.
    probed: BTreeMap<u32, (u64, u64)>,
}

/// Function in the table, and the rule for one address in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableRule {
    /// First address of the function, or of the part of it that the compiler has moved elsewhere.
    pub(super) start: u64,
    /// Address after the last one.
    pub(super) end: u64,
    /// Rule for the address; `None` if it is malformed or uses what no compiler does.
    pub(super) rule: Option<UnwindRule>,
}

impl FunctionTable {
    /// Returns the index of an object; `None` if it has none.
    pub(super) fn of(object: &Object<'_>, memory: MemoryReader<'_>) -> Result<Option<Self>, MemoryError> {
        let index = match HeaderTable::of(object, memory)? {
            Some(table) => FunctionIndex::Header(table),
            None => FunctionIndex::Found(scan::functions(object, memory)?),
        };
        let is_empty = matches!(&index, FunctionIndex::Found(functions) if functions.is_empty());
        let is_aarch64 = object.machine == elf::EM_AARCH64;
        Ok((!is_empty).then_some(Self { index, common: BTreeMap::new(), is_aarch64 }))
    }

    /// Returns the function that contains `address`, with its rule; `None` if the table has none.
    pub(super) fn find(
        &mut self,
        object: &Object<'_>,
        memory: MemoryReader<'_>,
        address: u64,
    ) -> Result<Option<TableRule>, MemoryError> {
        let at = match &mut self.index {
            FunctionIndex::Header(table) => table.search(memory, address)?,
            FunctionIndex::Found(functions) => {
                let after = functions.partition_point(|(start, _)| *start <= address);
                after.checked_sub(1).and_then(|last| functions.get(last)).map(|(_, at)| *at)
            }
        };
        let Some(at) = at else { return Ok(None) };
        let Some(mut function) = read_record(object, memory, at)? else { return Ok(None) };
        let Some(pointer) = function.get(4..8).and_then(|id| id.try_into().ok()).map(u32::from_le_bytes) else {
            return Ok(None);
        };
        // The distance from the field itself back to the CIE.
        let common_at = at.wrapping_add(4).wrapping_sub(pointer.into());
        if self.common.len() >= MAX_COMMON {
            self.common.clear();
        }
        let common: &[u8] = match self.common.entry(common_at) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(read_record(object, memory, common_at)?.unwrap_or_default()),
        };
        // Both records in one section, however far apart they are.
        let Ok(distance) = u32::try_from(common.len() + 4) else { return Ok(None) };
        function[4..8].copy_from_slice(&distance.to_le_bytes());
        let section = [common, &function].concat();
        memory.work(section.len() as u64)?;
        Ok(rule(&section, common.len(), at, address, self.is_aarch64))
    }
}

impl HeaderTable {
    /// Returns the table of an object; `None` if it has none.
    fn of(object: &Object<'_>, memory: MemoryReader<'_>) -> Result<Option<Self>, MemoryError> {
        let Some(segment) = object.segment(elf::PT_GNU_EH_FRAME) else { return Ok(None) };
        let header = memory.array::<{ HEADER_LEN as usize }>(segment.address)?;
        let count = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        let room = segment.len.saturating_sub(HEADER_LEN) / ENTRY_LEN;
        if header[..4] != HEADER || u64::from(count) > room || count == 0 {
            return Ok(None);
        }
        Ok(Some(Self { address: segment.address, count, probed: BTreeMap::new() }))
    }

    /// Returns the address of the FDE whose function is the last one that starts at or before `address`.
    fn search(&mut self, memory: MemoryReader<'_>, address: u64) -> Result<Option<u64>, MemoryError> {
        // The function is in [low, high).
        let (mut low, mut high) = (0, self.count);
        while high - low > BLOCK {
            let middle = low + (high - low) / 2;
            if self.entry(memory, middle)?.0 <= address { low = middle } else { high = middle }
        }
        let bytes = memory.bytes(self.address_of(low), (u64::from(high - low) * ENTRY_LEN) as usize)?;
        let entries = bytes.chunks_exact(ENTRY_LEN as usize).filter_map(|entry| self.decode(entry));
        Ok(entries.take_while(|(start, _)| *start <= address).last().map(|(_, at)| at))
    }

    fn entry(&mut self, memory: MemoryReader<'_>, index: u32) -> Result<(u64, u64), MemoryError> {
        if let Some(known) = self.probed.get(&index) {
            return Ok(*known);
        }
        let bytes = memory.array::<{ ENTRY_LEN as usize }>(self.address_of(index))?;
        let entry = self.decode(&bytes).unwrap_or_default();
        self.probed.insert(index, entry);
        Ok(entry)
    }

    const fn address_of(&self, index: u32) -> u64 {
        self.address.wrapping_add(HEADER_LEN).wrapping_add(index as u64 * ENTRY_LEN)
    }

    /// Returns the address of a function and of its FDE. Both are relative to the table.
    fn decode(&self, entry: &[u8]) -> Option<(u64, u64)> {
        let number = |from: usize| Some(i32::from_le_bytes(entry.get(from..from + 4)?.try_into().ok()?));
        let absolute = |offset: i32| self.address.wrapping_add_signed(offset.into());
        Some((absolute(number(0)?), absolute(number(4)?)))
    }
}

/// Reads a CIE or FDE; `None` if there is none.
fn read_record(object: &Object<'_>, memory: MemoryReader<'_>, at: u64) -> Result<Option<Vec<u8>>, MemoryError> {
    let mut loaded = object.segments.iter().filter(|segment| segment.kind == elf::PT_LOAD);
    let left = loaded.find_map(|one| one.len.checked_sub(at.checked_sub(one.address)?).filter(|left| *left > 8));
    let Some(left) = left else { return Ok(None) };
    let mut bytes = memory.bytes(at, left.min(FIRST) as usize)?;
    let Some(len) = bytes.get(..4).and_then(|len| len.try_into().ok()).map(u32::from_le_bytes) else {
        return Ok(None);
    };
    // 0 ends the section, and all ones would announce a length of 8 bytes.
    let len = usize::try_from(len).unwrap_or(usize::MAX).saturating_add(4);
    if len <= 8 || len > MAX_RECORD || len as u64 > left {
        return Ok(None);
    }
    if let Some(more) = len.checked_sub(bytes.len()) {
        bytes.extend(memory.bytes(at.wrapping_add(bytes.len() as u64), more)?);
    }
    bytes.truncate(len);
    Ok(Some(bytes))
}

/// Returns the rule for `address` from a CIE and the FDE behind it in `section`, at `offset`. In memory the FDE is at `at`.
pub(super) fn rule(section: &[u8], offset: usize, at: u64, address: u64, is_aarch64: bool) -> Option<TableRule> {
    let bases = BaseAddresses::default().set_eh_frame(at.wrapping_sub(offset as u64));
    let mut frames = EhFrame::new(section, LittleEndian);
    frames.set_address_size(8);
    if is_aarch64 {
        frames.set_vendor(Vendor::AArch64);
    }
    let partial = frames.partial_fde_from_offset(&bases, EhFrameOffset(offset)).ok()?;
    let function = partial.parse(EhFrame::cie_from_offset).ok().filter(|function| function.contains(address))?;
    let mut context = UnwindContext::<usize, Room>::new_in();
    let row = function.unwind_info_for_address(&frames, &bases, &mut context, address).ok();
    let rule = row.and_then(|row| {
        let bytes = |expression: gimli::UnwindExpression<usize>| {
            let expression: gimli::Expression<Bytes<'_>> = expression.get(&frames).ok()?;
            Some(expression.0.slice()).filter(|bytes| bytes.len() <= MAX_EXPRESSION).map(Box::from)
        };
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => CfaPlace::Register(register.0, *offset),
            CfaRule::Expression(expression) => CfaPlace::Expression(bytes(*expression)?),
        };
        let mut saved = Vec::new();
        for (register, place) in row.registers() {
            let place = match place {
                RegisterRule::Undefined => SavedPlace::Undefined,
                RegisterRule::SameValue => SavedPlace::Same,
                RegisterRule::Offset(offset) => SavedPlace::At(*offset),
                RegisterRule::ValOffset(offset) => SavedPlace::Sum(*offset),
                RegisterRule::Register(other) => SavedPlace::Register(other.0),
                RegisterRule::Expression(expression) => SavedPlace::AtExpression(bytes(*expression)?),
                RegisterRule::ValExpression(expression) => SavedPlace::Expression(bytes(*expression)?),
                // State of pointer authentication, which is not needed: addresses are cut to their bits.
                RegisterRule::Constant(_) | RegisterRule::Architectural => continue,
            };
            saved.push((register.0, place));
        }
        let (return_address, is_signal) = (function.cie().return_address_register().0, function.is_signal_trampoline());
        Some(UnwindRule { cfa, saved, return_address, is_signal, is_derived: false })
    });
    Some(TableRule { start: function.initial_address(), end: function.end_address(), rule })
}
