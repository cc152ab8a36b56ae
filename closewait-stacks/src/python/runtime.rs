//! Version of CPython, and the address of its `_PyRuntime`.

use super::{
    super::{
        elf::Object,
        memory::{MemoryError, readable},
        process::{Mapping, TargetProcess},
        stack::StackError,
    },
    layout::{PublishedPlaces, PythonLayout, WORDS},
};

/// Maximum number of files that are searched for CPython.
const MAX_FILES: usize = 16;
/// First bytes of the offsets that 3.13 and later publish (`_Py_Debug_Cookie`).
const COOKIE: u64 = u64::from_le_bytes(*b"xdebugpy");

/// Running CPython.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunningPython {
    /// Address of `_PyRuntime`.
    pub(super) runtime: u64,
    /// Second part of the version: 11 of 3.11.
    pub(super) minor: u8,
    /// Offsets of its structs.
    pub(super) layout: PythonLayout,
    /// Architecture, see [`Object::machine`].
    pub(super) machine: u16,
}

impl RunningPython {
    /// Returns the CPython in a process.
    pub(super) fn find(process: &TargetProcess<'_>) -> Result<Self, StackError> {
        let objects = objects(process)?;
        // The tables of dynamic symbols are in memory; any other table has to be read from a file.
        for in_files in [false, true] {
            for object in &objects {
                let found = FoundObject { process, object, in_files };
                if let Some(runtime) = found.symbol("_PyRuntime")? {
                    return found.python(runtime);
                }
            }
        }
        Err(StackError::OtherProgram("Python"))
    }
}

/// Returns the objects that can have CPython: files with such a name, and the executable.
fn objects<'a>(process: &TargetProcess<'a>) -> Result<Vec<Object<'a>>, StackError> {
    let mut candidates: Vec<&Mapping> =
        process.file_starts().filter(|mapping| has_name(mapping)).take(MAX_FILES).collect();
    // An executable is loaded below the libraries.
    candidates.extend(process.file_starts().next().filter(|first| !has_name(first)));
    let mut objects = Vec::new();
    for mapping in candidates {
        objects.extend(readable(Object::at(process.memory, mapping))?.flatten());
    }
    Ok(objects)
}

/// Whether a file has the name of an interpreter or its library: `python3.11`, `libpython3.11.so.1.0`.
fn has_name(mapping: &Mapping) -> bool {
    let name = mapping.path.rsplit('/').next().unwrap_or_default();
    name.strip_prefix("lib").unwrap_or(name).starts_with("python")
}

/// Object that may have CPython.
struct FoundObject<'a, 'p> {
    process: &'p TargetProcess<'a>,
    object: &'p Object<'a>,
    in_files: bool,
}

impl FoundObject<'_, '_> {
    /// Returns the address in memory of a symbol; `None` if the object does not define it.
    fn symbol(&self, name: &str) -> Result<Option<u64>, MemoryError> {
        if self.in_files {
            let found = self.process.symbols.named(self.object.mapping, name);
            return Ok(found.map(|address| address.wrapping_add(self.object.bias)));
        }
        let found = readable(self.object.dynamic_symbol(name))?.flatten();
        Ok(found.map(|symbol| symbol.address))
    }

    fn python(&self, runtime: u64) -> Result<RunningPython, StackError> {
        let (memory, machine) = (self.process.memory, self.object.machine);
        let words = memory.words::<WORDS>(runtime)?;
        let named = self.minor()?;
        if words[0] != COOKIE {
            let minor = named.ok_or_else(|| version("before 3.8"))?;
            let layout = PythonLayout::of_minor(minor).ok_or_else(|| version(&format!("3.{minor}")))?;
            return Ok(RunningPython { runtime, minor, layout, machine });
        }
        let minor = minor_of(words[1]).ok_or_else(|| version(&format!("{:#x}", words[1])))?;
        if named.is_some_and(|named| named != minor) {
            return Err(StackError::Unexpected(format!("Python 3.{minor} has the symbols of another version")));
        }
        let coroutine = match PublishedPlaces::place(minor) {
            Some(place) => readable(memory.words::<4>(runtime.wrapping_add(8 * place)))?,
            None => None,
        };
        let layout = PythonLayout::published(minor, &words)?.with_coroutines(minor, &words, coroutine);
        Ok(RunningPython { runtime, minor, layout, machine })
    }

    /// Returns the minor version, from `Py_Version` or the newest function that the object has; `None` before 3.8.
    ///
    /// `PyConfig_InitPythonConfig` is new in 3.8, `PyFrame_GetCode` in 3.9, `PyIter_Send` in 3.10 and `Py_Version` in 3.11
    /// (Doc/whatsnew at v3.11.0).
    fn minor(&self) -> Result<Option<u8>, StackError> {
        if let Some(address) = self.symbol("Py_Version")? {
            let hexadecimal = self.process.memory.u64(address)?;
            return minor_of(hexadecimal).map(Some).ok_or_else(|| version(&format!("{hexadecimal:#x}")));
        }
        for (function, minor) in [("PyIter_Send", 10), ("PyFrame_GetCode", 9), ("PyConfig_InitPythonConfig", 8)] {
            if self.symbol(function)?.is_some() {
                return Ok(Some(minor));
            }
        }
        Ok(None)
    }
}

/// Returns the second part of a version such as 0x030b02f0 (`PY_VERSION_HEX`); `None` if it is not Python 3.
fn minor_of(hexadecimal: u64) -> Option<u8> {
    let [_, _, minor, 3, 0, 0, 0, 0] = hexadecimal.to_le_bytes() else { return None };
    Some(minor)
}

fn version(text: &str) -> StackError {
    StackError::Version { runtime: "Python", version: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_known_by_their_names() {
        let has_name = |path: &str| has_name(&Mapping { path: path.to_owned(), ..Mapping::default() });
        assert!(has_name("/usr/bin/python3.11") && has_name("/opt/lib/libpython3.8.so.1.0 (deleted)"));
        assert!(!has_name("/usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so") && !has_name(""));
    }

    #[test]
    fn a_version_is_that_of_python_3() {
        assert_eq!(minor_of(0x030b_02f0), Some(11));
        assert_eq!(minor_of(0x0200_02f0), None);
        assert_eq!(minor_of(u64::MAX), None);
    }
}
