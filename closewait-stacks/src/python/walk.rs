//! Interpreters, thread states and frames.

use std::collections::BTreeSet;

use super::{
    super::{
        blocks::{BlockReader, signed_half, word},
        memory::{MemoryError, readable},
        numbers::ThreadNumbers,
        process::TargetProcess,
        stack::{Frame, MAX_FRAMES, Stack, StackError},
    },
    code::{CodeReader, NamedFrame, RawFrame},
    layout::{FIRST_FOREIGN_OWNER, LockPlace, MAX_RECORD, PythonLayout},
    runtime::RunningPython,
    tasks,
};

/// Maximum number of interpreters. A program has one, unless it makes more itself, as mod_wsgi does.
const MAX_INTERPRETERS: usize = 16;
/// Maximum number of thread states that one pass reads.
const MAX_THREADS: usize = 2048;
/// Maximum number of frames of a stack that are passed, with those that the interpreter adds for itself.
const MAX_PASSED: usize = 3 * MAX_FRAMES;
/// Number of times that the frames of a thread are read again while they change.
const TRIES: usize = 3;

const UNREADABLE: &str = "a frame cannot be read";
const DAMAGED: &str = "a frame does not fit its code";
const DEEP: &str = "more frames are not read";
const CYCLE: &str = "the frames form a cycle";

/// Walk through the memory of a running CPython.
pub(super) struct PythonWalk<'a, 'p> {
    pub(super) process: &'p TargetProcess<'a>,
    pub(super) python: RunningPython,
    pub(super) layout: PythonLayout,
    /// Memory of the frames of one thread.
    frames: BlockReader<'a>,
    pub(super) codes: CodeReader<'a>,
    numbers: ThreadNumbers<'a>,
}

/// Frames of a thread before their names are read, innermost first.
pub(super) struct RawStack {
    pub(super) frames: Vec<RawFrame>,
    pub(super) cut: Option<&'static str>,
}

/// First fields of a thread state.
struct PythonThread {
    address: u64,
    record: [u8; MAX_RECORD],
}

impl<'a, 'p> PythonWalk<'a, 'p> {
    pub(super) fn new(process: &'p TargetProcess<'a>, python: RunningPython) -> Self {
        let (memory, layout) = (process.memory, python.layout);
        Self {
            process,
            python,
            layout,
            frames: BlockReader::new(memory),
            codes: CodeReader::new(memory, layout),
            numbers: ThreadNumbers::new(memory, python.machine, process.threads),
        }
    }

    /// Returns the stacks of all threads that have frames, and of the tasks of asyncio that wait.
    pub(super) fn stacks(&self) -> Result<Vec<Stack>, StackError> {
        let memory = self.process.memory;
        let mut interpreter = memory.u64(self.python.runtime.wrapping_add(self.layout.interpreters))?;
        if interpreter == 0 {
            return Err(StackError::Unexpected("Python has not started, or has ended".to_owned()));
        }
        let (mut stacks, mut left) = (Vec::new(), MAX_THREADS);
        let (mut interpreters, mut threads) = (Vec::new(), Vec::new());
        for _ in 0..MAX_INTERPRETERS {
            interpreters.push(interpreter);
            match self.interpreter(interpreter, &mut left, &mut stacks, &mut threads) {
                // The memory changes while it is read, and other threads can have been read before.
                Err(error) if stacks.is_empty() => return Err(error),
                Err(_) => break,
                Ok(()) => {}
            }
            match memory.u64(interpreter.wrapping_add(self.layout.next_interpreter)) {
                Ok(next) if next != 0 => interpreter = next,
                _ => break,
            }
        }
        let has_frames = stacks.iter().any(|stack: &Stack| !stack.frames.is_empty());
        if let Some(why) = stacks.first().and_then(|stack| stack.cut.clone()).filter(|_| !has_frames) {
            return Err(StackError::Unexpected(format!("Python 3.{}: {why}", self.python.minor)));
        }
        stacks.extend(tasks::stacks(self, &interpreters, &threads));
        Ok(stacks)
    }

    /// Adds the stacks of the threads of an interpreter, and the addresses of their states.
    fn interpreter(
        &self,
        interpreter: u64,
        left: &mut usize,
        stacks: &mut Vec<Stack>,
        threads: &mut Vec<u64>,
    ) -> Result<(), StackError> {
        let holder = self.place_of_holder(interpreter)?;
        let mut address = self.process.memory.u64(interpreter.wrapping_add(self.layout.threads))?;
        let mut seen = BTreeSet::new();
        while address != 0 && *left > 0 && seen.insert(address) {
            *left -= 1;
            self.frames.forget();
            let thread = self.thread(address)?;
            if word(&thread.record, self.layout.thread.interpreter) != interpreter {
                let minor = self.python.minor;
                return Err(StackError::Unexpected(format!("Python 3.{minor} has an unknown thread state")));
            }
            threads.push(address);
            let stack = self.stack(&thread, holder)?;
            if !stack.frames.is_empty() || stack.cut.is_some() {
                stacks.push(stack);
            }
            address = word(&thread.record, self.layout.thread.next);
        }
        if address != 0 && *left == 0 {
            self.process
                .memory
                .leave_out(format!("Python has more than {MAX_THREADS} thread states; others are not read"));
        }
        Ok(())
    }

    fn thread(&self, address: u64) -> Result<PythonThread, MemoryError> {
        let layout = &self.layout.thread;
        let ids = [layout.thread_id, layout.native_id.unwrap_or(0), layout.wants_lock.unwrap_or(0)];
        let len = [layout.next, layout.interpreter, layout.frame].into_iter().chain(ids).fold(0, usize::max) + 8;
        let mut record = [0; MAX_RECORD];
        self.frames.fill(address, &mut record[..len])?;
        Ok(PythonThread { address, record })
    }

