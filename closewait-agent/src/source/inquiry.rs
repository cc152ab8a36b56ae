//! What the engine wants to know of owners, cgroups and namespaces: the I/O for [`Inquiry`].

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
    time::Duration,
};

use super::{
    calls, files,
    processes::{self, Sampling},
    scanner::Found,
};
use crate::{
    clock,
    engine::{
        model::{Inquiry, Observation},
        text::harmless_path,
        time::Boot,
        workload::Workload,
    },
    host::{
        cgroups::{CgroupError, Cgroups},
        netns,
        pods::{self, Pods},
    },
};

/// A cgroup whose folder cannot be found is looked for so often: it may have been removed, or be in no hierarchy that is
/// seen here.
const TRIES: u8 = 3;
/// Namespaces whose settings are kept open, with two descriptors each: a service has 1024 of them unless it asks for more.
const KEPT_OPEN: usize = 128;

/// Cgroups of which it is remembered that they were not found. Of more, the lowest ids are looked for again: the oldest.
const NOT_FOUND: usize = 4096;

/// The iterator over the open files of one process, which shows its other connections; `None` where the kernel has none (before
/// Linux 6.1). As with [`super::scanner::Scanner`], there must be one reader at a time.
#[derive(Debug, Default)]
pub struct Legs(pub(super) Option<OwnedFd>);

impl Legs {
    /// Hands a record for every other connection of a process to `each`.
    fn read(&self, pid: u32, each: impl FnMut(&[u8])) -> io::Result<()> {
        let Some(program) = &self.0 else { return Ok(()) };
        files::read_records(calls::open_files(program.as_fd(), Some(pid))?, each)
    }
}

/// Answers inquiries. Remembers what does not change.
#[derive(Debug, Default)]
pub struct Inquirer {
    legs: Legs,
    /// `None` until it is asked for; then also why there is none.
    cgroups: Option<Result<Cgroups, CgroupError>>,
    /// How often each cgroup was looked for in vain.
    tried: BTreeMap<u64, u8>,
    /// What was opened while namespaces could be entered, by their inodes.
    tracking: BTreeMap<u32, Tracking>,
}

impl Inquirer {
    /// Begins with the iterator over one process, if there is one.
    pub fn new(legs: Legs) -> Self {
        Self { legs, ..Self::default() }
    }

    /// Opens what can be read later, but not opened: namespaces are not entered any more.
    pub fn open_ahead(&mut self) {
        // Each namespace has the settings, or none has.
        if Tracking::open().is_none() {
            return;
        }
        for namespace in netns::all() {
            if self.tracking.len() >= KEPT_OPEN {
                log::debug!("of some network namespaces it will not be known how long connections are tracked");
                return;
            }
            if let Ok(Some(tracking)) = namespace.enter_and(Tracking::open) {
                self.tracking.insert(namespace.inode, tracking);
            }
        }
    }

