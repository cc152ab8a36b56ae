//! Stacks of the threads of any process in machine code: C, C++, Rust, interpreters, libraries.
//!
//! Everything comes from the memory of the process. The tables for unwinding are loaded with the code, so no file is read, and code
//! without frame pointers is no obstacle; names of functions that are not exported come from [`crate::Symbols`]. Lines are not read.
//!
//! - `code`: objects and the rule for each address, read once for all threads; `tables` and `scan` find it, `ending` derives it from
//!   instructions where no table has it, `rule` applies it.
//! - `registers` and `blocks`: the state of a walk.
//! - `names`: functions by address.

mod aarch64;
mod blocks;
mod code;
mod cpp;
mod ending;
mod names;
mod registers;
mod rule;
mod scan;
mod tables;
mod x86_64;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    limit::MAX_FILE_BYTES,
    memory::MemoryError,
    process::{CopiedStack, Registers, TargetProcess, TargetThread},
    stack::{FRAME_BYTES, Frame, MAX_FRAMES, Stack, StackError},
};
use blocks::StackBlocks;
use code::{NoRule, ProcessCode, lookup_address, shown_path};
use names::Names;
use registers::{Convention, FrameRegisters};
use rule::{CfaPlace, UnwindStep};

/// Reason why outer frames of a copied stack are missing.
const NOT_COPIED: &str = "only the top of the stack was copied";

/// Frame before its function has a name.
#[derive(Clone, Copy, Debug)]
struct NativeFrame<'a> {
    /// Address whose function is the frame's.
    address: u64,
    /// First address of the function, if it is known.
    function: Option<u64>,
    /// Index of the object.
    object: Option<usize>,
    path: &'a str,
    is_guess: bool,
}

/// Frames of a thread.
#[derive(Clone, Debug, Default)]
struct ThreadWalk<'a> {
    frames: Vec<NativeFrame<'a>>,
    cut: Option<String>,
    /// Error of the read of the stack's top.
    error: Option<MemoryError>,
}

/// Returns the stacks of the threads of a process, in machine code: one for each thread. A thread that runs has no frames.
///
/// # Errors
///
/// If no stack of its threads can be read.
pub fn stacks(process: &TargetProcess<'_>) -> Result<Vec<Stack>, StackError> {
    let mut code = ProcessCode::new(process);
    let walks: Vec<ThreadWalk<'_>> = process.threads.iter().map(|thread| walk(process, &mut code, thread)).collect();
    let tids: Vec<u32> = process.threads.iter().map(|thread| thread.tid).collect();
    let with_registers = process.threads.iter().filter(|thread| thread.registers.is_some()).count();
    let mut errors = walks.iter().filter_map(|walk| walk.error);
    if let Some(first) = errors.next()
        && errors.count() + 1 == with_registers
    {
        return Err(first.into());
    }
    Ok(named(process, &code, &tids, walks))
}

/// Returns the stacks of copies, in machine code: one for each.
pub fn copied_stacks(process: &TargetProcess<'_>, copies: &[CopiedStack]) -> Vec<Stack> {
    let mut code = ProcessCode::new(process);
    let mut walk = |copy: &CopiedStack| {
        let CopiedStack { registers, bytes, .. } = copy;
        let (mut walk, end) = (ThreadWalk::default(), registers.sp.saturating_add(bytes.len() as u64));
        let mut stack = StackBlocks::copied(process, registers.sp, bytes.clone());
        walk.cut = follow(process, &mut code, &mut stack, registers, &mut walk.frames);
        // Addresses in the reason would make equal stacks different.
        if stack.missed().is_some_and(|missed| missed.saturating_add(8) > end) {
            walk.cut = Some(NOT_COPIED.to_owned());
        }
        walk
    };
    let walks: Vec<ThreadWalk<'_>> = copies.iter().map(&mut walk).collect();
    let tids: Vec<u32> = copies.iter().map(|copy| copy.tid).collect();
    named(process, &code, &tids, walks)
}

/// Returns the stacks of threads with the names of their functions.
fn named(process: &TargetProcess<'_>, code: &ProcessCode<'_>, tids: &[u32], walks: Vec<ThreadWalk<'_>>) -> Vec<Stack> {
    let mut addresses: BTreeMap<usize, BTreeSet<(u64, Option<u64>)>> = BTreeMap::new();
    for frame in walks.iter().flat_map(|walk| &walk.frames) {
        if let Some(object) = frame.object {
            addresses.entry(object).or_default().insert((frame.address, frame.function));
        }
    }
    let mut names = Names::new();
    for (object, addresses) in addresses {
        names.extend(names::names(&code.objects[object], process.memory, process.symbols, &addresses));
    }
    let mut stacks = Vec::with_capacity(walks.len());
    for (tid, walk) in tids.iter().zip(walks) {
        let mut stack = Stack { tid: Some(*tid), cut: walk.cut, ..Stack::default() };
        for frame in &walk.frames {
            match frame.named(process, &names) {
                Ok(frame) => stack.frames.push(frame),
                Err(error) => {
                    stack.cut = Some(error.to_string());
                    break;
                }
            }
        }
        stacks.push(stack);
    }
    stacks
}

impl NativeFrame<'_> {
    /// Returns the frame with its names.
    fn named(&self, process: &TargetProcess<'_>, names: &Names) -> Result<Frame, MemoryError> {
        let path = (!self.path.is_empty()).then_some(self.path);
        Ok(Frame {
            function: names.get(&self.address).cloned(),
            object: path.map(|path| process.memory.name(path, MAX_FILE_BYTES)).transpose()?,
            address: Some(self.address),
            is_guess: self.is_guess,
            ..Frame::default()
        })
    }
}

