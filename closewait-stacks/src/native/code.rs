//! Code of a process: objects, their tables for unwinding, and the rules for addresses.

use std::{borrow::Cow, collections::BTreeMap, rc::Rc};

use object::elf::{EM_AARCH64, EM_X86_64};

use super::{
    aarch64, ending,
    registers::Convention,
    rule::{CfaPlace, SavedPlace, UnwindRule},
    tables::FunctionTable,
    x86_64,
};
use crate::{
    elf::Object,
    limit::cut_name,
    memory::{MemoryError, readable},
    process::{Mapping, TargetProcess},
};

/// Maximum number of objects of a process. A usual one has up to 100, a large one (LibreOffice) 300.
const MAX_OBJECTS: usize = 1024;

/// Maximum number of bytes of a function whose instructions are searched.
const MAX_FUNCTION: usize = 64 << 10;

/// Code of a process, as far as a pass has needed it.
pub(super) struct ProcessCode<'a> {
    process: &'a TargetProcess<'a>,
    /// Objects of the process.
    pub(super) objects: Vec<CodeObject<'a>>,
    /// Indexes of objects, by the first address of each mapping.
    by_mapping: BTreeMap<u64, Option<usize>>,
    places: BTreeMap<(u64, bool), Rc<CodePlace<'a>>>,
    frame_lens: BTreeMap<(u64, bool), Option<u64>>,
    calls: BTreeMap<u64, Option<CallTarget>>,
}

/// Function that a call leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallTarget {
    /// The one at this address.
    Direct(u64),
    /// The one whose address a register or the memory has.
    Any,
}

/// Executable or library with code.
pub(super) struct CodeObject<'a> {
    /// Where it is loaded.
    pub(super) object: Object<'a>,
    table: Option<FunctionTable>,
}

/// Facts about an address of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CodePlace<'a> {
    /// Path of the file, or a name such as `[vdso]`; empty for anonymous memory.
    pub(super) path: &'a str,
    /// Index of the object; `None` if the file is none.
    pub(super) object: Option<usize>,
    /// First address of the function, if a table has it.
    pub(super) function: Option<u64>,
    /// Address after the last one of the function; 0 if it is unknown.
    function_end: u64,
    /// Rule that leads to the caller, or the reason why there is none.
    pub(super) rule: Result<UnwindRule, NoRule<'a>>,
}

/// Reason why there is no rule for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoRule<'a> {
    /// No memory with code is there.
    NoCode,
    /// The code has no file: a just-in-time compiler made it.
    Generated,
    /// The object at this path has no table, or none for this address.
    NoTable(&'a str),
    /// The table of the object at this path is malformed.
    Malformed(&'a str),
    /// The table could not be read.
    Unreadable(MemoryError),
}

impl std::fmt::Display for NoRule<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoCode => to.write_str("no code at the address"),
            Self::Generated => to.write_str("generated code"),
            Self::NoTable(object) => write!(to, "no unwind table for {}", shown_path(object)),
            Self::Malformed(object) => write!(to, "malformed unwind table of {}", shown_path(object)),
            Self::Unreadable(MemoryError::Refused(place)) => write!(to, "its code is on {place}"),
            Self::Unreadable(error) => write!(to, "unwind table: {error}"),
        }
    }
}

impl<'a> ProcessCode<'a> {
    /// Returns the code of a process.
    pub(super) const fn new(process: &'a TargetProcess<'a>) -> Self {
        Self {
            process,
            objects: Vec::new(),
            by_mapping: BTreeMap::new(),
            places: BTreeMap::new(),
            frame_lens: BTreeMap::new(),
            calls: BTreeMap::new(),
        }
    }

    /// Whether `address` is in memory that has code.
    pub(super) fn is_code(&self, address: u64) -> bool {
        self.process.mapping(address).is_some_and(|mapping| mapping.executable)
    }

