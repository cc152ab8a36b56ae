//! Records of the iterators over open files.

use std::{
    fs::File,
    io::{self, Read as _},
    mem::offset_of,
};

use bytes::{Buf as _, BytesMut};
use closewait_common::{Record, record};

use crate::{beside::beside, host::deadline};

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

/// Hands every record of an iterator to `each`, as [`read_records`] does. Another thread reads meanwhile: the kernel takes longer to
/// describe sockets than the engine takes to store them.
///
/// # Errors
///
/// If the iterator cannot be read.
pub(super) fn read_records_beside(file: &File, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let read =
        |put: &mut dyn FnMut(Vec<u8>) -> bool| deadline::counted(|| read_chunks(file, |chunk| put(chunk.to_vec())));
    let mut records = WholeRecords::default();
    let ((), read) = beside(
        "closewait-files",
        read,
        &mut records,
        |_| (),
        |records, chunk| {
            records.hand_over(&chunk, &mut each);
            true
        },
    );
    records.end(&mut each);
    read
}

/// Hands every record of an iterator to `each`, until it returns `false`. The remaining records of the same read
/// still follow.
///
/// # Errors
///
/// If the iterator cannot be read.
pub(super) fn read_records_until(file: File, mut each: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let (mut records, mut wants_more) = (WholeRecords::default(), true);
    read_chunks(&file, |chunk| {
        records.hand_over(chunk, &mut |record| wants_more &= each(record));
        wants_more
    })?;
    if wants_more {
        records.end(&mut |record| _ = each(record));
    }
    Ok(())
}

/// Hands what each read of an iterator returns to `put`, until `put` returns `false`.
fn read_chunks(mut file: &File, mut put: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) if put(&chunk[..read]) => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Records that are put together from reads.
#[derive(Default)]
struct WholeRecords {
    pending: BytesMut,
}

impl WholeRecords {
    /// Hands every record that is whole now to `each`.
    fn hand_over(&mut self, chunk: &[u8], each: &mut impl FnMut(&[u8])) {
        self.pending.extend_from_slice(chunk);
        let used = hand_over(&self.pending, each);
        self.pending.advance(used);
    }

    /// Hands a rest to `each`. The kernel writes whole records, so the decoder counts a rest as an error.
    fn end(self, each: &mut impl FnMut(&[u8])) {
        if !self.pending.is_empty() {
            each(&self.pending);
        }
    }
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
