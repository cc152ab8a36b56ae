//! The command line: types only.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};

use crate::{host::limits::MAX_MAX_SOCKETS, recording::MIN_MAX_BYTES};
use closewait_engine::{model::Class, query::Peer};

/// Where the agent listens for those that ask it.
const SOCKET: &str = "/run/closewait/agent.sock";

/// Who holds sockets in CLOSE_WAIT, since when, and why.
#[derive(Debug, Parser)]
#[command(name = "closewait", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 failed while running, 2 usage, 69 this kernel cannot, 77 missing privilege, 78 bad configuration.
The log goes to standard error; CLOSEWAIT_LOG=debug makes it say more.";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch: stream stuck sockets to standard output, dwell histograms to the log, until SIGINT or SIGTERM
    Run(RunArgs),
    /// Show the sockets that are in CLOSE_WAIT now, oldest first
    List(ListArgs),
    /// Destroy sockets in CLOSE_WAIT that a filter selects: shows the plan, and does it with --yes only
    Kill(KillArgs),
    /// Tell all that is known of an incident, to be put into a ticket: of a running agent, of a recording, or by one look
    Report(ReportArgs),
    /// Play what `run --record` has kept: the same events, byte for byte
    Replay(ReplayArgs),
    /// Tell what this kernel and these privileges allow, and what is missing
    Doctor(Doctor),
    /// Run programs for an agent, which starts this itself
    #[command(hide = true)]
    Hooks(HooksArgs),
}

/// Flags of every command.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// Text for people, or JSON with one object a line
    #[arg(long, value_enum, default_value_t = OutputFormat::Text, value_name = "FORMAT")]
    pub output: OutputFormat,
    /// Whether text is coloured; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = Colour::Auto, value_name = "WHEN")]
    pub color: Colour,
}

/// `closewait run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Format and colour.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Age at which a socket is reported, and again at every doubling
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = positive_duration)]
    pub stuck_after: Duration,
    /// Sockets whose entering and leaving is reported: those that had been stuck, or every one
    #[arg(long, value_enum, default_value_t = EventsArg::Stuck, value_name = "WHICH")]
    pub events: EventsArg,
    /// How often dwell histograms are written
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = positive_duration)]
    pub histogram_every: Duration,
    /// Stop after this time
    #[arg(long = "for", value_name = "DUR", value_parser = duration)]
    pub run_for: Option<Duration>,
    /// Number of sockets in CLOSE_WAIT whose time of entry the kernel keeps, some 80 bytes each, 1048576 at most
    /// [default: 262144, fewer under a memory limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_MAX_SOCKETS)))]
    pub max_sockets: Option<u32>,
    /// Number of sockets in CLOSE_WAIT that the agent tracks, some 550 bytes each and up to 3400 while they are listed; further
    /// ones are counted only [default: 1000000, fewer under a memory limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub max_tracked: Option<u32>,
    /// Size of the ring buffer between kernel and agent in bytes, a power of two, 4096 at least [default: 4194304, smaller
    /// under a memory limit]
    #[arg(long, value_name = "BYTES", value_parser = ring_bytes)]
    pub ring_buffer: Option<u32>,
    /// How to attach to the kernel; auto: tp_btf where the kernel has BTF, else the classic tracepoint
    #[arg(long, value_enum, default_value_t = TracepointArg::Auto, value_name = "HOOK")]
    pub hook: TracepointArg,
    /// Keep which task connects each socket; costs some per cent of the highest rate of connections
    #[arg(long)]
    pub openers: bool,
    /// Keep CAP_SYS_ADMIN after the start, to look into network namespaces that come later
    #[arg(long)]
    pub enter_namespaces: bool,
    /// Write the kernel program's own debug messages to the log
    #[arg(long)]
    pub kernel_log: bool,
    /// UNIX socket at which other commands reach the agent
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub socket: PathBuf,
    /// Keep programs and maps in a directory below /sys/fs/bpf, so that the next agent goes on without a gap
    #[arg(long, value_name = "DIR")]
    pub pin: Option<PathBuf>,
    /// Remove what an agent has kept with --pin, by default in /sys/fs/bpf/closewait, and end
    #[arg(long)]
    pub unpin: bool,
    /// How many connections a port may have, a server's own or that of the servers it connects to: when sockets pile up,
    /// the time until that is reached is told
    #[arg(long, value_name = "PORT=N", value_parser = connection_limit)]
    pub connection_limit: Vec<(u16, u32)>,
    /// Programs to run.
    #[command(flatten)]
    pub hooks: OnFindings,
    /// Keep everything that is observed in a file, for `closewait replay`; what is there already is overwritten
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Most bytes of that file: the recording ends there, the agent goes on
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(MIN_MAX_BYTES..))]
    pub record_max: u64,
}

