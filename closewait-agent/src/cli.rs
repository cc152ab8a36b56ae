//! The command line: types only.

mod asked;
mod check;
mod completions;
mod config;
mod hooks;
mod list;
mod order;
mod peek;
mod record;
mod replay;
mod stacks;
mod tail;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

pub use self::{
    asked::{AgentArgs, Filters},
    check::CheckArgs,
    completions::{CompletionsArgs, ShellArg},
    config::{ConfigAction, ConfigArgs, ConfigCheckArgs, ConfigShowArgs, NOT_KEYS, SHARED_KEYS},
    hooks::{CertaintyArg, HooksArgs, OnFindings},
    list::{GroupByArg, ListArgs, SortArg},
    order::options_behind_command,
    peek::PeekArg,
    record::RetainLimit,
    replay::{ReplayArgs, Speed},
    stacks::{ReadStacksArgs, StacksArg, StacksArgs},
    tail::TailArgs,
};
use crate::{host::limits::MAX_MAX_SOCKETS, metrics::ListenAddress, otlp::OtlpUrl, recording::MIN_MAX_BYTES};

/// Default path of the control socket.
pub const SOCKET: &str = "/run/closewait/agent.sock";

/// Find which processes are stuck with CLOSE_WAIT sockets, since when, and why.
#[derive(Debug, Parser)]
#[command(
    name = "closewait",
    version,
    after_help = NOTES,
    args_conflicts_with_subcommands = true,
    override_usage = "closewait [OPTIONS] [COMMAND]"
)]
pub struct Cli {
    /// Subcommand; `None` stands for `status`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `status`, if there is no subcommand.
    #[command(flatten)]
    pub status: StatusArgs,
}

impl Cli {
    /// Returns the subcommand.
    pub fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Status(self.status))
    }
}

const NOTES: &str = "\
The options are those of `status`. In front of another command, an option counts for that command if it has it: closewait --socket \
PATH list.

Exit codes: 0 ok, 1 failed while running, 2 usage, 69 unsupported kernel, 77 missing privilege, 78 bad configuration; \
check: 0 ok, 1 warning, 2 critical, 3 unknown.

The log goes to standard error. CLOSEWAIT_LOG=debug makes it verbose.";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show all groups of CLOSE_WAIT sockets on one screen, the worst first, with causes and next steps (the default)
    Status(StatusArgs),
    /// Run the agent: write incidents and stuck sockets to standard output and dwell time histograms to the log, until SIGINT or
    /// SIGTERM
    Run(RunArgs),
    /// Show all groups live on a full screen, or move through a recording
    Top(TopArgs),
    /// List current CLOSE_WAIT sockets, oldest first
    List(ListArgs),
    /// Follow the events of a running agent, until it ends or SIGINT
    Tail(TailArgs),
    /// Destroy matching sockets (dry run unless --yes)
    Kill(KillArgs),
    /// Write an incident report from an agent, a recording or a one-off scan
    Report(ReportArgs),
    /// Replay a recording of `run --record`: the same events, byte for byte
    Replay(ReplayArgs),
    /// Explain a verdict: its conditions, the evidence against it, similar cases, and what to do; or a word of the output
    Explain(ExplainArgs),
    /// Show what the threads of a process are doing, without stopping it
    Stacks(StacksArgs),
    /// Check as a monitoring probe; with `-- CMD`, run CMD and fail if it leaves sockets in CLOSE_WAIT
    Check(CheckArgs),
    /// Check and show the configuration of `run`, from files, the environment and the command line
    Config(ConfigArgs),
    /// Check what this kernel and these privileges allow, and what is missing
    Doctor(Doctor),
    /// Print a script that completes the commands and options of closewait in a shell
    Completions(CompletionsArgs),
    /// Run hook programs for an agent; the agent starts this itself
    #[command(hide = true)]
    Hooks(HooksArgs),
    /// Ask Java virtual machines for an agent; the agent starts this itself
    #[command(hide = true)]
    JvmDumps,
    /// Peek at unread requests for an agent; the agent starts this itself
    #[command(hide = true)]
    Peeks,
}

