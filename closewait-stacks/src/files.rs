//! Symbols in the files of a running process that are not loaded into its memory (`.symtab`).
//!
//! A read can block for ever on a file system that does not answer. Callers run it where that harms nobody. Files are read, not mapped:
//! an access to a mapped file that another process truncates ends this one.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use object::{
    Endianness,
    elf::{self, FileHeader64, SectionHeader64, Sym64},
    pod,
};

use super::{
    elf::{ORDER, is_supported},
    live,
    memory::{MemoryError, MemoryReader},
    process::{Mapping, Symbols},
};

/// Maximum number of sections of a file; executables have some 30 to 50.
const MAX_SECTIONS: usize = 4096;
/// Maximum size of the symbols and names of all files of a process, bytes; a browser has some 40 MiB.
const MAX_SYMBOLS: u64 = 64 << 20;
/// Number of bytes of a name that are returned: one more than a name can have, which shows that it is longer.
const MAX_NAME: usize = 1025;
/// Number of bytes of names that are read at once.
const NAMES_AT_ONCE: usize = 1 << 20;
/// Number of symbols that are read at once.
const BLOCK: usize = 16 << 10;
/// Number of steps of work for a symbol that is read: sorting takes most of it.
const SYMBOL_STEPS: u64 = 16;
/// Number of symbols before an address that can contain it: symbols of blocks inside of functions have no size.
const MAX_NESTED: usize = 8;
/// Number of symbols of any kind that are passed for them.
const MAX_PASSED: usize = 1024;

/// Device and inode of a file.
type FileKey = (String, u64);

/// Symbols in the files of a running process. Each file is read at its first use.
pub struct FileSymbols<'a> {
    open: &'a dyn Fn(&Mapping) -> io::Result<File>,
    /// Takes steps for the work on the files.
    work: MemoryReader<'a>,
    files: RefCell<BTreeMap<FileKey, Option<Rc<SymbolFile>>>>,
    bytes_left: Cell<u64>,
}

impl<'a> FileSymbols<'a> {
    /// Returns the symbols of a process, without reading any. `open` opens the file of a mapping, as [`open`] does. The steps for the work
    /// are those of `memory`, and the symbols end with its limit.
    pub const fn new(open: &'a dyn Fn(&Mapping) -> io::Result<File>, memory: MemoryReader<'a>) -> Self {
        Self { open, work: memory, files: RefCell::new(BTreeMap::new()), bytes_left: Cell::new(MAX_SYMBOLS) }
    }

    /// Returns the symbols of the file of a mapping; `None` if it has none, or they are too many.
    fn file(&self, mapping: &Mapping) -> Option<Rc<SymbolFile>> {
        if mapping.inode == 0 {
            return None;
        }
        let key = (mapping.device.clone(), mapping.inode);
        if let Some(known) = self.files.borrow().get(&key) {
            return known.clone();
        }
        let read = (self.open)(mapping).and_then(|file| SymbolFile::read(&file, &self.bytes_left, self.work));
        // A file that cannot be read has no symbols; the frames remain without their names.
        let read = read.ok().flatten().map(Rc::new);
        self.files.borrow_mut().insert(key, read.clone());
        read
    }
}

impl Symbols for FileSymbols<'_> {
    fn named(&self, mapping: &Mapping, name: &str) -> Option<u64> {
        /// Number of symbols whose names are compared between two looks at the time.
        const AT_ONCE: usize = 8 << 10;
        let file = self.file(mapping)?;
        let within = file.symbols.chunks(AT_ONCE).map_while(|part| {
            self.work.work(4 * part.len() as u64).ok()?;
            Some(part)
        });
        within.flatten().find(|symbol| file.has_name(**symbol, name.as_bytes())).map(|symbol| symbol.address)
    }

    fn at(&self, mapping: &Mapping, address: u64) -> Option<(String, u64)> {
        self.work.work(64).ok()?;
        let file = self.file(mapping)?;
        let after = file.symbols.partition_point(|symbol| symbol.address <= address);
        let functions = file.symbols[..after].iter().rev().take(MAX_PASSED).filter(|symbol| symbol.is_function());
        let mut contains =
            functions.take(MAX_NESTED).filter(|symbol| address - symbol.address < symbol.len.max(1).into());
        let symbol = contains.next()?;
        Some((String::from_utf8_lossy(file.name(*symbol)?).into_owned(), symbol.address))
    }
}

impl std::fmt::Debug for FileSymbols<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("FileSymbols").field("bytes_left", &self.bytes_left).finish_non_exhaustive()
    }
}

/// Symbols of a file, sorted by address.
#[derive(Debug)]
struct SymbolFile {
    symbols: Vec<FileSymbol>,
    names: Vec<u8>,
}

/// Symbol that a file defines.
#[derive(Clone, Copy, Debug)]
struct FileSymbol {
    address: u64,
    /// Number of bytes; `u32::MAX` stands for more.
    len: u32,
    /// Offset of its name, and [`FUNCTION`].
    name: u32,
}

