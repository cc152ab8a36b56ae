//! Calls of PHP, from the innermost one outwards.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    super::{
        limit::{MAX_FILE_BYTES, MAX_FUNCTION_BYTES},
        memory::{MemoryError, MemoryReader, readable},
        process::TargetProcess,
        runtime::{half, word},
        stack::{FRAME_BYTES, Frame, MAX_FRAMES, Stack, StackError},
    },
    NO_SCRIPT,
    version::{PhpLayout, RunningPhp},
};

/// `current_execute_data` of `zend_executor_globals` (Zend/zend_globals.h at php-7.4.33, php-8.2.0 and php-8.4.0).
const CURRENT: u64 = 488;
/// Size of the part of `zend_execute_data` that is read: `opline` at 0, `func` at 24, `prev_execute_data` at 48
/// (Zend/zend_compile.h at php-7.4.33 and php-8.4.0).
const CALL: usize = 56;
/// Size of the part of `zend_op_array` that is read: `type` at 0, `function_name` at 8, `scope` at 16 (Zend/zend_compile.h), and those
/// of [`PhpLayout`].
const FUNCTION: usize = 176;
/// `ZEND_INTERNAL_FUNCTION`, `ZEND_USER_FUNCTION` and `ZEND_EVAL_CODE` (Zend/zend_compile.h).
const INTERNAL: u8 = 1;
const USER: u8 = 2;
const EVAL: u8 = 4;
/// Size of `zend_op`, and its `lineno` (Zend/zend_compile.h).
const INSTRUCTION: u64 = 32;
const LINE: u64 = 24;
/// Maximum number of calls of a stack that are passed, with those that the interpreter adds for itself.
const MAX_PASSED: usize = 3 * MAX_FRAMES;
/// Number of times that the calls are read while they change.
const TRIES: usize = 3;

const UNREADABLE: &str = "a frame cannot be read";
const DAMAGED: &str = "a frame does not fit its function";
const DEEP: &str = "more frames are not read";
const CYCLE: &str = "the frames form a cycle";

/// Walk through the memory of a running PHP.
pub(super) struct PhpWalk<'a, 'p> {
    process: &'p TargetProcess<'a>,
    memory: MemoryReader<'a>,
    php: RunningPhp,
}

/// Call before its names are read: addresses of `zend_execute_data`, instruction and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RawCall {
    address: u64,
    instruction: u64,
    function: u64,
}

/// Calls, innermost first.
struct RawCalls {
    calls: Vec<RawCall>,
    cut: Option<&'static str>,
}

impl<'a, 'p> PhpWalk<'a, 'p> {
    pub(super) const fn new(process: &'p TargetProcess<'a>, php: RunningPhp) -> Self {
        Self { process, memory: process.memory, php }
    }

    pub(super) fn stack(&self) -> Result<Stack, StackError> {
        // Without thread safety, one thread runs PHP: the first one, in all servers that start it.
        let tid = self.process.threads.first().map(|thread| thread.tid);
        let mut raw = self.walk()?;
        let mut state = Some("running");
        for _ in 1..TRIES {
            let again = self.walk()?;
            let pairs = raw.calls.iter().rev().zip(again.calls.iter().rev());
            let same = pairs.take_while(|(one, other)| one == other).count();
            let is_still = same == raw.calls.len() && same == again.calls.len();
            raw = again;
            if is_still {
                state = None;
                break;
            }
            // Outer calls that did not change are certain.
            raw.calls.drain(..raw.calls.len() - same);
        }
        if raw.calls.is_empty() && raw.cut.is_none() {
            return Ok(Stack { tid, state: Some(NO_SCRIPT.to_owned()), ..Stack::default() });
        }
        let (frames, cut) = self.name(&raw)?;
        if let (true, Some(why)) = (frames.is_empty(), &cut) {
            return Err(StackError::Unexpected(format!("PHP: {why}")));
        }
        Ok(Stack { tid, number: None, state: state.map(str::to_owned), frames, cut })
    }

    fn walk(&self) -> Result<RawCalls, MemoryError> {
        let (mut calls, mut seen) = (Vec::new(), BTreeSet::new());
        let mut address = self.memory.u64(self.php.globals.wrapping_add(CURRENT))?;
        while address != 0 {
            let cut = |calls, why| Ok(RawCalls { calls, cut: Some(why) });
            if !seen.insert(address) {
                return cut(calls, CYCLE);
            } else if seen.len() > MAX_PASSED {
                return cut(calls, DEEP);
            }
            let Some(record) = readable(self.memory.array::<CALL>(address))? else { return cut(calls, UNREADABLE) };
            let call = RawCall { address, instruction: word(&record, 0), function: word(&record, 24) };
            // `zend_call_function` puts a call without a function before that of a callback, and a generator one for those that delegate
            // to it (`yield from`), which have no frames here.
            if call.function != 0 {
                calls.push(call);
            }
            address = word(&record, 48);
        }
        Ok(RawCalls { calls, cut: None })
    }

