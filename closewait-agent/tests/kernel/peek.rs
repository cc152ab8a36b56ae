//! `run --peek first-line`: requests that a program has not read, and still can.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::{self, Command},
    thread::{self, JoinHandle},
    time::Duration,
};

use closewait_engine::model::InspectionFact;
use serde_json::{Value, json};

use crate::{
    agent::{Agent, closewait, finish},
    clock::{patience, poll_until},
    confinement::LASTING,
    jvm_helper::{helper_of, status},
    net::{Id, Namespace, V4},
    progress::Recording,
    schema,
    setup::{self, PublicBinary, capability},
};

/// Time between two requests.
const EVERY: Duration = Duration::from_millis(200);
/// Maximum number of requests.
const MAX_REQUESTS: usize = 100;
/// Request with parts that the agent must not show.
const POST: &[u8] = b"POST /orders?hush=1 HTTP/1.1\r\nHost: hush.example\r\nCookie: id=hush\r\n\r\nhush";
/// Request for which the agent has to show a path without its number.
const GET: &[u8] = b"GET /orders/4711081547/items HTTP/1.1\r\nHost: hush.example\r\n\r\n";
/// Words of these requests that the agent must not show.
const HIDDEN: [&str; 2] = ["hush", "4711081547"];

/// Returns a `ClientHello` with a server name (RFC 8446, section 4.1.2).
fn client_hello(name: &str) -> Vec<u8> {
    let prefixed = |bytes: &[u8]| [&u16::try_from(bytes.len()).expect("short").to_be_bytes()[..], bytes].concat();
    let entry = [&[0_u8][..], &prefixed(name.as_bytes())].concat();
    let extensions = [&[0_u8, 43, 0, 3, 2, 3, 4, 0, 0][..], &prefixed(&prefixed(&entry))].concat();
    let ciphers = prefixed(&[0x13, 1]);
    let body = [&[3_u8, 3][..], &[7; 32], &[0], &ciphers, &[1, 0], &prefixed(&extensions)].concat();
    let message = [&[1_u8, 0][..], &prefixed(&body)].concat();
    [&[22_u8, 3, 1][..], &prefixed(&message)].concat()
}

/// Server that accepts and never reads, with what each client has sent.
struct Deaf {
    ns: Namespace,
    address: SocketAddr,
    sockets: Vec<(Id, TcpStream, Vec<u8>)>,
}

impl Deaf {
    /// Accepts requests of clients that go away, until the agent reports an incident.
    fn until_incident(agent: &mut Agent) -> (Self, Value) {
        let ns = Namespace::new();
        let listener = ns.listen(V4);
        let address = listener.local_addr().expect("an address");
        let port = address.port();
        let is_ours = |event: &Value| event["event"] == "pileup" && event["group"]["local_port"] == port;
        let requests = [POST.to_vec(), POST.to_vec(), GET.to_vec(), client_hello("api.example.com"), b"?!".to_vec()];
        let mut deaf = Self { ns, address, sockets: Vec::new() };
        while !agent.events.iter().any(is_ours) {
            assert!(deaf.sockets.len() < MAX_REQUESTS, "no incident after {MAX_REQUESTS} requests");
            let request = requests[deaf.sockets.len() % requests.len()].clone();
            let mut pair = deaf.ns.pair_at(&listener, deaf.address);
            pair.client.write_all(&request).expect("write");
            deaf.sockets.push((pair.id, pair.server, request));
            drop(pair.client);
            agent.watch(EVERY);
        }
        let event = agent.wait_for("the incident", is_ours);
        schema::check_event(&event);
        (deaf, event)
    }

    /// Reads everything that the clients have sent.
    fn read_all(&mut self) {
        for (id, socket, sent) in &mut self.sockets {
            let mut read = Vec::new();
            socket.read_to_end(&mut read).expect("read");
            assert_eq!(&read, sent, "{id}");
        }
    }
}

/// Checks that no text has a part of a request that the agent must not show.
fn assert_nothing_hidden(text: &str) {
    for word in HIDDEN {
        assert!(!text.contains(word), "{word} in {text}");
    }
}

