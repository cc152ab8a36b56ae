//! Offsets of the structs of CPython.

use super::{super::stack::StackError, lines::LineFormat};

/// Maximum size of the parts of a thread state, a frame or a code object that are read, bytes.
pub(super) const MAX_RECORD: usize = 256;

/// Offsets of the structs of a version of CPython, for 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PythonLayout {
    /// `interpreters.head` of `_PyRuntimeState`.
    pub(super) interpreters: u64,
    /// `next` of `PyInterpreterState`.
    pub(super) next_interpreter: u64,
    /// `threads.head`, before 3.11 `tstate_head`, of `PyInterpreterState`.
    pub(super) threads: u64,
    /// Place of the global interpreter lock.
    pub(super) lock: LockPlace,
    /// Fields of `PyThreadState`.
    pub(super) thread: ThreadLayout,
    /// Fields of `_PyInterpreterFrame`, before 3.11 of `PyFrameObject`.
    pub(super) frame: FrameLayout,
    /// Fields of `PyCodeObject`.
    pub(super) code: CodeLayout,
    /// `modules`, from 3.12 `imports.modules`, of `PyInterpreterState`; `None` from 3.14 on, where tasks are found without it.
    pub(super) modules: Option<u64>,
    /// Offsets for coroutines, from 3.14.
    pub(super) published: Option<PublishedPlaces>,
    /// Size of `_PyRuntimeState`; 0 before 3.13.
    pub(super) runtime_len: u64,
    /// Size of `PyASCIIObject`: a text of ASCII characters follows it.
    pub(super) ascii: u64,
    /// Size of `PyCompactUnicodeObject`: any other text follows it.
    pub(super) compact: u64,
}

/// Place of the global interpreter lock (`struct _gil_runtime_state`): of `last_holder`, which `locked` follows in all versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockPlace {
    /// In `_PyRuntimeState`, one for all interpreters.
    Runtime {
        /// Offset of `ceval.gil.last_holder`.
        holder: u64,
    },
    /// Behind the pointer `ceval.gil` of `PyInterpreterState`.
    Interpreter {
        /// Offset of the pointer.
        pointer: u64,
        /// Offset of `last_holder`, from what it points to.
        holder: u64,
    },
}

/// Offsets that 3.14 and later publish for coroutines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PublishedPlaces {
    /// `gi_iframe`.
    pub(super) coroutine_frame: u64,
    /// `gi_frame_state`.
    pub(super) coroutine_state: u64,
    /// `stackpointer` of a frame.
    pub(super) stack: usize,
}

/// Fields of `PyThreadState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThreadLayout {
    pub(super) next: usize,
    pub(super) interpreter: usize,
    /// `thread_id`: the address of the C library's `struct pthread`.
    pub(super) thread_id: usize,
    /// `native_thread_id`: the kernel's number of the thread; from 3.11.
    pub(super) native_id: Option<usize>,
    /// `gil_requested`, from 3.15: whether the thread waits for the global interpreter lock.
    pub(super) wants_lock: Option<usize>,
    /// `frame`, `cframe` or `current_frame`.
    pub(super) frame: usize,
    /// Offset of `current_frame` in what `cframe` points to: 3.11 and 3.12.
    pub(super) in_cframe: Option<u64>,
}

/// Fields of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameLayout {
    pub(super) previous: usize,
    /// `f_code` or `f_executable`.
    pub(super) code: usize,
    /// Bits of `code` that are no address: tags of `_PyStackRef`, from 3.14.
    pub(super) tags: u64,
    pub(super) instruction: InstructionPlace,
    /// `owner`, from 3.11.
    pub(super) owner: Option<usize>,
}

/// Field of a frame with the current instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InstructionPlace {
    /// `f_lasti`, 4 bytes: an index; -1 before the first instruction.
    Index {
        /// Offset in the frame.
        at: usize,
        /// Number of bytes of an instruction that the index counts.
        unit: i64,
    },
    /// `prev_instr` or `instr_ptr`: an address.
    Address {
        /// Offset in the frame.
        at: usize,
    },
}

