//! Names of the sections of a program. The file is from any process: its sizes are not trusted.

use std::{fs::File, os::unix::fs::FileExt as _};

/// Maximum number of sections to check; a program has some 30, and the wanted ones are among the first.
const MAX_SECTIONS: u16 = 256;
/// Size of an entry of the table, bytes: `Elf64_Shdr`.
const ENTRY_BYTES: usize = 64;
/// Maximum bytes to read of the names.
const MAX_NAMES_BYTES: usize = 64 << 10;

/// Whether a 64-bit little-endian ELF file has a section of one of these names.
pub(super) fn has_section(file: &File, names: &[&[u8]]) -> bool {
    // A short read leaves zeros, which match no name.
    find(names, |bytes, offset| file.read_at(bytes, offset).ok().filter(|read| *read > 0).map(drop)).is_some()
}

/// Searches the section names. `read` fills as much of a buffer as it can from an offset; `None` if that is nothing.
fn find(names: &[&[u8]], mut read: impl FnMut(&mut [u8], u64) -> Option<()>) -> Option<()> {
    let mut header = [0; 64];
    read(&mut header, 0)?;
    // ELFCLASS64, ELFDATA2LSB.
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, entry) = (u64::from_le_bytes(*header.get(0x28..)?.first_chunk()?), short(&header, 0x3a)?);
    let (count, of_names) = (short(&header, 0x3c)?, short(&header, 0x3e)?);
    if usize::from(entry) != ENTRY_BYTES || of_names >= count {
        return None;
    }
    let mut entries = vec![0; usize::from(count.min(MAX_SECTIONS)) * ENTRY_BYTES];
    read(&mut entries, table)?;
    let mut entry_of_names = [0; ENTRY_BYTES];
    read(&mut entry_of_names, table.checked_add(u64::from(of_names) * u64::try_from(ENTRY_BYTES).ok()?)?)?;
    let long = |at: usize| Some(u64::from_le_bytes(*entry_of_names.get(at..)?.first_chunk()?));
    let size = usize::try_from(long(0x20)?).unwrap_or(MAX_NAMES_BYTES).min(MAX_NAMES_BYTES);
    let mut text = vec![0; size];
    read(&mut text, long(0x18)?)?;
    let is_one = |entry: &[u8]| {
        let start = entry.first_chunk().and_then(|start| usize::try_from(u32::from_le_bytes(*start)).ok());
        let name = start.and_then(|start| text.get(start..)).and_then(|rest| rest.split(|byte| *byte == 0).next());
        name.is_some_and(|name| names.contains(&name))
    };
    entries.chunks_exact(ENTRY_BYTES).any(is_one).then_some(())
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(fuzzing)]
pub(super) fn fuzz(file: &[u8]) {
    let read = |to: &mut [u8], offset: u64| {
        let from = file.get(usize::try_from(offset).ok()?..).filter(|from| !from.is_empty())?;
        let length = from.len().min(to.len());
        to[..length].copy_from_slice(&from[..length]);
        Some(())
    };
    let _found = find(&[b".go.buildinfo"], read);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find_in(file: &[u8], names: &[&[u8]]) -> bool {
        let read = |to: &mut [u8], offset: u64| {
            let from = file.get(usize::try_from(offset).ok()?..).filter(|from| !from.is_empty())?;
            let length = from.len().min(to.len());
            to[..length].copy_from_slice(&from[..length]);
            Some(())
        };
        find(names, read).is_some()
    }

    /// Builds a program: a header, a table of two sections, and their names.
    fn program() -> Vec<u8> {
        let mut file = vec![0; 64 + 128];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (file[0x28], file[0x3a], file[0x3c], file[0x3e]) = (64, 64, 2, 1);
        file[64] = 1;
        (file[64 + 64 + 0x18], file[64 + 64 + 0x20]) = (192, 15);
        file.extend(b"\0.go.buildinfo\0");
        file
    }

    #[test]
    fn a_section_is_found_by_its_whole_name() {
        assert!(find_in(&program(), &[b".go.buildinfo"]));
        assert!(!find_in(&program(), &[b".go.build"]));
    }

    #[test]
    fn the_own_program_has_text_and_nothing_of_go() {
        let own = File::open("/proc/self/exe").unwrap();
        assert!(has_section(&own, &[b".text"]));
        assert!(!has_section(&own, &[b".go.buildinfo"]));
    }

    proptest! {
        #[test]
        fn a_program_with_any_bytes_changed_is_survived(changes: Vec<(u8, u8)>, length in 0_usize..210) {
            let mut file = program();
            for (at, byte) in changes {
                if let Some(old) = file.get_mut(usize::from(at)) {
                    *old = byte;
                }
            }
            file.truncate(length);
            let _found = find_in(&file, &[b".go.buildinfo"]);
        }
    }
}
