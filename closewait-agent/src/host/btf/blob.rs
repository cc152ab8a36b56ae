//! Builder of small BTF files for tests.

/// BTF file under construction.
pub(crate) struct Blob {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
    /// Bytes that a newer kernel adds after the known header.
    pub(crate) header_extra: Vec<u8>,
}

impl Blob {
    pub(crate) fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], count: 0, header_extra: Vec::new() }
    }

    /// Adds a type and returns its number. `tail` is everything after the first three words.
    pub(crate) fn add(&mut self, name: &str, info: (u32, u32, bool), size_or_type: u32, tail: &[u32]) -> u32 {
        let (kind, len, flag) = info;
        let name = self.string(name);
        let info = u32::from(flag) << 31 | kind << 24 | len;
        for word in [name, info, size_or_type].iter().chain(tail) {
            self.types.extend(word.to_ne_bytes());
        }
        self.count += 1;
        self.count
    }

    /// Adds a struct with members (name, type, third word of the member).
    pub(crate) fn structure(&mut self, name: &str, flag: bool, members: &[(&str, u32, u32)]) -> u32 {
        let mut tail = Vec::new();
        for &(name, type_id, offset) in members {
            tail.extend([self.string(name), type_id, offset]);
        }
        let len = u32::try_from(members.len()).unwrap();
        self.add(name, (super::STRUCT, len, flag), 64, &tail)
    }

    /// Adds an integer type of this size.
    pub(crate) fn int(&mut self, bytes: u32) -> u32 {
        self.add("int", (super::INT, 0, false), bytes, &[bytes * 8])
    }

    pub(crate) fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let offset = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        offset
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let mut bytes = vec![];
        bytes.extend(0xeb9f_u16.to_ne_bytes());
        bytes.extend([1, 0]);
        for word in [24 + len(&self.header_extra), 0, len(&self.types), len(&self.types), len(&self.strings)] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(&self.header_extra);
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }
}
