//! Facts that show whether a program makes progress: its connections in use.

use std::{fs::File, process, thread, time::Duration};

use closewait::{
    clock,
    host::{facts::HostFacts, plan},
    recording::{Item, Reader},
    source::{
        inspector::Inspector,
        program::{KernelPrograms, Loader},
        scanner::ScanItem,
    },
};
use closewait_engine::{
    decode::Decoder,
    model::{Connection, InspectionFact, InspectionRequest, Observation, ProxyPeer, Role},
    time::BootTime,
};

use crate::{
    ability::{Ability, can},
    agent::Agent,
    net::{Id, Namespace, Pair, V4},
    socket,
};

/// Connections are used lately for so many ticks here; agents use a minute.
const RECENT_TICKS: u64 = 100;

/// Facts of an inspection of this process, by kernel programs of this test.
struct Probe {
    inspector: Inspector,
    decoder: Decoder,
    tick: Duration,
    // The iterator is gone with it.
    _programs: KernelPrograms,
}

impl Probe {
    fn new() -> Self {
        let facts = HostFacts::gather();
        let tick = facts.tick;
        let mut plan = plan::plan(&facts, plan::HookChoice::Auto).expect("a plan");
        // A recent time in this test is shorter than in the agent, for a test cannot wait for a minute.
        plan.abilities.tick_ns = u32::try_from(60_000_000_000 / RECENT_TICKS).expect("a number");
        let mut programs = KernelPrograms::load(Loader::begin(), &plan, None, None, false).expect("kernel programs");
        let (_scanner, reader) = programs.scanner().expect("iterators");
        let decoder = Decoder { tick, suspended: Duration::ZERO };
        Self { inspector: Inspector::new(reader), decoder, tick, _programs: programs }
    }

    fn inspect(&mut self, request: &InspectionRequest) -> Vec<InspectionFact> {
        let (mut found, decoder) = (Vec::new(), self.decoder);
        self.inspector.inspect(request, Duration::ZERO, |item| {
            let observation = match item {
                ScanItem::Record(bytes) => decoder.decode(bytes).expect("a record"),
                ScanItem::Fact(fact) => *fact,
            };
            let Observation::Inspection(fact) = observation else {
                panic!("{observation:?} is no fact of an inspection")
            };
            found.push(fact);
        });
        found
    }

    /// Time after which a connection has not been used lately.
    fn idle(&self) -> Duration {
        self.tick * u32::try_from(RECENT_TICKS).expect("a number") + Duration::from_millis(300)
    }
}

/// Other connections of this process in a namespace, by the local port.
fn connections(facts: &[InspectionFact], ns: &Namespace) -> Vec<ProxyPeer> {
    let of = |fact: &InspectionFact| match fact {
        InspectionFact::ProxyPeer { peer, owner } => {
            assert_eq!(owner.task.pid, process::id());
            (peer.socket.netns == u32::try_from(ns.inode).ok()).then(|| (**peer).clone())
        }
        _ => None,
    };
    facts.iter().filter_map(of).collect()
}

fn find<'a>(peers: &'a [ProxyPeer], id: &Id) -> Option<&'a ProxyPeer> {
    let same =
        |peer: &&ProxyPeer| (peer.socket.local.port, peer.socket.remote.port) == (id.local.port(), id.remote.port());
    peers.iter().find(same)
}

fn request_and_answer(pair: &mut Pair) {
    // The times of TCP are in ticks of 10 ms at most.
    thread::sleep(Duration::from_millis(50));
    socket::exchange(&mut pair.client, &mut pair.server, b"request");
    thread::sleep(Duration::from_millis(50));
    socket::exchange(&mut pair.server, &mut pair.client, b"answer");
}

