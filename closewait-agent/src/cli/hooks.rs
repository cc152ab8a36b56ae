//! Options for hooks: docs/hooks.md.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{duration, positive_duration};
use closewait_engine::model::{Certainty, Class};

/// Causes that need a person, or whose cause a dump may show. The others are normal (`pool`, `half_close`, `transient`,
/// `proxy_wait`), or no dump helps (`inherited`).
const ON_STUCK_CLASSES: &str = "hung,leak,never_accepted,unknown";

/// Options of `run` for hooks: docs/hooks.md.
#[derive(Clone, Debug, Args)]
pub struct OnFindings {
    /// Program to run when sockets get stuck, with the facts in its environment: a path without arguments
    #[arg(long, value_name = "CMD")]
    pub on_stuck: Option<PathBuf>,
    /// Program to run when an incident opens, doubles, nears a limit, reaches it, or ends
    #[arg(long, value_name = "CMD")]
    pub on_pileup: Option<PathBuf>,
    /// Causes of stuck sockets for which --on-stuck runs
    #[arg(long, value_name = "CLASS", value_delimiter = ',', default_value = ON_STUCK_CLASSES, requires = "on_stuck")]
    pub on_stuck_class: Vec<Class>,
    /// Lowest certainty of a verdict for which a hook runs
    #[arg(long, value_enum, value_name = "CERTAINTY", default_value_t = CertaintyArg::Low)]
    pub min_certainty: CertaintyArg,
    /// Time limit of a hook
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = positive_duration)]
    pub hook_timeout: Duration,
    /// Minimum interval between hooks for the same process and port
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = duration)]
    pub hook_every: Duration,
}

/// `closewait hooks`.
#[derive(Clone, Debug, Args)]
pub struct HooksArgs {
    /// Program for stuck sockets
    #[arg(long, value_name = "CMD")]
    pub on_stuck: Option<PathBuf>,
    /// Program for incidents
    #[arg(long, value_name = "CMD")]
    pub on_pileup: Option<PathBuf>,
    /// Time limit of a hook
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = positive_duration)]
    pub timeout: Duration,
}

/// `--min-certainty`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CertaintyArg {
    /// Any certainty.
    Low,
    /// The verdict is more likely than not.
    Medium,
    /// Any other cause would be a surprise.
    High,
    /// The kernel's data proves the verdict.
    Fact,
}

impl From<CertaintyArg> for Certainty {
    fn from(certainty: CertaintyArg) -> Self {
        match certainty {
            CertaintyArg::Low => Self::Low,
            CertaintyArg::Medium => Self::Medium,
            CertaintyArg::High => Self::High,
            CertaintyArg::Fact => Self::Fact,
        }
    }
}
