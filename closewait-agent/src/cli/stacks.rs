//! Arguments of `closewait stacks`, and `run --stacks`.

use clap::{Args, ValueEnum};

use super::{OutputArgs, pid};

/// `closewait stacks`.
#[derive(Clone, Debug, Args)]
pub struct StacksArgs {
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Process whose threads are shown
    #[arg(value_name = "PID", value_parser = pid)]
    pub pid: u32,
    /// Have a Java virtual machine (HotSpot) dump its threads: it gets SIGQUIT at the first time, listens at a socket in its /tmp from
    /// then on, and stops its threads for the moment of the dump
    #[arg(long)]
    pub jvm: bool,
    /// With --jvm: also the virtual threads that wait (JDK 21 and later), which the JVM writes into a pipe in its /tmp
    #[arg(long, requires = "jvm")]
    pub virtual_threads: bool,
    /// Show labels instead of names of programs, threads, files and functions, except those of runtimes and of the libraries of a
    /// system, for readers outside: file-1, function-2. Line numbers stay
    #[arg(long)]
    pub redact: bool,
}

/// Options of `run` for stacks.
#[derive(Clone, Copy, Debug, Args)]
pub struct ReadStacksArgs {
    /// Stacks of the threads that own stuck sockets, read from their memory once a minute. A hostile program can make the agent use
    /// much memory and CPU time for them, so this is off
    #[arg(long = "stacks", value_enum, default_value_t = StacksArg::Never, value_name = "WHEN")]
    pub when: StacksArg,
    /// With --stacks auto: have Java virtual machines (HotSpot) dump their threads, each once a minute at most. This makes them act, as
    /// `closewait stacks --jvm` describes. A second process of closewait asks them, which keeps the rights for that
    #[arg(long = "stacks-jvm")]
    pub jvm: bool,
}

impl ReadStacksArgs {
    /// Whether the agent reads stacks.
    pub const fn is_on(self) -> bool {
        matches!(self.when, StacksArg::Auto)
    }
}

/// `run --stacks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StacksArg {
    /// The stacks of owners of stuck sockets are read.
    Auto,
    /// No process's memory is read.
    Never,
}
