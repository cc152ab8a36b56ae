//! Objects of CPython that change while the program runs and lead to its tasks: types, dictionaries and sets.

use std::{cell::RefCell, collections::BTreeMap};

use super::{
    super::{
        blocks::{BlockReader, word},
        memory::{MemoryError, MemoryReader},
    },
    objects::ObjectReader,
};

/// Maximum number of entries of a dictionary or a set that are passed.
const MAX_ENTRIES: u64 = 1 << 16;
/// Maximum number of bases that are followed from a type.
const MAX_BASES: usize = 8;

/// Type of an object that leads to tasks, or to what they await.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeapType {
    Dict,
    Set,
    Module,
    WeakSet,
    WeakReference,
    /// Task of the C module, or of a class that is derived from it; with the size of the C struct.
    Task(u64),
    /// Coroutine, generator or asynchronous generator, which have the same layout.
    Coroutine,
    /// Object that runs one, to which its first field points.
    Step,
    Number,
    Other,
}

impl HeapType {
    /// Returns the type with this `tp_name` (Objects and Modules at v3.8.0 and v3.15.0).
    fn named(name: &str, size: u64) -> Self {
        match name {
            "dict" => Self::Dict,
            "set" => Self::Set,
            "module" => Self::Module,
            "WeakSet" => Self::WeakSet,
            "weakref" | "weakref.ReferenceType" => Self::WeakReference,
            "_asyncio.Task" => Self::Task(size),
            "coroutine" | "generator" | "async_generator" => Self::Coroutine,
            "coroutine_wrapper" | "async_generator_asend" | "async_generator_athrow" => Self::Step,
            "int" => Self::Number,
            _ => Self::Other,
        }
    }
}

/// Reads objects that change.
pub(super) struct HeapReader<'a> {
    memory: MemoryReader<'a>,
    pub(super) blocks: BlockReader<'a>,
    types: RefCell<BTreeMap<u64, HeapType>>,
    /// Whether dictionaries have the layout of 3.11 and later.
    has_log_sizes: bool,
}

impl<'a> HeapReader<'a> {
    pub(super) fn new(memory: MemoryReader<'a>, minor: u8) -> Self {
        let (blocks, types) = (BlockReader::new(memory), RefCell::new(BTreeMap::new()));
        Self { memory, blocks, types, has_log_sizes: minor >= 11 }
    }

    /// Returns the type of an object; `Other` for an address that no object has.
    pub(super) fn kind(&self, object: u64) -> Result<HeapType, MemoryError> {
        // `ob_type`; `tp_name`, `tp_basicsize`, `tp_base` of `PyTypeObject` (Include/cpython/object.h at v3.8.0 and v3.15.0).
        const TYPE: u64 = 8;
        const NAME: u64 = 24;
        const SIZE: u64 = 32;
        const BASE: u64 = 256;
        if object == 0 || !object.is_multiple_of(8) {
            return Ok(HeapType::Other);
        }
        let own = self.blocks.u64(object.wrapping_add(TYPE))?;
        if let Some(known) = self.types.borrow().get(&own) {
            return Ok(*known);
        }
        let (mut kind, mut at) = (HeapType::Other, own);
        for depth in 0..MAX_BASES {
            let name = self.memory.text(self.memory.u64(at.wrapping_add(NAME))?, 24)?;
            let found = HeapType::named(&name, self.memory.u64(at.wrapping_add(SIZE))?);
            // A class that is derived from another type than `Task` can have any layout.
            if depth == 0 || matches!(found, HeapType::Task(_)) {
                kind = found;
            }
            at = self.memory.u64(at.wrapping_add(BASE))?;
            if kind != HeapType::Other || at == 0 {
                break;
            }
        }
        self.types.borrow_mut().insert(own, kind);
        Ok(kind)
    }

    /// Returns the value of a key in a dictionary; `None` if it has none, or is no dictionary.
    pub(super) fn value(&self, objects: &ObjectReader<'_>, dict: u64, key: &str) -> Result<Option<u64>, MemoryError> {
        if self.kind(dict)? != HeapType::Dict {
            return Ok(None);
        }
        // `ma_keys` and `ma_values` of `PyDictObject`; `PyDictKeysObject` (Objects/dict-common.h at v3.8.0, and
        // Include/internal/pycore_dict.h at v3.11.0 and v3.15.0).
        let [keys, values] = [32, 40].map(|at| self.blocks.u64(dict.wrapping_add(at)));
        let (keys, values) = (keys?, values?);
        let mut header = [0; 40];
        self.blocks.fill(keys, &mut header)?;
        let (count, start, size) = if self.has_log_sizes {
            let [_, index_bytes, kind, ..] = word(&header, 8).to_le_bytes();
            // Dictionaries whose keys are all texts have no hashes.
            let size = if kind == 0 { 24 } else { 16 };
            (word(&header, 24), 32_u64.wrapping_add(1 << (index_bytes & 31)), size)
        } else {
            let slots = word(&header, 8);
            let width = match slots {
                0..=0xff => 1,
                0x100..=0xffff => 2,
                0x1_0000..=0xffff_ffff => 4,
                _ => 8,
            };
            (word(&header, 32), 40_u64.wrapping_add(slots.wrapping_mul(width)), 24)
        };
        let start = keys.wrapping_add(start).wrapping_add(size - 16);
        for number in 0..count.min(MAX_ENTRIES) {
            let mut entry = [0; 16];
            self.blocks.fill(start.wrapping_add(number * size), &mut entry)?;
            if objects.is_text(word(&entry, 0), key)? {
                let value = match values {
                    0 => word(&entry, 8),
                    values => self.blocks.u64(values.wrapping_add(8 * number))?,
                };
                return Ok(Some(value).filter(|value| *value != 0));
            }
        }
        Ok(None)
    }

    /// Returns the objects of a set, at most `most`, and whether there are more; `None` if it is no set.
    pub(super) fn items(&self, set: u64, most: usize) -> Result<Option<(Vec<u64>, bool)>, MemoryError> {
        // `mask` and `table` of `PySetObject` (Include/cpython/setobject.h at v3.8.0 and v3.13.0).
        if self.kind(set)? != HeapType::Set {
            return Ok(None);
        }
        let [mask, table] = [32, 40].map(|at| self.blocks.u64(set.wrapping_add(at)));
        let (mask, table) = (mask?, table?);
        let mut items = Vec::new();
        for number in 0..=mask.min(MAX_ENTRIES - 1) {
            let item = self.blocks.u64(table.wrapping_add(16 * number))?;
            if item == 0 {
                continue;
            }
            if items.len() == most {
                return Ok(Some((items, true)));
            }
            items.push(item);
        }
        Ok(Some((items, mask >= MAX_ENTRIES)))
    }
}