/// Mark of a function in [`FileSymbol::name`]: tables of names have at most [`MAX_SYMBOLS`] bytes.
const FUNCTION: u32 = 1 << 31;

impl FileSymbol {
    const fn is_function(self) -> bool {
        self.name & FUNCTION != 0
    }

    /// Returns a symbol that its file defines, if it is of a used type.
    fn of(symbol: &Sym64<Endianness>) -> Option<Self> {
        let kind = symbol.st_info & 0xf;
        let is_function = [elf::STT_FUNC, elf::STT_GNU_IFUNC].contains(&kind);
        let is_used = is_function || [elf::STT_OBJECT, elf::STT_NOTYPE].contains(&kind);
        let name = symbol.st_name.get(ORDER);
        (is_used && symbol.st_shndx.get(ORDER) != elf::SHN_UNDEF && name & FUNCTION == 0).then(|| Self {
            address: symbol.st_value.get(ORDER),
            len: u32::try_from(symbol.st_size.get(ORDER)).unwrap_or(u32::MAX),
            name: if is_function { name | FUNCTION } else { name },
        })
    }
}

impl SymbolFile {
    /// Reads the symbols of a file; `None` if it has none.
    fn read(file: &File, bytes_left: &Cell<u64>, work: MemoryReader<'_>) -> io::Result<Option<Self>> {
        let mut header = [0; size_of::<FileHeader64<Endianness>>()];
        file.read_exact_at(&mut header, 0)?;
        let Ok((header, _)) = pod::from_bytes::<FileHeader64<Endianness>>(&header) else { return Ok(None) };
        let count = usize::from(header.e_shnum.get(ORDER));
        let size = usize::from(header.e_shentsize.get(ORDER));
        if !is_supported(header) || count > MAX_SECTIONS || size != size_of::<SectionHeader64<Endianness>>() {
            return Ok(None);
        }
        let mut sections = vec![0; count * size];
        file.read_exact_at(&mut sections, header.e_shoff.get(ORDER))?;
        let Ok((sections, _)) = pod::slice_from_bytes::<SectionHeader64<Endianness>>(&sections, count) else {
            return Ok(None);
        };
        let table = sections.iter().find(|section| section.sh_type.get(ORDER) == elf::SHT_SYMTAB);
        let names = |table: &SectionHeader64<_>| sections.get(usize::try_from(table.sh_link.get(ORDER)).ok()?);
        let Some((table, names)) = table.and_then(|table| Some((table, names(table)?))) else { return Ok(None) };
        let symbols = Self::symbols(file, table, bytes_left, work)?;
        let (start, len) = take(file, names, bytes_left)?;
        let mut names = vec![0; len];
        for (index, part) in names.chunks_mut(NAMES_AT_ONCE).enumerate() {
            work.work(part.len() as u64 / 8).map_err(over)?;
            file.read_exact_at(part, start.saturating_add((index * NAMES_AT_ONCE) as u64))?;
        }
        Ok(Some(Self { symbols, names }))
    }

    /// Reads the symbols of a table in blocks.
    fn symbols(
        file: &File,
        table: &SectionHeader64<Endianness>,
        bytes_left: &Cell<u64>,
        work: MemoryReader<'_>,
    ) -> io::Result<Vec<FileSymbol>> {
        const SIZE: usize = size_of::<Sym64<Endianness>>();
        let (start, len) = take(file, table, bytes_left)?;
        let (mut symbols, mut block) = (Vec::new(), vec![0; BLOCK * SIZE]);
        for from in (0..len).step_by(BLOCK * SIZE) {
            block.truncate((len - from).min(BLOCK * SIZE));
            work.work(SYMBOL_STEPS * BLOCK as u64).map_err(over)?;
            file.read_exact_at(&mut block, start.saturating_add(from as u64))?;
            let read = block.chunks_exact(SIZE);
            symbols.extend(read.filter_map(|bytes| FileSymbol::of(pod::from_bytes(bytes).ok()?.0)));
        }
        symbols.sort_by_key(|symbol: &FileSymbol| symbol.address);
        Ok(symbols)
    }

    /// Returns the name of a symbol, cut to [`MAX_NAME`] bytes.
    fn name(&self, symbol: FileSymbol) -> Option<&[u8]> {
        let rest = self.names.get(usize::try_from(symbol.name & !FUNCTION).ok()?..)?;
        let rest = rest.get(..MAX_NAME).unwrap_or(rest);
        Some(rest.split(|byte| *byte == 0).next().unwrap_or_default())
    }

    /// Whether a symbol has this name, which is shorter than [`MAX_NAME`].
    fn has_name(&self, symbol: FileSymbol, name: &[u8]) -> bool {
        let rest = usize::try_from(symbol.name & !FUNCTION).ok().and_then(|at| self.names.get(at..));
        rest.and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// Returns the error of a reading whose limit is reached.
fn over(limit: MemoryError) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, limit.to_string())
}

