//! Way from an address to the end of its function, for code without a table for unwinding, as that of musl.
//!
//! Every way to the end of a function takes back what the function has put on the stack. So the instructions from the address to the
//! return say where the return address and the saved registers are. Nothing is executed: only instructions that move the stack pointer
//! or load registers from the stack count, and an unknown instruction ends the search. A way over a call that never returns would lead
//! into the next function; the caller of this code therefore checks that the result is behind a call.

use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry};

use object::elf;

use super::{
    aarch64,
    registers::Convention,
    rule::{CfaPlace, SavedPlace, UnwindRule},
    x86_64,
};
use crate::process::TargetProcess;

/// Maximum number of instructions of all ways that are tried.
const MAX_INSTRUCTIONS: usize = 512;
/// Maximum number of ways that are tried.
const MAX_WAYS: usize = 16;
/// Maximum number of bytes of an instruction: 15 on x86_64.
const LONGEST: usize = 16;
/// Number of bytes of code that are read at once. They do not cross into another page.
const BLOCK: u64 = 256;

/// Instruction, as far as it matters for the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    /// Number of bytes.
    pub(super) len: u64,
    /// Effect on the stack, or on the way.
    pub(super) effect: Effect,
}

/// Register that an address is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// Stack pointer.
    Stack,
    /// Frame pointer.
    Frame,
}

/// Effect of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// None.
    Other,
    /// The stack pointer grows by this number of bytes.
    Add(i64),
    /// The stack pointer becomes the frame pointer plus this offset.
    FromFramePointer(i64),
    /// The stack pointer becomes the frame pointer, and the frame pointer is popped.
    Leave,
    /// Registers (DWARF numbers) are loaded from memory, 8 bytes each. Then the stack pointer grows.
    Load {
        /// Registers, the first one at the lower address.
        registers: [Option<u16>; 2],
        /// Register that the address is relative to.
        base: Base,
        /// Offset of the first register, bytes.
        offset: i64,
        /// Number of bytes by which the stack pointer grows.
        add: i64,
    },
    /// The way goes on there.
    Jump(u64),
    /// The way goes on there or behind the instruction.
    Branch(u64),
    /// Call of a function.
    Call,
    /// Return to the caller.
    Return,
    /// Stop that no program survives: the code has no caller.
    Halt,
}

/// Way from the address.
#[derive(Clone, Debug)]
struct Way {
    pc: u64,
    /// Address of the stack's top.
    top: (Base, i64),
    /// Places of registers.
    saved: Vec<(u16, Option<(Base, i64)>)>,
    has_called: bool,
}

/// Returns the rule for `pc` in code of this convention; `None` if no way to the end is found. The return address must be checked.
pub(super) fn rule(process: &TargetProcess<'_>, convention: Convention, pc: u64) -> Option<UnwindRule> {
    let mut code = CodeBytes { process, blocks: BTreeMap::new() };
    if is_outermost(&mut code, convention, pc) {
        return Some(root(convention));
    }
    let mut seen = BTreeSet::new();
    let mut ways = vec![Way { pc, top: (Base::Stack, 0), saved: Vec::new(), has_called: false }];
    // A call may not return, so ways over calls come last.
    let mut over_calls = VecDeque::new();
    while let Some(mut way) = ways.pop().or_else(|| over_calls.pop_front()) {
        // A way that meets another one ends as that did.
        while seen.insert(way.pc) {
            if seen.len() >= MAX_INSTRUCTIONS {
                return None;
            }
            let Some(Instruction { len, effect }) = code.decode(convention, way.pc) else { break };
            let next = way.pc.wrapping_add(len);
            way.pc = next;
            match effect {
                Effect::Other => {}
                Effect::Jump(target) => way.pc = target,
                Effect::Branch(target) => {
                    if ways.len() < MAX_WAYS {
                        ways.push(Way { pc: target, ..way.clone() });
                    }
                }
                Effect::Call => {
                    if over_calls.len() < MAX_WAYS {
                        over_calls.push_back(Way { has_called: true, ..way });
                    }
                    break;
                }
                Effect::Return => match way.rule(convention) {
                    Some(rule) => return Some(rule),
                    None => break,
                },
                Effect::Halt => break,
                Effect::Add(_) | Effect::FromFramePointer(_) | Effect::Leave | Effect::Load { .. } => {
                    if way.apply(convention, effect).is_none() {
                        break;
                    }
                }
            }
        }
    }
    None
}

/// Whether no caller is left: `_start` and `clone` of musl and glibc stop a few instructions behind the call of the program's function.
fn is_outermost(code: &mut CodeBytes<'_>, convention: Convention, pc: u64) -> bool {
    const MOST: usize = 8;
    let mut at = pc;
    for _ in 0..MOST {
        match code.decode(convention, at) {
            Some(Instruction { effect: Effect::Halt, .. }) => return true,
            Some(Instruction { effect: Effect::Other, len }) => at = at.wrapping_add(len),
            Some(_) | None => return false,
        }
    }
    false
}

