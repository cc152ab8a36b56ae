//! Code objects: function, file, and the line of an instruction.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use super::{
    super::{
        limit::{MAX_FILE_BYTES, MAX_FUNCTION_BYTES},
        memory::{MemoryError, MemoryReader, readable},
        stack::{FRAME_BYTES, Frame},
    },
    layout::{InitShim, InstructionsPlace, MAX_RECORD, PythonLayout},
    lines::LineTable,
    objects::{ObjectReader, ObjectType, signed_half, word},
};

/// Frame before its names are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawFrame {
    /// Address of the frame.
    pub(super) address: u64,
    /// Address of its code object.
    pub(super) code: u64,
    /// Current instruction.
    pub(super) instruction: RawInstruction,
}

/// Current instruction of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RawInstruction {
    /// Offset from the first instruction, bytes.
    Offset(i64),
    /// Address.
    Address(u64),
}

/// Frame with its names, or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NamedFrame {
    /// Call of a function of the program.
    Call(Frame),
    /// Frame that the interpreter adds for itself.
    Internal,
    /// Frame that does not fit its code object, or has none.
    Damaged,
}

/// Code object.
#[derive(Debug)]
struct Code {
    function: Arc<str>,
    file: Arc<str>,
    /// Line table; `None` if it cannot be read.
    lines: Option<LineTable>,
    /// Address of the first instruction, if they are in the code object.
    start: u64,
    /// Number of bytes of the instructions.
    len: u64,
}

/// What is at the address of a code object.
#[derive(Clone, Debug)]
enum Known {
    Code(Rc<Code>),
    Internal,
    Other,
}

/// Code objects that were read; many threads share them.
pub(super) struct CodeReader<'a> {
    memory: MemoryReader<'a>,
    objects: ObjectReader<'a>,
    layout: PythonLayout,
    known: RefCell<BTreeMap<u64, Known>>,
}

impl<'a> CodeReader<'a> {
    pub(super) fn new(memory: MemoryReader<'a>, layout: PythonLayout) -> Self {
        let objects = ObjectReader::new(memory, &layout);
        Self { memory, objects, layout, known: RefCell::new(BTreeMap::new()) }
    }

    /// Returns the function, file and line of a frame.
    pub(super) fn frame(&self, raw: &RawFrame) -> Result<NamedFrame, MemoryError> {
        match self.code(raw.code)? {
            Known::Code(code) => self.call(&code, raw.instruction),
            Known::Internal => Ok(NamedFrame::Internal),
            Known::Other => Ok(NamedFrame::Damaged),
        }
    }

    fn call(&self, code: &Code, instruction: RawInstruction) -> Result<NamedFrame, MemoryError> {
        let offset = match instruction {
            RawInstruction::Offset(offset) => offset,
            RawInstruction::Address(address) => address.wrapping_sub(code.start).cast_signed(),
        };
        // A call that has not begun is one instruction before the first one.
        if offset < -2 || u64::try_from(offset).is_ok_and(|offset| offset >= code.len) {
            return Ok(NamedFrame::Damaged);
        }
        self.memory.keep(FRAME_BYTES)?;
        let found = code.lines.as_ref().map(|table| table.line(offset));
        self.memory.work(found.map_or(1, |found| found.steps))?;
        Ok(NamedFrame::Call(Frame {
            function: Some(Arc::clone(&code.function)),
            file: Some(Arc::clone(&code.file)),
            line: found.and_then(|found| found.line),
            object: None,
            address: None,
            is_guess: false,
        }))
    }

    fn code(&self, address: u64) -> Result<Known, MemoryError> {
        if let Some(known) = self.known.borrow().get(&address) {
            return Ok(known.clone());
        }
        let read = self.read(address)?;
        self.known.borrow_mut().insert(address, read.clone());
        Ok(read)
    }

    fn read(&self, address: u64) -> Result<Known, MemoryError> {
        let layout = &self.layout.code;
        let fields = [layout.first_line, layout.file, layout.function, layout.lines];
        let mut record = [0; MAX_RECORD];
        let record = &mut record[..fields.into_iter().fold(24, usize::max) + 8];
        // An address that cannot be read is not that of a code object.
        let is_code = readable(self.objects.fill(address, ObjectType::Code, record))?.unwrap_or(false);
        let (function, file) = (word(record, layout.function), word(record, layout.file));
        let Some(first_line) = u32::try_from(signed_half(record, layout.first_line)).ok().filter(|_| is_code) else {
            return Ok(Known::Other);
        };
        let is_shim = match layout.shim {
            InitShim::Absent => false,
            InitShim::Unnamed => function == 0 && file == 0,
            InitShim::OneName => {
                let is_one = function == file && first_line == 0;
                is_one && self.objects.name(function, MAX_FUNCTION_BYTES)?.as_deref() == Some("__init__")
            }
        };
        if is_shim {
            return Ok(Known::Internal);
        }
        let (start, len) = match layout.instructions {
            InstructionsPlace::Bytes(at) => {
                let mut pointer = [0; MAX_RECORD];
                self.objects.fill(address, ObjectType::Code, &mut pointer[..at + 8])?;
                (0, self.objects.len_of_bytes(word(&pointer, at))?.unwrap_or(0))
            }
            // `ob_size` is the number of instructions.
            InstructionsPlace::Inside(at) => (address.wrapping_add(at), word(record, 16).wrapping_mul(2)),
        };
        let function = self.objects.name(function, MAX_FUNCTION_BYTES)?;
        let (Some(function), Some(file)) = (function, self.objects.name(file, MAX_FILE_BYTES)?) else {
            return Ok(Known::Other);
        };
        let lines = self.objects.bytes(word(record, layout.lines))?;
        let lines = lines.map(|bytes| LineTable::new(layout.format, bytes, first_line));
        Ok(Known::Code(Rc::new(Code { function, file, lines, start, len })))
    }
}
