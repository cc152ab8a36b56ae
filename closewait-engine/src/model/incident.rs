//! Identity and state of an incident.

use std::{fmt, hash::Hasher as _};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::{Certainty, Class, PileupGroup, Role, RuleName, Verdict, verdict::rule_name};
use crate::{text::harmless_field, time::BootTime};

/// Host and boot on which an agent runs. A recording contains them, so that a replay gives the same incidents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Name of the host, as `uname -n` prints it; `None` if unknown.
    #[serde(deserialize_with = "harmless_field")]
    pub name: Option<String>,
    /// Random identifier of this boot (`/proc/sys/kernel/random/boot_id`); `None` if unknown.
    #[serde(deserialize_with = "harmless_field")]
    pub boot: Option<String>,
}

/// Identifier of an incident: a hash of host, boot, group and onset. The group includes the network namespace.
///
/// The onset of the identity is the first exact entry among the present sockets after the last pause of ten minutes without an
/// entry. An agent that starts again with the entry times that the kernel has kept finds the same one, and so the same identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IncidentId(u64);

impl IncidentId {
    /// Returns the identifier of the incident of a group. `onset` is the entry of its first socket.
    pub fn new(host: &Host, group: &PileupGroup, onset: BootTime) -> Self {
        // The hash has no secret: two agents have to agree on it.
        let mut hash = SipHasher13::new();
        // A length in front of each text keeps apart texts that are equal only when joined.
        let mut part = |bytes: &[u8]| {
            hash.write(&(bytes.len() as u64).to_le_bytes());
            hash.write(bytes);
        };
        part(host.name.as_deref().unwrap_or_default().as_bytes());
        part(host.boot.as_deref().unwrap_or_default().as_bytes());
        let PileupGroup { role, netns, cgroup, local_port, remote } = *group;
        part(role.map(Role::name).unwrap_or_default().as_bytes());
        part(&netns.unwrap_or_default().to_le_bytes());
        part(&cgroup.unwrap_or_default().to_le_bytes());
        part(&local_port.unwrap_or_default().to_le_bytes());
        part(remote.map(|remote| remote.to_string()).unwrap_or_default().as_bytes());
        part(&onset.0.to_le_bytes());
        Self(hash.finish())
    }
}

impl fmt::Display for IncidentId {
    /// Writes 16 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// State of an incident at one report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum IncidentState {
    /// The incident is new.
    Opened,
    /// The number of sockets has doubled, or a limit is near.
    Updated,
    /// A limit is reached.
    Exhausted,
    /// The incident has ended.
    Resolved,
}

impl IncidentState {
    /// Returns the name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Updated => "updated",
            Self::Exhausted => "exhausted",
            Self::Resolved => "resolved",
        }
    }
}

/// Identity and state of a group's incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentStatus {
    /// Identifier of the incident.
    pub id: IncidentId,
    /// State of the incident.
    pub state: IncidentState,
    /// Time of the incident's first report.
    pub began: BootTime,
}

/// Diagnosis of an incident at its last report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastDiagnosis {
    /// Time of the report.
    pub at: BootTime,
    /// Class of the cause.
    pub class: Class,
    /// Name of the rule that applied.
    #[serde(deserialize_with = "rule_name")]
    pub rule: RuleName,
    /// Certainty of `class`.
    pub certainty: Certainty,
}

impl LastDiagnosis {
    /// Returns the diagnosis of a report at `at`.
    pub fn new(at: BootTime, verdict: &Verdict) -> Self {
        let Verdict { class, rule, certainty, .. } = *verdict;
        Self { at, class, rule, certainty }
    }
}

/// Numbers of stuck sockets and of open incidents at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StuckCounts {
    /// Number of groups with stuck sockets or an open incident.
    pub groups: u32,
    /// Number of open incidents.
    pub incidents: u32,
    /// Number of open incidents that have reached a limit.
    pub exhausted: u32,
    /// Number of stuck sockets.
    pub sockets: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Endpoint;

    const NOWHERE: PileupGroup = PileupGroup { role: None, netns: None, cgroup: None, local_port: None, remote: None };

    fn host(name: &str, boot: &str) -> Host {
        Host { name: Some(name.to_owned()), boot: Some(boot.to_owned()) }
    }

    #[test]
    fn each_part_of_the_identity_changes_the_identifier() {
        let group = PileupGroup { role: Some(Role::Server), netns: Some(7), local_port: Some(80), ..NOWHERE };
        let remote = Endpoint { address: std::net::Ipv4Addr::new(10, 0, 0, 7).into(), port: 80 };
        let at = BootTime(5);
        let ids = [
            IncidentId::new(&host("a", "b"), &group, at),
            IncidentId::new(&host("ab", ""), &group, at),
            IncidentId::new(&host("", "ab"), &group, at),
            IncidentId::new(&Host::default(), &group, at),
            IncidentId::new(&host("a", "b"), &group, BootTime(6)),
            IncidentId::new(&host("a", "b"), &PileupGroup { netns: Some(8), ..group.clone() }, at),
            IncidentId::new(&host("a", "b"), &PileupGroup { local_port: Some(81), ..group.clone() }, at),
            IncidentId::new(&host("a", "b"), &PileupGroup { role: None, ..group.clone() }, at),
            IncidentId::new(&host("a", "b"), &PileupGroup { cgroup: Some(1), ..group.clone() }, at),
            IncidentId::new(&host("a", "b"), &PileupGroup { remote: Some(remote), ..group.clone() }, at),
        ];
        let different: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len(), "{ids:?}");
        assert_eq!(ids[0], IncidentId::new(&host("a", "b"), &group, at));
    }

    /// Other agents, and agents of later versions, have to agree.
    #[test]
    fn the_identifier_of_an_incident_never_changes() {
        let group = PileupGroup { role: Some(Role::Server), netns: Some(7), local_port: Some(80), ..NOWHERE };
        let id = IncidentId::new(&host("web-1", "4c3f"), &group, BootTime(1_000));
        assert_eq!(id.to_string(), "36066faa0ec32510");
    }
}
