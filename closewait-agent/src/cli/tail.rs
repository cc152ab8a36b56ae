//! Command line of `closewait tail`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{EventsArg, OutputArgs, SOCKET, duration};

const STREAM: &str = "\
The agent remembers at most 4096 events, in at most 4 MiB. Enter and leave events of sockets that were never stuck are remembered only \
while a client follows, and exist only if the agent runs with --events all. A reader that is too slow gets the number of events that it \
missed; one that reads nothing for 5 minutes is disconnected.";

/// `closewait tail`.
#[derive(Clone, Debug, Args)]
#[command(after_help = STREAM)]
pub struct TailArgs {
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Show past events of this time first, as far as the agent remembers them
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub since: Option<Duration>,
    /// Events to show [default: incidents; stuck with --output json]
    #[arg(long, value_enum, value_name = "WHICH")]
    pub events: Option<EventsArg>,
    /// Control socket of the agent
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub socket: PathBuf,
}
