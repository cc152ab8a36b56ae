//! Description of a Go executable or library in its own data: `moduledata` of `src/runtime/symtab.go` (go1.15 to go1.27).
//!
//! The linker writes it (`(*Link).symtab`, `src/cmd/link/internal/ld/symtab.go`), and no symbol that stripping leaves names it. It is
//! found by its form: slices with a length equal to their capacity, all inside of the object, and behind its first pointer the magic
//! number of the table of functions.

use std::ops::Range;

use object::elf;

use super::layout::{self, GoLayout};
use crate::{
    elf::Object,
    memory::{MemoryError, MemoryReader, readable, words_of},
    process::{Mapping, TargetProcess},
    stack::StackError,
};

/// Maximum number of mappings of a process that are tried as the start of a Go library.
const MAX_STARTS: usize = 256;
/// Maximum number of objects that are searched.
const MAX_OBJECTS: usize = 4;
/// Maximum number of bytes of a range, and of all data of an object, that are searched.
const MAX_SEARCHED: u64 = 16 << 20;
/// Number of bytes that a search reads at a time.
const SEARCH_BLOCK: u64 = 32 << 10;
/// Number of words that are read of a `moduledata`; all versions have more.
pub(super) const MODULE_WORDS: usize = 48;
/// First bytes of the version that the linker writes (`src/debug/buildinfo/buildinfo.go`, `buildInfoMagic` at go1.22.0). The size of a
/// pointer and flags follow.
const BUILD_MAGIC: [u8; 16] = *b"\xff Go buildinf:\0\0";
/// Maximum length of a version, bytes. A longer one would have a length of more than one byte.
const MAX_VERSION: u64 = 127;

/// Go executable or library in the memory of a process.
#[derive(Clone, Debug)]
pub(super) struct GoModule<'a> {
    /// Memory of the process.
    pub(super) memory: MemoryReader<'a>,
    /// Executable or library.
    pub(super) object: Object<'a>,
    /// Offsets in the structs of its version.
    pub(super) layout: GoLayout,
    /// Names of functions.
    pub(super) names: Range<u64>,
    /// Offsets in `files`, 4 bytes each.
    pub(super) file_offsets: Range<u64>,
    /// Names of source files.
    pub(super) files: Range<u64>,
    /// Values for ranges of code.
    pub(super) values: Range<u64>,
    /// Descriptions of functions.
    pub(super) functions: Range<u64>,
    /// Entries of functions, and where they are described.
    pub(super) entries: Range<u64>,
    /// Index of `entries`.
    pub(super) buckets: u64,
    /// Code that has functions.
    pub(super) code: Range<u64>,
    /// Address that entries of functions are relative to.
    pub(super) text: u64,
    /// Initialized variables.
    pub(super) data: Range<u64>,
    /// Variables with pointers that start as zeros.
    pub(super) bss: Range<u64>,
    /// Address that offsets of function data are relative to; 0 if they are addresses.
    pub(super) function_data: u64,
    /// Smallest size of an instruction, bytes.
    pub(super) quantum: u64,
}

impl<'a> GoModule<'a> {
    /// Returns the Go executable or library of a process; `None` if it has none.
    pub(super) fn find(process: &TargetProcess<'a>) -> Result<Option<Self>, StackError> {
        let mut searched = 0;
        for (index, mapping) in process.file_starts().take(MAX_STARTS).enumerate() {
            let Some(object) = readable(Object::at(process.memory, mapping))?.flatten() else { continue };
            // The executable is mapped before its libraries. A library of Go has the note of its linker.
            if index > 0 && !has_go_note(process.memory, &object)? {
                continue;
            }
            if let Some(module) = Self::of(process.memory, object)? {
                return Ok(Some(module));
            }
            searched += 1;
            if searched == MAX_OBJECTS {
                break;
            }
        }
        Ok(None)
    }

