//! The command line: types only.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    Run(Run),
    /// Show the sockets that are in CLOSE_WAIT now, oldest first
    List(List),
    /// Tell what this kernel and these privileges allow, and what is missing
    Doctor(Doctor),
}

/// Flags of every command.
#[derive(Clone, Copy, Debug, Args)]
pub struct Shape {
    /// Text for people, or JSON with one object a line
    #[arg(long, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    pub output: Output,
    /// Whether text is coloured; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = Colour::Auto, value_name = "WHEN")]
    pub color: Colour,
}

/// `closewait run`.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Format and colour.
    #[command(flatten)]
    pub shape: Shape,
    /// Age at which a socket is reported, and again at every doubling
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = positive_duration)]
    pub stuck_after: Duration,
    /// Sockets whose entering and leaving is reported: those that had been stuck, or every one
    #[arg(long, value_enum, default_value_t = Events::Stuck, value_name = "WHICH")]
    pub events: Events,
    /// How often dwell histograms are written
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = positive_duration)]
    pub histogram_every: Duration,
    /// Stop after this time
    #[arg(long = "for", value_name = "DUR", value_parser = duration)]
    pub run_for: Option<Duration>,
    /// Sockets in CLOSE_WAIT whose time of entry the kernel keeps
    #[arg(long, value_name = "N", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub max_sockets: u32,
    /// Size of the ring buffer between kernel and agent, in bytes: a power of two, 4096 at least
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20, value_parser = ring_bytes)]
    pub ring_buffer: u32,
    /// How to attach to the kernel; auto: tp_btf where the kernel has BTF, else the classic tracepoint
    #[arg(long, value_enum, default_value_t = Hook::Auto, value_name = "HOOK")]
    pub hook: Hook,
    /// Keep everything that goes into the engine in this file
    #[arg(long, value_name = "FILE", hide = true)]
    pub record: Option<std::path::PathBuf>,
    /// Write the kernel program's own debug messages to the log
    #[arg(long)]
    pub kernel_log: bool,
}

/// `closewait list`.
#[derive(Clone, Debug, Args)]
pub struct List {
    /// Format and colour.
    #[command(flatten)]
    pub shape: Shape,
}

/// `closewait doctor`.
#[derive(Clone, Debug, Args)]
pub struct Doctor {
    /// Format and colour.
    #[command(flatten)]
    pub shape: Shape,
}

/// `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
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

/// `--events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Events {
    /// Only what had been stuck.
    Stuck,
    /// Everything.
    All,
}

/// `--hook`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hook {
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

fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes: u32 = text.parse().map_err(|error| format!("{error}"))?;
    if bytes.is_power_of_two() && (4096..=1 << 30).contains(&bytes) {
        Ok(bytes)
    } else {
        Err("it must be a power of two from 4096 to 1073741824".to_owned())
    }
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
    fn a_ring_buffer_is_a_power_of_two() {
        assert_eq!(ring_bytes("4096"), Ok(4096));
        for bad in ["0", "4097", "2048", "-1", "4294967296", "x"] {
            assert!(ring_bytes(bad).is_err(), "{bad}");
        }
    }
}
