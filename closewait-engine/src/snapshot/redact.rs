//! Labels instead of addresses and names, for answers that are shown to strangers.
//!
//! The same thing has the same label in all of an answer. Sentences that the agent made from names are replaced as a whole: by the
//! description of the rule, or by one without names.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use crate::{
    diagnose::verdict_sources,
    model::{
        Evidence, Exit, IncidentReport, Listener, Owner, Pileup, PileupGroup, ProxyPeer, ReportedGroup, Socket, Task,
        UnixBackend, Verdict,
    },
    process::{NextStep, Process},
    snapshot::{
        groups::{Key, ListedGroup},
        hints::Hint,
    },
    text::Comm,
    unread::UnreadRequest,
    workload::{Container, Pod, Workload},
};

/// Prefix of the addresses of labels, which no host has (RFC 3849).
const DOCUMENTATION: u128 = 0x2001_0db8 << 96;
/// Suffix of the units of services, which closewait leaves out of names of services.
const SERVICE: &str = ".service";

/// Labels of one answer, in the order in which their things appear.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    /// Numbers of names, by kind.
    names: BTreeMap<&'static str, BTreeMap<String, usize>>,
    addresses: BTreeMap<IpAddr, u32>,
}

impl Redactor {
    /// Replaces a name by `KIND-N`.
    pub fn name(&mut self, kind: &'static str, name: &mut String) {
        let known = self.names.entry(kind).or_default();
        let next = known.len() + 1;
        let number = *known.entry(std::mem::take(name)).or_insert(next);
        *name = format!("{kind}-{number}");
    }

    fn names(&mut self, kind: &'static str, names: &mut Option<String>) {
        names.iter_mut().for_each(|name| self.name(kind, name));
    }

    /// Replaces the name of a task or thread.
    pub fn comm(&mut self, comm: &mut Comm) {
        let mut name = comm.as_str().to_owned();
        self.name("program", &mut name);
        *comm = Comm::from_name(name.as_bytes());
    }

    /// Replaces an address by `2001:db8::N`; not the one that stands for all.
    pub fn address(&mut self, address: &mut IpAddr) {
        if !address.is_unspecified() {
            let next = u32::try_from(self.addresses.len()).unwrap_or(u32::MAX).saturating_add(1);
            let number = *self.addresses.entry(*address).or_insert(next);
            *address = Ipv6Addr::from(DOCUMENTATION | u128::from(number)).into();
        }
    }

    /// Replaces the name of a task.
    pub fn task(&mut self, task: &mut Task) {
        self.comm(&mut task.comm);
    }

    /// Replaces the names of owners.
    pub fn owners(&mut self, owners: &mut [Owner]) {
        owners.iter_mut().for_each(|owner| self.task(&mut owner.task));
    }

    /// Replaces what a listener has.
    pub fn listener(&mut self, listener: &mut Listener) {
        self.address(&mut listener.local.address);
    }

    /// Replaces what a socket has.
    pub fn socket(&mut self, socket: &mut Socket) {
        self.address(&mut socket.local.address);
        self.address(&mut socket.remote.address);
        socket.opener.iter_mut().for_each(|opener| self.task(&mut opener.task));
    }

    /// Replaces what the other side of a proxy has.
    pub fn proxy_peer(&mut self, peer: &mut ProxyPeer) {
        self.socket(&mut peer.socket);
    }

    /// Replaces the name of the task that ended a connection.
    pub fn exit(&mut self, exit: &mut Exit) {
        exit.closer.iter_mut().for_each(|closer| self.task(closer));
    }

    /// Replaces the names of units, containers and pods.
    pub fn workload(&mut self, workload: &mut Workload) {
        if workload.is_root() {
            return;
        }
        let Workload { cgroup_path, unit, container, pod } = workload;
        self.name("cgroup", cgroup_path);
        cgroup_path.insert(0, '/');
        if let Some(unit) = unit {
            let stem = unit.strip_suffix(SERVICE).map(str::len);
            unit.truncate(stem.unwrap_or(unit.len()));
            self.name("service", unit);
            unit.push_str(stem.map_or("", |_| SERVICE));
        }
        if let Some(Container { id, runtime: _ }) = container {
            self.name("container", id);
        }
        if let Some(Pod { uid, name, namespace, container_name }) = pod {
            self.name("uid", uid);
            self.names("pod", name);
            self.names("namespace", namespace);
            self.names("container", container_name);
        }
    }

    /// Replaces what is known of a process.
    pub fn process(&mut self, process: &mut Process) {
        let Process { comm, exe, script, stacks, workload, groups, frozen_by, unseen, .. } = process;
        self.comm(comm);
        self.names("file", exe);
        self.names("script", script);
        *stacks = None;
        workload.iter_mut().for_each(|workload| self.workload(workload));
        groups.iter_mut().flat_map(|group| &mut group.comms).for_each(|comm| self.comm(comm));
        self.names("file", frozen_by);
        if !unseen.is_empty() {
            *unseen = vec!["some facts could not be read".to_owned()];
        }
    }

