//! Settings of the engine.

use std::{ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    model::{Host, KeySecret},
    text::harmless_field,
};

/// Selection of the sockets that get `enter` and `leave` findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Events {
    /// Only stuck sockets.
    Stuck,
    /// All sockets.
    All,
}

/// Settings of the user, and facts about the host. Every recording contains them: a new field needs a `#[serde(default)]` with the
/// previous behavior, so that older recordings can still be read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Age at which a socket counts as stuck. Not zero.
    pub stuck_after: Duration,
    /// Sockets that get findings for their entry and exit.
    pub events: Events,
    /// Maximum number of tracked sockets; the engine drops and counts further ones.
    pub max_tracked: usize,
    /// Length of a window of the histograms. Not zero.
    pub histogram_every: Duration,
    /// Whether records contain the namespace and the role of a socket. Those of the classic tracepoint do not.
    #[serde(default = "yes")]
    pub named: bool,
    /// Whether the engine gets events. A one-off scan gets none, and knows no earlier entries and exits.
    pub watching: bool,
    /// Ports that the kernel assigns to connecting sockets (`ip_local_port_range`).
    pub ephemeral_ports: RangeInclusive<u16>,
    /// Limits of connections that the user has set, each for a local port or the remote endpoints at a port.
    #[serde(default)]
    pub connection_limits: Vec<(u16, u32)>,
    /// Reason why the agent may not see all sockets; `None` if it sees all.
    #[serde(default, deserialize_with = "harmless_field")]
    pub unseen_sockets: Option<String>,
    /// Whether the agent reads evidence of progress: owners at each refresh of stuck sockets, closes on their ports, and their peer
    /// sockets.
    #[serde(default)]
    pub reads_progress: bool,
    /// Whether the agent reads the stacks of owners of stuck sockets.
    #[serde(default)]
    pub reads_stacks: bool,
    /// Whether the agent peeks at the requests that owners of stuck sockets have not read.
    #[serde(default)]
    pub reads_requests: bool,
    /// Process id of the agent in the first pid namespace; `None` if the agent does not know it. It has a reference to a socket while it scans
    /// open files.
    #[serde(default)]
    pub agent_pid: Option<u32>,
    /// Process id of the agent's helper that peeks at requests; `None` without one. It has a descriptor of a socket while it does that.
    #[serde(default)]
    pub peek_pid: Option<u32>,
    /// Host and boot of the agent, which are part of the identity of an incident.
    #[serde(default)]
    pub host: Host,
    /// Secret for the keys that are computed from the endpoints of connections.
    #[serde(default)]
    pub key_secret: KeySecret,
}

/// Default for recordings without the field.
fn yes() -> bool {
    true
}

impl Default for Config {
    /// Returns the settings of an agent without flags, on a host with the kernel's default port range.
    fn default() -> Self {
        Self {
            stuck_after: Duration::from_secs(60),
            events: Events::Stuck,
            max_tracked: 1_000_000,
            histogram_every: Duration::from_secs(60),
            named: true,
            watching: true,
            ephemeral_ports: 32_768..=60_999,
            connection_limits: Vec::new(),
            unseen_sockets: None,
            reads_progress: false,
            reads_stacks: false,
            reads_requests: false,
            agent_pid: None,
            peek_pid: None,
            host: Host::default(),
            key_secret: KeySecret::default(),
        }
    }
}

impl Config {
    /// Whether an engine can start with these settings: a recording may contain any values.
    pub fn is_sound(&self) -> bool {
        !self.stuck_after.is_zero() && !self.histogram_every.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_secret_is_recorded_and_optional() {
        let config = Config { key_secret: KeySecret([5, 1 << 63]), ..Config::default() };
        let mut recorded = serde_json::to_value(&config).unwrap();
        let read = |value: &serde_json::Value| serde_json::from_value::<Config>(value.clone()).unwrap().key_secret;
        assert_eq!(read(&recorded), config.key_secret);
        recorded.as_object_mut().unwrap().remove("key_secret");
        assert_eq!(read(&recorded), KeySecret::default());
    }
}
