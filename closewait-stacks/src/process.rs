//! Process whose stacks are read: memory, mappings, threads, symbols.

use serde::{Deserialize, Serialize};

use super::memory::MemoryReader;

/// Process whose stacks are read.
#[derive(Clone, Copy)]
pub struct TargetProcess<'a> {
    /// Its memory.
    pub memory: MemoryReader<'a>,
    /// Its mappings, sorted by address.
    pub mappings: &'a [Mapping],
    /// Its threads.
    pub threads: &'a [TargetThread],
    /// Symbols that are in its files but not in its memory.
    pub symbols: &'a dyn Symbols,
}

/// Part of the address space of a process: a line of `/proc/PID/maps`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address after the last one.
    pub end: u64,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it has code.
    pub executable: bool,
    /// Whether writes are seen by others that map the file. Saved images have no such mappings.
    #[serde(skip)]
    pub shared: bool,
    /// Offset of `start` in the file.
    pub offset: u64,
    /// Device of the file, as the kernel writes it: `fe:01`.
    pub device: String,
    /// Inode of the file; 0 without a file.
    pub inode: u64,
    /// Path of the file, or a name such as `[stack]`; empty for anonymous memory.
    pub path: String,
}

/// Thread of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetThread {
    /// Number of the thread, in the pid namespace of this process.
    pub tid: u32,
    /// Number of the thread in the innermost pid namespace, as the program itself sees it.
    pub inner_tid: u32,
    /// Name of the thread.
    pub name: String,
    /// Registers in user space; `None` for a thread that runs, or whose registers cannot be read.
    pub registers: Option<Registers>,
}

/// Registers and stack of a thread at an earlier time. It has run on since, so nothing else of its stack is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedStack {
    /// Number of the thread, in the pid namespace of this process.
    pub tid: u32,
    /// Registers in user space.
    pub registers: Registers,
    /// Memory at the stack pointer.
    pub bytes: Vec<u8>,
}

/// Registers of a thread that is in a system call, in user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// Address of the next instruction.
    pub pc: u64,
    /// Address of the stack's top.
    pub sp: u64,
    /// Frame pointer: `rbp`, or `x29`; `None` where only `/proc/TID/syscall` is read, which does not have it.
    pub fp: Option<u64>,
    /// Link register: `x30` of aarch64; `None` on x86_64, and where it cannot be read.
    pub lr: Option<u64>,
}

/// Symbols in the files of a process that are not loaded into its memory (`.symtab`).
pub trait Symbols {
    /// Returns the address of the symbol `name` in the file of `mapping`, as the file has it; `None` if it has none.
    fn named(&self, mapping: &Mapping, name: &str) -> Option<u64>;

    /// Returns the name of the function that contains `address`, an address as the file of `mapping` has it, and the function's first
    /// address.
    fn at(&self, mapping: &Mapping, address: u64) -> Option<(String, u64)>;
}

/// Symbols of a process whose files are not read.
#[derive(Clone, Copy, Debug)]
pub struct NoSymbols;

impl Symbols for NoSymbols {
    fn named(&self, _mapping: &Mapping, _name: &str) -> Option<u64> {
        None
    }

    fn at(&self, _mapping: &Mapping, _address: u64) -> Option<(String, u64)> {
        None
    }
}

impl<'a> TargetProcess<'a> {
    /// Returns the private mappings of the starts of files, which executables and libraries have, the lowest address first.
    pub(crate) fn file_starts(&self) -> impl Iterator<Item = &'a Mapping> {
        self.mappings.iter().filter(|mapping| mapping.inode != 0 && mapping.offset == 0 && !mapping.shared)
    }

    /// Returns the mapping that contains `address`.
    pub fn mapping(&self, address: u64) -> Option<&Mapping> {
        let after = self.mappings.partition_point(|mapping| mapping.start <= address);
        self.mappings.get(after.checked_sub(1)?).filter(|mapping| address < mapping.end)
    }
}

impl Mapping {
    /// Parses a line of `/proc/PID/maps` (`show_map_vma`, fs/proc/task_mmu.c at v5.10); `None` if it is malformed.
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
        let rights = fields.next()?;
        Some(Self {
            start: hexadecimal(start)?,
            end: hexadecimal(end)?,
            readable: rights.starts_with('r'),
            executable: rights.get(2..3)? == "x",
            shared: rights.get(3..4)? == "s",
            offset: hexadecimal(fields.next()?)?,
            device: fields.next()?.to_owned(),
            inode: fields.next()?.parse().ok()?,
            path: fields.next().unwrap_or_default().trim_start().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Memory, MemoryError, ReadLimit};

    struct NoMemory;

    impl Memory for NoMemory {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
            Err(MemoryError::Unreadable { address, len: into.len() })
        }
    }

    #[test]
    fn a_line_of_maps_is_parsed() {
        let line =
            "7f0a4c000000-7f0a4c021000 r-xp 0001f000 fe:01 1442                     /usr/lib/a library.so (deleted)";
        let parsed = Mapping::parse(line).unwrap();
        assert_eq!((parsed.start, parsed.end, parsed.offset), (0x7f0a_4c00_0000, 0x7f0a_4c02_1000, 0x1f000));
        assert!(parsed.readable && parsed.executable);
        assert_eq!((parsed.device.as_str(), parsed.inode), ("fe:01", 1442));
        assert_eq!(parsed.path, "/usr/lib/a library.so (deleted)");
        assert_eq!(Mapping::parse("7f0a4c000000-7f0a4c021000 ---p 00000000 00:00 0 ").unwrap().path, "");
        assert_eq!(Mapping::parse("nothing"), None);
        let shared = Mapping::parse("7f0a4c000000-7f0a4c021000 r--s 00000000 00:05 7 /dev/dri/card0").unwrap();
        assert!(shared.shared && !parsed.shared);
        let none = ReadLimit::new(0, 0);
        let mappings = [shared, Mapping { offset: 0, ..parsed.clone() }];
        let process = TargetProcess {
            memory: MemoryReader::new(&NoMemory, &none),
            mappings: &mappings,
            threads: &[],
            symbols: &NoSymbols,
        };
        assert_eq!(process.file_starts().collect::<Vec<_>>(), [&mappings[1]], "a shared one may be a device");
    }
}