    /// Returns the facts about `pc`. `is_exact` is false for a return address: the call is before it, perhaps at a function's end.
    pub(super) fn place(&mut self, pc: u64, is_exact: bool) -> Rc<CodePlace<'a>> {
        if let Some(known) = self.places.get(&(pc, is_exact)) {
            return Rc::clone(known);
        }
        let mut place = self.find(pc, lookup_address(pc, is_exact));
        let kept = size_of::<CodePlace<'_>>() + place.rule.as_ref().map_or(0, UnwindRule::size);
        if let Err(error) = self.process.memory.keep(kept) {
            place.rule = Err(NoRule::Unreadable(error));
        }
        let place = Rc::new(place);
        self.places.insert((pc, is_exact), Rc::clone(&place));
        place
    }

    fn find(&mut self, pc: u64, address: u64) -> CodePlace<'a> {
        let Some(mapping) = self.process.mapping(address).filter(|mapping| mapping.executable) else {
            return CodePlace { path: "", object: None, function: None, function_end: 0, rule: Err(NoRule::NoCode) };
        };
        let path = mapping.path.as_str();
        let none = |object, rule| CodePlace { path, object, function: None, function_end: 0, rule: Err(rule) };
        let index = match self.object(mapping, address) {
            Ok(index) => index,
            Err(error) => return none(None, NoRule::Unreadable(error)),
        };
        let without_file = mapping.inode == 0 && mapping.path != VDSO;
        let Some((index, own)) = index.and_then(|index| Some((index, self.objects.get_mut(index)?))) else {
            let reason = if without_file { NoRule::Generated } else { NoRule::NoTable(path) };
            return none(None, reason);
        };
        let found = own.table.as_mut().map(|table| table.find(&own.object, self.process.memory, address));
        let machine = own.object.machine;
        let (rule, error) = match found.transpose() {
            Ok(Some(Some(found))) => {
                let rule = found.rule.ok_or(NoRule::Malformed(path));
                return CodePlace {
                    path,
                    object: Some(index),
                    function: Some(found.start),
                    function_end: found.end,
                    rule,
                };
            }
            Ok(Some(None) | None) => {
                let derived = || ending::rule(self.process, Convention::of(machine)?, pc);
                match signal_return(self.process, machine, pc) {
                    Ok(signal) => (signal.or_else(derived), NoRule::NoTable(path)),
                    Err(error) => (None, NoRule::Unreadable(error)),
                }
            }
            Err(error) => (signal_return(self.process, machine, pc).ok().flatten(), NoRule::Unreadable(error)),
        };
        let function = rule.as_ref().filter(|rule| rule.is_signal).map(|_| pc);
        CodePlace { path, object: Some(index), function, function_end: 0, rule: rule.ok_or(error) }
    }

    /// Returns the distance from the stack pointer to that of the caller (CFA), for a function with a frame pointer that is unknown; `None`
    /// if it changes while the function runs.
    pub(super) fn frame_len(&mut self, pc: u64, is_exact: bool) -> Option<u64> {
        if let Some(known) = self.frame_lens.get(&(pc, is_exact)) {
            return *known;
        }
        let place = self.place(pc, is_exact);
        let len = self.find_frame_len(&place, pc);
        self.frame_lens.insert((pc, is_exact), len);
        len
    }

    fn find_frame_len(&self, place: &CodePlace<'_>, pc: u64) -> Option<u64> {
        let convention = Convention::of(self.objects.get(place.object?)?.object.machine)?;
        let rule = place.rule.as_ref().ok().filter(|rule| !rule.is_derived)?;
        // The last instructions may not need the frame pointer.
        if let Some(UnwindRule { cfa: CfaPlace::Register(register, offset), .. }) =
            ending::rule(self.process, convention, pc)
            && register == convention.sp
        {
            return u64::try_from(offset).ok();
        }
        let len = usize::try_from(place.function_end.checked_sub(place.function?)?).ok()?;
        if len > MAX_FUNCTION {
            return None;
        }
        let code = self.process.memory.bytes(place.function?, len).ok()?;
        self.process.memory.work(len as u64).ok()?;
        let CfaPlace::Register(register, offset) = rule.cfa else { return None };
        match convention.machine {
            _ if register != convention.fp => None,
            EM_X86_64 if offset == 16 => x86_64::frame_len(&code, rule.pushed(convention.fp)?),
            EM_AARCH64 => aarch64::frame_distance(&code)?.checked_add_signed(offset),
            _ => None,
        }
    }

    /// Whether `function` can return to `pc`: `pc` is behind a call that can lead there, or returns from a signal handler, which the kernel
    /// has called. An unknown function can be any.
    pub(super) fn is_return_place(&mut self, pc: u64, machine: u16, function: Option<u64>) -> bool {
        match self.call_before(pc, machine) {
            Some(CallTarget::Direct(target)) => {
                // What has no entry of its own in a table leads elsewhere, as the stubs for functions of other objects do.
                let is_function = |start| start == target;
                function.is_none_or(|function| function == target)
                    || !self.place(target, true).function.is_some_and(is_function)
            }
            Some(CallTarget::Any) => true,
            None => self.place(pc, false).rule.as_ref().is_ok_and(|rule| rule.is_signal),
        }
    }

    /// Returns the target of the call before `pc`; `None` if there is no call.
    fn call_before(&mut self, pc: u64, machine: u16) -> Option<CallTarget> {
        if let Some(known) = self.calls.get(&pc) {
            return *known;
        }
        let before = self.process.memory.array::<8>(pc.wrapping_sub(8)).ok();
        let call = before.and_then(|bytes| match machine {
            EM_X86_64 => x86_64::call_at_end(&bytes, pc),
            EM_AARCH64 => aarch64::call_at_end(&bytes, pc),
            _ => None,
        });
        self.calls.insert(pc, call);
        call
    }

    /// Returns the index of the object with the code at `address`, which is in `mapping`.
    fn object(&mut self, mapping: &'a Mapping, address: u64) -> Result<Option<usize>, MemoryError> {
        if let Some(known) = self.by_mapping.get(&mapping.start) {
            return Ok(*known);
        }
        let object = if mapping.path == VDSO {
            Object::at(self.process.memory, mapping)?
        } else {
            Object::containing(self.process, address)?
        };
        let known = object
            .as_ref()
            .and_then(|new| self.objects.iter().position(|old| old.object.mapping.start == new.mapping.start));
        let index = match (known, object) {
            (Some(known), _) => Some(known),
            (None, Some(object)) if self.objects.len() < MAX_OBJECTS => {
                let table = readable(FunctionTable::of(&object, self.process.memory))?.flatten();
                self.objects.push(CodeObject { object, table });
                Some(self.objects.len() - 1)
            }
            (None, _) => None,
        };
        self.by_mapping.insert(mapping.start, index);
        Ok(index)
    }
}

