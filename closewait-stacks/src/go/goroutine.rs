//! State of a goroutine: `g` of `src/runtime/runtime2.go` (go1.15 to go1.27).

use std::{collections::BTreeMap, ops::Range};

use super::{
    layout::{G_M, G_PC, G_SELF, G_SP},
    module::{self, GoModule},
};
use crate::{
    memory::{MemoryError, readable},
    process::{CopiedStack, Registers},
};

/// Number of bytes that are read of a `g`; those after them are not needed.
const G_LEN: usize = 192;
/// Flag of a status while the stack is scanned (`_Gscan`).
const SCAN: u32 = 0x1000;
/// Maximum length of a wait reason, bytes; the longest one of go1.27 has 38.
const MAX_REASON: u64 = 64;

/// Goroutine that has not ended. Two that are equal are the same one at the same place, so that it did not run in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Goroutine {
    /// Number that the runtime gave it (`goid`).
    pub(super) number: u64,
    /// Status without the flag of a scan.
    pub(super) status: GoroutineStatus,
    /// Number of the reason why it waits.
    pub(super) wait_reason: u8,
    /// Stack.
    pub(super) stack: Range<u64>,
    /// Stack pointer where it stopped, or entered its system call.
    pub(super) sp: u64,
    /// Address of the next instruction there.
    pub(super) pc: u64,
    /// Return address there, if the machine has a register for it and it is not on the stack; 0 otherwise.
    pub(super) lr: u64,
    /// Address of the thread that runs it (`m`); 0 if none does.
    thread: u64,
}

/// Status of a goroutine that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GoroutineStatus {
    /// Waits for a thread that runs it.
    Runnable,
    /// Runs.
    Running,
    /// Is in a system call, or in C code.
    SystemCall,
    /// Waits for something in the program.
    Waiting,
    /// Moves to another stack.
    CopyStack,
    /// Was stopped.
    Preempted,
    /// Waits for something that nothing else in the program has (1.26).
    Leaked,
}

impl GoroutineStatus {
    /// Returns the status with a number; `None` for those of goroutines that have ended or do not exist yet.
    fn of(number: u32) -> Option<Self> {
        Some(match number & !SCAN {
            1 => Self::Runnable,
            2 => Self::Running,
            3 => Self::SystemCall,
            4 => Self::Waiting,
            8 => Self::CopyStack,
            9 => Self::Preempted,
            10 => Self::Leaked,
            _ => return None,
        })
    }

    /// Returns the word that the runtime writes for it (`gStatusStrings`, `src/runtime/traceback.go`).
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Runnable => "runnable",
            Self::Running => "running",
            Self::SystemCall => "syscall",
            Self::Waiting => "waiting",
            Self::CopyStack => "copystack",
            Self::Preempted => "preempted",
            Self::Leaked => "leaked",
        }
    }
}

impl Goroutine {
    /// Reads the goroutine at an address; `None` for one that has ended, or whose state is inconsistent.
    pub(super) fn at(module: &GoModule<'_>, address: u64) -> Result<Option<Self>, MemoryError> {
        let Some(fields) = fields(module, address)? else { return Ok(None) };
        let layout = &module.layout;
        let Some(status) = GoroutineStatus::of(fields.u32(layout.g_status)) else { return Ok(None) };
        // `entersyscall` saves where it was called in fields of their own.
        let in_call = status == GoroutineStatus::SystemCall;
        let (sp, pc) = if in_call { (layout.g_syscall, layout.g_syscall + 8) } else { (G_SP, G_PC) };
        let number = fields.u64(layout.g_status + 8);
        let lr = if in_call || !module.has_link_register() { 0 } else { fields.u64(layout.g_lr) };
        Ok((number != 0).then(|| Self {
            number,
            status,
            wait_reason: fields.0[layout.g_wait_reason],
            stack: fields.u64(0)..fields.u64(8),
            sp: fields.u64(sp),
            pc: fields.u64(pc),
            lr,
            thread: fields.u64(G_M),
        }))
    }