#[test]
fn connections_in_use_are_read_and_idle_ones_are_not() {
    if !can(Ability::Legs) {
        return;
    }
    let (ns, mut probe) = (Namespace::new(), Probe::new());
    let (mut idle, mut used) = (ns.pair(V4), ns.pair(V4));
    request_and_answer(&mut idle);
    request_and_answer(&mut used);
    let waiting = ns.waiting(V4).0;
    thread::sleep(probe.idle());
    let onset = clock::now();
    request_and_answer(&mut used);
    let before = clock::now();
    let request = InspectionRequest { connections_of: vec![process::id()], ..InspectionRequest::default() };
    let facts = probe.inspect(&request);
    let peers = connections(&facts, &ns);

    let accepted = find(&peers, &used.id).expect("the accepted side in use");
    assert_eq!((accepted.state, accepted.socket.role), (Connection::Established, Some(Role::Server)));
    assert!(accepted.socket.last_received.is_some_and(|at| at >= onset), "{accepted:?}");
    assert!(accepted.socket.last_sent >= accepted.socket.last_received, "{accepted:?}");
    assert_eq!((accepted.socket.sent_bytes, accepted.socket.received_bytes), (Some(12), Some(14)));
    let connected = find(&peers, &ns.id(&used.client)).expect("the connecting side that has its answer");
    assert_eq!((connected.state, connected.socket.role), (Connection::Established, None));
    assert!(connected.socket.last_received > connected.socket.last_sent, "{connected:?}");

    assert!(find(&peers, &idle.id).is_none(), "one that was not used lately");
    assert!(find(&peers, &ns.id(&idle.client)).is_none(), "one that was not used lately and has its answer");
    assert!(find(&peers, &waiting.id).is_none(), "what is in CLOSE_WAIT is none of the others");
    let half_closed = find(&peers, &ns.id(&waiting.client)).expect("the side that has sent its FIN");
    assert_eq!(half_closed.state, Connection::FinWait2);

    let read: Vec<_> = facts.iter().filter(|fact| matches!(fact, InspectionFact::ConnectionsRead { .. })).collect();
    let [InspectionFact::ConnectionsRead { pid, at }] = read[..] else { panic!("{read:?}") };
    assert!(*pid == process::id() && *at >= before && *at <= clock::now(), "{read:?}");
}

#[test]
fn a_process_that_is_gone_was_not_read() {
    let mut probe = Probe::new();
    // Above the largest number that the kernel gives.
    let request = InspectionRequest { connections_of: vec![1 << 23], ..InspectionRequest::default() };
    assert_eq!(probe.inspect(&request), []);
}

/// Every fact of a recording.
fn recorded(path: &str) -> Vec<InspectionFact> {
    let reader = Reader::new(File::open(path).expect("the recording")).expect("a recording");
    let mut facts = Vec::new();
    for item in reader {
        if let Item::Fact(fact) = item.expect("an item")
            && let Observation::Inspection(fact) = fact.into_owned()
        {
            facts.push(fact);
        }
    }
    facts
}

#[test]
fn an_agent_reads_the_connections_of_an_owner_that_serves_others() {
    let recording = std::env::temp_dir().join(format!("closewait-kernel-test-{}-progress.recording", process::id()));
    let path = recording.to_str().expect("UTF-8");
    let ns = Namespace::new();
    let mut agent = Agent::start(&["--stuck-after", "1s", "--record", path]);
    let (waiting, fin) = ns.waiting(V4);
    let mut used = ns.pair(V4);
    request_and_answer(&mut used);
    agent.wait_for_socket("stuck", &waiting.id);
    // On a busy machine the event comes before the inspection ends.
    agent.watch(Duration::from_secs(2));
    agent.stop();
    let facts = recorded(path);
    std::fs::remove_file(&recording).expect("the recording");
    let read =
        facts.iter().any(|fact| matches!(fact, InspectionFact::ConnectionsRead { pid, .. } if *pid == process::id()));
    assert_eq!(read, can(Ability::Legs), "{facts:?}");
    let peers = connections(&facts, &ns);
    let accepted = find(&peers, &used.id);
    assert_eq!(accepted.is_some(), can(Ability::Legs), "{peers:?}");
    if let Some(accepted) = accepted {
        let onset = BootTime((fin.from * 1e9) as u64);
        assert!(accepted.socket.last_received.is_some_and(|at| at >= onset), "{accepted:?}");
    }
}
