//! Queries to an agent, and their filters. `closewait list` sends a query as a line of JSON.

mod peer;

use std::{str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::peer::Peer;
use crate::{
    model::{AnswerNeeds, Class, Endpoint, PileupEnd, PileupGroup},
    snapshot::view::{Row, RowFacts},
    time::BootTime,
    workload::Workload,
};

/// Minimum value of [`Filter::older_than`] that excludes a socket: every socket is older when the agent answers.
const SHORTEST_AGE: Duration = Duration::from_millis(1);

/// Query to an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// A list of sockets.
    List {
        /// Selected sockets.
        #[serde(default)]
        filter: Filter,
        /// Content of the answer.
        #[serde(default)]
        content: ListContent,
    },
    /// An incident report on the selected sockets.
    Report {
        /// Selected sockets.
        #[serde(default)]
        filter: Filter,
        /// Content of the answer.
        #[serde(default)]
        content: ReportContent,
    },
    /// The stream of events, until the agent ends. The engine has no part in it.
    Tail {
        /// Time for which past events come first; `None` for new events only.
        since: Option<Duration>,
        /// Whether events are text for people instead of JSON.
        text: bool,
    },
}

impl Query {
    /// Returns the filter of the sockets; `None` for events.
    pub fn filter(&self) -> Option<&Filter> {
        match self {
            Self::List { filter, .. } | Self::Report { filter, .. } => Some(filter),
            Self::Tail { .. } => None,
        }
    }

    /// Returns the facts that the answer needs if a socket may match. Data for programs, and a selection by owner, need the owners of
    /// all sockets.
    pub fn needs(&self) -> AnswerNeeds {
        let for_programs = matches!(self, Self::List { content: ListContent::Sockets, .. });
        let by_owner = self.filter().is_some_and(|filter| !filter.pids.is_empty() || !filter.cgroups.is_empty());
        if for_programs || by_owner { AnswerNeeds::Everything } else { AnswerNeeds::LastingOwners }
    }
}

/// Content of an incident report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportContent {
    /// Groups as they are now.
    #[default]
    Groups,
    /// Groups, the courses of their incidents, and the latest resolved incidents: several KB for each incident.
    Courses,
}

/// Content of the answer to a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListContent {
    /// All facts about each socket, for JSON output.
    #[default]
    Sockets,
    /// Facts about each socket that tables show, and the hints below a table. Such an answer has a third of the size.
    Table,
    /// All facts about each socket, and the hints below a table: for columns that most tables do not have.
    WideTable,
    /// Groups of sockets, and the hints below a table.
    Groups(GroupBy),
}

/// Property by which listed sockets are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// Owner of the sockets, or of their listener.
    Process,
    /// Listener that the sockets came from.
    Listener,
    /// Remote address.
    Peer,
    /// Cgroup of the sockets.
    Cgroup,
}

impl GroupBy {
    /// Returns the name in flags and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Listener => "listener",
            Self::Peer => "peer",
            Self::Cgroup => "cgroup",
        }
    }
}

/// Filter that matches every socket.
pub(crate) static EVERYTHING: Filter = Filter {
    pids: Vec::new(),
    ports: Vec::new(),
    peers: Vec::new(),
    cgroups: Vec::new(),
    older_than: None,
    verdicts: Vec::new(),
};

/// Filter of sockets. Every member has to match, each with at least one of its values; an empty member matches every socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// PIDs of owners of the socket, or of the listener that it waits at.
    pub pids: Vec<u32>,
    /// Local or remote ports.
    pub ports: Vec<u16>,
    /// Remote endpoints or networks.
    pub peers: Vec<Peer>,
    /// Cgroups; see [`Filter::matches`].
    pub cgroups: Vec<String>,
    /// Lower bound of the socket's minimum age.
    pub older_than: Option<Duration>,
    /// Classes of the verdict.
    pub verdicts: Vec<Class>,
}

