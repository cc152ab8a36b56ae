//! Functions, files and lines of code: the tables of `src/runtime/symtab.go` (go1.15 to go1.27), which the runtime needs itself.

use std::{borrow::Cow, collections::BTreeMap, ops::Range, rc::Rc, sync::Arc};

use super::module::GoModule;
use crate::{
    limit::{MAX_FILE_BYTES, MAX_FUNCTION_BYTES, cut_name},
    memory::MemoryError,
    stack::{FRAME_BYTES, Frame},
};

/// Number of bytes of code that a bucket of the index of functions is for (`pcbucketsize`).
const BUCKET_CODE: u64 = 4096;
/// Number of bytes of code that a part of a bucket is for.
const PART_CODE: u64 = BUCKET_CODE / 16;
/// Size of a bucket, bytes.
const BUCKET_LEN: u64 = 20;
/// Maximum number of functions that begin in a part of a bucket: functions have at least 16 bytes (`minfunc`).
const PART_FUNCTIONS: u64 = PART_CODE / 16 + 2;
/// Maximum number of tables of a function; go1.27 has 4 and 8.
const MAX_TABLES: u64 = 64;
/// Number of the table with the inlined calls of code (`PCDATA_InlTreeIndex`).
const INLINE_INDEX: u64 = 2;
/// Maximum length of the name of a function with its type arguments, bytes.
const MAX_NAME: usize = 1024;
/// Maximum size of a table of values of one function, bytes.
const MAX_VALUES: u64 = 1 << 20;
/// Number of bytes that are read of such a table at a time.
const VALUES_BLOCK: u64 = 256;
/// Maximum depth of inlined calls.
const MAX_INLINED: usize = 64;

/// Result of an earlier read.
type KnownPlace = Result<Option<Rc<GoPlace>>, MemoryError>;

/// Reads the tables of a module, and keeps what was read.
pub(super) struct GoFunctions<'m, 'a> {
    module: &'m GoModule<'a>,
    places: BTreeMap<(u64, bool), KnownPlace>,
    /// Name of the object.
    object: Option<Arc<str>>,
}

/// Function that contains an address of code.
#[derive(Clone, Debug)]
pub(super) struct GoFunction {
    /// Address of its first instruction.
    pub(super) entry: u64,
    /// Name; `None` if it is unknown.
    pub(super) name: Option<Arc<str>>,
    /// Whether nothing calls it: it is the outermost one of a stack (from 1.17).
    pub(super) is_outermost: bool,
    /// Whether it sets the stack pointer in a way that the tables do not have (from 1.17).
    pub(super) sets_sp: bool,
    kind: u8,
    sizes: u32,
    files: u32,
    lines: u32,
    /// Offset of its compilation unit among the offsets of files.
    unit: u32,
    /// Table of inlined calls, and the values that select one.
    inlined: Option<(u64, u32)>,
}

/// Description of an address of code.
#[derive(Clone, Debug)]
pub(super) struct GoPlace {
    /// Function.
    pub(super) function: GoFunction,
    /// Size of its frame at this address, bytes; `None` if the tables do not have it.
    pub(super) frame_len: Option<u64>,
    /// Frames to show, innermost first: those of inlined calls, then that of the function. None for code that the compiler made.
    pub(super) frames: Vec<Frame>,
}

impl<'m, 'a> GoFunctions<'m, 'a> {
    pub(super) fn new(module: &'m GoModule<'a>) -> Result<Self, MemoryError> {
        let object = module.memory.name(&module.object.mapping.path, MAX_FILE_BYTES)?;
        Ok(Self { module, places: BTreeMap::new(), object: Some(object) })
    }

    /// Returns the description of the code at `pc`; `None` if it is no Go code.
    ///
    /// `is_return` tells whether a call returns to `pc`: then the call itself is before it.
    pub(super) fn place(&mut self, pc: u64, is_return: bool) -> KnownPlace {
        if let Some(known) = self.places.get(&(pc, is_return)) {
            return known.clone();
        }
        let place = self.read(pc, is_return).map(|place| place.map(Rc::new));
        self.places.insert((pc, is_return), place.clone());
        place
    }

