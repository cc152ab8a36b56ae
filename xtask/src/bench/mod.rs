//! `cargo xtask bench`: what watching costs.

mod agent;
mod report;
mod rounds;
mod tracer;

use std::{
    ffi::OsString,
    fs,
    os::unix::process::CommandExt as _,
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

/// Runs one benchmark.
pub(crate) fn run(workspace: &Workspace, bench: &Bench) -> Result<()> {
    match bench {
        Bench::Overhead(options) => overhead(workspace, options),
    }
}

fn overhead(workspace: &Workspace, options: &Overhead) -> Result<()> {
    let Some(binary) = &options.binary else {
        build::release(workspace)?;
        return become_root(workspace, options);
    };
    // The tracers to compare with need tracefs; without it they are reported as not attached, with their reason.
    if let Err(error) = namespaces::mount_tracefs() {
        eprintln!("bench: no tracefs for the other tracers: {error:#}");
    }
    let dir = std::env::temp_dir().join(format!("closewait-bench-{}", std::process::id()));
    fs::create_dir(&dir).with_context(|| format!("cannot create {}; is the folder writable?", dir.display()))?;
    let result = measure(binary, options, &dir);
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}; delete it", dir.display()))?;
    result
}

/// Starts this program again as root, after the building has been done as the calling user.
fn become_root(workspace: &Workspace, options: &Overhead) -> Result<()> {
    let this = std::env::current_exe().context("cannot tell the path of this program; is /proc mounted?")?;
    let mut args: Vec<OsString> = ["bench", "overhead", "--binary"].map(OsString::from).to_vec();
    args.push(workspace.closewait().into());
    for (name, value) in [
        ("--rounds", u64::from(options.rounds)),
        ("--seconds", options.seconds),
        ("--starts", u64::from(options.starts)),
        ("--idle-seconds", options.idle_seconds),
    ] {
        args.extend([name.into(), value.to_string().into()]);
    }
    let mut command = root::command(&this, &args, "attaching tracers to the kernel")?;
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", exec::shown(&command)))
}

fn measure(binary: &Path, options: &Overhead, dir: &Path) -> Result<()> {
    let rounds = rounds::run(&tracers(binary, dir), options.rounds, options.seconds)?;
    print!("{}", report::header(options.rounds, options.seconds)?);
    print!("{}", report::table(&rounds.variants));
    if let Some(reason) = &rounds.variants[rounds::CLOSEWAIT].failure {
        anyhow::bail!("closewait did not attach: {reason}; try `cargo xtask run -- doctor`");
    }
    print!("{}", report::losses(&rounds.totals));
    let closewait = Tracer::closewait(binary, dir);
    print!("{}", report::starts(&agent::start_times(&closewait, options.starts)?));
    print!("{}", report::idle(&agent::idle(&closewait, Duration::from_secs(options.idle_seconds))?));
    Ok(())
}

/// The variants beside "none", closewait first.
fn tracers(binary: &Path, dir: &Path) -> Vec<Tracer> {
    let mut tracers = vec![Tracer::closewait(binary, dir)];
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