impl Filter {
    /// Whether all members are empty.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the filter excludes hardly any socket, even if it is not empty: each given value matches all sockets, all of one
    /// address family, or all with a known cgroup.
    pub fn fits_everything(&self) -> bool {
        let Self { pids, ports, peers, cgroups, older_than, verdicts } = self;
        pids.is_empty()
            && ports.is_empty()
            && (peers.is_empty() || covers_a_family(peers))
            && (cgroups.is_empty() || cgroups.iter().any(|text| text.trim_end_matches('/').is_empty()))
            && older_than.is_none_or(|age| age < SHORTEST_AGE)
            && (verdicts.is_empty() || Class::ALL.iter().all(|class| verdicts.contains(class)))
    }

    /// Whether a row matches.
    ///
    /// A cgroup that begins with a slash is a path, and matches everything below, too. `id:N` is a cgroup without a known path, by
    /// its id. Any other value is part of a path or of the name of a unit or a pod, or the beginning of a container's id;
    /// `namespace/name` is a pod.
    pub fn matches(&self, row: &Row<'_>, now: BootTime) -> bool {
        self.matches_facts(&row.facts(), now) && self.matches_verdict(row.verdict.class)
    }

    /// Whether the ends of a socket match, without its other facts.
    pub(crate) fn matches_ends(&self, (local, remote): (Endpoint, Endpoint)) -> bool {
        let any_port = |port: &u16| [local.port, remote.port].contains(port);
        (self.ports.is_empty() || self.ports.iter().any(any_port))
            && (self.peers.is_empty() || self.peers.iter().any(|peer| peer.matches(remote)))
    }

    /// Whether the facts about a socket match, without the verdict.
    pub fn matches_facts(&self, facts: &RowFacts<'_>, now: BootTime) -> bool {
        let Self { pids, ports: _, peers: _, cgroups, older_than, verdicts: _ } = self;
        let RowFacts { socket, workload, .. } = facts;
        self.matches_ends((socket.local, socket.remote))
            && (pids.is_empty() || owners(facts).any(|pid| pids.contains(&pid)))
            && (cgroups.is_empty()
                || cgroups.iter().any(|text| match workload {
                    Some(workload) => is_in_cgroup(workload, text),
                    None => cgroup_id(text).is_some_and(|id| socket.cgroup == Some(id)),
                }))
            && older_than.is_none_or(|age| since_entry(facts, now).is_some_and(|since| since >= age))
    }

    /// Whether a resolved incident matches. The owner, the cgroup and the age of its sockets are not known any more, so no incident
    /// matches a filter on one of them.
    pub fn matches_resolved(&self, end: &PileupEnd) -> bool {
        let Self { pids, ports, peers, cgroups, older_than, verdicts: _ } = self;
        let PileupGroup { local_port, remote, .. } = &end.group;
        let any_port = |port: &u16| *local_port == Some(*port) || remote.is_some_and(|remote| remote.port == *port);
        pids.is_empty()
            && cgroups.is_empty()
            && older_than.is_none()
            && (ports.is_empty() || ports.iter().any(any_port))
            && (peers.is_empty() || remote.is_some_and(|remote| peers.iter().any(|peer| peer.matches(remote))))
            && (self.verdicts.is_empty() || end.last.as_ref().is_some_and(|last| self.matches_verdict(last.class)))
    }

    /// Whether a verdict of this class matches.
    pub fn matches_verdict(&self, class: Class) -> bool {
        self.verdicts.is_empty() || self.verdicts.contains(&class)
    }
}

/// Whether the networks without a port cover all IPv4 or all IPv6 addresses.
fn covers_a_family(peers: &[Peer]) -> bool {
    let covers = |is_v4: bool| {
        let of_family = peers.iter().filter(|peer| peer.address.is_ipv4() == is_v4 && peer.port.is_none());
        let mut ranges: Vec<(u128, u128)> = of_family.map(|peer| peer.range()).collect();
        ranges.sort_unstable();
        let last = if is_v4 { u32::MAX.into() } else { u128::MAX };
        // The lowest address that is not covered yet; `None` if all are covered.
        let mut next = Some(0);
        for (low, high) in ranges {
            match next {
                Some(lowest) if low <= lowest && high >= lowest => {
                    next = if high >= last { None } else { high.checked_add(1) };
                }
                Some(_) | None => {}
            }
        }
        next.is_none()
    };
    covers(true) || covers(false)
}