    /// Returns the goroutine of a copied stack: in a system call, behind its instruction.
    pub(super) fn in_system_call(copy: &CopiedStack) -> Self {
        let Registers { pc, sp, lr, .. } = copy.registers;
        let stack = sp..sp.saturating_add(copy.bytes.len() as u64);
        let status = GoroutineStatus::SystemCall;
        Self { number: 0, status, wait_reason: 0, stack, sp, pc, lr: lr.unwrap_or(0), thread: 0 }
    }

    /// Returns the thread that runs it, or its system call; `None` if none does, or if it is none of the process.
    /// `threads` has the numbers of the threads by those that the program itself sees.
    pub(super) fn thread(&self, threads: &BTreeMap<u64, u32>, module: &GoModule<'_>) -> Option<u32> {
        if self.thread == 0 {
            return None;
        }
        let number = module.memory.u64(self.thread.wrapping_add(module.layout.m_thread as u64)).ok()?;
        threads.get(&number).copied()
    }
}

/// Whether there is a goroutine at an address, even one that has ended.
pub(super) fn is_goroutine(module: &GoModule<'_>, address: u64) -> Result<bool, MemoryError> {
    Ok(readable(fields(module, address))?.flatten().is_some())
}

/// First bytes of a `g`.
struct GoroutineFields([u8; G_LEN]);

impl GoroutineFields {
    fn u64(&self, at: usize) -> u64 {
        self.0.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
    }

    fn u32(&self, at: usize) -> u32 {
        self.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
    }
}

/// Reads the `g` at an address; `None` if there is none.
fn fields(module: &GoModule<'_>, address: u64) -> Result<Option<GoroutineFields>, MemoryError> {
    /// Largest number of a status in go1.27.
    const LAST_STATUS: u32 = 11;
    if !address.is_multiple_of(8) {
        return Ok(None);
    }
    let fields = GoroutineFields(module.memory.array(address)?);
    let status = fields.u32(module.layout.g_status) & !SCAN;
    let (low, high) = (fields.u64(0), fields.u64(8));
    // `newproc1` sets it before anything else can run the goroutine, and nothing changes it.
    let is_it = fields.u64(G_SELF) == address && status <= LAST_STATUS && low <= high && high - low <= 2 << 30;
    Ok(is_it.then_some(fields))
}

/// Reasons why goroutines wait, as texts: `runtime.waitReasonStrings` (`src/runtime/runtime2.go`).
#[derive(Debug)]
pub(super) struct WaitReasons<'m, 'a> {
    module: &'m GoModule<'a>,
    /// Address of the first string; `None` if it was not found.
    strings: Option<u64>,
    known: [Option<Option<String>>; 256],
}

impl<'m, 'a> WaitReasons<'m, 'a> {
    /// Finds the texts among the variables by the first ones, which are the same in all versions.
    pub(super) fn find(module: &'m GoModule<'a>) -> Result<Self, MemoryError> {
        const FIRST: [&str; 3] = ["", "GC assist marking", "IO wait"];
        let strings = module::search(module.memory, module.data.clone(), 2 * FIRST.len(), |address, words| {
            let (words, _) = words.as_chunks::<2>();
            if words.iter().zip(FIRST).any(|([_, len], text)| *len != text.len() as u64) {
                return Ok(None);
            }
            for ([start, _], text) in words.iter().zip(FIRST).skip(1) {
                if readable(module.memory.bytes(*start, text.len()))?.as_deref() != Some(text.as_bytes()) {
                    return Ok(None);
                }
            }
            Ok(Some(address))
        })?;
        Ok(Self { module, strings, known: [const { None }; 256] })
    }

    /// Returns the text of a reason; `None` if it is unknown.
    pub(super) fn text(&mut self, reason: u8) -> Option<String> {
        if self.known[usize::from(reason)].is_none() {
            self.known[usize::from(reason)] = Some(self.read(reason));
        }
        self.known[usize::from(reason)].clone().flatten()
    }

    fn read(&self, reason: u8) -> Option<String> {
        let at = self.strings?.wrapping_add(16 * u64::from(reason));
        let [start, len] = self.module.memory.words(at).ok()?;
        if len == 0 || len > MAX_REASON || !self.module.object.contains(start) {
            return None;
        }
        let text = String::from_utf8(self.module.memory.bytes(start, usize::try_from(len).ok()?).ok()?).ok()?;
        text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()).then_some(text)
    }
}
