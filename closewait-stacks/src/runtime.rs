//! Symbols of a language's runtime: those of the executable, or of a library with a known name.

use super::{
    elf::Object,
    memory::{MemoryError, readable},
    process::{Mapping, TargetProcess},
};

/// Maximum number of files that are searched for a runtime.
const MAX_FILES: usize = 16;

/// Executables and libraries of a process that can have the runtime of a language.
pub(crate) struct RuntimeFiles<'a>(Vec<Object<'a>>);

impl<'a> RuntimeFiles<'a> {
    /// Finds the files whose name contains `name`, and the executable.
    pub(crate) fn find(process: &TargetProcess<'a>, name: &str) -> Result<Self, MemoryError> {
        let has_name = |mapping: &Mapping| mapping.path.rsplit('/').next().is_some_and(|file| file.contains(name));
        let mut candidates: Vec<&Mapping> =
            process.file_starts().filter(|mapping| has_name(mapping)).take(MAX_FILES).collect();
        // An executable is loaded below the libraries.
        candidates.extend(process.file_starts().next().filter(|first| !has_name(first)));
        let mut objects = Vec::new();
        for mapping in candidates {
            objects.extend(readable(Object::at(process.memory, mapping))?.flatten());
        }
        Ok(Self(objects))
    }

    /// Returns the address in memory of a dynamic symbol, and the file that defines it.
    pub(crate) fn symbol(&self, name: &str) -> Result<Option<(u64, &Object<'a>)>, MemoryError> {
        for object in &self.0 {
            if let Some(found) = readable(object.dynamic_symbol(name))?.flatten() {
                return Ok(Some((found.address, object)));
            }
        }
        Ok(None)
    }
}
