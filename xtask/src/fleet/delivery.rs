//! Lines of a made-up fleet, as they come out of whatever carries them: under the names of their host, at its times, twice, late,
//! damaged, or not at all.

use std::{collections::BTreeMap, io::Write as _, time::SystemTime};

use serde_json::json;

use super::{
    population::{Fate, FleetHost},
    recording::{self, Replayed},
};
use crate::prelude::*;

/// Interval at which a running agent writes a histogram.
const HEARTBEAT: Duration = Duration::from_mins(1);
/// Length of the lines that are too long, bytes.
const LONG: usize = 10_000_000;

/// Lines that arrive, in the order in which they do.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// Files with events, to be loaded one after the other.
    pub(super) files: Vec<PathBuf>,
    /// Number of lines that no table may take, by the reason.
    pub(super) rejected: BTreeMap<&'static str, usize>,
    /// Number and bytes of the lines of all hosts, without duplicates.
    pub(super) lines: usize,
    pub(super) bytes: usize,
    /// Number of lines that are delivered, with duplicates.
    pub(super) delivered: usize,
}

/// Line of a host.
struct Line {
    time: SystemTime,
    text: String,
}

/// Returns the events of a host, oldest first, with the numbers that its agent gave them.
pub(super) fn events(host: &FleetHost, replayed: &Replayed, now: SystemTime) -> Result<Vec<Value>> {
    let mut events = Vec::new();
    let is_stop = |event: &Value| event["event"] == "stop";
    let is_one_of = |event: &Value, names: &[&str]| names.iter().any(|name| event["event"] == *name);
    let mut last =
        play(&mut events, host, replayed, host.started, |event| host.fate == Fate::Stopped || !is_stop(event))?;
    let mut seq = events.len();
    let again: &[&str] = if host.fate == Fate::RestartedWithPin {
        &["start", "pileup", "histogram"]
    } else if host.fate == Fate::Restarted {
        &["start", "histogram"]
    } else if matches!(host.fate, Fate::RestartedAfterLoss(_)) {
        &["start", "stuck", "histogram"]
    } else {
        &[]
    };
    if !again.is_empty() {
        last = play(&mut events, host, replayed, last + 2 * HEARTBEAT, |event| is_one_of(event, again))?;
        seq = events.len() - seq;
    }
    if let Fate::Overwhelmed(records) = host.fate {
        let stop = replayed.events.iter().find(|event| is_stop(event)).context("a recording without an end")?;
        let mut health = stop["totals"].clone();
        health["lost_ring_full"] = records.into();
        health["unwritten"] = 3.into();
        last += Duration::from_secs(1);
        for (member, value) in [("schema_version", json!(1)), ("host", json!(host.name)), ("event", json!("health"))] {
            health[member] = value;
        }
        (health["seq"], health["time"]) = (seq.into(), at(last));
        events.push(health);
        seq += 1;
    }
    if !matches!(host.fate, Fate::Silent | Fate::Stopped | Fate::Forgotten) {
        let is_heartbeat = |event: &&Value| event["event"] == "histogram" && event["scope"] == "all";
        let mut heartbeat = events.iter().rfind(is_heartbeat).context("a recording without a histogram")?.clone();
        while last + HEARTBEAT < now {
            last += HEARTBEAT;
            (heartbeat["seq"], heartbeat["time"]) = (seq.into(), at(last));
            events.push(heartbeat.clone());
            seq += 1;
        }
    }
    if let Fate::LinesLost(lost) | Fate::RestartedAfterLoss(lost) = host.fate {
        // Neither the first line nor the last: their loss leaves no gap.
        let mut left = lost;
        events.retain(|event| {
            let keeps = left == 0 || event["event"] != "stuck" || event["seq"].as_u64().is_none_or(|seq| seq % 2 == 0);
            left -= usize::from(!keeps);
            keeps
        });
        ensure!(left == 0, "{} has too few stuck sockets", host.recording);
    }
    Ok(events)
}

/// Adds the events of one run of an agent, and returns the time of the last one.
fn play(
    events: &mut Vec<Value>,
    host: &FleetHost,
    replayed: &Replayed,
    started: SystemTime,
    takes: impl Fn(&Value) -> bool,
) -> Result<SystemTime> {
    let mut last = started;
    for (seq, event) in replayed.events.iter().filter(|event| takes(event)).enumerate() {
        let mut event = event.clone();
        rewrite(&mut event, host, replayed.started, started)?;
        event["seq"] = seq.into();
        last = last.max(recording::time(&event["time"])?);
        events.push(event);
    }
    Ok(last)
}

