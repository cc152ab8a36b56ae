//! Connections of owners over UNIX sockets, and the processes that listen at the other ends.
//!
//! The kernel names the listener of a connection, but no process that has it: one search through the descriptors of all processes finds
//! those, and is repeated only for a listener that is new, or whose processes have ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::diag::{
    peers::PeerLookup,
    unix::{UnixEnd, UnixTable},
};
use crate::{
    clock,
    host::{
        deadline::{self, ItemJob, Patience, ReadResult, Subject},
        netns, proc,
    },
};
use closewait_engine::{
    model::{InspectionFact, Task, UnixConnections, UnixListener},
    text::Comm,
    time::BootTime,
};

/// Maximum number of processes whose connections one inspection reads.
const MAX_PROCESSES: usize = 32;
/// Maximum number of descriptors to read per process.
const MAX_DESCRIPTORS: usize = 1 << 16;
/// Maximum number of listeners of one process; those with the most connections come first.
const MAX_LISTENERS: usize = 8;
/// Maximum number of processes of one listener.
const MAX_OWNERS: usize = 16;
/// Maximum number of listeners whose processes are known.
const MAX_KNOWN: usize = 256;
/// Age at which the processes of a listener are searched for again if none was found.
const SEARCH_INTERVAL: Duration = Duration::from_secs(10);
/// Minimum time between searches through the descriptors of all processes: a new listener does not wait for [`SEARCH_INTERVAL`] because
/// another one was searched for.
const MIN_SEARCH_GAP: Duration = Duration::from_secs(2);
/// Age at which the processes of a listener are searched for again.
const MAX_AGE: Duration = Duration::from_secs(120);
/// Highest descriptor of standard input, output and error: those of a service are connections to a log.
const STANDARD_ERROR: u32 = 2;
/// Beginnings of the paths of services of the system, which answer no request of a client: logs, the bus and names of users.
const OF_SYSTEM: [&str; 6] =
    ["/run/systemd/", "/run/dbus/", "/var/run/dbus/", "/run/nscd/", "/var/run/nscd/", "/run/user/"];

/// Network namespace of a process, and the inodes of its sockets.
type OwnSockets = (u32, BTreeSet<u32>);

/// Reader of connections over UNIX sockets.
#[derive(Debug, Default)]
pub(super) struct UnixReader {
    /// Processes that have a listener, by its inode, with the time of the search.
    known: BTreeMap<u32, (BootTime, Vec<Task>)>,
    /// Time of the last search; `None` before the first.
    searched: Option<BootTime>,
}

/// Connections of one process to listeners of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counted {
    connections: u32,
    queued: u32,
    queued_idle: u32,
    unread: u32,
}

impl UnixReader {
    /// Hands the connections of these processes over UNIX sockets to `each`. Omits processes that cannot be read.
    pub(super) fn read(&mut self, pids: &[u32], peers: &mut PeerLookup, mut each: impl FnMut(InspectionFact)) {
        let pids: Vec<u32> = pids.iter().copied().take(MAX_PROCESSES).collect();
        if pids.is_empty() {
            return;
        }
        let mut patience = Patience::for_one_read();
        let mut tables = BTreeMap::<u32, Option<UnixTable>>::new();
        let (mut found, mut relevant) = (Vec::new(), Vec::new());
        // The descriptors of a process can be many, and most hosts have no such connection at all.
        for (pid, at, netns) in namespaces(pids, &mut patience) {
            let table = tables.entry(netns).or_insert_with(|| peers.unix(netns, |_| false));
            match table {
                Some(table) if !may_matter(table) => found.push((pid, at, netns, Vec::new())),
                Some(_) => relevant.push(pid),
                None => {}
            }
        }
        tables.retain(|_, table| table.as_ref().is_some_and(|table| !may_matter(table)));
        for (pid, at, (netns, sockets)) in own_sockets(relevant, &mut patience) {
            let is_open = |table: &UnixTable| lacks_names(table, &sockets);
            let table = tables.entry(netns).or_insert_with(|| peers.unix(netns, is_open));
            let Some(table) = table else { continue };
            found.push((pid, at, netns, counted(table, &sockets)));
        }
        let wanted: BTreeSet<u32> = found
            .iter()
            .filter_map(|(_, _, netns, counted)| Some((tables.get(netns)?.as_ref()?, counted)))
            .flat_map(|(table, counted)| counted.iter().flat_map(|(path, _)| listeners(table, path)))
            .collect();
        self.find_owners(&wanted, &mut patience);
        for (pid, at, netns, counted) in found {
            let Some(Some(table)) = tables.get(&netns) else { continue };
            let listener = |(path, counted): (String, Counted)| {
                let Counted { connections, queued, queued_idle, unread } = counted;
                let owners = self.owners(listeners(table, &path));
                UnixListener { path, connections, queued, queued_idle, unread, owners }
            };
            let listeners = counted.into_iter().map(listener).collect();
            each(InspectionFact::UnixConnections(Box::new(UnixConnections { pid, at, listeners })));
        }
    }

