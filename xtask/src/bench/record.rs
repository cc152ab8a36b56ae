//! Flight recorder: bytes per hour at several rates of connections, and what a checkpoint costs the event loop.

use std::net::TcpListener;

use super::{machine, summary};
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
/// Segments that are recorded for each rate, and watched for each number of stuck sockets.
const MEASURED: u64 = 12;
/// Time from the start of a segment until its checkpoint is written.
const CHECKPOINT_TIME: Duration = Duration::from_millis(200);
/// Segments that the default `--retain 1h` begins in an hour.
const SEGMENTS_PER_HOUR: f64 = 12.0;
/// Listeners of the load: each has its own source ports, which TIME_WAIT holds for a minute.
const LISTENERS: u8 = 8;
/// Time between two bursts of connections.
const TICK: Duration = Duration::from_millis(10);

#[derive(Args)]
pub(crate) struct Record {
    /// Length of a segment; each measurement takes twelve
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(10..=600))]
    seconds: u64,
    /// Measure bytes only
    #[arg(long)]
    bytes_only: bool,
}

/// Segment that was recorded.
#[derive(Clone, Copy)]
struct RecordedSegment {
    /// Size with its checkpoint, before its input, bytes.
    begin: u64,
    /// Size at its end, bytes.
    end: u64,
    /// Sockets that entered CLOSE_WAIT.
    entered: u64,
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
            rows.push(rate_row(rate, self.seconds, &self.record(binary, dir, &folder, rate, &listeners)?)?);
        }
        println!("{}; segments of `run --record DIR/`, {} s long.\n", machine()?, self.seconds);
        let header = "Connections a second | Checkpoint, bytes | Input, bytes a second | MB an hour | Segments";
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
                let run = [
                    "CLOSEWAIT_LOG=warn,closewait::runtime=debug,closewait::recording=debug",
                    &binary.display().to_string(),
                    "run",
                ];
                let args = [&run[..], &["--output", "json", "--stuck-after", "1s"], more].concat();
                let agent = Program::tracer("closewait", Path::new("/usr/bin/env"), dir, &args);
                let mut running = agent.keep("closewait", &["start", "stop"]).attach()?;
                thread::sleep(Duration::from_secs(self.seconds * MEASURED));
                running.stop()?;
                let times = LoopTimes::read(&fs::read_to_string(dir.join("closewait"))?);
                rows.push(format!("{stuck} | {name} | {}", times.columns()));
            }
        }
        println!(
            "\nLongest turns of the event loop, CPU time, over {} s; with a recording, a segment begins every 10 s.\n",
            self.seconds * MEASURED
        );
        print!(
            "{}",
            markdown::table(
                "Stuck sockets | Recorded | Copies of the state | Longest copy, ms | Longest turn, ms | Turns over 10 ms | Over 50 ms",
                rows
            )
        );
        Ok(())
    }

    /// Records a load. Returns all whole segments but the first, which has no checkpoint.
    fn record(
        &self,
        binary: &Path,
        dir: &Path,
        folder: &Path,
        rate: u32,
        listeners: &[TcpListener],
    ) -> Result<Vec<RecordedSegment>> {
        let (path, retain) = (format!("{}/", folder.display()), format!("{}s", self.seconds * SEGMENTS));
        let mut running = Program::closewait(binary, dir, &["--record", &path, "--retain", &retain]).attach()?;
        let end = exec::now() + Duration::from_secs(self.seconds * MEASURED);
        let name = |number: usize| folder.join(format!("closewait-{number:010}.segment"));
        let size = |number| fs::metadata(name(number)).map(|file| file.len());
        let (mut turns, mut next) = (listeners.iter().cycle(), exec::now());
        // Times at which the segments were seen first, and their sizes soon after that.
        let (mut seen, mut begins) = (vec![exec::now()], Vec::new());
        while exec::now() < end {
            for _ in 0..rate / 100 {
                drop(loopback::connect(turns.next().context("there is no listener; this is a bug")?)?);
            }
            if size(seen.len() + 1).is_ok() {
                seen.push(exec::now());
            }
            if seen.get(begins.len()).is_some_and(|seen| seen.elapsed() > CHECKPOINT_TIME) {
                begins.push(size(begins.len() + 1)?);
            }
            next += TICK;
            thread::sleep(next.saturating_duration_since(exec::now()));
        }
        let stop = running.stop()?.pop().context("the agent ended without a `stop` event; this is a bug")?;
        ensure!(stop["totals"]["recordings_failed"] == 0, "the recording has a gap: {}", stop["totals"]);
        let whole = begins.iter().enumerate().skip(1).take(begins.len().saturating_sub(2));
        let measured = |(place, begin): (usize, &u64)| {
            let mut replay = Command::new(binary);
            replay.arg("replay").arg(name(place + 1)).args(["--output", "json", "--events", "all"]);
            let lines = exec::output(replay.stderr(Stdio::null()))?;
            let entered = lines.lines().filter(|line| line.contains("\"event\":\"enter\"")).count();
            Ok(RecordedSegment { begin: *begin, end: size(place + 1)?, entered: entered.try_into()? })
        };
        whole.map(measured).collect()
    }
}

