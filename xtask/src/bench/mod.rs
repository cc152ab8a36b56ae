//! `cargo xtask bench`: what watching costs in time and memory, and how long listing takes.

mod agent;
mod engine;
mod holders;
mod list;
mod listers;
mod memory;
mod refresh;
mod report;
mod rounds;
mod tracer;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

use crate::{
    build,
    exec::{self, Workspace},
    namespaces, root,
};
use tracer::Tracer;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Connections per second with closewait, with other tracers and with none, in short interleaved rounds
    Overhead(Overhead),
    /// Time to list 12,000 sockets among 48,000 descriptors, beside ss and lsof, and how it grows with their number
    List(list::Options),
    /// CPU time of an agent that tracks stuck sockets, with and without many other descriptors on the host
    Refresh(refresh::Options),
    /// Memory for each socket that is tracked, in the kernel and in the agent: real sockets, and a recording of a million
    Memory(memory::Options),
    /// Records a second through decoding, tracking and the search for pile-ups, on one core
    Engine(engine::Options),
}

#[derive(Args)]
pub(crate) struct Overhead {
    /// Rounds of each variant
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of each round
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How often closewait is started to time it
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    starts: u32,
    /// How long closewait is watched while nothing happens
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    idle_seconds: u64,
    /// The built closewait; nothing is built then
    #[arg(long, hide = true)]
    binary: Option<PathBuf>,
}

impl Overhead {
    /// The flags to start this program with again.
    fn again(&self) -> Vec<String> {
        let flags = [
            ("--rounds", u64::from(self.rounds)),
            ("--seconds", self.seconds),
            ("--starts", u64::from(self.starts)),
            ("--idle-seconds", self.idle_seconds),
        ];
        flags.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_string()]).collect()
    }
}

/// Runs one benchmark.
pub(crate) fn run(workspace: &Workspace, bench: &Bench) -> Result<()> {
    let (name, binary, again) = match bench {
        Bench::Overhead(options) => ("overhead", &options.binary, options.again()),
        Bench::List(options) => ("list", &options.binary, options.again()),
        Bench::Refresh(options) => ("refresh", &options.binary, options.again()),
        Bench::Memory(options) => ("memory", &options.binary, options.again()),
        // Needs no kernel, so no root.
        Bench::Engine(options) => return engine::run(workspace, options),
    };
    let Some(binary) = binary else {
        build::release(workspace)?;
        if matches!(bench, Bench::Memory(_)) {
            build::example(workspace, memory::EXAMPLE)?;
        }
        return become_root(workspace, name, &again);
    };
    let dir = std::env::temp_dir().join(format!("closewait-bench-{}", std::process::id()));
    fs::create_dir(&dir).with_context(|| format!("cannot create {}; is the folder writable?", dir.display()))?;
    let result = match bench {
        Bench::Overhead(options) => overhead(binary, options, &dir),
        Bench::List(options) => list::run(binary, options, &dir),
        Bench::Refresh(options) => refresh::run(binary, options, &dir),
        Bench::Memory(options) => memory::run(binary, options, &dir),
        Bench::Engine(options) => engine::run(workspace, options),
    };
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}; delete it", dir.display()))?;
    result
}

/// Starts this program again as root, after the building has been done as the calling user.
fn become_root(workspace: &Workspace, name: &str, again: &[String]) -> Result<()> {
    let mut args: Vec<OsString> = ["bench", name, "--binary"].map(OsString::from).to_vec();
    args.push(workspace.closewait().into());
    args.extend(again.iter().map(OsString::from));
    root::become_program(&exec::this()?, &args, "attaching tracers to the kernel")
}

fn overhead(binary: &Path, options: &Overhead, dir: &Path) -> Result<()> {
    // The tracers to compare with need tracefs; without it they are reported as not attached, with their reason.
    if let Err(error) = namespaces::mount_tracefs() {
        eprintln!("bench: no tracefs for the other tracers: {error:#}");
    }
    let rounds = rounds::run(&tracers(binary, dir), options.rounds, options.seconds)?;
    print!("{}", report::header(options.rounds, options.seconds)?);
    print!("{}", report::table(&rounds.variants));
    if let Some(reason) = &rounds.variants[rounds::CLOSEWAIT].failure {
        anyhow::bail!("closewait did not attach: {reason}; try `cargo xtask run -- doctor`");
    }
    print!("{}", report::losses(&rounds.totals));
    let closewait = Tracer::closewait(binary, dir, &[]);
    print!("{}", report::starts(&agent::start_times(&closewait, options.starts)?));
    print!("{}", report::idle(&agent::idle(&closewait, Duration::from_secs(options.idle_seconds))?));
    Ok(())
}

/// The variants beside "none", closewait first.
fn tracers(binary: &Path, dir: &Path) -> Vec<Tracer> {
    let mut tracers = vec![Tracer::closewait(binary, dir, &[])];
    for name in ["tcpstates", "tcplife"] {
        // bcc's package calls its own scripts by other names where both are installed.
        let program = exec::which(name).or_else(|| exec::which(&format!("{name}-libbpf")));
        tracers.extend(program.map(|program| Tracer::other(name, &program, &[], dir)));
    }
    if let Some(bpftrace) = exec::which("bpftrace") {
        // The least that counts every transition, in the kernel.
        let script = "tracepoint:sock:inet_sock_set_state { @[args->oldstate, args->newstate] = count(); }";
        tracers.push(Tracer::other("bpftrace count()", &bpftrace, &["-e", script], dir));
    }
    tracers
}
