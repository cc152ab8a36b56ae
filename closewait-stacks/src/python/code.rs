//! Code objects: function, file, and the line of an instruction.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use super::{
    super::{
        blocks::{signed_half, word},
        limit::{MAX_FILE_BYTES, MAX_FUNCTION_BYTES},
        memory::{MemoryError, MemoryReader, readable},
        stack::{FRAME_BYTES, Frame},
    },
    layout::{FrameLayout, InitShim, InstructionPlace, InstructionsPlace, MAX_RECORD, PythonLayout},
    lines::LineTable,
    objects::{ObjectReader, ObjectType},
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

impl FrameLayout {
    /// Returns the number of bytes of a frame that are read.
    pub(super) fn len(&self) -> usize {
        let (InstructionPlace::Index { at, .. } | InstructionPlace::Address { at }) = self.instruction;
        [self.previous, self.code, at, self.owner.unwrap_or(0)].into_iter().fold(0, usize::max) + 8
    }

    /// Returns the frame with these first bytes.
    pub(super) fn raw(&self, address: u64, record: &[u8]) -> RawFrame {
        let instruction = match self.instruction {
            InstructionPlace::Index { at, unit } => RawInstruction::Offset(i64::from(signed_half(record, at)) * unit),
            InstructionPlace::Address { at } => RawInstruction::Address(word(record, at)),
        };
        RawFrame { address, code: word(record, self.code) & !self.tags, instruction }
    }
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
    pub(super) objects: ObjectReader<'a>,
    layout: PythonLayout,
    known: RefCell<BTreeMap<u64, Known>>,
}

impl<'a> CodeReader<'a> {
    pub(super) fn new(memory: MemoryReader<'a>, layout: PythonLayout) -> Self {
        let objects = ObjectReader::new(memory, &layout);
        Self { memory, objects, layout, known: RefCell::new(BTreeMap::new()) }
    }

    /// Returns the place of the instructions of code objects.
    pub(super) const fn instructions(&self) -> InstructionsPlace {
        self.layout.code.instructions
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
            InitShim::OneName => function == file && first_line == 0,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        limit::{MAX_KEPT, MAX_STEPS},
        memory::{Memory, ReadBound, ReadLimit},
    };

    /// Size of the objects of [`Hostile`].
    const OBJECT: u64 = 4 << 20;
    /// Number of characters of its names, and of bytes of its line tables.
    const LONG: u64 = 1 << 20;

    /// Memory of CPython 3.11 in which each multiple of [`OBJECT`] has a code object, with its own names and line table of 1 MiB.
    struct Hostile {
        /// Whether all code objects have the same object as function and as file.
        has_one_name: bool,
    }

    impl Hostile {
        /// Returns the number at an address that is a multiple of 8.
        fn word(&self, address: u64) -> u64 {
            // Types, by their addresses, and their names.
            const TYPES: [(u64, &[u8; 8]); 3] =
                [(0x1000, b"code\0\0\0\0"), (0x1100, b"str\0\0\0\0\0"), (0x1200, b"bytes\0\0\0")];
            for (at, name) in TYPES {
                if address == at + 24 {
                    return at + 64;
                } else if address == at + 64 {
                    return u64::from_le_bytes(*name);
                }
            }
            let (object, at) = (address / OBJECT * OBJECT, address % OBJECT);
            let (text, other) = (object + LONG, if self.has_one_name { LONG } else { 2 * LONG });
            let in_part = at % LONG;
            match (at / LONG, in_part) {
                (0, 8) => TYPES[0].0,
                // `ob_size`, `co_firstlineno`, `co_filename`, `co_qualname`, `co_linetable`.
                (0, 16) => LONG,
                (0, 72) => 7,
                (0, 112) => text,
                (0, 128) => object + other,
                (0, 136) => object + 3 * LONG,
                (1 | 2, 8) => TYPES[1].0,
                (3, 8) => TYPES[2].0,
                (1..=3, 16) => LONG - 4096,
                // A compact text of ASCII characters of 1 byte.
                (1 | 2, 32) => 4 | 32 | 64,
                // Names that differ in their first characters.
                (1 | 2, 48..) => u64::from_le_bytes(*b"xxxxxxxx") ^ (object / OBJECT + at / LONG * 0x0101) & 0x0f0f,
                // Entries of one unit, which have no columns and no line.
                (3, 32..) => u64::from_le_bytes([0x80 | (15 << 3); 8]),
                _ => 0,
            }
        }
    }

