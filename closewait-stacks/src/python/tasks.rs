//! Tasks of asyncio that wait.
//!
//! Before 3.14, `asyncio.tasks` has all tasks in a set of weak references; from 3.14 on, thread states have lists of them. A task runs
//! while it is read, so each one is read twice, and counts only if its frames are the same.

use std::sync::Arc;

use super::{
    super::{
        blocks::{signed_half, word},
        memory::{MemoryError, readable},
        stack::{Stack, TASK_STATE},
    },
    coroutines::{CoroutineChain, CoroutineReader},
    heap::{HeapReader, HeapType},
    objects::ObjectReader,
    task_layout::{CoroutineLayout, PublishedTasks, TaskLayout},
    walk::{PythonWalk, RawStack},
};

/// Maximum number of tasks that one pass reads.
const MAX_TASKS: usize = 2048;
/// Maximum length of a task's name, bytes.
const MAX_NAME: usize = 64;

/// Reads tasks.
struct TaskReader<'w, 'a, 'p> {
    walk: &'w PythonWalk<'a, 'p>,
    heap: &'w HeapReader<'a>,
    coroutines: CoroutineReader<'w, 'a>,
    stacks: Vec<Stack>,
    /// Number of tasks that could not be read.
    unread: usize,
    /// Number of tasks that may still be read.
    left: usize,
}

/// Place of the lists of tasks.
enum TaskLists {
    /// In the module `asyncio.tasks` of each interpreter, whose modules are at this offset.
    Modules(u64),
    /// In each thread state.
    Threads(PublishedTasks),
}

/// Returns the tasks that wait, the oldest ones first. What cannot be read is left out with a reason.
pub(super) fn stacks(walk: &PythonWalk<'_, '_>, interpreters: &[u64], threads: &[u64]) -> Vec<Stack> {
    let (memory, python) = (walk.process.memory, &walk.python);
    let lists = match walk.layout.modules {
        Some(modules) => Ok(Some(TaskLists::Modules(modules))),
        None => PublishedTasks::find(walk.process, python.runtime.wrapping_add(walk.layout.runtime_len))
            .map(|found| found.map(TaskLists::Threads)),
    };
    let heap = HeapReader::new(memory, python.minor);
    let layout = CoroutineLayout::of_minor(python.minor, walk.layout.published);
    let (Ok(Some(lists)), Some(layout)) = (lists, layout) else { return Vec::new() };
    let coroutines =
        CoroutineReader { heap: &heap, codes: &walk.codes, minor: python.minor, frame: walk.layout.frame, layout };
    let mut reader = TaskReader { walk, heap: &heap, coroutines, stacks: Vec::new(), unread: 0, left: MAX_TASKS };
    let read = match lists {
        TaskLists::Modules(at) => interpreters.iter().try_for_each(|one| reader.of_interpreter(one.wrapping_add(at))),
        TaskLists::Threads(places) => threads.iter().try_for_each(|thread| reader.of_thread(*thread, &places)),
    };
    if let Err(error) = read {
        memory.leave_out(format!("tasks of asyncio were not read: {error}"));
    }
    if reader.unread > 0 {
        memory.leave_out(format!("{} tasks of asyncio could not be read", reader.unread));
    }
    // Those that have waited for long have the same place in each sample.
    reader.stacks.sort_by_key(|stack| stack.number.unwrap_or(u64::MAX));
    reader.stacks
}

