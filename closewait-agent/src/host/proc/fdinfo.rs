//! Locations of sockets that no descriptor of a process refers to: in an io_uring instance, or in a message in transit.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    super::{
        deadline::{self, ItemJob, Patience, ReadResult, Subject},
        lock,
    },
    parse::{lines, number},
};

/// Maximum bytes to read of one description: an instance may have 32768 files and more, at some 25 bytes each.
const MAX_DESCRIPTION_BYTES: u64 = 1 << 20;
/// Maximum number of descriptors to read per process.
const MAX_DESCRIPTORS: usize = 1 << 16;
/// Maximum bytes to read of the list of UNIX sockets of a network namespace.
const MAX_UNIX_BYTES: u64 = 8 << 20;
/// Maximum number of UNIX sockets whose descriptions are read in one scan over all processes.
const MAX_UNIX_SOCKETS: usize = 10_000;

/// Findings of one scan over all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Process with the io_uring instance that contains a socket, by the inode of the socket.
    pub io_uring: BTreeMap<u64, u32>,
    /// Whether an instance has files without a name in the kernel's list, so that any socket may be one of them.
    pub nameless: bool,
    /// Processes with a UNIX socket, in their own network namespace, in which descriptors wait to be received.
    pub in_flight: Vec<u32>,
    /// The first reason why some processes were not scanned, so that any socket may be in one of them. Processes of
    /// other users are no such reason.
    pub unseen: Option<String>,
}

/// Result of the search for sockets without an owner in one process.
#[derive(Debug)]
enum ProcessHit {
    InUring(u64),
    Nameless,
    InFlight,
    Unseen(String),
}

/// Shared state of a scan over all processes.
struct Search {
    root: PathBuf,
    wanted: BTreeSet<u64>,
    /// Number of UNIX sockets that may still be read.
    sockets: AtomicUsize,
    /// Inodes of all UNIX sockets, by network namespace.
    unix: Mutex<BTreeMap<PathBuf, Arc<BTreeSet<u64>>>>,
}

/// Finds the locations of sockets that no descriptor refers to. Reads every descriptor of the host.
pub fn elsewhere(root: &Path, inodes: &[u64], patience: &mut Patience) -> Elsewhere {
    let mut elsewhere = Elsewhere::default();
    let from = root.to_owned();
    let listed =
        deadline::run(Subject::Path(root.to_owned()), "the list of processes", patience, move || super::pids(&from));
    let pids = match listed {
        Ok(Ok(pids)) => pids,
        Ok(Err(error)) => return Elsewhere { unseen: Some(error.to_string()), ..elsewhere },
        Err(why) => return Elsewhere { unseen: Some(why.to_string()), ..elsewhere },
    };
    let wanted: BTreeSet<u64> = inodes.iter().copied().collect();
    let sockets = AtomicUsize::new(MAX_UNIX_SOCKETS);
    let search = Search { root: root.to_owned(), wanted, sockets, unix: Mutex::default() };
    let work = move |pid: &u32, job: &ItemJob<ProcessHit>| {
        let free = job.about(Subject::Process(*pid, None));
        job.step("its descriptors");
        match free.map(|()| search.process(*pid, job)) {
            Ok(Err(error)) if !super::is_gone(&error) && !super::is_refused(&error) => {
                job.put(ProcessHit::Unseen(error.to_string()));
            }
            Ok(Ok(()) | Err(_)) => {}
            Err(why) => job.put(ProcessHit::Unseen(why.to_string())),
        }
    };
    deadline::each(pids, patience, work, |pid, result| match result {
        ReadResult::Value(ProcessHit::InUring(inode)) => drop(elsewhere.io_uring.insert(inode, *pid)),
        ReadResult::Value(ProcessHit::Nameless) => elsewhere.nameless = true,
        ReadResult::Value(ProcessHit::InFlight) => elsewhere.in_flight.push(*pid),
        ReadResult::Value(ProcessHit::Unseen(error)) => {
            elsewhere.unseen.get_or_insert_with(|| format!("the descriptors of process {pid} cannot be read: {error}"));
        }
        ReadResult::Unanswered(why) => {
            elsewhere.unseen.get_or_insert_with(|| format!("the descriptors of process {pid} were not read: {why}"));
        }
    });
    elsewhere
}

