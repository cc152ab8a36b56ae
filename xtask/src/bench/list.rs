//! Time to list the sockets in CLOSE_WAIT: closewait beside ss and lsof, timed as whole processes.

use super::{
    machine,
    rounds::{Series, interleaved, median},
};
use crate::prelude::*;
use crate::{
    agent::Program,
    crowd::{self, Crowd},
};

/// Highest accepted ratio to the time of `ss`.
const ALONE_TARGET: f64 = 0.5;
/// Highest accepted ratio to the time of `ss`, with a running agent.
const ASKED_TARGET: f64 = 0.1;
/// lsof takes so long that more rounds would not tell more.
const LSOF_ROUNDS: u32 = 3;

/// After this time the kernel has forgotten the clients' ends of a crowd.
const SETTLE: Duration = Duration::from_secs(3);
/// Sockets in CLOSE_WAIT and other descriptors, for the comparison.
const CROWD: (u32, u32) = (12_000, 36_000);
/// The same numbers, to show how the time grows.
const GROWTH: [(u32, u32); 4] = [CROWD, (25_000, 25_000), (50_000, 50_000), (100_000, 100_000)];
/// Rounds for each of these sizes.
const GROWTH_ROUNDS: u32 = 5;

#[derive(Args)]
pub(crate) struct List {
    /// Rounds of each variant
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Only the comparison, not how the time grows with the number of sockets
    #[arg(long)]
    no_scale: bool,
}

/// A program that lists sockets and ends.
struct Lister {
    name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    max_rounds: u32,
    /// Highest accepted ratio to the time of the first program.
    target: Option<f64>,
}

/// closewait, alone and with a running agent to ask.
struct Closewait<'a> {
    binary: &'a Path,
    dir: &'a Path,
}

impl List {
    /// Measures and prints.
    pub(super) fn run(&self, binary: &Path, dir: &Path) -> Result<()> {
        crowd::enter_network()?;
        let closewait = Closewait { binary, dir };
        print!("{}", self.compare(&closewait)?);
        if !self.no_scale {
            print!("{}", grow(&closewait)?);
        }
        Ok(())
    }

    fn compare(&self, closewait: &Closewait<'_>) -> Result<String> {
        let ss =
            exec::which("ss").context("ss is not installed, and all others are compared with it; install iproute2")?;
        let mut listers = vec![Lister::new("ss -tanp", &ss, &["-tanp", "state", "close-wait"], None)];
        listers.extend(closewait.listers());
        if let Some(lsof) = exec::which("lsof") {
            let lsof = Lister::new("lsof", &lsof, &["-nP", "-iTCP", "-sTCP:CLOSE_WAIT"], None);
            listers.push(Lister { max_rounds: LSOF_ROUNDS, ..lsof });
        }
        let (close_wait, other) = CROWD;
        let (processes, series) = closewait.measure(&listers, CROWD, self.rounds)?;
        Ok(format!(
            "{}; {close_wait} sockets in CLOSE_WAIT among {} descriptors of {processes} processes; whole processes, output to \
             /dev/null, {} interleaved rounds.\n\n{}",
            machine()?,
            close_wait + other,
            self.rounds,
            table(series.iter().zip(listers.iter().map(|lister| lister.target)))
        ))
    }
}

fn grow(closewait: &Closewait<'_>) -> Result<String> {
    let listers = closewait.listers();
    let mut rows = Vec::new();
    for size in GROWTH {
        eprintln!("bench: {} sockets", size.0);
        let (_processes, series) = closewait.measure(&listers, size, GROWTH_ROUNDS)?;
        rows.extend(series.iter().filter_map(|series| growth_row(size, series)));
    }
    let table = markdown::table("In CLOSE_WAIT | Other descriptors | Variant | Median ms | ms per 1000 sockets", rows);
    Ok(format!("\nMedians of {GROWTH_ROUNDS} rounds:\n\n{table}"))
}

/// One row for each program, with its target.
fn table<'a>(listers: impl Iterator<Item = (&'a Series, Option<f64>)>) -> String {
    let row = |(series, target): (&Series, Option<f64>)| {
        let (millis, min, max, ratio) = series.summary()?;
        let target = target.map_or_else(|| "-".to_owned(), |target| format!("{target:.2}"));
        let rounds = series.values.len();
        Some(format!("{} | {millis:.1} | {min:.1}..{max:.1} | {ratio:.3} | {target} | {rounds}", series.name))
    };
    markdown::table("Variant | Median ms | min..max | Ratio to ss | Target | Rounds", listers.filter_map(row))
}

