//! Facts about a program's progress: used connections, closes of its port, the peer ends of its sockets.

use std::{
    fs::File,
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process, thread,
    time::Duration,
};

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
    model::{
        Connection, InspectionFact, InspectionRequest, Observation, PeerEnd, PortCloses, ProxyPeer, Role, Socket,
        SocketEvent,
    },
    time::BootTime,
};

use crate::{
    ability::{Ability, can},
    agent::Agent,
    net::{Id, Namespace, Pair, V4, V6},
    socket,
};

/// Ticks for which a connection counts as used; agents use a minute.
const RECENT_TICKS: u64 = 100;

/// Inspection of this process, by kernel programs of this test.
struct Probe {
    inspector: Inspector,
    decoder: Decoder,
    tick: Duration,
    // The iterator ends with it.
    _programs: KernelPrograms,
}

impl Probe {
    fn new() -> Self {
        let facts = HostFacts::gather();
        let tick = facts.tick;
        let mut plan = plan::plan(&facts, plan::HookChoice::Auto).expect("a plan");
        // A recent time in this test is shorter than in the agent, because a test cannot wait for a minute.
        plan.abilities.tick_ns = u32::try_from(60_000_000_000 / RECENT_TICKS).expect("a number");
        let mut programs = KernelPrograms::load(Loader::begin(), &plan, None, None, false).expect("kernel programs");
        let reader = programs.proxy_peer_reader();
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

    /// Returns the time after which a connection no longer counts as used.
    fn idle(&self) -> Duration {
        self.tick * u32::try_from(RECENT_TICKS).expect("a number") + Duration::from_millis(300)
    }
}

/// Returns other connections of this process in a namespace, by the local port.
fn connections(facts: &[InspectionFact], ns: &Namespace) -> Vec<ProxyPeer> {
    let of = |fact: &InspectionFact| {
        let InspectionFact::ProxyPeer { peer, owner } = fact else { return None };
        let is_own = owner.task.pid == process::id() && peer.socket.netns == u32::try_from(ns.inode).ok();
        is_own.then(|| (**peer).clone())
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
    // Above the largest number that the kernel assigns.
    let request = InspectionRequest { connections_of: vec![1 << 23], ..InspectionRequest::default() };
    assert_eq!(probe.inspect(&request), []);
}

/// Recording of an agent, removed at the end of the test.
pub(crate) struct Recording(PathBuf);

impl Recording {
    pub(crate) fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("closewait-kernel-test-{}-{name}.recording", process::id())))
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }

    pub(crate) fn facts(&self) -> Vec<InspectionFact> {
        let of = |fact| if let Observation::Inspection(fact) = fact { Some(fact) } else { None };
        recorded(self.path()).into_iter().filter_map(of).collect()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // If this fails, the file stays in the folder for temporary files, which is harmless.
        let _result = std::fs::remove_file(&self.0);
    }
}

/// Returns every fact of a recording.
pub(crate) fn recorded(path: &str) -> Vec<Observation> {
    let reader = Reader::new(File::open(path).expect("the recording")).expect("a recording");
    let mut facts = Vec::new();
    for item in reader {
        if let Item::Fact(fact) = item.expect("an item") {
            facts.push(fact.into_owned());
        }
    }
    facts
}

#[test]
fn an_agent_reads_the_connections_of_an_owner_that_serves_others() {
    let (recording, ns) = (Recording::new("siblings"), Namespace::new());
    let mut agent = Agent::start(&["--stuck-after", "1s", "--record", recording.path()]);
    let (waiting, fin) = ns.waiting(V4);
    let mut used = ns.pair(V4);
    request_and_answer(&mut used);
    agent.wait_for_socket("stuck", &waiting.id);
    // On a busy machine the event comes before the inspection ends.
    agent.watch(Duration::from_secs(2));
    agent.stop();
    let facts = recording.facts();
    let is_read =
        |fact: &InspectionFact| matches!(fact, InspectionFact::ConnectionsRead { pid, .. } if *pid == process::id());
    assert_eq!(facts.iter().any(is_read), can(Ability::Legs), "{facts:?}");
    let peers = connections(&facts, &ns);
    let accepted = find(&peers, &used.id);
    assert_eq!(accepted.is_some(), can(Ability::Legs), "{peers:?}");
    if let Some(accepted) = accepted {
        let onset = BootTime((fin.from * 1e9) as u64);
        assert!(accepted.socket.last_received.is_some_and(|at| at >= onset), "{accepted:?}");
    }
}

/// Returns the last count of a port.
fn closes(facts: &[InspectionFact], ns: &Namespace, port: u16) -> Option<PortCloses> {
    let of = |fact: &InspectionFact| if let InspectionFact::Closes(closes) = fact { Some(*closes) } else { None };
    let own = |closes: &PortCloses| closes.port.netns == u32::try_from(ns.inode).ok() && closes.port.port == port;
    facts.iter().filter_map(of).rfind(own)
}

