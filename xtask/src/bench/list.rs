//! Time to list the sockets in CLOSE_WAIT: closewait beside ss and lsof, timed as whole processes by hyperfine; and the time of
//! `closewait status`, whose goal is 50 ms with 50,000 sockets.

use super::machine;
use crate::prelude::*;
use crate::{
    agent::Program,
    crowd::{self, Crowd},
};

/// After this time the kernel has freed the clients' ends of a crowd, on a busy machine, too.
const SETTLE: Duration = Duration::from_secs(10);
/// Sockets in CLOSE_WAIT and other descriptors: for the comparison, and then to show how the times grow.
const SIZES: [(u32, u32); 4] = [(12_000, 36_000), (25_000, 25_000), (50_000, 50_000), (100_000, 100_000)];

#[derive(Args)]
pub(crate) struct List {
    /// Runs of each program
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(2..=1000))]
    rounds: u32,
    /// Only the comparison, not how the time grows with the number of sockets
    #[arg(long)]
    no_scale: bool,
}

/// A program that lists sockets and ends.
struct Lister {
    name: &'static str,
    /// Highest accepted ratio to the time of `ss`, or time.
    goal: &'static str,
    command: Vec<String>,
    /// Counts the sockets of the crowd in its output.
    count: fn(&str) -> usize,
}

impl List {
    /// Measures and prints.
    pub(super) fn run(&self, binary: &Path, dir: &Path) -> Result<()> {
        crowd::enter_network()?;
        let socket = dir.join("agent.sock").display().to_string();
        let closewait = binary.to_str().context("the path of the built binary is not UTF-8")?;
        let mut listers = vec![
            Lister::new("ss -tanp", "-", &["ss", "-tanp", "state", "close-wait"]),
            Lister::new("closewait list, no agent", "0.5", &[closewait, "list", "--alone"]),
            Lister::new("closewait list, with an agent", "0.1", &[closewait, "list", "--socket", &socket]),
            Lister::status("closewait status, no agent", "-", &[closewait, "status", "--alone"]),
            Lister::status(
                "closewait status, with an agent",
                "50 ms at 50,000",
                &[closewait, "status", "--socket", &socket],
            ),
        ];
        if exec::which("lsof").is_some() {
            listers.push(Lister::new("lsof", "-", &["lsof", "-nP", "-iTCP", "-sTCP:CLOSE_WAIT"]));
        }
        let mut rows = Vec::new();
        for (close_wait, other) in SIZES.into_iter().take(if self.no_scale { 1 } else { SIZES.len() }) {
            eprintln!("bench: {close_wait} sockets in CLOSE_WAIT, {other} other descriptors");
            // The agent starts first, so that it sees every socket enter.
            let mut agent = Program::closewait(binary, dir, &["--socket", &socket]).attach()?;
            let _crowd = Crowd::gather(0, close_wait, other)?;
            // The kernel frees the closed ends of the clients after a second. While it does, a listing may skip a socket: it
            // continues by position in a bucket of the hash table (`tcp_seek_last_pos`, net/ipv4/tcp_ipv4.c at v6.18).
            thread::sleep(SETTLE);
            listers.iter().try_for_each(|lister| lister.check(close_wait))?;
            rows.extend(table_rows((close_wait, other), &listers, &self.time(&listers, dir)?)?);
            agent.stop()?;
        }
        println!("{}; whole processes, output to /dev/null, {} runs of each.\n", machine()?, self.rounds);
        let header = "In CLOSE_WAIT | Other descriptors | Variant | Median ms | min..max | Ratio to ss | Goal | ms per 1000 sockets";
        print!("{}", markdown::table(header, rows));
        Ok(())
    }

    /// Runs hyperfine, and returns its JSON.
    fn time(&self, listers: &[Lister], dir: &Path) -> Result<Value> {
        let file = dir.join("times.json");
        let mut command = Command::new("hyperfine");
        command.args(["--shell=none", "--warmup=1", "--runs", &self.rounds.to_string(), "--export-json"]).arg(&file);
        exec::quiet(command.args(listers.iter().map(|lister| exec::shown(&lister.command()))))?;
        serde_json::from_slice(&fs::read(&file)?).context("hyperfine wrote no JSON; is it 1.14 or newer?")
    }
}

