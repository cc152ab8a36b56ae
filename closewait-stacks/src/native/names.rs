//! Names of functions by address.
//!
//! All addresses of an object are looked up together, so that its dynamic symbols are read once and no index of them is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use object::{
    Endianness,
    elf::{self, Sym64},
    pod,
};

use super::{code::CodeObject, cpp};
use crate::{
    elf::{Dynamic, ORDER, Object},
    limit::{MAX_FUNCTION_BYTES, cut_name},
    memory::{MemoryError, MemoryReader},
    process::Symbols,
};

/// Number of bytes of a symbol.
const SYMBOL_LEN: usize = size_of::<Sym64<Endianness>>();
/// Number of symbols that are read at once.
const BLOCK: u32 = 2048;
/// Maximum number of dynamic symbols of an object. Debian's libLLVM 15 has 40,000 and node 20 from its makers 80,000.
const MAX_SYMBOLS: u32 = 1 << 18;
/// Maximum number of symbols that are compared for one address.
const MAX_ALIASES: usize = 8;
/// Maximum number of comparisons of a symbol with an address, for one object. Usual are three for each address.
const MAX_COMPARISONS: usize = 1 << 20;
/// Maximum length of a name in a file, bytes.
const MAX_NAME: usize = 1024;
/// Type of a symbol whose address is that of a function that selects the implementation (`STT_GNU_IFUNC`).
const SELECTOR: u8 = 10;

/// Symbol that may be the name of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    /// First address.
    start: u64,
    /// Offset of the name in the table of names.
    name: u32,
    is_global: bool,
}

/// Names by address in memory.
pub(super) type Names = BTreeMap<u64, Arc<str>>;

/// Returns the names of the functions at `addresses` in an object. Each address has the first address of its function, if a table has
/// that: a name whose symbol has no size is that of another function if it starts before it.
pub(super) fn names(
    own: &CodeObject<'_>,
    memory: MemoryReader<'_>,
    symbols: &dyn Symbols,
    addresses: &BTreeSet<(u64, Option<u64>)>,
) -> Names {
    let wanted: Vec<(u64, Option<u64>)> = addresses.iter().copied().collect();
    let dynamic = own.object.dynamic().ok().flatten();
    // Symbols that cannot be read leave functions without names, and the stacks are still there.
    let found = dynamic.and_then(|dynamic| dynamic_names(&own.object, memory, &dynamic, &wanted).ok());
    let mut names = found.unwrap_or_default();
    for (address, _) in wanted {
        if !names.contains_key(&address)
            && let Some((name, _)) = symbols.at(own.object.mapping, own.object.in_file(address))
        {
            match name_of(memory, &name) {
                Ok(name) => names.insert(address, name),
                Err(_) => break,
            };
        }
    }
    names
}

/// Returns the name to show for one in a file, and takes the steps of the work on it.
fn name_of(memory: MemoryReader<'_>, name: &str) -> Result<Arc<str>, MemoryError> {
    if name.len() > MAX_NAME {
        return memory.name(name, MAX_FUNCTION_BYTES);
    }
    // Each reference of a mangled name to a part of itself is a way through that part again.
    let references = name.bytes().filter(|byte| *byte == b'B').count();
    memory.work(8 * (1 + references as u64) * name.len() as u64)?;
    memory.name(&demangled(name), MAX_FUNCTION_BYTES)
}