/// Writes the lines of all hosts, and what else arrives.
pub(super) fn write(fleet: &[(FleetHost, Vec<Value>)], dir: &Path) -> Result<Delivery> {
    let mut delivery = Delivery::default();
    let (mut timely, mut late, mut again) = (Vec::new(), Vec::new(), Vec::new());
    let mut damaged: Vec<Vec<u8>> = Vec::new();
    for (host, events) in fleet {
        // The first line of the hostile host is longer, and comes with the damaged ones.
        for event in events.iter().skip(usize::from(host.is_hostile())) {
            let line = Line { time: recording::time(&event["time"])?, text: event.to_string() };
            delivery.lines += 1;
            delivery.bytes += line.text.len() + 1;
            delivery.delivered += 1 + usize::from(host.twice);
            if host.twice {
                again.push(line.text.clone().into_bytes());
            }
            let to = if host.late { &mut late } else { &mut timely };
            to.push(line);
        }
        if host.is_hostile() {
            damaged = hostile_lines(events, &mut delivery.rejected)?;
        }
    }
    timely.sort_by_key(|line| line.time);
    late.sort_by_key(|line| std::cmp::Reverse(line.time));
    let bytes = |lines: Vec<Line>| lines.into_iter().map(|line| line.text.into_bytes()).collect();
    for (name, lines) in [("timely", bytes(timely)), ("hostile", damaged), ("late", bytes(late)), ("again", again)] {
        let file = dir.join(format!("{name}.ndjson"));
        let mut to = std::io::BufWriter::new(fs::File::create(&file)?);
        for line in lines {
            to.write_all(&line).and_then(|()| to.write_all(b"\n")).with_context(|| file.display().to_string())?;
        }
        to.flush().with_context(|| file.display().to_string())?;
        delivery.files.push(file);
    }
    Ok(delivery)
}

/// Returns lines that a broken carrier, a later version or an attacker sends. `rejected` gets the reasons.
fn hostile_lines(events: &[Value], rejected: &mut BTreeMap<&'static str, usize>) -> Result<Vec<Vec<u8>>> {
    let whole = events.first().context("a host without lines")?.to_string().into_bytes();
    let mut not_utf8 = whole.clone();
    not_utf8.splice(9..9, *b"\xff\xfe");
    let cut = whole[..whole.len() / 2].to_vec();
    let no_json = vec![cut, not_utf8, b"\x00\x01\x1b[2J".to_vec(), vec![b'B'; LONG], b"[".repeat(100_000)];
    let no_event: Vec<Vec<u8>> =
        ["null", "[]", "\"x\"", "{}", r#"{"schema_version":2,"seq":1,"time":"2026-01-01T00:00:00Z"}"#]
            .map(|line| line.as_bytes().to_vec())
            .into();
    let no_time = [
        r#"{"schema_version":1,"seq":1,"event":"start","host":"x","time":"yesterday"}"#,
        r#"{"schema_version":1,"event":"missed","time":"2026-01-01T00:00:00.000000000Z","count":3}"#,
    ]
    .map(|line| line.as_bytes().to_vec());
    rejected.insert("no JSON", no_json.len());
    rejected.insert("no event of schema_version 1", no_event.len());
    rejected.insert("no time or seq", no_time.len());
    // Later versions have more members, and more types of events. The second line is a duplicate, so nothing else changes.
    let mut long = events.first().context("a host without lines")?.clone();
    long["later"] = "A".repeat(LONG).into();
    let mut other = events.last().context("a host without lines")?.clone();
    other["event"] = "unheard_of".into();
    let accepted = [long, other].map(|event| event.to_string().into_bytes());
    Ok(no_json.into_iter().chain(no_event).chain(no_time).chain([Vec::new()]).chain(accepted).collect())
}

/// Gives an event to a host: its names, and times that begin with the start of its agent.
fn rewrite(value: &mut Value, host: &FleetHost, from: SystemTime, to: SystemTime) -> Result<()> {
    match value {
        Value::Object(members) => {
            for (name, member) in &mut *members {
                rewrite(member, host, from, to)?;
                match name.as_str() {
                    "host" => *member = host.name.as_str().into(),
                    "id" | "incident" if member.is_string() => {
                        *member = incident(host, member.as_str().unwrap_or_default()).into();
                    }
                    "unit" => *member = host.program.unit.into(),
                    "exe" if member.is_string() => *member = host.program.exe.into(),
                    "service" if member.is_string() => *member = host.program.service.into(),
                    "kernel" if member.is_string() => *member = host.kernel.into(),
                    "address" => *member = host.peer.into(),
                    _ => {}
                }
            }
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| rewrite(item, host, from, to))?,
        Value::String(text) if text.len() == 30 && text.ends_with('Z') => {
            if let Ok(time) = humantime::parse_rfc3339(text) {
                let shifted = if time >= from {
                    to + time.duration_since(from).unwrap_or_default()
                } else {
                    to - from.duration_since(time).unwrap_or_default()
                };
                *value = at(shifted);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    Ok(())
}

/// Returns the id of an incident on a host: other hosts have other ids, as with real ones.
pub(super) fn incident(host: &FleetHost, id: &str) -> String {
    // FNV-1a, 64 bits.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = host.name.bytes().chain(id.bytes()).fold(0xcbf2_9ce4_8422_2325, mix);
    format!("{hash:016x}")
}

fn at(time: SystemTime) -> Value {
    humantime::format_rfc3339_nanos(time).to_string().into()
}
