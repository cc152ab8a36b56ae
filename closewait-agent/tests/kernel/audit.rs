//! Causes each kind of loss, and compares the agent's tracked sockets with the kernel's afterwards.

use std::{
    collections::BTreeSet,
    fs,
    net::{TcpListener, TcpStream},
    process,
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    ability::{Ability, can},
    agent::{Agent, Ended},
    clock::{Window, patience, poll_until, slowness},
    leaving::check_dwell,
    listing::{list_at, of_namespace},
    many::{One, flood},
    net::{Id, Namespace},
};

/// Number of sockets of each family.
const HALF: usize = 300;
/// Minimum size of a record in the ring buffer, bytes.
const RECORD: u64 = 128;
/// Time without a reader of the ring buffer.
const SILENCE: Duration = Duration::from_secs(10);
/// Maximum number of rounds of short connections to the same listeners.
const ROUNDS: usize = 10;
/// Maximum number of such listeners.
const LISTENERS: u8 = 4;
/// Number of connections of each thread per round. The ports that they leave in TIME_WAIT suffice for all rounds to a listener.
const EACH: usize = 2_500;
/// Lead of the client, connections: less than a backlog.
const AHEAD: usize = 32;

/// Returns the maximum number of records in a ring buffer of one page, whose size differs between kernels.
fn room() -> u64 {
    rustix::param::page_size() as u64 / RECORD
}

struct Watched {
    agent: Agent,
    socket: String,
    ns: Namespace,
}

impl Watched {
    fn start(test: &str, arguments: &[&str]) -> Self {
        // Where the kernel lists no open files, sockets are found in the namespaces that can be entered.
        let by_namespace = if can(Ability::Files) { &[][..] } else { &["--enter-namespaces"] };
        let socket = std::env::temp_dir().join(format!("closewait-{test}-{}.socket", process::id()));
        let socket = socket.to_str().expect("a path in UTF-8").to_owned();
        let agent = Agent::start(&[&["--events", "all", "--socket", &socket], by_namespace, arguments].concat());
        let ns = Namespace::new();
        // The kernel of a client may reset a connection after this time in FIN_WAIT2 (60 s): if the acknowledgment of the FIN arrived while
        // the client was closing (`tcp_rcv_state_process`, net/ipv4/tcp_input.c, and `tcp_keepalive_timer`, net/ipv4/tcp_timer.c at v6.1).
        // In a slow guest, sockets live longer here.
        ns.run(|| fs::write("/proc/sys/net/ipv4/tcp_fin_timeout", "3600").expect("tcp_fin_timeout"));
        Self { agent, socket, ns }
    }

    /// Stops the agent during `work`, as a debugger does.
    fn stopped<T>(&self, work: impl FnOnce() -> T) -> T {
        self.agent.signal(libc::SIGSTOP);
        let done = work();
        self.agent.signal(libc::SIGCONT);
        done
    }

    /// Waits for an audit with at least these numbers of missed sockets and phantoms.
    fn wait_for_audit(&mut self, repaired: u64, phantom: u64) -> Value {
        self.agent.wait_for(&format!("{repaired} repaired, {phantom} phantoms"), |event| {
            let count = |name: &str| event[name].as_u64();
            event["event"] == "health" && count("repaired") >= Some(repaired) && count("phantom") >= Some(phantom)
        })
    }

    /// Returns the agent's tracked sockets of the namespace.
    fn tracked(&self) -> BTreeSet<Id> {
        of_namespace(&list_at(&self.socket), &self.ns).into_keys().collect()
    }

    fn check_tracked(&self, sockets: &[One]) {
        let there: BTreeSet<Id> = sockets.iter().map(|one| one.id.clone()).collect();
        let tracked = self.tracked();
        let missed: Vec<_> = there.difference(&tracked).collect();
        let phantoms: Vec<_> = tracked.difference(&there).collect();
        assert!(missed.is_empty() && phantoms.is_empty(), "not tracked: {missed:?}; not there: {phantoms:?}");
    }

