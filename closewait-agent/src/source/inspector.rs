//! Reads of owners, cgroups and namespaces for the engine: the I/O of an [`InspectionRequest`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use super::{
    calls,
    connects::ConnectReader,
    diag::peers::PeerLookup,
    ended, files,
    jvm::JvmAsker,
    pod_names::PodNames,
    processes::{self, Sampling},
    scanner::ScanItem,
    stacks,
    unix::UnixReader,
    unread::PeekHelper,
};
use crate::{
    beside::beside,
    clock,
    host::{
        cgroups::{CgroupError, Cgroups, Lookup},
        deadline::{self, ItemJob, Patience, ReadResult, Subject},
        netns::{self, Netns},
        tools,
    },
};
use closewait_engine::{
    model::{InspectionFact, InspectionRequest},
    process::Tool,
    stacks::ProcessStacks,
    text::harmless_path,
    time::BootTime,
    workload::Workload,
};

/// Minimum time between reads of the names of pods for processes that were inspected before.
const POD_INTERVAL: Duration = Duration::from_secs(5);
/// Number of searches for a cgroup that may still exist. Where a search reads folders, each takes the budget of
/// [`crate::host::cgroups`], some milliseconds.
const MAX_TRIES: u8 = 64;
/// Maximum number of namespaces whose settings stay open, with two descriptors each: a service has 1024 unless it
/// asks for more.
const MAX_KEPT_OPEN: usize = 128;

/// Maximum number of cgroups that the agent remembers as not found. Beyond it, the agent forgets the lowest id, which
/// is the oldest.
const MAX_NOT_FOUND: usize = 4096;

/// Maximum number of connections read per process.
const MAX_CONNECTIONS: usize = 4096;

/// Size of a part of the connections, bytes.
const PART: usize = 64 * 1024;

/// Iterator over the open files of one process, for its other connections; `None` where the kernel has none (before
/// Linux 6.1). As with [`super::scanner::Scanner`], there must be one reader at a time.
#[derive(Debug, Default)]
pub struct ProxyPeerReader(pub(super) Option<OwnedFd>);

/// Part of the connections of a process.
enum ConnectionsPart {
    /// Whole records.
    Records(Vec<u8>),
    /// End of the read of a process that began at this time.
    Ended { pid: u32, at: BootTime, read: io::Result<bool> },
}