/// Options of every command.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// Human-readable text, or one JSON object per line
    #[arg(long, value_enum, default_value_t = OutputFormat::Text, value_name = "FORMAT")]
    pub output: OutputFormat,
    /// Color of text; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
}

/// `closewait run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Configuration file, instead of /etc/closewait/closewait.toml and /etc/closewait/conf.d/*.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Dwell time after which a socket is stuck and reported; it is reported again at every doubling
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = positive_duration)]
    pub stuck_after: Duration,
    /// Events to show [default: incidents; stuck with --output json]
    #[arg(long, value_enum, value_name = "WHICH")]
    pub events: Option<EventsArg>,
    /// Send events to the systemd journal, with fields, instead of standard output
    #[arg(long, conflicts_with_all = ["output", "color"])]
    pub journal: bool,
    /// Interval between dwell time histograms
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = positive_duration)]
    pub histogram_every: Duration,
    /// Stop after this time
    #[arg(long = "for", value_name = "DUR", value_parser = duration)]
    pub run_for: Option<Duration>,
    /// Maximum number of sockets whose entry times the kernel keeps, 80 bytes each; at most 1048576 [default: 262144, lower
    /// under a memory limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_MAX_SOCKETS)))]
    pub max_sockets: Option<u32>,
    /// Maximum number of sockets that the agent tracks, about 550 bytes each and up to 3400 while they are listed; any more
    /// are only counted [default: 1000000, lower under a memory limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub max_tracked: Option<u32>,
    /// Size of the ring buffer between kernel and agent in bytes, or with K, M or G: a power of two, at least 4K [default: 4M,
    /// lower under a memory limit]
    #[arg(long, value_name = "BYTES", value_parser = ring_bytes)]
    pub ring_buffer: Option<u32>,
    /// Kernel hook; auto: tp_btf if the kernel has BTF, otherwise the classic tracepoint
    #[arg(long, value_enum, default_value_t = TracepointArg::Auto, value_name = "HOOK")]
    pub hook: TracepointArg,
    /// Record which task opened each socket (costs a few percent at peak connection rate)
    #[arg(long)]
    pub openers: bool,
    /// Stacks.
    #[command(flatten)]
    pub stacks: ReadStacksArgs,
    /// Requests that stuck sockets have not read: method and path, or the server name of TLS; never query, headers or body
    #[arg(long, value_enum, default_value_t = PeekArg::Never, value_name = "WHAT")]
    pub peek: PeekArg,
    /// Keep CAP_SYS_ADMIN after the start, to scan network namespaces that are created later
    #[arg(long)]
    pub enter_namespaces: bool,
    /// Write debug messages of the kernel program to the log
    #[arg(long)]
    pub kernel_log: bool,
    /// Path of the agent's control socket
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub socket: PathBuf,
    /// Name of this host in events, reports and OTLP, such as the node of a Kubernetes pod [default: that of the kernel]
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    pub host_name: Option<String>,
    /// Serve metrics for Prometheus at a loopback address and port, or at a Unix socket: 127.0.0.1:9753 or unix:/PATH;
    /// remote:0.0.0.0:9753 serves everybody who reaches this host, without authentication
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<ListenAddress>,
    /// Export metrics and events over OTLP/HTTP to this collector, such as http://127.0.0.1:4318; the variables
    /// OTEL_EXPORTER_OTLP_* do the same and set more
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<OtlpUrl>,
    /// Pin programs and maps in a directory below /sys/fs/bpf, so that the next agent continues without a gap
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub pin: Option<PathBuf>,
    /// Remove what an agent pinned with --pin (default: /sys/fs/bpf/closewait), and exit
    #[arg(long)]
    pub unpin: bool,
    /// Connection limit of a port, a server's own or a remote one: incidents forecast when it is reached
    #[arg(long, value_name = "PORT=N", value_delimiter = ',', value_parser = connection_limit)]
    pub connection_limit: Vec<(u16, u32)>,
    /// Hooks.
    #[command(flatten)]
    pub hooks: OnFindings,
    /// Record everything that the agent observes to a file, which is overwritten, or to segments in a directory (DIR/)
    #[arg(long, value_name = "FILE|DIR/")]
    pub record: Option<PathBuf>,
    /// Time and size of a recording in a directory, as 1h, 1GiB or 1h,1GiB: the oldest segments are deleted [default: 1h,1GiB]
    #[arg(long, value_name = "TIME|SIZE", value_delimiter = ',', value_parser = record::retain, requires = "record")]
    pub retain: Vec<RetainLimit>,
    /// Maximum size of the recording in bytes, or with K, M or G: the recording ends there, the agent continues
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = record_max)]
    pub record_max: u64,
}

