//! `cargo xtask <subcommand>`: sets up, builds, tests, checks and measures closewait.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "talking to the terminal is what this program is for")]

use std::{error::Error, io, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use exec::Workspace;

mod agent;
mod bench;
mod build;
mod container;
mod crowd;
mod dist;
mod docs;
mod endurance;
mod engines;
mod exec;
mod faults;
mod fleet;
mod fuzz;
mod installs;
mod kubernetes;
mod loadgen;
mod loopback;
mod markdown;
mod namespaces;
mod nspawn;
mod package;
mod prelude;
mod root;
mod sbom;
mod scenarios;
mod setup;
mod systemd;
mod test;
mod tidy;
mod venv;
mod vm;
mod yaml;

/// Sets up, builds, tests, checks and measures closewait.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
    /// The built closewait, which this program passes to itself when it starts itself as root; nothing is built then
    #[arg(long, hide = true, global = true)]
    binary: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Task {
    /// Install the standard library's source (rustup), and bpf-linker in target/setup, if they are missing
    Setup,
    /// Build target/release/closewait
    Build,
    /// Build static binaries without debug information in target/static, also for another architecture
    Dist(dist::Options),
    /// Make archives, Debian, RPM, Alpine and Arch packages, the container image and checksums in target/dist
    Package(package::Options),
    /// Install, upgrade and remove the packages in clean Debian systems that run in containers, as root
    Installs(installs::Options),
    /// Build closewait as you, then run it as root: `run -- --for 10s` is `closewait run --for 10s`
    Run(build::Run),
    /// Run the tests that need no root, then the kernel tests as root
    Test(test::Options),
    /// Run real programs that leave sockets in CLOSE_WAIT, as root, and check the agent's verdicts
    Scenarios(scenarios::Options),
    /// Kill and restart an agent with pinned maps under load, as root, and check every dwell time
    Restarts(endurance::Restarts),
    /// Run random load and faults for a long time, as root, and compare the tracked sockets with the kernel's
    Soak(endurance::Soak),
    /// Run the systemd unit in a container, as root: readiness, reload, watchdog, end
    Systemd,
    /// Play a hang, a leak and a healthy pool, as root, and ask Prometheus, Alertmanager, rotel, oteltap, journald and chdb
    Engines,
    /// Run the image with runc as a pod of contrib/kubernetes, as root: probes, privileges, names of pods
    Container,
    /// Render the manifests of contrib/kubernetes, and check them with the schemas of several versions of Kubernetes
    Kubernetes,
    /// Load a made-up fleet of recorded incidents into ClickHouse and DuckDB, and check the queries of contrib/fleet
    Fleet(fleet::Options),
    /// Run the fuzz targets: every parser of untrusted bytes
    Fuzz(fuzz::Options),
    /// Run the kernel tests on Debian's kernels in virtual machines, and compare their features
    Vm(vm::Options),
    /// Lint the host crates and the kernel program; a warning is an error
    Clippy,
    /// Check the rules that the compiler cannot: layers, names, phrases, manifests, sizes, paths
    Tidy,
    /// Write docs/diagnoses.md, docs/incident.svg, docs/schema/, contrib/closewait.toml, contrib/man/ and contrib/completions/
    Docs(docs::Options),
    /// Measure time and memory
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
    match dispatch(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let messages: Vec<_> = error.chain().map(ToString::to_string).collect();
            let split = |message| str::split_once(message, "\nhint: ").unwrap_or((message, ""));
            let (causes, hints): (Vec<_>, Vec<_>) = messages.iter().map(|message| split(message)).unzip();
            eprintln!("error: {}", causes.join(": "));
            hints.iter().filter(|hint| !hint.is_empty()).for_each(|hint| eprintln!("hint: {hint}"));
            let io_kind = |cause: &(dyn Error + 'static)| cause.downcast_ref().map(io::Error::kind);
            if error.chain().filter_map(io_kind).any(|kind| kind == io::ErrorKind::PermissionDenied) {
                eprintln!("hint: run this as the owner of that file or folder, or as root");
            }
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: &Cli) -> Result<()> {
    let (workspace, binary) = (&Workspace::find()?, cli.binary.as_deref());
    match &cli.task {
        Task::Setup => setup::run(workspace),
        Task::Build => build::build(workspace),
        Task::Dist(options) => dist::run(workspace, options),
        Task::Package(options) => package::run(workspace, options),
        Task::Installs(options) => installs::run(workspace, binary, options),
        Task::Run(options) => build::run(workspace, options),
        Task::Test(options) => test::run(workspace, options),
        Task::Restarts(options) => endurance::run(workspace, binary, |agents| options.run(agents)),
        Task::Soak(options) => endurance::run(workspace, binary, |agents| options.run(agents)),
        Task::Scenarios(options) => scenarios::run(workspace, options),
        Task::Systemd => systemd::run(workspace, binary),
        Task::Engines => engines::run(workspace, binary),
        Task::Container => container::run(workspace, binary),
        Task::Kubernetes => kubernetes::run(workspace),
        Task::Fleet(options) => fleet::run(workspace, binary, options),
        Task::Fuzz(options) => fuzz::run(workspace, options),
        Task::Vm(options) => vm::run(workspace, options),
        Task::Clippy => build::clippy(workspace),
        Task::Tidy => tidy::run(workspace),
        Task::Docs(options) => docs::run(workspace, options),
        Task::Bench(bench) => bench::run(workspace, binary, bench),
        Task::Loadgen(options) => loadgen::run(options),
        Task::Crowd(options) => crowd::run(options),
    }
}
