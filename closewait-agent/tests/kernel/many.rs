//! Ten thousand sockets at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use serde_json::Value;

use crate::{
    ability::{Ability, can},
    agent::Agent,
    clock::Window,
    leaving::check_dwell,
    net::{Id, Namespace, V4, V6},
    socket,
};

/// Number of sockets of each family.
const HALF: usize = 5_000;

/// Port of the first client, below those that the kernel assigns.
const FIRST_PORT: u16 = 1024;

/// Life of one socket: its identity, and its cookie where the kernel program can read it.
type Life = (Id, Option<u64>);

/// One of many sockets in CLOSE_WAIT.
pub(crate) struct One {
    pub(crate) id: Id,
    pub(crate) server: TcpStream,
    /// Value of `SO_COOKIE`. The kernel assigns it on the first read; `None` if it was never read.
    pub(crate) cookie: Option<u64>,
    /// Unread bytes; the FIN counts as one.
    pub(crate) unread_bytes: u64,
    pub(crate) fin: Window,
}

#[test]
fn ten_thousand_enter_and_leave_once_each_and_none_is_lost() {
    let mut agent = Agent::start(&["--events", "all"]);
    let ns = Namespace::new();
    let sockets = ten_thousand(&ns);
    wait_for_all(&mut agent, "enter", &ns, 2 * HALF);
    let how: BTreeMap<Id, &str> =
        sockets.iter().map(|one| (one.id.clone(), if one.unread_bytes > 1 { "aborted" } else { "closed" })).collect();
    drop(sockets);
    wait_for_all(&mut agent, "leave", &ns, 2 * HALF);

    let ended = agent.stop();
    for kind in ["enter", "leave"] {
        let mut seen = BTreeSet::new();
        let mut cookies = BTreeSet::new();
        for event in ended.events.iter().filter(|event| event["event"] == kind) {
            let Some(id) = Id::of_event(event).filter(|id| id.netns == Some(ns.inode)) else { continue };
            if kind == "leave" {
                assert_eq!((&event["how"], &event["exact"]), (&how[&id].into(), &true.into()), "{event}");
            }
            assert!(how.contains_key(&id), "not one of ours: {event}");
            assert!(seen.insert(id), "a second time: {event}");
            match event["socket"]["cookie"].as_u64() {
                Some(cookie) => assert!(cookies.insert(cookie), "the cookie of another: {event}"),
                None => assert!(!can(Ability::Cookie), "{event}"),
            }
        }
        assert_eq!(seen.len(), 2 * HALF);
        if can(Ability::Cookie) {
            assert_eq!(cookies.len(), 2 * HALF);
        } else if kind == "enter" {
            assert_eq!(cookies.len(), 0, "nobody had asked for one");
        }
    }
    let totals = ended.totals();
    assert!(totals["entered"].as_u64() >= Some(2 * HALF as u64), "{totals}");
    assert!(totals["left"].as_u64() >= Some(2 * HALF as u64), "{totals}");
    for name in ["lost_ring_full", "lost_map_full", "replaced", "undecodable"] {
        assert_eq!(totals[name], 0, "{totals}");
    }
}

