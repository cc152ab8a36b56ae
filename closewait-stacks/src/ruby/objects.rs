//! Objects of MRI: texts and arrays.

use std::sync::Arc;

use super::{
    super::{
        blocks::{BlockReader, word},
        memory::{MemoryError, MemoryReader},
    },
    layout::RubyLayout,
};

/// `T_STRING`, `T_ARRAY` and `T_IMEMO` of `ruby_value_type` (include/ruby/internal/value_type.h at `v3_1_2`).
const TEXT: u64 = 5;
const ARRAY: u64 = 7;
const INTERNAL: u64 = 0x1a;
/// `RSTRING_NOEMBED` and `RARRAY_EMBED_FLAG`, both `FL_USER1` (include/ruby/internal/core/rstring.h and rarray.h at `v3_1_2`).
const USER_1: u64 = 1 << 13;

/// Reads objects that rarely change: texts, arrays and code.
pub(super) struct RubyObjects<'a> {
    pub(super) memory: MemoryReader<'a>,
    blocks: BlockReader<'a>,
    layout: RubyLayout,
}

impl<'a> RubyObjects<'a> {
    pub(super) const fn new(memory: MemoryReader<'a>, layout: RubyLayout) -> Self {
        Self { memory, blocks: BlockReader::new(memory), layout }
    }

    /// Fills `into` with the bytes at `address`, each block of which is read once.
    pub(super) fn fill(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        self.blocks.fill(address, into)
    }

    /// Returns the number of 8 bytes, or the pointer, at `address`.
    pub(super) fn u64(&self, address: u64) -> Result<u64, MemoryError> {
        self.blocks.u64(address)
    }

    /// Returns the first five words of an object of a type; `None` for another object, and for a value that is none.
    fn object(&self, value: u64, kind: u64) -> Result<Option<[u64; 5]>, MemoryError> {
        // Numbers, symbols, `nil`, `true` and `false` are no pointers (`RB_SPECIAL_CONST_P`, special_consts.h).
        if value < 0x100 || !value.is_multiple_of(8) {
            return Ok(None);
        }
        let mut bytes = [0; 40];
        self.fill(value, &mut bytes)?;
        let words: [u64; 5] = std::array::from_fn(|index| word(&bytes, 8 * index));
        Ok((words[0] & 0x1f == kind).then_some(words))
    }

    /// Returns the kind (`imemo_type`, bits 12 to 15 of the flags, internal/imemo.h) and the next word of an object of the interpreter.
    pub(super) fn internal(&self, value: u64) -> Result<Option<(u64, u64)>, MemoryError> {
        Ok(self.object(value, INTERNAL)?.map(|[flags, next, ..]| (flags >> 12 & 0xf, next)))
    }

    /// Returns a text as a name of at most `most` bytes; `None` if it is none.
    pub(super) fn text(&self, value: u64, most: usize) -> Result<Option<Arc<str>>, MemoryError> {
        let Some([flags, _, len, pointer, _]) = self.object(value, TEXT)? else { return Ok(None) };
        let (len, start) = match (flags & USER_1 != 0, self.layout.has_len) {
            (true, _) => (len, pointer),
            (false, true) => (len, value.wrapping_add(24)),
            // `RSTRING_EMBED_LEN_SHIFT` and `RSTRING_EMBED_LEN_MASK`.
            (false, false) => (flags >> 14 & 0x1f, value.wrapping_add(16)),
        };
        // One character more shows that the name is longer.
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(most + 4)];
        self.fill(start, &mut bytes)?;
        self.memory.name(&String::from_utf8_lossy(&bytes), most).map(Some)
    }

    /// Returns an element of an array; `None` if there is no array, or it is shorter.
    pub(super) fn element(&self, value: u64, index: u64) -> Result<Option<u64>, MemoryError> {
        let Some([flags, _, len, _, pointer]) = self.object(value, ARRAY)? else { return Ok(None) };
        let (len, start) = match flags & USER_1 != 0 {
            true => (flags >> 15 & self.layout.array_len, value.wrapping_add(16)),
            false => (len, pointer),
        };
        if index >= len {
            return Ok(None);
        }
        self.u64(start.wrapping_add(8u64.wrapping_mul(index))).map(Some)
    }
}
