//! Events that start hooks, and the facts that a hook gets.

use std::{borrow::Cow, fmt, io};

use serde::{Deserialize, Serialize};

use crate::clock::TimeAnchor;
use closewait_engine::{
    model::{Certainty, Class, Finding, IncidentState, Owner, PileupGroup, Role, Shape, Socket, Task, Verdict},
    process::Process,
    snapshot::urgency::Severity,
    workload::Workload,
};

/// Maximum length of a request to the helper, bytes: the event of a socket with some ten thousand owners.
const MAX_REQUEST_BYTES: usize = 4 << 20;

/// Names of all variables that facts have. A program inherits the agent's other variables.
pub(super) const FACTS: [&str; 31] = [
    "CLOSEWAIT_CERTAINTY",
    "CLOSEWAIT_CGROUP",
    "CLOSEWAIT_CLASS",
    "CLOSEWAIT_COMM",
    "CLOSEWAIT_CONTAINER",
    "CLOSEWAIT_COUNT",
    "CLOSEWAIT_DWELL_SECONDS",
    "CLOSEWAIT_EXE",
    "CLOSEWAIT_EXHAUSTION_SECONDS",
    "CLOSEWAIT_FD",
    "CLOSEWAIT_INCIDENT",
    "CLOSEWAIT_INODE",
    "CLOSEWAIT_LOCAL",
    "CLOSEWAIT_LOCAL_PORT",
    "CLOSEWAIT_NETNS",
    "CLOSEWAIT_PID",
    "CLOSEWAIT_POD",
    "CLOSEWAIT_POD_NAMESPACE",
    "CLOSEWAIT_REMOTE",
    "CLOSEWAIT_ROLE",
    "CLOSEWAIT_RULE",
    "CLOSEWAIT_RUNTIME",
    "CLOSEWAIT_SERVICE",
    "CLOSEWAIT_SEVERITY",
    "CLOSEWAIT_SHAPE",
    "CLOSEWAIT_SLOPE_PER_SECOND",
    "CLOSEWAIT_STATE",
    "CLOSEWAIT_SUMMARY",
    "CLOSEWAIT_TIME",
    "CLOSEWAIT_UNIT",
    "CLOSEWAIT_VERDICT",
];

/// Type of event that starts a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookEventKind {
    /// A socket got stuck.
    Stuck,
    /// An incident opens, changes or ends.
    Pileup,
}

impl HookEventKind {
    /// Returns the name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stuck => "stuck",
            Self::Pileup => "pileup",
        }
    }
}

/// Key of the limit that at most one program runs at a time for the same event and group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HookGroup {
    /// Type of the event.
    pub kind: HookEventKind,
    /// Subject of the event, as in the log.
    pub who: String,
    /// State that an incident reaches once, so that an earlier report must not suppress its report.
    pub once: Option<IncidentState>,
}

impl HookGroup {
    /// Creates the group of a stuck socket.
    pub(super) const fn of_socket(who: String) -> Self {
        Self { kind: HookEventKind::Stuck, who, once: None }
    }

    /// Whether the program of this event has to wait for the end of the program for `other`: reports of one subject are in order.
    pub(super) fn follows(&self, other: &Self) -> bool {
        self.kind == other.kind && self.who == other.who
    }

    /// Whether this is the end of an incident.
    pub(super) fn is_end(&self) -> bool {
        self.once == Some(IncidentState::Resolved)
    }
}

impl fmt::Display for HookGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, who, once } = self;
        write!(f, "{}, {who}", kind.name())?;
        once.map_or(Ok(()), |state| write!(f, ", {}", state.name()))
    }
}

/// Environment variables of a hook. Unknown facts have no variable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookEnvironment(pub(super) Vec<(Cow<'static, str>, String)>);

impl HookEnvironment {
    /// Adds a variable with a known value. An environment cannot contain zero bytes; harmless text has none.
    pub fn add(&mut self, name: &'static str, value: Option<impl ToString>) {
        debug_assert!(FACTS.contains(&name), "{name} is a fact");
        if let Some(value) = value.map(|value| value.to_string()).filter(|value| !value.contains('\0')) {
            self.0.push((Cow::Borrowed(name), value));
        }
    }
}

/// Event that starts a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookEvent {
    /// Subject of the event.
    pub group: HookGroup,
    /// Variables of the environment.
    pub facts: HookEnvironment,
    /// Event for standard input, one line of JSON.
    pub json: String,
}