#[test]
fn sockets_that_come_and_go_in_a_hurry_are_reported_once_each_and_in_order() {
    const EACH: usize = 2_000;
    let mut agent = Agent::start(&["--events", "all"]);
    let ns = Namespace::new();
    // Two at a time, and the kernel reuses the memory of a freed one for the next.
    let in_a_hurry = |address| {
        let listener = TcpListener::bind(address).expect("a listener");
        let address = listener.local_addr().expect("the listener's address");
        let live = |_| {
            let one = one(&ns, &listener, address, 0);
            let (closing, ()) = Window::around(|| drop(one.server));
            ((one.id, one.cookie.filter(|_| can(Ability::Cookie))), (one.fin, closing))
        };
        (0..EACH).map(live).collect::<Vec<_>>()
    };
    let lives = thread::scope(|scope| {
        let (ns, work) = (&ns, &in_a_hurry);
        let threads = [V4, V6].map(|address| scope.spawn(move || ns.run(|| work(address))));
        let mut lives: BTreeMap<Life, Vec<(Window, Window)>> = BTreeMap::new();
        for (life, windows) in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
            lives.entry(life).or_default().push(windows);
        }
        lives
    });
    // The kernel may assign a port twice, but no cookie.
    assert!(!can(Ability::Cookie) || lives.len() == 2 * EACH);
    wait_for_all(&mut agent, "leave", &ns, 2 * EACH);

    let ended = agent.stop();
    let mut told: BTreeMap<Life, Vec<&Value>> = BTreeMap::new();
    for event in ended.events.iter().filter(|event| event["socket"]["netns"] == ns.inode) {
        let cookie = event["socket"]["cookie"].as_u64().filter(|_| can(Ability::Cookie));
        told.entry((Id::of_event(event).unwrap(), cookie)).or_default().push(event);
    }
    let skipped = skipped(ended.totals());
    let mut incomplete = 0;
    for (life, windows) in lives {
        let events = told.remove(&life).unwrap_or_default();
        let kinds: Vec<&Value> = events.iter().map(|event| &event["event"]).collect();
        let leaves = || events.iter().filter(|event| event["event"] == "leave");
        if kinds == ["enter", "leave"].repeat(windows.len()) && leaves().all(|leave| leave["exact"] == true) {
            leaves().zip(windows).for_each(|(leave, (fin, closing))| check_dwell(leave, fin.until(closing)));
        } else {
            incomplete += 1;
            assert!(incomplete <= skipped, "{life:?}, and the kernel skipped {skipped}: {events:?}");
        }
    }
    assert!(told.is_empty(), "not ours: {told:?}");
}

/// Returns sockets, half of them IPv4 and half IPv6, with 0 to 4 unread bytes.
pub(crate) fn ten_thousand(ns: &Namespace) -> Vec<One> {
    allow_descriptors();
    flood(ns, HALF)
}

/// Returns `half` sockets of each family.
pub(crate) fn flood(ns: &Namespace, half: usize) -> Vec<One> {
    let of_family = |address| {
        let listener = ns.listen(address);
        let address = listener.local_addr().expect("the listener's address");
        ns.run(|| (FIRST_PORT..).take(half).map(|port| one(ns, &listener, address, port)).collect::<Vec<_>>())
    };
    [V4, V6].into_iter().flat_map(of_family).collect()
}

/// Returns one socket. The client, on this port, is closed at once: two descriptors each would be more than a process may have.
fn one(ns: &Namespace, listener: &TcpListener, address: SocketAddr, port: u16) -> One {
    let mut client = socket::connect_from(SocketAddr::new(address.ip(), port), address);
    let bytes = usize::from(port % 5);
    client.write_all(&[b'x'; 4][..bytes]).expect("write");
    let (server, _address) = listener.accept().expect("accept");
    let id = ns.id(&server);
    let fin = socket::fin(&server, || drop(client));
    let cookie = bytes.is_multiple_of(2).then(|| socket::cookie(&server));
    One { id, server, cookie, unread_bytes: bytes as u64 + 1, fin }
}

/// Waits for this number of events of sockets in the namespace, less those of which the kernel has skipped the program.
pub(crate) fn wait_for_all(agent: &mut Agent, kind: &str, ns: &Namespace, count: usize) {
    let (mut seen, mut not_run) = (0, 0);
    agent.wait_for(&format!("{count} events `{kind}`"), |event| {
        if event["event"] == kind && event["socket"]["netns"] == ns.inode {
            seen += 1;
        } else if event["event"] == "health" {
            not_run = skipped(event);
        }
        seen + not_run >= count
    });
}

/// Returns how often the kernel has skipped the kernel program, from totals: any of these runs may have been an enter or
/// an exit. It skips a run if it interrupts another on the same CPU. Since 7.0 another task can do so, too
/// (`__DECLARE_TRACE` disables preemption until v6.19, include/linux/tracepoint.h), which an emulated CPU makes likely.
pub(crate) fn skipped(totals: &Value) -> usize {
    totals["skipped_by_kernel"].as_u64().map_or(0, |skipped| usize::try_from(skipped).expect("few"))
}

/// Raises the limit of open files as far as possible.
fn allow_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a whole rlimit that this function owns.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    socket::check(result, "getrlimit");
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    socket::check(result, "setrlimit");
    let needed = 2 * HALF as u64 + 100;
    assert!(limit.rlim_cur >= needed, "the limit of open files is {}, this needs {needed}", limit.rlim_cur);
}
