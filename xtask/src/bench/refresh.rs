//! What it costs a running agent to keep what it knows of stuck sockets fresh.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::Result;
use clap::Args;

use super::{
    agent,
    holders::{self, Crowd},
    report,
    tracer::Tracer,
};

/// Stuck sockets that the agent tracks.
const TRACKED: [u32; 3] = [1000, 10_000, 50_000];
/// Descriptors on the host that are none of its business.
const EXTRA: [u32; 2] = [0, 100_000];
/// All are stuck soon, and looked at again at 2, 4, 8 s and so on.
const STUCK_AFTER: &str = "1s";
/// After this the sockets have been reported once.
const SETTLE: Duration = Duration::from_secs(2);
/// Numbers of crowds: the one that is tracked has these, the other those from here on.
const OTHERS: u8 = 100;

#[derive(Args)]
pub(crate) struct Options {
    /// Seconds that each agent is watched
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// The built closewait; nothing is built then
    #[arg(long, hide = true)]
    pub(super) binary: Option<PathBuf>,
}

impl Options {
    /// The flags to start this program with again.
    pub(super) fn again(&self) -> Vec<String> {
        vec!["--seconds".to_owned(), self.seconds.to_string()]
    }
}

/// What an agent used with one number of sockets.
pub(super) struct Cost {
    pub(super) tracked: u32,
    pub(super) extra: u32,
    /// CPU time of all its threads.
    pub(super) cpu: Duration,
}

/// Measures and prints.
pub(super) fn run(binary: &Path, options: &Options, dir: &Path) -> Result<()> {
    holders::enter_network()?;
    let time = Duration::from_secs(options.seconds);
    let closewait = Tracer::closewait(binary, dir, &["--stuck-after", STUCK_AFTER]);
    let mut costs = Vec::new();
    for extra in EXTRA {
        let _others = Crowd::gather(OTHERS, 0, extra)?;
        for tracked in TRACKED {
            eprintln!("bench: {tracked} stuck sockets, {extra} other descriptors");
            costs.push(Cost { tracked, extra, cpu: cost(&closewait, tracked, time)? });
        }
    }
    print!("{}", report::refresh(&costs, time, STUCK_AFTER)?);
    Ok(())
}

fn cost(closewait: &Tracer, tracked: u32, time: Duration) -> Result<Duration> {
    let running = closewait.attach()?;
    let crowd = Crowd::gather(0, tracked, 0)?;
    thread::sleep(SETTLE);
    let before = agent::cpu_time(running.pid())?;
    thread::sleep(time);
    let cpu = agent::cpu_time(running.pid())?.saturating_sub(before);
    running.stop()?;
    drop(crowd);
    Ok(cpu)
}