#[test]
fn closes_count_where_the_program_has_sent_since_the_onset() {
    if !can(Ability::Types) {
        return;
    }
    let (recording, ns) = (Recording::new("closes"), Namespace::new());
    let (watched, other) = (ns.listen(V4), ns.listen(V4));
    let (address, elsewhere) = (watched.local_addr().expect("an address"), other.local_addr().expect("an address"));
    let connect = |count: usize| (0..count).map(|_| ns.pair_at(&watched, address)).collect::<Vec<_>>();
    // These were used only before the onset, or never.
    let (mut served_before, unused) = (connect(2), connect(2));
    served_before.iter_mut().for_each(request_and_answer);
    let mut agent = Agent::start(&["--stuck-after", "1s", "--record", recording.path()]);
    let stuck = ns.pair_at(&watched, address);
    let fin = stuck.fin();
    // The agent watches a port once a socket is a second old, and counts every two seconds.
    agent.watch(Duration::from_secs(4));
    let mut served = connect(5);
    served.iter_mut().for_each(request_and_answer);
    let mut on_another_port = ns.pair_at(&other, elsewhere);
    request_and_answer(&mut on_another_port);
    let mut of_peers = connect(2);
    of_peers.iter_mut().for_each(request_and_answer);
    thread::sleep(Duration::from_millis(100));
    let before = clock::now();
    // Three are closed, one is closed with unread data, one without waiting for data: both send a reset.
    let mut served = served.into_iter();
    for pair in served.by_ref().take(3) {
        drop(pair.server);
    }
    let mut unread = served.next().expect("a connection");
    unread.client.write_all(b"more").expect("write");
    thread::sleep(Duration::from_millis(50));
    drop(unread.server);
    let lingering = served.next().expect("a connection");
    socket::linger_zero(&lingering.server);
    drop(lingering.server);
    // None of these is progress.
    drop(on_another_port.server);
    served_before.into_iter().for_each(|pair| drop(pair.server));
    unused.into_iter().for_each(|pair| drop(pair.server));
    for pair in of_peers {
        socket::linger_zero(&pair.client);
        drop(pair.client);
        socket::wait_for_end(&pair.server);
    }
    // An inspection reads the count; stuck sockets are refreshed every five seconds.
    agent.watch(Duration::from_secs(8));
    agent.stop();
    let facts = recording.facts();
    let counted = closes(&facts, &ns, address.port()).expect("a count of the watched port");
    let onset = counted.port.since.0 as f64 / 1e9;
    assert!(onset >= fin.from - 0.001 && onset <= fin.to, "{counted:?} {fin:?}");
    assert_eq!(counted.count, 5, "{counted:?}");
    assert!(counted.last.is_some_and(|last| last >= before && last <= clock::now()), "{counted:?}");
    assert_eq!(closes(&facts, &ns, elsewhere.port()), None, "no socket of this port is in CLOSE_WAIT");
    drop(stuck);
}

/// Returns the last finding about the peer end of the socket of `server` in CLOSE_WAIT.
fn other_end(facts: &[Observation], server: &Id) -> Option<PeerEnd> {
    let is_own = |socket: &Socket| {
        let port = |address: SocketAddr| address.port();
        (socket.local.port, socket.remote.port) == (port(server.local), port(server.remote))
    };
    let entered = |fact: &Observation| {
        let Observation::Socket(SocketEvent::Enter { key, socket, .. }) = fact else { return None };
        is_own(socket).then_some(*key)
    };
    let own = facts.iter().find_map(entered)?;
    let end = |fact: &Observation| {
        let Observation::Inspection(InspectionFact::PeerEnd { key, end, .. }) = fact else { return None };
        (*key == own).then_some(*end)
    };
    facts.iter().filter_map(end).next_back()
}

#[test]
fn the_peer_end_is_found_in_each_namespace_with_its_state() {
    let (recording, ns) = (Recording::new("peers"), Namespace::inhabited());
    let mut agent = Agent::start(&["--stuck-after", "1s", "--record", recording.path()]);
    let elsewhere = [ns.waiting(V4).0, ns.waiting(V6).0];
    let own = own_pair();
    own.fin();
    let closed = [ns.waiting(V4).0, own_pair()].map(|pair| {
        drop(pair.client);
        socket::wait_for_fin(&pair.server);
        (pair.server, pair.id)
    });
    agent.wait_for_socket("stuck", &elsewhere[0].id);
    agent.watch(Duration::from_secs(8));
    agent.stop();
    let facts = recorded(recording.path());
    let what = |id: &Id| other_end(&facts, id);
    assert_eq!(elsewhere.each_ref().map(|pair| what(&pair.id)), [Some(PeerEnd::HalfClosed); 2]);
    assert_eq!(what(&own.id), Some(PeerEnd::HalfClosed), "in the namespace of the agent");
    assert_eq!(closed.each_ref().map(|(_server, id)| what(id)), [Some(PeerEnd::Closed); 2]);
}

/// Returns a connection in the namespace of this process and of the agent.
fn own_pair() -> Pair {
    let listener = TcpListener::bind(V4).expect("a listener");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (server, _address) = listener.accept().expect("accept");
    let id = Id {
        netns: None,
        local: server.local_addr().expect("an address"),
        remote: server.peer_addr().expect("an address"),
    };
    Pair { client, server, id }
}