/// Takes the bytes of a section from what is left. Returns its offset in the file and its length.
fn take(file: &File, section: &SectionHeader64<Endianness>, bytes_left: &Cell<u64>) -> io::Result<(u64, usize)> {
    let (start, len) = (section.sh_offset.get(ORDER), section.sh_size.get(ORDER));
    // A size beyond the end of the file would allocate for nothing.
    let is_inside = start.checked_add(len).is_some_and(|end| file.metadata().is_ok_and(|of| end <= of.len()));
    let left = bytes_left.get().checked_sub(len).filter(|_| is_inside);
    let (Some(left), Ok(len)) = (left, usize::try_from(len)) else { return Err(io::ErrorKind::InvalidData.into()) };
    bytes_left.set(left);
    Ok((start, len))
}

/// Opens the file of a mapping of a process, by the mapping itself where that is allowed (`proc_map_files_get_link` needs
/// `CAP_CHECKPOINT_RESTORE`, fs/proc/base.c at v5.10), otherwise by its path below the root of the process. May wait for the file system.
///
/// # Errors
///
/// If it is no regular file with the mapping's inode, or may not be read.
pub fn open(pid: u32, mapping: &Mapping) -> io::Result<File> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let itself = format!("map_files/{:x}-{:x}", mapping.start, mapping.end);
    let by_path = format!("root{}", mapping.path);
    let open = |folder: &Path| {
        let open = |name: &str| open_regular(folder.join(name), mapping.inode);
        open(&itself).or_else(|_refused| open(&by_path))
    };
    live::read_living(&process, |_| true, open)
}

/// Opens a regular file with this inode for reading. Anything else, such as a device, is not opened at all.
fn open_regular(path: impl AsRef<Path>, inode: u64) -> io::Result<File> {
    let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    let metadata = place.metadata()?;
    if !metadata.is_file() || metadata.ino() != inode {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // A file lease of another process would make the open wait for it.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process::Command};

    use super::*;
    use crate::{elf::Object, memory::Memory, memory::ReadBound, memory::ReadLimit};

    /// Process without memory, and without time for what takes longer than some steps.
    struct NoTime;

    impl Memory for NoTime {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
            Err(MemoryError::Unreadable { address, len: into.len() })
        }

        fn may_go_on(&self) -> bool {
            false
        }
    }

    fn read(file: &File, left: &Cell<u64>) -> io::Result<Option<SymbolFile>> {
        let memory = live::LiveMemory::open(std::process::id())?;
        SymbolFile::read(file, left, MemoryReader::new(&memory, &ReadLimit::new(0, 0)))
    }

    #[test]
    fn symbols_are_read_as_long_as_there_is_time() {
        let limit = ReadLimit::new(0, 0);
        let file = File::open("/proc/self/exe").unwrap();
        let read = SymbolFile::read(&file, &Cell::new(MAX_SYMBOLS), MemoryReader::new(&NoTime, &limit));
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(limit.reached(), Some(ReadBound::Time));
    }

    #[inline(never)]
    fn marked_function() -> u32 {
        std::process::id()
    }

    #[test]
    fn a_function_of_this_executable_is_found_by_address_and_by_name() {
        let pid = marked_function();
        let (memory, limit) = (live::LiveMemory::open(pid).unwrap(), ReadLimit::new(1000, 1 << 20));
        let mappings = live::mappings(pid).unwrap();
        let address = marked_function as *const () as u64;
        let inode = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&address)).unwrap().inode;
        let mapping = mappings.iter().find(|mapping| mapping.inode == inode).unwrap();
        let object = Object::at(MemoryReader::new(&memory, &limit), mapping).unwrap().unwrap();
        let open = |mapping: &Mapping| open(pid, mapping);
        let symbols = FileSymbols::new(&open, MemoryReader::new(&memory, &limit));
        let (name, start) = symbols.at(mapping, object.in_file(address) + 1).unwrap();
        assert!(name.contains("marked_function"), "{name}");
        assert_eq!(start, object.in_file(address));
        assert_eq!(symbols.named(mapping, &name), Some(start));
        assert_eq!(symbols.named(mapping, "no_such_function"), None);
        assert_eq!(symbols.at(&Mapping::default(), 1), None);
    }

    #[test]
    fn only_the_regular_file_with_the_inode_is_opened() {
        let folder = env::temp_dir().join(format!("closewait-files-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let (pipe, file) = (folder.join("pipe"), folder.join("file"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        fs::write(&file, "text").unwrap();
        let [pipe, file] = [pipe, file].map(|path| (path.display().to_string(), fs::metadata(&path).unwrap().ino()));
        assert!(open_regular(&pipe.0, pipe.1).is_err());
        assert!(open_regular(&file.0, pipe.1).is_err());
        let opened = open_regular(&file.0, file.1).unwrap();
        assert!(read(&opened, &Cell::new(100)).is_err(), "shorter than a header");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn no_more_than_the_limit_is_read() {
        let file = File::open("/proc/self/exe").unwrap();
        let left = Cell::new(MAX_SYMBOLS);
        assert!(read(&file, &left).unwrap().is_some());
        let needed = MAX_SYMBOLS - left.get();
        let left = Cell::new(needed - 1);
        assert!(read(&file, &left).is_err());
    }
}
