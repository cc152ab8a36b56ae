//! Command line of `closewait list`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{AgentArgs, FILTERS, Filters, OutputArgs, duration};

/// Minimum interval of `--watch`.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// `closewait list`.
#[derive(Clone, Debug, Args)]
#[command(after_help = FILTERS)]
pub struct ListArgs {
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Filters.
    #[command(flatten)]
    pub filters: Filters,
    /// Show one row per socket, or per group of sockets
    #[arg(long, value_enum, default_value_t = GroupByArg::Socket, value_name = "WHAT")]
    pub by: GroupByArg,
    /// Property that sorts rows [default: age for sockets, urgency for --by group, number of sockets for others]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub sort: Option<SortArg>,
    /// Reverse the order of rows
    #[arg(long)]
    pub reverse: bool,
    /// Columns to show, in this order: headings of the table in lower case; for sockets also protocol, role, cookie, inode,
    /// cgroup, received, sent, acked, read, keepalive, listener, waits-for, opener, rule, cause
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Show all rows, even if they do not fit the screen
    #[arg(long)]
    pub all: bool,
    /// Show all columns and rows, and do not shorten anything to fit the screen
    #[arg(long)]
    pub wide: bool,
    /// List again at this interval, until SIGINT
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = interval)]
    pub watch: Option<Duration>,
    /// Show labels instead of addresses and names of hosts, users, programs, files and functions, for readers outside: file-1,
    /// 2001:db8::1. Ports, numbers and verdicts stay
    #[arg(long)]
    pub redact: bool,
    /// Agent to query.
    #[command(flatten)]
    pub asked: AgentArgs,
}

/// `--by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GroupByArg {
    /// Nothing: one row per socket.
    Socket,
    /// Owner and port or remote endpoint, as in `closewait status`.
    Group,
    /// Owning process.
    Process,
    /// Listening socket that accepted them.
    Listener,
    /// Remote address.
    Peer,
    /// Cgroup of the owner.
    Cgroup,
}

/// `--sort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SortArg {
    /// Age, the oldest first.
    Age,
    /// Unread bytes, the most first.
    RecvQ,
    /// Unacknowledged bytes, the most first.
    SendQ,
    /// Port of the server.
    Port,
    /// Name of the owner.
    Owner,
    /// Verdict, the most serious first.
    Verdict,
}

/// Parses a number of seconds, or a duration.
fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let interval = match seconds {
        Some(interval) => interval,
        None => duration(text)?,
    };
    if interval < MIN_INTERVAL { Err("it must be at least 100ms".to_owned()) } else { Ok(interval) }
}
