//! Stacks of goroutines, walked as the runtime's own traceback does: `unwinder` of `src/runtime/traceback.go` (go1.15, `gentraceback`, to
//! go1.27).
//!
//! The size of each frame comes from the tables of its function, so that no frame pointer is needed.

use std::ops::Range;

use super::{
    functions::GoFunctions,
    goroutine::{Goroutine, GoroutineStatus},
    module::GoModule,
};
use crate::{
    memory::MemoryError,
    stack::{FRAME_BYTES, Frame, MAX_FRAMES},
};

/// Number of bytes of a stack that are read at a time.
const BLOCK: u64 = 4096;

/// Returns the frames of a goroutine that does not run, innermost first, and the reason why outer ones are missing. `known` has the
/// bytes at its stack pointer that were read before.
///
/// # Errors
///
/// If a limit is reached.
pub(super) fn frames(
    module: &GoModule<'_>,
    functions: &mut GoFunctions<'_, '_>,
    goroutine: &Goroutine,
    known: Vec<u8>,
) -> Result<(Vec<Frame>, Option<String>), MemoryError> {
    let mut frames = Vec::new();
    let stack = StackWords { module, range: goroutine.stack.clone(), start: goroutine.sp, bytes: known };
    match walk(functions, goroutine, stack, &mut frames) {
        Ok(()) => {
            let cut = frames.is_empty().then(|| "only code that the compiler made".to_owned());
            Ok((frames, cut))
        }
        Err(CutReason::Memory(error @ MemoryError::Limit(_))) => Err(error),
        Err(CutReason::Memory(error @ (MemoryError::Unreadable { .. } | MemoryError::Refused(_)))) => {
            Ok((frames, Some(error.to_string())))
        }
        Err(CutReason::Because(why)) => Ok((frames, Some(why))),
    }
}

/// Reason why outer frames are missing.
enum CutReason {
    Memory(MemoryError),
    Because(String),
}

impl From<MemoryError> for CutReason {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

impl From<String> for CutReason {
    fn from(why: String) -> Self {
        Self::Because(why)
    }
}

/// Adds the frames of a goroutine, up to the outermost one.
fn walk(
    functions: &mut GoFunctions<'_, '_>,
    goroutine: &Goroutine,
    mut stack: StackWords<'_, '_>,
    frames: &mut Vec<Frame>,
) -> Result<(), CutReason> {
    let module = stack.module;
    if goroutine.status == GoroutineStatus::CopyStack {
        return Err("its stack is moved".to_owned().into());
    }
    let (mut pc, mut sp, mut lr) = (goroutine.pc, goroutine.sp, goroutine.lr);
    // A goroutine stops behind a call of the scheduler, or before its first instruction.
    let mut is_return = true;
    let mut is_innermost = true;
    loop {
        if !goroutine.stack.contains(&sp) && sp != goroutine.stack.end {
            return Err("the stack pointer is outside of the stack".to_owned().into());
        }
        let Some(place) = functions.place(pc, is_return)? else {
            return Err(format!("{pc:#x} is no Go code").into());
        };
        // Code that the compiler made has no frames to show, and each of its places is read once.
        module.memory.work(16 + place.frames.len() as u64)?;
        let name = place.function.name.as_deref().unwrap_or_default();
        let name = name.strip_suffix(".abi0").unwrap_or(name);
        let is_end = name == "runtime.goexit";
        // The goroutine of a thread of C has nothing else.
        if is_end && !frames.is_empty() {
            return Ok(());
        }
        for frame in &place.frames {
            if frames.len() == MAX_FRAMES {
                return Err(format!("only {MAX_FRAMES} frames are read").into());
            }
            module.memory.keep(FRAME_BYTES)?;
            frames.push(frame.clone());
        }
        if is_end || place.function.is_outermost || is_outermost(name) {
            return Ok(());
        }
        let in_call = is_innermost && goroutine.status == GoroutineStatus::SystemCall;
        if place.function.sets_sp && name != "runtime.cgocallback" && !in_call {
            return Err(format!("{name} changes stacks").into());
        }
        let Some(len) = place.frame_len else {
            return Err(format!("the size of the frame of {name} is unknown").into());
        };
        let outside = || format!("the frame of {name} is not in the stack");
        let mut end = sp.checked_add(len).ok_or_else(outside)?;
        let back = if module.has_link_register() {
            if is_innermost && len > 0 || lr == 0 { stack.word(sp)? } else { lr }
        } else {
            let at = end;
            end = end.checked_add(8).ok_or_else(outside)?;
            stack.word(at)?
        };
        if end > goroutine.stack.end {
            return Err(outside().into());
        }
        if back == 0 || (back == pc && end == sp) {
            return Err(format!("{name} has no caller").into());
        }
        // Where a signal interrupted it, no call is before the address.
        is_return = !is_injected(name);
        (pc, sp, lr) = (back, end, 0);
        if module.has_link_register() && !is_return {
            // `sighandler` put the register on the stack, before it made up a call.
            let saved = stack.word(sp)?;
            sp = sp.checked_add(16).ok_or_else(outside)?;
            match functions.place(pc, is_return)? {
                None => pc = saved,
                Some(place) if place.frame_len == Some(0) => lr = saved,
                Some(_) => {}
            }
        }
        is_innermost = false;
    }
}

/// Whether nothing calls a function. From 1.17 on, its flags say it too; before, `topofstack` has them.
fn is_outermost(name: &str) -> bool {
    matches!(name, "runtime.mstart" | "runtime.mcall" | "runtime.morestack" | "runtime.rt0_go")
}

/// Whether a signal handler makes up the calls of a function, at any instruction (`isInjectedCall`).
fn is_injected(name: &str) -> bool {
    matches!(name, "runtime.sigpanic" | "runtime.asyncPreempt" | "runtime.debugCallV1" | "runtime.debugCallV2")
}

/// Words of a stack, read in blocks.
struct StackWords<'m, 'a> {
    module: &'m GoModule<'a>,
    range: Range<u64>,
    start: u64,
    bytes: Vec<u8>,
}

impl StackWords<'_, '_> {
    fn word(&mut self, address: u64) -> Result<u64, CutReason> {
        let outside = || "a frame is not in the stack".to_owned();
        let end = address.checked_add(8).filter(|end| self.range.contains(&address) && *end <= self.range.end);
        let end = end.ok_or_else(outside)?;
        if address < self.start || end > self.start + self.bytes.len() as u64 {
            let most = (self.range.end - address).min(BLOCK);
            self.bytes = self.module.memory.bytes(address, usize::try_from(most).unwrap_or_default())?;
            self.start = address;
        }
        let at = usize::try_from(address - self.start).unwrap_or_default();
        let word = self.bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        Ok(word.ok_or_else(outside)?)
    }
}