impl TaskReader<'_, '_, '_> {
    const fn objects(&self) -> &ObjectReader<'_> {
        &self.walk.codes.objects
    }

    /// Adds the tasks of an interpreter before 3.14, the address of whose modules is at `place`.
    fn of_interpreter(&mut self, place: u64) -> Result<(), MemoryError> {
        let set_name = if self.walk.python.minor < 12 { "_all_tasks" } else { "_scheduled_tasks" };
        let modules = self.heap.blocks.u64(place)?;
        let Some(module) = self.heap.value(self.objects(), modules, "asyncio.tasks")? else { return Ok(()) };
        if self.heap.kind(module)? != HeapType::Module {
            return Ok(());
        }
        // `md_dict` of `PyModuleObject` (Objects/moduleobject.c at v3.8.0, Include/internal/pycore_moduleobject.h at v3.13.0).
        let names = self.heap.blocks.u64(module.wrapping_add(16))?;
        let Some(all) = self.heap.value(self.objects(), names, set_name)? else { return Ok(()) };
        let items = match self.data_of(all)? {
            Some(data) => self.heap.items(data, self.left)?,
            None => None,
        };
        let Some((items, are_more)) = items else {
            self.walk.process.memory.leave_out(format!(
                "tasks of asyncio were not read: Python 3.{} has an unknown set of them",
                self.walk.python.minor
            ));
            return Ok(());
        };
        for item in items {
            // `wr_object` of `PyWeakReference` (Include/weakrefobject.h at v3.8.0, Include/cpython/weakrefobject.h at v3.13.0).
            if readable(self.heap.kind(item))? == Some(HeapType::WeakReference) {
                let task = self.heap.blocks.u64(item.wrapping_add(16))?;
                self.add(task, None)?;
            }
        }
        self.leave_out_others(are_more);
        Ok(())
    }

    /// Returns the attribute `data` of a `WeakSet`, the first that its class sets (`__init__`, Lib/_weakrefset.py at v3.8.0 and v3.13.0).
    fn data_of(&self, object: u64) -> Result<Option<u64>, MemoryError> {
        if self.heap.kind(object)? != HeapType::WeakSet {
            return Ok(None);
        }
        let (blocks, objects) = (&self.heap.blocks, self.objects());
        let at = |offset: i64| blocks.u64(object.wrapping_add_signed(offset));
        // Attributes are in a dictionary, or as values before or in the object (`_PyObject_DictPointer` and `_PyObject_ValuesPointer`,
        // Include/internal/pycore_object.h at v3.11.0, v3.12.0 and v3.13.0).
        match self.walk.python.minor {
            ..=10 => self.heap.value(objects, at(16)?, "data"),
            11 => match at(-24)? {
                0 => blocks.u64(at(-32)?).map(Some),
                dict => self.heap.value(objects, dict, "data"),
            },
            12 => match at(-24)? {
                values if values & 1 == 1 => blocks.u64(values.wrapping_add(1)).map(Some),
                dict => self.heap.value(objects, dict, "data"),
            },
            // The fourth byte says whether the values in the object are in use.
            _ if at(16)?.to_le_bytes()[3] == 1 => at(24).map(Some),
            _ => self.heap.value(objects, at(-24)?, "data"),
        }
    }

    /// Adds the tasks of a thread state of 3.14 or later.
    fn of_thread(&mut self, thread: u64, places: &PublishedTasks) -> Result<(), MemoryError> {
        let head = thread.wrapping_add(places.head);
        let layout = TaskLayout { coroutine: places.coroutine, state: None };
        // `next` and `prev` of `llist_node` (Include/internal/pycore_llist.h at v3.14.0).
        let links = |node: u64| [self.heap.blocks.u64(node), self.heap.blocks.u64(node.wrapping_add(8))];
        let (mut before, mut nodes) = (head, Vec::new());
        loop {
            let [next, _] = links(before);
            let node = next?;
            if node == head || nodes.len() >= self.left || node == 0 {
                break;
            }
            // A list that changes while it is read ends here, and so does a cycle.
            if links(node)[1] != Ok(before) {
                self.unread += 1;
                break;
            }
            nodes.push(node);
            before = node;
        }
        let are_more = nodes.len() >= self.left && self.left > 0;
        for node in nodes {
            self.add(node.wrapping_sub(places.node), Some((layout, places.size)))?;
        }
        self.leave_out_others(are_more);
        Ok(())
    }

    fn leave_out_others(&self, are_more: bool) {
        if are_more {
            let sentence = format!("asyncio has more than {MAX_TASKS} tasks; others are not read");
            self.walk.process.memory.leave_out(sentence);
        }
    }

    /// Adds a task that waits.
    fn add(&mut self, task: u64, published: Option<(TaskLayout, u64)>) -> Result<(), MemoryError> {
        self.left = self.left.saturating_sub(1);
        match readable(self.task(task, published))? {
            Some(Some(stack)) => self.stacks.extend(stack),
            Some(None) | None => self.unread += 1,
        }
        Ok(())
    }

    /// Returns a task; the inner `None` for one that does not wait, the outer one for one that cannot be read.
    fn task(&self, task: u64, published: Option<(TaskLayout, u64)>) -> Result<Option<Option<Stack>>, MemoryError> {
        let blocks = &self.heap.blocks;
        let kind = self.heap.kind(task)?;
        let layout = match (kind, published) {
            (HeapType::Task(size), Some((layout, expected))) => Some(layout).filter(|_| size == expected),
            (HeapType::Task(size), None) => TaskLayout::of_size(self.walk.python.minor, size),
            // The object behind a weak reference is gone, or a task of another library.
            _ => None,
        };
        let Some(layout) = layout else { return Ok(None) };
        let mut state = [0; 4];
        if let Some(at) = layout.state {
            blocks.fill(task.wrapping_add(at), &mut state)?;
        }
        if state != [0; 4] {
            return Ok(Some(None));
        }
        let chain = || self.coroutines.chain(blocks.u64(task.wrapping_add(layout.coroutine))?);
        let frames = match chain()? {
            CoroutineChain::Waits(frames) => frames,
            CoroutineChain::Runs => return Ok(Some(None)),
            CoroutineChain::Damaged => return Ok(None),
        };
        let name = blocks.u64(task.wrapping_add(layout.coroutine + 8))?;
        blocks.forget();
        if !matches!(chain()?, CoroutineChain::Waits(again) if again == frames) {
            return Ok(Some(None));
        }
        let cut = if frames.is_empty() { Some("its code is not Python's") } else { None };
        let mut stack = self.walk.name(RawStack { frames, cut }, None, Some(TASK_STATE))?;
        (stack.name, stack.number) = self.name(name)?;
        Ok(Some(Some(stack)))
    }
}

impl TaskReader<'_, '_, '_> {
    /// Returns the name of a task, and the number in it, if it has the form that asyncio gives to tasks.
    fn name(&self, object: u64) -> Result<(Option<Arc<str>>, Option<u64>), MemoryError> {
        let memory = self.walk.process.memory;
        let text = match readable(self.heap.kind(object))? {
            // From 3.12 on, a number stands for a name. `lv_tag` and `ob_digit` of `PyLongObject` (Include/cpython/longintrepr.h).
            Some(HeapType::Number) => {
                let mut record = [0; 32];
                let Some(()) = readable(self.heap.blocks.fill(object, &mut record))? else { return Ok((None, None)) };
                let [low, high] = [24, 28].map(|at| u64::from(signed_half(&record, at).cast_unsigned()));
                let number = match word(&record, 16) >> 3 {
                    0 => 0,
                    1 => low,
                    2 => low | high << 30,
                    _ => return Ok((None, None)),
                };
                return Ok((Some(memory.name(&format!("Task-{number}"), MAX_NAME)?), Some(number)));
            }
            _ => readable(self.objects().name(object, MAX_NAME))?.flatten(),
        };
        let number = text.as_ref().and_then(|text| text.strip_prefix("Task-")?.parse().ok());
        Ok((text, number))
    }
}