impl HookEvent {
    /// Encodes the event for the helper: its length, and JSON. `None` if it is too long.
    pub(super) fn frame(&self) -> io::Result<Option<Vec<u8>>> {
        let mut frame = vec![0; size_of::<u32>()];
        serde_json::to_writer(&mut frame, self)?;
        let (length, body) = frame.split_at_mut(size_of::<u32>());
        match u32::try_from(body.len()) {
            Ok(bytes) if body.len() <= MAX_REQUEST_BYTES => {
                length.copy_from_slice(&bytes.to_le_bytes());
                Ok(Some(frame))
            }
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// Decodes the number of bytes that follow.
    pub(super) fn length(first: [u8; size_of::<u32>()]) -> io::Result<usize> {
        let length = usize::try_from(u32::from_le_bytes(first)).ok().filter(|length| *length <= MAX_REQUEST_BYTES);
        length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a request is longer than any can be"))
    }

    /// Parses a request.
    pub(super) fn of_body(body: &[u8]) -> io::Result<Self> {
        Ok(serde_json::from_slice(body)?)
    }
}

/// Returns the subject of a finding that runs a hook; `None` if it runs none.
pub(super) fn group(finding: &Finding) -> Option<HookGroup> {
    match finding {
        Finding::Stuck { socket, owners, process, .. } => {
            let owner = owner(owners.as_deref(), process.as_deref());
            let who = match (owner, socket.netns) {
                (Some((pid, _comm)), _) => format!("pid {pid}"),
                (None, Some(netns)) => format!("netns {netns}"),
                (None, None) => "unknown owner".to_owned(),
            };
            let who = match socket.role {
                Some(Role::Client) => format!("{who} to {}", socket.remote),
                Some(Role::Server) | None => format!("{who} port {}", socket.local.port),
            };
            Some(HookGroup::of_socket(who))
        }
        Finding::Pileup { pileup, .. } => Some(incident_group(
            &pileup.group,
            pileup.incident.map_or(IncidentState::Opened, |incident| incident.state),
        )),
        Finding::PileupEnd { end, .. } => Some(incident_group(&end.group, IncidentState::Resolved)),
        Finding::Enter { .. }
        | Finding::Leave { .. }
        | Finding::Histogram { .. }
        | Finding::Health { .. }
        | Finding::Stop { .. } => None,
    }
}

fn incident_group(group: &PileupGroup, state: IncidentState) -> HookGroup {
    let PileupGroup { role: _, netns, cgroup, local_port, remote } = *group;
    let mut who = match (local_port, remote) {
        (Some(port), _) => format!("port {port}"),
        (None, Some(remote)) => format!("to {remote}"),
        (None, None) => "others".to_owned(),
    };
    who.extend(netns.map(|netns| format!(" in netns {netns}")));
    who.extend(cgroup.map(|cgroup| format!(" in cgroup {cgroup}")));
    let once = Some(state).filter(|state| matches!(state, IncidentState::Exhausted | IncidentState::Resolved));
    HookGroup { kind: HookEventKind::Pileup, who, once }
}

/// Selection of the events that run a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookFilter {
    /// Classes of stuck sockets that run a hook.
    pub stuck_classes: Vec<Class>,
    /// Lowest certainty of a verdict that runs a hook.
    pub min_certainty: Certainty,
}

impl HookFilter {
    /// Whether a finding may run a hook. The end of an incident always may: the hook may have reported its begin.
    pub(super) fn passes(&self, finding: &Finding) -> bool {
        // The most certain one is the least.
        let is_certain = |verdict: &Verdict| verdict.certainty <= self.min_certainty;
        match finding {
            Finding::Stuck { verdict, .. } => self.stuck_classes.contains(&verdict.class) && is_certain(verdict),
            Finding::Pileup { pileup, .. } => is_certain(&pileup.verdict),
            Finding::PileupEnd { .. }
            | Finding::Enter { .. }
            | Finding::Leave { .. }
            | Finding::Histogram { .. }
            | Finding::Health { .. }
            | Finding::Stop { .. } => true,
        }
    }
}

/// Returns the environment of the program for a finding; empty if the finding starts no hook.
pub(super) fn facts(finding: &Finding, anchor: TimeAnchor) -> HookEnvironment {
    let mut facts = HookEnvironment::default();
    match finding {
        Finding::Stuck { at, socket, dwell, owners, verdict, workload, process, group: _, incident } => {
            let process = process.as_deref();
            facts.add("CLOSEWAIT_TIME", Some(humantime::format_rfc3339_nanos(anchor.wall(*at))));
            facts.add("CLOSEWAIT_FD", owners.as_ref().and_then(|owners| owners.first()).map(|owner| owner.fd));
            add_owner(&mut facts, owner(owners.as_deref(), process), process);
            add_socket(&mut facts, socket);
            add_workload(&mut facts, workload.as_deref().or_else(|| process?.workload.as_deref()));
            facts.add("CLOSEWAIT_DWELL_SECONDS", Some(dwell.at_least().as_secs_f64()));
            facts.add("CLOSEWAIT_INCIDENT", *incident);
            add_verdict(&mut facts, verdict);
        }
        Finding::Pileup { at, pileup } => {
            let process = pileup.evidence.process.as_deref();
            let owner = pileup.owners.as_ref().and_then(|owners| owners.first());
            let owner = owner.map(|(task, _)| task).map(|Task { pid, comm }| (*pid, comm.as_str()));
            facts.add("CLOSEWAIT_TIME", Some(humantime::format_rfc3339_nanos(anchor.wall(*at))));
            facts.add("CLOSEWAIT_COUNT", Some(pileup.count));
            facts.add("CLOSEWAIT_SHAPE", pileup.shape.map(Shape::name));
            facts.add("CLOSEWAIT_SLOPE_PER_SECOND", pileup.slope.map(|slope| slope.per_second));
            let since = at.since(pileup.onset.first_stuck);
            facts.add("CLOSEWAIT_DWELL_SECONDS", Some(since.as_secs_f64()));
            let forecast = pileup.forecast;
            facts.add("CLOSEWAIT_EXHAUSTION_SECONDS", forecast.map(|forecast| forecast.left.as_secs_f64()));
            add_owner(&mut facts, owner.or_else(|| process.map(|one| (one.pid, one.comm.as_str()))), process);
            facts.add("CLOSEWAIT_LOCAL_PORT", pileup.group.local_port);
            facts.add("CLOSEWAIT_REMOTE", pileup.group.remote);
            facts.add("CLOSEWAIT_NETNS", pileup.group.netns);
            add_workload(&mut facts, pileup.evidence.workload.as_deref());
            facts.add("CLOSEWAIT_INCIDENT", pileup.incident.map(|incident| incident.id));
            facts.add("CLOSEWAIT_STATE", pileup.incident.map(|incident| incident.state.name()));
            facts.add("CLOSEWAIT_SEVERITY", Some(pileup.severity().name()));
            facts.add("CLOSEWAIT_SERVICE", pileup.service().label());
            facts.add("CLOSEWAIT_SUMMARY", Some(pileup.summary()));
            add_verdict(&mut facts, &pileup.verdict);
        }
        Finding::PileupEnd { at, end } => {
            facts.add("CLOSEWAIT_TIME", Some(humantime::format_rfc3339_nanos(anchor.wall(*at))));
            facts.add("CLOSEWAIT_COUNT", Some(end.count));
            facts.add("CLOSEWAIT_LOCAL_PORT", end.group.local_port);
            facts.add("CLOSEWAIT_REMOTE", end.group.remote);
            facts.add("CLOSEWAIT_NETNS", end.group.netns);
            facts.add("CLOSEWAIT_INCIDENT", Some(end.id));
            facts.add("CLOSEWAIT_STATE", Some(IncidentState::Resolved.name()));
            facts.add("CLOSEWAIT_SEVERITY", Some(Severity::Info.name()));
            facts.add("CLOSEWAIT_SERVICE", end.service.as_deref());
            facts.add("CLOSEWAIT_SUMMARY", Some(end.summary(*at)));
        }
        Finding::Enter { .. }
        | Finding::Leave { .. }
        | Finding::Histogram { .. }
        | Finding::Health { .. }
        | Finding::Stop { .. } => {}
    }
    facts
}

/// Returns the first owner of a socket, or of its listener if no program has accepted the socket.
fn owner<'a>(owners: Option<&'a [Owner]>, process: Option<&'a Process>) -> Option<(u32, &'a str)> {
    let held = owners.and_then(|owners| owners.first()).map(|Owner { task: Task { pid, comm }, .. }| (*pid, comm));
    let (pid, comm) = held.or_else(|| process.map(|process| (process.pid, &process.comm)))?;
    Some((pid, comm.as_str()))
}