/// `closewait status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Show labels instead of addresses and names of hosts, users, programs, files and functions, for readers outside: file-1,
    /// 2001:db8::1. Ports, numbers and verdicts stay
    #[arg(long)]
    pub redact: bool,
    /// Agent to query.
    #[command(flatten)]
    pub asked: AgentArgs,
}

/// `closewait top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// Color; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
    /// Print the screen once as text; also the default if standard output is no terminal
    #[arg(long)]
    pub once: bool,
    /// Move through a recording of `run --record`: space plays, arrow keys step, t goes to a time
    #[arg(long, value_name = "FILE|DIR", conflicts_with_all = ["alone", "socket"])]
    pub replay: Option<PathBuf>,
    /// Time in the recording: since its start (1m30s), or of the day in UTC (22:45:20) [default: its end]
    #[arg(long, value_name = "TIME", requires = "replay")]
    pub at: Option<String>,
    /// Agent to query.
    #[command(flatten)]
    pub asked: AgentArgs,
}

const FILTERS: &str = "\
A socket matches if every filter matches. Several values of one filter (--pid 1,2 or --pid 1 --pid 2) are alternatives.";

/// `closewait kill`.
#[derive(Clone, Debug, Args)]
#[command(after_help = KILLING)]
pub struct KillArgs {
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Filters.
    #[command(flatten)]
    pub filters: Filters,
    /// Destroy the sockets; without it, only show what would be destroyed
    #[arg(long)]
    pub yes: bool,
    /// Do nothing if more sockets than this match
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub max: u32,
    /// Show all columns, and do not shorten anything to fit the screen
    #[arg(long)]
    pub wide: bool,
    /// Agent to query.
    #[command(flatten)]
    pub asked: AgentArgs,
}

const KILLING: &str = "\
At least one filter is required. A socket matches if every filter matches. Several values of one filter (--pid 1,2 or \
--pid 1 --pid 2) are alternatives.

The peer gets a RST, the owner gets ECONNABORTED, and its descriptor stays open. closewait refuses sockets that are not \
accepted yet and half-closed connections in use. Needs CAP_NET_ADMIN.";

/// `closewait report`.
#[derive(Clone, Debug, Args)]
#[command(after_help = FILTERS)]
pub struct ReportArgs {
    /// Text, Markdown or an HTML page for a ticket system, or one JSON object
    #[arg(long, value_enum, default_value_t = ReportOutput::Text, value_name = "FORMAT")]
    pub output: ReportOutput,
    /// Color of text; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
    /// Recording to report on, as of its end: a file, or a directory with segments
    #[arg(value_name = "FILE|DIR", conflicts_with_all = ["pid", "port", "peer", "cgroup", "older_than", "verdict"])]
    pub file: Option<PathBuf>,
    /// Leave out incidents that ended before the last part of this length, such as 15m
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "file")]
    pub last: Option<Duration>,
    /// Show labels instead of addresses and names of hosts, users, programs, files and functions, for readers outside: file-1,
    /// 2001:db8::1. Ports, numbers and verdicts stay
    #[arg(long)]
    pub redact: bool,
    /// Filters.
    #[command(flatten)]
    pub filters: Filters,
    /// Agent to query.
    #[command(flatten)]
    pub asked: AgentArgs,
}

