//! Benchmark of an agent's answers: `answers SOCKETS GROUPS` plays SOCKETS stuck sockets of GROUPS servers, a process each, and prints
//! the CPU time of this thread for a copy of the state and for each kind of answer as one line of JSON. `cargo xtask bench answers` runs it.

use std::{env, io, time::Duration};

use anyhow::Context as _;
use closewait::{
    clock::{self, TimeAnchor},
    sink::answer,
};
use closewait_engine::{
    Config, Engine,
    model::{
        Endpoint, InspectionEnd, InspectionFact, Output, RefreshEnd, ScanEnd, ScanFact, Socket, SocketEvent, SocketKey,
    },
    snapshot::query::{Filter, GroupBy, ListContent, Query, ReportContent},
    testing,
    time::BootTime,
};
use serde_json::json;

/// Number of measurements of each answer; the median counts.
const ROUNDS: usize = 9;
const FIRST_PORT: u32 = 1000;
const FIRST_PID: u32 = 100;
/// Time at which all sockets are stuck, seconds.
const STUCK: u64 = 300;

fn main() -> anyhow::Result<()> {
    let numbers: Vec<u32> = env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    let [sockets, groups] = numbers[..] else { anyhow::bail!("usage: answers SOCKETS GROUPS") };
    anyhow::ensure!((1..=4000).contains(&groups), "from 1 to 4000 groups");
    let mut engine = engine(sockets, groups);
    let copy_ms = median(|| {
        drop(engine.snapshot());
        Ok(())
    })?;
    let answer_ms = |query: Query| {
        median(|| Ok(answer::answer(&engine, &query, at(STUCK + 1), TimeAnchor::now(), |_frame| Ok(()))?))
    };
    let list = |filter: Filter, content| Query::List { filter, content };
    let no_port = Filter { ports: vec![u16::MAX], ..Filter::default() };
    let one_port = Filter { ports: vec![u16::try_from(FIRST_PORT)?], ..Filter::default() };
    let all = Filter::default;
    let times = json!({
        "sockets": sockets,
        "groups": groups,
        "copy_ms": copy_ms,
        "list_none_ms": answer_ms(list(no_port.clone(), ListContent::Table))?,
        "list_one_port_ms": answer_ms(list(one_port, ListContent::Table))?,
        "list_ms": answer_ms(list(all(), ListContent::Table))?,
        "list_json_ms": answer_ms(list(all(), ListContent::Sockets))?,
        "list_by_process_ms": answer_ms(list(all(), ListContent::Groups(GroupBy::Process)))?,
        "status_none_ms": answer_ms(Query::Report { filter: no_port, content: ReportContent::Groups })?,
        "status_ms": answer_ms(Query::Report { filter: all(), content: ReportContent::Groups })?,
    });
    io::Write::write_all(&mut io::stdout(), format!("{times}\n").as_bytes()).context("writing the result failed")
}

fn at(seconds: u64) -> BootTime {
    BootTime(seconds * 1_000_000_000)
}

/// Returns the median CPU time of a call, milliseconds.
fn median(mut call: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for _round in 0..ROUNDS {
        let began = clock::thread_cpu();
        call()?;
        times.push(clock::thread_cpu().saturating_sub(began).as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let median = times.get(ROUNDS / 2).copied().context("no rounds; this is a bug")?;
    Ok((median * 1000.0).round() / 1000.0)
}

/// Returns an engine that has reported these sockets as stuck, and knows their owners.
fn engine(sockets: u32, groups: u32) -> Engine {
    let config = Config { max_tracked: usize::MAX, watching: true, reads_progress: true, ..Config::default() };
    let mut engine = Engine::new(config, at(0));
    let key = |number: u32| SocketKey((1 << 63) + u64::from(number) * 2432);
    for number in 0..sockets {
        let base = testing::socket_on_port(u16::try_from(FIRST_PORT + number % groups).unwrap_or(u16::MAX));
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number % 65_536).into();
        let remote = Endpoint { address, port: u16::try_from(number % 60_000).unwrap_or(0) };
        let socket = Socket { remote, cookie: Some(number.into()), inode: Some(u64::from(number) + 1), ..base };
        let entered = at(1) + Duration::from_micros(number.into());
        engine.handle(SocketEvent::Enter { key: key(number), at: entered, socket });
    }
    for second in (1..=STUCK).step_by(5) {
        let now = at(second);
        engine.handle_timeout(now);
        while let Some(output) = engine.poll_output() {
            match output {
                Output::Refresh(_) => engine.handle(RefreshEnd::Inspection { at: now, lingering: true }),
                Output::RefreshSuspects(_) => engine.handle(RefreshEnd::Suspects { at: now, complete: false }),
                Output::Audit { .. } => {
                    engine.handle(ScanEnd::Audit { began: now, at: now, complete: false, cost: None })
                }
                Output::ScanOwners { .. } => {
                    for number in 0..sockets {
                        let owner = testing::owner("server", FIRST_PID + number % groups, number / groups);
                        let inode = u64::from(number) + 1;
                        engine.handle(ScanFact::Descriptor { key: key(number), at: None, inode, owner });
                    }
                    engine.handle(ScanEnd::Descriptors { began: now, blind: None, saw_listeners: true });
                }
                Output::InspectOwners(request) => {
                    for pid in request.processes {
                        let process = testing::process("server", pid, Some((900, 1024)));
                        engine.handle(InspectionFact::Process { at: now, process: Box::new(process) });
                    }
                    engine.handle(InspectionEnd::Owners { at: now, worked: Duration::from_millis(1) });
                }
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
    engine
}
