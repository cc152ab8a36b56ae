//! The sockets that are there now, from the kernel's iterators.
//!
//! Three walks, because none sees all: the one over TCP sockets (`iter/tcp`) shows one network namespace, and in it also
//! what nobody has accepted yet; the one over open files (`iter/task_file`) shows every namespace and who holds what, but
//! only sockets that have a descriptor; the one over the files of one process shows its other connections.

use std::{
    fs::File,
    io::{self, Read as _},
    mem::offset_of,
    os::fd::AsFd as _,
    panic, thread,
};

use bytes::{Buf as _, BytesMut};
use closewait_common::{Record, names, record};

use super::{
    calls,
    program::{Programs, ProgramsError},
};
use crate::host::netns;

/// Bytes asked of the kernel at a time.
const CHUNK: usize = 64 * 1024;

/// What a walk over sockets could see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Network namespaces whose sockets were listed.
    pub namespaces: Vec<u32>,
    /// Network namespaces whose sockets without a descriptor could not be listed, with the first reason.
    pub blind: Vec<(u32, String)>,
}

/// Hands the record of every TCP socket in CLOSE_WAIT or LISTEN, of every namespace that can be entered, to `each`.
///
/// # Errors
///
/// If the iterator is refused or cannot be read.
pub fn sockets(programs: &mut Programs, mut each: impl FnMut(&[u8])) -> Result<Seen, ProgramsError> {
    let (seen, lists) = open_lists(programs)?;
    lists.into_iter().try_for_each(|list| read_records(list, &mut each)).map_err(ProgramsError::Read)?;
    Ok(seen)
}

/// What [`sockets`] and then [`files`] do, in the time of the longer one: the kernel walks over open files on another CPU.
///
/// # Errors
///
/// If an iterator is refused or cannot be read.
pub fn sockets_and_files(programs: &mut Programs, mut each: impl FnMut(&[u8])) -> Result<Seen, ProgramsError> {
    let (seen, lists) = open_lists(programs)?;
    programs.set_known(&seen.namespaces)?;
    let files = open(programs, names::ITER_FILES, "task_file")?;
    let (sockets, records) = thread::scope(|scope| {
        let reader = thread::Builder::new().name("open files".to_owned()).spawn_scoped(scope, || read_all(&files));
        let sockets = lists.into_iter().try_for_each(|list| read_records(list, &mut each));
        let records = match reader {
            Ok(reader) => reader.join().unwrap_or_else(|payload| panic::resume_unwind(payload)),
            // No thread can be had: one after the other, then.
            Err(_) => read_all(&files),
        };
        (sockets, records)
    });
    sockets.map_err(ProgramsError::Read)?;
    let records = records.map_err(ProgramsError::Read)?;
    let used = hand_over(&records, &mut each);
    // The kernel writes whole records; what is left over goes to the decoder, which counts it.
    records.get(used..).filter(|rest| !rest.is_empty()).map(each);
    Ok(seen)
}

/// The lists of TCP sockets of all namespaces that can be entered, not read yet.
fn open_lists(programs: &mut Programs) -> Result<(Seen, Vec<File>), ProgramsError> {
    let (mut seen, mut lists) = (Seen::default(), Vec::new());
    for namespace in netns::all() {
        // The kernel takes the namespace of whoever creates the iterator (`bpf_iter_init_seq_net`, kernel/bpf/bpf_iter.c
        // at v5.10), reading it can be done from anywhere.
        match namespace.enter_and(|| open(programs, names::ITER_TCP, "tcp")) {
            Ok(list) => {
                lists.push(list?);
                seen.namespaces.push(namespace.inode);
            }
            Err(error) => seen.blind.push((namespace.inode, error.to_string())),
        }
    }
    Ok((seen, lists))
}

/// Hands a record for every open file of a socket that matters to `each`. Of sockets in CLOSE_WAIT of the namespaces in
/// `known` it says no more than who holds them.
///
/// # Errors
///
/// If the iterator is refused or cannot be read.
pub fn files(programs: &mut Programs, known: &[u32], mut each: impl FnMut(&[u8])) -> Result<(), ProgramsError> {
    programs.set_known(known)?;
    let file = open(programs, names::ITER_FILES, "task_file")?;
    read_records(file, &mut each).map_err(ProgramsError::Read)
}

/// Hands a record for every other connection of a process to `each`.
///
/// # Errors
///
/// If the iterator is refused, as it is before Linux 6.1, or cannot be read.
pub fn legs(programs: &mut Programs, pid: u32, mut each: impl FnMut(&[u8])) -> Result<(), ProgramsError> {
    let name = names::ITER_LEGS;
    let program = programs.iterator(name, "task_file")?;
    let program = program.fd().map_err(|source| ProgramsError::Program { name, source })?;
    let file = calls::files_of(program.as_fd(), pid).map_err(ProgramsError::Read)?;
    read_records(file, &mut each).map_err(ProgramsError::Read)
}

fn open(programs: &mut Programs, name: &'static str, kind: &str) -> Result<File, ProgramsError> {
    let refused = |source| ProgramsError::Program { name, source };
    let iter = programs.iterator(name, kind)?;
    let link = iter.attach().and_then(|link| iter.take_link(link)).map_err(refused)?;
    link.into_file().map_err(|source| ProgramsError::Link { name, source })
}

/// Every record of an iterator.
fn read_all(mut file: &File) -> io::Result<Vec<u8>> {
    let mut records = Vec::with_capacity(CHUNK);
    file.read_to_end(&mut records)?;
    Ok(records)
}

/// Hands every whole record in `bytes` to `each`. Returns how many bytes they are.
fn hand_over(bytes: &[u8], each: &mut impl FnMut(&[u8])) -> usize {
    let mut used = 0;
    while let Some(record) = bytes.get(used..).and_then(first_record) {
        each(record);
        used += record.len();
    }
    used
}

fn read_records(mut file: File, each: &mut impl FnMut(&[u8])) -> io::Result<()> {
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
        let used = hand_over(&pending, each);
        pending.advance(used);
    }
    // The kernel writes whole records; what is left over goes to the decoder, which counts it.
    if !pending.is_empty() {
        each(&pending);
    }
    Ok(())
}

/// The record that `bytes` begin with; `None` if not all of it is there.
fn first_record(bytes: &[u8]) -> Option<&[u8]> {
    let kind = bytes.get(offset_of!(Record, kind))?;
    bytes.get(..if *kind == record::kind::HOLDS { record::HOLD_SIZE } else { record::DETAILED_SIZE })
}