/// Name of the value of `closewait explain`. Completions have all values of an argument with this name.
pub const EXPLAINED: &str = "CLASS|RULE|COLUMN|WORD";

/// `closewait explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Class or rule of a verdict, such as hung or blocked, a column, such as RECV-Q, or a word of the output, such as stuck; without it,
    /// list all of them
    #[arg(value_name = EXPLAINED)]
    pub name: Option<String>,
}

/// `closewait doctor`.
#[derive(Clone, Debug, Args)]
pub struct Doctor {
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
}

/// `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Lines and tables.
    Text,
    /// Objects.
    Json,
}

/// `--output` of `closewait report`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportOutput {
    /// Text for people.
    Text,
    /// Markdown.
    Md,
    /// HTML page.
    Html,
    /// One object.
    Json,
}

/// `--color`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// Color if standard output is a terminal.
    Auto,
    /// Color everywhere.
    Always,
    /// No color.
    Never,
}

/// `--events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EventsArg {
    /// Incidents; in text also the first stuck sockets of a group.
    Incidents,
    /// Incidents, and each socket that gets stuck.
    Stuck,
    /// Incidents, and all sockets.
    All,
}

impl EventsArg {
    /// Returns the default for a format: people get incidents, programs each stuck socket.
    pub const fn default_for(output: OutputFormat) -> Self {
        match output {
            OutputFormat::Text => Self::Incidents,
            OutputFormat::Json => Self::Stuck,
        }
    }
}

/// `--hook`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TracepointArg {
    /// The BTF-typed tracepoint if the kernel has it, otherwise the classic one.
    Auto,
    /// The BTF-typed tracepoint.
    Btf,
    /// The classic tracepoint.
    Classic,
}

/// Reads the number of a process.
fn pid(text: &str) -> Result<u32, String> {
    let pid = text.parse().ok().filter(|pid| *pid > 0);
    pid.ok_or_else(|| "write the number of a process (PID), as pgrep shows it".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| {
        // Its own examples come after a comma.
        let error = error.to_string();
        format!("{}; write 500ms, 30s, 5m or 1h", error.split(',').next().unwrap_or(&error))
    })
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration < Duration::from_millis(1) { Err("it must be at least 1ms".to_owned()) } else { Ok(duration) }
}

fn host_name(text: &str) -> Result<String, String> {
    let is_name = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    // The longest name of a node in Kubernetes.
    if is_name && (1..=253).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err("write 1 to 253 letters, digits, dots, dashes and underscores, such as web-17.example.com".to_owned())
}

fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes = u32::try_from(bytes(text)?).ok();
    bytes
        .filter(|bytes| bytes.is_power_of_two() && (4096..=1 << 30).contains(bytes))
        .ok_or_else(|| "it must be a power of two from 4096 (4K) to 1073741824 (1G)".to_owned())
}

fn record_max(text: &str) -> Result<u64, String> {
    let bytes = bytes(text)?;
    if bytes >= MIN_MAX_BYTES {
        Ok(bytes)
    } else {
        Err(format!("it must be at least {MIN_MAX_BYTES} ({}K)", MIN_MAX_BYTES >> 10))
    }
}

/// Parses a number of bytes, with the suffix K, M or G for powers of 1024.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (text.get(..at), 10),
        Some((at, 'm' | 'M')) => (text.get(..at), 20),
        Some((at, 'g' | 'G')) => (text.get(..at), 30),
        _ => (Some(text), 0),
    };
    let number = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.and_then(|digits| digits.parse::<u64>().ok());
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "write a number of bytes, or one with K, M or G: 1048576, 1024K or 1M".to_owned())
}

/// Parses `PORT=N`.
fn connection_limit(text: &str) -> Result<(u16, u32), String> {
    let parsed = text.split_once('=').and_then(|(port, most)| Some((port.parse().ok()?, most.parse().ok()?)));
    parsed.filter(|(port, most)| *port > 0 && *most > 0).ok_or_else(|| "write PORT=N, for example 8080=200".to_owned())
}

#[cfg(test)]
mod tests;
