//! Command line of `closewait config`, and the options that files can set.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand};

use super::OutputArgs;

/// Options of `run` that a file and the environment cannot set: they choose the file, or what `run` does this time.
pub const NOT_KEYS: [&str; 3] = ["config", "for", "unpin"];
/// Keys that count for all commands with such an option, not only for `run`.
pub const SHARED_KEYS: [&str; 1] = ["socket"];

/// `closewait config`.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// Action.
    #[command(subcommand)]
    pub action: ConfigAction,
}

/// Actions of `closewait config`.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigAction {
    /// Check the configuration: exit code 0, or 2 with all problems
    Check(ConfigCheckArgs),
    /// Show all settings of `run`, and the source of each
    Show(ConfigShowArgs),
    /// Print a configuration file with all settings as comments
    Example,
}

/// `closewait config check`.
#[derive(Clone, Debug, Args)]
pub struct ConfigCheckArgs {
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// The same as FILE, as for `run` and `config show`
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub config: Option<PathBuf>,
    /// File to check [default: the files and environment variables that `run` reads]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `closewait config show`.
#[derive(Clone, Debug, Args)]
#[command(override_usage = "closewait config show [OPTIONS] [-- OPTIONS OF RUN]")]
pub struct ConfigShowArgs {
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Configuration file, instead of /etc/closewait/closewait.toml and /etc/closewait/conf.d/*.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Options of `closewait run` that override files and environment
    #[arg(value_name = "OPTIONS", last = true)]
    pub options: Vec<OsString>,
}