/// Returns the PIDs of the owners of a socket, and of its listener while no program has accepted the socket.
fn owners<'a>(facts: &RowFacts<'a>) -> impl Iterator<Item = u32> + 'a {
    let waits_at = facts.listener.filter(|_| facts.socket.accepted == Some(false));
    let of_listener = waits_at.map(|listener| listener.owners.as_slice()).unwrap_or_default();
    facts.owners.unwrap_or_default().iter().chain(of_listener).map(|owner| owner.task.pid)
}

/// Returns the minimum time since the entry into CLOSE_WAIT.
fn since_entry(facts: &RowFacts<'_>, now: BootTime) -> Option<Duration> {
    let stayed = facts.dwell.map(crate::model::Dwell::at_least);
    match facts.gone {
        None => stayed,
        Some(gone) => Some(stayed.unwrap_or_default().saturating_add(now.since(gone.at))),
    }
}

/// Parses `id:N`.
fn cgroup_id(text: &str) -> Option<u64> {
    text.strip_prefix("id:")?.parse().ok()
}

fn is_in_cgroup(workload: &Workload, text: &str) -> bool {
    let Workload { cgroup_path: path, unit, container, pod, .. } = workload;
    if text.starts_with('/') {
        let text = text.trim_end_matches('/');
        return path.strip_prefix(text).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    }
    let contains = |name: &Option<String>| name.as_ref().is_some_and(|name| name.contains(text));
    let is_pod = pod.as_ref().is_some_and(|pod| {
        let (namespace, name) = text.split_once('/').map_or((None, text), |(namespace, name)| (Some(namespace), name));
        let in_namespace = namespace.is_none() || pod.namespace.as_deref() == namespace;
        (in_namespace && pod.name.as_ref().is_some_and(|of| of.contains(name)))
            || contains(&pod.container_name)
            || pod.uid.starts_with(text)
    });
    path.contains(text)
        || contains(unit)
        || is_pod
        || container.as_ref().is_some_and(|container| container.id.starts_with(text))
}

