//! Scans: one pass over all sockets, or over all descriptors.
//!
//! | what | by | sees |
//! |---|---|---|
//! | open files | `iter/task_file` | every network namespace, and who holds what, but only sockets that have a descriptor |
//! | sockets | `sock_diag` | also those that nobody has accepted, of each network namespace that can be entered |
//! | open files, without BTF | `/proc/PID/fd` | inodes of sockets, and who holds them |
//!
//! The BPF iterator over TCP sockets would show more in one pass, and is not used: docs/kernel-safety.md.

use std::{
    cell::RefCell,
    collections::HashSet,
    io,
    os::fd::{AsFd as _, OwnedFd},
    panic,
    sync::mpsc,
    thread,
};

use aya::maps::{HashMap, MapData};
use closewait_common::names;

use super::{
    calls,
    diag::{self, Blind, DiagQuery, ListedSocket},
    files, owners,
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

/// Parts of the kernel's list that wait to be handed on: at most 32 KiB each, a few hundred sockets.
const MAX_LISTED_PARTS: usize = 64;

/// Item that a scan finds.
pub enum ScanItem<'a> {
    /// Bytes of the kernel program.
    Record(&'a [u8]),
    /// What was learned elsewhere.
    Fact(Box<Observation>),
}

impl ScanItem<'_> {
    /// Makes one of a fact.
    pub fn fact(fact: impl Into<Observation>) -> Self {
        Self::Fact(Box::new(fact.into()))
    }
}

/// Scans this host, by whatever it offers. There must be one scan at a time: the kernel program for open files has one place
/// a CPU to put records together.
#[derive(Debug, Default)]
pub struct Scanner {
    pub(super) programs: Option<ScanPrograms>,
}

/// What the kernel offers for scans.
#[derive(Debug)]
pub(super) struct ScanPrograms {
    /// The iterator over open files.
    pub(super) files: Option<OwnedFd>,
    /// The network namespaces of which the iterator need not describe each socket.
    pub(super) known: HashMap<MapData, u32, u32>,
    /// The map with the times of entry.
    pub(super) entries: OwnedFd,
    /// This is the pid namespace of the host, as far as is known.
    pub(super) sees_all_processes: bool,
}

impl Scanner {
    /// The iterator over open files, if there is one.
    fn files(&self) -> Option<&OwnedFd> {
        self.programs.as_ref()?.files.as_ref()
    }

    /// Hands everything that is there to `each`: sockets in CLOSE_WAIT and their owners, listeners, sockets of which only a
    /// descriptor is left, and the end of the scan. Returns what could not be seen, one sentence each.
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
            let files = self.read_files(&[], |record| {
                described.extend(files::inode_of_held(record));
                (each.borrow_mut())(ScanItem::Record(record));
            });
            (files, described)
        };
        let ((files, _), blind) = listed_while(DiagQuery::Waiting, &now, read, |(_, described), one| {
            // The others are described already, with their kernel addresses.
            if one.inode().is_none_or(|inode| !described.contains(&inode)) {
                (each.borrow_mut())(fact(one, decoder));
            }
        });
        let mut each = each.into_inner();
        let failed = files.as_ref().err().map(cannot_list);
        self.end(began, files.map(|()| true), &mut each);
        blind.reasons.into_iter().chain(failed).collect()
    }

    /// Hands every descriptor of a socket that matters to `each`, and the end of the scan. Of the namespaces in `known` all
    /// sockets in CLOSE_WAIT are tracked by their kernel addresses. Returns why the scan was not possible, if so.
    pub fn owners(
        &mut self,
        known: &[u32],
        decoder: Decoder,
        now: impl Fn() -> BootTime + Sync,
        mut each: impl FnMut(ScanItem<'_>),
    ) -> Option<String> {
        let began = now();
        let saw_listeners = if self.files().is_some() {
            self.read_files(known, |record| each(ScanItem::Record(record))).map(|()| true)
        } else {
            // What cannot be seen was reported at the start. The agent may not enter other namespaces any more.
            let ((), blind) = listed_while(DiagQuery::Listeners, &now, || (), |_, one| each(fact(one, decoder)));
            Ok(blind.saw_all())
        };
        let failed = saw_listeners.as_ref().err().map(cannot_list);
        self.end(began, saw_listeners, &mut each);
        failed
    }

    /// Every socket whose time of entry the kernel keeps, by the address that it had.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn entries(&self) -> io::Result<Vec<(SocketKey, BootTime)>> {
        let Some(programs) = &self.programs else { return Ok(Vec::new()) };
        let entries = calls::entries(programs.entries.as_fd())?;
        Ok(entries.into_iter().map(|(sk, at)| (SocketKey(sk), BootTime(at))).collect())
    }

    /// Ends a scan that began at `began`: with the descriptors in `/proc`, if the kernel does not list open files.
    /// `saw_listeners` is whether the listeners of all network namespaces were seen.
    fn end(&self, began: BootTime, saw_listeners: io::Result<bool>, each: &mut impl FnMut(ScanItem<'_>)) {
        let end = match (&self.programs, saw_listeners) {
            (_, Err(error)) => ScanEnd::Failed { why: cannot_list(&error) },
            (Some(programs), Ok(saw_listeners)) if programs.files.is_some() => {
                // The iterator goes through the pid namespace of whoever opens it (`task_seq_get_next`,
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

    /// Hands a record for every open file of a socket that matters to `each`. Of sockets in CLOSE_WAIT of the namespaces in
    /// `known` it has no more than who holds them.
    fn read_files(&mut self, known: &[u32], each: impl FnMut(&[u8])) -> io::Result<()> {
        let Some(programs) = &mut self.programs else { return Ok(()) };
        programs.set_known(known)?;
        let Some(program) = &programs.files else { return Ok(()) };
        files::read_records(calls::open_files(program.as_fd(), None)?, each)
    }
}

impl ScanPrograms {
    /// Tells the iterator of which network namespaces all sockets are known.
    fn set_known(&mut self, namespaces: &[u32]) -> io::Result<()> {
        let old: Vec<u32> = self.known.keys().collect::<Result<_, _>>().map_err(io::Error::other)?;
        for netns in old.iter().filter(|old| !namespaces.contains(old)) {
            self.known.remove(netns).map_err(io::Error::other)?;
        }
        // Of those beyond the limit the iterator describes all sockets.
        for netns in namespaces.iter().take(names::KNOWN_NAMESPACES as usize) {
            self.known.insert(netns, 1, 0).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

fn fact(one: ListedSocket, decoder: Decoder) -> ScanItem<'static> {
    ScanItem::fact(one.observation(decoder))
}

/// Does `work` while another thread lists sockets, and hands these to `each` after that. The thread waits when too many are
/// listed, so that their number does not decide how much memory a scan takes.
fn listed_while<T>(
    list: DiagQuery,
    now: &(impl Fn() -> BootTime + Sync),
    work: impl FnOnce() -> T,
    mut each: impl FnMut(&T, ListedSocket),
) -> (T, Blind) {
    thread::scope(|scope| {
        let (sender, listed) = mpsc::sync_channel(MAX_LISTED_PARTS);
        let listing = thread::Builder::new().name("closewait-diag".to_owned()).spawn_scoped(scope, move || {
            // Nobody takes them after a panic.
            diag::take(list, now, |part| drop(sender.send(part)))
        });
        let done = work();
        let blind = match listing {
            Ok(listing) => {
                listed.into_iter().flatten().for_each(|one| each(&done, one));
                listing.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
            }
            // No thread can be had: one after the other, then.
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