/// Fields of `PyCodeObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CodeLayout {
    pub(super) first_line: usize,
    pub(super) file: usize,
    /// `co_qualname`, before 3.11 `co_name`.
    pub(super) function: usize,
    /// `co_linetable`, before 3.10 `co_lnotab`.
    pub(super) lines: usize,
    pub(super) format: LineFormat,
    pub(super) instructions: InstructionsPlace,
    pub(super) shim: InitShim,
}

/// Mark of the code object of the frame that the interpreter adds to call `__init__` (`_Py_InitCleanup`, Python/specialize.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InitShim {
    /// There is none before 3.12.
    Absent,
    /// It has no names: 3.12 (v3.12.0).
    Unnamed,
    /// Its function and file are one object, `__init__`, and it has no first line: from 3.13 (v3.13.0). Code of a program can have such
    /// names too, but it has a first line.
    OneName,
}

/// Place of the instructions of a code object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InstructionsPlace {
    /// In the object of type `bytes` that `co_code` points to.
    Bytes(usize),
    /// In the code object itself: `co_code_adaptive`.
    Inside(u64),
}

/// Value of `owner` from which on a frame is not one of Python code: `FRAME_OWNED_BY_CSTACK` of 3.12 and 3.13,
/// `FRAME_OWNED_BY_INTERPRETER` of 3.14 (Include/internal/pycore_interpframe_structs.h at v3.14.0).
pub(super) const FIRST_FOREIGN_OWNER: u8 = 3;

impl PythonLayout {
    /// Returns the offsets of a version before 3.13, which does not publish them; `None` for an unsupported one.
    ///
    /// They were computed by a compiler from the headers of 3.8.18, 3.9.2, 3.9.18, 3.10.13, 3.11.2, 3.11.7 and 3.12.1
    /// (Include/internal/pycore_runtime.h, pycore_interp.h, pycore_frame.h, Include/cpython/pystate.h, code.h), for x86_64 and aarch64,
    /// with and without `Py_DEBUG`: all of these are equal for a minor version.
    pub(super) const fn of_minor(minor: u8) -> Option<Self> {
        match minor {
            8 => {
                let mut layout = Self::before_3_11();
                layout.lock = LockPlace::Runtime { holder: 1160 };
                layout.modules = Some(56);
                Some(layout)
            }
            9 => Some(Self::before_3_11()),
            10 => {
                let mut layout = Self::before_3_11();
                layout.frame.instruction = InstructionPlace::Index { at: 96, unit: 2 };
                layout.code.format = LineFormat::Ranges;
                Some(layout)
            }
            11 => Some(Self::of_3_11()),
            12 => Some(Self::of_3_12()),
            _ => None,
        }
    }

    const fn before_3_11() -> Self {
        Self {
            interpreters: 32,
            next_interpreter: 0,
            threads: 8,
            lock: LockPlace::Runtime { holder: 360 },
            thread: ThreadLayout {
                next: 8,
                interpreter: 16,
                thread_id: 176,
                native_id: None,
                wants_lock: None,
                frame: 24,
                in_cframe: None,
            },
            frame: FrameLayout {
                previous: 24,
                code: 32,
                tags: 0,
                instruction: InstructionPlace::Index { at: 104, unit: 1 },
                owner: None,
            },
            code: CodeLayout {
                first_line: 40,
                file: 104,
                function: 112,
                lines: 120,
                format: LineFormat::Deltas,
                instructions: InstructionsPlace::Bytes(48),
                shim: InitShim::Absent,
            },
            modules: Some(856),
            published: None,
            runtime_len: 0,
            ascii: 48,
            compact: 72,
        }
    }

