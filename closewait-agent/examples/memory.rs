//! Benchmark of the engine's memory: plays a recording of many sockets, which is generated while it is read, and
//! prints the resident memory of the process at some moments as one line of JSON.
//!
//! `memory SOCKETS PORTS ROUNDS`: SOCKETS sockets on PORTS local ports enter, are reported, and exit. Before that,
//! ROUNDS sockets of each port enter and exit, each before the exit of the previous one. `cargo xtask bench memory`
//! runs it.

use std::{borrow::Cow, env, fs, io, net::Ipv4Addr, time::Duration};

use anyhow::Context as _;
use closewait::{
    memory,
    recording::{Item, Player, Shown},
};
use closewait_engine::{
    Config,
    model::{
        Endpoint, ExitCause, Finding, InspectionEnd, Observation, Owner, Protocol, RefreshEnd, RefreshFact, Role,
        ScanEnd, ScanFact, Socket, SocketEvent, SocketKey, Task,
    },
    text::Comm,
    time::BootTime,
};
use serde_json::json;

/// Dwell time at which a socket is reported.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// Time between two rounds: the interval of the engine's counts.
const ROUND: Duration = Duration::from_secs(30);
/// First key, of the form that the kernel's have.
const FIRST_KEY: u64 = 0xffff_8880_0000_0000;
const FIRST_PORT: u32 = 1000;

/// Number of sockets, ports and rounds to play.
#[derive(Clone, Copy)]
struct TestLoad {
    sockets: u32,
    ports: u32,
    rounds: u32,
}

impl TestLoad {
    fn from_args() -> anyhow::Result<Self> {
        let numbers: Vec<u32> = env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
        let [sockets, ports, rounds] = numbers[..] else { anyhow::bail!("usage: memory SOCKETS PORTS ROUNDS") };
        anyhow::ensure!((1..=60_000).contains(&ports), "from 1 to 60000 ports");
        Ok(Self { sockets, ports, rounds })
    }

    /// Returns the end of the last round.
    fn settled(self) -> BootTime {
        BootTime(1_000_000_000) + ROUND.saturating_mul(self.rounds)
    }

    fn due(self) -> BootTime {
        self.settled() + STUCK_AFTER
    }

    /// Returns the sockets that enter and exit; those of the last round stay.
    fn rounds(self) -> impl Iterator<Item = Item<'static>> {
        (0..self.rounds).flat_map(move |round| {
            let at = self.round(round);
            let one = move |port| {
                let before = round.checked_sub(1).map(|last| self.leave_of_round(last, port, at));
                [Some(fact(enter(self, self.number(round, port), at))), before].into_iter().flatten()
            };
            (0..self.ports).flat_map(one).chain([Item::Time(at + Duration::from_millis(1))])
        })
    }

    /// Returns the exits of the last round.
    fn end_rounds(self) -> impl Iterator<Item = Item<'static>> {
        let last = self.rounds.checked_sub(1);
        let leave = move |last| (0..self.ports).map(move |port| self.leave_of_round(last, port, self.settled()));
        last.into_iter().flat_map(leave)
    }

    fn round(self, round: u32) -> BootTime {
        BootTime(1_000_000_000) + ROUND.saturating_mul(round)
    }

    /// Returns the number of the socket of a port in a round.
    fn number(self, round: u32, port: u32) -> u32 {
        port + self.ports * (round % 2)
    }

    fn leave_of_round(self, round: u32, port: u32, at: BootTime) -> Item<'static> {
        fact(leave(self, self.number(round, port), self.round(round), at))
    }

    fn enter(self) -> impl Iterator<Item = Item<'static>> {
        (0..self.sockets).map(move |number| fact(enter(self, number, self.settled())))
    }

    /// Returns the refreshes and owners of all sockets when all are due, so that all are reported.
    fn report(self) -> impl Iterator<Item = Item<'static>> {
        let at = self.due();
        let refreshed = move |number| {
            fact(RefreshFact::Present { key: key(number), at, since: None, socket: socket(self, number) })
        };
        let holds = move |number| {
            fact(ScanFact::Descriptor { key: key(number), at: None, inode: inode(number), owner: owner(number) })
        };
        let scan_ended = fact(ScanEnd::Descriptors { began: at, blind: None, saw_listeners: true });
        let inspected = fact(InspectionEnd::Owners { at, worked: Duration::ZERO });
        [Item::Time(at)]
            .into_iter()
            .chain((0..self.sockets).map(refreshed))
            .chain([fact(RefreshEnd::Inspection { at, lingering: true })])
            .chain((0..self.sockets).map(holds))
            .chain([scan_ended, inspected])
    }

    fn leave(self) -> impl Iterator<Item = Item<'static>> {
        let at = self.due() + Duration::from_secs(1);
        (0..self.sockets).map(move |number| fact(leave(self, number, self.settled(), at)))
    }
}

