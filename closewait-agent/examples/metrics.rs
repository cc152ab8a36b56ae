//! Benchmark of the numbers for metrics: `metrics SOCKETS GROUPS` plays SOCKETS stuck sockets in GROUPS groups, each of which
//! grows, and prints the time of one snapshot for metrics, and of a whole report for comparison, as one line of JSON.
//!
//! `cargo run --release -p closewait-agent --example metrics -- 100000 4000`

use std::{env, io, time::Duration};

use anyhow::Context as _;
use closewait::clock;
use closewait_engine::{
    Config, Engine,
    model::{Endpoint, InspectionEnd, Output, RefreshEnd, Role, ScanEnd, ScanFact, Socket, SocketEvent, SocketKey},
    testing,
    time::BootTime,
};

/// Number of measurements; the longest counts.
const ROUNDS: u32 = 20;
/// Time between two entries of one group, seconds.
const EVERY: u64 = 1;

fn main() -> anyhow::Result<()> {
    let numbers: Vec<u32> = env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    let [sockets, groups] = numbers[..] else { anyhow::bail!("usage: metrics SOCKETS GROUPS") };
    let config = Config { stuck_after: Duration::from_secs(10), max_tracked: usize::MAX, ..Config::default() };
    let mut engine = Engine::new(config, at(0));
    let mut there = Vec::new();
    let last = u64::from(sockets / groups.max(1)) * EVERY;
    for second in 1..last + 120 {
        let entering = if second <= last { groups } else { 0 };
        for group in 0..entering {
            let number = there.len() as u64;
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + group).into();
            let remote = Endpoint { address, port: 443 };
            let base = testing::socket();
            let local = Endpoint { port: 40_000 + (number % 10_000) as u16, ..base.local };
            let (role, cookie, inode) = (Some(Role::Client), Some(number), Some(number + 1));
            let socket = Socket { remote, local, role, cookie, inode, ..base };
            let key = SocketKey((1 << 63) + number);
            there.push((key, number + 1, group));
            engine.handle(SocketEvent::Enter { key, at: at(second), socket });
        }
        tick(&mut engine, &there, at(second));
    }
    let now = at(last + 120);
    let metrics = longest(|| drop(engine.metrics(now)));
    let report = longest(|| drop(engine.report(now)));
    let snapshot = engine.metrics(now);
    let line = format!(
        "{{\"sockets\":{},\"series\":{},\"incidents\":{},\"metrics_ms\":{metrics:.2},\"report_ms\":{report:.1}}}",
        snapshot.sockets,
        snapshot.stuck.each.len(),
        snapshot.incidents.each.len(),
    );
    io::Write::write_all(&mut io::stdout(), format!("{line}\n").as_bytes()).context("writing the result failed")
}

fn at(seconds: u64) -> BootTime {
    BootTime(seconds * 1_000_000_000)
}

/// Returns the longest time of a call, milliseconds.
fn longest(call: impl Fn()) -> f64 {
    let times = (0..ROUNDS).map(|_| {
        let began = clock::now();
        call();
        clock::now().since(began).as_secs_f64() * 1000.0
    });
    times.fold(0.0, f64::max)
}

/// Executes the engine's work at one time, as an agent does.
fn tick(engine: &mut Engine, there: &[(SocketKey, u64, u32)], at: BootTime) {
    engine.handle_timeout(at);
    while let Some(output) = engine.poll_output() {
        match output {
            Output::Refresh(_) => engine.handle(RefreshEnd::Inspection { at, lingering: true }),
            Output::RefreshSuspects(_) => engine.handle(RefreshEnd::Suspects { at, complete: false }),
            Output::Audit { .. } => engine.handle(ScanEnd::Audit { began: at, at, complete: false, cost: None }),
            Output::ScanOwners { .. } => {
                for (key, inode, group) in there {
                    let owner = testing::owner("server", 100 + group, 9);
                    engine.handle(ScanFact::Descriptor { key: *key, at: None, inode: *inode, owner });
                }
                engine.handle(ScanEnd::Descriptors { began: at, blind: None, saw_listeners: true });
            }
            Output::InspectOwners(_) => engine.handle(InspectionEnd::Owners { at, worked: Duration::from_millis(1) }),
            Output::Finding(_)
            | Output::StillStuck { .. }
            | Output::ReadCounters
            | Output::RefreshLingering(_)
            | Output::Query(_)
            | Output::Forget(_)
            | Output::WatchPorts(_) => {}
        }
    }
}