fn growth_row((close_wait, other): (u32, u32), series: &Series) -> Option<String> {
    let median = median(&series.values)?;
    let of_thousand = median * 1000.0 / f64::from(close_wait);
    Some(format!("{close_wait} | {other} | {} | {median:.1} | {of_thousand:.2}", series.name))
}

impl Closewait<'_> {
    fn listers(&self) -> [Lister; 2] {
        let asking = ["list", "--socket", &self.socket()];
        [
            Lister::new("closewait list, alone", self.binary, &["list", "--alone"], Some(ALONE_TARGET)),
            Lister::new("closewait list, asking an agent", self.binary, &asking, Some(ASKED_TARGET)),
        ]
    }

    /// Times all listers with a crowd. Returns the number of its processes, and milliseconds.
    fn measure(
        &self,
        listers: &[Lister],
        (close_wait, other): (u32, u32),
        rounds: u32,
    ) -> Result<(usize, Vec<Series>)> {
        // The agent starts first, so that it sees every socket enter.
        let agent = Program::closewait(self.binary, self.dir, &["--socket", &self.socket()]).attach()?;
        let crowd = Crowd::gather(0, close_wait, other)?;
        // The kernel forgets the closed ends of the clients after a second. While it does, a listing may skip a socket: it goes
        // on by position in a bucket of the hash table (`tcp_seek_last_pos`, net/ipv4/tcp_ipv4.c at v6.18).
        thread::sleep(SETTLE);
        for lister in listers {
            lister.check(close_wait)?;
        }
        let series = time(listers, rounds)?;
        agent.stop()?;
        Ok((crowd.processes(), series))
    }

    fn socket(&self) -> String {
        self.dir.join("agent.sock").display().to_string()
    }
}

impl Lister {
    fn new(name: &'static str, program: &Path, args: &[&str], target: Option<f64>) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { name, program: program.to_owned(), args, max_rounds: u32::MAX, target }
    }

    /// Fails unless it lists `count` sockets of the crowd.
    fn check(&self, count: u32) -> Result<()> {
        let listed = rows(&exec::quiet(&mut self.command())?);
        ensure!(
            u32::try_from(listed).is_ok_and(|listed| listed == count),
            "{} lists {listed} sockets of the crowd and not {count}: the times would be of different work",
            exec::shown(&self.command())
        );
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null());
        command
    }

    fn millis(&self) -> Result<f64> {
        let mut command = self.command();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let started = exec::now();
        exec::run(&mut command)?;
        Ok(started.elapsed().as_secs_f64() * 1000.0)
    }
}

fn time(listers: &[Lister], rounds: u32) -> Result<Vec<Series>> {
    interleaved(listers.iter().map(|lister| lister.name), rounds, |round, index| {
        let lister = &listers[index];
        (round < lister.max_rounds).then(|| lister.millis()).transpose()
    })
}

/// Lines of a listing that show a socket of the crowd.
fn rows(listing: &str) -> usize {
    // After an empty line, `closewait list` explains the table.
    let table = listing.split("\n\n").next().unwrap_or(listing);
    table.lines().filter(|line| line.contains(crowd::NETWORK)).count()
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
    fn slow_programs_take_part_in_fewer_rounds() {
        let slow = Lister::new("second", Path::new("sleep"), &["0.05"], Some(0.5));
        let listers = [Lister::new("first", Path::new("true"), &[], None), Lister { max_rounds: 2, ..slow }];
        let series = time(&listers, 3).unwrap();
        assert_eq!((series[0].values.len(), series[1].values.len()), (3, 2));
        assert!(series[1].ratios.iter().all(|ratio| *ratio > 1.0), "{:?}", series[1].ratios);
    }

    #[test]
    fn a_program_that_lists_too_little_is_not_timed() {
        let error = Lister::new("echo", Path::new("echo"), &["127.78.0.1"], None).check(2).unwrap_err();
        assert!(error.to_string().contains("lists 1 sockets of the crowd and not 2"), "{error}");
    }

    #[test]
    fn a_listing_has_a_ratio_and_grows_with_its_sockets() {
        let list = Series { name: "list".to_owned(), values: vec![30.0, 10.0, 20.0], ratios: vec![0.25] };
        let table = table([(&list, Some(0.5)), (&Series::default(), None)].into_iter());
        assert!(table.ends_with("|---|\n| list | 20.0 | 10.0..30.0 | 0.250 | 0.50 | 3 |\n"), "{table}");
        assert_eq!(growth_row((10_000, 5), &list).unwrap(), "10000 | 5 | list | 20.0 | 2.00");
    }
}