impl Lister {
    fn new(name: &'static str, goal: &'static str, command: &[&str]) -> Self {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        Self { name, goal, command, count: count_rows }
    }

    /// `closewait status`, which has one row for all sockets of the crowd.
    fn status(name: &'static str, goal: &'static str, command: &[&str]) -> Self {
        Self { count: highest_number, ..Self::new(name, goal, command) }
    }

    /// Fails unless it lists `count` sockets of the crowd, or at most one of a thousand less: on a busy machine a few end.
    fn check(&self, count: u32) -> Result<()> {
        let listed = (self.count)(&exec::quiet(&mut self.command())?);
        ensure!(
            u32::try_from(listed).is_ok_and(|listed| (count - count / 1000..=count).contains(&listed)),
            "{} lists {listed} sockets of the crowd and not {count}: the times would be of different work",
            exec::shown(&self.command())
        );
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        command
    }
}

/// One row for each program; the first is the one that all are compared with.
fn table_rows((close_wait, other): (u32, u32), listers: &[Lister], times: &Value) -> Result<Vec<String>> {
    let millis = |at: usize, name: &str| -> Result<f64> {
        let seconds = times["results"][at][name].as_f64();
        Ok(seconds.with_context(|| format!("hyperfine wrote no {name} of result {at}"))? * 1000.0)
    };
    let row = |(at, lister): (usize, &Lister)| {
        let (median, min, max, first) =
            (millis(at, "median")?, millis(at, "min")?, millis(at, "max")?, millis(0, "median")?);
        let (ratio, of_thousand) = (median / first, median * 1000.0 / f64::from(close_wait));
        let Lister { name, goal, .. } = lister;
        Ok(format!(
            "{close_wait} | {other} | {name} | {median:.1} | {min:.1}..{max:.1} | {ratio:.3} | {goal} | {of_thousand:.2}"
        ))
    };
    listers.iter().enumerate().map(row).collect()
}

/// Number of lines of a listing that show a socket of the crowd.
fn count_rows(listing: &str) -> usize {
    // Around its table, and separated by empty lines, `closewait list` has a summary and explanations.
    let of_crowd = |part: &str| part.lines().filter(|line| line.contains(crowd::NETWORK)).count();
    listing.split("\n\n").map(of_crowd).max().unwrap_or(0)
}

/// Highest number among the words of a page: the crowd is the largest group.
fn highest_number(page: &str) -> usize {
    page.split_whitespace().filter_map(|word| word.replace(',', "").parse().ok()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_lists_too_little_is_not_timed() {
        let listing = "Recv-Q Local Peer\n1 127.78.0.1:4 127.0.0.1:5\n1 10.0.0.1:80 10.0.0.2:9\n";
        let lister = Lister::new("", "-", &["printf", listing]);
        lister.check(1).unwrap();
        let error = lister.check(2).unwrap_err();
        assert!(error.to_string().contains("lists 1 sockets of the crowd and not 2"), "{error}");
        let status = ["printf", "GROUP COUNT\nserver 12,000\n"];
        Lister::status("", "-", &status).check(12_000).unwrap();
        Lister::new("", "-", &status).check(12_000).unwrap_err();
    }

    #[test]
    fn times_are_compared_with_the_first_program_and_divided_by_the_sockets() {
        let listers = ["ss", "list"].map(|name| Lister::new(name, "0.5", &[]));
        let times = serde_json::json!({ "results": [
            { "median": 0.08, "min": 0.01, "max": 0.1 }, { "median": 0.02, "min": 0.01, "max": 0.03 },
        ] });
        let rows = table_rows((10_000, 5), &listers, &times).unwrap();
        assert_eq!(rows[1], "10000 | 5 | list | 20.0 | 10.0..30.0 | 0.250 | 0.5 | 2.00");
        assert!(table_rows((10_000, 5), &listers, &Value::Null).is_err());
    }
}