/// Adds the owner, with facts of `process` only if that is the same one.
fn add_owner(facts: &mut HookEnvironment, owner: Option<(u32, &str)>, process: Option<&Process>) {
    let Some((pid, comm)) = owner else { return };
    facts.add("CLOSEWAIT_PID", Some(pid));
    facts.add("CLOSEWAIT_COMM", Some(comm));
    let process = process.filter(|process| process.pid == pid);
    facts.add("CLOSEWAIT_EXE", process.and_then(|process| process.exe.as_deref()));
    facts.add("CLOSEWAIT_RUNTIME", process.and_then(|process| process.runtime).map(|runtime| runtime.name()));
}

fn add_socket(facts: &mut HookEnvironment, socket: &Socket) {
    facts.add("CLOSEWAIT_LOCAL", Some(socket.local));
    facts.add("CLOSEWAIT_LOCAL_PORT", Some(socket.local.port));
    facts.add("CLOSEWAIT_REMOTE", Some(socket.remote));
    facts.add("CLOSEWAIT_ROLE", socket.role.map(Role::name));
    facts.add("CLOSEWAIT_NETNS", socket.netns);
    facts.add("CLOSEWAIT_INODE", socket.inode);
}

fn add_workload(facts: &mut HookEnvironment, workload: Option<&Workload>) {
    let Some(Workload { cgroup_path, unit, container, pod }) = workload else { return };
    let pod = pod.as_ref();
    facts.add("CLOSEWAIT_CGROUP", Some(cgroup_path));
    facts.add("CLOSEWAIT_UNIT", unit.as_deref());
    facts.add("CLOSEWAIT_CONTAINER", container.as_ref().map(|container| &container.id));
    facts.add("CLOSEWAIT_POD", pod.and_then(|pod| pod.name.as_deref()));
    facts.add("CLOSEWAIT_POD_NAMESPACE", pod.and_then(|pod| pod.namespace.as_deref()));
}