/// Whether a read failed because the kernel has no iterator over one process.
fn means_no_iterator(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

impl ProxyPeerReader {
    /// Does `work`, and hands the other connections of these processes to `each`, and which were read. Another thread
    /// reads connections meanwhile: the kernel takes as long to describe a connection as the engine takes to store it.
    /// The last result is `false` if the kernel has no iterator over one process.
    fn read_beside<T, E: FnMut(ScanItem<'_>)>(
        &self,
        pids: &[u32],
        each: &mut E,
        work: impl FnOnce(&mut E) -> T,
    ) -> (T, bool) {
        if pids.is_empty() || self.0.is_none() {
            return (work(each), true);
        }
        let mut is_possible = true;
        let read = |put: &mut dyn FnMut(ConnectionsPart) -> bool| deadline::counted(|| self.parts(pids, put));
        let (result, _) = beside(
            "closewait-peers",
            read,
            each,
            |each| work(each),
            |each, part| {
                match part {
                    ConnectionsPart::Records(records) => {
                        files::hand_over(&records, &mut |record| each(ScanItem::Record(record)));
                    }
                    ConnectionsPart::Ended { pid, at, read: Ok(true) } => {
                        each(ScanItem::fact(InspectionFact::ConnectionsRead { pid, at }));
                    }
                    ConnectionsPart::Ended { read: Ok(false), .. } => {}
                    ConnectionsPart::Ended { pid, read: Err(error), .. } => {
                        log::debug!("the other connections of process {pid} cannot be seen: {error}");
                        is_possible &= !means_no_iterator(&error);
                    }
                }
                true
            },
        );
        (result, is_possible)
    }

    /// Hands the other connections of these processes to `put` in parts.
    fn parts(&self, pids: &[u32], put: &mut dyn FnMut(ConnectionsPart) -> bool) {
        for pid in pids.iter().copied() {
            // The findings may be as old as this.
            let at = clock::now();
            let mut records = Vec::new();
            let read = self.read(pid, |bytes| {
                if records.len() + bytes.len() > PART {
                    put(ConnectionsPart::Records(std::mem::take(&mut records)));
                }
                if records.is_empty() {
                    records.reserve(PART);
                }
                records.extend_from_slice(bytes);
            });
            put(ConnectionsPart::Records(records));
            let has_no_iterator = read.as_ref().is_err_and(means_no_iterator);
            put(ConnectionsPart::Ended { pid, at, read });
            if has_no_iterator {
                return;
            }
        }
    }

    /// Hands a record for every other connection of a process to `each`, about [`MAX_CONNECTIONS`] at most. Returns
    /// whether they were read; `false` where the kernel has no such iterator.
    fn read(&self, pid: u32, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        let Some(program) = &self.0 else { return Ok(false) };
        let mut count = 0;
        let read = files::read_records_until(calls::open_files(program.as_fd(), Some(pid))?, |record| {
            count += 1;
            each(record);
            count < MAX_CONNECTIONS
        });
        match read {
            Err(error) if count == 0 => Err(error),
            // A process that has ended has no connections, which is no error.
            Err(_) | Ok(()) => Ok(count > 0 || !ended::has_ended(pid)),
        }
    }
}

/// Reads what an [`InspectionRequest`] asks for, and caches what does not change. It omits whatever does not answer:
/// see [`crate::host::deadline`].
#[derive(Debug, Default)]
pub struct Inspector {
    proxy_peers: ProxyPeerReader,
    /// Access to cgroups, or the reason why there is none; `None` before the first use.
    cgroups: Option<Result<Cgroups, CgroupError>>,
    /// Number of failed searches by cgroup id.
    tried: BTreeMap<u64, u8>,
    peers: PeerLookup,
    unix: UnixReader,
    /// Settings that were opened while namespaces could be entered, by the namespaces' inodes.
    tracking: BTreeMap<u32, Arc<Tracking>>,
    pod_names: PodNames,
    /// Questions to Java virtual machines; `None` if they are not asked.
    jvms: Option<JvmAsker>,
    /// Process that peeks at unread requests; `None` if nothing does.
    peeks: Option<PeekHelper>,
    /// Sampled connections of owners; `None` if there are none.
    connects: Option<ConnectReader>,
}

impl Inspector {
    /// Creates an inspector with the iterator over one process, if there is one.
    pub fn new(proxy_peers: ProxyPeerReader) -> Self {
        Self { proxy_peers, ..Self::default() }
    }

    /// Makes it ask Java virtual machines for their stacks.
    pub fn ask_jvms(&mut self, jvms: JvmAsker) {
        self.jvms = Some(jvms);
    }

    /// Makes it peek at unread requests.
    pub fn peek_by(&mut self, helper: PeekHelper) {
        self.peeks = Some(helper);
    }

    /// Makes it read the stacks in which owners connect.
    pub fn read_connects(&mut self, connects: ConnectReader) {
        self.connects = Some(connects);
    }

    /// Opens what can be read, but not opened, once the agent can no longer enter namespaces.
    pub fn open_ahead(&mut self) {
        self.peers.open();
        // The setting exists in each namespace or in none.
        if Tracking::open().is_none() {
            return;
        }
        for namespace in netns::all() {
            if self.tracking.len() >= MAX_KEPT_OPEN {
                log::debug!("the conntrack timeout of some network namespaces will be unknown");
                return;
            }
            if let Ok(Some(tracking)) = namespace.enter_and(Tracking::open) {
                self.tracking.insert(namespace.inode, Arc::new(tracking));
            }
        }
    }

    /// Hands everything that `request` asks for to `each`. If a thread runs, this sleeps until `window` after the
    /// first read of the processes, and then reads the CPU time of their threads again.
    pub fn inspect(&mut self, request: &InspectionRequest, window: Duration, mut each: impl FnMut(ScanItem<'_>)) {
        let sampling = self.begin(request, &mut each);
        if sampling.has_running() {
            thread::sleep(window.saturating_sub(clock::now().since(sampling.began())));
        }
        let at = clock::now();
        let mut processes = sampling.finish(at);
        let workloads = processes.iter_mut().filter_map(|process| process.workload.as_deref_mut());
        self.pod_names.add(workloads, POD_INTERVAL, &mut Patience::for_one_read());
        let read: BTreeSet<u32> = processes.iter().map(|process| process.pid).collect();
        for pid in request.processes.iter().copied().filter(|pid| !read.contains(pid) && ended::has_ended(*pid)) {
            each(ScanItem::fact(InspectionFact::Ended { pid }));
        }
        for process in processes {
            each(ScanItem::fact(InspectionFact::Process { at, process: Box::new(process) }));
        }
        self.unix.read(&request.unix_of, &mut self.peers, |fact| each(ScanItem::fact(fact)));
        if let Some(helper) = &mut self.peeks {
            helper.peek_each(&request.unread_of, &mut |fact| each(ScanItem::fact(fact)));
        }
        if let Some(connects) = &mut self.connects {
            connects.read(&request.connects_of, &mut Patience::for_one_read(), |fact| each(ScanItem::fact(fact)));
        }
        self.stacks(&request.stacks_of, |stacks| each(ScanItem::fact(InspectionFact::Stacks(Box::new(stacks)))));
    }

    /// Hands the stacks of processes to `each`: those of a Java virtual machine from itself, or with a reason from its memory.
    fn stacks(&mut self, pids: &[u32], mut each: impl FnMut(ProcessStacks)) {
        let Some(asker) = &mut self.jvms else {
            return stacks::read_each(pids, &mut Patience::for_stacks(), each);
        };
        let jvms = JvmAsker::find(pids, &mut Patience::for_one_read());
        let others: Vec<u32> = pids.iter().copied().filter(|pid| !jvms.iter().any(|(jvm, _)| jvm == pid)).collect();
        stacks::read_each(&others, &mut Patience::for_stacks(), &mut each);
        let refused = asker.read_each(jvms, &mut each);
        let pids: Vec<u32> = refused.iter().map(|(pid, _)| *pid).collect();
        stacks::read_each(&pids, &mut Patience::for_stacks(), |mut stacks| {
            let why =
                refused.iter().find(|(pid, _)| *pid == stacks.pid).map(|(_, why)| why.as_str()).unwrap_or_default();
            stacks.unread.insert(0, format!("the threads of the JVM were not dumped: {why}"));
            each(stacks);
        });
    }

    /// Hands everything that needs no second read to `each`.
    fn begin(&mut self, request: &InspectionRequest, each: &mut impl FnMut(ScanItem<'_>)) -> Sampling {
        let proxy_peers = std::mem::take(&mut self.proxy_peers);
        let (sampling, is_possible) = proxy_peers.read_beside(&request.connections_of, each, |each| {
            let mut sampling = Sampling::begin(&request.processes, clock::now());
            self.peers.look_up(&request.peer_ends_of, |fact| each(ScanItem::fact(fact)));
            let patience = sampling.patience();
            // The fastest reads come first.
            self.cgroups(&request.cgroups, patience, |fact| each(ScanItem::fact(fact)));
            for (inode, place) in processes::places(&request.unheld, patience) {
                each(ScanItem::fact(InspectionFact::Location { inode, place }));
            }
            self.conntrack(&request.namespaces, patience, |fact| each(ScanItem::fact(fact)));
            if request.tools {
                tools(patience, |fact| each(ScanItem::fact(fact)));
            }
            sampling
        });
        if is_possible {
            self.proxy_peers = proxy_peers;
        }
        sampling
    }

    /// Closes what is gone, while no job waits.
    pub fn rest(&mut self) {
        self.peers.release_gone();
        self.connects.iter_mut().for_each(ConnectReader::rest);
    }

    /// Hands the workload of each of these cgroups to `each`, at once: for an answer. Takes some ten microseconds per
    /// cgroup, a quarter of a second at most if a file system does not answer. Omits cgroups that it cannot find.
    pub fn workloads(&mut self, cgroups: &[u64], each: impl FnMut(InspectionFact)) {
        self.cgroups(cgroups, &mut Patience::for_one_read(), each);
    }

    /// Hands the workload of each cgroup that can be found to `each`.
    fn cgroups(&mut self, wanted: &[u64], patience: &mut Patience, mut each: impl FnMut(InspectionFact)) {
        let wanted: Vec<u64> =
            wanted.iter().copied().filter(|id| self.tried.get(id).is_none_or(|tries| *tries < MAX_TRIES)).collect();
        if wanted.is_empty() {
            return;
        }
        if self.cgroups.is_none() {
            match deadline::run(Subject::Path("cgroup2".into()), "the mount of cgroup2", patience, Cgroups::find) {
                Ok(found) => self.cgroups = Some(found),
                Err(why) => log::debug!("cgroups of processes are unknown until now: {why}"),
            }
        }
        let cgroups = match &mut self.cgroups {
            Some(Ok(cgroups)) => cgroups,
            Some(Err(error)) => {
                log::debug!("cgroups of processes are unknown: {error}");
                return;
            }
            None => return,
        };
        let mut workloads = Vec::new();
        let tried = &mut self.tried;
        cgroups.look_up(&wanted, patience, |id, lookup| match lookup {
            Lookup::Path(path) => workloads.push((id, Workload::parse(&harmless_path(&path)))),
            Lookup::Gone => not_found(tried, id, MAX_TRIES),
            Lookup::Unknown(why) => {
                log::debug!("cgroup {id} was not found: {why}");
                not_found(tried, id, 1);
            }
        });
        // Each cgroup is asked for only once.
        self.pod_names.add(workloads.iter_mut().map(|(_id, workload)| workload), Duration::ZERO, patience);
        for (id, workload) in workloads {
            each(InspectionFact::Cgroup { id, workload: Box::new(workload) });
        }
    }

    /// Hands conntrack's timeout of connections in CLOSE_WAIT to `each`, for each namespace that can be entered or
    /// was opened before.
    fn conntrack(&self, wanted: &[u32], patience: &mut Patience, mut each: impl FnMut(InspectionFact)) {
        if wanted.is_empty() {
            return;
        }
        let mut timeouts: BTreeMap<u32, Option<Duration>> = wanted.iter().map(|netns| (*netns, None)).collect();
        let open: Vec<_> = wanted.iter().filter_map(|of| Some((*of, Arc::clone(self.tracking.get(of)?)))).collect();
        let read = |(_, tracking): &(u32, Arc<Tracking>), job: &ItemJob<Duration>| {
            if let Some(timeout) = tracking.close_wait_timeout() {
                job.put(timeout);
            }
        };
        deadline::each(open, patience, read, |(netns, _), result| store_timeout(&mut timeouts, *netns, result));
        let closed = |netns: &Netns| timeouts.get(&netns.inode).is_some_and(Option::is_none);
        let namespaces: Vec<_> = netns::all().into_iter().filter(closed).collect();
        let enter = |namespace: &Netns, job: &ItemJob<Duration>| {
            let opened = namespace.enter_and(Tracking::open).ok().flatten();
            if let Some(timeout) = opened.and_then(|tracking| tracking.close_wait_timeout()) {
                job.put(timeout);
            }
        };
        deadline::each(namespaces, patience, enter, |namespace, result| {
            store_timeout(&mut timeouts, namespace.inode, result)
        });
        for (netns, conntrack_close_wait) in timeouts {
            each(InspectionFact::Namespace { netns, conntrack_close_wait });
        }
    }
}

/// Searches for the tools that next steps run.
fn tools(patience: &mut Patience, mut each: impl FnMut(InspectionFact)) {
    let search = || tools::existing(&Tool::ALL.map(Tool::name));
    match deadline::run(Subject::Path("PATH".into()), "the folders of programs", patience, search) {
        Ok(found) => {
            let (tools, missing) = Tool::ALL.into_iter().partition(|tool| found.contains(tool.name()));
            each(InspectionFact::Tools { at: clock::now(), tools, missing });
        }
        Err(why) => log::debug!("the tools of this host are unknown: {why}"),
    }
}

/// Counts failed searches for a cgroup.
fn not_found(tried: &mut BTreeMap<u64, u8>, id: u64, times: u8) {
    let tries = tried.entry(id).or_default();
    *tries = tries.saturating_add(times);
    if tried.len() > MAX_NOT_FOUND {
        tried.pop_first();
    }
}

fn store_timeout(timeouts: &mut BTreeMap<u32, Option<Duration>>, netns: u32, result: ReadResult<Duration>) {
    match result {
        ReadResult::Value(timeout) => drop(timeouts.insert(netns, Some(timeout))),
        ReadResult::Unanswered(why) => {
            log::debug!("connection tracking of network namespace {netns} is unknown: {why}")
        }
    }
}

/// Settings of connection tracking in one network namespace. Once open, they can be read from any namespace, until
/// theirs is gone.
#[derive(Debug)]
struct Tracking {
    count: File,
    close_wait: File,
}

impl Tracking {
    /// Opens the sysctls of this thread's namespace, which `/proc/sys/net` shows (`net_ctl_header_lookup` in
    /// net/sysctl_net.c, v6.18). They exist as soon as the module is loaded, even if no rule uses it.
    fn open() -> Option<Self> {
        let open = |name: &str| File::open(Path::new("/proc/sys/net/netfilter").join(name)).ok();
        Some(Self { count: open("nf_conntrack_count")?, close_wait: open("nf_conntrack_tcp_timeout_close_wait")? })
    }

    /// Returns conntrack's timeout of connections in CLOSE_WAIT; `None` where no connection is tracked.
    fn close_wait_timeout(&self) -> Option<Duration> {
        number(&self.count).filter(|count| *count > 0)?;
        number(&self.close_wait).map(Duration::from_secs)
    }
}

/// Reads the number in a file.
fn number(file: &File) -> Option<u64> {
    let mut text = [0; 24];
    let length = file.read_at(&mut text, 0).ok()?;
    str::from_utf8(text.get(..length)?).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::Fixture;

    #[test]
    fn settings_are_read_again_each_time() {
        let fixture = Fixture::new("conntrack");
        let file = |name: &str, text: &str| {
            std::fs::write(fixture.path().join(name), text).unwrap();
            File::open(fixture.path().join(name)).unwrap()
        };
        let tracking = Tracking { count: file("count", "0\n"), close_wait: file("timeout", "60\n") };
        assert_eq!(tracking.close_wait_timeout(), None, "nothing is tracked");
        drop(file("count", "7\n"));
        assert_eq!(tracking.close_wait_timeout(), Some(Duration::from_secs(60)));
        drop(file("timeout", "none"));
        assert_eq!(tracking.close_wait_timeout(), None);
    }
}
