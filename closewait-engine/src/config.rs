//! What the engine is told at its beginning.

use std::{ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

use super::{model::KeySecret, text::harmless_field};

/// Which sockets get `enter` and `leave` findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Events {
    /// Those that had been stuck.
    Stuck,
    /// Every one.
    All,
}

/// What the user has chosen, and what the host has. It stands in every recording: what is added here gets a
/// `#[serde(default)]` that does what was done before, so that those made before are still read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Age at which a socket counts as stuck. Not zero.
    pub stuck_after: Duration,
    /// Which sockets get findings for their entering and leaving.
    pub events: Events,
    /// So many sockets are tracked at a time; further ones are counted.
    pub max_tracked: usize,
    /// Length of a window of the histograms. Not zero.
    pub histogram_every: Duration,
    /// Whether records tell the namespace and the side of a socket: those of the classic tracepoint do not.
    #[serde(default = "yes")]
    pub named: bool,
    /// Whether events come in. A one-off scan has none, and knows nothing of what came and went.
    pub watching: bool,
    /// Ports that the kernel gives to connecting sockets (`ip_local_port_range`).
    pub ephemeral_ports: RangeInclusive<u16>,
    /// How many connections a local port, or the remote ends at a port, may have, as the user says.
    #[serde(default)]
    pub connection_limits: Vec<(u16, u32)>,
    /// Why there may be sockets that cannot be seen, in words, if so.
    #[serde(default, deserialize_with = "harmless_field")]
    pub unseen_sockets: Option<String>,
    /// Whether the agent reads what shows that a program makes progress: owners at each refresh of stuck sockets, closes of
    /// their ports, and their other ends.
    #[serde(default)]
    pub reads_progress: bool,
    /// Secret of the keys that are made of the ends of connections.
    #[serde(default)]
    pub key_secret: KeySecret,
}

/// Of recordings that do not say.
fn yes() -> bool {
    true
}

impl Default for Config {
    /// What an agent has that is told nothing, on a host with the kernel's own range of ports.
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
            key_secret: KeySecret::default(),
        }
    }
}

impl Config {
    /// Whether an engine can begin with it: one from a recording may say anything.
    pub fn is_sound(&self) -> bool {
        !self.stuck_after.is_zero() && !self.histogram_every.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_of_keys_is_recorded_and_need_not_be() {
        let config = Config { key_secret: KeySecret([5, 1 << 63]), ..Config::default() };
        let mut recorded = serde_json::to_value(&config).unwrap();
        let read = |value: &serde_json::Value| serde_json::from_value::<Config>(value.clone()).unwrap().key_secret;
        assert_eq!(read(&recorded), config.key_secret);
        recorded.as_object_mut().unwrap().remove("key_secret");
        assert_eq!(read(&recorded), KeySecret::default());
    }
}
