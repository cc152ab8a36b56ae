//! How long it takes to list the sockets in CLOSE_WAIT: closewait beside ss and lsof.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use super::{
    holders::{self, Crowd},
    listers::{self, Lister, Times},
    report,
    tracer::{Running, Tracer},
};
use crate::exec;

/// Asks no running agent.
const ALONE: &str = "--alone";
/// Where an agent listens and `list` asks.
const SOCKET: &str = "--socket";
/// At most this part of the time of `ss`.
const ALONE_TARGET: f64 = 0.5;
/// At most this part of the time of `ss`.
const ASKED_TARGET: f64 = 0.1;
/// lsof takes so long that more rounds tell no more.
const LSOF_ROUNDS: u32 = 3;

/// Sockets in CLOSE_WAIT and descriptors beside them, for the comparison.
const CROWD: (u32, u32) = (12_000, 36_000);
/// The same, to see how the time grows.
const GROWTH: [(u32, u32); 4] = [CROWD, (25_000, 25_000), (50_000, 50_000), (100_000, 100_000)];
/// Rounds for each size of that.
const GROWTH_ROUNDS: u32 = 5;

#[derive(Args)]
pub(crate) struct Options {
    /// Rounds of each variant
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Only the comparison, not how the time grows with the number of sockets
    #[arg(long)]
    no_scale: bool,
    /// The built closewait; nothing is built then
    #[arg(long, hide = true)]
    pub(super) binary: Option<PathBuf>,
}

impl Options {
    /// The flags to start this program with again.
    pub(super) fn again(&self) -> Vec<String> {
        let mut args = vec!["--rounds".to_owned(), self.rounds.to_string()];
        args.extend(self.no_scale.then(|| "--no-scale".to_owned()));
        args
    }
}

/// What the binary can do, by its own help.
#[derive(Debug, PartialEq, Eq)]
struct Can {
    alone: bool,
    ask: bool,
}

impl Can {
    fn of(help: &str) -> Self {
        let has = |flag| help.split_whitespace().any(|word| word == flag);
        Self { alone: has(ALONE), ask: has(SOCKET) }
    }
}

/// closewait in its two ways.
struct Closewait<'a> {
    binary: &'a Path,
    dir: &'a Path,
    can: Can,
}

impl Closewait<'_> {
    fn alone(&self) -> Lister {
        let args: &[&str] = if self.can.alone { &["list", ALONE] } else { &["list"] };
        Lister::new("closewait list, alone", self.binary, args)
    }

    fn asking(&self) -> Option<Lister> {
        let socket = self.socket();
        self.can.ask.then(|| Lister::new("closewait list, asking an agent", self.binary, &["list", SOCKET, &socket]))
    }

    /// An agent for [`Closewait::asking`], if it can be asked.
    fn agent(&self) -> Result<Option<Running>> {
        if !self.can.ask {
            return Ok(None);
        }
        Tracer::closewait(self.binary, self.dir, &[SOCKET, &self.socket()]).attach().map(Some)
    }

    fn socket(&self) -> String {
        self.dir.join("agent.sock").display().to_string()
    }
}

/// Measures and prints.
pub(super) fn run(binary: &Path, options: &Options, dir: &Path) -> Result<()> {
    holders::enter_network()?;
    let help = exec::quiet(std::process::Command::new(binary).args(["list", "--help"]))?;
    let closewait = Closewait { binary, dir, can: Can::of(&help) };
    print!("{}", compare(&closewait, options.rounds)?);
    if !options.no_scale {
        print!("{}", grow(&closewait)?);
    }
    Ok(())
}

fn compare(closewait: &Closewait<'_>, rounds: u32) -> Result<String> {
    let ss =
        exec::which("ss").context("ss is not installed, and it is what all are compared with; install iproute2")?;
    let mut listers =
        vec![Lister::new("ss -tanp", &ss, &["-tanp", "state", "close-wait"]), closewait.alone().target(ALONE_TARGET)];
    listers.extend(closewait.asking().map(|lister| lister.target(ASKED_TARGET)));
    if let Some(lsof) = exec::which("lsof") {
        listers.push(Lister::new("lsof", &lsof, &["-nP", "-iTCP", "-sTCP:CLOSE_WAIT"]).at_most(LSOF_ROUNDS));
    }
    let (close_wait, other) = CROWD;
    // The agent first, so that it sees every socket enter.
    let agent = closewait.agent()?;
    let crowd = Crowd::gather(0, close_wait, other)?;
    for lister in &listers {
        lister.check(close_wait)?;
    }
    let times = listers::rounds(&listers, rounds)?;
    stop(agent)?;
    let mut text = report::list_header((close_wait, other), crowd.processes(), rounds)?;
    text.push_str(&report::lists(&times));
    if !closewait.can.ask {
        text.push_str("\nThis closewait has no `list --socket`: a running agent was not asked.\n");
    }
    Ok(text)
}

fn grow(closewait: &Closewait<'_>) -> Result<String> {
    let listers: Vec<_> = [Some(closewait.alone()), closewait.asking()].into_iter().flatten().collect();
    let mut sizes: Vec<(u32, u32, Vec<Times>)> = Vec::new();
    for (close_wait, other) in GROWTH {
        eprintln!("bench: {close_wait} sockets");
        let agent = closewait.agent()?;
        let _crowd = Crowd::gather(0, close_wait, other)?;
        for lister in &listers {
            lister.check(close_wait)?;
        }
        sizes.push((close_wait, other, listers::rounds(&listers, GROWTH_ROUNDS)?));
        stop(agent)?;
    }
    Ok(report::growth(&sizes, GROWTH_ROUNDS))
}

fn stop(agent: Option<Running>) -> Result<()> {
    agent.map_or(Ok(()), |agent| agent.stop().map(|_event| ()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_s_help_tells_what_it_can_do() {
        assert_eq!(Can::of("Options:\n      --alone  x\n      --socket <PATH>  y\n"), Can { alone: true, ask: true });
        assert_eq!(Can::of("      --output <FORMAT>  a socket, --alone-ish"), Can { alone: false, ask: false });
    }
}
