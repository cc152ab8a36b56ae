//! Threads of MRI, and their control frames.

use std::collections::BTreeSet;

use super::{
    super::{
        blocks::word,
        calls::{DAMAGED, DEEP, MAX_PASSED, NamedCall, RawCall, RawCalls, UNREADABLE},
        memory::{MemoryError, readable},
        numbers::ThreadNumbers,
        process::TargetProcess,
        stack::{Frame, Stack, StackError},
    },
    layout::{RubyLayout, ThreadsPlace},
    methods::MethodNames,
    objects::RubyObjects,
    sequences,
    vm::RunningRuby,
};

/// Maximum number of ractors.
const MAX_RACTORS: usize = 64;
/// Maximum number of threads that one pass reads.
const MAX_THREADS: usize = 2048;
/// Size of the parts of `rb_thread_t` and `rb_execution_context_t` that are read.
const RECORD: usize = 96;
/// Bits of the type of a frame without instructions, and the type of a method in C (`VM_FRAME_MAGIC_MASK`, `VM_FRAME_MAGIC_CFUNC`,
/// vm_core.h at `v2_7_4` and `v3_3_8`).
const TYPE: u64 = 0x7fff_0001;
const METHOD: u64 = 0x5555_0001;

/// Walk through the memory of a running MRI.
pub(super) struct RubyWalk<'a, 'p> {
    process: &'p TargetProcess<'a>,
    ruby: RunningRuby,
    layout: RubyLayout,
    objects: RubyObjects<'a>,
    methods: MethodNames,
    numbers: ThreadNumbers<'a>,
}

impl<'a, 'p> RubyWalk<'a, 'p> {
    pub(super) fn new(process: &'p TargetProcess<'a>, ruby: RunningRuby) -> Self {
        let (memory, layout) = (process.memory, ruby.layout);
        Self {
            process,
            ruby,
            layout,
            objects: RubyObjects::new(memory, layout),
            methods: MethodNames::new(ruby.vm, layout),
            numbers: ThreadNumbers::new(memory, ruby.machine, process.threads),
        }
    }

    /// Returns the stacks of all threads that have frames.
    pub(super) fn stacks(&self) -> Result<Vec<Stack>, StackError> {
        let (mut stacks, vm) = (Vec::new(), self.ruby.vm);
        match self.layout.threads {
            ThreadsPlace::Vm(threads) => self.threads(vm.wrapping_add(threads), &mut stacks)?,
            ThreadsPlace::Ractors { ractors, node, threads } => {
                for ractor in self.list(vm.wrapping_add(ractors), MAX_RACTORS)? {
                    self.threads(ractor.wrapping_sub(node).wrapping_add(threads), &mut stacks)?;
                }
            }
        }
        let has_frames = stacks.iter().any(|stack| !stack.frames.is_empty());
        match stacks.first().and_then(|stack| stack.cut.clone()) {
            Some(why) if !has_frames => Err(StackError::Unexpected(format!("Ruby: {why}"))),
            _ => Ok(stacks),
        }
    }

    /// Returns the nodes of a list (`ccan_list_head`, ccan/list/list.h), at most `most`.
    fn list(&self, head: u64, most: usize) -> Result<Vec<u64>, MemoryError> {
        let (mut nodes, mut seen) = (Vec::new(), BTreeSet::from([head]));
        let mut node = self.process.memory.u64(head)?;
        while seen.insert(node) {
            if nodes.len() == most {
                self.process
                    .memory
                    .leave_out(format!("Ruby has more than {most} threads or ractors; others are not read"));
                break;
            }
            nodes.push(node);
            // The list changes while it is read.
            let Some(next) = readable(self.process.memory.u64(node))? else { break };
            node = next;
        }
        Ok(nodes)
    }