fn main() -> anyhow::Result<()> {
    let plan = TestLoad::from_args()?;
    let config = Config {
        stuck_after: STUCK_AFTER,
        max_tracked: usize::MAX,
        histogram_every: Duration::from_secs(3600),
        ..Config::default()
    };
    let began = Item::Began { config: Cow::Owned(config), at: BootTime(0) };
    let items = plan.rounds().chain(plan.end_rounds()).chain(plan.enter()).chain(plan.report()).chain(plan.leave());
    let settled = plan.rounds().count();
    let entered = settled + plan.end_rounds().count() + plan.sockets as usize;
    let reported = entered + 2 * plan.sockets as usize + 4;
    let before = status("VmRSS")?;
    let mut stuck = 0_u64;
    let (mut after_rounds, mut after_enter, mut after_report, mut peak) = (before, before, before, before);
    let mut player = Player::default();
    player.play(began, |_shown, _anchor| Ok(()))?;
    for (played, item) in (1..).zip(items) {
        for item in [item, Item::Drained] {
            player.play(item, |shown, _anchor| {
                stuck += u64::from(matches!(shown, Shown::Finding(Finding::Stuck { .. })));
                Ok(())
            })?;
        }
        if played == settled {
            after_rounds = status("VmRSS")?;
        } else if played == entered {
            after_enter = status("VmRSS")?;
        } else if played == reported {
            memory::release_free_memory();
            after_report = status("VmRSS")?;
            peak = status("VmHWM")?;
        }
    }
    memory::release_free_memory();
    let after_leave = status("VmRSS")?;
    let report = json!({
        "sockets": plan.sockets, "ports": plan.ports, "rounds": plan.rounds, "stuck": stuck,
        "tracked_at_the_end": player.engine().map(|engine| engine.totals().tracked),
        "before_kib": before, "after_rounds_kib": after_rounds, "after_enter_kib": after_enter,
        "after_report_kib": after_report, "peak_kib": peak, "after_leave_kib": after_leave,
    });
    io::Write::write_all(&mut io::stdout(), format!("{report}\n").as_bytes()).context("writing the result failed")
}

fn fact(observation: impl Into<Observation>) -> Item<'static> {
    Item::Fact(Cow::Owned(observation.into()))
}

fn enter(plan: TestLoad, number: u32, at: BootTime) -> SocketEvent {
    SocketEvent::Enter { key: key(number), at, socket: socket(plan, number) }
}

fn leave(plan: TestLoad, number: u32, entered: BootTime, at: BootTime) -> SocketEvent {
    let (entered, socket) = (Some(entered), socket(plan, number));
    SocketEvent::Leave {
        key: key(number),
        at,
        entered,
        socket,
        how: ExitCause::Closed,
        closer: None,
        fd_open: Some(false),
        wrote: Some(false),
        ended: None,
    }
}

fn key(number: u32) -> SocketKey {
    // Sockets lie some 2 KiB apart.
    SocketKey(FIRST_KEY + u64::from(number) * 2432)
}

fn inode(number: u32) -> u64 {
    u64::from(number) + 10_000
}

fn owner(number: u32) -> Owner {
    Owner { task: Task { pid: 4242, comm: Comm::from_name(b"shop-backend") }, fd: number + 3 }
}

/// Returns the kernel's description of a socket on the accepting side.
fn socket(plan: TestLoad, number: u32) -> Socket {
    let port = u16::try_from(FIRST_PORT + number % plan.ports).unwrap_or(u16::MAX);
    let [_, second, third, fourth] = number.to_be_bytes();
    let remote = Endpoint { address: Ipv4Addr::new(10, second, third, fourth).into(), port: 40_000 };
    let seen = plan.settled();
    Socket {
        cookie: Some(u64::from(number) + 1),
        netns: Some(4_026_531_840),
        protocol: Protocol::Tcp,
        local: Endpoint { address: Ipv4Addr::new(10, 0, 0, 5).into(), port },
        remote,
        role: Some(Role::Server),
        inode: Some(inode(number)),
        cgroup: Some(4321),
        accepted: Some(true),
        unread_bytes: Some(1),
        received_bytes: Some(512),
        sent_bytes: Some(1024),
        keepalive: Some(false),
        acked_bytes: Some(1024),
        send_queue_bytes: Some(0),
        last_received: Some(seen),
        last_ack: Some(seen),
        last_sent: Some(seen),
        timer: None,
        opener: None,
    }
}

/// Returns a line of `/proc/self/status`, KiB.
fn status(name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/self/status").context("reading /proc/self/status failed; mount /proc")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.with_context(|| format!("/proc/self/status has no {name}; mount /proc"))
}