/// Flags of `run` for programs that are run when something is found: docs/hooks.md.
#[derive(Clone, Debug, Args)]
pub struct OnFindings {
    /// Program to run when sockets get stuck, with the facts in its environment: a path, without arguments
    #[arg(long, value_name = "CMD")]
    pub on_stuck: Option<PathBuf>,
    /// Program to run when sockets pile up
    #[arg(long, value_name = "CMD")]
    pub on_pileup: Option<PathBuf>,
    /// How long such a program may run
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = positive_duration)]
    pub hook_timeout: Duration,
    /// How often such a program runs, at most, for one process and port
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = duration)]
    pub hook_every: Duration,
}

/// `closewait hooks`.
#[derive(Clone, Debug, Args)]
pub struct HooksArgs {
    /// For sockets that get stuck
    #[arg(long, value_name = "CMD")]
    pub on_stuck: Option<PathBuf>,
    /// For sockets that pile up
    #[arg(long, value_name = "CMD")]
    pub on_pileup: Option<PathBuf>,
    /// How long one may run
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = positive_duration)]
    pub timeout: Duration,
}

/// `closewait list`.
#[derive(Clone, Debug, Args)]
#[command(after_help = FILTERS)]
pub struct ListArgs {
    /// Format and colour.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Which sockets.
    #[command(flatten)]
    pub filters: Filters,
    /// One line for all sockets of the same process, listener, peer or cgroup
    #[arg(long, value_enum, value_name = "WHAT")]
    pub by: Option<GroupByArg>,
    /// Every column, and nothing shortened to fit the screen
    #[arg(long)]
    pub wide: bool,
    /// Who is asked.
    #[command(flatten)]
    pub asked: AgentArgs,
}

/// Which sockets are meant.
#[derive(Clone, Debug, Args)]
pub struct Filters {
    /// Held by this process, or waiting at its listener
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// With this port at either end
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    pub port: Vec<u16>,
    /// With this other end: an address, ADDRESS:PORT, or a network like 10.0.0.0/8
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    pub peer: Vec<Peer>,
    /// In this cgroup: a path (with all below it), or part of one, of a unit's or a pod's name, or of a container's id
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub cgroup: Vec<String>,
    /// In CLOSE_WAIT for this time at least
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub older_than: Option<Duration>,
    /// Kept there by this cause: hung, leak, pool, never_accepted, half_close, inherited, proxy_wait, transient, unknown
    #[arg(long, value_name = "CLASS", value_delimiter = ',')]
    pub verdict: Vec<Class>,
}

/// Who is asked for sockets.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// UNIX socket of the agent that is asked, if one runs
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub socket: PathBuf,
    /// Ask no running agent
    #[arg(long)]
    pub alone: bool,
}

const FILTERS: &str = "\
Several values of one filter (--pid 1,2 or --pid 1 --pid 2) are alternatives; different filters have to fit all.";