    /// Returns the processes that have one of these listeners, sorted by pid.
    fn owners(&self, listeners: impl Iterator<Item = u32>) -> Vec<Task> {
        let known = listeners.filter_map(|inode| self.known.get(&inode));
        let mut owners: Vec<Task> = known.flat_map(|(_, owners)| owners).cloned().collect();
        owners.sort_unstable_by_key(|task| task.pid);
        owners.dedup_by_key(|task| task.pid);
        owners.truncate(MAX_OWNERS);
        owners
    }

    /// Searches for the processes that have these listeners, unless all are known or a search was a short time ago.
    fn find_owners(&mut self, wanted: &BTreeSet<u32>, patience: &mut Patience) {
        let now = clock::now();
        for (_, owners) in self.known.values_mut() {
            owners.retain(|task| !super::ended::has_ended(task.pid));
        }
        // Those of other inspections stay: each asks about some of the owners only.
        self.known.retain(|_, (at, owners)| now.since(*at) < if owners.is_empty() { SEARCH_INTERVAL } else { MAX_AGE });
        let missing: BTreeSet<u32> =
            wanted.iter().copied().filter(|inode| !self.known.contains_key(inode)).take(MAX_KNOWN).collect();
        if missing.is_empty() || self.searched.is_some_and(|at| now.since(at) < MIN_SEARCH_GAP) {
            return;
        }
        self.searched = Some(now);
        let mut found: BTreeMap<u32, Vec<Task>> = missing.iter().map(|inode| (*inode, Vec::new())).collect();
        search(&missing, patience, |inode, task| {
            if let Some(owners) = found.get_mut(&inode).filter(|owners| owners.len() < MAX_OWNERS) {
                owners.push(task);
            }
        });
        if self.known.len() + found.len() > MAX_KNOWN {
            self.known.retain(|inode, _| wanted.contains(inode));
        }
        self.known.extend(found.into_iter().map(|(inode, owners)| (inode, (now, owners))));
    }
}

/// Returns the network namespace of each of these processes, and the time before the read.
fn namespaces(pids: Vec<u32>, patience: &mut Patience) -> Vec<(u32, BootTime, u32)> {
    read_each(pids, patience, "network namespace", |folder, _| netns::of_process(folder))
}

/// Returns the sockets of each of these processes, without standard input, output and error, and the time before the read.
fn own_sockets(pids: Vec<u32>, patience: &mut Patience) -> Vec<(u32, BootTime, OwnSockets)> {
    read_each(pids, patience, "list of UNIX sockets", |folder, job| {
        let netns = netns::of_process(folder)?;
        let mut sockets = BTreeSet::new();
        each_socket(folder, job, |descriptor, inode| {
            if descriptor > STANDARD_ERROR {
                sockets.insert(inode);
            }
        })?;
        Ok((netns, sockets))
    })
}

