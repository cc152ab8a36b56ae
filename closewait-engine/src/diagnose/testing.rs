//! Cases for tests, in a few words each.

use std::time::Duration;

use super::{Case, Flow, Group, Judgement, ProxyPeers, Rule, Seen, verdict};
use crate::{
    model::{
        Connection, Dwell, Endpoint, Exit, Listener, Owner, ProxyPeer, ReadState, Role, Socket, SocketLocation, Task,
        Verdict,
    },
    process::{Process, Thread, ThreadState},
    testing::{self, socket},
    text::Comm,
    time::BootTime,
};

/// Everything that a [`Case`] borrows.
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

/// The age at which a socket counts as stuck.
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

/// The first thread of a process, which runs with so many thousandths of a CPU.
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
    /// Accepted, alone, held by `app[42]`, in CLOSE_WAIT for 90 s, seen once.
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

    /// The same, connected by its program.
    pub(super) fn client() -> Self {
        let mut scene = Self::server();
        scene.socket.role = Some(Role::Client);
        scene.socket.sent_bytes = Some(200);
        scene
    }

    /// In CLOSE_WAIT for so many seconds, as the only one or one of many of that age.
    pub(super) fn aged(mut self, seconds: u64) -> Self {
        let age = secs(seconds);
        self.dwell = Dwell::Exact(age);
        self.entered = self.now - age;
        (self.group.oldest, self.group.median, self.group.youngest) = (age, age, age);
        self.group.stuck = if age < STUCK_AFTER { 0 } else { self.group.count };
        self
    }

    /// Older than whoever looks.
    pub(super) fn bounded(mut self) -> Self {
        self.dwell = Dwell::Between { at_least: self.dwell.at_least(), at_most: None };
        self
    }

    /// One of so many, which are all stuck if it is.
    pub(super) fn of(mut self, count: u32) -> Self {
        self.group.count = count;
        let age = self.dwell.at_least().as_secs();
        self.aged(age)
    }

    /// With byte counts of a read state.
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

    /// Its last data came in before the last that was sent, or nothing was ever sent.
    pub(super) fn replied(mut self, replied: bool) -> Self {
        let received = self.entered - secs(10);
        self.socket.sent_bytes = Some(if replied { 700 } else { 0 });
        self.socket.last_received = Some(received);
        self.socket.last_sent = Some(if replied { received + secs(1) } else { received });
        self.socket.send_queue_bytes = Some(0);
        self.group.unanswered = if replied { 0 } else { self.group.count };
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

    /// Watched for an hour, by default without anything that moved.
    pub(super) fn flowing(mut self, change: impl FnOnce(&mut Flow)) -> Self {
        let flow = self.group.flow.get_or_insert_with(|| Flow { watched: secs(3600), ..Flow::default() });
        change(flow);
        self
    }

    /// The program has closed some, the last so many seconds ago, each after no more than `longest`.
    pub(super) fn closed_before(self, seconds: u64, longest: Duration) -> Self {
        let at = self.now - secs(seconds);
        self.flowing(|flow| {
            (flow.closed, flow.entered) = (340, 400);
            (flow.last_closed, flow.longest_closed) = (Some(at), Some(longest));
        })
    }

    /// All that entered since this one did are still there.
    pub(super) fn all_stuck(self, entered: u64) -> Self {
        let onset = self.entered;
        self.flowing(|flow| {
            flow.onset = Some(onset);
            (flow.since_onset_entered, flow.since_onset_present) = (entered, entered);
        })
    }

    /// With another connection of its owner, for it and for `paired` in all.
    pub(super) fn paired(mut self, paired: u32) -> Self {
        let remote = Endpoint { address: [10, 0, 0, 7].into(), port: 9000 };
        let proxy_peer = ProxyPeer { state: Connection::FinWait2, socket: Socket { remote, ..socket() } };
        self.proxy_peers = ProxyPeers { paired, own: Some(proxy_peer), towards: Some((remote, paired)) };
        self
    }

    pub(super) fn case<T>(&self, ask: impl FnOnce(&Case<'_>) -> T) -> T {
        let processes: Vec<_> = self.processes.iter().collect();
        ask(&Case {
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

    /// What one rule says.
    pub(super) fn ask(&self, rule: &dyn Rule) -> Option<Judgement> {
        self.case(|case| rule.check(case))
    }

    /// What all of them say.
    pub(super) fn verdict(&self) -> Verdict {
        self.case(verdict)
    }
}
