//! `cargo xtask <subcommand>`: sets up, builds, tests, checks and measures closewait.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "talking to the terminal is what this program is for")]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod apt;
mod bench;
mod build;
mod clippy;
mod crowd;
mod docs;
mod endurance;
mod exec;
mod faults;
mod fuzz;
#[path = "../../closewait-agent/tests/kernel/kmsg.rs"]
mod kmsg;
mod loadgen;
mod namespaces;
mod packages;
mod root;
mod run;
mod scenarios;
mod setup;
mod test;
mod tidy;
mod vm;

/// Sets up, builds, tests, checks and measures closewait.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Bring the standard library's source and bpf-linker into target/setup; silent when both are there
    Setup,
    /// Build target/release/closewait
    Build,
    /// Build closewait as you, then run it as root: `run -- --for 10s` is `closewait run --for 10s`
    Run(run::Options),
    /// Run the tests that need no root, then the kernel tests as root
    Test(test::Options),
    /// Run real programs that leave sockets in CLOSE_WAIT, as root, and compare what the agent says of them
    Scenarios(scenarios::Options),
    /// Kill an agent with pinned maps and start it again, under load, and compare every dwell time
    Restarts(endurance::Restarts),
    /// Load and faults at random for long, and what the agent tracks compared with what is there
    Soak(endurance::Soak),
    /// Give everything that reads what closewait did not write bytes that nobody has thought of
    Fuzz(fuzz::Options),
    /// Run the kernel tests on Debian's kernels in virtual machines, and compare what each can do
    Vm(vm::Options),
    /// Lint the host crates and the kernel program; a warning is an error
    Clippy,
    /// Check the rules of the house that the compiler cannot: layers, manifests, sizes, paths
    Tidy,
    /// Write what is generated in docs/
    Docs(docs::Options),
    /// Measure
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Open and close TCP connections on loopback in a network namespace of its own
    #[command(hide = true)]
    Loadgen(loadgen::Options),
    /// Hold sockets in CLOSE_WAIT and other descriptors until standard input ends
    #[command(hide = true)]
    Crowd(crowd::Options),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::run(&exec::Workspace::find()?),
        Task::Build => build::run(&exec::Workspace::find()?),
        Task::Run(options) => run::run(&exec::Workspace::find()?, &options),
        Task::Test(options) => test::run(&exec::Workspace::find()?, &options),
        Task::Restarts(options) => endurance::restarts(&exec::Workspace::find()?, &options),
        Task::Soak(options) => endurance::soak(&exec::Workspace::find()?, &options),
        Task::Scenarios(options) => scenarios::run(&exec::Workspace::find()?, &options),
        Task::Fuzz(options) => fuzz::run(&exec::Workspace::find()?, &options),
        Task::Vm(options) => vm::run(&exec::Workspace::find()?, &options),
        Task::Clippy => clippy::run(&exec::Workspace::find()?),
        Task::Tidy => tidy::run(&exec::Workspace::find()?),
        Task::Docs(options) => docs::run(&exec::Workspace::find()?, &options),
        Task::Bench(bench) => bench::run(&exec::Workspace::find()?, &bench),
        Task::Loadgen(options) => loadgen::run(&options),
        Task::Crowd(options) => crowd::run(&options),
    }
}
