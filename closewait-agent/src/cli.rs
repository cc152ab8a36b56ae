//! The command line: types only.

mod hooks;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};

pub use self::hooks::{CertaintyArg, HooksArgs, OnFindings};
use crate::{host::limits::MAX_MAX_SOCKETS, recording::MIN_MAX_BYTES};
use closewait_engine::{model::Class, snapshot::query::Peer};

/// Default path of the control socket.
pub const SOCKET: &str = "/run/closewait/agent.sock";

/// Find which processes are stuck with CLOSE_WAIT sockets, since when, and why.
#[derive(Debug, Parser)]
#[command(name = "closewait", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Subcommand.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 failed while running, 2 usage, 69 unsupported kernel, 77 missing privilege, 78 bad configuration.
The log goes to standard error. CLOSEWAIT_LOG=debug makes it verbose.";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent: write incidents and stuck sockets to standard output and dwell time histograms to the log, until SIGINT or
    /// SIGTERM
    Run(RunArgs),
    /// List current CLOSE_WAIT sockets, oldest first
    List(ListArgs),
    /// Destroy matching sockets (dry run unless --yes)
    Kill(KillArgs),
    /// Write an incident report from an agent, a recording or a one-off scan
    Report(ReportArgs),
    /// Replay a recording of `run --record`: the same events, byte for byte
    Replay(ReplayArgs),
    /// Check what this kernel and these privileges allow, and what is missing
    Doctor(Doctor),
    /// Run hook programs for an agent; the agent starts this itself
    #[command(hide = true)]
    Hooks(HooksArgs),
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
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Dwell time after which a socket is stuck and reported; it is reported again at every doubling
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = positive_duration)]
    pub stuck_after: Duration,
    /// Events to show [default: incidents; stuck with --output json]
    #[arg(long, value_enum, value_name = "WHICH")]
    pub events: Option<EventsArg>,
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
    /// Keep CAP_SYS_ADMIN after the start, to scan network namespaces that are created later
    #[arg(long)]
    pub enter_namespaces: bool,
    /// Write debug messages of the kernel program to the log
    #[arg(long)]
    pub kernel_log: bool,
    /// Path of the agent's control socket
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub socket: PathBuf,
    /// Pin programs and maps in a directory below /sys/fs/bpf, so that the next agent continues without a gap
    #[arg(long, value_name = "DIR")]
    pub pin: Option<PathBuf>,
    /// Remove what an agent pinned with --pin (default: /sys/fs/bpf/closewait), and exit
    #[arg(long)]
    pub unpin: bool,
    /// Connection limit of a port, a server's own or a remote one: incidents forecast when it is reached
    #[arg(long, value_name = "PORT=N", value_parser = connection_limit)]
    pub connection_limit: Vec<(u16, u32)>,
    /// Hooks.
    #[command(flatten)]
    pub hooks: OnFindings,
    /// Record everything that the agent observes to a file, for `closewait replay`; overwrites the file
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Maximum size of the recording in bytes, or with K, M or G: the recording ends there, the agent continues
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = record_max)]
    pub record_max: u64,
}

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
    /// Group sockets by process, listener, peer or cgroup
    #[arg(long, value_enum, value_name = "WHAT")]
    pub by: Option<GroupByArg>,
    /// Show all columns, and do not shorten anything to fit the screen
    #[arg(long)]
    pub wide: bool,
    /// Agent to query.
    #[command(flatten)]
    pub asked: AgentArgs,
}

/// Filters that select sockets.
#[derive(Clone, Debug, Args)]
pub struct Filters {
    /// Owned by this process, or not accepted yet from its listener
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// With this local or remote port
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    pub port: Vec<u16>,
    /// With this remote end: ADDRESS, ADDRESS:PORT, or a network such as 10.0.0.0/8
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    pub peer: Vec<Peer>,
    /// In this cgroup: its path (and all below it), or a part of a path, unit name, pod name or container id
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
pub struct ReportArgs {
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Recording to report on, as of its end
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Agent to query.
    #[command(flatten)]
    pub asked: AgentArgs,
}

/// `closewait replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Recording of `closewait run --record`
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Events to show [default: incidents; stuck with --output json]
    #[arg(long, value_enum, value_name = "WHICH")]
    pub events: Option<EventsArg>,
    /// Playback speed multiplier; max: as fast as possible
    #[arg(long, value_name = "N", default_value = "max", value_parser = speed)]
    pub speed: Speed,
}

/// `--speed`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// As fast as possible.
    Max,
    /// Playback speed multiplier, above zero.
    Times(f64),
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