/// Reads something of each of these processes. Returns it with the time before the read, without the processes that cannot be read.
fn read_each<T, R>(pids: Vec<u32>, patience: &mut Patience, what: &'static str, read: R) -> Vec<(u32, BootTime, T)>
where
    T: Send + 'static,
    R: Fn(&Path, &ItemJob<(BootTime, T)>) -> io::Result<T> + Send + Sync + 'static,
{
    let mut all = Vec::new();
    let work = move |pid: &u32, job: &ItemJob<(BootTime, T)>| {
        let at = clock::now();
        match process(*pid, job).and_then(|folder| read(&folder, job)) {
            Ok(value) => job.put((at, value)),
            Err(error) => log::debug!("the {what} of process {pid} is unknown: {error}"),
        }
    };
    deadline::each(pids, patience, work, |pid, result| match result {
        ReadResult::Value((at, value)) => all.push((*pid, at, value)),
        ReadResult::Unanswered(why) => log::debug!("the {what} of process {pid} is unknown: {why}"),
    });
    all
}

/// Searches all processes for descriptors of the sockets `wanted`, and hands each process and socket to `found` once.
fn search(wanted: &BTreeSet<u32>, patience: &mut Patience, mut found: impl FnMut(u32, Task)) {
    let list = || proc::pids(Path::new("/proc"));
    let pids = match deadline::run(Subject::Path("/proc".into()), "the list of processes", patience, list) {
        Ok(Ok(pids)) => pids,
        Ok(Err(error)) => return log::debug!("the programs behind UNIX sockets are unknown: {error}"),
        Err(why) => return log::debug!("the programs behind UNIX sockets are unknown: {why}"),
    };
    let wanted = wanted.clone();
    let work = move |pid: &u32, job: &ItemJob<(u32, Task)>| {
        let read = process(*pid, job).and_then(|folder| {
            let mut own = BTreeSet::new();
            each_socket(&folder, job, |_, inode| {
                if wanted.contains(&inode) {
                    own.insert(inode);
                }
            })?;
            if !own.is_empty() {
                let comm = Comm::from_name(&proc::comm(&proc::folder(Path::new("/proc"), *pid))?);
                own.into_iter().for_each(|inode| job.put((inode, Task { pid: *pid, comm: comm.clone() })));
            }
            Ok(())
        });
        if let Err(error) = read
            && !proc::is_gone(&error)
        {
            log::debug!("process {pid} may be behind a UNIX socket: {error}");
        }
    };
    deadline::each(pids, patience, work, |pid, result| match result {
        ReadResult::Value((inode, task)) => found(inode, task),
        ReadResult::Unanswered(why) => log::debug!("process {pid} may be behind a UNIX socket: {why}"),
    });
}

/// Returns the folder of the first thread of a process that has not ended, unless another thread is blocked on it.
fn process<T>(pid: u32, job: &ItemJob<T>) -> io::Result<PathBuf> {
    let free = job.about(Subject::Process(pid, None));
    job.step("its descriptors");
    free.map_err(|why| io::Error::other(why.to_string()))?;
    let folder = proc::folder(Path::new("/proc"), pid);
    Ok(proc::living_thread(&folder).unwrap_or(folder))
}

/// Hands the number of each descriptor of a socket, and the inode of that, to `each`.
fn each_socket<T>(folder: &Path, job: &ItemJob<T>, mut each: impl FnMut(u32, u32)) -> io::Result<()> {
    for entry in fs::read_dir(folder.join("fd"))?.take(MAX_DESCRIPTORS) {
        let entry = entry?;
        job.progress();
        // The descriptor may have been closed.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let number = |text: Option<&str>| text?.parse().ok();
        let inode = target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']'));
        if let (Some(descriptor), Some(inode)) = (number(entry.file_name().to_str()), number(inode)) {
            each(descriptor, inode);
        }
    }
    Ok(())
}

/// Whether any connection of a network namespace leads to a listener that is no service of the system, or can be in another namespace.
fn may_matter(table: &UnixTable) -> bool {
    let mut ends = table.ends.iter().filter(|(_, end)| end.name.is_none());
    ends.any(|(inode, end)| match listener_of(table, *inode, end) {
        Some((path, _)) => !is_of_system(path),
        None => end.peer.is_none_or(|peer| !table.ends.contains_key(&peer)),
    })
}

/// Whether a listener with this path is a service of the system.
fn is_of_system(path: &str) -> bool {
    OF_SYSTEM.iter().any(|prefix| path.starts_with(prefix))
}

/// Whether a connection of a process leads to a listener in another network namespace.
fn lacks_names(table: &UnixTable, sockets: &BTreeSet<u32>) -> bool {
    let mut ends = table.ends.iter().filter(|(inode, _)| sockets.contains(inode));
    ends.any(|(inode, end)| match end.peer {
        Some(peer) => !table.ends.contains_key(&peer),
        None => !table.queued.contains_key(inode),
    })
}

/// Counts the connections of a process by the name of their listener; those with the most connections come first.
fn counted(table: &UnixTable, sockets: &BTreeSet<u32>) -> Vec<(String, Counted)> {
    let mut paths = BTreeMap::<&str, Counted>::new();
    // The process accepted a connection that has a name itself.
    let own = table.ends.iter().filter(|(inode, end)| sockets.contains(inode) && end.name.is_none());
    for (inode, end) in own {
        let Some((path, is_queued)) = listener_of(table, *inode, end) else { continue };
        // A process that talks to itself waits for no other program.
        if is_of_system(path) || end.peer.is_some_and(|peer| sockets.contains(&peer)) {
            continue;
        }
        let counted = paths.entry(path).or_default();
        counted.connections += 1;
        counted.queued += u32::from(is_queued);
        counted.queued_idle += u32::from(is_queued && !end.is_unread);
        counted.unread += u32::from(end.is_unread);
    }
    let mut paths: Vec<_> = paths.into_iter().map(|(path, counted)| (path.to_owned(), counted)).collect();
    paths.sort_by_key(|(_, counted)| u32::MAX - counted.connections);
    paths.truncate(MAX_LISTENERS);
    paths
}