    /// Returns the address of `last_holder` of the global interpreter lock.
    fn place_of_holder(&self, interpreter: u64) -> Result<Option<u64>, MemoryError> {
        match self.layout.lock {
            LockPlace::Runtime { holder } => Ok(Some(self.python.runtime.wrapping_add(holder))),
            LockPlace::Interpreter { pointer, holder } => {
                let lock = readable(self.process.memory.u64(interpreter.wrapping_add(pointer)))?;
                Ok(lock.map(|lock| lock.wrapping_add(holder)))
            }
        }
    }

    /// Whether a thread holds the global interpreter lock, whose `last_holder` is at `place`.
    fn holds_lock(&self, thread: &PythonThread, place: Option<u64>) -> Result<bool, MemoryError> {
        let Some(place) = place else { return Ok(false) };
        // `locked`, a number of 4 bytes, follows.
        let lock = readable(self.process.memory.array::<12>(place))?;
        Ok(lock.is_some_and(|lock| word(&lock, 0) == thread.address && signed_half(&lock, 8) == 1))
    }

    fn stack(&self, thread: &PythonThread, holder: Option<u64>) -> Result<Stack, MemoryError> {
        let layout = &self.layout.thread;
        let native = layout.native_id.and_then(|at| self.numbers.of_inner(word(&thread.record, at)));
        let tid = match native {
            Some(tid) => Some(tid),
            // A child that was forked can have the numbers of its parent's threads.
            None => self.numbers.of_pthread(word(&thread.record, layout.thread_id))?,
        };
        let first = self.first_frame(thread)?;
        let mut raw = self.walk(first)?;
        let mut same = raw.frames.len();
        for attempt in 0..TRIES {
            self.frames.forget();
            let again = self.thread(thread.address)?;
            let current = self.first_frame(&again)?;
            let holds = self.holds_lock(thread, holder)?;
            let wants = layout.wants_lock.is_some_and(|at| signed_half(&again.record, at) == 1);
            // Frames change only while their thread holds the lock.
            let is_still = attempt == 0 && !holds && current == first;
            let state = if holds { Some("holds the GIL") } else { wants.then_some("waits for the GIL") };
            if is_still {
                return self.name(raw, tid, state);
            }
            let next = self.walk(current)?;
            if next.frames == raw.frames {
                return self.name(next, tid, state);
            }
            let pairs = raw.frames.iter().rev().zip(next.frames.iter().rev());
            same = same.min(pairs.take_while(|(one, other)| one == other).count());
            raw = next;
        }
        // Outer frames that did not change are certain.
        raw.frames.drain(..raw.frames.len() - same);
        self.name(raw, tid, Some("running"))
    }

    /// Returns the address of the innermost frame of a thread; 0 if it has none.
    fn first_frame(&self, thread: &PythonThread) -> Result<u64, MemoryError> {
        let pointer = word(&thread.record, self.layout.thread.frame);
        match self.layout.thread.in_cframe {
            Some(_) if pointer == 0 => Ok(0),
            Some(at) => Ok(readable(self.frames.u64(pointer.wrapping_add(at)))?.unwrap_or(0)),
            None => Ok(pointer),
        }
    }

    fn walk(&self, first: u64) -> Result<RawStack, MemoryError> {
        let layout = &self.layout.frame;
        let len = layout.len();
        let (mut frames, mut seen, mut address) = (Vec::new(), BTreeSet::new(), first);
        while address != 0 {
            let mut record = [0; MAX_RECORD];
            // Frames can be in blocks that were read before.
            self.process.memory.work(16)?;
            if !seen.insert(address) {
                return Ok(RawStack { frames, cut: Some(CYCLE) });
            }
            if seen.len() > MAX_PASSED {
                return Ok(RawStack { frames, cut: Some(DEEP) });
            }
            if readable(self.frames.fill(address, &mut record[..len]))?.is_none() {
                return Ok(RawStack { frames, cut: Some(UNREADABLE) });
            }
            let owner = layout.owner.and_then(|at| record.get(at).copied());
            if owner.is_none_or(|owner| owner < FIRST_FOREIGN_OWNER) {
                frames.push(layout.raw(address, &record));
            }
            address = word(&record, layout.previous);
        }
        Ok(RawStack { frames, cut: None })
    }

    pub(super) fn name(
        &self,
        raw: RawStack,
        tid: Option<u32>,
        state: Option<&'static str>,
    ) -> Result<Stack, MemoryError> {
        let mut frames: Vec<Frame> = Vec::new();
        let mut cut = raw.cut.map(str::to_owned);
        for frame in &raw.frames {
            let why = match self.codes.frame(frame) {
                Ok(NamedFrame::Internal) => continue,
                Ok(NamedFrame::Call(call)) if frames.len() < MAX_FRAMES => {
                    frames.push(call);
                    continue;
                }
                Ok(NamedFrame::Call(_)) => format!("more than {MAX_FRAMES} frames"),
                Ok(NamedFrame::Damaged) => DAMAGED.to_owned(),
                Err(MemoryError::Unreadable { .. } | MemoryError::Refused(_)) => UNREADABLE.to_owned(),
                Err(error @ MemoryError::Limit(_)) if frames.is_empty() => return Err(error),
                Err(error @ MemoryError::Limit(_)) => error.to_string(),
            };
            cut = Some(why);
            break;
        }
        Ok(Stack { tid, state: state.map(str::to_owned), frames, cut, ..Stack::default() })
    }
}
