//! Builder of cases for tests.

use std::time::Duration;

use super::{Case, Flow, Group, ProxyPeers, Rule, Seen, verdict};
use crate::{
    model::{
        Connection, Dwell, Endpoint, Exit, Listener, Owner, ProxyPeer, ReadState, Role, Socket, SocketLocation, Task,
        UnixBackend, Verdict,
    },
    process::{Process, Thread, ThreadState},
    testing::{self, socket},
    text::Comm,
    time::BootTime,
};

/// Owned version of a [`Case`].
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) now: BootTime,
    pub(super) socket: Socket,
    pub(super) dwell: Dwell,
    pub(super) entered: BootTime,
    pub(super) gone: Option<Exit>,
    pub(super) owners: Option<Vec<Owner>>,
    pub(super) blind: bool,
    pub(super) place: Option<SocketLocation>,
    pub(super) untouched: Duration,
    pub(super) group: Group,
    pub(super) listener: Option<Seen<Listener>>,
    pub(super) proxy_peers: ProxyPeers,
    pub(super) processes: Vec<Process>,
}

/// Age at which a socket counts as stuck.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(60);

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn comm(name: &str) -> Comm {
    Comm::from_name(name.as_bytes())
}

pub(super) fn task(pid: u32, name: &str) -> Task {
    Task { pid, comm: comm(name) }
}

pub(super) fn owned_by(pid: u32, name: &str, fd: u32) -> Owner {
    Owner { task: task(pid, name), fd }
}

pub(super) fn process(pid: u32, name: &str, exe: &str) -> Process {
    Process { exe: Some(exe.to_owned()), ..testing::process(name, pid, None) }
}

/// Returns the program `php-fpm[7]` behind `/run/php.sock`, with this number of connections, of which `waiting` wait for an answer.
pub(super) fn unix_backend(connections: u32, waiting: u32) -> UnixBackend {
    UnixBackend {
        path: "/run/php.sock".to_owned(),
        connections,
        queued: waiting.saturating_sub(5),
        waiting,
        program: Some(task(7, "php-fpm")),
        processes: 6,
        activity: Some("its only thread waits in flock".to_owned()),
    }
}

/// Returns the first thread of a process, which runs and uses this number of thousandths of a CPU.
pub(super) fn running(cpu_permille: u32) -> Thread {
    Thread {
        comm: comm("main"),
        state: ThreadState::Running,
        syscall: None,
        arg: None,
        limit: None,
        wchan: None,
        cpu_permille: Some(cpu_permille),
        wanted_permille: Some(cpu_permille),
        main: true,
    }
}

impl Scene {
    /// Returns an accepted socket, the only one of its group, owned by `app[42]`, in CLOSE_WAIT for 90 s.
    pub(super) fn server() -> Self {
        let scene = Self {
            now: BootTime(1_000_000_000_000_000),
            socket: socket(),
            dwell: Dwell::Exact(Duration::ZERO),
            entered: BootTime(0),
            gone: None,
            owners: Some(vec![owned_by(42, "app", 9)]),
            blind: false,
            place: None,
            untouched: Duration::ZERO,
            group: Group { count: 1, stuck: 1, remotes: 1, ..Group::default() },
            listener: None,
            proxy_peers: ProxyPeers::default(),
            processes: Vec::new(),
        };
        scene.aged(90)
    }

    /// Returns the socket of [`Self::server`] as one that its program connected.
    pub(super) fn client() -> Self {
        let mut scene = Self::server();
        scene.socket.role = Some(Role::Client);
        scene.socket.sent_bytes = Some(200);
        scene
    }

    /// Sets the age of all sockets of the group.
    pub(super) fn aged(mut self, seconds: u64) -> Self {
        let age = secs(seconds);
        self.dwell = Dwell::Exact(age);
        self.entered = self.now - age;
        (self.group.oldest, self.group.median, self.group.youngest) = (age, age, age);
        self.group.stuck = if age < STUCK_AFTER { 0 } else { self.group.count };
        self
    }

    /// Removes the upper bound of the age, as of a socket that is older than the agent.
    pub(super) fn bounded(mut self) -> Self {
        self.dwell = Dwell::Between { at_least: self.dwell.at_least(), at_most: None };
        self
    }

    /// Sets the number of sockets of the group, all of the same age.
    pub(super) fn of(mut self, count: u32) -> Self {
        self.group.count = count;
        let age = self.dwell.at_least().as_secs();
        self.aged(age)
    }

