//! Objects of CPython: their types, texts and bytes.

use std::{cell::Cell, sync::Arc};

use super::{
    super::{
        blocks::{BLOCK, BlockReader, word},
        memory::{MemoryError, MemoryReader, readable},
    },
    layout::PythonLayout,
};

/// Maximum size of an object of type `str` or `bytes`. The line table of a function has some 3 bytes a line.
const MAX_BYTES: usize = 1 << 20;

/// Type of objects that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ObjectType {
    Code,
    Text,
    Bytes,
}

impl ObjectType {
    /// Returns the type's `tp_name`.
    const fn name(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Text => "str",
            Self::Bytes => "bytes",
        }
    }
}

/// Reads objects that do not change: code, names and line tables.
pub(super) struct ObjectReader<'a> {
    memory: MemoryReader<'a>,
    blocks: BlockReader<'a>,
    /// Addresses of the types, as far as they are known.
    types: [Cell<Option<u64>>; 3],
    ascii: u64,
    compact: u64,
}

impl<'a> ObjectReader<'a> {
    pub(super) const fn new(memory: MemoryReader<'a>, layout: &PythonLayout) -> Self {
        let types = [const { Cell::new(None) }; 3];
        Self { memory, blocks: BlockReader::new(memory), types, ascii: layout.ascii, compact: layout.compact }
    }

    /// Fills `into` with the first bytes of an object of a type; `false` if it has another type.
    pub(super) fn fill(&self, object: u64, expected: ObjectType, into: &mut [u8]) -> Result<bool, MemoryError> {
        // `ob_type` of `PyObject`, and `tp_name` of `PyTypeObject` (Include/object.h at v3.8.0, Include/cpython/object.h at v3.14.0).
        const TYPE: u64 = 8;
        const NAME: u64 = 24;
        if object == 0 || !object.is_multiple_of(8) {
            return Ok(false);
        }
        let own = self.blocks.u64(object.wrapping_add(TYPE))?;
        let known = &self.types[expected as usize];
        match known.get() {
            Some(address) if address == own => {}
            Some(_) => return Ok(false),
            None => {
                let name = self.memory.u64(own.wrapping_add(NAME))?;
                if self.memory.text(name, 16)? != expected.name() {
                    return Ok(false);
                }
                known.set(Some(own));
            }
        }
        self.blocks.fill(object, into)?;
        Ok(true)
    }

    /// Returns the text of an object of type `str` as a name of at most `most` bytes; `None` if it is none, or not in the compact form
    /// that names have.
    pub(super) fn name(&self, object: u64, most: usize) -> Result<Option<Arc<str>>, MemoryError> {
        // `length` and `state` of `PyASCIIObject` (Include/cpython/unicodeobject.h at v3.8.0 and v3.14.0).
        let mut header = [0; 40];
        if !self.fill(object, ObjectType::Text, &mut header)? {
            return Ok(None);
        }
        let state = header[32];
        let (kind, is_compact, is_ascii) = (usize::from((state >> 2) & 7), state & 32 != 0, state & 64 != 0);
        let is_known = matches!(kind, 1 | 2 | 4) && is_compact && (kind == 1 || !is_ascii);
        let length = usize::try_from(word(&header, 16)).ok().filter(|length| *length <= MAX_BYTES);
        let Some(length) = length.filter(|_| is_known) else { return Ok(None) };
        let start = object.wrapping_add(if is_ascii { self.ascii } else { self.compact });
        // One character more shows that the name is longer.
        let mut units = vec![0; length.min(most + 1) * kind];
        self.blocks.fill(start, &mut units)?;
        self.memory.work(units.len() as u64)?;
        let character = |unit: &[u8]| {
            let code = unit.iter().rev().fold(0, |code, byte| code << 8 | u32::from(*byte));
            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
        };
        let text: String = units.chunks_exact(kind).map(character).collect();
        self.memory.name(&text, most).map(Some)
    }

    /// Whether an object is this text of ASCII characters.
    pub(super) fn is_text(&self, object: u64, expected: &str) -> Result<bool, MemoryError> {
        let mut header = [0; 40];
        let is_text = readable(self.fill(object, ObjectType::Text, &mut header))?.unwrap_or(false);
        // Compact and of ASCII characters.
        if !is_text || header[32] & 96 != 96 || word(&header, 16) != expected.len() as u64 {
            return Ok(false);
        }
        let mut text = vec![0; expected.len()];
        self.blocks.fill(object.wrapping_add(self.ascii), &mut text)?;
        Ok(text == expected.as_bytes())
    }

    /// Returns the number of bytes in an object of type `bytes`; `None` if it is none.
    pub(super) fn len_of_bytes(&self, object: u64) -> Result<Option<u64>, MemoryError> {
        let mut header = [0; 24];
        Ok(self.fill(object, ObjectType::Bytes, &mut header)?.then(|| word(&header, 16)))
    }

    /// Returns the contents of an object of type `bytes`, which the reading keeps; `None` if it is none, or too large.
    pub(super) fn bytes(&self, object: u64) -> Result<Option<Vec<u8>>, MemoryError> {
        // `ob_sval` of `PyBytesObject` (Include/cpython/bytesobject.h at v3.9.0).
        const CONTENTS: u64 = 32;
        let Some(len) = self.len_of_bytes(object)? else { return Ok(None) };
        let Some(len) = usize::try_from(len).ok().filter(|len| *len <= MAX_BYTES) else { return Ok(None) };
        let start = object.wrapping_add(CONTENTS);
        self.memory.keep(len)?;
        if len > BLOCK {
            return self.memory.bytes(start, len).map(Some);
        }
        let mut contents = vec![0; len];
        self.blocks.fill(start, &mut contents)?;
        Ok(Some(contents))
    }
}
