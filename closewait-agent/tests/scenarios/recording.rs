//! Recordings of the agent's observations, for tests that play them without a kernel (`tests/replay.rs`).

use std::{
    borrow::Cow,
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use closewait::recording::{Item, Reader, Recorder};
use closewait_engine::model::{InspectionFact, Observation, RefreshFact, ScanFact, SocketEvent};

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

/// Removes facts about sockets of other network namespaces than that of the scenario, and the location of the
/// programs on this machine.
pub(crate) fn keep_only(path: &Path, netns: u64) {
    let reader = Reader::new(File::open(path).expect("the recording")).expect("the recording");
    let items: Vec<Item<'_>> = reader.map(|item| item.expect("an item of the recording")).collect();
    let kept = File::create(path).expect("the recording");
    let mut kept = Recorder::empty(kept, u64::MAX).expect("a recording");
    for mut item in items {
        if let Item::Fact(fact) = item {
            if namespace(&fact).is_some_and(|of| u64::from(of) != netns) {
                continue;
            }
            item = Item::Fact(Cow::Owned(without_folder(fact.into_owned())));
        }
        kept.item(&item).expect("an item");
    }
    kept.finish(Duration::from_secs(10)).expect("the recording");
}

/// Returns the network namespace of the socket of a fact.
fn namespace(fact: &Observation) -> Option<u32> {
    match fact {
        Observation::Socket(SocketEvent::Enter { socket, .. } | SocketEvent::Leave { socket, .. })
        | Observation::Scan(
            ScanFact::Present { socket, .. } | ScanFact::Owned { socket, .. } | ScanFact::Lingering { socket, .. },
        )
        | Observation::Refresh(RefreshFact::Present { socket, .. } | RefreshFact::Lingering { socket, .. }) => {
            socket.netns
        }
        Observation::Scan(ScanFact::Listening { listener, .. }) => listener.netns,
        Observation::Inspection(InspectionFact::ProxyPeer { peer, .. }) => peer.socket.netns,
        Observation::Inspection(InspectionFact::Closes(closes)) => closes.port.netns,
        Observation::Scan(
            ScanFact::Descriptor { .. } | ScanFact::InodeDescriptor { .. } | ScanFact::StoredEntry { .. },
        )
        | Observation::Inspection(
            InspectionFact::Process { .. }
            | InspectionFact::Cgroup { .. }
            | InspectionFact::Namespace { .. }
            | InspectionFact::Location { .. }
            | InspectionFact::ConnectionsRead { .. }
            | InspectionFact::PeerEnd { .. }
            | InspectionFact::Tools { .. },
        )
        | Observation::ScanEnd(_)
        | Observation::RefreshEnd(_)
        | Observation::InspectionEnd(_)
        | Observation::Counters { .. }
        | Observation::Resumed { .. }
        | Observation::Query(_) => None,
    }
}

/// Replaces the folder of a process's program by the usual one.
fn without_folder(mut fact: Observation) -> Observation {
    if let Observation::Inspection(InspectionFact::Process { process, .. }) = &mut fact
        && let Some(exe) = &mut process.exe
    {
        *exe = format!("/usr/bin/{}", exe.rsplit('/').next().unwrap_or_default());
    }
    fact
}
