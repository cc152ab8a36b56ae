//! Cost of everything that sends an agent's findings elsewhere: metrics, OTLP, recordings, hooks, and the journal.
//!
//! Agents with and without take turns, each with a crowd of its own. The order changes with each round, and each agent is compared
//! with the one without exporters of the same round.

mod agents;
mod receivers;

use std::{collections::BTreeMap, fmt::Write as _};

use self::{
    agents::{ChosenExporters, ExportTargets, ExportingAgent},
    receivers::{Collected, Collector, JournalSocket, Received, Scrape, Scraper},
};
use super::{
    load::{self, Load},
    machine, process, summary,
};
use crate::prelude::*;
use crate::{
    crowd::{self, Crowd},
    namespaces,
};

/// Stuck sockets.
const SOCKETS: u32 = 10_000;
/// Stuck sockets of the last measurement, of the time of a scrape.
const MANY_SOCKETS: u32 = 100_000;
/// Ports of the sockets, and so groups.
const PORTS: u16 = 4000;
/// The agent reports every socket at 1, 2, 4, 8 s and so on.
const STUCK_AFTER: &str = "1s";
/// After this time every socket has been reported once.
const SETTLE: Duration = Duration::from_secs(3);
/// After this time the owners of [`MANY_SOCKETS`] are known, on a busy machine, too.
const SETTLE_MANY: Duration = Duration::from_secs(20);
/// Counters of losses before an agent's exporters: of records that the kernel could not hand over, because an agent gets too little
/// CPU time under the load for a moment, and of groups of other programs on the machine beside those of the crowd.
const BEFORE_EXPORT: [&str; 3] = ["skipped_by_kernel", "lost_ring_full", "ungrouped"];
/// Counters of the `stop` event of everything that was dropped.
const DROPPED: [&str; 8] = [
    "skipped_by_kernel",
    "lost_map_full",
    "lost_ring_full",
    "undecodable",
    "untracked",
    "ungrouped",
    "unwritten",
    "log_lines_dropped",
];

#[derive(Args)]
pub(crate) struct Exporters {
    /// Rounds of each variant; 0: only the scrapes with 100,000 sockets
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=1000))]
    rounds: u32,
    /// Seconds that the CPU time of each agent is measured
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Seconds of the load of connections beside each agent
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    load_seconds: u64,
    /// Also measure each exporter alone, and the journal
    #[arg(long)]
    each: bool,
    /// Omit the scrapes with 100,000 sockets
    #[arg(long)]
    no_scale: bool,
    /// Only variants whose names contain this, beside the one without exporters
    #[arg(long, default_value = "")]
    only: String,
}

/// Agents with the same exporters.
struct ExporterVariant {
    name: &'static str,
    chosen: ChosenExporters,
    rounds: Vec<AgentNumbers>,
}

/// Numbers of one agent.
#[derive(Debug, Default)]
struct AgentNumbers {
    /// CPU time, ms per second.
    cpu: f64,
    /// CPU time while the load runs, ms per second.
    loaded_cpu: f64,
    /// Resident memory after the time without load, KiB.
    resident: u64,
    /// Greatest resident memory of the agent's life, KiB.
    peak: u64,
    /// Connections per second of the load.
    rate: f64,
    /// Connections of the load per second of CPU time.
    efficiency: f64,
    /// Scrapes without load.
    scrapes: Vec<Scrape>,
    /// Scrapes while the load runs.
    loaded_scrapes: Vec<Scrape>,
    /// What the collector got without load.
    collected: Collected,
    /// What the journal got without load.
    journal: Received,
    /// Size of the recording at the end, bytes.
    recorded: u64,
    /// Number of things that the agent dropped, by counter.
    dropped: BTreeMap<String, u64>,
}

