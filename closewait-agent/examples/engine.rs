//! Benchmark of the engine's rate on one core: records per second that are decoded, tracked, counted by group, and
//! checked for incidents. `engine SOCKETS GROUPS EVENTS` keeps SOCKETS sockets on GROUPS local ports in CLOSE_WAIT,
//! while the oldest exits and another enters at its address. Prints one line of JSON. `cargo xtask bench engine` runs
//! it.

use std::{env, io, time::Duration};

use anyhow::Context as _;
use closewait::clock;
use closewait_common::{
    histogram::BUCKETS,
    record::{FORMAT, Record, SIZE, flag, kind},
    tcp::state,
};
use closewait_engine::{
    Config, Engine,
    decode::Decoder,
    model::{Counters, Observation, Output},
    time::BootTime,
};
use serde_json::json;

/// Interval between two records.
const EVERY: Duration = Duration::from_nanos(200);
/// Number of records that the agent hands in between two executions of due work.
const BATCH: usize = 16_384;
/// First socket address. The kernel's are some 2 KiB apart.
const FIRST_KEY: u64 = 0xffff_8880_0000_0000;
const FIRST_PORT: u32 = 1000;

fn main() -> anyhow::Result<()> {
    let numbers: Vec<u32> = env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    let [sockets, groups, events] = numbers[..] else { anyhow::bail!("usage: engine SOCKETS GROUPS EVENTS") };
    anyhow::ensure!(sockets > 0 && (1..=4000).contains(&groups), "some sockets, and from 1 to 4000 groups");
    let config = Config { max_tracked: usize::MAX, histogram_every: Duration::from_secs(3600), ..Config::default() };
    let mut now = BootTime(1_000_000_000);
    let mut engine = Engine::new(config, now);
    let decoder = Decoder { tick: Duration::from_millis(4), suspended: Duration::ZERO };
    // Last time of entry of each socket. The records are made one by one: the agent's come out of a small and warm
    // ring buffer, and a large array of them would occupy the cache during the measurement.
    let mut entered = vec![0; sockets as usize];
    let feed = |engine: &mut Engine, record: &Record| -> anyhow::Result<()> {
        engine.handle(decoder.decode(bytes(record)).context("a record of this program was not understood")?);
        Ok(())
    };
    for (number, entered) in (0..).zip(&mut entered) {
        now = now + EVERY;
        *entered = now.0;
        feed(&mut engine, &enter(number, groups, 0, now))?;
    }
    let began = clock::now();
    let (mut played, mut findings) = (0_u32, 0_u32);
    'all: for round in 0.. {
        for (number, entered) in (0..).zip(&mut entered) {
            now = now + EVERY;
            feed(&mut engine, &leave(enter(number, groups, round, now), *entered))?;
            now = now + EVERY;
            *entered = now.0;
            feed(&mut engine, &enter(number, groups, round + 1, now))?;
            played += 2;
            if (played as usize).is_multiple_of(BATCH) {
                findings += due(&mut engine, now);
            }
            if played >= events {
                break 'all;
            }
        }
    }
    let seconds = clock::now().since(began).as_secs_f64();
    let result = json!({
        "sockets": sockets, "groups": groups, "events": played, "seconds": seconds,
        "events_per_second": f64::from(played) / seconds,
        "tracked_at_the_end": engine.totals().tracked, "findings": findings,
    });
    io::Write::write_all(&mut io::stdout(), format!("{result}\n").as_bytes()).context("writing the result failed")
}

/// Executes due work, as the agent's loop does. Returns the number of findings.
fn due(engine: &mut Engine, now: BootTime) -> u32 {
    let mut findings = 0;
    engine.handle_timeout(now);
    while let Some(output) = engine.poll_output() {
        match output {
            Output::Finding(_) => findings += 1,
            Output::ReadCounters => {
                let counters = Box::new(Counters { dwell: vec![0; BUCKETS], ..Counters::default() });
                engine.handle(Observation::Counters { at: now, counters });
            }
            Output::StillStuck { .. }
            | Output::RefreshLingering(_)
            | Output::Refresh(_)
            | Output::ScanOwners { .. }
            | Output::Query(_)
            | Output::InspectOwners(_)
            | Output::Audit { .. }
            | Output::RefreshSuspects(_)
            | Output::Forget(_)
            | Output::WatchPorts(_) => {}
        }
    }
    findings
}

/// Returns the record of the entry of a healthy socket: the one at this address that follows `before` others.
fn enter(number: u32, groups: u32, before: u64, at: BootTime) -> Record {
    let v4 = |last: u32| {
        let [_, second, third, fourth] = last.to_be_bytes();
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, second, third, fourth]
    };
    Record {
        format: FORMAT,
        kind: kind::ENTER,
        old_state: state::ESTABLISHED,
        new_state: state::CLOSE_WAIT,
        shutdown: 1,
        family: 2,
        protocol: 6,
        local_port: u16::try_from(FIRST_PORT + number % groups).unwrap_or(u16::MAX),
        remote_port: 40_000,
        _pad: 0,
        flags: flag::BACKLOG | flag::CGROUP,
        sk_err: 0,
        time_ns: at.0,
        entered_ns: 0,
        sk: FIRST_KEY + u64::from(number) * 2432,
        cookie: (before << 32) + u64::from(number) + 1,
        inode: 0,
        cgroup: 4321,
        received_bytes: 0,
        sent_bytes: 0,
        netns: 4_026_531_840,
        unread_bytes: 0,
        opened_ns: 0,
        pid: 0,
        fd: -1,
        local_address: v4(5),
        remote_address: v4(number),
        comm: [0; 16],
    }
}

/// Returns the record of the close of a socket by its program.
fn leave(record: Record, entered_ns: u64) -> Record {
    Record { kind: kind::LEAVE, old_state: state::CLOSE_WAIT, new_state: state::LAST_ACK, entered_ns, ..record }
}

fn bytes(record: &Record) -> &[u8] {
    // SAFETY: a `repr(C)` struct of integers and byte arrays without unnamed padding: every byte is set, and the slice lives no
    // longer than it.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast::<u8>(), SIZE) }
}
