//! Where a socket is that no descriptor of a process refers to: in an io_uring instance, or on its way in a message.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::parse::{lines, number};

/// What is read of one description: an instance may have 32768 files and more, at some 25 bytes.
const DESCRIPTION: u64 = 1 << 20;
/// Descriptors of one process that are looked at.
const DESCRIPTORS: usize = 1 << 16;
/// What is read of the list of the UNIX sockets of a network namespace.
const UNIX: u64 = 8 << 20;
/// UNIX sockets whose descriptions are read in one go over all processes.
const SOCKETS: usize = 10_000;

/// What was found in one go over all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// The process that has the io_uring instance in which a socket is, by the inode of the socket.
    pub io_uring: BTreeMap<u64, u32>,
    /// An instance has files of which the kernel gives no name, so that any socket may be one of them.
    pub nameless: bool,
    /// Processes with a UNIX socket, of their own network namespace, in which descriptors wait to be received.
    pub in_flight: Vec<u32>,
}

/// The process that has a socket as a file of an io_uring instance; `None` if none is seen, also where the kernel does
/// not name such files.
pub fn io_uring_holder(root: &Path, inode: u64) -> Option<u32> {
    elsewhere(root, &[inode]).io_uring.get(&inode).copied()
}

/// Processes with a UNIX socket in which descriptors wait to be received.
pub fn in_flight_holders(root: &Path) -> Vec<u32> {
    elsewhere(root, &[]).in_flight
}

/// Both for several sockets at once, as it takes a look at every descriptor there is.
pub fn elsewhere(root: &Path, inodes: &[u64]) -> Elsewhere {
    let wanted: BTreeSet<u64> = inodes.iter().copied().collect();
    let (mut found, mut sockets) = (Elsewhere::default(), SOCKETS);
    let mut namespaces = BTreeMap::new();
    for pid in super::pids(root) {
        let process = super::folder(root, pid);
        let Ok(namespace) = fs::read_link(process.join("ns/net")) else { continue };
        // There may be far more sockets of other kinds.
        let unix = namespaces
            .entry(namespace)
            .or_insert_with(|| unix_sockets(&super::read(&process.join("net/unix"), UNIX).unwrap_or_default()));
        let mut in_flight = false;
        for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten().take(DESCRIPTORS) {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let target = target.as_os_str().as_encoded_bytes();
            let description = || super::read(&process.join("fdinfo").join(entry.file_name()), DESCRIPTION);
            if target == b"anon_inode:[io_uring]" && !wanted.is_empty() {
                let files = description().map(|text| files(&text)).unwrap_or_default();
                found.nameless |= files.nameless;
                for inode in files.sockets.intersection(&wanted) {
                    found.io_uring.insert(*inode, pid);
                }
            } else if !in_flight && sockets > 0 && inode(target).is_some_and(|inode| unix.contains(&inode)) {
                sockets -= 1;
                in_flight = description().is_ok_and(|text| waiting(&text).is_some_and(|count| count > 0));
            }
        }
        if in_flight {
            found.in_flight.push(pid);
        }
    }
    found
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Files {
    sockets: BTreeSet<u64>,
    nameless: bool,
}

/// The files of an io_uring instance: a line `UserFiles: COUNT`, then one line `INDEX: NAME` for each (Linux 6.18 prints
/// `    0: socket:[123]`; `__io_uring_show_fdinfo`, fs/io_uring.c at v5.10 prints the name of the directory entry, which
/// sockets do not have).
fn files(text: &[u8]) -> Files {
    let mut rows = lines(text).skip_while(|line| !line.starts_with(b"UserFiles:"));
    let count: usize = rows.next().and_then(|line| number(line.strip_prefix(b"UserFiles:")?)).unwrap_or(0);
    let mut files = Files::default();
    for row in rows.take(count) {
        // Empty places have no line, in some versions; the next section begins with a word.
        let Some(colon) = row.iter().position(|byte| *byte == b':') else { break };
        let (index, name) = row.split_at(colon);
        if number::<u32>(index).is_none() {
            break;
        }
        let name = name.trim_ascii_start().strip_prefix(b":").unwrap_or(name).trim_ascii();
        files.nameless |= name.is_empty();
        files.sockets.extend(inode(name));
    }
    files
}

/// The number in `socket:[N]`.
fn inode(name: &[u8]) -> Option<u64> {
    number(name.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

/// The inodes in `/proc/net/unix`, the seventh of its columns (`unix_seq_show`, net/unix/af_unix.c at v5.10).
fn unix_sockets(text: &[u8]) -> BTreeSet<u64> {
    let column =
        |line: &[u8]| line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).nth(6).map(<[u8]>::to_owned);
    lines(text).filter_map(|line| number(&column(line)?)).collect()
}

/// Descriptors that wait in a UNIX socket: `scm_fds: COUNT` (`unix_show_fdinfo`, net/unix/af_unix.c at v5.10).
fn waiting(text: &[u8]) -> Option<u64> {
    lines(text).find_map(|line| number(line.strip_prefix(b"scm_fds:")?))
}

#[cfg(fuzzing)]
pub(super) fn fuzz(text: &[u8]) {
    drop((files(text), unix_sockets(text), waiting(text), inode(text)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sockets_of_an_instance_are_found_by_their_names() {
        let text = b"SqMask:\t0x7\nUserFiles:\t3\n    0: socket:[5214979]\n    1: /tmp/socket:[7]\nUserBufs:\t0\n    9: socket:[8]\n";
        assert_eq!(files(text), Files { sockets: BTreeSet::from([5_214_979]), nameless: false });
    }

    #[test]
    fn files_without_a_name_are_not_taken_for_others() {
        let text = b"UserFiles:\t2\n    0: \n    1: <none>\nUserBufs:\t0\n";
        assert_eq!(files(text), Files { sockets: BTreeSet::new(), nameless: true });
    }

    #[test]
    fn descriptors_on_their_way_are_counted() {
        assert_eq!(waiting(b"pos:\t0\nino:\t5214988\nscm_fds: 1\n"), Some(1));
        assert_eq!(waiting(b"pos:\t0\nino:\t5214988\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            drop(unix_sockets(&bytes));
            let _count = waiting(&bytes);
            drop(files(&bytes));
            bytes.splice(0..0, *b"UserFiles:\t99\n 0:");
            drop(files(&bytes));
        }
    }
}