#[test]
fn unread_requests_are_shown_without_their_values_and_can_still_be_read() {
    let recording = Recording::new("peek");
    // The four capabilities of a running agent are enough, for a program of another user.
    let binary = PublicBinary::new();
    let mut command = Command::new(&binary.path);
    command.args(["run", "--output", "json", "--stuck-after", "1s", "--peek", "first-line", "--events", "all"]);
    command.args(["--record", recording.path()]);
    setup::become_nobody(&mut command, &LASTING);
    let mut agent = Agent::spawn(&mut command);
    let (mut deaf, event) = Deaf::until_incident(&mut agent);
    let unread = event["unread_requests"].as_array().expect("requests");
    let names = ["protocol", "method", "path", "server_name"];
    let has = |expected: &Value| unread.iter().any(|one| names.iter().all(|name| one[name] == expected[name]));
    let post = json!({ "protocol": "http", "method": "POST", "path": "/orders", "server_name": null });
    let get = json!({ "protocol": "http", "method": "GET", "path": "/orders/*/items", "server_name": null });
    let tls = json!({ "protocol": "tls", "method": null, "path": null, "server_name": "api.example.com" });
    let other = json!({ "protocol": null, "method": null, "path": null, "server_name": null });
    for expected in [&post, &get, &tls, &other] {
        assert!(has(expected), "{expected} in {event}");
    }
    assert_eq!(unread[0]["path"], "/orders", "the most frequent request comes first: {event}");
    let all: u64 = unread.iter().filter_map(|one| one["count"].as_u64()).sum();
    assert!(all <= event["count"].as_u64().expect("a count"), "{event}");

    // Nothing of the agent is left at the sockets, and no byte is missing.
    let inode = |socket: &TcpStream| fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).expect("a link");
    let ours: Vec<_> = deaf.sockets.iter().map(|(_, socket, _)| inode(socket)).collect();
    let of_agent = fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("its descriptors");
    let of_agent: Vec<_> = of_agent.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect();
    assert!(!of_agent.is_empty() && of_agent.iter().all(|link| !ours.contains(link)), "{of_agent:?}");
    deaf.read_all();
    let (id, socket, _) = deaf.sockets.remove(0);
    drop(socket);
    let left = agent.wait_for_socket("leave", &id);
    assert_eq!((&left["how"], &left["closer"]["pid"]), (&json!("closed"), &json!(process::id())), "{left}");
    drop(deaf);
    let ended = agent.stop();
    ended.totals();
    assert_nothing_hidden(&ended.stdout);
    assert_nothing_hidden(&ended.stderr);

    let is_peek = |fact: &InspectionFact| matches!(fact, InspectionFact::Unread { .. });
    let facts = recording.facts();
    assert!(facts.iter().filter(|fact| is_peek(fact)).count() as u64 >= all);
    assert_nothing_hidden(&format!("{facts:?}"));
    let replay = finish(&mut closewait(&["replay", "--output", "json", recording.path()]));
    assert_eq!(replay.code, Some(0), "{}", replay.stderr);
    let mut replayed = replay.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    assert!(replayed.any(|again| again["unread_requests"] == event["unread_requests"]), "{}", replay.stdout);
}

/// Page of memory that does not arrive until this is dropped, for reads by the kernel (userfaultfd(2)).
struct LatePage {
    /// Its end lets the page arrive.
    _fault: OwnedFd,
    address: usize,
}

impl LatePage {
    const LEN: usize = 1 << 16;

