//! Arguments of `closewait stacks`, and `run --stacks`.

use clap::{Args, ValueEnum};

use super::OutputArgs;

/// `closewait stacks`.
#[derive(Clone, Debug, Args)]
pub struct StacksArgs {
    /// Format and color.
    #[command(flatten)]
    pub shape: OutputArgs,
    /// Process whose threads are shown
    #[arg(value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: u32,
    /// Have a Java virtual machine (HotSpot) dump its threads: it gets SIGQUIT at the first time, listens at a socket in its /tmp from
    /// then on, and stops its threads for the moment of the dump
    #[arg(long)]
    pub jvm: bool,
    /// With --jvm: also the virtual threads that wait (JDK 21 and later), which the JVM writes into a pipe in its /tmp
    #[arg(long, requires = "jvm")]
    pub virtual_threads: bool,
}

/// `run --stacks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StacksArg {
    /// The stacks of owners of stuck sockets are read.
    Auto,
    /// No process's memory is read.
    Never,
}
