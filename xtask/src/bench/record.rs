//! Flight recorder: bytes per hour at several rates of connections, and what a checkpoint costs the event loop.

use std::net::TcpListener;

use super::machine;
use crate::prelude::*;
use crate::{
    agent::Program,
    crowd::{self, Crowd},
    loopback,
};

/// Connections per second that enter CLOSE_WAIT and exit.
const RATES: [u32; 3] = [0, 100, 1000];
/// Numbers of stuck sockets.
const STUCK: [u32; 2] = [10_000, 100_000];
/// Segments in the retained time.
const SEGMENTS: u64 = 12;
/// Segments that the default `--retain 1h` begins in an hour.
const SEGMENTS_PER_HOUR: f64 = 12.0;
/// Listeners of the load: each has its own source ports, which TIME_WAIT holds for a minute.
const LISTENERS: u8 = 8;
/// Time between two bursts of connections.
const TICK: Duration = Duration::from_millis(10);

#[derive(Args)]
pub(crate) struct Record {
    /// Length of a segment; each measurement takes two
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(10..=600))]
    seconds: u64,
    /// Measure bytes only
    #[arg(long)]
    bytes_only: bool,
}

/// Sizes of a segment, bytes.
struct SegmentSizes {
    /// When it was seen first: with its checkpoint.
    begin: u64,
    end: u64,
    /// Sockets of other programs that entered CLOSE_WAIT while the agent ran: they are in the recording, too.
    others: u64,
}

impl Record {
    /// Measures and prints.
    pub(super) fn run(&self, binary: &Path, dir: &Path) -> Result<()> {
        crowd::enter_network()?;
        let listeners =
            (1..=LISTENERS).map(|number| loopback::listen([127, 77, 1, number])).collect::<Result<Vec<_>>>()?;
        let mut rows = Vec::new();
        for rate in RATES {
            eprintln!("bench: {rate} connections a second");
            let folder = dir.join(format!("rate-{rate}"));
            rows.push(rate_row(rate, self.seconds, &self.record(binary, dir, &folder, rate, &listeners)?));
        }
        println!("{}; the second segment of `run --record DIR/`, {} s long.\n", machine()?, self.seconds);
        let header = "Connections a second | Checkpoint, bytes | Input, bytes a second | MB an hour | Other sockets";
        print!("{}", markdown::table(header, rows));

        if self.bytes_only {
            return Ok(());
        }
        let mut rows = Vec::new();
        for stuck in STUCK {
            eprintln!("bench: {stuck} stuck sockets");
            let folder = format!("{}/", dir.join(format!("stuck-{stuck}")).display());
            let _crowd = Crowd::gather(0, stuck, 0)?;
            for (name, more) in [("no", &[][..]), ("yes", &["--retain", "2m", "--record", &folder][..])] {
                let run = ["CLOSEWAIT_LOG=warn,closewait::runtime=debug", &binary.display().to_string(), "run"];
                let args = [&run[..], &["--output", "json", "--stuck-after", "1s"], more].concat();
                let agent = Program::tracer("closewait", Path::new("/usr/bin/env"), dir, &args);
                let mut running = agent.keep("closewait", &["start", "stop"]).attach()?;
                thread::sleep(Duration::from_secs(self.seconds));
                running.stop()?;
                let turns = LongTurns::read(&fs::read_to_string(dir.join("closewait"))?);
                rows.push(format!("{stuck} | {name} | {}", turns.columns()));
            }
        }
        println!(
            "\nLongest turns of the event loop, CPU time, over {} s; with a recording, a segment begins every 10 s.\n",
            self.seconds
        );
        print!(
            "{}",
            markdown::table("Stuck sockets | Recorded | Longest, ms | Second, ms | Over 10 ms | Over 50 ms", rows)
        );
        Ok(())
    }

