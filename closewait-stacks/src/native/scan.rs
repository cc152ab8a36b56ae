//! Search for frame descriptions that no header leads to.
//!
//! Linkers write `PT_GNU_EH_FRAME` only where the C++ runtime finds the descriptions by it. A static executable of GCC has `.eh_frame` alone
//! (`crtbeginT.o` registers it). The section is loaded and has no mark, so the loaded constants are searched for its beginning: a common
//! information entry (CIE) of version 1, and behind it a frame description entry (FDE) that refers to it and is about code of the object.

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection as _, Vendor};
use object::elf;

use crate::{
    elf::Object,
    memory::{MemoryError, MemoryReader},
};

/// Maximum number of bytes of a segment that are searched. All constants of a static executable of glibc are 200 kB.
const MAX_SEGMENT: u64 = 8 << 20;
/// Maximum number of FDEs. Node, with 120 MB, has 150,000 functions.
const MAX_FUNCTIONS: usize = 1 << 18;
/// Maximum number of records that are read, and of places that look like a CIE, together.
const MAX_TRIES: usize = 1 << 19;
/// Number of bytes of a CIE up to the beginning of its augmentation: length, identifier, version.
const BEGINNING: usize = 9;

/// Returns the first addresses of functions and the addresses of their FDEs, sorted.
///
/// # Errors
///
/// If the constants cannot be read.
pub(super) fn functions(object: &Object<'_>, memory: MemoryReader<'_>) -> Result<Vec<(u64, u64)>, MemoryError> {
    let mut found = Vec::new();
    // Code and constants are in one segment only with old linkers.
    for with_code in [false, true] {
        let constants = object.segments.iter().filter(|one| one.kind == elf::PT_LOAD && !one.writable);
        for segment in constants.filter(|one| one.file_len <= MAX_SEGMENT && one.executable == with_code) {
            let bytes = memory.bytes(segment.address, usize::try_from(segment.file_len).unwrap_or(0))?;
            search(object, memory, &bytes, segment.address, &mut found)?;
        }
        if !found.is_empty() {
            break;
        }
    }
    memory.keep(size_of_val(&found[..]))?;
    found.sort_unstable();
    found.dedup_by_key(|(start, _)| *start);
    Ok(found)
}

/// Searches `bytes`, which are at `address`.
fn search(
    object: &Object<'_>,
    memory: MemoryReader<'_>,
    bytes: &[u8],
    address: u64,
    found: &mut Vec<(u64, u64)>,
) -> Result<(), MemoryError> {
    let (mut at, mut tries) = (0, 0);
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() > BEGINNING) {
        let is_common = rest[4..8] == [0; 4] && rest[8] == 1 && rest[BEGINNING] == b'z';
        let start = address.wrapping_add(at as u64);
        if is_common {
            let before = tries;
            let len = section(object, rest, start, found, &mut tries);
            tries += 1;
            // Each FDE is compared with the segments.
            memory.work((tries - before) as u64 * (16 + object.segments.len() as u64))?;
            if tries >= MAX_TRIES || found.len() >= MAX_FUNCTIONS {
                return Ok(());
            }
            at += len.max(4).next_multiple_of(4);
            continue;
        }
        // Records are aligned to 4 bytes, at least.
        at += 4;
    }
    Ok(())
}

/// Reads the section at the beginning of `bytes`, which are at `address`. Returns its length up to what is no record of it; 0 if it is none.
fn section(object: &Object<'_>, bytes: &[u8], address: u64, found: &mut Vec<(u64, u64)>, tries: &mut usize) -> usize {
    let bases = BaseAddresses::default().set_eh_frame(address);
    let mut frames = EhFrame::new(bytes, LittleEndian);
    frames.set_address_size(8);
    if object.machine == elf::EM_AARCH64 {
        frames.set_vendor(Vendor::AArch64);
    }
    let mut end = 0;
    let mut entries = frames.entries(&bases);
    while let Ok(Some(entry)) = entries.next() {
        *tries += 1;
        if *tries >= MAX_TRIES {
            break;
        }
        let CieOrFde::Fde(partial) = entry else { continue };
        let Ok(function) = partial.parse(EhFrame::cie_from_offset) else { break };
        // What the linker has removed starts at 0.
        if is_code(object, function.initial_address()) && function.len() > 0 {
            found.push((function.initial_address(), address.wrapping_add(function.offset() as u64)));
            end = function.offset() + 4 + function.entry_len();
        } else if end == 0 {
            break;
        }
        if found.len() >= MAX_FUNCTIONS {
            break;
        }
    }
    end
}

fn is_code(object: &Object<'_>, address: u64) -> bool {
    let mut code = object.segments.iter().filter(|one| one.kind == elf::PT_LOAD && one.executable);
    code.any(|one| address.checked_sub(one.address).is_some_and(|offset| offset < one.len))
}