    /// Returns a page; `None` where the kernel has no such memory.
    fn new() -> Option<Self> {
        /// `UFFDIO_API` and `UFFDIO_REGISTER` (include/uapi/linux/userfaultfd.h, v6.18), with the version and the mode for missing pages.
        const API: (u32, [u64; 4]) = (0xc018_aa3f, [0xaa, 0, 0, 0]);
        const REGISTER: (u32, u64) = (0xc020_aa00, 1);
        // SAFETY: takes numbers only.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::c_long::from(libc::O_CLOEXEC)) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the descriptor is new, and nobody else's.
        let fault = unsafe { OwnedFd::from_raw_fd(fd) };
        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: maps new memory.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), Self::LEN, rights, flags, -1, 0) } as usize;
        let range = [address as u64, Self::LEN as u64, REGISTER.1, 0];
        for (name, number, mut argument) in [("UFFDIO_API", API.0, API.1), ("UFFDIO_REGISTER", REGISTER.0, range)] {
            // SAFETY: the kernel reads and writes at most the 32 bytes of the argument, which outlives the call.
            let result = unsafe { libc::ioctl(fd, number as libc::Ioctl, argument.as_mut_ptr()) };
            crate::socket::check(result, name);
        }
        Some(Self { _fault: fault, address })
    }

    /// Sends the page on a socket, whose lock the kernel keeps until the page arrives.
    fn send_on(&self, socket: &TcpStream) -> JoinHandle<isize> {
        let (fd, address) = (socket.as_raw_fd(), self.address);
        // SAFETY: the memory stays mapped, and the kernel only reads it.
        thread::spawn(move || unsafe { libc::send(fd, address as *const libc::c_void, 4096, libc::MSG_NOSIGNAL) })
    }
}

#[test]
fn an_agent_ends_while_a_peek_waits_for_the_lock_of_a_socket() {
    let mut agent = Agent::start(&["--stuck-after", "1s", "--peek", "first-line"]);
    let helper = helper_of(agent.pid(), "closewait-peek");
    let kept = format!("{:016x}", (1_u64 << capability::DAC_READ_SEARCH) | (1 << capability::SYS_PTRACE));
    let is_confined = || {
        let status = status(helper);
        [("CapPrm", kept.as_str()), ("CapBnd", &kept), ("NoNewPrivs", "1"), ("Seccomp", "2")]
            .iter()
            .all(|(name, value)| status.get(*name).is_some_and(|found| found == value))
    };
    assert!(poll_until(patience(), is_confined), "{:?}", status(helper));
    let ns = Namespace::new();
    let mut pair = ns.pair(V4);
    pair.client.write_all(GET).expect("write");
    // Dropped first, also after a failure: until then the close of the socket would wait.
    let Some(late) = LatePage::new() else { return };
    // While the lock is taken, the FIN would only wait, too.
    pair.fin();
    let sending = late.send_on(&pair.server);
    let waits = || {
        let threads = fs::read_dir(format!("/proc/{helper}/task")).into_iter().flatten().flatten();
        let stacks = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stack")).ok());
        stacks.into_iter().any(|stack| stack.contains("lock_sock"))
    };
    let mut passes = 0;
    while !waits() {
        passes += 1;
        assert!(passes < MAX_REQUESTS, "no peek waits");
        agent.watch(EVERY);
    }
    // Other sockets are still reported, without their requests.
    let other = ns.pair(V4);
    other.fin();
    let stuck = agent.wait_for_socket("stuck", &other.id);
    assert_eq!(stuck["owners"][0]["pid"], process::id(), "{stuck}");
    // The helper has a descriptor of the first one all the time, and is no owner.
    let mut reports = 0;
    let again = agent.wait_for("another report of the first socket", |event| {
        reports += u32::from(event["event"] == "stuck" && Id::of_event(event).as_ref() == Some(&pair.id));
        reports == 2
    });
    let owners: Vec<_> = again["owners"].as_array().expect("a list").iter().map(|owner| &owner["pid"]).collect();
    assert_eq!(owners, [&json!(process::id())], "{again}");
    agent.stop().totals();
    assert!(waits(), "the peek has ended before the agent");
    drop(late);
    sending.join().expect("its end");
    let has_ended = || !waits() && status(helper).get("State").is_none_or(|state| state.starts_with(['Z', 'X']));
    assert!(poll_until(patience(), has_ended), "the helper stays");
}

#[test]
fn without_the_option_nothing_is_read_of_a_request() {
    let recording = Recording::new("no-peek");
    let mut agent = Agent::start(&["--stuck-after", "1s", "--record", recording.path()]);
    let (mut deaf, event) = Deaf::until_incident(&mut agent);
    assert_eq!(event.get("unread_requests"), Some(&Value::Null), "{event}");
    deaf.read_all();
    agent.stop().totals();
    assert!(recording.facts().iter().all(|fact| !matches!(fact, InspectionFact::Unread { .. })));
}