fn dynamic_names(
    object: &Object<'_>,
    memory: MemoryReader<'_>,
    dynamic: &Dynamic,
    wanted: &[(u64, Option<u64>)],
) -> Result<Names, MemoryError> {
    let mut found: BTreeMap<u64, Vec<Candidate>> = BTreeMap::new();
    let mut left = MAX_COMPARISONS;
    let count = object.symbol_count(dynamic, MAX_SYMBOLS)?;
    for first in (0..count).step_by(BLOCK as usize) {
        let number = (count - first).min(BLOCK) as usize;
        let at = dynamic.symbols.wrapping_add(u64::from(first) * SYMBOL_LEN as u64);
        let bytes = memory.bytes(at, number * SYMBOL_LEN)?;
        let Ok((block, _)) = pod::slice_from_bytes::<Sym64<Endianness>>(&bytes, number) else { break };
        for symbol in block {
            let kind = symbol.st_type();
            let (start, len) = (symbol.st_value.get(ORDER).wrapping_add(object.bias), symbol.st_size.get(ORDER));
            // Code of the vdso has no type, but a size.
            let is_code = [elf::STT_FUNC, SELECTOR].contains(&kind) || kind == elf::STT_NOTYPE && len > 0;
            if symbol.st_shndx.get(ORDER) == elf::SHN_UNDEF || !is_code {
                continue;
            }
            let from = wanted.partition_point(|(address, _)| *address < start);
            // Without a size it is the name of what a table begins at or before it.
            let contains = |address: u64, function: Option<u64>| match len {
                0 => function.is_some_and(|function| function <= start),
                // Code written by hand can have several descriptions in one function, as that of `clone3` of glibc.
                _ => address - start < len,
            };
            let is_past = |address: u64| len > 0 && address - start >= len;
            for (address, function) in wanted[from..].iter().take_while(|(address, _)| !is_past(*address)) {
                left = left.saturating_sub(1);
                if left == 0 {
                    break;
                }
                memory.work(4)?;
                if contains(*address, *function) {
                    let is_global = symbol.st_bind() == elf::STB_GLOBAL;
                    let candidates = found.entry(*address).or_default();
                    candidates.push(Candidate { start, name: symbol.st_name.get(ORDER), is_global });
                    // The nearest symbol, and then the first one in the table, so that the choice is always the same.
                    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.start));
                    candidates.truncate(MAX_ALIASES);
                }
            }
        }
    }
    let mut names = Names::new();
    for (address, candidates) in found {
        let nearest = candidates.first().map_or(0, |candidate| candidate.start);
        let mut aliases = Vec::new();
        for candidate in candidates.iter().filter(|candidate| candidate.start == nearest) {
            let name = memory.text(dynamic.names.wrapping_add(candidate.name.into()), MAX_NAME + 1)?;
            let underscores = name.len() - name.trim_start_matches('_').len();
            let is_mangled = name.starts_with("_Z") || name.starts_with("_R");
            aliases.push((if is_mangled { 0 } else { underscores }, !candidate.is_global, name));
        }
        if let Some((_, _, name)) = aliases.into_iter().filter(|(_, _, name)| !name.is_empty()).min() {
            names.insert(address, name_of(memory, &name)?);
        }
    }
    Ok(names)
}

/// Returns the name in the source of a mangled one: of Rust without its hash, of C++ without parameters; any other name as it is.
fn demangled(name: &str) -> String {
    let mut bounded = Bounded(String::new());
    if let Ok(name) = rustc_demangle::try_demangle(name) {
        // An error is the end of the room.
        let _is_cut = write!(bounded, "{name:#}");
    } else {
        bounded.0 = cpp::name(name).unwrap_or_else(|| name.to_owned());
    }
    cut_name(&bounded.0, MAX_FUNCTION_BYTES).into_owned()
}

/// Text that ends behind [`MAX_FUNCTION_BYTES`] bytes: a short mangled name can stand for a very long one.
struct Bounded(String);

impl std::fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        let room = (MAX_FUNCTION_BYTES + 4).saturating_sub(self.0.len());
        let end = part.floor_char_boundary(room);
        self.0.push_str(&part[..end]);
        if end < part.len() { Err(std::fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mangled_names_become_those_of_the_source_and_others_stay() {
        assert_eq!(demangled("_ZN3std6thread5sleep17h0123456789abcdefE"), "std::thread::sleep");
        assert_eq!(demangled("_RNvC6_123foo3bar"), "123foo::bar");
        assert_eq!(demangled("pthread_cond_wait"), "pthread_cond_wait");
        assert_eq!(demangled("_ZNSt6thread4joinEv"), "std::thread::join");
        assert_eq!(demangled(&format!("_ZN{}17h0123456789abcdefE", "3abc".repeat(1000))).len(), MAX_FUNCTION_BYTES);
    }
}