impl Exporters {
    /// Measures and prints.
    pub(super) fn run(&self, binary: &Path, dir: &Path) -> Result<()> {
        crowd::enter_network()?;
        if self.each {
            namespaces::mount_in_new_namespace("tmpfs", Path::new("/run"))?;
        }
        let journal = self.each.then(JournalSocket::open).transpose()?;
        let bench = ExportTargets { binary, dir, collector: Collector::start()?, journal };
        let mut variants = variants(self.each);
        variants.retain(|variant| variant.chosen.has_none() || variant.name.contains(&self.only));
        let count = variants.len();
        for round in 0..usize::try_from(self.rounds)? {
            eprintln!("bench: round {} of {}", round + 1, self.rounds);
            for index in (round..round + count).map(|index| index % count) {
                let variant = &mut variants[index];
                let measured = self.measure(&bench, variant);
                variant.rounds.push(measured.with_context(|| format!("measuring `{}` failed", variant.name))?);
            }
        }
        if self.rounds > 0 {
            self.print(&variants)?;
        }
        if !self.no_scale {
            println!("\n{}", self.scrape_many(&bench)?);
        }
        let dropped = variants.iter().flat_map(ExporterVariant::dropped).collect::<Vec<_>>();
        println!("\nDropped: {}.", if dropped.is_empty() { "nothing".to_owned() } else { dropped.join(", ") });
        let by_agent = variants.iter().flat_map(|variant| &variant.rounds).flat_map(|round| &round.dropped);
        let by_agent =
            by_agent.filter(|(name, _)| !BEFORE_EXPORT.contains(&name.as_str())).map(|(_, count)| count).sum::<u64>();
        ensure!(by_agent == 0, "agents dropped {by_agent} things on their way out");
        Ok(())
    }

    fn print(&self, variants: &[ExporterVariant]) -> Result<()> {
        println!(
            "{}; {} rounds of each variant in turn; {SOCKETS} sockets in CLOSE_WAIT on {PORTS} ports, reported at {STUCK_AFTER} and \
             every doubling; CPU time over {} s, then {} s of short TCP connections over loopback. Medians, and min..max in \
             parentheses. Ratios and differences are to `{}` of the same round. CPU time of connections is that of all \
             programs but those that have a lower priority (nice).\n",
            machine()?,
            self.rounds,
            self.seconds,
            self.load_seconds,
            variants[0].name
        );
        let header = "Variant | CPU ms/s | More CPU ms/s | Resident MiB | Peak MiB | Connections/s | per second of CPU time | \
                      Ratio of the latter | CPU ms/s under load";
        let rows = variants.iter().map(|variant| variant.row(&variants[0])).collect::<Option<Vec<_>>>();
        print!("{}", markdown::table(header, rows.context("no rounds; this is a bug")?));
        println!();
        variants.iter().filter_map(|variant| variant.output(self.seconds)).for_each(|line| println!("{line}"));
        Ok(())
    }

    /// Runs an agent with a crowd, and then with the load.
    fn measure(&self, bench: &ExportTargets<'_>, variant: &ExporterVariant) -> Result<AgentNumbers> {
        let ExportingAgent { mut running, scraper, recording, stderr } =
            bench.start(variant.name, variant.chosen, &[])?;
        let crowd = Crowd::on_ports(SOCKETS, PORTS)?;
        let pid = running.pid();
        thread::sleep(SETTLE);
        take(scraper.as_ref());
        let received = bench.received();
        let cpu = process::cpu_during(pid, Duration::from_secs(self.seconds))?;
        let (collected, journal) = bench.received();
        let collected =
            Collected { metrics: collected.metrics - received.0.metrics, logs: collected.logs - received.0.logs };
        let journal = journal - received.1;
        let resident = process::status_kib(pid, "VmRSS")?;
        let scrapes = take(scraper.as_ref());
        let cpu_before = process::cpu_time(pid)?;
        let began = exec::now();
        let busy_before = process::busy()?;
        let Load { connections, rate, .. } = load::run(self.load_seconds)?;
        let efficiency = connections as f64 / process::busy()?.saturating_sub(busy_before).as_secs_f64();
        let loaded_cpu =
            process::cpu_time(pid)?.saturating_sub(cpu_before).as_secs_f64() / began.elapsed().as_secs_f64();
        let loaded_scrapes = take(scraper.as_ref());
        let peak = process::status_kib(pid, "VmHWM")?;
        let mut dropped = BTreeMap::new();
        if let Some(scraper) = &scraper {
            let page = scraper.page()?;
            check_page(&page, SOCKETS)?;
            // The other stages are in the event `stop`.
            let stages = receivers::by_label(&page, "closewait_dropped_total", "stage").into_iter();
            dropped.extend(stages.filter(|(stage, _)| stage == "otlp"));
        }
        drop(scraper);
        // The agent without metrics has the same counters at its end. Without JSON there is no `stop` event.
        if let Some(stop) = running.stop()?.pop() {
            dropped.extend(totals(&stop, SOCKETS)?);
        }
        drop(crowd);
        let stderr = fs::read_to_string(stderr)?;
        for line in stderr.lines().filter(|line| line.contains("OTLP") || line.contains("recording")) {
            eprintln!("bench: {}: {line}", variant.name);
        }
        let recorded = recording.as_deref().map_or(Ok(0), size)?;
        recording.as_deref().map_or(Ok(()), exec::remove_dir)?;
        let cpu = cpu.as_secs_f64() * 1e3 / self.seconds as f64;
        let loaded_cpu = loaded_cpu * 1e3;
        Ok(AgentNumbers {
            cpu,
            loaded_cpu,
            resident,
            peak,
            rate,
            efficiency,
            scrapes,
            loaded_scrapes,
            collected,
            journal,
            recorded,
            dropped,
        })
    }