    fn close_all(mut self, sockets: Vec<One>) -> (Ended, Vec<(Id, Window, Window)>) {
        let closed: Vec<_> =
            sockets.into_iter().map(|one| (one.id, one.fin, Window::around(|| drop(one.server)).0)).collect();
        poll_until(patience(), || self.tracked().is_empty());
        self.agent.watch(Duration::from_millis(200));
        (self.agent.stop(), closed)
    }
}

#[test]
fn entries_that_found_no_room_in_the_ring_are_found_with_their_exact_age() {
    let mut watched = Watched::start("entries", &["--ring-buffer", "4096"]);
    let sockets = watched.stopped(|| {
        let sockets = flood(&watched.ns, HALF);
        thread::sleep(SILENCE);
        sockets
    });
    let missed = 2 * HALF as u64 - room();
    let health = watched.wait_for_audit(missed, 0);
    assert!(health["lost_ring_full"].as_u64() >= Some(missed), "{health}");
    watched.check_tracked(&sockets);
    let listed = list_at(&watched.socket);
    for (id, object) in of_namespace(&listed, &watched.ns) {
        assert_eq!(object["exact"], true, "{id}: {object}");
    }
    // One after the other, so that the agent observes each exit.
    let (ended, closed) = {
        let slowly = sockets.into_iter().inspect(|_| thread::sleep(Duration::from_millis(2))).collect();
        watched.close_all(slowly)
    };
    assert_eq!(ended.totals()["phantom"].as_u64().map(|phantom| phantom > 2 * HALF as u64), Some(false));
    for (id, fin, closing) in closed {
        for leave in ended.of_socket("leave", &id).into_iter().filter(|leave| !leave["dwell_seconds"].is_null()) {
            check_dwell(leave, fin.until(closing));
        }
    }
}

#[test]
fn leavings_that_found_no_room_in_the_ring_leave_no_phantoms() {
    let mut watched = Watched::start("leavings", &["--ring-buffer", "4096", "--stuck-after", "200ms"]);
    let sockets: Vec<One> = (0..10)
        .flat_map(|_| flood(&watched.ns, HALF / 10).into_iter().inspect(|_| thread::sleep(Duration::from_millis(1))))
        .collect();
    let count = sockets.len() as u64;
    poll_until(patience(), || watched.tracked().len() as u64 == count);
    let kept = flood(&watched.ns, 5);
    watched.stopped(|| {
        drop(sockets);
        thread::sleep(SILENCE);
    });
    let health = watched.wait_for_audit(0, count - room() - 1);
    assert!(health["lost_ring_full"].as_u64() >= Some(count - room()), "{health}");
    watched.check_tracked(&kept);
    let netns = watched.ns.inode;
    let (ended, _closed) = watched.close_all(kept);
    let totals = ended.totals();
    assert_eq!(totals["tracked"].as_u64().map(|tracked| tracked < 10), Some(true), "{totals}");
    // Each exit is reported once, by its record or by the audit.
    let mut told = BTreeSet::new();
    for event in ended.events.iter().filter(|event| event["event"] == "leave") {
        let Some(id) = Id::of_event(event).filter(|id| id.netns == Some(netns)) else { continue };
        assert!(told.insert(id), "a second time: {event}");
    }
    assert_eq!(told.len() as u64, count + 10);
}

#[test]
fn a_map_of_64_entries_loses_none_of_1000_sockets() {
    let mut watched = Watched::start("map", &["--max-sockets", "64"]);
    let sockets = flood(&watched.ns, 500);
    let health = watched
        .agent
        .wait_for("a full map", |event| event["event"] == "health" && event["lost_map_full"].as_u64() >= Some(900));
    assert_eq!(health["lost_ring_full"], 0, "{health}");
    watched.check_tracked(&sockets);
    let (ended, closed) = watched.close_all(sockets);
    assert_eq!(ended.totals()["phantom"], 0, "{}", ended.totals());
    for (id, fin, closing) in closed {
        let leaves = ended.of_socket("leave", &id);
        assert_eq!(leaves.len(), 1, "{id}");
        let (shortest, longest) = fin.until(closing);
        // A scan of open files that visits the file delays the exit until it goes on (docs/kernel-safety.md).
        let is_of_scan = leaves[0]["closer"].is_null();
        check_dwell(leaves[0], (shortest, if is_of_scan { f64::INFINITY } else { longest }));
    }
}