/// `--by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GroupByArg {
    /// Owning process.
    Process,
    /// Listening socket that accepted them.
    Listener,
    /// Remote address.
    Peer,
    /// Cgroup of the owner.
    Cgroup,
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

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write 500ms, 30s, 5m or 1h"))
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration < Duration::from_millis(1) { Err("it must be at least 1ms".to_owned()) } else { Ok(duration) }
}

fn speed(text: &str) -> Result<Speed, String> {
    match text.parse() {
        _ if text == "max" => Ok(Speed::Max),
        Ok(times) if times > 0.0 && f64::is_finite(times) => Ok(Speed::Times(times)),
        Ok(_) | Err(_) => Err("write a number above zero (1 is real time), or max".to_owned()),
    }
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
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_of_people_are_understood() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)));
        }
        assert!(duration("soon").is_err());
        assert!(positive_duration("0s").is_err());
    }

    #[test]
    fn a_map_that_the_kernel_would_read_for_too_long_is_refused() {
        let parse = |count: &str| Cli::try_parse_from(["closewait", "run", "--max-sockets", count]);
        assert!(parse("1").is_ok() && parse("1048576").is_ok());
        for count in ["0", "1048577", "16777216"] {
            let error = parse(count).unwrap_err().to_string();
            assert!(error.contains("is not in 1..=1048576"), "{error}");
        }
    }

    #[test]
    fn filters_take_several_values_and_say_what_they_take() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["closewait", "list"], args].concat());
        let Command::List(list) =
            parse(&["--pid", "1,2", "--pid=3", "--peer", "10.0.0.0/8,[::1]:80", "--verdict", "hung,never_accepted"])
                .unwrap()
                .command
        else {
            unreachable!()
        };
        assert_eq!((list.filters.pid, list.filters.peer.len()), (vec![1, 2, 3], 2));
        assert_eq!(list.filters.verdict, [Class::Hung, Class::NeverAccepted]);
        for (args, hint) in [
            (["--verdict", "stuck"], "hung, leak, pool"),
            (["--peer", "example.org"], "write it like 10.0.0.7"),
            (["--by", "port"], "process, listener, peer, cgroup"),
        ] {
            let error = parse(&args).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(hint), "{error}");
        }
    }

    #[test]
    fn the_help_names_the_default_path_of_the_socket() {
        for command in ["list", "kill", "report"] {
            let help = Cli::command().find_subcommand_mut(command).unwrap().render_help().to_string();
            let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(help.contains(&format!("[default: {SOCKET}]")), "{help}");
        }
    }

    #[test]
    fn an_empty_name_is_no_filter_that_fits_everything() {
        for name in ["", "a,"] {
            let error = Cli::try_parse_from(["closewait", "kill", "--yes", "--cgroup", name]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "an unset variable of a shell: {error}");
        }
    }

    #[test]
    fn a_limit_of_connections_has_a_port() {
        assert_eq!(connection_limit("8080=200"), Ok((8080, 200)));
        for bad in ["8080", "=200", "0=1", "8080=0", "8080=x", "70000=1"] {
            assert!(connection_limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_size_may_have_a_suffix() {
        for (text, bytes) in [("65536", 65_536), ("64k", 65_536), ("64K", 65_536), ("2M", 2 << 20), ("3g", 3 << 30)] {
            assert_eq!(record_max(text), Ok(bytes));
        }
        for bad in ["", "k", "1k5", "+1M", "1.5M", "64KiB", "64 K", "99999999999G", "\u{661}M"] {
            assert!(record_max(bad).is_err_and(|error| error.contains("1048576, 1024K or 1M")), "{bad}");
        }
        assert!(record_max("1k").is_err_and(|error| error.contains("65536 (64K)")));
        let Command::Run(run) = Cli::try_parse_from(["closewait", "run"]).unwrap().command else { unreachable!() };
        assert_eq!(run.record_max, 64 << 20);
    }

    #[test]
    fn a_speed_is_above_zero_or_the_most() {
        assert_eq!((speed("max"), speed("0.5")), (Ok(Speed::Max), Ok(Speed::Times(0.5))));
        for bad in ["0", "-1", "inf", "NaN", "fast", ""] {
            assert!(speed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_ring_buffer_is_a_power_of_two() {
        assert_eq!((ring_bytes("4096"), ring_bytes("4K"), ring_bytes("1g")), (Ok(4096), Ok(4096), Ok(1 << 30)));
        for bad in ["0", "4097", "2048", "-1", "4294967296", "x"] {
            assert!(ring_bytes(bad).is_err(), "{bad}");
        }
    }
}