fn add_verdict(facts: &mut HookEnvironment, verdict: &Verdict) {
    facts.add("CLOSEWAIT_CLASS", Some(verdict.class.name()));
    // The name of the same fact in earlier versions.
    facts.add("CLOSEWAIT_VERDICT", Some(verdict.class.name()));
    facts.add("CLOSEWAIT_RULE", Some(verdict.rule));
    facts.add("CLOSEWAIT_CERTAINTY", Some(verdict.certainty.name()));
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, UNIX_EPOCH},
    };

    use super::*;
    use closewait_engine::{
        model::Dwell,
        testing::{owner, process, socket, verdict},
        text::Comm,
        time::BootTime,
    };

    const ANCHOR: TimeAnchor = TimeAnchor::booted_at(UNIX_EPOCH);

    fn stuck(owners: Option<Vec<Owner>>, process: Option<Process>) -> Finding {
        Finding::Stuck {
            at: BootTime(0),
            socket: socket(),
            dwell: Dwell::Exact(Duration::from_millis(60_500)),
            owners,
            verdict: Box::new(verdict(Class::Hung, Certainty::High)),
            workload: None,
            process: process.map(Arc::new),
            group: Box::new(PileupGroup { role: None, netns: None, cgroup: None, local_port: Some(80), remote: None }),
            incident: None,
        }
    }

    fn value<'f>(facts: &'f HookEnvironment, name: &str) -> Option<&'f str> {
        facts.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn a_hook_gets_the_first_owner_and_its_socket() {
        let finding = stuck(Some(vec![owner("nginx", 812, 5)]), Some(process("nginx", 812, None)));
        let facts = facts(&finding, ANCHOR);
        for (name, expected) in [
            ("CLOSEWAIT_TIME", "1970-01-01T00:00:00.000000000Z"),
            ("CLOSEWAIT_PID", "812"),
            ("CLOSEWAIT_FD", "5"),
            ("CLOSEWAIT_COMM", "nginx"),
            ("CLOSEWAIT_DWELL_SECONDS", "60.5"),
            ("CLOSEWAIT_CLASS", "hung"),
            ("CLOSEWAIT_VERDICT", "hung"),
            ("CLOSEWAIT_CERTAINTY", "high"),
        ] {
            assert_eq!(value(&facts, name), Some(expected), "{facts:?}");
        }
        assert_eq!(value(&facts, "CLOSEWAIT_REMOTE"), Some(socket().remote.to_string().as_str()));
        assert!(group(&finding).unwrap().who.starts_with("pid 812 "));
    }

    #[test]
    fn what_is_unknown_is_not_there() {
        let facts = facts(&stuck(None, None), ANCHOR);
        for name in ["CLOSEWAIT_PID", "CLOSEWAIT_COMM", "CLOSEWAIT_EXE", "CLOSEWAIT_CGROUP", "CLOSEWAIT_COUNT"] {
            assert_eq!(value(&facts, name), None, "{name}");
        }
        assert!(facts.0.iter().all(|(_, value)| !value.is_empty()), "{facts:?}");
    }

    #[test]
    fn the_program_of_another_process_is_not_that_of_the_owner() {
        let other = Process { exe: Some("/usr/bin/other".to_owned()), ..process("other", 7, None) };
        let named = facts(&stuck(Some(vec![owner("nginx", 812, 5)]), Some(other.clone())), ANCHOR);
        assert_eq!((value(&named, "CLOSEWAIT_PID"), value(&named, "CLOSEWAIT_EXE")), (Some("812"), None));
        // Without an owner of the socket, the listener's owner counts.
        let named = facts(&stuck(Some(Vec::new()), Some(other)), ANCHOR);
        assert_eq!(
            (value(&named, "CLOSEWAIT_PID"), value(&named, "CLOSEWAIT_EXE")),
            (Some("7"), Some("/usr/bin/other"))
        );
    }

    #[test]
    fn a_name_full_of_harm_has_no_byte_that_an_environment_cannot_hold() {
        let mut named = owner("x", 1, 3);
        named.task.comm = Comm::from_kernel(b"$(id)\n\x1b;`w`\xff\0\0\0\0");
        let facts = facts(&stuck(Some(vec![named]), None), ANCHOR);
        assert_eq!(value(&facts, "CLOSEWAIT_COMM"), Some("$(id)\\u{a}\\u{1b};`w`\\xff"));
        let mut zero = HookEnvironment::default();
        zero.add("CLOSEWAIT_COMM", Some("a\0b"));
        assert_eq!(zero, HookEnvironment::default());
    }

    #[test]
    fn a_request_arrives_as_it_was_sent() {
        let finding = stuck(Some(vec![owner("nginx", 812, 5)]), None);
        let facts = facts(&finding, ANCHOR);
        let sent = HookEvent { group: group(&finding).unwrap(), facts, json: "{\"seq\":1}\n".to_owned() };
        let frame = sent.frame().unwrap().unwrap();
        let (length, body) = frame.split_at(4);
        assert_eq!(HookEvent::length(length.try_into().unwrap()).unwrap(), body.len());
        assert_eq!(HookEvent::of_body(body).unwrap(), sent);
    }

    #[test]
    fn what_is_too_long_is_not_sent_and_not_taken() {
        let group = group(&stuck(None, None)).unwrap();
        let long = HookEvent { group, facts: HookEnvironment::default(), json: "x".repeat(MAX_REQUEST_BYTES) };
        assert_eq!(long.frame().unwrap(), None);
        assert!(HookEvent::length([0xff; 4]).is_err());
    }

    #[test]
    fn a_filter_selects_by_class_and_by_certainty() {
        let stuck = |class, certainty| {
            let Finding::Stuck { at, socket, dwell, owners, workload, process, group, incident, .. } =
                stuck(None, None)
            else {
                unreachable!("a stuck socket");
            };
            let verdict = Box::new(verdict(class, certainty));
            Finding::Stuck { at, socket, dwell, owners, verdict, workload, process, group, incident }
        };
        let filter = HookFilter { stuck_classes: vec![Class::Hung, Class::Leak], min_certainty: Certainty::Medium };
        for (class, certainty, passes) in [
            (Class::Hung, Certainty::Fact, true),
            (Class::Leak, Certainty::Medium, true),
            (Class::Leak, Certainty::Low, false),
            (Class::Pool, Certainty::Fact, false),
        ] {
            assert_eq!(filter.passes(&stuck(class, certainty)), passes, "{class:?} {certainty:?}");
        }
    }

    #[test]
    fn the_end_of_an_incident_is_not_held_back_by_its_last_report() {
        let port = PileupGroup { role: None, netns: Some(7), cgroup: None, local_port: Some(80), remote: None };
        let keys = [IncidentState::Opened, IncidentState::Updated, IncidentState::Exhausted, IncidentState::Resolved]
            .map(|state| incident_group(&port, state));
        assert_eq!(keys[0], keys[1]);
        assert!(keys.iter().all(|key| key.follows(&keys[0])) && keys[3].is_end(), "{keys:?}");
        assert_eq!(keys[1..].iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{keys:?}");
        assert_eq!(keys[3].to_string(), "pileup, port 80 in netns 7, resolved");
    }

    #[test]
    fn only_what_calls_for_a_person_is_an_occasion() {
        let enter = Finding::Enter { at: BootTime(0), socket: socket() };
        assert_eq!(group(&enter), None);
    }
}