/// Returns the name of the listener that a connection leads to, and whether it waits there to be accepted.
fn listener_of<'t>(table: &'t UnixTable, inode: u32, end: &UnixEnd) -> Option<(&'t str, bool)> {
    if let Some(listener) = table.queued.get(&inode) {
        return Some((table.listeners.get(listener)?, true));
    }
    Some((table.ends.get(&end.peer?)?.name.as_deref()?, false))
}

/// Returns the inodes of the listeners with this name.
fn listeners<'t>(table: &'t UnixTable, path: &'t str) -> impl Iterator<Item = u32> + use<'t> {
    table.listeners.iter().filter(move |(_, name)| *name == path).map(|(inode, _)| *inode)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        os::unix::net::{UnixListener, UnixStream},
        process,
    };

    use super::*;
    use crate::host::testing::Fixture;

    fn end(peer: Option<u32>, is_unread: bool, name: Option<&str>) -> UnixEnd {
        UnixEnd { peer, is_unread, name: name.map(str::to_owned) }
    }

    #[test]
    fn connections_are_counted_by_the_name_of_their_listener() {
        let (app, log) = (Some("/run/app.sock"), Some("/run/systemd/journal/stdout"));
        let table = UnixTable {
            ends: BTreeMap::from([
                (1, end(Some(11), false, None)),
                (2, end(Some(12), true, None)),
                (3, end(None, true, None)),
                (4, end(None, false, None)),
                (5, end(Some(15), false, None)),
                (6, end(Some(7), false, None)),
                (7, end(Some(6), false, None)),
                (8, end(Some(99), false, None)),
                (9, end(Some(98), false, app)),
                (11, end(Some(1), false, app)),
                (12, end(Some(2), false, app)),
                (15, end(Some(5), false, log)),
            ]),
            listeners: BTreeMap::from([(50, "/run/app.sock".to_owned()), (51, "/run/other.sock".to_owned())]),
            queued: BTreeMap::from([(3, 50), (4, 50), (77, 51)]),
        };
        let all: BTreeSet<u32> = (1..=9).collect();
        let expected = Counted { connections: 4, queued: 2, queued_idle: 1, unread: 2 };
        assert_eq!(counted(&table, &all), [("/run/app.sock".to_owned(), expected)]);
        assert_eq!(listeners(&table, "/run/app.sock").collect::<Vec<_>>(), [50]);
        assert!(lacks_names(&table, &all), "one end is in another namespace");
        assert!(!lacks_names(&table, &(1..=7).collect()));
    }

    #[test]
    fn descriptors_are_read_only_where_a_connection_can_lead_to_a_program() {
        let log = Some("/run/systemd/journal/stdout");
        // A log, and two ends of a pair.
        let ends = [(1, end(Some(11), true, None)), (11, end(Some(1), false, log))];
        let pair = [(6, end(Some(7), false, None)), (7, end(Some(6), false, None))];
        let of_system = UnixTable { ends: ends.into_iter().chain(pair).collect(), ..UnixTable::default() };
        assert!(!may_matter(&UnixTable::default()) && !may_matter(&of_system));
        let with = |more: [(u32, UnixEnd); 2]| UnixTable {
            ends: of_system.ends.clone().into_iter().chain(more).collect(),
            listeners: BTreeMap::from([(50, "/run/app.sock".to_owned())]),
            queued: BTreeMap::from([(4, 50)]),
        };
        let accepted = [(2, end(Some(12), true, None)), (12, end(Some(2), false, Some("/run/app.sock")))];
        let queued = [(4, end(None, false, None)), (12, end(Some(2), false, log))];
        let elsewhere = [(8, end(Some(99), false, None)), (12, end(Some(2), false, log))];
        assert!([accepted, queued, elsewhere].into_iter().all(|more| may_matter(&with(more))));
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
    fn the_listener_and_its_process_are_found_by_descriptors() {
        let fixture = Fixture::new("unix-reader");
        let path = fixture.path().join("app.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (first, mut second) = (UnixStream::connect(&path).unwrap(), UnixStream::connect(&path).unwrap());
        let _accepted = listener.accept().unwrap();
        second.write_all(b"x").unwrap();
        let (mut reader, mut facts) = (UnixReader::default(), Vec::new());
        reader.read(&[process::id()], &mut PeerLookup::default(), |fact| facts.push(fact));
        let [InspectionFact::UnixConnections(read)] = &facts[..] else {
            // The kernel may lack the module unix_diag.
            eprintln!("skipped: {facts:?}");
            return;
        };
        let listener = read.listeners.iter().find(|listener| Path::new(&listener.path) == path).unwrap();
        // The accepted end is of this process, too.
        assert_eq!((listener.connections, listener.queued, listener.queued_idle, listener.unread), (1, 1, 0, 1));
        assert!(listener.owners.iter().any(|task| task.pid == process::id()), "{:?}", listener.owners);
        drop((first, second));
    }
}