    const fn of_3_11() -> Self {
        Self {
            interpreters: 40,
            next_interpreter: 0,
            threads: 16,
            lock: LockPlace::Runtime { holder: 368 },
            thread: ThreadLayout {
                next: 8,
                interpreter: 16,
                thread_id: 152,
                native_id: Some(160),
                wants_lock: None,
                frame: 56,
                in_cframe: Some(8),
            },
            frame: FrameLayout {
                previous: 48,
                code: 32,
                tags: 0,
                instruction: InstructionPlace::Address { at: 56 },
                owner: Some(69),
            },
            code: CodeLayout {
                first_line: 72,
                file: 112,
                function: 128,
                lines: 136,
                format: LineFormat::Locations,
                instructions: InstructionsPlace::Inside(184),
                shim: InitShim::Absent,
            },
            modules: Some(888),
            published: None,
            runtime_len: 0,
            ascii: 48,
            compact: 72,
        }
    }

    const fn of_3_12() -> Self {
        Self {
            interpreters: 40,
            next_interpreter: 0,
            threads: 72,
            lock: LockPlace::Interpreter { pointer: 384, holder: 8 },
            thread: ThreadLayout {
                next: 8,
                interpreter: 16,
                thread_id: 136,
                native_id: Some(144),
                wants_lock: None,
                frame: 56,
                in_cframe: Some(0),
            },
            frame: FrameLayout {
                previous: 8,
                code: 0,
                tags: 0,
                instruction: InstructionPlace::Address { at: 56 },
                owner: Some(70),
            },
            code: CodeLayout {
                first_line: 68,
                file: 112,
                function: 128,
                lines: 136,
                format: LineFormat::Locations,
                instructions: InstructionsPlace::Inside(192),
                shim: InitShim::Unnamed,
            },
            modules: Some(944),
            published: None,
            runtime_len: 0,
            ascii: 40,
            compact: 56,
        }
    }

    /// Adds the offsets for coroutines, as 3.14 and later publish them.
    pub(super) fn with_coroutines(mut self, minor: u8, words: &[u64; WORDS], coroutine: Option<[u64; 4]>) -> Self {
        let frame = WordPlaces::of_minor(minor).and_then(|places| words.get(places.frame..));
        self.published = frame.zip(coroutine).and_then(|(frame, coroutine)| PublishedPlaces::of(frame, &coroutine));
        self
    }

    /// Returns the offsets that 3.13 and later publish at the start of `_PyRuntime`.
    ///
    /// # Errors
    ///
    /// If the version is not supported, or an offset is none.
    pub(super) fn published(minor: u8, words: &[u64; WORDS]) -> Result<Self, StackError> {
        let version = || StackError::Version { runtime: "Python", version: format!("3.{minor}") };
        let places = WordPlaces::of_minor(minor).ok_or_else(version)?;
        if words[2] != 0 {
            let version = format!("3.{minor} without the global interpreter lock");
            return Err(StackError::Version { runtime: "Python", version });
        }
        // Objects of these types are read at offsets that no version has changed.
        let fixed = [(places.object + 1, 8), (places.types + 1, 24), (places.bytes + 1, 16), (places.bytes + 2, 32)];
        let text = [(places.text + 1, 32), (places.text + 2, 16), (places.text + 3, 40)];
        let differs = |(at, expected): (usize, u64)| words[at] != expected;
        // Offsets and sizes of the runtime and of an interpreter, which are the largest structs.
        let far = words[3..places.thread].iter().any(|word| *word > 4 << 20);
        if fixed.into_iter().chain(text).any(differs) || far {
            return Err(StackError::Unexpected(format!("Python 3.{minor} has other offsets of objects")));
        }
        let near = |place: usize| {
            let offset = usize::try_from(words[place]).ok().filter(|offset| *offset <= MAX_RECORD - 8);
            offset.ok_or_else(|| StackError::Unexpected(format!("Python 3.{minor} has an offset {}", words[place])))
        };
        let (thread, ids, frame, code) = (places.thread, places.ids, places.frame, places.code);
        let (locked, holder) = (words[places.lock + 3], words[places.lock + 4]);
        if locked != holder + 8 {
            return Err(StackError::Unexpected(format!("Python 3.{minor} has another lock")));
        }
        Ok(Self {
            interpreters: words[5],
            next_interpreter: words[8],
            threads: words[9],
            lock: LockPlace::Interpreter {
                pointer: words[places.lock],
                holder: holder.wrapping_sub(words[places.lock + 1]),
            },
            thread: ThreadLayout {
                next: near(thread + 2)?,
                interpreter: near(thread + 3)?,
                thread_id: near(ids)?,
                native_id: Some(near(ids + 1)?),
                wants_lock: places.wants_lock.map(near).transpose()?,
                frame: near(thread + 4)?,
                in_cframe: None,
            },
            frame: FrameLayout {
                previous: near(frame + 1)?,
                code: near(frame + 2)?,
                tags: if minor >= 14 { 3 } else { 0 },
                instruction: InstructionPlace::Address { at: near(frame + 3)? },
                owner: Some(near(frame + 5)?),
            },
            code: CodeLayout {
                first_line: near(code + 5)?,
                file: near(code + 1)?,
                function: near(code + 3)?,
                lines: near(code + 4)?,
                format: LineFormat::Locations,
                instructions: InstructionsPlace::Inside(near(code + 9)? as u64),
                shim: InitShim::OneName,
            },
            modules: if minor == 13 { Some(words[11]) } else { None },
            published: None,
            runtime_len: words[3],
            ascii: 40,
            compact: 56,
        })
    }
}

