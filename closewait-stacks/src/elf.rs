//! Executables and libraries, read as they are loaded in a process's memory.
//!
//! No file is opened: program headers, the dynamic symbols and the tables for unwinding are loaded with the code, and a file can be on a
//! file system that no longer answers. Only symbols that are not loaded (`.symtab`) are asked from [`super::Symbols`].

use object::{
    Endianness,
    elf::{self, Dyn64, FileHeader64, GnuHashHeader, ProgramHeader64, Sym64},
    pod,
};

use super::{
    memory::{MemoryError, MemoryReader},
    process::{Mapping, TargetProcess},
};

/// Byte order of all supported processes.
pub(crate) const ORDER: Endianness = Endianness::Little;
/// Maximum number of program headers and of entries of the dynamic section: usual are 5 to 15 and 20 to 40.
const MAX_ENTRIES: usize = 256;
/// Maximum number of mappings of the first page of one file that are tried as the start of an object.
const MAX_STARTS: usize = 4;
/// Maximum number of symbols in one chain of a hash table.
const MAX_CHAIN: u32 = 1024;
/// Maximum length of the name of a symbol, bytes.
const MAX_NAME: usize = 1024;

/// Executable or library in the memory of a process.
#[derive(Clone, Debug)]
pub struct Object<'a> {
    memory: MemoryReader<'a>,
    /// Mapping of the start of its file.
    pub mapping: &'a Mapping,
    /// Architecture: `EM_X86_64` or `EM_AARCH64` of `<elf.h>`.
    pub machine: u16,
    /// Difference between an address in memory and one in the file.
    pub bias: u64,
    /// Program headers.
    pub segments: Vec<Segment>,
}

/// Program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Type: `PT_LOAD`, `PT_DYNAMIC`, `PT_GNU_EH_FRAME` and others of `<elf.h>`.
    pub kind: u32,
    /// First address in memory.
    pub address: u64,
    /// Number of bytes in memory.
    pub len: u64,
    /// Number of bytes that come from the file; those after them start as zeros.
    pub file_len: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Whether it has code.
    pub executable: bool,
    /// Whether the program writes to it, at least while it starts.
    pub writable: bool,
}

/// Dynamic symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamicSymbol {
    /// Address in memory.
    pub address: u64,
    /// Number of bytes; 0 if the file does not say.
    pub len: u64,
}

impl<'a> Object<'a> {
    /// Reads the object whose file starts in `mapping`; `None` if there is none, or the mapping is shared with others.
    ///
    /// # Errors
    ///
    /// If its memory cannot be read.
    pub fn at(memory: MemoryReader<'a>, mapping: &'a Mapping) -> Result<Option<Self>, MemoryError> {
        if mapping.offset != 0 || !mapping.readable || mapping.shared {
            return Ok(None);
        }
        let header = memory.array::<{ size_of::<FileHeader64<Endianness>>() }>(mapping.start)?;
        let Ok((header, _)) = pod::from_bytes::<FileHeader64<Endianness>>(&header) else { return Ok(None) };
        let count = usize::from(header.e_phnum.get(ORDER));
        let size = usize::from(header.e_phentsize.get(ORDER));
        if !is_supported(header) || count > MAX_ENTRIES || size != size_of::<ProgramHeader64<Endianness>>() {
            return Ok(None);
        }
        let at = mapping.start.wrapping_add(header.e_phoff.get(ORDER));
        let bytes = memory.bytes(at, count * size)?;
        let Ok((headers, _)) = pod::slice_from_bytes::<ProgramHeader64<Endianness>>(&bytes, count) else {
            return Ok(None);
        };
        // The header is in the segment that has the start of the file.
        let first = headers.iter().find(|one| one.p_type.get(ORDER) == elf::PT_LOAD && one.p_offset.get(ORDER) == 0);
        let Some(first) = first else { return Ok(None) };
        let bias = mapping.start.wrapping_sub(first.p_vaddr.get(ORDER));
        let segment = |one: &ProgramHeader64<Endianness>| Segment {
            kind: one.p_type.get(ORDER),
            address: one.p_vaddr.get(ORDER).wrapping_add(bias),
            len: one.p_memsz.get(ORDER),
            file_len: one.p_filesz.get(ORDER),
            offset: one.p_offset.get(ORDER),
            executable: one.p_flags.get(ORDER) & elf::PF_X != 0,
            writable: one.p_flags.get(ORDER) & elf::PF_W != 0,
        };
        Ok(Some(Self {
            memory,
            mapping,
            machine: header.e_machine.get(ORDER),
            bias,
            segments: headers.iter().map(segment).collect(),
        }))
    }