    /// Adds the stacks of a list of threads.
    fn threads(&self, head: u64, stacks: &mut Vec<Stack>) -> Result<(), StackError> {
        // The node is the first field of a thread.
        for thread in self.list(head, MAX_THREADS.saturating_sub(stacks.len()))? {
            match self.thread(thread) {
                Ok(stack) => stacks.extend(stack),
                // Other threads can have been read before.
                Err(error) if stacks.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Returns the stack of a thread; `None` if it has no frames.
    fn thread(&self, address: u64) -> Result<Option<Stack>, StackError> {
        let (memory, layout) = (self.process.memory, &self.layout);
        let thread = memory.array::<RECORD>(address)?;
        if word(&thread, layout.vm) != self.ruby.vm {
            return Err(StackError::Unexpected("Ruby has an unknown thread".to_owned()));
        }
        let id = word(&thread, layout.thread_id);
        let id = match layout.native_id {
            // Without a thread of the kernel, a thread waits for one.
            Some(_) if id == 0 => Some(0),
            Some(at) => readable(memory.u64(id.wrapping_add(at)))?,
            None => Some(id),
        };
        let tid = self.numbers.of_pthread(id.unwrap_or(0))?;
        let context = word(&thread, layout.context);
        let raw = RawCalls::settled(&|| self.calls(context, address))?;
        let stack = raw.stack(memory, tid, &|call| self.named(call))?;
        Ok(Some(stack).filter(|stack| !stack.frames.is_empty() || stack.cut.is_some()))
    }

    /// Reads the control frames of an execution context.
    fn calls(&self, context: u64, thread: u64) -> Result<RawCalls, MemoryError> {
        let (memory, size) = (self.process.memory, self.layout.frame as u64);
        let cut = |why| Ok(RawCalls::new(Vec::new(), Some(why)));
        // A thread that has just begun has none.
        if context == 0 {
            return Ok(RawCalls::new(Vec::new(), None));
        }
        let Some(record) = readable(memory.array::<RECORD>(context))? else { return cut(UNREADABLE) };
        // `vm_stack`, `vm_stack_size`, `cfp`.
        let (stack, words, first) = (word(&record, 0), word(&record, 8), word(&record, 16));
        if word(&record, self.layout.thread) != thread {
            return cut(DAMAGED);
        } else if stack == 0 || first == 0 {
            return Ok(RawCalls::new(Vec::new(), None));
        }
        // Frames grow down from the end of the stack; the outermost one is empty (`RUBY_VM_END_CONTROL_FRAME`, vm_core.h).
        let end = stack.wrapping_add(words.wrapping_mul(8)).wrapping_sub(size);
        let len = end.wrapping_sub(first);
        if first < stack || end < first || !len.is_multiple_of(size) {
            return cut(DAMAGED);
        }
        let count = usize::try_from(len / size).unwrap_or(usize::MAX);
        let is_whole = count <= MAX_PASSED;
        let Some(bytes) = readable(memory.bytes(first, count.min(MAX_PASSED) * self.layout.frame))? else {
            return cut(UNREADABLE);
        };
        let call = |(index, frame): (usize, &[u8])| RawCall {
            address: first.wrapping_add(size * index as u64),
            instruction: word(frame, 0),
            function: word(frame, 16),
            variables: word(frame, 32),
            is_outermost: index + 1 == count,
        };
        let calls = bytes.chunks_exact(self.layout.frame).enumerate().map(call).collect();
        Ok(RawCalls::new(calls, (!is_whole).then_some(DEEP)))
    }

    fn named(&self, call: &RawCall) -> Result<NamedCall, MemoryError> {
        if call.function != 0 {
            // A block in C has something else than instructions, and no program counter.
            if call.instruction == 0 {
                return Ok(NamedCall::Internal);
            }
            return sequences::named(&self.objects, &self.layout, call);
        }
        let kind = self.process.memory.u64(call.variables)? & TYPE;
        if kind != METHOD {
            return Ok(NamedCall::Internal);
        }
        let function = self.methods.name(&self.objects, call.variables)?;
        Ok(NamedCall::Call(Frame { function, ..Frame::default() }))
    }
}