impl FromStr for Class {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let same = |class: &&Self| class.name().eq_ignore_ascii_case(&text.replace('-', "_"));
        Self::ALL.iter().find(same).copied().ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|class| class.name()).collect();
            format!("unknown verdict; use one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::{
        diagnose::Seen,
        model::{Dwell, Socket},
        testing::{listener, owner, row, socket, workload},
    };

    const NOW: BootTime = BootTime(3_600_000_000_000);

    fn peer(text: &str) -> Peer {
        text.parse().unwrap()
    }

    fn fits(filter: &Filter, row: &Row<'_>) -> bool {
        filter.matches(row, NOW)
    }

    fn from(address: &str) -> Socket {
        let remote = address.parse::<std::net::SocketAddr>().unwrap();
        Socket { remote: Endpoint { address: remote.ip(), port: remote.port() }, ..socket() }
    }

    #[test]
    fn an_empty_filter_fits_everything() {
        assert!(Filter::default().is_empty());
        assert!(fits(&Filter::default(), &row(&socket())));
        let older = |seconds| Filter { older_than: Some(Duration::from_secs(seconds)), ..Filter::default() };
        assert!(Filter::default().fits_everything() && older(0).fits_everything() && !older(1).fits_everything());
    }

    #[test]
    fn a_filter_that_excludes_no_socket_is_recognized() {
        let peers =
            |texts: &[&str]| Filter { peers: texts.iter().map(|text| peer(text)).collect(), ..Filter::default() };
        let everything = [
            peers(&["0.0.0.0/0", "::/0"]),
            peers(&["0.0.0.0/0"]),
            peers(&["::/0"]),
            peers(&["10.0.0.9", "::/0"]),
            peers(&["128.0.0.0/1", "0.0.0.0/2", "64.0.0.0/2"]),
            peers(&["8000::/1", "::/1"]),
            Filter { verdicts: Class::ALL.to_vec(), ..Filter::default() },
            Filter { older_than: Some(Duration::from_nanos(1)), ..Filter::default() },
            Filter { cgroups: vec!["/".to_owned()], ..Filter::default() },
            Filter { cgroups: vec!["a".to_owned(), "//".to_owned()], ..Filter::default() },
            Filter { older_than: Some(Duration::ZERO), verdicts: Class::ALL.to_vec(), ..peers(&["::/0"]) },
        ];
        for filter in everything {
            assert!(filter.fits_everything(), "{filter:?}");
        }
        let some = [
            peers(&["10.0.0.9"]),
            peers(&["0.0.0.0/1"]),
            peers(&["0.0.0.0/1", "128.0.0.0/2"]),
            peers(&["0.0.0.0:80"]),
            peers(&["::", "255.255.255.255"]),
            Filter { verdicts: Class::ALL[1..].to_vec(), ..Filter::default() },
            Filter { older_than: Some(SHORTEST_AGE), ..Filter::default() },
            Filter { cgroups: vec!["/a".to_owned()], ..Filter::default() },
            Filter { pids: vec![1], ..peers(&["0.0.0.0/0"]) },
            Filter { ports: vec![0], verdicts: Class::ALL.to_vec(), ..Filter::default() },
        ];
        for filter in some {
            assert!(!filter.fits_everything(), "{filter:?}");
        }
    }

    #[test]
    fn any_owner_matches_and_for_an_unaccepted_socket_that_of_its_listener() {
        let owners = [owner("a", 10, 3), owner("b", 20, 3)];
        let socket = socket();
        let held = Row { owners: Some(Cow::Borrowed(&owners)), ..row(&socket) };
        let of = |pid| Filter { pids: vec![1, pid], ..Filter::default() };
        assert!(fits(&of(20), &held) && !fits(&of(30), &held));

        let seen = Seen { what: listener(8080, 3, 128), at: NOW, owners: vec![owner("nginx", 30, 6)] };
        let accepted = Row { listener: Some(&seen), ..held };
        assert!(!fits(&of(30), &accepted), "the owner of the listener does not own an accepted socket");
        let waits = Socket { accepted: Some(false), ..socket.clone() };
        assert!(fits(&of(30), &Row { listener: Some(&seen), ..row(&waits) }));
    }

    #[test]
    fn several_values_of_one_flag_are_alternatives_and_different_flags_add_up() {
        let socket = socket();
        let row = row(&socket);
        let ports = |ports: &[u16]| Filter { ports: ports.to_vec(), ..Filter::default() };
        assert!(fits(&ports(&[8080]), &row) && fits(&ports(&[51_234]), &row) && fits(&ports(&[1, 8080]), &row));
        assert!(!fits(&ports(&[1]), &row));
        assert!(!fits(&Filter { peers: vec![peer("10.9.9.9")], ..ports(&[8080]) }, &row));
    }

    #[test]
    fn peers_are_addresses_networks_or_one_port() {
        for (text, address, is) in [
            ("10.0.0.9", "10.0.0.9:1", true),
            ("10.0.0.9", "10.0.0.8:1", false),
            ("10.0.0.9:80", "10.0.0.9:80", true),
            ("10.0.0.9:80", "10.0.0.9:81", false),
            ("10.0.0.0/8", "10.200.0.9:81", true),
            ("10.0.0.0/8", "11.0.0.9:81", false),
            ("0.0.0.0/0", "11.0.0.9:81", true),
            ("0.0.0.0/0", "[::1]:81", false),
            ("2001:db8::/32", "[2001:db8:1::1]:81", true),
            ("2001:db8::/32", "[2001:db9::1]:81", false),
            ("2001:db8::7", "[2001:db8::7]:81", true),
            ("[2001:db8::7]:80", "[2001:db8::7]:81", false),
            ("::/0", "[2001:db8::7]:81", true),
            ("::ffff:10.0.0.9", "10.0.0.9:1", true),
        ] {
            let filter = Filter { peers: vec![peer(text)], ..Filter::default() };
            assert_eq!(fits(&filter, &row(&from(address))), is, "{text} {address}");
        }
    }

    #[test]
    fn an_invalid_peer_is_refused_with_an_example() {
        for text in ["", "example.org", "10.0.0.9:http", "10.0.0.0/33", "::1/129", "10.0.0.0/x", "10.0.0.9:70000"] {
            let error = text.parse::<Peer>().unwrap_err();
            assert!(error.contains("write it like 10.0.0.7"), "{text}: {error}");
        }
    }

    #[test]
    fn a_cgroup_matches_by_path_unit_container_or_pod() {
        let workload = workload();
        let socket = socket();
        let row = Row { workload: Some(&workload), ..row(&socket) };
        for (text, is) in [
            ("/kubepods.slice", true),
            ("/kubepods.slice/", true),
            ("/kubepods", false),
            ("/", true),
            ("kubepods", true),
            ("4f5e6d", true),
            ("shop-api-7d9f", true),
            ("shop/shop-api-7d9f", true),
            ("other/shop-api-7d9f", false),
            ("api", true),
            ("nginx", false),
        ] {
            let filter = Filter { cgroups: vec![text.to_owned()], ..Filter::default() };
            assert_eq!(fits(&filter, &row), is, "{text}");
        }
        let rooted = Socket { cgroup: Some(1), ..socket.clone() };
        let by_id = Filter { cgroups: vec!["id:1".to_owned()], ..Filter::default() };
        let without_path = Row { workload: None, ..Row { socket: Cow::Borrowed(&rooted), ..row.clone() } };
        assert!(fits(&by_id, &without_path) && !fits(&by_id, &row));
        let other = Filter { cgroups: vec!["id:12".to_owned()], ..Filter::default() };
        assert!(!fits(&other, &without_path));
        let any = Filter { cgroups: vec!["/".to_owned()], ..Filter::default() };
        assert!(!fits(&any, &Row { workload: None, ..row }), "an unknown cgroup does not match");
    }

    #[test]
    fn the_minimum_age_has_to_match() {
        let older = |seconds| Filter { older_than: Some(Duration::from_secs(seconds)), ..Filter::default() };
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        let socket = socket();
        let bounds = Some(Dwell::Between { at_least: minute, at_most: Some(hour) });
        let row = Row { dwell: bounds, ..row(&socket) };
        assert!(fits(&older(60), &row) && !fits(&older(61), &row));
    }

    #[test]
    fn verdicts_match_by_name() {
        assert_eq!("never-accepted".parse(), Ok(Class::NeverAccepted));
        for class in Class::ALL {
            assert_eq!(class.name().parse(), Ok(class));
        }
        let error = "stuck".parse::<Class>().unwrap_err();
        assert!(error.contains("hung, leak, pool, never_accepted"), "{error}");
    }

    #[test]
    fn a_query_is_serialized_on_one_line_and_read_back() {
        let filter = Filter {
            pids: vec![1],
            ports: vec![80],
            peers: vec![peer("10.0.0.0/8"), peer("[::1]:80"), peer("::1")],
            cgroups: vec!["a\nb".to_owned()],
            older_than: Some(Duration::from_millis(1500)),
            verdicts: vec![Class::NeverAccepted],
        };
        let list = |content| Query::List { filter: filter.clone(), content };
        let groups = ListContent::Groups(GroupBy::Process);
        let report = Query::Report { filter: filter.clone(), content: ReportContent::Courses };
        let tail = Query::Tail { since: Some(Duration::from_millis(1500)), text: true };
        for query in [list(ListContent::Table), list(groups), report, tail] {
            let line = serde_json::to_string(&query).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Query>(&line).unwrap(), query);
        }
        // A question that names no filter is for everything.
        let all = Query::List { filter: Filter::default(), content: ListContent::Sockets };
        assert_eq!(serde_json::from_str::<Query>(r#"{"list":{}}"#).unwrap(), all);
    }
}