    /// Returns the object that is loaded at `address`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If its memory cannot be read.
    pub fn containing(process: &TargetProcess<'a>, address: u64) -> Result<Option<Self>, MemoryError> {
        let Some(own) = process.mapping(address).filter(|mapping| mapping.inode != 0) else { return Ok(None) };
        /// Number of mappings for which steps of work are taken at once.
        const STEPS: u64 = 256;
        // The mappings of an object follow one another. The same file can be loaded twice, and a small file can have two segments in
        // its first page, each of which is mapped with offset 0.
        let starts =
            |one: &&Mapping| one.offset == 0 && !one.shared && (one.inode, &one.device) == (own.inode, &own.device);
        let before = process.mappings.partition_point(|one| one.start <= address);
        let (mut passed, mut tried) = (0, 0);
        for first in process.mappings[..before].iter().rev() {
            passed += 1;
            if passed % STEPS == 0 {
                process.memory.work(STEPS)?;
            }
            if !starts(&first) {
                continue;
            }
            tried += 1;
            if tried > MAX_STARTS {
                break;
            }
            match Self::at(process.memory, first)? {
                Some(object) if object.contains(address) => return Ok(Some(object)),
                Some(_) | None => {}
            }
        }
        Ok(None)
    }

    /// Returns the first segment of a type of `<elf.h>`.
    pub fn segment(&self, kind: u32) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.kind == kind)
    }

    /// Returns the address that the file has for `address` in memory.
    pub const fn in_file(&self, address: u64) -> u64 {
        address.wrapping_sub(self.bias)
    }

    /// Returns the dynamic symbol `name` that the object defines; `None` if it defines none.
    ///
    /// # Errors
    ///
    /// If its memory cannot be read.
    pub fn dynamic_symbol(&self, name: &str) -> Result<Option<DynamicSymbol>, MemoryError> {
        let Some(dynamic) = self.dynamic()? else { return Ok(None) };
        let found = match (dynamic.gnu_hash, dynamic.hash) {
            (Some(table), _) => self.by_gnu_hash(table, &dynamic, name)?,
            (None, Some(table)) => self.by_hash(table, &dynamic, name)?,
            (None, None) => None,
        };
        Ok(found)
    }

    /// Returns the addresses in the dynamic section; `None` for a static executable.
    pub(crate) fn dynamic(&self) -> Result<Option<Dynamic>, MemoryError> {
        let Some(segment) = self.segment(elf::PT_DYNAMIC) else { return Ok(None) };
        let most = MAX_ENTRIES * size_of::<Dyn64<Endianness>>();
        let bytes =
            self.memory.bytes(segment.address, usize::try_from(segment.len).map_or(most, |len| len.min(most)))?;
        let count = bytes.len() / size_of::<Dyn64<Endianness>>();
        let Ok((entries, _)) = pod::slice_from_bytes::<Dyn64<Endianness>>(&bytes, count) else { return Ok(None) };
        let value = |tag: i64| {
            let mut entries = entries.iter().take_while(|entry| entry.d_tag.get(ORDER) != elf::DT_NULL);
            entries.find(|entry| entry.d_tag.get(ORDER) == tag).map(|entry| entry.d_val.get(ORDER))
        };
        // glibc replaces these addresses by those in memory, musl and the vdso leave those of the file.
        let address = |tag| value(tag).map(|at| if self.contains(at) { at } else { at.wrapping_add(self.bias) });
        let (Some(symbols), Some(names)) = (address(elf::DT_SYMTAB), address(elf::DT_STRTAB)) else {
            return Ok(None);
        };
        let (gnu_hash, hash) = (address(elf::DT_GNU_HASH), address(elf::DT_HASH));
        Ok(Some(Dynamic { symbols, names, gnu_hash, hash }))
    }

    /// Whether `address` is in a loaded segment.
    pub fn contains(&self, address: u64) -> bool {
        let is_in = |one: &Segment| address.checked_sub(one.address).is_some_and(|offset| offset < one.len);
        self.segments.iter().any(|one| one.kind == elf::PT_LOAD && is_in(one))
    }

    /// Looks a symbol up in a table as `do_lookup_x` of glibc does (elf/dl-lookup.c at 2.36).
    fn by_gnu_hash(&self, table: u64, dynamic: &Dynamic, name: &str) -> Result<Option<DynamicSymbol>, MemoryError> {
        let hash = elf::gnu_hash(name.as_bytes());
        let Some(table) = GnuHash::at(self.memory, table)? else { return Ok(None) };
        let Some(bucket) = hash.checked_rem(table.buckets) else { return Ok(None) };
        let first = self.memory.u32(table.at_buckets.wrapping_add(4 * u64::from(bucket)))?;
        for index in (first..first.saturating_add(MAX_CHAIN)).filter(|_| first >= table.base) {
            let value = self.memory.u32(table.in_chain(index))?;
            if value | 1 == hash | 1
                && let Some(symbol) = self.symbol(dynamic, index, name)?
            {
                return Ok(Some(symbol));
            }
            if value & 1 == 1 {
                break;
            }
        }
        Ok(None)
    }

    /// Returns the number of dynamic symbols, cut to `most`. Only the hash tables have it: `nchain` of `DT_HASH`, and the end of the last
    /// chain of `DT_GNU_HASH`, in which the lowest bit of a value marks the end (`do_lookup_x`, elf/dl-lookup.c of glibc at 2.36).
    pub(crate) fn symbol_count(&self, dynamic: &Dynamic, most: u32) -> Result<u32, MemoryError> {
        if let Some(table) = dynamic.hash {
            return Ok(self.memory.u32(table.wrapping_add(4))?.min(most));
        }
        let Some(table) = dynamic.gnu_hash.map(|table| GnuHash::at(self.memory, table)).transpose()?.flatten() else {
            return Ok(0);
        };
        // There are about as many buckets as symbols.
        let Some(len) = usize::try_from(table.buckets).ok().filter(|_| table.buckets <= most) else { return Ok(0) };
        let bytes = self.memory.bytes(table.at_buckets, 4 * len)?;
        let (buckets, _) = bytes.as_chunks::<4>();
        let last = buckets.iter().map(|first| u32::from_le_bytes(*first)).max().unwrap_or(0);
        if last < table.base || last >= most {
            return Ok(table.base.min(most));
        }
        for index in last..most.min(last.saturating_add(MAX_CHAIN)) {
            if self.memory.u32(table.in_chain(index))? & 1 == 1 {
                return Ok(index + 1);
            }
        }
        Ok(0)
    }

    fn by_hash(&self, table: u64, dynamic: &Dynamic, name: &str) -> Result<Option<DynamicSymbol>, MemoryError> {
        let (buckets, hash) = (self.memory.u32(table)?, elf::hash(name.as_bytes()));
        let Some(bucket) = hash.checked_rem(buckets) else { return Ok(None) };
        let word = |index: u64| self.memory.u32(table.wrapping_add(4 * index));
        let mut index = word(2 + u64::from(bucket))?;
        for _ in 0..MAX_CHAIN {
            if index == 0 {
                break;
            }
            if let Some(symbol) = self.symbol(dynamic, index, name)? {
                return Ok(Some(symbol));
            }
            index = word(2 + u64::from(buckets) + u64::from(index))?;
        }
        Ok(None)
    }

    /// Returns the symbol with an index, if it is defined and has this name.
    fn symbol(&self, dynamic: &Dynamic, index: u32, name: &str) -> Result<Option<DynamicSymbol>, MemoryError> {
        const SIZE: usize = size_of::<Sym64<Endianness>>();
        let bytes = self.memory.array::<SIZE>(dynamic.symbols.wrapping_add(SIZE as u64 * u64::from(index)))?;
        let Ok((symbol, _)) = pod::from_bytes::<Sym64<Endianness>>(&bytes) else { return Ok(None) };
        let own = self.memory.text(dynamic.names.wrapping_add(symbol.st_name.get(ORDER).into()), MAX_NAME)?;
        let is_it = own == name && symbol.st_shndx.get(ORDER) != elf::SHN_UNDEF;
        Ok(is_it.then(|| DynamicSymbol {
            address: symbol.st_value.get(ORDER).wrapping_add(self.bias),
            len: symbol.st_size.get(ORDER),
        }))
    }
}