    fn read(&self, pc: u64, is_return: bool) -> Result<Option<GoPlace>, MemoryError> {
        let Some(function) = self.function(pc)? else { return Ok(None) };
        // `funcspdelta` takes the return address itself. A size of -1 is that of code without a table.
        let size = self.value(&function, function.sizes, pc)?;
        let frame_len = size.and_then(|size| u64::try_from(size).ok()).filter(|size| size % 8 == 0);
        // A goroutine that has not run yet is at an entry, which no call is before.
        let at = if is_return && pc > function.entry { pc - 1 } else { pc };
        let frames = self.frames(&function, at)?;
        Ok(Some(GoPlace { function, frame_len, frames }))
    }

    /// Finds the function that contains `pc`, as `findfunc` does.
    fn function(&self, pc: u64) -> Result<Option<GoFunction>, MemoryError> {
        let module = self.module;
        if !module.code.contains(&pc) {
            return Ok(None);
        }
        let offset = pc - module.code.start;
        let bucket = module.buckets.wrapping_add(offset / BUCKET_CODE * BUCKET_LEN);
        let bucket = module.memory.array::<{ BUCKET_LEN as usize }>(bucket)?;
        let part = usize::try_from(offset % BUCKET_CODE / PART_CODE).unwrap_or_default();
        let first =
            u64::from(u32::from_le_bytes([bucket[0], bucket[1], bucket[2], bucket[3]])) + u64::from(bucket[4 + part]);

        let relative = module.layout.relative;
        let size: u64 = if relative { 8 } else { 16 };
        let Some(start) = module.entries.start.checked_add(first * size) else { return Ok(None) };
        let end = start.saturating_add(PART_FUNCTIONS * size).min(module.entries.end);
        let entries = self.bytes(start..end)?;
        let entries = entries.chunks_exact(size as usize).map(|entry| {
            let (entry, description) = entry.split_at(entry.len() / 2);
            if relative {
                (module.text.wrapping_add(number(entry)), number(description))
            } else {
                (number(entry), number(description))
            }
        });
        let entries: Vec<(u64, u64)> = entries.collect();
        // The last entry is the end of the code, and has no function.
        let found = entries.windows(2).find(|pair| (pair[0].0..pair[1].0).contains(&pc));
        let Some((entry, description)) = found.map(|pair| pair[0]) else { return Ok(None) };
        self.described(entry, description)
    }

    /// Reads a `_func`; `None` if it is not that of the function at `entry`.
    fn described(&self, entry: u64, offset: u64) -> Result<Option<GoFunction>, MemoryError> {
        let module = self.module;
        let layout = &module.layout;
        let Some(start) = module.functions.start.checked_add(offset) else { return Ok(None) };
        let fixed = layout.function_len as u64;
        let most = fixed + 4 * 8 + 8 * 8;
        let bytes = self.bytes(start..start.saturating_add(most).min(module.functions.end))?;
        if bytes.len() < layout.function_len {
            return Ok(None);
        }
        let base = layout.function_fields();
        let field = |index: usize| number(&bytes[base + 4 * index..][..4]) as u32;
        let own = if layout.relative { module.text.wrapping_add(number(&bytes[..4])) } else { number(&bytes[..8]) };
        let (name, [sizes, files, lines], values_count) =
            (field(0), [field(3), field(4), field(5)], u64::from(field(6)));
        let unit = if layout.minor == 15 { 0 } else { field(7) };
        let [kind, flags, _, data_count] = [4, 3, 2, 1].map(|from_end| bytes[layout.function_len - from_end]);
        if own != entry || values_count > MAX_TABLES || u64::from(data_count) > MAX_TABLES {
            return Ok(None);
        }
        let flags = if layout.minor < 17 { 0 } else { flags };
        let tables = start.wrapping_add(fixed);
        let name = self.name(name)?;
        let (is_outermost, sets_sp) = (flags & 1 != 0, flags & 2 != 0);
        let mut function =
            GoFunction { entry, name, is_outermost, sets_sp, kind, sizes, files, lines, unit, inlined: None };
        if values_count > INLINE_INDEX && usize::from(data_count) > layout.inline_tree {
            let index = module.memory.u32(tables.wrapping_add(4 * INLINE_INDEX))?;
            let data = tables.wrapping_add(4 * values_count);
            function.inlined = self.function_data(data, layout.inline_tree as u64)?.map(|tree| (tree, index));
        }
        Ok(Some(function))
    }