fn root(convention: Convention) -> UnwindRule {
    let return_address = convention.return_address;
    let saved = vec![(return_address, SavedPlace::Undefined)];
    UnwindRule { cfa: CfaPlace::Register(convention.sp, 0), saved, return_address, is_signal: false, is_derived: true }
}

impl Way {
    /// Applies an effect on the stack; `None` if it is beyond all bounds.
    fn apply(&mut self, convention: Convention, effect: Effect) -> Option<()> {
        let (base, top) = self.top;
        match effect {
            Effect::Add(len) => self.top = (base, top.checked_add(len)?),
            Effect::FromFramePointer(offset) => self.top = (Base::Frame, offset),
            Effect::Leave => {
                self.load(convention.fp, Some((Base::Frame, 0)));
                self.top = (Base::Frame, 8);
            }
            Effect::Load { registers, base: from, offset, add } => {
                let (from, start) = if from == Base::Stack { (base, top.checked_add(offset)?) } else { (from, offset) };
                for (register, at) in registers.into_iter().zip([start, start.checked_add(8)?]) {
                    // The way itself has pushed what is below the address where it began.
                    let place = Some((from, at)).filter(|_| from == Base::Frame || at >= 0);
                    if let Some(register) = register {
                        self.load(register, place);
                    }
                }
                self.top = (base, top.checked_add(add)?);
            }
            Effect::Other | Effect::Jump(_) | Effect::Branch(_) | Effect::Call | Effect::Return | Effect::Halt => {}
        }
        Some(())
    }

    fn load(&mut self, register: u16, place: Option<(Base, i64)>) {
        self.saved.retain(|(known, _)| *known != register);
        self.saved.push((register, place));
    }

    /// Returns the rule for a way that has come to the return.
    fn rule(self, convention: Convention) -> Option<UnwindRule> {
        let return_address = convention.return_address;
        let on_stack = if convention.lr.is_some() { 0 } else { 8 };
        let (base, top) = self.top;
        let cfa = top.checked_add(on_stack)?;
        if base == Base::Stack && top < 0 {
            return None;
        }
        let place = |place: Option<(Base, i64)>| match place {
            Some((own, at)) if own == base => SavedPlace::At(at.wrapping_sub(cfa)),
            Some(_) | None => SavedPlace::Undefined,
        };
        let is_kept = |register: u16| convention.is_preserved(register) || convention.lr == Some(register);
        let own = self.saved.into_iter().filter(|(register, _)| is_kept(*register));
        let mut saved: Vec<(u16, SavedPlace)> = own.map(|(register, at)| (register, place(at))).collect();
        if convention.lr.is_none() {
            saved.push((return_address, SavedPlace::At(-8)));
        } else if saved.contains(&(return_address, SavedPlace::Undefined)) {
            return None;
        } else if self.has_called && saved.iter().all(|(register, _)| *register != return_address) {
            // A call overwrites the link register.
            return None;
        }
        let register = if base == Base::Stack { convention.sp } else { convention.fp };
        let cfa = CfaPlace::Register(register, cfa);
        Some(UnwindRule { cfa, saved, return_address, is_signal: false, is_derived: true })
    }
}

/// Code, read in blocks.
struct CodeBytes<'a> {
    process: &'a TargetProcess<'a>,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl CodeBytes<'_> {
    fn decode(&mut self, convention: Convention, pc: u64) -> Option<Instruction> {
        self.process.memory.work(2 * LONGEST as u64).ok()?;
        let bytes = self.at(pc)?;
        match convention.machine {
            elf::EM_X86_64 => x86_64::decode(&bytes, pc),
            elf::EM_AARCH64 => aarch64::decode(&bytes, pc),
            _ => None,
        }
    }

    /// Returns the bytes from an address, as many as an instruction can have; zeros stand for those behind the code.
    fn at(&mut self, address: u64) -> Option<[u8; LONGEST]> {
        let mut bytes = [0; LONGEST];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let at = address.checked_add(index as u64)?;
            match self.byte(at) {
                Some(own) => *byte = own,
                None if index == 0 => return None,
                None => break,
            }
        }
        Some(bytes)
    }

    fn byte(&mut self, at: u64) -> Option<u8> {
        let start = at / BLOCK * BLOCK;
        let block = match self.blocks.entry(start) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                self.process.mapping(at).filter(|mapping| mapping.executable)?;
                place.insert(self.process.memory.bytes(start, BLOCK as usize).ok()?)
            }
        };
        block.get(usize::try_from(at - start).ok()?).copied()
    }
}