    /// Measures scrapes of an agent with very many sockets in as many groups, without other exporters: the queue for OTLP is
    /// shorter than the events of all sockets, which are due at once.
    fn scrape_many(&self, bench: &ExportTargets<'_>) -> Result<String> {
        eprintln!("bench: {MANY_SOCKETS} sockets");
        let chosen = ChosenExporters { metrics: true, ..ChosenExporters::default() };
        let agent = bench.start("many", chosen, &["--events", "incidents"])?;
        let _crowd = Crowd::on_ports(MANY_SOCKETS, PORTS)?;
        thread::sleep(SETTLE_MANY);
        take(agent.scraper.as_ref());
        let cpu = process::cpu_during(agent.running.pid(), Duration::from_secs(self.seconds))?;
        let scrapes = take(agent.scraper.as_ref());
        check_page(&agent.scraper.as_ref().context("no scraper; this is a bug")?.page()?, MANY_SOCKETS)?;
        Ok(format!(
            "With {MANY_SOCKETS} sockets on {PORTS} ports, and only metrics: {}; {:.1} ms of CPU time a second.",
            scrapes_text(&scrapes)?,
            cpu.as_secs_f64() * 1e3 / self.seconds as f64
        ))
    }
}

impl ExporterVariant {
    /// Its row of the table; `None` without rounds.
    fn row(&self, off: &Self) -> Option<String> {
        let each = |number: fn(&AgentNumbers) -> f64| self.rounds.iter().map(number).collect::<Vec<_>>();
        let pairs = || self.rounds.iter().zip(&off.rounds);
        let more = pairs().map(|(round, off)| round.cpu - off.cpu).collect::<Vec<_>>();
        let ratios = pairs().map(|(round, off)| round.efficiency / off.efficiency).collect::<Vec<_>>();
        let mib = 1.0 / 1024.0;
        Some(format!(
            "{} | {} | {} | {} | {} | {} | {} | {} | {}",
            self.name,
            spread(&each(|round| round.cpu), 1)?,
            spread(&more, 1)?,
            spread(&each(|round| round.resident as f64).iter().map(|kib| kib * mib).collect::<Vec<_>>(), 1)?,
            spread(&each(|round| round.peak as f64).iter().map(|kib| kib * mib).collect::<Vec<_>>(), 1)?,
            spread(&each(|round| round.rate), 0)?,
            spread(&each(|round| round.efficiency), 0)?,
            spread(&ratios, 3)?,
            spread(&each(|round| round.loaded_cpu), 0)?,
        ))
    }

    /// What its agents dropped in all rounds.
    fn dropped(&self) -> Vec<String> {
        let mut sums = BTreeMap::<&str, u64>::new();
        for (name, count) in self.rounds.iter().flat_map(|round| &round.dropped).filter(|(_, count)| **count > 0) {
            *sums.entry(name).or_default() += count;
        }
        sums.into_iter().map(|(name, count)| format!("{count} {name} ({})", self.name)).collect()
    }