impl Search {
    fn process(&self, pid: u32, job: &ItemJob<ProcessHit>) -> io::Result<()> {
        let process = super::folder(&self.root, pid);
        let process = super::living_thread(&process).unwrap_or(process);
        let unix = self.unix(&process)?;
        let (mut in_flight, mut nameless) = (false, false);
        for entry in fs::read_dir(process.join("fd"))?.take(MAX_DESCRIPTORS) {
            let entry = entry?;
            job.progress();
            let target = match fs::read_link(entry.path()) {
                Ok(target) => target,
                // The descriptor was closed.
                Err(error) if super::is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            let target = target.as_os_str().as_encoded_bytes();
            let description = || super::read(&process.join("fdinfo").join(entry.file_name()), MAX_DESCRIPTION_BYTES);
            if target == b"anon_inode:[io_uring]" && !self.wanted.is_empty() {
                let files = or_closed(description())?.map(|text| files(&text)).unwrap_or_default();
                if files.nameless && !nameless {
                    nameless = true;
                    job.put(ProcessHit::Nameless);
                }
                for inode in files.sockets.intersection(&self.wanted) {
                    job.put(ProcessHit::InUring(*inode));
                }
            } else if !in_flight && inode(target).is_some_and(|inode| unix.contains(&inode)) && self.may_ask_a_socket()
            {
                let text = or_closed(description())?;
                in_flight = text.is_some_and(|text| waiting(&text).is_some_and(|count| count > 0));
                if in_flight {
                    job.put(ProcessHit::InFlight);
                }
            }
        }
        Ok(())
    }

    /// Whether one more UNIX socket may be read. Counts it.
    fn may_ask_a_socket(&self) -> bool {
        self.sockets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// Returns the inodes of the UNIX sockets in the network namespace of a process: it may have far more sockets of
    /// other types.
    fn unix(&self, process: &Path) -> io::Result<Arc<BTreeSet<u64>>> {
        let namespace = fs::read_link(process.join("ns/net"))?;
        // The lock is free while the list is read: a thread that is left behind there delays no other.
        let known = || lock(&self.unix);
        if let Some(sockets) = known().get(&namespace) {
            return Ok(Arc::clone(sockets));
        }
        // A kernel without UNIX sockets has no list of them.
        let text = or_closed(super::read(&process.join("net/unix"), MAX_UNIX_BYTES))?.unwrap_or_default();
        let sockets = Arc::new(unix_sockets(&text));
        known().insert(namespace, Arc::clone(&sockets));
        Ok(sockets)
    }
}

/// Returns `None` for a descriptor that was closed meanwhile.
fn or_closed<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if super::is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Files {
    sockets: BTreeSet<u64>,
    nameless: bool,
}

/// Parses the files of an io_uring instance: a line `UserFiles: COUNT`, then one line `INDEX: NAME` for each (Linux
/// 6.18 prints `    0: socket:[123]`; `__io_uring_show_fdinfo`, fs/io_uring.c at v5.10 prints the name of the
/// directory entry, which sockets do not have).
fn files(text: &[u8]) -> Files {
    let mut rows = lines(text).skip_while(|line| !line.starts_with(b"UserFiles:"));
    let count: usize = rows.next().and_then(|line| number(line.strip_prefix(b"UserFiles:")?)).unwrap_or(0);
    let mut files = Files::default();
    for row in rows.take(count) {
        // Some versions print no line for an empty slot; the next section begins with a word.
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

/// Returns the number in `socket:[N]`.
fn inode(name: &[u8]) -> Option<u64> {
    number(name.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

/// Parses the inodes in `/proc/net/unix`, the seventh of its columns (`unix_seq_show`, net/unix/af_unix.c at v5.10).
fn unix_sockets(text: &[u8]) -> BTreeSet<u64> {
    let column =
        |line: &[u8]| line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).nth(6).map(<[u8]>::to_owned);
    lines(text).filter_map(|line| number(&column(line)?)).collect()
}

/// Parses the number of descriptors that wait in a UNIX socket: `scm_fds: COUNT` (`unix_show_fdinfo`,
/// net/unix/af_unix.c at v5.10).
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
