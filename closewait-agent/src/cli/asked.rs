//! Options that select sockets, and the agent that is asked for them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, builder::NonEmptyStringValueParser};

use super::{duration, pid};
use closewait_engine::{model::Class, snapshot::query::Peer};

/// Filters that select sockets.
#[derive(Clone, Debug, Args)]
pub struct Filters {
    /// Owned by this process, or not accepted yet from its listener
    #[arg(long, value_name = "PID", value_delimiter = ',', value_parser = pid)]
    pub pid: Vec<u32>,
    /// With this local or remote port
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    pub port: Vec<u16>,
    /// With this remote end: ADDRESS, ADDRESS:PORT, or a network such as 10.0.0.0/8
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    pub peer: Vec<Peer>,
    /// In this cgroup: its path (and all below it), a part of a path, unit name, pod name or container id, or id:N for a
    /// cgroup without a known path
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub cgroup: Vec<String>,
    /// In CLOSE_WAIT for at least this time
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub older_than: Option<Duration>,
    /// With this cause: hung, leak, pool, never_accepted, half_close, inherited, proxy_wait, transient, unknown
    #[arg(long, value_name = "CLASS", value_delimiter = ',')]
    pub verdict: Vec<Class>,
}

/// The agent to query.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// Control socket of the agent to query, if one is running [default: /run/closewait/agent.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Do not query a running agent
    #[arg(long)]
    pub alone: bool,
}

/// Label of the control socket in redacted output: its folders can have the name of a user.
const REDACTED_SOCKET: &str = "PATH";

impl AgentArgs {
    /// Returns the control socket for proposed commands, if the user has given one: its path, or a label.
    pub fn shown_socket(&self, is_redacted: bool) -> Option<&Path> {
        let socket = self.socket.as_deref();
        if is_redacted { socket.map(|_| Path::new(REDACTED_SOCKET)) } else { socket }
    }
}
