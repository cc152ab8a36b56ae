//! Names of functions by address.
//!
//! All addresses of an object are looked up together, so that its dynamic symbols are read once and no index of them is kept.

use std::collections::{BTreeMap, BTreeSet};

use object::{
    Endianness,
    elf::{self, Sym64},
    pod,
};

use super::code::CodeObject;
use crate::{
    elf::{Dynamic, Object},
    memory::{MemoryError, MemoryReader},
    process::Symbols,
};

/// Byte order of all supported processes.
const ORDER: Endianness = Endianness::Little;
/// Number of bytes of a symbol.
const SYMBOL_LEN: usize = size_of::<Sym64<Endianness>>();
/// Number of symbols that are read at once.
const BLOCK: u32 = 2048;
/// Maximum number of dynamic symbols of an object. Debian's libLLVM 15 has 40,000 and node 20 from its makers 80,000.
const MAX_SYMBOLS: u32 = 1 << 18;
/// Maximum number of buckets of a hash table, which are about as many as symbols.
const MAX_BUCKETS: u32 = 1 << 18;
/// Maximum number of symbols that are compared for one address.
const MAX_ALIASES: usize = 8;
/// Maximum number of comparisons of a symbol with an address, for one object. Usual are three for each address.
const MAX_COMPARISONS: usize = 1 << 20;
/// Maximum length of a name, bytes.
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
pub(super) type Names = BTreeMap<u64, String>;

/// Returns the names of the functions at `addresses` in an object. Each address has the first address of its function, if a table has
/// that: a name whose symbol starts before it is that of another function.
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
    for (address, function) in wanted {
        if names.contains_key(&address) {
            continue;
        }
        let found = symbols.at(own.object.mapping, own.object.in_file(address));
        let is_before = |start: u64| function.is_some_and(|function| start < own.object.in_file(function));
        if let Some((name, _)) = found.filter(|(_, start)| !is_before(*start)) {
            names.insert(address, demangled(&name));
        }
    }
    names
}

fn dynamic_names(
    object: &Object<'_>,
    memory: MemoryReader<'_>,
    dynamic: &Dynamic,
    wanted: &[(u64, Option<u64>)],
) -> Result<Names, MemoryError> {
    let mut found: BTreeMap<u64, Vec<Candidate>> = BTreeMap::new();
    let mut left = MAX_COMPARISONS;
    let count = symbol_count(memory, dynamic)?;
    for first in (0..count).step_by(BLOCK as usize) {
        let number = (count - first).min(BLOCK) as usize;
        let at = dynamic.symbols.wrapping_add(u64::from(first) * SYMBOL_LEN as u64);
        let bytes = memory.bytes(at, number * SYMBOL_LEN)?;
        let Ok((block, _)) = pod::slice_from_bytes::<Sym64<Endianness>>(&bytes, number) else { break };
        for symbol in block {
            let kind = symbol.st_type();
            if symbol.st_shndx.get(ORDER) == elf::SHN_UNDEF || (kind != elf::STT_FUNC && kind != SELECTOR) {
                continue;
            }
            let start = symbol.st_value.get(ORDER).wrapping_add(object.bias);
            let len = symbol.st_size.get(ORDER);
            let from = wanted.partition_point(|(address, _)| *address < start);
            // Without a size it is the name of what a table begins at or before it.
            let contains = |address: u64, function: Option<u64>| match len {
                0 => function.is_some_and(|function| function <= start),
                _ => address - start < len && function.is_none_or(|function| function <= start),
            };
            let is_past = |address: u64| len > 0 && address - start >= len;
            for (address, function) in wanted[from..].iter().take_while(|(address, _)| !is_past(*address)) {
                left = left.saturating_sub(1);
                if left == 0 {
                    break;
                }
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
            let name = memory.text(dynamic.names.wrapping_add(candidate.name.into()), MAX_NAME)?;
            let underscores = name.len() - name.trim_start_matches('_').len();
            let is_mangled = name.starts_with("_Z") || name.starts_with("_R");
            aliases.push((if is_mangled { 0 } else { underscores }, !candidate.is_global, name));
        }
        if let Some((_, _, name)) = aliases.into_iter().filter(|(_, _, name)| !name.is_empty()).min() {
            names.insert(address, demangled(&name));
        }
    }
    Ok(names)
}

/// Returns the number of dynamic symbols. Only the hash tables have it: `nchain` of `DT_HASH`, and the end of the last chain of
/// `DT_GNU_HASH`, in which the lowest bit of a value marks the end (`do_lookup_x`, elf/dl-lookup.c of glibc at 2.36).
fn symbol_count(memory: MemoryReader<'_>, dynamic: &Dynamic) -> Result<u32, MemoryError> {
    if let Some(table) = dynamic.hash {
        return Ok(memory.u32(table.wrapping_add(4))?.min(MAX_SYMBOLS));
    }
    let Some(table) = dynamic.gnu_hash else { return Ok(0) };
    let word = |header: &[u8; 16], index: usize| {
        header.get(4 * index..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
    };
    let header = memory.array::<16>(table)?;
    let (buckets, base, blooms) = (word(&header, 0), word(&header, 1), word(&header, 2));
    if buckets > MAX_BUCKETS {
        return Ok(0);
    }
    let at_buckets = table.wrapping_add(16).wrapping_add(8 * u64::from(blooms));
    let bytes = memory.bytes(at_buckets, 4 * buckets as usize)?;
    let (words, _) = bytes.as_chunks::<4>();
    let last = words.iter().map(|word| u32::from_le_bytes(*word)).max().unwrap_or(0);
    if last < base || last >= MAX_SYMBOLS {
        return Ok(base.min(MAX_SYMBOLS));
    }
    let chains = at_buckets.wrapping_add(4 * u64::from(buckets));
    for index in last..MAX_SYMBOLS {
        if memory.u32(chains.wrapping_add(4 * u64::from(index - base)))? & 1 == 1 {
            return Ok(index + 1);
        }
        // A chain has a few symbols.
        if index - last > 256 {
            break;
        }
    }
    Ok(0)
}

/// Returns the name in the source of a mangled one of Rust, without its hash; any other name as it is.
fn demangled(name: &str) -> String {
    use std::fmt::Write as _;
    let Ok(name) = rustc_demangle::try_demangle(name) else { return name.to_owned() };
    let mut bounded = Bounded(String::new());
    // An error is the end of the room.
    let _is_cut = write!(bounded, "{name:#}");
    bounded.0
}

/// Text of at most [`MAX_NAME`] bytes: a short mangled name can stand for a very long one.
struct Bounded(String);

impl std::fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        let room = MAX_NAME.saturating_sub(self.0.len());
        let end = part.floor_char_boundary(room);
        self.0.push_str(&part[..end]);
        if end < part.len() { Err(std::fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rust_lose_their_hash_and_others_stay() {
        assert_eq!(demangled("_ZN3std6thread5sleep17h0123456789abcdefE"), "std::thread::sleep");
        assert_eq!(demangled("_RNvC6_123foo3bar"), "123foo::bar");
        assert_eq!(demangled("pthread_cond_wait"), "pthread_cond_wait");
        assert_eq!(demangled(&format!("_ZN{}17h0123456789abcdefE", "3abc".repeat(1000))).len(), MAX_NAME);
    }
}