    /// Hands everything to `each` that can be had at once. What the processes do takes a second look: finish it after a
    /// while, and hand in what comes of it.
    pub fn begin(&mut self, inquiry: &Inquiry, mut each: impl FnMut(Found<'_>)) -> Sampling {
        let sampling = Sampling::begin(&inquiry.processes, clock::now());
        for pid in &inquiry.legs_of {
            if let Err(error) = self.legs.read(*pid, |bytes| each(Found::Record(bytes))) {
                log::debug!("the other connections of process {pid} cannot be seen: {error}");
                // The kernel knows no iterator of one process.
                if error.raw_os_error() == Some(libc::EINVAL) {
                    self.legs = Legs(None);
                    break;
                }
            }
        }
        for (inode, place) in processes::places(&inquiry.unheld) {
            each(Found::Fact(Box::new(Observation::Placed { inode, place })));
        }
        self.cgroups(&inquiry.cgroups, |observation| each(Found::Fact(Box::new(observation))));
        self.conntrack(&inquiry.namespaces, |observation| each(Found::Fact(Box::new(observation))));
        sampling
    }

    /// What runs in each of the cgroups that can be found.
    fn cgroups(&mut self, wanted: &[u64], mut each: impl FnMut(Observation)) {
        let wanted: Vec<u64> =
            wanted.iter().copied().filter(|id| self.tried.get(id).is_none_or(|tries| *tries < TRIES)).collect();
        if wanted.is_empty() {
            return;
        }
        let cgroups = match self.cgroups.get_or_insert_with(Cgroups::find) {
            Ok(cgroups) => cgroups,
            Err(error) => {
                log::debug!("what runs in which cgroup is not known: {error}");
                return;
            }
        };
        // Read anew each time that there is a new cgroup: pods come and go with theirs.
        let mut pods = None;
        for id in wanted {
            let now = clock::now().since(Boot(0));
            let Some(path) = cgroups.path(id, now) else {
                if !cgroups.is_complete() {
                    log::debug!("cgroup {id} was not found, but not all could be read");
                }
                *self.tried.entry(id).or_default() += 1;
                if self.tried.len() > NOT_FOUND {
                    self.tried.pop_first();
                }
                continue;
            };
            let mut workload = Workload::parse(&harmless_path(path));
            if workload.pod.is_some() {
                name(&mut workload, pods.get_or_insert_with(read_pods));
            }
            each(Observation::Cgroup { id, workload: Box::new(workload) });
        }
    }

    /// How long connection tracking keeps connections in CLOSE_WAIT, of each of the namespaces that can be entered or were
    /// looked into ahead.
    fn conntrack(&self, wanted: &[u32], mut each: impl FnMut(Observation)) {
        if wanted.is_empty() {
            return;
        }
        let mut timeouts: BTreeMap<u32, Option<Duration>> = wanted
            .iter()
            .map(|netns| (*netns, self.tracking.get(netns).and_then(Tracking::close_wait_timeout)))
            .collect();
        for namespace in netns::all() {
            let timeout = timeouts.get_mut(&namespace.inode).filter(|timeout| timeout.is_none());
            if let Some(timeout) = timeout {
                let opened = namespace.enter_and(Tracking::open).ok().flatten();
                *timeout = opened.and_then(|tracking| tracking.close_wait_timeout());
            }
        }
        for (netns, conntrack_close_wait) in timeouts {
            each(Observation::Namespace { netns, conntrack_close_wait });
        }
    }
}

fn read_pods() -> Pods {
    let pods = Pods::read(Path::new(pods::LOGS));
    if let Some(error) = &pods.unreadable {
        log::debug!("the names of pods are not known: {error}");
    }
    if !pods.complete {
        log::debug!("{} has more entries than are read; the names of some pods are not known", pods::LOGS);
    }
    pods
}

/// Adds the names that the logs of pods tell.
fn name(workload: &mut Workload, pods: &Pods) {
    let container = workload.container.as_ref().and_then(|container| pods.container(&container.id));
    let Some(pod) = &mut workload.pod else { return };
    if let Some(known) = pods.pod(&pod.uid) {
        pod.name = Some(known.name.clone());
        pod.namespace = Some(known.namespace.clone());
    }
    if let Some(container) = container {
        pod.name = Some(container.pod.clone());
        pod.namespace = Some(container.namespace.clone());
        pod.container_name = Some(container.name.clone());
    }
}

/// The settings of connection tracking of one network namespace. Open, they are read from anywhere, and no more when the
/// namespace has gone.
#[derive(Debug)]
struct Tracking {
    count: File,
    close_wait: File,
}

impl Tracking {
    /// Those of the namespace of this thread, which `/proc/sys/net` shows (`net_ctl_header_lookup` in net/sysctl_net.c,
    /// v6.18). They are there as soon as the module is, whether a rule uses it or not.
    fn open() -> Option<Self> {
        let open = |name: &str| File::open(Path::new("/proc/sys/net/netfilter").join(name)).ok();
        Some(Self { count: open("nf_conntrack_count")?, close_wait: open("nf_conntrack_tcp_timeout_close_wait")? })
    }

    /// How long connections in CLOSE_WAIT are kept; `None` where no connection is tracked.
    fn close_wait_timeout(&self) -> Option<Duration> {
        number(&self.count).filter(|count| *count > 0)?;
        number(&self.close_wait).map(Duration::from_secs)
    }
}

/// What a file with one number says now.
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
    fn settings_are_read_anew_each_time() {
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