#[test]
fn sockets_whose_slot_is_taken_keep_their_exact_times() {
    // 128 slots, and the hash map for the others.
    let watched = Watched::start("slots", &["--max-sockets", "2000"]);
    let sockets = flood(&watched.ns, HALF.min(500));
    watched.check_tracked(&sockets);
    let (ended, closed) = watched.close_all(sockets);
    let totals = ended.totals();
    let lost = ["lost_map_full", "lost_ring_full", "phantom", "replaced"].map(|name| totals[name].as_u64());
    assert_eq!(lost, [Some(0); 4], "{totals}");
    for (id, fin, closing) in closed {
        let leaves = ended.of_socket("leave", &id);
        assert_eq!(leaves.len(), 1, "{id}");
        assert_eq!(leaves[0]["exact"], true, "{id}: {}", leaves[0]);
        check_dwell(leaves[0], fin.until(closing));
    }
}

#[test]
fn runs_that_the_kernel_skipped_are_counted_and_looked_into() {
    let mut watched = Watched::start("skipped", &[]);
    let sockets = flood(&watched.ns, HALF);
    let listen = |group| (1..=4).map(|last| watched.ns.listen(([127, 0, group, last], 0).into())).collect();
    // The kernel counts them since 5.12. An emulated CPU takes few interrupts.
    let must_skip = can(Ability::Cookie) && slowness() == 1;
    let listeners: Vec<Vec<TcpListener>> = (1..=if must_skip { LISTENERS } else { 1 }).map(listen).collect();
    let mut skipped = Value::Null;
    // The kernel skips a run if a packet interrupts another run on the same CPU, which is rarer on a machine with more load.
    for listeners in listeners.iter().flat_map(|listeners| [listeners; ROUNDS]) {
        watched.ns.run(|| come_and_go(listeners));
        watched.agent.watch(Duration::from_millis(1500));
        let mut healths = watched.agent.events.iter().filter(|event| event["event"] == "health");
        skipped = healths.next_back().map_or(Value::Null, |health| health["skipped_by_kernel"].clone());
        if skipped.as_u64() > Some(0) {
            break;
        }
    }
    if must_skip {
        assert!(skipped.as_u64() > Some(0), "{skipped}");
    }
    // An audit begins at least ten seconds after the one before, and later if that took long.
    poll_until(patience(), || watched.tracked().len() == sockets.len());
    watched.check_tracked(&sockets);
    let (ended, _closed) = watched.close_all(sockets);
    let totals = ended.totals();
    assert!(totals["entered"].as_u64() >= Some(2 * HALF as u64), "{totals}");
    assert_eq!(totals["skipped_by_kernel"].is_null(), !can(Ability::Cookie), "{totals}");
}

/// Makes short connections between a client and a server for each listener, each of which passes through CLOSE_WAIT.
/// The client is a little ahead, so that its packets interrupt the server at work.
fn come_and_go(listeners: &[TcpListener]) {
    thread::scope(|scope| {
        for listener in listeners {
            let address = listener.local_addr().expect("the listener's address");
            let (sender, connected) = mpsc::sync_channel(AHEAD);
            scope.spawn(move || {
                for _ in 0..EACH {
                    drop(TcpStream::connect(address).expect("a connection"));
                    sender.send(()).expect("the server goes on to the end");
                }
            });
            scope.spawn(move || connected.iter().for_each(|()| drop(listener.accept().expect("accept"))));
        }
    });
}