    /// Returns the address of function data, as `funcdata` does.
    fn function_data(&self, data: u64, index: u64) -> Result<Option<u64>, MemoryError> {
        let module = self.module;
        if module.function_data == 0 {
            let Some(first) = data.checked_next_multiple_of(8) else { return Ok(None) };
            let address = module.memory.u64(first.wrapping_add(8 * index))?;
            return Ok((address != 0).then_some(address));
        }
        let offset = module.memory.u32(data.wrapping_add(4 * index))?;
        Ok((offset != u32::MAX).then(|| module.function_data.wrapping_add(offset.into())))
    }

    /// Returns the frames at `pc`, as `inlineUnwinder` finds them.
    fn frames(&self, function: &GoFunction, pc: u64) -> Result<Vec<Frame>, MemoryError> {
        let layout = &self.module.layout;
        let mut frames = Vec::new();
        let mut pc = pc;
        for _ in 0..MAX_INLINED {
            let Some((tree, values)) = function.inlined else { break };
            let Some(index) = self.value(function, values, pc)?.and_then(|index| u64::try_from(index).ok()) else {
                break;
            };
            let call =
                self.module.memory.bytes(tree.wrapping_add(index * layout.inlined_len as u64), layout.inlined_len)?;
            let field = |at: usize| number(&call[at..][..4]) as u32;
            if call[layout.inlined_kind] != layout.wrapper {
                frames.push(self.frame(function, self.name(field(layout.inlined_name))?, pc)?);
            }
            // An instruction with the line of the call.
            pc = function.entry.wrapping_add(field(layout.inlined_parent).into());
        }
        if function.kind != layout.wrapper {
            frames.push(self.frame(function, function.name.clone(), pc)?);
        }
        Ok(frames)
    }

    fn frame(&self, function: &GoFunction, name: Option<Arc<str>>, pc: u64) -> Result<Frame, MemoryError> {
        self.module.memory.keep(FRAME_BYTES)?;
        let file = match self.value(function, function.files, pc)?.and_then(|file| u64::try_from(file).ok()) {
            Some(file) => self.file(u64::from(function.unit) + file)?,
            None => None,
        };
        let line = self.value(function, function.lines, pc)?.and_then(|line| u32::try_from(line).ok());
        // The compiler gives line 1 to instructions that have none, such as the jump of an endless loop.
        let line = line.filter(|line| *line > 1 && file.is_some());
        Ok(Frame { function: name, file, line, object: self.object.clone(), address: None, is_guess: false })
    }

    fn file(&self, index: u64) -> Result<Option<Arc<str>>, MemoryError> {
        let module = self.module;
        let at = module.file_offsets.start.wrapping_add(4 * index);
        if !module.file_offsets.contains(&at) {
            return Ok(None);
        }
        let offset = module.memory.u32(at)?;
        let start = module.files.start.wrapping_add(offset.into());
        let text = self.text(start, &module.files, MAX_FILE_BYTES)?;
        text.map(|text| module.memory.name(&text, MAX_FILE_BYTES)).transpose()
    }

