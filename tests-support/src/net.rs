//! Network namespaces, and connections inside them.

use std::{
    fmt,
    fs::File,
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    panic,
    process::Command,
    thread,
};

use serde_json::Value;

use crate::{
    ability::{Ability, can},
    agent::Running,
    clock::Window,
    socket::{self, check},
};

/// Any port of the IPv4 loopback.
pub const V4: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Any port of the IPv6 loopback.
pub const V6: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), 0);

/// Network namespace that contains only an active loopback.
pub struct Namespace {
    handle: File,
    /// Inode as in `/proc/PID/ns/net`.
    pub inode: u64,
    /// Process inside, where namespaces are found only by their processes.
    inhabitant: Option<Running>,
}

impl Namespace {
    /// Creates a namespace whose sockets can be found on any kernel.
    #[expect(clippy::new_without_default, reason = "it makes something in the kernel")]
    pub fn new() -> Self {
        if can(Ability::Files) { Self::deserted() } else { Self::inhabited() }
    }

    /// Creates a namespace that can be found without a socket.
    pub fn inhabited() -> Self {
        let mut ns = Self::deserted();
        ns.inhabitant = Some(ns.inhabit());
        ns
    }

    /// Creates a namespace without a process.
    pub fn deserted() -> Self {
        let made = thread::spawn(|| {
            // SAFETY: takes a number only, and moves no thread but this one.
            let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            check(result, "unshare(CLONE_NEWNET)");
            set_loopback(true);
            File::open("/proc/thread-self/ns/net").expect("the namespace of this thread")
        });
        let handle = made.join().expect("a network namespace");
        let inode = handle.metadata().expect("the inode of the namespace").ino();
        Self { handle, inode, inhabitant: None }
    }

    /// Starts a process inside, as in a container, by which the namespace can be found from outside.
    pub fn inhabit(&self) -> Running {
        self.run(|| Running::spawn(Command::new("sleep").arg("1000")))
    }

    /// Runs `work` inside. Its sockets and processes stay inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            // SAFETY: takes numbers only, and moves no thread but this one.
            let result = unsafe { libc::setns(self.handle.as_raw_fd(), libc::CLONE_NEWNET) };
            check(result, "setns");
            work()
        };
        // On a new thread, because a return to the caller's namespace would take more care.
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|cause| panic::resume_unwind(cause))
    }

    /// Listens inside.
    pub fn listen(&self, address: SocketAddr) -> TcpListener {
        self.run(|| TcpListener::bind(address).expect("a listener"))
    }

    /// Connects inside.
    pub fn connect(&self, address: SocketAddr) -> TcpStream {
        self.run(|| TcpStream::connect(address).expect("a connection"))
    }

    /// Returns an accepted connection.
    pub fn pair(&self, address: SocketAddr) -> Pair {
        let listener = self.listen(address);
        self.pair_at(&listener, listener.local_addr().expect("the listener's address"))
    }

    /// Returns a connection to `address`, accepted from `listener`.
    pub fn pair_at(&self, listener: &TcpListener, address: SocketAddr) -> Pair {
        let client = self.connect(address);
        let (server, _address) = listener.accept().expect("accept");
        Pair { id: self.id(&server), client, server }
    }

    /// Returns a connection between two addresses with their ports, accepted by `far`.
    pub fn pair_between(&self, near: SocketAddr, far: SocketAddr) -> Pair {
        let listener = self.listen(far);
        let client = self.run(|| socket::connect_from(near, far));
        let (server, _address) = listener.accept().expect("accept");
        Pair { id: self.id(&server), client, server }
    }

    /// Returns a connection to `address` whose server entered CLOSE_WAIT within the window.
    pub fn waiting(&self, address: SocketAddr) -> (Pair, Window) {
        let pair = self.pair(address);
        let fin = pair.fin();
        (pair, fin)
    }

    /// Takes the loopback down: all later packets are lost.
    pub fn cut(&self) {
        self.run(|| set_loopback(false));
    }

    /// Takes the loopback up again.
    pub fn mend(&self) {
        self.run(|| set_loopback(true));
    }

    /// Returns the identity of a socket in events.
    pub fn id(&self, stream: &TcpStream) -> Id {
        Id {
            netns: Some(self.inode),
            local: canonical(stream.local_addr().expect("the local address")),
            remote: canonical(stream.peer_addr().expect("the remote address")),
        }
    }

    /// Returns the identity of the other end of `stream`.
    pub fn id_of_peer(&self, stream: &TcpStream) -> Id {
        let near = self.id(stream);
        Id { netns: near.netns, local: near.remote, remote: near.local }
    }
}

/// Both ends of a connection. `id` identifies `server`, which is the accepted one.
pub struct Pair {
    pub client: TcpStream,
    pub server: TcpStream,
    pub id: Id,
}

impl Pair {
    /// Sends the client's FIN: the server enters CLOSE_WAIT within the window.
    pub fn fin(&self) -> Window {
        socket::fin(&self.server, || self.client.shutdown(Shutdown::Write).expect("shutdown"))
    }
}

/// Identity of a socket in events.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// Inode of the namespace; `None` for any namespace.
    pub netns: Option<u64>,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

impl Id {
    /// Returns the same identity for a source without namespaces.
    pub fn in_any_namespace(&self) -> Self {
        Self { netns: None, ..self.clone() }
    }

    /// Returns the socket of an event, or of an object of `list`.
    pub fn of_event(event: &Value) -> Option<Self> {
        let socket = event.get("socket")?;
        let end = |name: &str| {
            let address = socket[name]["address"].as_str()?.parse().ok()?;
            let port = socket[name]["port"].as_u64()?.try_into().ok()?;
            Some(SocketAddr::new(address, port))
        };
        Some(Self { netns: socket["netns"].as_u64(), local: end("local")?, remote: end("remote")? })
    }

    /// Whether the event is about this socket.
    pub fn is_in(&self, event: &Value) -> bool {
        Self::of_event(event).is_some_and(|other| {
            self.local == other.local
                && self.remote == other.remote
                && (self.netns.is_none() || self.netns == other.netns)
        })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} <- {} in namespace {:?}", self.local, self.remote, self.netns)
    }
}

/// Returns an IPv4-mapped IPv6 address as an IPv4 address.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Switches the loopback of the calling thread's namespace.
fn set_loopback(up: bool) {
    let control: OwnedFd = socket::open(libc::AF_INET, 0).expect("a socket to ask through");
    let mut request =
        libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 } };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as libc::c_char;
    }
    if up {
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    }
    // The type differs between C libraries.
    let set_flags = libc::SIOCSIFFLAGS as libc::Ioctl;
    // SAFETY: the request is an ifreq with a name that ends in a zero, as SIOCSIFFLAGS wants it, and outlives the call.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), set_flags, &raw const request) };
    check(result, "ioctl(SIOCSIFFLAGS)");
}