    /// A line with what left the agent; `None` if nothing did.
    fn output(&self, seconds: u64) -> Option<String> {
        let mut line = String::new();
        let mut add = |text: String| {
            let separator = if line.is_empty() { "" } else { "; " };
            // Writing to a String cannot fail.
            let _infallible = write!(line, "{separator}{text}");
        };
        let all = |scrapes: fn(&AgentNumbers) -> &Vec<Scrape>| {
            self.rounds.iter().flat_map(scrapes).copied().collect::<Vec<_>>()
        };
        if let Ok(text) = scrapes_text(&all(|round| &round.scrapes)) {
            add(text);
        }
        if let Ok(text) = scrapes_text(&all(|round| &round.loaded_scrapes)) {
            add(format!("under load {text}"));
        }
        let received = |signal: &str, of: fn(&AgentNumbers) -> Received| {
            let all = self.rounds.iter().map(of);
            let (messages, bytes) = all.fold((0, 0), |sum, one| (sum.0 + one.messages, sum.1 + one.bytes));
            let seconds = seconds as f64 * self.rounds.len() as f64;
            (messages > 0).then(|| {
                let (each, rate) = (bytes as f64 / messages as f64 / 1e3, bytes as f64 / seconds / 1e3);
                format!("{signal} {:.2} a second, {each:.0} KB each, {rate:.0} KB/s", messages as f64 / seconds)
            })
        };
        received("OTLP metrics", |round| round.collected.metrics).into_iter().for_each(&mut add);
        received("OTLP logs", |round| round.collected.logs).into_iter().for_each(&mut add);
        received("journal entries", |round| round.journal).into_iter().for_each(&mut add);
        if self.chosen.recording {
            let sizes = self.rounds.iter().map(|round| round.recorded as f64 / 1e6).collect::<Vec<_>>();
            add(format!("recording {} MB after the load", spread(&sizes, 1)?));
        }
        (!line.is_empty()).then(|| format!("- {}: {line}.", self.name))
    }
}

/// Returns the agents to compare. The first has no exporters, the second has all that work beside JSON on standard output.
fn variants(each: bool) -> Vec<ExporterVariant> {
    let none = ChosenExporters::default();
    let all = ChosenExporters { metrics: true, otlp: true, recording: true, hooks: true, journal: false };
    let mut variants = vec![("exporters off", none), ("all exporters", all)];
    if each {
        variants.extend([
            ("metrics", ChosenExporters { metrics: true, ..none }),
            ("OTLP", ChosenExporters { otlp: true, ..none }),
            ("recording", ChosenExporters { recording: true, ..none }),
            ("hooks", ChosenExporters { hooks: true, ..none }),
            ("journal instead of JSON", ChosenExporters { journal: true, ..none }),
        ]);
    }
    variants.into_iter().map(|(name, chosen)| ExporterVariant { name, chosen, rounds: Vec::new() }).collect()
}

/// Returns the scrapes since the last call; none without a scraper.
fn take(scraper: Option<&Scraper>) -> Vec<Scrape> {
    scraper.map(Scraper::take).unwrap_or_default()
}

/// Fails unless the page shows that all sockets are stuck, in more groups than have series of their own.
fn check_page(page: &str, sockets: u32) -> Result<()> {
    let (stuck, series) = receivers::sum(page, "closewait_stuck_sockets");
    ensure!(
        stuck >= f64::from(sockets - sockets / 1000) && series > usize::from(PORTS) / 3,
        "metrics show {stuck} stuck sockets in {series} series, not {sockets} on {PORTS} ports: the numbers would be of less work"
    );
    Ok(())
}

/// Everything that was dropped until a `stop` event, by counter. Fails unless all sockets have entered.
fn totals(stop: &Value, sockets: u32) -> Result<BTreeMap<String, u64>> {
    let totals = &stop["totals"];
    let entered = totals["entered"].as_u64();
    ensure!(entered >= Some(sockets.into()), "an agent saw {entered:?} of {sockets} sockets: {stop}");
    // A kernel that does not count what it skips has null.
    Ok(DROPPED.iter().filter_map(|name| Some(((*name).to_owned(), totals[name].as_u64()?))).collect())
}