    /// Records a load for two segments. Returns the sizes of the second one.
    fn record(
        &self,
        binary: &Path,
        dir: &Path,
        folder: &Path,
        rate: u32,
        listeners: &[TcpListener],
    ) -> Result<SegmentSizes> {
        let (path, retain) = (format!("{}/", folder.display()), format!("{}s", self.seconds * SEGMENTS));
        let mut running = Program::closewait(binary, dir, &["--record", &path, "--retain", &retain]).attach()?;
        let end = exec::now() + Duration::from_secs(2 * self.seconds + 5);
        let size =
            |number: u8| fs::metadata(folder.join(format!("closewait-{number:010}.segment"))).map(|file| file.len());
        let (mut turns, mut begin, mut next, mut made) = (listeners.iter().cycle(), None, exec::now(), 0_u64);
        while exec::now() < end && size(3).is_err() {
            for _ in 0..rate / 100 {
                let (client, server) = loopback::connect(turns.next().context("there is no listener; this is a bug")?)?;
                drop(client);
                drop(server);
                made += 1;
            }
            begin = begin.or_else(|| size(2).ok());
            next += TICK;
            thread::sleep(next.saturating_duration_since(exec::now()));
        }
        let mut sizes = SegmentSizes {
            others: 0,
            begin: begin.context("there is no second segment; this is a bug")?,
            end: size(2)?,
        };
        let stop = running.stop()?.pop().context("the agent ended without a `stop` event; this is a bug")?;
        ensure!(stop["totals"]["recordings_failed"] == 0, "the recording has a gap: {}", stop["totals"]);
        let entered = stop["totals"]["entered"].as_u64().context("`stop` has no `entered`; this is a bug")?;
        ensure!(entered >= made, "the agent missed entries: {}", stop["totals"]);
        sizes.others = entered - made;
        Ok(sizes)
    }
}

fn rate_row(rate: u32, seconds: u64, sizes: &SegmentSizes) -> String {
    let input = sizes.end.saturating_sub(sizes.begin) as f64 / seconds as f64;
    let hour = input * 3600.0 + SEGMENTS_PER_HOUR * sizes.begin as f64;
    format!("{rate} | {} | {input:.0} | {:.2} | {}", sizes.begin, hour / 1e6, sizes.others)
}

/// Turns of the event loop that the agent's log reports, shortest first.
#[derive(Default)]
struct LongTurns(Vec<Duration>);

impl LongTurns {
    fn read(log: &str) -> Self {
        let micros = |line: &str| {
            line.split_once("a turn of the event loop took ")?.1.strip_suffix(" us of CPU time")?.parse().ok()
        };
        let mut turns: Vec<_> = log.lines().filter_map(micros).map(Duration::from_micros).collect();
        turns.sort();
        Self(turns)
    }

    fn columns(&self) -> String {
        let millis = |from_end: usize| {
            let turn = self.0.len().checked_sub(from_end).and_then(|place| self.0.get(place));
            turn.map_or_else(|| "-".to_owned(), |turn| format!("{:.1}", turn.as_secs_f64() * 1e3))
        };
        let over = |limit| self.0.iter().filter(|turn| **turn > Duration::from_millis(limit)).count();
        format!("{} | {} | {} | {}", millis(1), millis(2), over(10), over(50))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_has_the_checkpoints_of_twelve_segments_and_the_input_of_all_seconds() {
        let mut sizes = SegmentSizes { others: 0, begin: 1000, end: 13_000 };
        assert_eq!(rate_row(100, 120, &sizes), "100 | 1000 | 100 | 0.37 | 7");
    }

    #[test]
    fn turns_are_read_from_the_log_and_the_longest_come_first() {
        let line = |micros| format!("closewait: debug: a turn of the event loop took {micros} us of CPU time\n");
        let log = line(2100) + "closewait: debug: something else\n" + &line(59_000) + &line(12_000);
        assert_eq!(LongTurns::read(&log).columns(), "59.0 | 12.0 | 2 | 1");
        assert_eq!(LongTurns::default().columns(), "- | - | 0 | 0");
    }
}