    fn of(memory: MemoryReader<'a>, object: Object<'a>) -> Result<Option<Self>, StackError> {
        let machine_is_known = [elf::EM_X86_64, elf::EM_AARCH64].contains(&object.machine);
        let Some((first, quantum)) = find_module(memory, &object)?.filter(|_| machine_is_known) else {
            return Ok(None);
        };
        let version = find_version(memory, &object)?;
        let unsupported = || StackError::Version {
            runtime: "Go",
            version: match &version {
                Some(version) => version.strip_prefix("go").unwrap_or(version).to_owned(),
                None => "of unknown version".to_owned(),
            },
        };
        let minor = version.as_deref().and_then(layout::minor).ok_or_else(unsupported)?;
        let layout = GoLayout::of(minor).ok_or_else(unsupported)?;
        let words = memory.words::<MODULE_WORDS>(first.address)?;
        let strange =
            |what: &str| StackError::Unexpected(format!("Go {} has no {what} where it should be", layout.minor));
        if first.magic != layout.magic {
            return Err(strange("table of functions"));
        }
        let slice = |at: usize, size: u64| -> Result<Range<u64>, StackError> {
            let (start, len) = (words[at], words[at + 1].checked_mul(size));
            let end = len.and_then(|len| start.checked_add(len)).ok_or_else(|| strange("module"))?;
            Ok(start..end)
        };
        let old = layout.words_before_functions == 3;
        let table = slice(if old { 0 } else { 13 }, 1)?;
        let after_functions = layout.words_before_functions + if old { 6 } else { 3 };
        let function_data = layout.gofunc.map_or(0, |at| words[at]);
        let module = Self {
            memory,
            layout,
            names: if old { table.clone() } else { slice(1, 1)? },
            file_offsets: slice(if old { 6 } else { 4 }, 4)?,
            files: if old { table.clone() } else { slice(7, 1)? },
            values: if old { table.clone() } else { slice(10, 1)? },
            functions: table,
            entries: slice(layout.words_before_functions, if layout.relative { 8 } else { 16 })?,
            buckets: words[after_functions],
            code: words[after_functions + 1]..words[after_functions + 2],
            text: words[after_functions + 3],
            data: words[after_functions + 7]..words[after_functions + 8],
            bss: words[after_functions + 9]..words[after_functions + 10],
            function_data,
            quantum,
            object,
        };
        let ranges = [&module.code, &module.data, &module.bss];
        let is_inside = |range: &&Range<u64>| {
            range.start < range.end && module.object.contains(range.start) && module.object.contains(range.end - 1)
        };
        if !ranges.iter().all(is_inside) || !module.object.contains(module.buckets) {
            return Err(strange("code and data"));
        }
        if layout.gofunc.is_some() && !module.object.contains(function_data) {
            return Err(strange("function data"));
        }
        // Entries of functions would need the map of these parts. Only the largest programs have several.
        if words[layout.text_sections + 1] > 1 {
            return Err(StackError::Unexpected("Go code in several parts is not supported".to_owned()));
        }
        Ok(Some(module))
    }

    /// Whether functions return to an address in a register, which the called function saves, instead of one on the stack.
    pub(super) const fn has_link_register(&self) -> bool {
        self.object.machine == elf::EM_AARCH64
    }
}

/// Address and first facts of a `moduledata`.
#[derive(Clone, Copy, Debug)]
struct ModuleStart {
    address: u64,
    magic: u32,
}

/// Returns the `moduledata` of an object, and the smallest size of its instructions.
fn find_module(memory: MemoryReader<'_>, object: &Object<'_>) -> Result<Option<(ModuleStart, u64)>, MemoryError> {
    let quantum = if object.machine == elf::EM_AARCH64 { 4 } else { 1 };
    let loaded = object.segments.iter().filter(|one| one.kind == elf::PT_LOAD);
    let (start, end) = loaded.fold((u64::MAX, 0), |(start, end): (u64, u64), one| {
        (start.min(one.address), end.max(one.address.saturating_add(one.len)))
    });
    let span = start..end;
    for range in written(object) {
        let found = search(memory, range, MODULE_WORDS, |address, words| {
            if !has_form(words, &span) {
                return Ok(None);
            }
            // `magic`, two zeros, the smallest size of an instruction, and the size of a pointer.
            let Ok(header) = memory.array::<8>(words[0]) else { return Ok(None) };
            let magic = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            let is_it = header[4..] == [0, 0, quantum, 8] && (0xffff_fff0..=0xffff_fffb).contains(&magic);
            Ok(is_it.then_some(ModuleStart { address, magic }))
        })?;
        if let Some(found) = found {
            return Ok(Some((found, quantum.into())));
        }
    }
    Ok(None)
}

/// Whether words are the first ones of a `moduledata`: `pcHeader` (from 1.16), slices, `findfunctab`, `minpc`, `maxpc`, `text`, `etext`.
/// `span` is the addresses of their object.
fn has_form(words: &[u64], span: &Range<u64>) -> bool {
    let is_slice = |at: usize| words[at + 1] == words[at + 2] && words[at + 1] != 0 && span.contains(&words[at]);
    let is_code = |at: usize| {
        let [buckets, start, end, text, text_end] = [0, 1, 2, 3, 4].map(|index| words[at + index]);
        span.contains(&buckets) && text <= start && start < end && end <= text_end && span.contains(&text)
    };
    let newer = || (1..=16).step_by(3).all(is_slice) && words[13] == words[16] && is_code(19);
    let older = || (0..=6).step_by(3).all(is_slice) && is_code(9);
    // The first comparison is enough for almost all of the other data.
    span.contains(&words[0]) && (words[2] == words[3] && newer() || words[1] == words[2] && older())
}