    /// Sets the byte counts of a read state.
    pub(super) fn reading(mut self, state: ReadState) -> Self {
        let (unread, received) = match state {
            ReadState::NeverRead => (301, 301),
            ReadState::Probe => (1, 1),
            ReadState::IdleFin => (1, 301),
            ReadState::Goodbye => (32, 301),
            ReadState::Partial => (5000, 90_000),
            ReadState::FinConsumed => (0, 301),
        };
        (self.socket.unread_bytes, self.socket.received_bytes) = (Some(unread), Some(received));
        self.group.reads = vec![(state, self.group.count)];
        self
    }

    /// Sets whether the program has answered the last data; otherwise it has sent nothing.
    pub(super) fn replied(mut self, replied: bool) -> Self {
        let received = self.entered - secs(10);
        self.socket.sent_bytes = Some(if replied { 700 } else { 0 });
        self.socket.last_received = Some(received);
        self.socket.last_sent = Some(if replied { received + secs(1) } else { received });
        self.socket.send_queue_bytes = Some(0);
        let count = self.group.count;
        (self.group.unanswered, self.group.answered) = if replied { (0, count) } else { (count, 0) };
        self.group.awaiting = self.group.unanswered;
        self
    }

    pub(super) fn unaccepted(mut self) -> Self {
        (self.socket.accepted, self.socket.inode, self.owners) = (Some(false), None, None);
        self
    }

    pub(super) fn listened_by(mut self, owners: &[Owner]) -> Self {
        let local = self.socket.local;
        let what = Listener { netns: self.socket.netns, local, backlog: 5, backlog_max: 128, inode: Some(5) };
        self.listener = Some(Seen { what, at: self.now, owners: owners.to_vec() });
        self
    }

    /// Changes the flow of the group, by default one hour without entries and exits.
    pub(super) fn flowing(mut self, change: impl FnOnce(&mut Flow)) -> Self {
        let flow = self.group.flow.get_or_insert_with(|| Flow { watched: secs(3600), ..Flow::default() });
        change(flow);
        self
    }

    /// Adds sockets that the program has closed, the last one this number of seconds ago, each after at most `longest`.
    pub(super) fn closed_before(self, seconds: u64, longest: Duration) -> Self {
        let at = self.now - secs(seconds);
        self.flowing(|flow| {
            (flow.closed, flow.entered) = (340, 400);
            (flow.last_closed, flow.longest_closed) = (Some(at), Some(longest));
        })
    }

    /// Adds sockets that entered after this one, all of which are still in CLOSE_WAIT.
    pub(super) fn all_stuck(self, entered: u64) -> Self {
        let onset = self.entered;
        self.flowing(|flow| {
            flow.onset = Some(onset);
            (flow.since_onset_entered, flow.since_onset_present) = (entered, entered);
        })
    }

    /// Pairs this socket, and `paired` sockets in all, with another connection of the owner.
    pub(super) fn paired(mut self, paired: u32) -> Self {
        let remote = Endpoint { address: [10, 0, 0, 7].into(), port: 9000 };
        let proxy_peer = ProxyPeer { state: Connection::FinWait2, socket: Socket { remote, ..socket() } };
        self.proxy_peers = ProxyPeers { paired, own: Some(proxy_peer), towards: Some((remote, paired)) };
        self
    }

    pub(super) fn case<T>(&self, work: impl FnOnce(&Case<'_>) -> T) -> T {
        let processes: Vec<_> = self.processes.iter().collect();
        work(&Case {
            now: self.now,
            stuck_after: STUCK_AFTER,
            socket: &self.socket,
            dwell: self.dwell,
            entered: self.entered,
            gone: self.gone.as_ref(),
            owners: self.owners.as_deref(),
            blind: self.blind,
            place: self.place.as_ref(),
            untouched: self.untouched,
            group: &self.group,
            listener: self.listener.as_ref(),
            listeners: usize::from(self.listener.is_some()),
            proxy_peers: &self.proxy_peers,
            processes: &processes,
            conntrack: None,
        })
    }

    /// Returns the verdict by one rule.
    pub(super) fn check(&self, rule: &dyn Rule) -> Option<Verdict> {
        self.case(|case| Some(rule.check(case)?.verdict(rule.about().name, |_, _| true)))
    }

    /// Returns the verdict of all rules.
    pub(super) fn verdict(&self) -> Verdict {
        self.case(|case| verdict(case, |_, _| true))
    }
}