/// `closewait kill`.
#[derive(Clone, Debug, Args)]
#[command(after_help = KILLING)]
pub struct KillArgs {
    /// Format and colour.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Which sockets.
    #[command(flatten)]
    pub filters: Filters,
    /// Do it; without, the plan is shown and nothing is touched
    #[arg(long)]
    pub yes: bool,
    /// Do nothing if it would be more sockets than this
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub max: u32,
    /// Every column, and nothing shortened to fit the screen
    #[arg(long)]
    pub wide: bool,
    /// Who is asked.
    #[command(flatten)]
    pub asked: AgentArgs,
}

const KILLING: &str = "\
At least one filter has to be given; they are those of closewait list. Several values of one filter (--pid 1,2 or --pid 1 \
--pid 2) are alternatives; different filters have to fit all.

The peer gets a RST, the program ECONNABORTED, and its descriptor stays open. Sockets that nobody has accepted and half-closed \
connections in use are refused. Needs CAP_NET_ADMIN.";
/// `closewait report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Format and colour.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// What `closewait run --record` has written: as of its end
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Who is asked.
    #[command(flatten)]
    pub asked: AgentArgs,
}

/// `closewait replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// Format and colour.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// What `closewait run --record` has written
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// So many times as fast as it happened; max: as fast as it goes
    #[arg(long, value_name = "N", default_value = "max", value_parser = speed)]
    pub speed: Speed,
}

/// `--speed`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// As fast as it goes.
    Max,
    /// So many times as fast as it happened. Above zero.
    Times(f64),
}

/// `closewait doctor`.
#[derive(Clone, Debug, Args)]
pub struct Doctor {
    /// Format and colour.
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
pub enum Colour {
    /// If standard output is a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// `--by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GroupByArg {
    /// Who holds them.
    Process,
    /// Where they were accepted.
    Listener,
    /// The other end.
    Peer,
    /// Where they belong.
    Cgroup,
}

/// `--events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EventsArg {
    /// Only what had been stuck.
    Stuck,
    /// Everything.
    All,
}

/// `--hook`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TracepointArg {
    /// The best that the kernel has.
    Auto,
    /// The BTF-typed tracepoint.
    Btf,
    /// The classic tracepoint.
    Classic,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 500ms, 30s, 5m or 1h"))
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration < Duration::from_millis(1) { Err("it must be at least 1ms".to_owned()) } else { Ok(duration) }
}

fn speed(text: &str) -> Result<Speed, String> {
    match text.parse() {
        _ if text == "max" => Ok(Speed::Max),
        Ok(times) if times > 0.0 && f64::is_finite(times) => Ok(Speed::Times(times)),
        Ok(_) | Err(_) => Err("write a number above zero, like 1 for real time or 0.5, or max".to_owned()),
    }
}

fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes: u32 = text.parse().map_err(|error| format!("{error}"))?;
    if bytes.is_power_of_two() && (4096..=1 << 30).contains(&bytes) {
        Ok(bytes)
    } else {
        Err("it must be a power of two from 4096 to 1073741824".to_owned())
    }
}

/// `PORT=N`.
fn connection_limit(text: &str) -> Result<(u16, u32), String> {
    let parsed = text.split_once('=').and_then(|(port, most)| Some((port.parse().ok()?, most.parse().ok()?)));
    parsed.filter(|(port, most)| *port > 0 && *most > 0).ok_or_else(|| "write it like 8080=200".to_owned())
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
    fn a_speed_is_above_zero_or_the_most() {
        assert_eq!((speed("max"), speed("0.5")), (Ok(Speed::Max), Ok(Speed::Times(0.5))));
        for bad in ["0", "-1", "inf", "NaN", "fast", ""] {
            assert!(speed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_ring_buffer_is_a_power_of_two() {
        assert_eq!(ring_bytes("4096"), Ok(4096));
        for bad in ["0", "4097", "2048", "-1", "4294967296", "x"] {
            assert!(ring_bytes(bad).is_err(), "{bad}");
        }
    }
}
