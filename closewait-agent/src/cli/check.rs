//! Options of `closewait check`.

use std::{ffi::OsString, time::Duration};

use clap::{Args, ValueHint};

use super::{AgentArgs, Filters, OutputArgs, duration, positive_duration};
use crate::sink::check::Thresholds;

/// `closewait check`.
#[derive(Clone, Debug, Args)]
#[command(after_help = PROBES, override_usage = "closewait check [OPTIONS]\n       closewait check [--grace DUR] [--stuck-after DUR] -- CMD [ARGS]...")]
pub struct CheckArgs {
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Thresholds of the state WARNING, such as stuck=50,growth=1,exhaustion=1h
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "command")]
    pub warn: Option<Thresholds>,
    /// Thresholds of the state CRITICAL, such as stuck=500,exhaustion=5m
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "command")]
    pub crit: Option<Thresholds>,
    /// Filters.
    #[command(flatten)]
    pub filters: Filters,
    /// Agent to query.
    #[command(flatten)]
    pub asked: AgentArgs,
    /// Time that the processes of CMD have to close their sockets after its end; a socket that its program left open for this
    /// time counts
    #[arg(long, value_name = "DUR", default_value = "2s", requires = "command", value_parser = duration)]
    pub grace: Duration,
    /// Dwell time after which a socket of CMD counts even if its program closes it later
    #[arg(long, value_name = "DUR", requires = "command", value_parser = positive_duration)]
    pub stuck_after: Option<Duration>,
    /// Program to run, with its arguments: fails if its processes leave sockets in CLOSE_WAIT
    #[arg(value_name = "CMD", last = true, value_hint = ValueHint::CommandName, conflicts_with_all = ["Filters", "AgentArgs"])]
    pub command: Vec<OsString>,
}

const PROBES: &str = "\
Thresholds: stuck=N is the number of stuck sockets, growth=N the growth of the fastest growing group in sockets per \
second, exhaustion=DUR the time until a limit is reached; several are separated by commas, and one that is reached is \
enough. They ignore groups with a benign cause, such as an idle pool. Without thresholds, a program that needs attention \
is a warning, and a limit that is reached or less than 5 minutes away is critical.

Exit codes of a probe: 0 ok, 1 warning, 2 critical, 3 unknown, also for errors.
With CMD: that of CMD if it is not 0; else 2 if sockets were left behind, and 3 if they could not be watched. 126 or 127 if \
CMD cannot be run.";
