//! Answers that the queries have to give, computed from what was made up: who runs what, and what happened there.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use serde_json::json;

use super::{
    delivery::Delivery,
    population::{Fate, FleetHost},
    recording,
};
use crate::prelude::*;

/// Incident of a host.
struct Incident {
    /// Last event `pileup`.
    report: Value,
    /// Event `pileup_end`.
    end: Option<Value>,
}

/// Host with what its agent reported.
struct Reported<'a> {
    host: &'a FleetHost,
    /// Times at which its agent started.
    starts: Vec<SystemTime>,
    /// Time of its last line.
    last: SystemTime,
    incidents: BTreeMap<String, Incident>,
    names_program: bool,
    /// Version of its agent.
    agent: String,
    /// Number of its events of each type.
    events: BTreeMap<String, u64>,
}

/// Hosts whose lines are within the retention.
pub(super) struct Fleet<'a> {
    hosts: Vec<Reported<'a>>,
    now: SystemTime,
}

impl<'a> Fleet<'a> {
    /// Takes the hosts with their events; `names_program` tells whether a recording does.
    pub(super) fn new(
        fleet: &'a [(FleetHost, Vec<Value>)],
        names_program: impl Fn(&str) -> bool,
        now: SystemTime,
    ) -> Result<Self> {
        let mut hosts = Vec::new();
        for (host, events) in fleet.iter().filter(|(host, _events)| host.fate != Fate::Forgotten) {
            let mut reported = Reported {
                host,
                starts: Vec::new(),
                last: SystemTime::UNIX_EPOCH,
                incidents: BTreeMap::new(),
                names_program: names_program(host.recording),
                agent: String::new(),
                events: BTreeMap::new(),
            };
            for event in events {
                let time = recording::time(&event["time"])?;
                reported.last = reported.last.max(time);
                *reported.events.entry(event["event"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
                let id = event["id"].as_str().unwrap_or_default().to_owned();
                match event["event"].as_str() {
                    Some("start") => {
                        reported.starts.push(time);
                        reported.agent = event["version"].as_str().unwrap_or_default().to_owned();
                    }
                    Some("pileup") => {
                        reported.incidents.insert(id, Incident { report: event.clone(), end: None });
                    }
                    Some("pileup_end") => {
                        let incident = reported.incidents.get_mut(&id).context("an end without a report")?;
                        incident.end = Some(event.clone());
                    }
                    _ => {}
                }
            }
            hosts.push(reported);
        }
        hosts.sort_by(|one, other| one.host.name.cmp(&other.host.name));
        Ok(Self { hosts, now })
    }

    /// Returns the answer to each query, by its name.
    pub(super) fn answers(&self, delivery: &Delivery) -> Result<BTreeMap<&'static str, Vec<Value>>> {
        let rejected = delivery.rejected.iter().map(|(reason, lines)| json!({ "reason": reason, "lines": lines }));
        let mut rejected: Vec<_> = rejected.collect();
        rejected.sort_by_key(|row| row["reason"].to_string());
        Ok(BTreeMap::from([
            ("open_incidents", self.open_incidents()?),
            ("shared_by_leaking", self.shared_by_leaking()),
            ("first_host", self.first_host()?),
            ("still_growing", self.still_growing()?),
            ("came_back", self.came_back()?),
            ("silent_hosts", self.silent_hosts()),
            ("lost_events", self.lost_events()),
            ("top_peers", self.top_peers()),
            ("rejected_lines", rejected),
        ]))
    }

    /// Returns the number of rows that each table has to have.
    pub(super) fn rows(&self, delivery: &Delivery) -> Vec<(&'static str, u64)> {
        let (mut pileup, mut stuck, mut agent) = (0, 0, 0);
        for (event, count) in self.hosts.iter().flat_map(|host| &host.events) {
            match event.as_str() {
                "pileup" | "pileup_end" => pileup += count,
                "stuck" => stuck += count,
                _ => agent += count,
            }
        }
        let rejected = delivery.rejected.values().sum::<usize>() as u64;
        vec![("pileup", pileup), ("stuck", stuck), ("agent", agent), ("rejected", rejected)]
    }

    fn incidents(&self) -> impl Iterator<Item = (&Reported<'a>, &str, &Incident)> {
        self.hosts
            .iter()
            .flat_map(|host| host.incidents.iter().map(move |(id, incident)| (host, id.as_str(), incident)))
    }

    fn open(&self) -> impl Iterator<Item = (&Reported<'a>, &str, &Incident)> {
        self.incidents().filter(|(_host, _id, incident)| incident.end.is_none())
    }

    fn open_incidents(&self) -> Result<Vec<Value>> {
        let mut rows = Vec::new();
        for (host, id, Incident { report, .. }) in self.open() {
            let began = recording::time(&report["began"])?;
            let agent = match host.host.fate {
                Fate::Stopped => "stopped",
                Fate::Silent => "silent",
                Fate::Restarted => "restarted",
                Fate::Runs
                | Fate::RestartedWithPin
                | Fate::LinesLost(_)
                | Fate::RestartedAfterLoss(_)
                | Fate::Overwhelmed(_)
                | Fate::Forgotten => "running",
            };
            let severity = report["severity"].as_str().unwrap_or_default();
            let rank = ["critical", "error", "warning", "info"].iter().position(|known| *known == severity);
            let row = json!({
                "host": host.host.name, "severity": severity, "class": class(report), "service": service(host, report),
                "count": report["count"], "began": seconds(began), "id": id, "agent": agent,
            });
            rows.push(((rank, began, host.host.name.clone(), id.to_owned()), row));
        }
        Ok(sorted(rows))
    }

    fn shared_by_leaking(&self) -> Vec<Value> {
        let mut leaking: BTreeMap<(String, &str, String), BTreeSet<&str>> = BTreeMap::new();
        let mut all_leaking: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        let mut healthy: BTreeMap<(&str, String), BTreeSet<&str>> = BTreeMap::new();
        let mut of_healthy = 0;
        for host in &self.hosts {
            let FleetHost { name, program, kernel, peer, .. } = host.host;
            let always = [("kernel", (*kernel).to_owned()), ("agent", host.agent.clone())];
            let unit = ("unit", program.unit.to_owned());
            let peer = ("peer", (*peer).to_owned());
            if host.incidents.is_empty() {
                of_healthy += 1;
                let exe = host.names_program.then(|| ("exe", program.exe.to_owned()));
                for property in always.into_iter().chain([unit, peer]).chain(exe) {
                    healthy.entry(property).or_default().insert(name);
                }
                continue;
            }
            for Incident { report, .. } in host.incidents.values().filter(|incident| incident.end.is_none()) {
                let class = class(report);
                all_leaking.entry(class.clone()).or_default().insert(name);
                let exe = (!report["evidence"]["process"].is_null()).then(|| ("exe", program.exe.to_owned()));
                let all = always.clone().into_iter().chain([unit.clone(), peer.clone()]).chain(exe);
                for (kind, value) in all {
                    leaking.entry((class.clone(), kind, value)).or_default().insert(name);
                }
            }
        }
        let share = |part: usize, of: usize| part as f64 / of.max(1) as f64;
        let mut rows = Vec::new();
        for ((class, kind, value), hosts) in leaking {
            let (part, of) = (hosts.len(), all_leaking[&class].len());
            let healthy = healthy.get(&(kind, value.clone())).map_or(0, BTreeSet::len);
            let more = share(part, of) - share(healthy, of_healthy);
            if more > 0.0 {
                let row = json!({
                    "class": class, "kind": kind, "value": value, "leaking": part, "of_leaking": of,
                    "healthy": healthy, "of_healthy": of_healthy,
                });
                // A share is at most one, and positive floats are in the order of their bits.
                rows.push(((class, Reverse(more.to_bits()), kind, value), row));
            }
        }
        sorted(rows)
    }

    fn first_host(&self) -> Result<Vec<Value>> {
        let mut firsts: BTreeMap<(String, String), BTreeSet<(SystemTime, &str)>> = BTreeMap::new();
        for (host, _id, Incident { report, .. }) in self.incidents() {
            let service = service(host, report).as_str().unwrap_or_default().to_owned();
            let since = recording::time(&report["onset"]["first_stuck"])?;
            firsts.entry((service, class(report))).or_default().insert((since, &host.host.name));
        }
        let row = |((service, class), entries): ((String, String), BTreeSet<(SystemTime, &str)>)| {
            let (since, first) = *entries.first()?;
            let hosts = entries.iter().map(|(_since, host)| host).collect::<BTreeSet<_>>().len();
            let row = json!({
                "service": service, "class": class, "first": first, "since": seconds(since), "hosts": hosts,
            });
            Some(((seconds(since), service, class), row))
        };
        Ok(sorted(firsts.into_iter().filter_map(row).collect()))
    }

    fn still_growing(&self) -> Result<Vec<Value>> {
        let mut rows = Vec::new();
        for (host, id, Incident { report, .. }) in self.open() {
            let Some(slope) = report["slope_per_second"].as_f64().filter(|slope| *slope > 0.0) else { continue };
            let left = report["exhaustion_seconds"].as_f64();
            let full_at = match left {
                Some(left) => Some(recording::time(&report["time"])? + Duration::from_secs_f64(left)),
                None => None,
            };
            let left = full_at.map(|at| whole(at).duration_since(self.now).unwrap_or_default().as_secs());
            let full_at = full_at.map(seconds);
            let row = json!({
                "host": host.host.name, "service": service(host, report), "count": report["count"],
                "per_second": (slope * 10.0).round() / 10.0, "limited_by": report["exhaustion"]["limit"],
                "full_at": full_at, "seconds_left": left,
            });
            rows.push(((full_at.is_none(), full_at, host.host.name.clone(), id.to_owned()), row));
        }
        Ok(sorted(rows))
    }

    fn came_back(&self) -> Result<Vec<Value>> {
        let mut rows = Vec::new();
        for host in &self.hosts {
            let name = &host.host.name;
            let mut add = |id: &str, report: &Value, (restarted, again_as, again): (&str, &str, SystemTime)| {
                let row = json!({
                    "host": name, "service": service(host, report), "restarted": restarted, "id": id,
                    "again_as": again_as, "again": seconds(again),
                });
                rows.push(((restarted.to_owned(), name.clone(), again), row));
            };
            for (id, Incident { report, end }) in &host.incidents {
                if let (Fate::RestartedWithPin, Some(again)) = (host.host.fate, host.starts.get(1)) {
                    add(id, report, ("agent", id, *again));
                }
                if end.as_ref().is_some_and(|end| end["how"] == "process_ended") {
                    // The recording has one service, which leaks once more.
                    let later = host.incidents.iter().find(|(other, _incident)| *other != id);
                    let (later, Incident { report: again, .. }) = later.context("it does not come back")?;
                    add(id, report, ("program", later, recording::time(&again["began"])?));
                }
            }
        }
        Ok(sorted(rows))
    }

    fn silent_hosts(&self) -> Vec<Value> {
        let row = |host: &Reported<'_>| {
            let agent = match host.host.fate {
                Fate::Silent => "silent",
                Fate::Stopped => "stopped",
                Fate::Runs
                | Fate::RestartedWithPin
                | Fate::Restarted
                | Fate::LinesLost(_)
                | Fate::RestartedAfterLoss(_)
                | Fate::Overwhelmed(_)
                | Fate::Forgotten => return None,
            };
            let open = host.incidents.values().filter(|incident| incident.end.is_none()).count();
            let row =
                json!({ "host": host.host.name, "agent": agent, "since": seconds(host.last), "open_incidents": open });
            Some(((host.last, host.host.name.clone()), row))
        };
        sorted(self.hosts.iter().filter_map(row).collect())
    }