/// Columns of the segments in which no other program had sockets in CLOSE_WAIT: medians, bytes of an hour, and their number.
fn rate_row(rate: u32, seconds: u64, segments: &[RecordedSegment]) -> Result<String> {
    let wanted = u64::from(rate) * seconds;
    let is_own = |segment: &&RecordedSegment| segment.entered.abs_diff(wanted) <= wanted / 20;
    let own: Vec<_> = segments.iter().filter(is_own).collect();
    let median = |of: fn(&RecordedSegment) -> u64| {
        let all: Vec<_> = own.iter().map(|segment| of(segment) as f64).collect();
        summary(&all).map(|[_, median, _]| median)
    };
    let (Some(begin), Some(input)) = (median(|one| one.begin), median(|one| one.end.saturating_sub(one.begin))) else {
        let entered: Vec<_> = segments.iter().map(|segment| segment.entered).collect();
        bail!(
            "other programs' sockets entered CLOSE_WAIT in each segment: {entered:?}, not {wanted}\n\
             hint: measure where no other program closes connections"
        );
    };
    let input = input / seconds as f64;
    let hour = input * 3600.0 + SEGMENTS_PER_HOUR * begin;
    Ok(format!("{rate} | {begin:.0} | {input:.0} | {:.2} | {}", hour / 1e6, own.len()))
}

/// CPU times of the event loop that the agent's log reports, shortest first.
#[derive(Default)]
struct LoopTimes {
    /// Copies of the state.
    copies: Vec<Duration>,
    /// Long turns.
    turns: Vec<Duration>,
}

impl LoopTimes {
    fn read(log: &str) -> Self {
        let times = |before: &str, behind: &str| {
            let micros = |line: &str| line.split_once(before)?.1.strip_suffix(behind)?.parse().ok();
            let mut times: Vec<_> = log.lines().filter_map(micros).map(Duration::from_micros).collect();
            times.sort();
            times
        };
        let turns = times("a turn of the event loop took ", " us of CPU time");
        Self { copies: times(" sockets was copied in ", " us of CPU time"), turns }
    }

    fn columns(&self) -> String {
        let longest = |times: &[Duration]| {
            times.last().map_or_else(|| "-".to_owned(), |time| format!("{:.2}", time.as_secs_f64() * 1e3))
        };
        let over = |limit| self.turns.iter().filter(|turn| **turn > Duration::from_millis(limit)).count();
        format!(
            "{} | {} | {} | {} | {}",
            self.copies.len(),
            longest(&self.copies),
            longest(&self.turns),
            over(10),
            over(50)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_has_the_checkpoints_of_twelve_segments_and_the_input_of_all_seconds() {
        let segment = |entered| RecordedSegment { begin: 1000, end: 13_000, entered };
        let segments = [segment(12_000), segment(12_100), segment(50_000)];
        assert_eq!(rate_row(100, 120, &segments).unwrap(), "100 | 1000 | 100 | 0.37 | 2");
        assert!(rate_row(0, 120, &segments).is_err());
    }

    #[test]
    fn copies_and_turns_are_read_from_the_log() {
        let turn = |micros| format!("closewait: debug: a turn of the event loop took {micros} us of CPU time\n");
        let copy = "closewait: debug: a segment begins: the state with 7 sockets was copied in 330 us of CPU time\n";
        let log = turn(2100) + "closewait: debug: something else\n" + copy + &turn(59_000) + &turn(12_000);
        assert_eq!(LoopTimes::read(&log).columns(), "1 | 0.33 | 59.00 | 2 | 1");
        assert_eq!(LoopTimes::default().columns(), "0 | - | - | 0 | 0");
    }
}
