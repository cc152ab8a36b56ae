//! Names of the methods that are written in C.

use std::{cell::OnceCell, sync::Arc};

use super::{
    super::{limit::MAX_FUNCTION_BYTES, memory::MemoryError},
    layout::RubyLayout,
    objects::RubyObjects,
};

/// Number of names in each array of the table, and the number of its elements for each (`ID_ENTRY_UNIT`, `ID_ENTRY_SIZE`, symbol.c at
/// `v3_1_2`).
const UNIT: u64 = 512;
const ELEMENTS: u64 = 2;
/// Number of objects of the virtual machine that are tried as the table. `Init_sym` (symbol.c) adds it as one of the first.
const MAX_TRIED: u64 = 16;

/// Table of the names of methods, by their numbers.
pub(super) struct MethodNames {
    vm: u64,
    layout: RubyLayout,
    /// Address of the table, once it was searched.
    table: OnceCell<Option<u64>>,
}

impl MethodNames {
    pub(super) const fn new(vm: u64, layout: RubyLayout) -> Self {
        Self { vm, layout, table: OnceCell::new() }
    }

    /// Returns the name of the method whose variables are at `variables`; `None` if it is unknown.
    pub(super) fn name(&self, objects: &RubyObjects<'_>, variables: u64) -> Result<Option<Arc<str>>, MemoryError> {
        /// Kinds of objects of the interpreter (`imemo_type`, internal/imemo.h at `v3_1_2`).
        const SPECIAL_VARIABLES: u64 = 2;
        const METHOD: u64 = 6;
        // `ep[VM_ENV_DATA_INDEX_ME_CREF]` (vm_core.h), which special variables can replace.
        let mut entry = objects.memory.u64(variables.wrapping_sub(16))?;
        let mut found = objects.internal(entry)?;
        if let Some((SPECIAL_VARIABLES, next)) = found {
            entry = next;
            found = objects.internal(entry)?;
        }
        let Some((METHOD, _)) = found else { return Ok(None) };
        // `def` of `rb_callable_method_entry_t`, and `original_id` of `rb_method_definition_struct` (method.h).
        let definition = objects.u64(entry.wrapping_add(16))?;
        let number = objects.u64(definition.wrapping_add(32))?;
        let table = match self.table.get() {
            Some(known) => *known,
            None => {
                let found = self.find(objects)?;
                *self.table.get_or_init(|| found)
            }
        };
        table.map_or(Ok(None), |table| self.by_number(objects, table, number))
    }

    /// Returns a name by its number (`ID`), as `get_id_serial_entry` does (symbol.c at `v3_1_2`).
    fn by_number(&self, objects: &RubyObjects<'_>, table: u64, number: u64) -> Result<Option<Arc<str>>, MemoryError> {
        // `rb_id_to_serial`: the lowest 4 bits of other names than operators say what they name.
        let serial = if number > self.layout.last_operator { number >> 4 } else { number };
        let Some(names) = objects.element(table, serial / UNIT)? else { return Ok(None) };
        match objects.element(names, serial % UNIT * ELEMENTS)? {
            Some(name) => objects.text(name, MAX_FUNCTION_BYTES),
            None => Ok(None),
        }
    }

    /// Finds the table: the array in which the operator `+` has its name.
    fn find(&self, objects: &RubyObjects<'_>) -> Result<Option<u64>, MemoryError> {
        let kept = objects.u64(self.vm.wrapping_add(self.layout.kept))?;
        let Some(first) = objects.element(kept, 0)? else { return Ok(None) };
        for index in 0..MAX_TRIED {
            let Some(table) = objects.element(first, index)? else { break };
            if self.by_number(objects, table, b'+'.into())?.as_deref() == Some("+") {
                return Ok(Some(table));
            }
        }
        Ok(None)
    }
}