/// Returns the version in an object's data: `go1.22.5`.
fn find_version(memory: MemoryReader<'_>, object: &Object<'_>) -> Result<Option<String>, MemoryError> {
    let magic = u128::from_le_bytes(BUILD_MAGIC);
    for range in written(object) {
        let found = search(memory, range, 4, |address, words| {
            let first = u128::from(words[0]) | u128::from(words[1]) << 64;
            if first << 16 != magic << 16 || address % 16 != 0 {
                return Ok(None);
            }
            let flags = words[1] >> 56;
            // From 1.18 on, the text is there; before, the address of a string.
            let (start, len) = if flags & 2 != 0 {
                let len = memory.u8(address.wrapping_add(32))?;
                (address.wrapping_add(33), u64::from(len))
            } else {
                (memory.u64(words[2])?, memory.u64(words[2].wrapping_add(8))?)
            };
            if len == 0 || len > MAX_VERSION {
                return Ok(None);
            }
            let bytes = memory.bytes(start, usize::try_from(len).unwrap_or_default())?;
            Ok(String::from_utf8(bytes).ok())
        });
        if let Some(version) = readable(found)?.flatten() {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

/// Returns the parts of an object that come from its file and are written. Those that are written only at the start come last: they
/// are the largest ones in position-independent executables, and have the variables only if another linker made them.
fn written(object: &Object<'_>) -> Vec<Range<u64>> {
    let constant = object.segment(elf::PT_GNU_RELRO).map_or(0..0, |one| one.address..one.address.wrapping_add(one.len));
    let mut ranges = Vec::new();
    for segment in object.segments.iter().filter(|one| one.kind == elf::PT_LOAD && one.writable) {
        let (start, end) = (segment.address, segment.address.wrapping_add(segment.file_len));
        ranges.push(start..end.min(constant.start));
        ranges.push(start.max(constant.end)..end);
    }
    ranges.push(constant);
    ranges.retain(|range| range.start < range.end);
    let mut left = MAX_SEARCHED;
    for range in &mut ranges {
        range.end = range.end.min(range.start.saturating_add(left));
        left -= range.end - range.start;
    }
    ranges
}

/// Shows each address in `range` that is a multiple of 8 to `visit`, with the `count` words there, up to the first result.
///
/// Parts that cannot be read are skipped.
pub(super) fn search<T>(
    memory: MemoryReader<'_>,
    range: Range<u64>,
    count: usize,
    mut visit: impl FnMut(u64, &[u64]) -> Result<Option<T>, MemoryError>,
) -> Result<Option<T>, MemoryError> {
    let Some(start) = range.start.checked_next_multiple_of(8) else { return Ok(None) };
    let end = range.end.min(start.saturating_add(MAX_SEARCHED));
    let overlap = 8 * count as u64;
    let mut words = Vec::new();
    let mut at = start;
    while at < end {
        let len = SEARCH_BLOCK.min(end - at);
        // The block has the words of its last address too, unless the range ends.
        let read = usize::try_from((len + overlap - 8).min(range.end.saturating_sub(at))).unwrap_or_default();
        let bytes = readable(memory.bytes(at, read))?.unwrap_or_default();
        words.clear();
        words.extend(words_of(&bytes));
        for (index, words) in words.windows(count).enumerate() {
            if let Some(found) = visit(at + 8 * index as u64, words)? {
                return Ok(Some(found));
            }
        }
        at += len;
    }
    Ok(None)
}

/// Whether an object has the note that Go's linker writes (`ELF_NOTE_GOBUILDID_TAG`, `src/cmd/link/internal/ld/elf.go` at go1.22.0).
fn has_go_note(memory: MemoryReader<'_>, object: &Object<'_>) -> Result<bool, MemoryError> {
    const MOST: u64 = 4096;
    // Sizes of name and description, type 4, name.
    const NOTE: [u8; 8] = [4, 0, 0, 0, b'G', b'o', 0, 0];
    for note in object.segments.iter().filter(|one| one.kind == elf::PT_NOTE) {
        let len = usize::try_from(note.len.min(MOST)).unwrap_or_default();
        let bytes = readable(memory.bytes(note.address, len))?.unwrap_or_default();
        if bytes.windows(NOTE.len()).any(|window| window == NOTE) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether `address` is in memory that is no part of a file: where a heap is.
pub(super) fn is_anonymous(process: &TargetProcess<'_>, address: u64) -> bool {
    let is_heap = |mapping: &&Mapping| mapping.inode == 0 && mapping.readable;
    process.mapping(address).filter(is_heap).is_some()
}
