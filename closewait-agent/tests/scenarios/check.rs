//! Comparison of the agent's output with the expected one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tests_support::blame::is_blame;

use crate::{
    net::Id,
    play::{Listed, Seen},
    proc,
    row::Outcome,
    scenario::{Owner, Part, Scenario},
};

/// Returns the problems of the scenario as a whole.
pub(crate) fn whole(scenario: &Scenario, seen: &Seen) -> Vec<String> {
    let mut problems = Vec::new();
    if !scenario.allows_blame() {
        let objects = seen.events.iter().chain(seen.listed.values().map(|listed| &listed.object));
        let blamed = objects.filter(|object| is_blame(&object["verdict"]));
        problems.extend(blamed.map(|object| format!("wrong blame: {object}")));
    }
    // Sockets that entered or exited while `list` ran may be listed or not.
    let [before, after] = &seen.waiting;
    let listed: BTreeSet<_> = seen.listed.keys().map(|id| (id.local, id.remote)).collect();
    let steady = before.iter().filter(|ends| after.contains(ends));
    problems.extend(steady.filter(|ends| !listed.contains(ends)).map(|ends| format!("not listed: {ends:?}")));
    let known = |id: &Id| [before, after].iter().any(|waiting| waiting.contains(&(id.local, id.remote)));
    // Of exited sockets, `list` shows those that still have a descriptor.
    let strange = seen.listed.iter().filter(|(id, listed)| !listed.object["left"].is_object() && !known(id));
    problems.extend(strange.map(|(id, _listed)| format!("listed, not in /proc: {id}")));
    let stuck: BTreeSet<_> =
        seen.events.iter().filter(|event| event["event"] == "stuck").filter_map(Id::of_event).collect();
    let old = seen.listed.iter().filter(|(id, _listed)| stuck.contains(id)).map(|(_id, listed)| listed);
    let steady = old.filter(|listed| is_steady(scenario, listed));
    let wrong = steady.filter(|listed| listed.holders.iter().any(|holders| *holders != proc::owners(&listed.object)));
    problems.extend(wrong.map(|listed| format!("/proc has {:?}: {}", listed.holders, listed.object)));
    problems
}

/// Returns the outcome for one part.
pub(crate) fn part(scenario: &Scenario, part: &Part, seen: &Seen) -> Outcome {
    let mut problems = Vec::new();
    let sockets = sockets(part, seen);
    let listed: Vec<&Listed> =
        seen.listed.iter().filter(|(id, _listed)| sockets.contains_key(id)).map(|(_id, listed)| listed).collect();
    if !part.count.contains(&sockets.len()) {
        problems.push(format!("{} sockets, not {:?}", sockets.len(), part.count));
    }
    for events in sockets.values() {
        problems.extend(socket_problems(scenario, part, events));
    }
    for one in listed.iter().filter(|one| is_steady(scenario, one)) {
        problems.extend(owner_problem(part.owner, &one.object));
    }
    if scenario.stays() && listed.len() != sockets.len() {
        problems.push(format!("{} of {} are listed", listed.len(), sockets.len()));
    }
    let last: Vec<&Value> = sockets.values().filter_map(|events| verdict(events)).collect();
    let run = Majority::of(&last);
    problems.extend(run_problems(part, &run, &last));
    let verdicts: Vec<&Value> = listed.iter().map(|one| &one.object["verdict"]).collect();
    let list = Majority::of(&verdicts);
    // A single scan has fewer facts: its verdict may be unknown, or only a guess.
    let list_may_be = part.expected.is_empty()
        || part.expected.contains(&list.class.as_str())
        || !scenario.stays()
        || list.class == "unknown"
        || list.certainty == "low";
    if !listed.is_empty() && !list_may_be {
        problems.push(format!("list says {list}"));
    }
    let left =
        part.leave.map(|(how, open)| format!(", {how} with its descriptor {}", if open { "open" } else { "closed" }));
    Outcome {
        run: format!("{}{}", run.text(), left.unwrap_or_default()),
        list: if listed.is_empty() { "none there".to_owned() } else { list.text() },
        certainty: run.certainty,
        problems,
    }
}

/// Whether the owners are unchanged. A socket without an owner may have been accepted and closed between two scans.
fn is_steady(scenario: &Scenario, listed: &Listed) -> bool {
    let [before, after] = &listed.holders;
    scenario.stays() || (before == after && !before.is_empty())
}

/// Returns the events of each socket of the part.
fn sockets<'a>(part: &Part, seen: &'a Seen) -> BTreeMap<Id, Vec<&'a Value>> {
    let mut sockets: BTreeMap<Id, Vec<&Value>> = BTreeMap::new();
    for event in &seen.events {
        let of_socket = event["event"] == "stuck" || event["event"] == "leave";
        if let Some(id) = Id::of_event(event).filter(|_id| of_socket) {
            sockets.entry(id).or_default().push(event);
        }
    }
    sockets.retain(|_id, events| events.last().is_some_and(|event| (part.of)(&event["socket"])));
    sockets
}