    /// Replaces the sentences of a verdict by those of its rule.
    pub fn verdict(&mut self, verdict: &mut Verdict) {
        let about = verdict_sources().map(|source| source.about).find(|about| about.name == verdict.rule);
        // An answer for a table has no texts.
        if let Some(about) = about.filter(|_| !verdict.text.is_empty()) {
            about.says.clone_into(&mut verdict.text);
            verdict.next = NextStep { text: about.next.to_owned(), command: None };
        } else {
            verdict.text.clear();
            verdict.next = NextStep::default();
        }
    }

    /// Replaces the reason why sockets may be missing.
    pub fn unseen(&mut self, unseen: &mut Option<String>) {
        if let Some(why) = unseen {
            "some sockets may be missing".clone_into(why);
        }
    }

    fn pileup_group(&mut self, group: &mut PileupGroup) {
        group.remote.iter_mut().for_each(|remote| self.address(&mut remote.address));
    }

    fn evidence(&mut self, evidence: &mut Evidence) {
        // All members are here, so that a new one needs a decision.
        let Evidence {
            oldest,
            top_remotes,
            process,
            stacks,
            connects,
            unread,
            unix,
            workload,
            proxy_peer,
            median: _,
            p90: _,
            ages: _,
            reads: _,
            unaccepted: _,
            remotes: _,
            process_at: _,
            backlog: _,
            backlog_at: _,
            history: _,
        } = evidence;
        for one in oldest {
            self.address(&mut one.remote.address);
            one.owners.iter_mut().for_each(|owners| self.owners(owners));
        }
        top_remotes.iter_mut().for_each(|(address, _)| self.address(address));
        process.iter_mut().for_each(|process| self.process(process));
        stacks.iter_mut().for_each(|stacks| Arc::make_mut(stacks).redact(self));
        connects.iter_mut().for_each(|connects| connects.redact(self));
        for (request, _) in unread.iter_mut().flat_map(|unread| &mut unread.requests) {
            match request {
                UnreadRequest::Http { method: _, path } => {
                    self.name("path", path);
                    path.insert(0, '/');
                }
                UnreadRequest::Tls { server_name } => self.names("host", server_name),
                UnreadRequest::Http2 | UnreadRequest::Redis | UnreadRequest::Postgres | UnreadRequest::Ssh => {}
            }
        }
        for UnixBackend { path, program, activity, connections: _, queued: _, waiting: _, processes: _ } in
            unix.iter_mut().flatten()
        {
            self.name("path", path);
            path.insert(0, '/');
            program.iter_mut().for_each(|task| self.task(task));
            *activity = None;
        }
        workload.iter_mut().for_each(|workload| self.workload(workload));
        proxy_peer.iter_mut().for_each(|peer| self.proxy_peer(peer));
    }

    /// Replaces what a group of a report has.
    pub fn reported_group(&mut self, group: &mut ReportedGroup) {
        let Pileup { group, owners, verdict, evidence, .. } = &mut group.pileup;
        self.pileup_group(group);
        owners.iter_mut().flatten().for_each(|(task, _)| self.task(task));
        self.verdict(verdict);
        self.evidence(evidence);
    }

    /// Replaces what a report has.
    pub fn report(&mut self, report: &mut IncidentReport) {
        self.names("host", &mut report.host);
        self.unseen(&mut report.unseen);
        report.groups.iter_mut().for_each(|group| self.reported_group(group));
        for resolved in &mut report.resolved {
            self.pileup_group(&mut resolved.end.group);
            self.names("service", &mut resolved.end.service);
        }
    }

    /// Replaces what a group of a list has.
    pub fn listed_group(&mut self, group: &mut ListedGroup) {
        match &mut group.key {
            Key::Listener { netns: _, local } => self.address(&mut local.address),
            Key::Peer(address, _) => self.address(address),
            Key::Process(_) | Key::NoProcess | Key::AnyProcess | Key::NoListener | Key::Cgroup(_) | Key::NoCgroup => {}
        }
        group.owners.iter_mut().for_each(|task| self.task(task));
        group.workload.iter_mut().for_each(|workload| self.workload(workload));
    }

    /// Replaces what a hint has.
    pub fn hint(&mut self, hint: &mut Hint) {
        let owner = match hint {
            Hint::Descriptors { owner, .. } => Some(owner),
            Hint::Backlog { owner, listener, .. } => {
                self.listener(listener);
                owner.as_mut()
            }
            Hint::WaitsFor { owner, upstream, .. } => {
                self.address(&mut upstream.address);
                owner.as_mut()
            }
            Hint::Cause { owner, verdict, .. } => {
                self.verdict(verdict);
                owner.as_mut()
            }
            Hint::Gone { owner, .. } => owner.as_mut(),
            Hint::Forgotten { .. } | Hint::More { .. } => None,
        };
        owner.into_iter().for_each(|owner| self.task(owner));
    }
}
