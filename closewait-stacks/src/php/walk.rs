//! Calls of PHP, from the innermost one outwards.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    super::{
        blocks::{half, word},
        calls::{CYCLE, DEEP, MAX_PASSED, NamedCall, RawCall, RawCalls, UNREADABLE},
        limit::{MAX_FILE_BYTES, MAX_FUNCTION_BYTES},
        memory::{MemoryError, MemoryReader, readable},
        process::TargetProcess,
        stack::{Frame, Stack, StackError},
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

/// Walk through the memory of a running PHP.
pub(super) struct PhpWalk<'a, 'p> {
    process: &'p TargetProcess<'a>,
    memory: MemoryReader<'a>,
    php: RunningPhp,
}

impl<'a, 'p> PhpWalk<'a, 'p> {
    pub(super) const fn new(process: &'p TargetProcess<'a>, php: RunningPhp) -> Self {
        Self { process, memory: process.memory, php }
    }

    pub(super) fn stack(&self) -> Result<Stack, StackError> {
        // Without thread safety, one thread runs PHP: the first one, in all servers that start it.
        let tid = self.process.threads.first().map(|thread| thread.tid);
        let raw = RawCalls::settled(&|| self.walk())?;
        if raw.calls.is_empty() && raw.cut.is_none() && !raw.is_running {
            return Ok(Stack { tid, state: Some(NO_SCRIPT.to_owned()), ..Stack::default() });
        }
        let stack = raw.stack(self.memory, tid, &|call| self.frame(call))?;
        match &stack.cut {
            Some(why) if stack.frames.is_empty() => Err(StackError::Unexpected(format!("PHP: {why}"))),
            _ => Ok(stack),
        }
    }

    fn walk(&self) -> Result<RawCalls, MemoryError> {
        let (mut calls, mut seen) = (Vec::new(), BTreeSet::new());
        let mut address = self.memory.u64(self.php.globals.wrapping_add(CURRENT))?;
        while address != 0 {
            if !seen.insert(address) {
                return Ok(RawCalls::new(calls, Some(CYCLE)));
            } else if seen.len() > MAX_PASSED {
                return Ok(RawCalls::new(calls, Some(DEEP)));
            }
            let Some(record) = readable(self.memory.array::<CALL>(address))? else {
                return Ok(RawCalls::new(calls, Some(UNREADABLE)));
            };
            let (instruction, function, previous) = (word(&record, 0), word(&record, 24), word(&record, 48));
            // `zend_call_function` puts a call without a function before that of a callback, and a generator one for those that delegate
            // to it (`yield from`), which have no frames here.
            if function != 0 {
                calls.push(RawCall { address, instruction, function, variables: 0, is_outermost: previous == 0 });
            }
            address = previous;
        }
        Ok(RawCalls::new(calls, None))
    }

    fn frame(&self, call: &RawCall) -> Result<NamedCall, MemoryError> {
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
            None => Arc::from(if call.is_outermost { "{main}" } else { "include" }),
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