fn socket_problems(scenario: &Scenario, part: &Part, events: &[&Value]) -> Vec<String> {
    let mut problems = Vec::new();
    let stuck: Vec<&Value> = events.iter().copied().filter(|event| event["event"] == "stuck").collect();
    let unread = |event: &Value| event["socket"]["unread_bytes"].as_u64();
    // On a busy machine, a socket may be reported before its facts have been read.
    let odd = stuck.iter().filter(|event| unread(event).is_some_and(|unread| !part.unread.contains(&unread)));
    problems.extend(odd.map(|event| format!("not {:?} unread: {event}", part.unread)));
    if scenario.stays() && stuck.iter().all(|event| unread(event).is_none()) {
        problems.push(format!("it is unknown how much is unread: {}", events[0]));
    }
    if let Some((how, open)) = part.leave {
        let left = events.iter().find(|event| event["event"] == "leave");
        match left {
            Some(event) if event["how"] == how && event["fd_open"] == open => {}
            Some(event) => problems.push(format!("not {how} with fd_open {open}: {event}")),
            None => problems.push(format!("has not left: {}", events[0])),
        }
    }
    problems
}

fn owner_problem(owner: Owner, object: &Value) -> Option<String> {
    let owners = object["owners"].as_array().map(Vec::as_slice).unwrap_or_default();
    let pids: BTreeSet<u64> = owners.iter().filter_map(|owner| owner["pid"].as_u64()).collect();
    let all_are = |comm: &str| owners.iter().all(|owner| owner["comm"] == comm);
    let good = match owner {
        Owner::One(comm) => pids.len() == 1 && all_are(comm),
        Owner::Two(comm) => pids.len() == 2 && all_are(comm),
        Owner::Nobody => pids.is_empty(),
        Owner::Changing => true,
    };
    (!good).then(|| format!("wrong owners: {object}"))
}

fn run_problems(part: &Part, run: &Majority, last: &[&Value]) -> Vec<String> {
    let mut problems = Vec::new();
    if part.expected.is_empty() {
        return problems;
    }
    if !part.expected.contains(&run.class.as_str()) {
        problems.push(format!("run says {run}, not {:?}", part.expected));
    } else if !part.certainties.contains(&run.certainty.as_str()) {
        problems.push(format!("run says {run}: that is none of {:?}", part.certainties));
    }
    for (members, text) in [(&["text"][..], part.mentions), (&["next", "command"], part.advises)] {
        let Some(text) = text else { continue };
        let has_text = |verdict: &Value| {
            members.iter().any(|member| verdict[member].as_str().is_some_and(|all| all.contains(text)))
        };
        let silent = last.iter().filter(|verdict| !has_text(verdict));
        problems.extend(silent.map(|verdict| format!("`{}` does not have {text}: {verdict}", members.join("` and `"))));
    }
    problems
}

/// Returns the last verdict on a socket: that of its exit, if there is one.
fn verdict<'a>(events: &[&'a Value]) -> Option<&'a Value> {
    events.iter().rev().map(|event| &event["verdict"]).find(|verdict| verdict.is_object())
}

/// Most frequent verdict.
struct Majority {
    class: String,
    rules: Vec<String>,
    certainty: String,
    count: usize,
    of: usize,
}

impl Majority {
    fn of(verdicts: &[&Value]) -> Self {
        let class = most(verdicts, "class");
        let agreeing: Vec<&Value> =
            verdicts.iter().copied().filter(|verdict| verdict["class"] == class.as_str()).collect();
        let rules: BTreeSet<&str> = agreeing.iter().filter_map(|verdict| verdict["rule"].as_str()).collect();
        Self {
            rules: rules.into_iter().map(str::to_owned).collect(),
            certainty: most(&agreeing, "certainty"),
            count: agreeing.len(),
            of: verdicts.len(),
            class,
        }
    }

    fn text(&self) -> String {
        let all = if self.count == self.of { String::new() } else { format!(" {}/{}", self.count, self.of) };
        let class = if self.class.is_empty() { "no verdict" } else { &self.class };
        format!("{class}{all} ({})", self.rules.join(", "))
    }
}

impl std::fmt::Display for Majority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with certainty {}", self.text(), self.certainty)
    }
}

/// Returns the most frequent text of a member; of several, the first in the alphabet.
fn most(verdicts: &[&Value], member: &str) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for text in verdicts.iter().filter_map(|verdict| verdict[member].as_str()) {
        *counts.entry(text).or_default() += 1;
    }
    let best = counts.values().copied().max();
    let first = counts.into_iter().find(|(_text, count)| Some(*count) == best);
    first.map(|(text, _count)| text.to_owned()).unwrap_or_default()
}
