//! Offsets of the structs of tasks and coroutines.

use super::{
    super::{
        memory::{MemoryError, MemoryReader, readable, words_of},
        process::TargetProcess,
    },
    layout::PublishedPlaces,
};

/// Layout of suspended coroutines and generators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CoroutineLayout {
    /// Place of the frame.
    pub(super) frame: CoroutineFrame,
    /// Place of the top of the frame's stack of values.
    pub(super) top: StackTop,
    /// Number of bytes from the top of this stack down to the awaited object.
    pub(super) back: u64,
}

/// Place of the frame of a coroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CoroutineFrame {
    /// Behind a pointer, `cr_frame`: before 3.11.
    Pointer(u64),
    /// In the coroutine itself: `cr_iframe`.
    Inside {
        /// Offset of the frame.
        at: u64,
        /// Offset of `cr_frame_state`.
        state: u64,
    },
}

/// Place of the address of the top of a frame's stack of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StackTop {
    /// Pointer in the frame: `f_stacktop` of 3.8 and 3.9, `stackpointer` from 3.14.
    Pointer {
        /// Offset of the pointer.
        at: usize,
    },
    /// Pointer to the first value, `f_valuestack`, and number of values, `f_stackdepth`: 3.10.
    Depth {
        /// Offset of the pointer.
        base: usize,
        /// Offset of the number.
        at: usize,
    },
    /// Values in the frame, from `localsplus`, and their number, `stacktop`: 3.11 to 3.13.
    Index {
        /// Offset of the first value.
        base: usize,
        /// Offset of the number.
        at: usize,
    },
}

/// State of the frame of a coroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspension {
    /// It has yielded a value.
    Yields,
    /// It awaits another object.
    Awaits,
    /// The instruction behind its current one says which of the two.
    Instruction,
}

impl Suspension {
    /// Returns the meaning of a `cr_frame_state` (`PyFrameState`, Include/internal/pycore_frame.h at v3.11.0, v3.13.0 and v3.15.0); `None`
    /// for a coroutine that has not begun, runs, or has ended.
    pub(super) const fn of(minor: u8, state: u8) -> Option<Self> {
        match (minor, state.cast_signed()) {
            (11 | 12, -1) => Some(Self::Instruction),
            (13 | 14, -2) | (15, 1) => Some(Self::Yields),
            (13 | 14, -1) | (15, 2) => Some(Self::Awaits),
            _ => None,
        }
    }
}

impl CoroutineLayout {
    /// Returns the layout of a version (Include/genobject.h, Include/cpython/frameobject.h, Include/internal/pycore_frame.h of 3.8.18 to
    /// 3.13.0); `None` for one that publishes it and did not.
    pub(super) fn of_minor(minor: u8, published: Option<PublishedPlaces>) -> Option<Self> {
        let inside = |at, state| CoroutineFrame::Inside { at, state };
        let (pointer, index) = (CoroutineFrame::Pointer(16), StackTop::Index { base: 72, at: 64 });
        let (frame, top, back) = match (minor, published) {
            (8 | 9, _) => (pointer, StackTop::Pointer { at: 72 }, 8),
            (10, _) => (pointer, StackTop::Depth { base: 64, at: 80 }, 8),
            (11, _) => (inside(80, 75), index, 8),
            (12 | 13, _) => (inside(72, 67), index, 8),
            (_, Some(places)) => {
                // From 3.15 on, an iterator's index is above it (`_PyGen_yf`, Objects/genobject.c).
                let back = if minor >= 15 { 16 } else { 8 };
                (inside(places.coroutine_frame, places.coroutine_state), StackTop::Pointer { at: places.stack }, back)
            }
            _ => return None,
        };
        Some(Self { frame, top, back })
    }
}

/// Offsets in a task of the C module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskLayout {
    /// `task_coro`; `task_name` follows it in all versions.
    pub(super) coroutine: u64,
    /// `task_state`, 4 bytes, which is 0 for a task that has not ended; `None` where the list of tasks has no other.
    pub(super) state: Option<u64>,
}

impl TaskLayout {
    /// Returns the layout of tasks with this size, before 3.14; `None` for an unknown one (`TaskObj`, Modules/_asynciomodule.c).
    ///
    /// Releases of one minor version differ: 3.10 has got a field, so the size decides.
    pub(super) const fn of_size(minor: u8, size: u64) -> Option<Self> {
        let (state, coroutine) = match (minor, size) {
            (8, 144) => (72, 112),
            (9 | 10, 184) => (80, 152),
            (10, 192) => (88, 160),
            (11 | 12, 176) => (88, 136),
            (13, 144) => (96, 120),
            _ => return None,
        };
        Some(Self { coroutine, state: Some(state) })
    }
}

