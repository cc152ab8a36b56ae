//! Scans: one pass over all sockets, or over all descriptors.
//!
//! | objects | interface | shows |
//! |---|---|---|
//! | open files | `iter/task_file` | owners in every network namespace, but only sockets that have a descriptor |
//! | sockets | `sock_diag` | also sockets that no program has accepted, of each accessible network namespace |
//! | open files, without BTF | `/proc/PID/fd` | inodes of sockets, and their owners |
//!
//! The BPF iterator over TCP sockets would show more in one pass. closewait does not use it: docs/kernel-safety.md.

use std::{
    cell::RefCell,
    collections::HashSet,
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    panic,
    sync::{Arc, mpsc},
    thread,
};

use aya::maps::{HashMap, MapData};
use closewait_common::names;

use super::{
    calls,
    diag::{self, Blind, DiagQuery, ListedSocket},
    files, owners,
    slots::SlotTable,
};
use crate::host::open_files;
use closewait_engine::{
    decode::Decoder,
    model::{Observation, ScanEnd, ScanFact, SocketKey},
    time::BootTime,
};

/// Reason why owners may be missing outside of the host's pid namespace.
pub(super) const OUTSIDE: &str =
    "processes outside this pid namespace cannot be seen; run with the host's (--pid=host, hostPID: true)";

/// Maximum number of waiting parts of the kernel's list: at most 32 KiB each, a few hundred sockets.
const MAX_LISTED_PARTS: usize = 64;

/// Item that a scan finds.
pub enum ScanItem<'a> {
    /// Record of the kernel program.
    Record(&'a [u8]),
    /// Fact from elsewhere.
    Fact(Box<Observation>),
}

impl ScanItem<'_> {
    /// Wraps a fact.
    pub fn fact(fact: impl Into<Observation>) -> Self {
        Self::Fact(Box::new(fact.into()))
    }
}

/// Scanner of this host, with whatever it offers. There must be one scan at a time: the kernel program for open files
/// has one record buffer per CPU.
#[derive(Debug, Default)]
pub struct Scanner {
    pub(super) programs: Option<ScanPrograms>,
}

/// Kernel facilities for scans.
#[derive(Debug)]
pub(super) struct ScanPrograms {
    /// The iterator over open files.
    pub(super) files: Option<OwnedFd>,
    /// Network namespaces for which the iterator need not describe each socket.
    pub(super) known: HashMap<MapData, u32, u32>,
    /// The times of entry in slots.
    pub(super) slots: Arc<SlotTable>,
    /// The map with the times of entry of sockets whose slot was taken.
    pub(super) entries: OwnedFd,
    /// Whether this is the pid namespace of the host, as far as is known.
    pub(super) sees_all_processes: bool,
}

impl Scanner {
    /// Returns the iterator over open files, if there is one.
    fn files(&self) -> Option<&OwnedFd> {
        self.programs.as_ref()?.files.as_ref()
    }