    impl Memory for Hostile {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
            let mut bytes = [0; 8];
            for (index, (byte, at)) in into.iter_mut().zip(address..).enumerate() {
                if index == 0 || at.is_multiple_of(8) {
                    bytes = self.word(at / 8 * 8).to_le_bytes();
                }
                *byte = bytes[at as usize % 8];
            }
            Ok(())
        }
    }

    fn raw(code: u64, offset: u64) -> RawFrame {
        RawFrame { address: 0, code, instruction: RawInstruction::Address(code + 184 + offset) }
    }

    #[test]
    fn a_large_line_table_and_many_frames_take_few_steps() {
        let (memory, limit) = (Hostile { has_one_name: false }, ReadLimit::new(1000, 64 << 20));
        let layout = PythonLayout::of_minor(11).unwrap();
        let codes = CodeReader::new(MemoryReader::new(&memory, &limit), layout);
        for number in 0..1000 {
            let frame = codes.frame(&raw(OBJECT, number * 2000)).unwrap();
            assert!(matches!(frame, NamedFrame::Call(Frame { line: None, .. })), "{frame:?}");
        }
        // Without places to start from they are 500 million.
        let steps = MAX_STEPS - limit.steps_left();
        assert!(steps < 6_000_000, "{steps}");
    }

    #[test]
    fn names_are_cut_and_shared_and_a_reading_keeps_no_more_than_its_limit() {
        let (memory, limit) = (Hostile { has_one_name: false }, ReadLimit::new(u32::MAX, u64::MAX));
        let layout = PythonLayout::of_minor(11).unwrap();
        let codes = CodeReader::new(MemoryReader::new(&memory, &limit), layout);
        let mut kept = BTreeSet::new();
        let mut ended = None;
        for number in 1..1000 {
            match codes.frame(&raw(number * OBJECT, 0)) {
                Ok(NamedFrame::Call(frame)) => {
                    let (function, file) = (frame.function.unwrap(), frame.file.unwrap());
                    assert_eq!((function.len(), file.len()), (MAX_FUNCTION_BYTES, MAX_FILE_BYTES));
                    assert!(function.ends_with("x…") && file.ends_with("x…"));
                    kept.extend([function, file].map(|name| (name.as_ptr() as usize, name.len())));
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    ended = Some((number, error));
                    break;
                }
            }
        }
        // The line tables of 1 MiB are kept, too.
        let (number, error) = ended.expect("an end");
        assert_eq!(error, MemoryError::Limit(ReadBound::Kept));
        assert!((30..=33).contains(&number), "{number}");
        let bytes: usize = kept.iter().map(|(_, len)| len).sum();
        assert!(bytes as u64 + (number - 1) * (LONG - 4096) <= MAX_KEPT, "{bytes}");
    }

    #[test]
    fn code_whose_function_and_file_have_one_name_is_shown() {
        let memory = Hostile { has_one_name: true };
        for shim in [InitShim::Absent, InitShim::Unnamed, InitShim::OneName] {
            let limit = ReadLimit::new(1000, 64 << 20);
            let mut layout = PythonLayout::of_minor(11).unwrap();
            layout.code.shim = shim;
            let codes = CodeReader::new(MemoryReader::new(&memory, &limit), layout);
            let named = codes.frame(&raw(OBJECT, 0)).unwrap();
            assert!(matches!(named, NamedFrame::Call(_)), "{shim:?} {named:?}");
        }
    }
}
