//! What the engine wants to know of owners, cgroups and namespaces: the I/O for [`Inquiry`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use super::{
    processes::{self, Sampling},
    program::Programs,
    snapshot,
    walk::Found,
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

/// Cgroups of which it is remembered that they were not found. Of more, the lowest ids are looked for again: the oldest.
const NOT_FOUND: usize = 4096;

/// Answers inquiries. Remembers what does not change.
#[derive(Debug, Default)]
pub struct Inquirer {
    /// The kernel knows no iterator of one process.
    no_legs: bool,
    /// `None` until it is asked for; then also why there is none.
    cgroups: Option<Result<Cgroups, CgroupError>>,
    /// How often each cgroup was looked for in vain.
    tried: BTreeMap<u64, u8>,
}

impl Inquirer {
    /// Hands everything to `each` that can be had at once. What the processes do takes a second look: finish it after a
    /// while, and hand in what comes of it.
    pub fn begin(
        &mut self,
        programs: Option<&mut Programs>,
        inquiry: &Inquiry,
        mut each: impl FnMut(Found<'_>),
    ) -> Sampling {
        let sampling = Sampling::begin(&inquiry.processes, clock::now());
        if let Some(programs) = programs.filter(|programs| programs.plan().iterate_files && !self.no_legs) {
            for pid in &inquiry.legs_of {
                if let Err(error) = snapshot::legs(programs, *pid, |bytes| each(Found::Record(bytes))) {
                    log::debug!("the other connections of process {pid} cannot be seen: {error:#}");
                    self.no_legs = true;
                    break;
                }
            }
        }
        for (inode, place) in processes::places(&inquiry.unheld) {
            each(Found::Fact(Box::new(Observation::Placed { inode, place })));
        }
        self.cgroups(&inquiry.cgroups, |observation| each(Found::Fact(Box::new(observation))));
        conntrack(&inquiry.namespaces, |observation| each(Found::Fact(Box::new(observation))));
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

/// How long connection tracking keeps connections in CLOSE_WAIT in the namespace of this thread; `None` where no connection
/// is tracked. The settings are there as soon as the module is, whether a rule uses it or not.
fn tracked_for() -> Option<Duration> {
    let number = |name: &str| -> Option<u64> {
        fs::read_to_string(Path::new("/proc/sys/net/netfilter").join(name)).ok()?.trim().parse().ok()
    };
    number("nf_conntrack_count").filter(|count| *count > 0)?;
    number("nf_conntrack_tcp_timeout_close_wait").map(Duration::from_secs)
}

/// How long connection tracking keeps connections in CLOSE_WAIT, of each of the namespaces that can be entered.
fn conntrack(wanted: &[u32], mut each: impl FnMut(Observation)) {
    if wanted.is_empty() {
        return;
    }
    let wanted: BTreeSet<u32> = wanted.iter().copied().collect();
    let mut timeouts: BTreeMap<u32, Option<Duration>> = wanted.iter().map(|netns| (*netns, None)).collect();
    for namespace in netns::all().into_iter().filter(|namespace| wanted.contains(&namespace.inode)) {
        // `/proc/sys/net` shows the namespace of the thread that opens it.
        timeouts.insert(namespace.inode, namespace.enter_and(tracked_for).ok().flatten());
    }
    for (netns, conntrack_close_wait) in timeouts {
        each(Observation::Namespace { netns, conntrack_close_wait });
    }
}
