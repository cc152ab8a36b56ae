//! Version of PHP, and the address of its `executor_globals`.

use super::super::{
    blocks::{half, word},
    process::TargetProcess,
    runtime::RuntimeFiles,
    stack::StackError,
};

/// Size of `zend_module_entry` (Zend/zend_modules.h at php-7.4.33 and php-8.4.0).
const MODULE: u16 = 168;

/// Running PHP.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunningPhp {
    /// Address of `executor_globals`.
    pub(super) globals: u64,
    /// Offsets of its structs that differ between versions.
    pub(super) layout: PhpLayout,
}

/// Offsets of `zend_op_array` (Zend/zend_compile.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PhpLayout {
    /// `last`: number of instructions.
    pub(super) count: usize,
    /// `opcodes`: first instruction.
    pub(super) instructions: usize,
    /// `filename`.
    pub(super) file: usize,
}

/// Versions by `ZEND_MODULE_API_NO` (Zend/zend_modules.h of each), with the offsets of those that were compared with running programs.
const VERSIONS: [(u32, &str, Option<PhpLayout>); 7] = [
    (20_190_902, "7.4", Some(PhpLayout { count: 60, instructions: 64, file: 136 })),
    (20_200_930, "8.0", None),
    (20_210_902, "8.1", None),
    (20_220_829, "8.2", Some(PhpLayout { count: 80, instructions: 88, file: 152 })),
    (20_230_831, "8.3", None),
    (20_240_924, "8.4", Some(PhpLayout { count: 96, instructions: 104, file: 168 })),
    (20_250_925, "8.5", None),
];

impl RunningPhp {
    /// Returns the PHP in a process.
    pub(super) fn find(process: &TargetProcess<'_>) -> Result<Self, StackError> {
        let files = RuntimeFiles::find(process, "php")?;
        // `module_registry` is in all builds, `executor_globals` only in those without thread safety.
        let Some((registry, _)) = files.symbol("module_registry")? else { return Err(StackError::OtherProgram("PHP")) };
        let memory = process.memory;
        // `arData` of `HashTable`, whose first entry begins with a pointer to the first module.
        let entries = memory.u64(registry.wrapping_add(16))?;
        if entries == 0 {
            return Err(StackError::Unexpected("PHP has not started, or has ended".to_owned()));
        }
        let module = memory.u64(entries)?;
        // `size`, `zend_api`, `zend_debug`, `zts`.
        let module = memory.array::<16>(module)?;
        let flags = word(&module, 8).to_le_bytes();
        let size = u16::from_le_bytes([module[0], module[1]]);
        if size != MODULE || flags[0] > 1 || flags[1] > 1 {
            return Err(StackError::Unexpected("PHP has an unknown list of modules".to_owned()));
        }
        let interface = half(&module, 4);
        let known = VERSIONS.iter().find(|(number, ..)| *number == interface);
        let name = known.map_or_else(|| format!("with interface {interface}"), |(_, name, _)| (*name).to_owned());
        let other = |version: String| StackError::Version { runtime: "PHP", version };
        if flags[1] == 1 {
            return Err(other(format!("{name} with thread safety")));
        } else if flags[0] == 1 {
            return Err(other(format!("{name} with debugging")));
        }
        let layout = known.and_then(|(.., layout)| *layout).ok_or_else(|| other(name))?;
        let globals = files.symbol("executor_globals")?;
        let (globals, _) = globals.ok_or_else(|| StackError::Unexpected("PHP has no executor_globals".to_owned()))?;
        Ok(Self { globals, layout })
    }
}