    /// Returns the frames of calls, and the reason why outer ones are missing.
    fn name(&self, raw: &RawCalls) -> Result<(Vec<Frame>, Option<String>), MemoryError> {
        let mut frames = Vec::new();
        for (index, call) in raw.calls.iter().enumerate() {
            let is_outermost = raw.cut.is_none() && index + 1 == raw.calls.len();
            let why = match self.frame(call, is_outermost) {
                Ok(NamedCall::Internal) => continue,
                Ok(NamedCall::Call(frame)) if frames.len() < MAX_FRAMES => {
                    frames.push(frame);
                    continue;
                }
                Ok(NamedCall::Call(_)) => format!("more than {MAX_FRAMES} frames"),
                Ok(NamedCall::Damaged) => DAMAGED.to_owned(),
                Err(MemoryError::Unreadable { .. }) => UNREADABLE.to_owned(),
                Err(error @ MemoryError::Limit(_)) if frames.is_empty() => return Err(error),
                Err(error @ MemoryError::Limit(_)) => error.to_string(),
            };
            return Ok((frames, Some(why)));
        }
        Ok((frames, raw.cut.map(str::to_owned)))
    }

    fn frame(&self, call: &RawCall, is_outermost: bool) -> Result<NamedCall, MemoryError> {
        let PhpLayout { count, instructions, file } = self.php.layout;
        let mut record = [0; FUNCTION];
        // A function of a module is shorter: memory behind it can be missing.
        let (start, rest) = record.split_at_mut(24);
        self.memory.fill(call.function, start)?;
        match start[0] {
            INTERNAL => {}
            USER | EVAL => self.memory.fill(call.function.wrapping_add(24), rest)?,
            _ => return Ok(NamedCall::Damaged),
        }
        self.memory.keep(FRAME_BYTES)?;
        let (name, class) = (word(&record, 8), word(&record, 16));
        if record[0] == INTERNAL {
            // The function below a fiber has no name.
            let Some(function) = self.function(name, class)? else { return Ok(NamedCall::Internal) };
            return Ok(NamedCall::Call(Frame { function: Some(function), ..Frame::default() }));
        }
        let file = self.text(word(&record, file), MAX_FILE_BYTES)?;
        let Some(file) = file.filter(|file| !file.is_empty()) else { return Ok(NamedCall::Damaged) };
        let function = match self.function(name, class)? {
            Some(function) => function,
            None if record[0] == EVAL => Arc::from("eval"),
            None => Arc::from(if is_outermost { "{main}" } else { "include" }),
        };
        let offset = call.instruction.wrapping_sub(word(&record, instructions));
        let is_own = offset.is_multiple_of(INSTRUCTION) && offset / INSTRUCTION < half(&record, count).into();
        // The instruction that handles an exception belongs to no function.
        let line = if is_own { Some(self.memory.u32(call.instruction.wrapping_add(LINE))?) } else { None };
        let line = line.filter(|line| *line != 0);
        Ok(NamedCall::Call(Frame { function: Some(function), file: Some(file), line, ..Frame::default() }))
    }

    /// Returns the name of a function, after that of its class: `PDOStatement::execute`.
    fn function(&self, name: u64, class: u64) -> Result<Option<Arc<str>>, MemoryError> {
        /// `name` of `zend_class_entry` (Zend/zend.h).
        const NAME: u64 = 8;
        let Some(function) = self.text(name, MAX_FUNCTION_BYTES)?.filter(|_| name != 0) else { return Ok(None) };
        if class == 0 {
            return Ok(Some(function));
        }
        let class = self.memory.u64(class.wrapping_add(NAME))?;
        let Some(class) = self.text(class, MAX_FUNCTION_BYTES)? else { return Ok(Some(function)) };
        self.memory.name(&format!("{class}::{function}"), MAX_FUNCTION_BYTES).map(Some)
    }

    /// Returns the text of a `zend_string` as a name of at most `most` bytes (Zend/zend_types.h: `len` at 16, `val` at 24); `None` if
    /// there is none.
    fn text(&self, address: u64, most: usize) -> Result<Option<Arc<str>>, MemoryError> {
        if address == 0 {
            return Ok(None);
        }
        let len = self.memory.u64(address.wrapping_add(16))?;
        // One character more shows that the name is longer.
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(most + 4);
        let bytes = self.memory.bytes(address.wrapping_add(24), len)?;
        // The name of a class without one contains the place of its source behind a zero.
        let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        self.memory.name(&String::from_utf8_lossy(bytes), most).map(Some)
    }
}

/// Call with its names, or the reason why there is none.
enum NamedCall {
    /// Call of a function.
    Call(Frame),
    /// Call that the interpreter adds for itself.
    Internal,
    /// Call that does not fit its function.
    Damaged,
}
