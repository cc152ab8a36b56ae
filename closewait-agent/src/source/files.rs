//! Records of the iterators over open files.

use std::{
    fs::File,
    io::{self, Read as _},
    mem::offset_of,
};

use bytes::{Buf as _, BytesMut};
use closewait_common::{Record, record};

/// Bytes per read.
const CHUNK: usize = 64 * 1024;

/// Hands every record of an iterator to `each`.
///
/// # Errors
///
/// If the iterator cannot be read.
pub(super) fn read_records(file: File, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    read_records_until(file, |record| {
        each(record);
        true
    })
}

/// Hands every record of an iterator to `each`, until it returns `false`. The remaining records of the same read
/// still follow.
///
/// # Errors
///
/// If the iterator cannot be read.
pub(super) fn read_records_until(mut file: File, mut each: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut pending = BytesMut::with_capacity(CHUNK + record::DETAILED_SIZE);
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        pending.extend_from_slice(&chunk[..read]);
        let mut wants_more = true;
        let used = hand_over(&pending, &mut |record| wants_more &= each(record));
        pending.advance(used);
        if !wants_more {
            return Ok(());
        }
    }
    // The kernel writes whole records. The decoder counts a rest as an error.
    if !pending.is_empty() {
        each(&pending);
    }
    Ok(())
}

/// Hands every whole record in `bytes` to `each`. Returns the number of bytes in them.
pub fn hand_over(bytes: &[u8], each: &mut impl FnMut(&[u8])) -> usize {
    let mut used = 0;
    while let Some(record) = bytes.get(used..).and_then(first_record) {
        each(record);
        used += record.len();
    }
    used
}

/// Returns the inode in a record of a CLOSE_WAIT socket that has a descriptor.
pub(super) fn inode_of_held(record: &[u8]) -> Option<u64> {
    let kind = record.get(offset_of!(Record, kind))?;
    let at = offset_of!(Record, inode);
    let inode = record.get(at..at + size_of::<u64>())?.first_chunk().copied().map(u64::from_ne_bytes);
    inode.filter(|inode| *kind == record::kind::HELD && *inode != 0)
}

/// Returns the record that `bytes` begin with; `None` if it is incomplete.
fn first_record(bytes: &[u8]) -> Option<&[u8]> {
    let kind = bytes.get(offset_of!(Record, kind))?;
    bytes.get(..if *kind == record::kind::HOLDS { record::HOLD_SIZE } else { record::DETAILED_SIZE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        bytes[offset_of!(Record, kind)] = kind;
        if let Some(inode) = bytes.get_mut(offset_of!(Record, inode)) {
            *inode = 7;
        }
        bytes
    }

    #[test]
    fn records_of_both_lengths_follow_one_another() {
        let mut all = bytes(record::kind::HOLDS, record::HOLD_SIZE);
        all.extend(bytes(record::kind::HELD, record::DETAILED_SIZE));
        all.extend(bytes(record::kind::HELD, record::DETAILED_SIZE - 1));
        let mut lengths = Vec::new();
        let used = hand_over(&all, &mut |record| lengths.push(record.len()));
        assert_eq!(lengths, [record::HOLD_SIZE, record::DETAILED_SIZE]);
        assert_eq!(used, record::HOLD_SIZE + record::DETAILED_SIZE, "one is not whole yet");
    }

    #[test]
    fn only_a_socket_with_a_descriptor_has_an_inode() {
        let held = bytes(record::kind::HELD, record::DETAILED_SIZE);
        assert_eq!(inode_of_held(&held), Some(7));
        assert_eq!(inode_of_held(&bytes(record::kind::LISTENING, record::DETAILED_SIZE)), None);
        assert_eq!(inode_of_held(&held[..20]), None);
    }
}