/// Whether a file is for 64 bits and has the byte order of all supported processes.
pub(crate) fn is_supported(header: &FileHeader64<Endianness>) -> bool {
    let ident = &header.e_ident;
    ident.magic == elf::ELFMAG && ident.class == elf::ELFCLASS64 && ident.data == elf::ELFDATA2LSB
}

/// Hash table of symbols, `DT_GNU_HASH`.
#[derive(Clone, Copy, Debug)]
struct GnuHash {
    /// Number of buckets.
    buckets: u32,
    /// Index of the first symbol in it.
    base: u32,
    /// Address of the buckets: the first index of each chain.
    at_buckets: u64,
    /// Address of the chains: a value for each symbol.
    chains: u64,
}

impl GnuHash {
    /// Reads the header of a table. A filter of `bloom_count` words of 8 bytes follows it.
    fn at(memory: MemoryReader<'_>, table: u64) -> Result<Option<Self>, MemoryError> {
        const HEADER: usize = size_of::<GnuHashHeader<Endianness>>();
        let header = memory.array::<HEADER>(table)?;
        let Ok((header, _)) = pod::from_bytes::<GnuHashHeader<Endianness>>(&header) else { return Ok(None) };
        let (buckets, base) = (header.bucket_count.get(ORDER), header.symbol_base.get(ORDER));
        let filter = 8 * u64::from(header.bloom_count.get(ORDER));
        let at_buckets = table.wrapping_add(HEADER as u64).wrapping_add(filter);
        let chains = at_buckets.wrapping_add(4 * u64::from(buckets));
        Ok(Some(Self { buckets, base, at_buckets, chains }))
    }