/// Offsets that the module `_asyncio` publishes from 3.14 on (`Py_AsyncioModuleDebugOffsets`, Modules/_asynciomodule.c at v3.14.0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PublishedTasks {
    /// Size of a task.
    pub(super) size: u64,
    pub(super) coroutine: u64,
    /// `task_node`.
    pub(super) node: u64,
    /// `asyncio_tasks_head` of a thread state.
    pub(super) head: u64,
}

/// Number of words of the struct.
const WORDS: usize = 13;
/// Maximum number of bytes that are searched for the struct at one place.
const MAX_SEARCHED: u64 = 64 << 10;

impl PublishedTasks {
    /// Finds the struct in the memory of a process: in the data of the file of the module, or, if the interpreter contains the module,
    /// behind `_PyRuntime`, whose `end` is given: the linker puts sections of this kind next to each other.
    pub(super) fn find(process: &TargetProcess<'_>, end: u64) -> Result<Option<Self>, MemoryError> {
        let is_data = |path: &str| path.rsplit('/').next().is_some_and(|name| name.starts_with("_asyncio."));
        let data = process.mappings.iter().rev().filter(|one| one.readable && !one.executable && is_data(&one.path));
        let behind = process.mapping(end).map(|mapping| (end, mapping.end));
        for (start, end) in data.map(|mapping| (mapping.start, mapping.end)).take(8).chain(behind) {
            if let Some(found) = Self::within(process.memory, start, end)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn within(memory: MemoryReader<'_>, start: u64, end: u64) -> Result<Option<Self>, MemoryError> {
        let start = start.next_multiple_of(8);
        let len = usize::try_from(end.saturating_sub(start).min(MAX_SEARCHED)).unwrap_or(0);
        memory.work(len as u64)?;
        let Some(bytes) = readable(memory.bytes(start, len))? else { return Ok(None) };
        let words: Vec<u64> = words_of(&bytes).collect();
        Ok(words.windows(WORDS).find_map(Self::of))
    }

    /// Returns the offsets in these words, if they are the struct: its numbers hardly occur elsewhere.
    fn of(words: &[u64]) -> Option<Self> {
        let [size, name, awaited_by, is_task, is_set, coroutine, node, interpreter, tasks, thread, running, task, head] =
            *words.first_chunk::<WORDS>()?;
        let in_task =
            [name, awaited_by, is_task, is_set, coroutine, node].into_iter().all(|at| (16..size).contains(&at));
        let in_states = [
            (tasks, interpreter, 4 << 20),
            (head, thread, 64 << 10),
            (task, head, 64 << 10),
            (running, task, 64 << 10),
        ];
        let are_inside = in_states.into_iter().all(|(at, end, most)| at >= 8 && at < end && end < most);
        // Sums do not overflow from here on.
        let is_bounded = (64..=512).contains(&size) && in_task && are_inside;
        let are_aligned =
            [size, name, awaited_by, coroutine, node, head, tasks].into_iter().all(|at| at.is_multiple_of(8));
        let fits = is_bounded
            && (name == coroutine + 8 && node + 16 <= size && is_set == is_task + 1)
            && (running + 8 == task && head + 16 <= thread);
        (are_aligned && fits).then_some(Self { size, coroutine, node, head })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of 3.14.10 of Debian, as `readelf` shows them.
    const PUBLISHED: [u64; WORDS] = [168, 136, 96, 108, 109, 128, 152, 0x37248, 0x2a80, 936, 864, 872, 880];

    #[test]
    fn published_offsets_are_recognized() {
        let expected = PublishedTasks { size: 168, coroutine: 128, node: 152, head: 880 };
        assert_eq!(PublishedTasks::of(&PUBLISHED), Some(expected));
        for at in 0..WORDS {
            for other in [0, u64::MAX, 1 << 40] {
                let mut words = PUBLISHED;
                words[at] = other;
                assert_eq!(PublishedTasks::of(&words), None, "{at} {other}");
            }
        }
    }

    #[test]
    fn the_state_of_a_frame_has_the_numbers_of_its_version() {
        let of = |minor, state: i8| Suspension::of(minor, state.cast_unsigned());
        assert_eq!([of(12, -1), of(12, -2), of(12, 0)], [Some(Suspension::Instruction), None, None]);
        assert_eq!([of(14, -1), of(14, -2), of(14, -3)], [Some(Suspension::Awaits), Some(Suspension::Yields), None]);
        assert_eq!(
            [of(15, 2), of(15, 1), of(15, 0), of(15, 4)],
            [Some(Suspension::Awaits), Some(Suspension::Yields), None, None]
        );
    }
}
