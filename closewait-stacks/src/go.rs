//! Goroutines of Go programs.
//!
//! Everything comes from the memory of the process, so that stripped executables are read like others, and no file is opened:
//!
//! - `module`: the description of the executable that the linker writes into its data (`runtime.firstmoduledata`), and its version.
//! - `list`: the list of goroutines, `runtime.allgs`; `goroutine`: their state.
//! - `timer`: whether they wait for a time.
//! - `unwind`: the stacks of those that do not run, as the runtime's own traceback walks them.
//! - `functions`: functions, files and lines of code, from the table that the runtime needs itself (`.gopclntab`).
//!
//! A goroutine that runs has no frames: its registers are not in memory. Goroutines of the runtime are among the others; all their
//! frames are functions of package `runtime`. `layout` has the supported versions.

mod functions;
mod goroutine;
mod layout;
mod list;
mod module;
mod timer;
mod unwind;

use super::{
    process::{CopiedStack, TargetProcess},
    stack::{Stack, StackError},
};
use functions::GoFunctions;
use goroutine::{Goroutine, GoroutineStatus, WaitReasons};
use module::GoModule;
use timer::TimerWaits;

/// Maximum number of goroutines that are examined; those that the runtime created first.
const MAX_GOROUTINES: usize = 10_000;
/// Maximum number of goroutines whose frames are read.
const MAX_UNWOUND: usize = 2048;

/// Wait reasons of goroutines that may wait for the channel of a timer.
const CHANNEL_REASONS: [&str; 2] = ["chan receive", "select"];
/// End of the state of a goroutine that waits for the channel of a timer, alone or among others.
const WITH_TIMER: &str = " (timer)";

/// Returns the stacks of the goroutines of a Go program, sorted by their number.
///
/// Ended goroutines, which the runtime keeps for reuse, are omitted. Up to 10,000 goroutines are examined, and the frames of up to 2,048
/// of them are read. [`ReadLimit::left_out`](super::memory::ReadLimit::left_out) says how many are not examined.
///
/// # Errors
///
/// If the process is not a Go program, its version is not supported, or its memory cannot be read.
pub fn stacks(process: &TargetProcess<'_>) -> Result<Vec<Stack>, StackError> {
    let Some(module) = GoModule::find(process)? else { return Err(StackError::OtherProgram("Go")) };
    let addresses = list::addresses(process, &module, MAX_GOROUTINES)?;
    let mut reasons = WaitReasons::find(&module)?;
    let mut functions = GoFunctions::new(&module)?;
    let mut timers = TimerWaits::new(&module);
    let threads = process.threads.iter().map(|thread| (u64::from(thread.inner_tid), thread.tid)).collect();
    let mut stacks = Vec::new();
    let mut unwound = 0;
    for address in addresses {
        // A part of the goroutines would look like all of them, so an error ends the read.
        let Some(goroutine) = Goroutine::at(&module, address)? else { continue };
        let is_waiting = goroutine.status == GoroutineStatus::Waiting;
        let mut reason = if is_waiting { reasons.text(goroutine.wait_reason) } else { None };
        if let Some(text) = &mut reason
            && unwound < MAX_UNWOUND
            && CHANNEL_REASONS.contains(&text.as_str())
            && timers.is_one(address)?
        {
            text.push_str(WITH_TIMER);
        }
        let mut stack = Stack {
            tid: goroutine.thread(&threads, &module),
            number: Some(goroutine.number),
            state: Some(reason.unwrap_or_else(|| goroutine.status.text().to_owned())),
            ..Stack::default()
        };
        if goroutine.status == GoroutineStatus::Running {
            stack.cut = Some("it runs".to_owned());
        } else if unwound == MAX_UNWOUND {
            stack.cut = Some(format!("only {MAX_UNWOUND} stacks are read"));
        } else {
            unwound += 1;
            (stack.frames, stack.cut) = unwind::frames(&module, &mut functions, &goroutine, Vec::new())?;
            // A goroutine that ran in the meantime has a torn stack.
            if Goroutine::at(&module, address)?.as_ref() != Some(&goroutine) {
                stack.frames.clear();
                stack.cut = Some("it ran while it was read".to_owned());
            }
        }
        stacks.push(stack);
    }
    stacks.sort_by_key(|stack| stack.number);
    Ok(stacks)
}

/// Returns the stacks of goroutines in system calls, of which copies were made: one for each. One in code of C has no frames.
///
/// # Errors
///
/// If the process is not a Go program, its version is not supported, or its memory cannot be read.
pub fn copied_stacks(process: &TargetProcess<'_>, copies: &[CopiedStack]) -> Result<Vec<Stack>, StackError> {
    let Some(module) = GoModule::find(process)? else { return Err(StackError::OtherProgram("Go")) };
    let mut functions = GoFunctions::new(&module)?;
    let mut stacks = Vec::with_capacity(copies.len());
    for copy in copies {
        let goroutine = Goroutine::in_system_call(copy);
        let (frames, cut) = unwind::frames(&module, &mut functions, &goroutine, copy.bytes.clone())?;
        stacks.push(Stack { tid: Some(copy.tid), frames, cut, ..Stack::default() });
    }
    Ok(stacks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Memory as _, MemoryReader, Registers, image::Image, memory::ReadLimit};

    #[test]
    fn copies_have_the_frames_of_their_goroutines() {
        for name in ["go-waits-1.15", "go-waits-1.23-aarch64", "go-waits-1.24"] {
            let path = format!("{}/tests/images/{name}.image", env!("CARGO_MANIFEST_DIR"));
            let image = Image::from_bytes(&std::fs::read(path).unwrap()).unwrap();
            let limit = ReadLimit::new(100_000, 64 << 20);
            let (mappings, threads) = (&image.mappings, &image.threads);
            let process =
                TargetProcess { memory: MemoryReader::new(&image, &limit), mappings, threads, symbols: &image };
            let module = GoModule::find(&process).unwrap().unwrap();
            let mut functions = GoFunctions::new(&module).unwrap();
            let mut compared = 0;
            for address in list::addresses(&process, &module, MAX_GOROUTINES).unwrap() {
                let Some(goroutine) = Goroutine::at(&module, address).unwrap() else { continue };
                let Goroutine { pc, sp, lr, .. } = goroutine;
                if goroutine.status != GoroutineStatus::Waiting {
                    continue;
                }
                let expected = unwind::frames(&module, &mut functions, &goroutine, Vec::new()).unwrap();
                let mut bytes = Vec::new();
                let mut byte = [0];
                while image.read(sp + bytes.len() as u64, &mut byte).is_ok() && bytes.len() < 8192 {
                    bytes.push(byte[0]);
                }
                // Of some, the reader needs no stack.
                if bytes.len() < 16 {
                    continue;
                }
                let registers = Registers { pc, sp, fp: None, lr: Some(lr).filter(|lr| *lr != 0) };
                let short = CopiedStack { tid: 7, registers, bytes: bytes[..16].to_vec() };
                let copies = [CopiedStack { tid: 7, registers, bytes }, short];
                let [whole, short] = &copied_stacks(&process, &copies).unwrap()[..] else { panic!("two stacks") };
                assert_eq!((&whole.frames, &whole.cut), (&expected.0, &expected.1), "{name}");
                assert!(short.cut.is_some() && expected.0.starts_with(&short.frames), "{name}: {short}");
                compared += 1;
            }
            assert!(compared >= 3, "{name}: {compared}");
        }
    }
}
