//! Recordings of the agent's observations, for tests that play them without a kernel (`tests/replay.rs`).

use std::{
    borrow::Cow,
    collections::BTreeSet,
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use closewait::recording::{Item, Reader, Recorder};
use closewait_engine::model::{
    InspectionFact, Observation, Owner, RefreshFact, ScanFact, Socket, SocketEvent, SocketKey,
};

use crate::scenario::Scenario;

/// Environment variable with a folder for recordings of all scenarios.
const RECORD: &str = "CLOSEWAIT_RECORD";

/// Returns the file for the recording of a scenario, if the variable is set.
pub(crate) fn file(scenario: &Scenario) -> Option<PathBuf> {
    let folder = env::var_os(RECORD)?;
    fs::create_dir_all(&folder).expect("a folder for recordings");
    let kind = if scenario.healthy { "healthy-" } else { "" };
    Some(Path::new(&folder).join(format!("{kind}{}.recording", scenario.name)))
}

/// Removes the facts about sockets of other network namespaces than that of the scenario, about their owners, and the
/// folders of programs on this machine.
pub(crate) fn keep_only(path: &Path, netns: u64) {
    let reader = Reader::new(File::open(path).expect("the recording")).expect("the recording");
    let items: Vec<Item<'_>> = reader.map(|item| item.expect("an item of the recording")).collect();
    let facts = || items.iter().filter_map(|item| if let Item::Fact(fact) = item { Some(fact.as_ref()) } else { None });
    let mut ours = Ours { netns, sockets: BTreeSet::new(), inodes: BTreeSet::new(), pids: BTreeSet::new() };
    facts().for_each(|fact| ours.add_socket(fact));
    facts().for_each(|fact| ours.add_owner(fact));
    let kept = File::create(path).expect("the recording");
    let mut kept = Recorder::empty(kept, u64::MAX).expect("a recording");
    for mut item in items {
        if let Item::Fact(fact) = item {
            if !ours.has(&fact) {
                continue;
            }
            item = Item::Fact(Cow::Owned(without_folder(fact.into_owned())));
        }
        kept.item(&item).expect("an item");
    }
    kept.finish(Duration::from_secs(10)).expect("the recording");
}

/// Sockets of the scenario, and the processes that own them.
struct Ours {
    netns: u64,
    sockets: BTreeSet<SocketKey>,
    inodes: BTreeSet<u64>,
    pids: BTreeSet<u32>,
}

/// Subject of a fact.
enum Subject<'a> {
    /// A socket with all its facts, and its owner.
    Socket(Option<SocketKey>, &'a Socket, Option<&'a Owner>),
    /// A socket by its identity alone, and its owner.
    Key(SocketKey, Option<&'a Owner>),
    /// A socket by its inode alone, and its owner.
    Inode(u64, Option<&'a Owner>),
    Process(u32),
    /// A network namespace, and the owner of something in it.
    Namespace(Option<u32>, Option<&'a Owner>),
    /// The agent or the host.
    Other,
}

impl Ours {
    fn add_socket(&mut self, fact: &Observation) {
        if let Subject::Socket(key, socket, _owner) = subject(fact)
            && self.is_here(socket.netns)
        {
            self.sockets.extend(key);
            self.inodes.extend(socket.inode);
        }
    }

    fn add_owner(&mut self, fact: &Observation) {
        let owner = match subject(fact) {
            Subject::Socket(_, _, owner)
            | Subject::Key(_, owner)
            | Subject::Inode(_, owner)
            | Subject::Namespace(_, owner) => owner.filter(|_owner| self.has(fact)),
            Subject::Process(_) | Subject::Other => None,
        };
        self.pids.extend(owner.map(|owner| owner.task.pid));
    }

    fn has(&self, fact: &Observation) -> bool {
        match subject(fact) {
            Subject::Socket(_key, socket, _owner) => self.is_here(socket.netns),
            Subject::Key(key, _owner) => self.sockets.contains(&key),
            Subject::Inode(inode, _owner) => self.inodes.contains(&inode),
            Subject::Process(pid) => self.pids.contains(&pid),
            Subject::Namespace(netns, _owner) => self.is_here(netns),
            Subject::Other => true,
        }
    }

    /// Whether it is the scenario's network namespace, or may be.
    fn is_here(&self, netns: Option<u32>) -> bool {
        netns.is_none_or(|netns| u64::from(netns) == self.netns)
    }
}

fn subject(fact: &Observation) -> Subject<'_> {
    match fact {
        Observation::Socket(
            SocketEvent::Enter { key, socket, .. }
            | SocketEvent::Leave { key, socket, .. }
            | SocketEvent::Pass { key, socket, .. },
        )
        | Observation::Scan(ScanFact::Present { key, socket, .. })
        | Observation::Refresh(RefreshFact::Present { key, socket, .. } | RefreshFact::Lingering { key, socket, .. }) => {
            Subject::Socket(Some(*key), socket, None)
        }
        Observation::Scan(
            ScanFact::Owned { key, socket, owner, .. } | ScanFact::Lingering { key, socket, owner, .. },
        ) => Subject::Socket(Some(*key), socket, Some(owner)),
        Observation::Scan(ScanFact::Listening { listener, owner, .. }) => {
            Subject::Namespace(listener.netns, owner.as_ref())
        }
        Observation::Inspection(InspectionFact::ProxyPeer { peer, owner }) => {
            Subject::Socket(None, &peer.socket, Some(owner))
        }
        Observation::Inspection(InspectionFact::Closes(closes)) => Subject::Namespace(closes.port.netns, None),
        Observation::Passed(passed) => Subject::Namespace(passed.flow.netns, None),
        Observation::Inspection(InspectionFact::Namespace { netns, .. }) => Subject::Namespace(Some(*netns), None),
        Observation::Scan(ScanFact::Descriptor { key, owner, .. }) => Subject::Key(*key, Some(owner)),
        Observation::Scan(ScanFact::StoredEntry { key, .. })
        | Observation::Refresh(RefreshFact::Unchanged { key, .. } | RefreshFact::Gone { key, .. })
        | Observation::Inspection(InspectionFact::PeerEnd { key, .. } | InspectionFact::Unread { key, .. }) => {
            Subject::Key(*key, None)
        }
        Observation::Scan(ScanFact::InodeDescriptor { inode, owner }) => Subject::Inode(*inode, Some(owner)),
        Observation::Inspection(InspectionFact::Location { inode, .. }) => Subject::Inode(*inode, None),
        Observation::Inspection(InspectionFact::Process { process, .. }) => Subject::Process(process.pid),
        Observation::Inspection(InspectionFact::ConnectionsRead { pid, .. } | InspectionFact::Ended { pid }) => {
            Subject::Process(*pid)
        }
        Observation::Inspection(InspectionFact::Stacks(stacks)) => Subject::Process(stacks.pid),
        Observation::Inspection(InspectionFact::Connects(samples)) => Subject::Process(samples.pid),
        Observation::Inspection(InspectionFact::UnixConnections(connections)) => Subject::Process(connections.pid),
        Observation::Inspection(InspectionFact::Cgroup { .. } | InspectionFact::Tools { .. })
        | Observation::ScanEnd(_)
        | Observation::RefreshEnd(_)
        | Observation::InspectionEnd(_)
        | Observation::Counters { .. }
        | Observation::Resumed { .. }
        | Observation::Query(_) => Subject::Other,
    }
}

/// Replaces the folders of programs by usual ones.
fn without_folder(mut fact: Observation) -> Observation {
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    if let Observation::Inspection(InspectionFact::Process { process, .. }) = &mut fact
        && let Some(exe) = &mut process.exe
    {
        *exe = format!("/usr/bin/{}", name(exe));
    }
    if let Observation::Inspection(InspectionFact::Stacks(stacks)) = &mut fact {
        let frames = stacks.groups.iter_mut().flat_map(|group| &mut group.frames);
        for path in frames.flat_map(|frame| [&mut frame.file, &mut frame.object]).flatten() {
            if path.starts_with('/') && !["/lib", "/usr/"].iter().any(|system| path.starts_with(system)) {
                *path = format!("/srv/app/{}", name(path));
            }
        }
    }
    fact
}
