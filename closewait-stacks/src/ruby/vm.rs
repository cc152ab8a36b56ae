//! Version of MRI, and the address of its virtual machine.

use super::{
    super::{
        blocks::word,
        elf::{Object, Segment},
        memory::{MemoryError, MemoryReader, readable},
        process::TargetProcess,
        runtime::RuntimeFiles,
        stack::StackError,
    },
    layout::RubyLayout,
};

/// Maximum size of the variables of a file that are searched, bytes; those of 3.3 have 80 KiB.
const MAX_VARIABLES: usize = 1 << 20;
/// Maximum length of a version, bytes.
const MAX_VERSION: usize = 16;
/// Number of words for which steps of work are taken at once.
const STEPS: usize = 256;

/// Running MRI.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunningRuby {
    /// Address of the virtual machine, `rb_vm_t`.
    pub(super) vm: u64,
    /// Offsets of its structs.
    pub(super) layout: RubyLayout,
    /// Architecture, see [`Object::machine`].
    pub(super) machine: u16,
}

impl RunningRuby {
    /// Returns the MRI in a process.
    pub(super) fn find(process: &TargetProcess<'_>) -> Result<Self, StackError> {
        let files = RuntimeFiles::find(process, "ruby")?;
        let Some((version, object)) = files.symbol("ruby_version")? else {
            return Err(StackError::OtherProgram("Ruby"));
        };
        let memory = process.memory;
        let version = memory.text(version, MAX_VERSION)?;
        let Some(layout) = RubyLayout::of_version(&version) else {
            return Err(StackError::Version { runtime: "Ruby", version });
        };
        let vm = match files.symbol("ruby_current_vm_ptr")? {
            Some((pointer, _)) => Some(memory.u64(pointer)?),
            None => find_vm(process, object, &layout)?,
        };
        match vm {
            Some(vm) if is_vm(memory, vm, &layout)? => Ok(Self { vm, layout, machine: object.machine }),
            _ => Err(StackError::Unexpected(format!("Ruby {version} has not started, or has an unknown state"))),
        }
    }
}

/// Finds the virtual machine by a pointer to it in the variables of a file that start as zeros.
fn find_vm(process: &TargetProcess<'_>, object: &Object<'_>, layout: &RubyLayout) -> Result<Option<u64>, MemoryError> {
    let memory = process.memory;
    let is_variables = |segment: &&Segment| segment.writable && segment.len > segment.file_len;
    let Some(segment) = object.segments.iter().find(is_variables) else { return Ok(None) };
    let start = segment.address.wrapping_add(segment.file_len).next_multiple_of(8);
    let len = usize::try_from(segment.len - segment.file_len).unwrap_or(usize::MAX).min(MAX_VARIABLES);
    let variables = memory.bytes(start, len & !7)?;
    for words in variables.chunks(8 * STEPS) {
        memory.work(STEPS as u64)?;
        for at in (0..words.len()).step_by(8) {
            let pointer = word(words, at);
            // The virtual machine is in memory that was allocated.
            let is_allocated =
                |at: u64| process.mapping(at).is_some_and(|mapping| mapping.readable && mapping.inode == 0);
            if pointer != 0 && pointer.is_multiple_of(8) && is_allocated(pointer) && is_vm(memory, pointer, layout)? {
                return Ok(Some(pointer));
            }
        }
    }
    Ok(None)
}

/// Whether a virtual machine is at `vm`: its main thread names it, and the thread's execution context names the thread.
fn is_vm(memory: MemoryReader<'_>, vm: u64, layout: &RubyLayout) -> Result<bool, MemoryError> {
    let pointer = |from: u64, at: u64| -> Result<u64, MemoryError> {
        let is_aligned = from != 0 && from.is_multiple_of(8);
        let read = if is_aligned { readable(memory.u64(from.wrapping_add(at)))? } else { None };
        Ok(read.unwrap_or(0))
    };
    let thread = pointer(vm, layout.main_thread)?;
    if pointer(thread, layout.vm as u64)? != vm {
        return Ok(false);
    }
    let context = pointer(thread, layout.context as u64)?;
    Ok(vm != 0 && pointer(context, layout.thread as u64)? == thread)
}
