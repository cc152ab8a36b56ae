//! The few kernel types that programs attach to, for aya.
//!
//! aya would parse all 100,000 types to find these, which takes 10 ms and 15 MB, although the agent has read the same
//! file already. So it gets types that are all empty except the wanted ones, each with its number in the kernel.
//! Programs find members by offsets that the agent sets, so aya needs nothing else.

use std::iter;

use aya::{Btf, BtfError, Endianness};

use crate::host::facts::Attachable;

/// `BTF_MAGIC`, version and length of the header, include/uapi/linux/btf.h (v6.18).
const MAGIC: u16 = 0xeb9f;
const VERSION: [u8; 2] = [1, 0];
const HEADER_BYTES: u32 = 24;
/// Size of `struct btf_type`, bytes (include/uapi/linux/btf.h, v6.18).
const TYPE_BYTES: usize = 12;
/// `BTF_KIND_FWD`: a type of three words and nothing behind them.
const EMPTY: u32 = 7 << 24;

/// Returns types for aya in which only `wanted` have a name.
///
/// # Errors
///
/// If aya cannot parse them.
pub(super) fn only(wanted: &[Attachable]) -> Result<Btf, BtfError> {
    Btf::parse(&bytes(wanted), Endianness::default())
}

fn bytes(wanted: &[Attachable]) -> Vec<u8> {
    // Type 0 is `void` and not in the file.
    let last = wanted.iter().map(|one| one.id).max().unwrap_or(0) as usize;
    let strings: Vec<u8> =
        iter::once(0).chain(wanted.iter().flat_map(|one| one.name.bytes().chain(iter::once(0)))).collect();
    let types = last * TYPE_BYTES;
    let mut bytes = Vec::with_capacity(HEADER_BYTES as usize + types + strings.len());
    bytes.extend(MAGIC.to_ne_bytes());
    bytes.extend(VERSION);
    // Length of the header; start and length of types and strings, from its end.
    for word in [HEADER_BYTES, 0, u32_of(types), u32_of(types), u32_of(strings.len())] {
        bytes.extend(word.to_ne_bytes());
    }
    let empty = type_bytes(0, EMPTY);
    (0..last).for_each(|_| bytes.extend_from_slice(&empty));
    let mut name = 1;
    for one in wanted {
        let at = (one.id as usize).checked_sub(1).map(|index| HEADER_BYTES as usize + index * TYPE_BYTES);
        if let Some(slot) = at.and_then(|at| bytes.get_mut(at..at + TYPE_BYTES)) {
            slot.copy_from_slice(&type_bytes(name, one.kind << 24));
        }
        name += u32_of(one.name.len() + 1);
    }
    bytes.extend(strings);
    bytes
}

/// Returns a type of three words: the position of its name, its kind, and 0.
fn type_bytes(name: u32, kind: u32) -> [u8; TYPE_BYTES] {
    let mut bytes = [0; TYPE_BYTES];
    let words = bytes.as_chunks_mut().0.iter_mut().zip([name, kind]);
    words.for_each(|(to, word)| *to = word.to_ne_bytes());
    bytes
}

/// Converts a length. Lengths here are a few megabytes at most.
fn u32_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::btf::{FUNC, TYPEDEF};

    #[test]
    fn aya_finds_each_wanted_type_at_its_number() {
        let one = |name: &str, kind, id| Attachable { name: name.to_owned(), kind, id };
        let wanted = [one("bpf_iter_task_file", FUNC, 70_001), one("btf_trace_x", TYPEDEF, 3)];
        let own = crate::host::btf::Btf::parse(bytes(&wanted)).unwrap();
        assert_eq!(own.function("bpf_iter_task_file"), Some(70_001));
        assert_eq!(own.typedef("btf_trace_x"), Some(3));
        assert_eq!(own.function("btf_trace_x"), None);
        assert!(only(&wanted).is_ok() && only(&[]).is_ok());
    }
}
