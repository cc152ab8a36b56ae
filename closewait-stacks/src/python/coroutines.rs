//! Frames of suspended coroutines: from a task's own coroutine to the one that awaits a future.

use std::collections::BTreeSet;

use super::{
    super::{
        blocks::{signed_half, word},
        memory::MemoryError,
    },
    code::{CodeReader, RawFrame, RawInstruction},
    heap::{HeapReader, HeapType},
    layout::{FrameLayout, InstructionsPlace, MAX_RECORD},
    task_layout::{CoroutineFrame, CoroutineLayout, StackTop, Suspension},
};

/// Maximum number of coroutines that await each other. The interpreter's limit of calls is 1,000.
const MAX_CHAIN: usize = 1024;

/// Reads coroutines.
pub(super) struct CoroutineReader<'w, 'a> {
    pub(super) heap: &'w HeapReader<'a>,
    pub(super) codes: &'w CodeReader<'a>,
    pub(super) minor: u8,
    pub(super) frame: FrameLayout,
    pub(super) layout: CoroutineLayout,
}

/// Coroutines of a task.
pub(super) enum CoroutineChain {
    /// They wait. The frames are there, innermost first; none if the outermost one is no code of Python.
    Waits(Vec<RawFrame>),
    /// One of them has not begun, runs, or has ended.
    Runs,
    /// They do not fit each other.
    Damaged,
}

impl CoroutineReader<'_, '_> {
    /// Returns the frames of a coroutine and of those that it awaits.
    pub(super) fn chain(&self, outermost: u64) -> Result<CoroutineChain, MemoryError> {
        let (mut frames, mut seen, mut object) = (Vec::new(), BTreeSet::new(), outermost);
        loop {
            if seen.len() >= MAX_CHAIN || !seen.insert(object) {
                return Ok(CoroutineChain::Damaged);
            }
            match self.heap.kind(object)? {
                HeapType::Coroutine => {
                    let Some((frame, awaited)) = self.suspended(object)? else { return Ok(CoroutineChain::Runs) };
                    frames.push(frame);
                    object = awaited;
                }
                // `cw_coroutine`, `ags_gen`, `agt_gen` (Objects/genobject.c at v3.8.0 and v3.15.0).
                HeapType::Step => object = self.heap.blocks.u64(object.wrapping_add(16))?,
                HeapType::Dict
                | HeapType::Set
                | HeapType::Module
                | HeapType::WeakSet
                | HeapType::WeakReference
                | HeapType::Task(_)
                | HeapType::Number
                | HeapType::Other => break,
            }
        }
        frames.reverse();
        Ok(CoroutineChain::Waits(frames))
    }

    /// Returns the frame of a suspended coroutine, and the object that it awaits, 0 if it awaits none; `None` for one that is not
    /// suspended.
    fn suspended(&self, coroutine: u64) -> Result<Option<(RawFrame, u64)>, MemoryError> {
        let blocks = &self.heap.blocks;
        let (address, suspension) = match self.layout.frame {
            CoroutineFrame::Pointer(at) => (blocks.u64(coroutine.wrapping_add(at))?, Some(Suspension::Instruction)),
            CoroutineFrame::Inside { at, state } => {
                let mut byte = [0];
                blocks.fill(coroutine.wrapping_add(state), &mut byte)?;
                (coroutine.wrapping_add(at), Suspension::of(self.minor, byte[0]))
            }
        };
        let Some(suspension) = suspension.filter(|_| address != 0) else { return Ok(None) };
        let [first, second] = match self.layout.top {
            StackTop::Pointer { at } => [at, at],
            StackTop::Depth { base, at } | StackTop::Index { base, at } => [base, at],
        };
        let mut record = [0; MAX_RECORD];
        blocks.fill(address, &mut record[..self.frame.len().max(first + 8).max(second + 8)])?;
        let frame = self.frame.raw(address, &record);
        let values =
            |base: u64, at| u64::try_from(signed_half(&record, at)).ok().map(|count| base.wrapping_add(8 * count));
        let top = match self.layout.top {
            StackTop::Pointer { at } => Some(word(&record, at)),
            StackTop::Depth { base, at } => values(word(&record, base), at),
            StackTop::Index { base, at } => values(address.wrapping_add(base as u64), at),
        };
        // It has no value if the coroutine runs.
        let Some(top) = top.filter(|top| *top >= self.layout.back) else { return Ok(None) };
        let has_begun = !matches!(frame.instruction, RawInstruction::Offset(offset) if offset < 0);
        let awaits = match suspension {
            _ if !has_begun => return Ok(None),
            Suspension::Awaits => true,
            Suspension::Yields => false,
            Suspension::Instruction => self.awaits(&frame)?,
        };
        let awaited = if awaits { blocks.u64(top.wrapping_sub(self.layout.back))? & !self.frame.tags } else { 0 };
        Ok(Some((frame, awaited)))
    }

    /// Whether a suspended coroutine awaits an object, by the instruction behind its current one: `YIELD_FROM` before 3.11, `RESUME` with
    /// an argument of 2 or more in 3.11 and 3.12 (`_PyGen_yf`, Objects/genobject.c at v3.8.0, v3.10.0, v3.11.0 and v3.12.0).
    fn awaits(&self, frame: &RawFrame) -> Result<bool, MemoryError> {
        const YIELD_FROM: u8 = 72;
        let address = match frame.instruction {
            RawInstruction::Address(address) => address,
            RawInstruction::Offset(offset) => {
                let InstructionsPlace::Bytes(at) = self.codes.instructions() else { return Ok(false) };
                // Behind the header of the object of type `bytes`.
                let bytes = self.heap.blocks.u64(frame.code.wrapping_add(at as u64))?;
                bytes.wrapping_add(32).wrapping_add_signed(offset)
            }
        };
        let mut next = [0; 2];
        self.heap.blocks.fill(address.wrapping_add(2), &mut next)?;
        Ok(if self.minor < 11 { next[0] == YIELD_FROM } else { next[1] >= 2 })
    }
}