/// Returns a path as a reason for a cut has it: each stack has one.
pub(super) fn shown_path(path: &str) -> Cow<'_, str> {
    /// Maximum length, bytes.
    const MOST: usize = 256;
    cut_name(path, MOST)
}

/// Name of the mapping with the functions that the kernel gives to every process. It has no file.
const VDSO: &str = "[vdso]";

/// Returns the address that is looked up for `pc`: the last byte of the call for a return address.
pub(super) const fn lookup_address(pc: u64, is_exact: bool) -> u64 {
    if is_exact { pc } else { pc.wrapping_sub(1) }
}

/// Returns the rule for code that returns from a signal handler, which musl and the vdso of aarch64 have without a table.
///
/// The kernel has put the registers of the interrupted code on the stack: `struct rt_sigframe` (arch/x86/include/asm/sigframe.h,
/// arch/arm64/kernel/signal.c at v5.10). libgcc knows the same instructions (`MD_FALLBACK_FRAME_STATE_FOR`,
/// libgcc/config/i386/linux-unwind.h, config/aarch64/linux-unwind.h at 12.2.0).
fn signal_return(process: &TargetProcess<'_>, machine: u16, pc: u64) -> Result<Option<UnwindRule>, MemoryError> {
    let at = |register: u16, offset: i64| (register, SavedPlace::At(offset));
    match machine {
        EM_X86_64 => {
            // mov $15,%rax; syscall
            const CODE: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
            if process.memory.array(pc)? != CODE {
                return Ok(None);
            }
            // `struct sigcontext_64` starts at 40 of `struct ucontext`: r8 to r15, di, si, bp, bx, dx, ax, cx, sp, ip.
            const ORDER: [u16; 17] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, 16];
            let saved = ORDER.into_iter().zip((40..).step_by(8)).map(|(register, offset)| at(register, offset));
            let cfa = CfaPlace::Register(7, 0);
            let saved = saved.collect();
            Ok(Some(UnwindRule { cfa, saved, return_address: 16, is_signal: true, is_derived: false }))
        }
        EM_AARCH64 => {
            // mov x8, #139; svc #0
            const CODE: [u8; 8] = [0x68, 0x11, 0x80, 0xd2, 0x01, 0, 0, 0xd4];
            if process.memory.array(pc)? != CODE {
                return Ok(None);
            }
            // 128 bytes of `struct siginfo`, 176 of `struct ucontext`, 8 of `struct sigcontext`: x0 to x30, sp, pc.
            const PC: u16 = 32;
            let saved = (0..=PC).map(|register| at(register, 312 + 8 * i64::from(register)));
            let cfa = CfaPlace::Register(31, 0);
            let saved = saved.collect();
            Ok(Some(UnwindRule { cfa, saved, return_address: PC, is_signal: true, is_derived: false }))
        }
        _ => Ok(None),
    }
}
