//! Programs that list sockets, timed as whole processes in interleaved rounds.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::rounds::order;
use crate::{crowd, exec};

/// A program that lists sockets and ends.
pub(super) struct Lister {
    name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    most_rounds: Option<u32>,
    target: Option<f64>,
}

/// How long a program took, one number a round.
pub(super) struct Times {
    pub(super) name: &'static str,
    pub(super) millis: Vec<f64>,
    /// The time divided by that of the first program in the same round.
    pub(super) ratios: Vec<f64>,
    /// What the ratio is to be at most.
    pub(super) target: Option<f64>,
}

impl Lister {
    pub(super) fn new(name: &'static str, program: &Path, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { name, program: program.to_owned(), args, most_rounds: None, target: None }
    }

    /// Takes part in the first `rounds` only.
    pub(super) fn at_most(self, rounds: u32) -> Self {
        Self { most_rounds: Some(rounds), ..self }
    }

    /// Is to take at most this part of the time of the first one.
    pub(super) fn target(self, ratio: f64) -> Self {
        Self { target: Some(ratio), ..self }
    }

    /// Fails unless it lists `count` sockets of the crowd.
    pub(super) fn check(&self, count: u32) -> Result<()> {
        let listed = rows(&exec::quiet(&mut self.command())?);
        ensure!(
            u32::try_from(listed).is_ok_and(|listed| listed == count),
            "{} lists {listed} sockets of the crowd and not {count}: it would be timed for another work",
            exec::shown(&self.command())
        );
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null());
        command
    }

    fn time(&self) -> Result<f64> {
        let mut command = self.command();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let started = exec::now();
        let status = command.status().with_context(|| format!("cannot start {}", exec::shown(&command)))?;
        let millis = started.elapsed().as_secs_f64() * 1000.0;
        ensure!(status.success(), "{} failed ({status}); try it by hand", exec::shown(&command));
        Ok(millis)
    }
}

/// Lines of a listing that show a socket of the crowd.
fn rows(listing: &str) -> usize {
    // Behind an empty line `closewait list` says in words what the table does not.
    let table = listing.split("\n\n").next().unwrap_or(listing);
    table.lines().filter(|line| line.contains(crowd::NETWORK)).count()
}

/// Runs all rounds.
pub(super) fn rounds(listers: &[Lister], rounds: u32) -> Result<Vec<Times>> {
    let times = |lister: &Lister| Times { name: lister.name, millis: vec![], ratios: vec![], target: lister.target };
    let mut all: Vec<_> = listers.iter().map(times).collect();
    for round in 0..rounds {
        eprintln!("bench: round {} of {rounds}", round + 1);
        let mut millis = vec![None; listers.len()];
        for index in order(round, listers.len()) {
            let lister = &listers[index];
            if lister.most_rounds.is_none_or(|most| round < most) {
                millis[index] = Some(lister.time()?);
            }
        }
        let first = millis.first().copied().flatten().context("the first program has no time; this is a bug")?;
        for (times, millis) in all.iter_mut().zip(millis) {
            times.millis.extend(millis);
            times.ratios.extend(millis.map(|millis| millis / first));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_of_the_crowd_are_rows() {
        let listing =
            "Recv-Q Send-Q Local Peer\n1 0 127.78.0.1:4 127.0.0.1:5 users:((\"x\"))\n1 0 10.0.0.1:80 10.0.0.2:9\n";
        assert_eq!(rows(listing), 1);
    }

    #[test]
    fn ratios_are_to_the_first_and_slow_ones_take_part_less_often() {
        let listers = [
            Lister::new("first", Path::new("true"), &[]),
            Lister::new("second", Path::new("sleep"), &["0.05"]).at_most(2).target(0.5),
        ];
        let times = rounds(&listers, 3).unwrap();
        assert_eq!((times[0].millis.len(), times[1].millis.len()), (3, 2));
        assert!(times[0].ratios.iter().all(|ratio| (ratio - 1.0).abs() < f64::EPSILON));
        assert!(times[1].ratios.iter().all(|ratio| *ratio > 1.0), "{:?}", times[1].ratios);
    }

    #[test]
    fn a_program_that_lists_too_little_is_not_timed() {
        let error = Lister::new("echo", Path::new("echo"), &["127.78.0.1"]).check(2).unwrap_err();
        assert!(error.to_string().contains("lists 1 sockets of the crowd and not 2"), "{error}");
    }
}