/// Size of the files in a folder, bytes.
fn size(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for file in fs::read_dir(folder)? {
        sum += file?.metadata()?.len();
    }
    Ok(sum)
}

/// Times of scrapes and length of the pages.
fn scrapes_text(scrapes: &[Scrape]) -> Result<String> {
    let millis = scrapes.iter().map(|scrape| scrape.time.as_secs_f64() * 1e3).collect::<Vec<_>>();
    let bytes = scrapes.iter().filter_map(|scrape| Some(scrape.bytes? as f64 / 1e3)).collect::<Vec<_>>();
    let failed = match scrapes.len() - bytes.len() {
        0 => String::new(),
        failed => format!(", {failed} without an answer"),
    };
    let [millis, bytes] = [spread(&millis, 1), spread(&bytes, 0)].map(|text| text.context("no scrapes; this is a bug"));
    Ok(format!("{} scrapes took {} ms, pages of {} KB{failed}", scrapes.len(), millis?, bytes?))
}

/// The median, and the least and greatest number behind it.
fn spread(numbers: &[f64], decimals: usize) -> Option<String> {
    let [min, median, max] = summary(numbers)?;
    Some(format!("{median:.decimals$} ({min:.decimals$}..{max:.decimals$})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variant(rounds: Vec<AgentNumbers>) -> ExporterVariant {
        ExporterVariant { name: "x", chosen: ChosenExporters::default(), rounds }
    }

    #[test]
    fn agents_are_compared_with_the_one_of_the_same_round() {
        let round = |cpu, efficiency| {
            let rate = efficiency * 2.0;
            AgentNumbers {
                cpu,
                rate,
                efficiency,
                resident: 2048,
                peak: 3072,
                loaded_cpu: 70.0,
                ..AgentNumbers::default()
            }
        };
        let off = variant(vec![round(10.0, 100.0), round(20.0, 200.0)]);
        let on = variant(vec![round(11.0, 90.0), round(23.0, 190.0)]);
        let row = "x | 17.0 (11.0..23.0) | 2.0 (1.0..3.0) | 2.0 (2.0..2.0) | 3.0 (3.0..3.0) | 280 (180..380) | \
                   140 (90..190) | 0.925 (0.900..0.950) | 70 (70..70)";
        assert_eq!(on.row(&off).unwrap(), row);
        assert_eq!(variant(Vec::new()).row(&off), None);
    }

    #[test]
    fn only_what_left_the_agent_is_shown() {
        assert_eq!(variant(vec![AgentNumbers::default()]).output(10), None);
        let slow = Scrape { time: Duration::from_millis(9), bytes: None };
        let scrapes = vec![Scrape { time: Duration::from_millis(7), bytes: Some(5000) }, slow];
        let logs = Received { messages: 20, bytes: 40_000 };
        let round =
            AgentNumbers { scrapes, collected: Collected { logs, ..Collected::default() }, ..AgentNumbers::default() };
        let line = "- x: 2 scrapes took 8.0 (7.0..9.0) ms, pages of 5 (5..5) KB, 1 without an answer; \
                    OTLP logs 2.00 a second, 2 KB each, 4 KB/s.";
        assert_eq!(variant(vec![round]).output(10).unwrap(), line);
    }

    #[test]
    fn an_agent_that_had_less_work_is_not_measured() {
        let page =
            |stuck: u32| (0..2000).map(move |port| format!("closewait_stuck_sockets{{port=\"{port}\"}} {stuck}\n"));
        check_page(&page(5).collect::<String>(), 10_000).unwrap();
        assert!(check_page(&page(4).collect::<String>(), 10_000).is_err());
        assert!(check_page("closewait_stuck_sockets{port=\"1\"} 10000\n", 10_000).is_err());
        let stop =
            |entered: u32| serde_json::json!({ "totals": { "entered": entered, "lost_ring_full": 2, "unwritten": 1 } });
        assert_eq!(
            totals(&stop(5), 5).unwrap(),
            [("lost_ring_full".to_owned(), 2), ("unwritten".to_owned(), 1)].into()
        );
        assert!(totals(&stop(4), 5).is_err() && totals(&Value::Null, 5).is_err());
    }
}