    /// Returns the address of the value of a symbol, whose index is at least `base`.
    fn in_chain(&self, index: u32) -> u64 {
        self.chains.wrapping_add(4 * u64::from(index.wrapping_sub(self.base)))
    }
}

/// Addresses in memory of the tables that the dynamic section names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dynamic {
    /// `DT_SYMTAB`.
    pub(crate) symbols: u64,
    /// `DT_STRTAB`.
    pub(crate) names: u64,
    /// `DT_GNU_HASH`.
    pub(crate) gnu_hash: Option<u64>,
    /// `DT_HASH`.
    pub(crate) hash: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{live, memory::ReadLimit, process::NoSymbols};

    #[test]
    fn a_function_of_the_c_library_is_found_in_this_process() {
        let (memory, limit) = (live::LiveMemory::open(std::process::id()).unwrap(), ReadLimit::new(10_000, 1 << 20));
        let mappings = live::mappings(std::process::id()).unwrap();
        let symbols = NoSymbols;
        let process = TargetProcess {
            memory: MemoryReader::new(&memory, &limit),
            mappings: &mappings,
            threads: &[],
            symbols: &symbols,
        };
        let name = c"getpid";
        // SAFETY: the handle is the documented one for the default search order, and the name ends with NUL.
        let expected = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) } as u64;
        let object = Object::containing(&process, expected).unwrap().expect("the C library");
        assert!(object.contains(expected));
        assert_eq!(object.dynamic_symbol("getpid").unwrap().map(|symbol| symbol.address), Some(expected));
        assert_eq!(object.dynamic_symbol("no_such_function").unwrap(), None);
        let shared = Mapping { shared: true, ..object.mapping.clone() };
        assert!(Object::at(process.memory, &shared).unwrap().is_none(), "it may be a device");
        assert_eq!(Object::containing(&process, 1).unwrap().map(|object| object.bias), None);
    }
}