    fn lost_events(&self) -> Vec<Value> {
        let row = |host: &Reported<'_>| {
            let (missing, dropped, lost) = match host.host.fate {
                Fate::LinesLost(lines) | Fate::RestartedAfterLoss(lines) => (lines, 0, 0),
                Fate::Overwhelmed(records) => (0, 3, records),
                Fate::Runs
                | Fate::Silent
                | Fate::Stopped
                | Fate::RestartedWithPin
                | Fate::Restarted
                | Fate::Forgotten => return None,
            };
            let row = json!({
                "host": host.host.name, "started": seconds(host.host.started), "missing_lines": missing,
                "lines_dropped": dropped, "lost_in_kernel": lost, "untracked": 0,
            });
            Some(((Reverse(missing), host.host.name.clone()), row))
        };
        sorted(self.hosts.iter().filter_map(row).collect())
    }

    fn top_peers(&self) -> Vec<Value> {
        let mut peers: BTreeMap<&str, (u64, BTreeSet<&str>, BTreeSet<String>)> = BTreeMap::new();
        for (host, _id, Incident { report, .. }) in self.open() {
            let remotes = report["evidence"]["top_remotes"].as_array().into_iter().flatten();
            let (sockets, hosts, services) = peers.entry(host.host.peer).or_default();
            *sockets += remotes.filter_map(|remote| remote["count"].as_u64()).sum::<u64>();
            hosts.insert(&host.host.name);
            services.extend(service(host, report).as_str().map(str::to_owned));
        }
        let row = |(peer, (sockets, hosts, services)): (&str, (u64, BTreeSet<&str>, BTreeSet<String>))| {
            let row = json!({ "peer": peer, "sockets": sockets, "hosts": hosts.len(), "services": services });
            ((Reverse(sockets), peer.to_owned()), row)
        };
        sorted(peers.into_iter().map(row).collect())
    }
}

/// Returns the class of the cause, as the queries name it.
fn class(report: &Value) -> String {
    report["verdict"]["class"].as_str().unwrap_or("unknown").to_owned()
}

/// Returns the name of the service, if the agent knew one.
fn service(host: &Reported<'_>, report: &Value) -> Value {
    if report["service"].is_null() { Value::Null } else { host.host.program.service.into() }
}

fn sorted<K: Ord>(mut rows: Vec<(K, Value)>) -> Vec<Value> {
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    rows.into_iter().map(|(_key, row)| row).collect()
}

/// Returns the time without the part of its second.
fn whole(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// Returns a time as both engines write it, to the second.
pub(super) fn seconds(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string().replace('T', " ").replace('Z', "")
}