    /// Hands all present sockets to `each`: those in CLOSE_WAIT and their owners, listeners, sockets that only have a
    /// descriptor left, and the end of the scan. Returns the gaps, one sentence each.
    pub fn everything(
        &mut self,
        decoder: Decoder,
        now: impl Fn() -> BootTime + Sync,
        mut each: impl FnMut(ScanItem<'_>),
    ) -> Vec<String> {
        let began = now();
        if self.files().is_none() {
            let blind = listed_while(DiagQuery::Both, &now, || (), |_, one| each(fact(one, decoder))).1;
            self.end(began, Ok(blind.saw_all()), &mut each);
            return blind.reasons;
        }
        let each = RefCell::new(each);
        let read = || {
            let mut described = HashSet::new();
            let files = self.open_files(&[]).and_then(|file| {
                let Some(file) = file else { return Ok(()) };
                files::read_records_beside(&file, |record| {
                    described.extend(files::inode_of_held(record));
                    (each.borrow_mut())(ScanItem::Record(record));
                })
            });
            (files, described)
        };
        let ((files, _), blind) = listed_while(DiagQuery::Waiting, &now, read, |(_, described), one| {
            // The others already have a record with their kernel addresses.
            if one.inode().is_none_or(|inode| !described.contains(&inode)) {
                (each.borrow_mut())(fact(one, decoder));
            }
        });
        let mut each = each.into_inner();
        let failed = files.as_ref().err().map(cannot_list);
        self.end(began, files.map(|()| true), &mut each);
        blind.reasons.into_iter().chain(failed).collect()
    }

    /// Hands every descriptor of a relevant socket to `each`, and the end of the scan. For the namespaces in `known`,
    /// all sockets in CLOSE_WAIT are tracked by their kernel addresses. Returns the reason if the scan failed.
    pub fn owners(
        &mut self,
        known: &[u32],
        decoder: Decoder,
        now: impl Fn() -> BootTime + Sync,
        mut each: impl FnMut(ScanItem<'_>),
    ) -> Option<String> {
        let began = now();
        let saw_listeners = if self.files().is_some() {
            self.open_files(known).and_then(|file| match file {
                Some(file) => files::read_records(file, |record| each(ScanItem::Record(record))).map(|()| true),
                None => Ok(true),
            })
        } else {
            // The agent reported the gaps at its start. It may have lost the permission to enter other namespaces
            // since.
            let ((), blind) = listed_while(DiagQuery::Listeners, &now, || (), |_, one| each(fact(one, decoder)));
            Ok(blind.saw_all())
        };
        let failed = saw_listeners.as_ref().err().map(cannot_list);
        self.end(began, saw_listeners, &mut each);
        failed
    }

    /// Returns every socket whose time of entry the kernel stores, by its address at that time. An address with two entries is there
    /// twice, the later one last.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn entries(&self) -> io::Result<Vec<(SocketKey, BootTime)>> {
        let Some(programs) = &self.programs else { return Ok(Vec::new()) };
        let mut entries = calls::entries(programs.entries.as_fd())?;
        // After a missed exit, an address can be in both: the later entry is in the slot.
        entries.extend(programs.slots.entries());
        Ok(entries.into_iter().map(|(sk, at)| (SocketKey(sk), BootTime(at))).collect())
    }

    /// Ends a scan that began at `began`. Reads the descriptors in `/proc` if the kernel does not list open files.
    /// `saw_listeners` says whether the listeners of all network namespaces were listed.
    fn end(&self, began: BootTime, saw_listeners: io::Result<bool>, each: &mut impl FnMut(ScanItem<'_>)) {
        let end = match (&self.programs, saw_listeners) {
            (_, Err(error)) => ScanEnd::Failed { why: cannot_list(&error) },
            (Some(programs), Ok(saw_listeners)) if programs.files.is_some() => {
                // The iterator covers the pid namespace of the task that opens it (`task_seq_get_next`,
                // kernel/bpf/task_iter.c at v5.11).
                let blind = (!programs.sees_all_processes).then(|| OUTSIDE.to_owned());
                ScanEnd::Descriptors { began, blind, saw_listeners }
            }
            (_, Ok(saw_listeners)) => {
                let held = |inode, owner| each(ScanItem::fact(ScanFact::InodeDescriptor { inode, owner }));
                let blind = owners::scan(held);
                ScanEnd::Descriptors { began, blind, saw_listeners }
            }
        };
        each(ScanItem::fact(end));
    }

    /// Opens the list of all open files of relevant sockets, if there is an iterator. For sockets in CLOSE_WAIT of the
    /// namespaces in `known`, a record has only the owner.
    fn open_files(&mut self, known: &[u32]) -> io::Result<Option<File>> {
        let Some(programs) = &mut self.programs else { return Ok(None) };
        programs.set_known(known)?;
        programs.files.as_ref().map(|program| calls::open_files(program.as_fd(), None)).transpose()
    }
}

impl ScanPrograms {
    /// Sets the network namespaces whose sockets are all known to the agent.
    fn set_known(&mut self, namespaces: &[u32]) -> io::Result<()> {
        let old: Vec<u32> = self.known.keys().collect::<Result<_, _>>().map_err(io::Error::other)?;
        for netns in old.iter().filter(|old| !namespaces.contains(old)) {
            self.known.remove(netns).map_err(io::Error::other)?;
        }
        // The iterator describes all sockets of namespaces beyond the limit.
        for netns in namespaces.iter().take(names::KNOWN_NAMESPACES as usize) {
            self.known.insert(netns, 1, 0).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

fn fact(one: ListedSocket, decoder: Decoder) -> ScanItem<'static> {
    ScanItem::fact(one.observation(decoder))
}

/// Runs `work` while another thread lists sockets, and hands these to `each` afterwards. The thread pauses when too
/// many sockets wait, which bounds the memory of a scan.
fn listed_while<T>(
    list: DiagQuery,
    now: &(impl Fn() -> BootTime + Sync),
    work: impl FnOnce() -> T,
    mut each: impl FnMut(&T, ListedSocket),
) -> (T, Blind) {
    thread::scope(|scope| {
        let (sender, listed) = mpsc::sync_channel(MAX_LISTED_PARTS);
        let listing = thread::Builder::new().name("closewait-diag".to_owned()).spawn_scoped(scope, move || {
            // After a panic there is no receiver.
            diag::take(list, now, |part| drop(sender.send(part)))
        });
        let done = work();
        let blind = match listing {
            Ok(listing) => {
                listed.into_iter().flatten().for_each(|one| each(&done, one));
                listing.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
            }
            // No thread could start: list the sockets after the work.
            Err(_) => {
                let mut all = Vec::new();
                let blind = diag::take(list, now, |part| all.extend(part));
                all.into_iter().for_each(|one| each(&done, one));
                blind
            }
        };
        (done, blind)
    })
}

fn cannot_list(error: &io::Error) -> String {
    let hint = open_files::hint(error).map(|hint| format!("; {hint}")).unwrap_or_default();
    format!("the kernel's list of open files cannot be read ({error}){hint}")
}