impl PublishedPlaces {
    /// Returns the place of `gen_object` in `_Py_DebugOffsets`, in words of 8 bytes; `None` before 3.14, which does not publish it.
    pub(super) const fn place(minor: u8) -> Option<u64> {
        match minor {
            14 => Some(83),
            15 => Some(99),
            _ => None,
        }
    }

    /// Returns the offsets in these words, which begin with `interpreter_frame` and `gen_object`; `None` if one is none.
    pub(super) fn of(frame: &[u64], coroutine: &[u64; 4]) -> Option<Self> {
        let [_, _, coroutine_frame, coroutine_state] = *coroutine;
        let stack = usize::try_from(*frame.get(6)?).ok()?;
        let are_near =
            [coroutine_frame, coroutine_state, stack as u64].into_iter().all(|at| at <= MAX_RECORD as u64 - 8);
        are_near.then_some(Self { coroutine_frame, coroutine_state, stack })
    }
}

/// Number of words of `_Py_DebugOffsets` that are read.
pub(super) const WORDS: usize = 96;

/// Places of the first words of the structs in `_Py_DebugOffsets`, in words of 8 bytes (Include/internal/pycore_runtime.h at v3.13.0,
/// pycore_debug_offsets.h at v3.14.0 and v3.15.0). The first word of each struct is its size. Places that are the same in all versions
/// are not listed.
struct WordPlaces {
    /// `interpreter_state.ceval_gil`; four more words about the lock follow.
    lock: usize,
    /// `thread_state`.
    thread: usize,
    /// `thread_state.thread_id`, followed by `native_thread_id`.
    ids: usize,
    /// `thread_state.gil_requested`.
    wants_lock: Option<usize>,
    /// `interpreter_frame`.
    frame: usize,
    /// `code_object`.
    code: usize,
    /// `pyobject`.
    object: usize,
    /// `type_object`.
    types: usize,
    /// `bytes_object`.
    bytes: usize,
    /// `unicode_object`.
    text: usize,
}

impl WordPlaces {
    const fn of_minor(minor: u8) -> Option<Self> {
        Some(match minor {
            13 => Self {
                lock: 14,
                thread: 19,
                ids: 24,
                wants_lock: None,
                frame: 28,
                code: 34,
                object: 44,
                types: 46,
                bytes: 64,
                text: 67,
            },
            14 => Self {
                lock: 15,
                thread: 22,
                ids: 27,
                wants_lock: None,
                frame: 31,
                code: 39,
                object: 50,
                types: 52,
                bytes: 74,
                text: 77,
            },
            15 => Self {
                lock: 15,
                thread: 22,
                ids: 30,
                wants_lock: Some(35),
                frame: 39,
                code: 47,
                object: 58,
                types: 60,
                bytes: 86,
                text: 89,
            },
            _ => return None,
        })
    }
}
