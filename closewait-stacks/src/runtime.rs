//! Symbols of a language's runtime: those of the executable, or of a library with a known name.

use super::{
    elf::Object,
    memory::{MemoryError, readable},
    process::{Mapping, TargetProcess},
};

/// Maximum number of files that are searched for a runtime.
const MAX_FILES: usize = 16;

/// Executables and libraries of a process that can have the runtime of a language.
pub(crate) struct RuntimeFiles<'a, 'p> {
    process: &'p TargetProcess<'a>,
    objects: Vec<Object<'a>>,
}

impl<'a, 'p> RuntimeFiles<'a, 'p> {
    /// Finds the files whose name contains `name`, and the executable.
    pub(crate) fn find(process: &'p TargetProcess<'a>, name: &str) -> Result<Self, MemoryError> {
        let has_name = |mapping: &Mapping| mapping.path.rsplit('/').next().is_some_and(|file| file.contains(name));
        let mut candidates: Vec<&Mapping> =
            process.file_starts().filter(|mapping| has_name(mapping)).take(MAX_FILES).collect();
        // An executable is loaded below the libraries.
        candidates.extend(process.file_starts().next().filter(|first| !has_name(first)));
        let mut objects = Vec::new();
        for mapping in candidates {
            objects.extend(readable(Object::at(process.memory, mapping))?.flatten());
        }
        Ok(Self { process, objects })
    }

    /// Returns the address in memory of a symbol that one of the files defines, from the tables that are in memory.
    pub(crate) fn symbol(&self, name: &str) -> Result<Option<u64>, MemoryError> {
        for object in &self.objects {
            if let Some(found) = readable(object.dynamic_symbol(name))?.flatten() {
                return Ok(Some(found.address));
            }
        }
        Ok(None)
    }

    /// Returns the address in memory of a symbol, also if only the table in a file has it.
    pub(crate) fn symbol_in_files(&self, name: &str) -> Result<Option<u64>, MemoryError> {
        let found = self.symbol(name)?;
        let in_file = |object: &Object<'_>| {
            Some(self.process.symbols.named(object.mapping, name)?.wrapping_add(object.bias))
        };
        Ok(found.or_else(|| self.objects.iter().find_map(in_file)))
    }
}

/// Returns the 8 bytes at `at` as a number; 0 beyond the end.
pub(crate) fn word(bytes: &[u8], at: usize) -> u64 {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk());
    part.map_or(0, |part| u64::from_le_bytes(*part))
}

/// Returns the 4 bytes at `at` as a number; 0 beyond the end.
pub(crate) fn half(bytes: &[u8], at: usize) -> u32 {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk());
    part.map_or(0, |part| u32::from_le_bytes(*part))
}