fn walk<'a>(process: &'a TargetProcess<'a>, code: &mut ProcessCode<'a>, thread: &TargetThread) -> ThreadWalk<'a> {
    let mut walk = ThreadWalk::default();
    let Some(registers) = thread.registers else {
        walk.cut = Some("running".to_owned());
        return walk;
    };
    match StackBlocks::new(process, registers.sp) {
        Ok(mut stack) => walk.cut = follow(process, code, &mut stack, &registers, &mut walk.frames),
        Err(error) => {
            walk.error = Some(error);
            walk.cut = Some(format!("stack: {error}"));
        }
    }
    walk
}

/// Adds the frames from the innermost to the outermost one. Returns the reason if it did not come to the outermost one.
fn follow<'a>(
    process: &TargetProcess<'_>,
    code: &mut ProcessCode<'a>,
    stack: &mut StackBlocks<'_>,
    registers: &Registers,
    frames: &mut Vec<NativeFrame<'a>>,
) -> Option<String> {
    let (mut pc, mut is_exact, mut is_guess) = (registers.pc, true, false);
    let mut frame: Option<FrameRegisters> = None;
    while frames.len() < MAX_FRAMES {
        let place = code.place(pc, is_exact);
        match &place.rule {
            Err(reason @ (NoRule::NoCode | NoRule::Generated)) => return Some(reason.to_string()),
            // Whether the address is behind a call is unknown, and so is the function.
            Err(reason @ NoRule::Unreadable(_)) if !is_exact => return Some(reason.to_string()),
            Err(_) | Ok(_) => {}
        }
        let is_signal = place.rule.as_ref().is_ok_and(|rule| rule.is_signal);
        // Places of code are read once, and their frames are kept.
        if let Err(error) = process.memory.work(32).and_then(|()| process.memory.keep(FRAME_BYTES)) {
            return Some(error.to_string());
        }
        frames.push(NativeFrame {
            address: lookup_address(pc, is_exact || is_signal),
            function: place.function,
            object: place.object,
            path: place.path,
            is_guess,
        });
        let machine = place.object.and_then(|object| code.objects.get(object)).map(|own| own.object.machine);
        let Some(convention) = machine.and_then(Convention::of) else {
            return Some(match &place.rule {
                Err(reason @ NoRule::Unreadable(_)) => reason.to_string(),
                Err(_) | Ok(_) => format!("no supported code in {}", shown_path(place.path)),
            });
        };
        let mut current = match frame.take() {
            Some(frame) if frame.convention == convention => frame,
            Some(_) => return Some("code of another architecture".to_owned()),
            None => FrameRegisters::innermost(convention, registers),
        };
        let mut is_derived = place.rule.as_ref().is_ok_and(|rule| rule.is_derived);
        if let Ok(rule) = &place.rule
            && let CfaPlace::Register(register, offset) = rule.cfa
            && register == convention.fp
            && current.get(register).is_none()
            && let Some(len) = code.frame_len(pc, is_exact)
        {
            current.set(register, Some(current.sp().wrapping_add(len).wrapping_add_signed(offset.wrapping_neg())));
            is_derived = true;
        }
        let (step, by_pointer) = match &place.rule {
            Ok(rule) => (rule.step(&current, stack, is_exact), false),
            Err(reason) => (by_frame_pointer(process, &current, stack, reason), true),
        };
        match step {
            UnwindStep::Root => return None,
            UnwindStep::Zero if !is_derived => return None,
            UnwindStep::Zero => return Some("the return address is not that of code".to_owned()),
            UnwindStep::Cut(reason) => return Some(reason),
            UnwindStep::Caller(_, target) if !code.is_code(target) => {
                return Some("the return address is not that of code".to_owned());
            }
            UnwindStep::Caller(_, target)
                if (is_derived || by_pointer) && !code.is_return_place(target, convention.machine, place.function) =>
            {
                let no_table = || format!("no unwind table for {}", shown_path(place.path));
                let has_table = place.rule.as_ref().is_ok_and(|rule| !rule.is_derived);
                return Some(if has_table { "frame pointer unknown".to_owned() } else { no_table() });
            }
            UnwindStep::Caller(caller, target) => {
                (pc, is_exact, is_guess) = (target, is_signal, is_guess || by_pointer);
                frame = Some(*caller);
            }
        }
    }
    Some(format!("more than {MAX_FRAMES} frames"))
}

/// Steps to the caller by the frame pointer, for code without a table. The pointer can be that of the caller, which is then not seen.
fn by_frame_pointer(
    process: &TargetProcess<'_>,
    frame: &FrameRegisters,
    stack: &mut StackBlocks<'_>,
    reason: &NoRule<'_>,
) -> UnwindStep {
    let convention = frame.convention;
    let cut = || UnwindStep::Cut(reason.to_string());
    let Some(fp) = frame.get(convention.fp).filter(|fp| *fp >= frame.sp() && fp.is_multiple_of(8)) else {
        return cut();
    };
    // A new thread has that of its parent, in another stack.
    let place = |address| process.mapping(address).map(|mapping| mapping.start);
    if place(fp) != place(frame.sp()) {
        return cut();
    }
    let (Ok(outer), Ok(target)) = (stack.u64(fp), stack.u64(fp.wrapping_add(8))) else { return cut() };
    let target = target & convention.code_bits;
    if outer <= fp && outer != 0 {
        return cut();
    }
    // Where the function has saved the other registers is unknown.
    let caller = FrameRegisters::innermost(
        convention,
        &Registers { pc: target, sp: fp.wrapping_add(16), fp: Some(outer), lr: None },
    );
    UnwindStep::Caller(Box::new(caller), target)
}