    fn name(&self, offset: u32) -> Result<Option<Arc<str>>, MemoryError> {
        let names = &self.module.names;
        let Some(text) = self.text(names.start.wrapping_add(offset.into()), names, MAX_NAME)? else { return Ok(None) };
        self.module.memory.name(&short(&cut_name(&text, MAX_NAME)), MAX_FUNCTION_BYTES).map(Some)
    }

    /// Returns the text at `start`; one byte more than `most` shows that it is longer.
    fn text(&self, start: u64, within: &Range<u64>, most: usize) -> Result<Option<String>, MemoryError> {
        if !within.contains(&start) {
            return Ok(None);
        }
        let most = usize::try_from(within.end - start).unwrap_or(most).min(most + 1);
        Ok(Some(self.module.memory.text(start, most)?).filter(|text| !text.is_empty()))
    }

    /// Returns the value that a table has for `pc`, as `pcvalue` finds it; `None` if the function has no such table or value.
    ///
    /// A table is pairs of numbers of variable length: a difference of the value, and a length of the code that has it.
    fn value(&self, function: &GoFunction, table: u32, pc: u64) -> Result<Option<i32>, MemoryError> {
        let module = self.module;
        let Some(start) = module.values.start.checked_add(table.into()).filter(|_| table != 0) else { return Ok(None) };
        let end = module.values.end.min(start.saturating_add(MAX_VALUES));
        let mut table = ValueBytes { functions: self, next: start, end, block: Vec::new(), at: 0 };
        let (mut value, mut code) = (-1_i32, function.entry);
        let mut is_first = true;
        loop {
            let Some(difference) = table.number()? else { return Ok(None) };
            if difference == 0 && !is_first {
                return Ok(None);
            }
            is_first = false;
            let Some(len) = table.number()? else { return Ok(None) };
            value = value.wrapping_add((difference >> 1) as i32 ^ -((difference & 1) as i32));
            code = code.wrapping_add(u64::from(len).wrapping_mul(module.quantum));
            if pc < code {
                return Ok(Some(value));
            }
        }
    }

    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>, MemoryError> {
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or_default();
        if len == 0 { Ok(Vec::new()) } else { self.module.memory.bytes(range.start, len) }
    }
}

/// Bytes of a table, read in blocks.
struct ValueBytes<'f, 'm, 'a> {
    functions: &'f GoFunctions<'m, 'a>,
    next: u64,
    end: u64,
    block: Vec<u8>,
    at: usize,
}

impl ValueBytes<'_, '_, '_> {
    fn byte(&mut self) -> Result<Option<u8>, MemoryError> {
        if self.at == self.block.len() {
            let end = self.next.saturating_add(VALUES_BLOCK).min(self.end);
            self.block = self.functions.bytes(self.next..end)?;
            (self.at, self.next) = (0, end);
        }
        let byte = self.block.get(self.at).copied();
        self.at += 1;
        Ok(byte)
    }

    /// Returns a number of 7 bits a byte, the lowest ones first; `None` at the end of the table.
    fn number(&mut self) -> Result<Option<u32>, MemoryError> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let Some(byte) = self.byte()? else { return Ok(None) };
            value |= u32::from(byte & 0x7f).wrapping_shl(shift);
            if byte & 0x80 == 0 {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

/// Returns the little-endian number in up to 8 bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Shortens the type arguments of a name, as the runtime's traceback does (`printFuncName`, `src/runtime/traceback.go` at go1.22.0).
fn short(name: &str) -> Cow<'_, str> {
    match (name.find('['), name.rfind(']')) {
        (Some(start), Some(end)) if start < end => format!("{}[...]{}", &name[..start], &name[end + 1..]).into(),
        _ => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_arguments_are_shortened() {
        assert_eq!(short("main.Map[go.shape.int,go.shape.[]string].func1"), "main.Map[...].func1");
        assert_eq!(short("main.(*pool).get"), "main.(*pool).get");
        assert_eq!(short("odd]["), "odd][");
    }
}
