//! Load and faults at random; after each, the agent has to track exactly the sockets that exist.

use std::collections::BTreeMap;

use rustix::process::Signal;

use super::{
    Agents, Load, millis,
    population::{Ends, Population, Stay},
    watcher::Watcher,
};
use crate::namespaces;
use crate::prelude::*;

/// Small, so that it overflows whenever the agent does not read.
const RING_BYTES: u32 = 256 << 10;
/// Time between two faults.
const CALM: Duration = Duration::from_secs(8);
/// Longest time until the agent has found what it lost: an audit comes within ten seconds, or fifty times as long as the last
/// one took.
const REPAIR_LIMIT: Duration = Duration::from_secs(45);
/// Longest time until an audit has begun and ended after the last loss.
const LAST_AUDIT: Duration = Duration::from_secs(25);
/// Highest accepted growth of memory, from the first third of the minutes to the last.
const GROWTH: f64 = 0.25;
/// Kilobytes on top of that, for what one burst at the wrong moment takes.
const SLACK: u64 = 4096;
/// Bounds of the population.
const MIN_SOCKETS: u64 = 100;
const MAX_SOCKETS: u64 = 3000;
/// Highest accepted error of an age, seconds.
const TOLERANCE: f64 = 0.005;

#[derive(Args)]
pub(crate) struct Soak {
    /// Duration in minutes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// The same seed makes the same faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Does something to the agent, or around it, for some seconds.
type Fault = fn(&mut Soaking<'_>, Duration) -> Result<()>;

const FAULTS: [(&str, Fault); 7] = [
    ("SIGKILL, then another agent", |soaking, _time| soaking.replace()),
    ("SIGKILL, then another agent with another program", |soaking, _time| {
        soaking.is_changed = !soaking.is_changed;
        soaking.replace()
    }),
    ("SIGSTOP for 2 to 10 s while 200 sockets exit and 200 enter", |soaking, time| {
        soaking.watcher.running.signal(Signal::STOP)?;
        soaking.population.close(200)?;
        soaking.population.add(200)?;
        thread::sleep(time);
        soaking.watcher.running.signal(Signal::CONT)
    }),
    ("full load begins or ends", |soaking, _time| {
        soaking.load = if soaking.load.is_some() { None } else { Some(Load::start()?) };
        Ok(())
    }),
    ("a network namespace ends with 50 sockets in it", |_soaking, _time| {
        let inside = thread::spawn(|| -> Result<()> {
            namespaces::enter_new_network()?;
            let mut population = Population::new(1)?;
            population.add(50)?;
            thread::sleep(Duration::from_secs(1));
            Ok(())
        });
        inside.join().unwrap_or_else(|_panic| bail!("a thread in a namespace panicked; its message is above"))
    }),
    ("500 sockets enter and exit at once", |soaking, _time| {
        soaking.population.add(500)?;
        soaking.population.close(500).map(drop)
    }),
    ("no program reads the events for 2 to 10 s, while the agent reports all sockets", |soaking, time| {
        soaking.watcher.running.read(false);
        soaking.live(time)?;
        soaking.watcher.running.read(true);
        Ok(())
    }),
];

struct Soaking<'a> {
    agents: &'a Agents<'a>,
    watcher: Watcher,
    /// Has maps of its own and is never killed: what grows, grows here.
    second: Watcher,
    population: Population,
    load: Option<Load>,
    /// Whether the next agent gets another program.
    is_changed: bool,
    /// For each fault: the number of times, and the longest time until the agent was right again.
    faults: [(u32, Duration); FAULTS.len()],
    checks: u64,
    /// Kilobytes of resident memory and number of descriptors of the second agent, at each minute.
    sizes: Vec<[u64; 2]>,
    /// Sums over all agents on the pinned maps.
    repaired: u64,
    phantom: u64,
}

impl Soak {
    /// Runs and prints the summary.
    pub(crate) fn run(&self, agents: &Agents<'_>) -> Result<()> {
        let mut soaking = Soaking {
            agents,
            watcher: agents.start(RING_BYTES, "1s")?,
            second: agents.start_as("second", RING_BYTES, "1s", &[])?,
            population: Population::new(self.seed)?,
            load: None,
            is_changed: false,
            faults: Default::default(),
            checks: 0,
            sizes: Vec::new(),
            repaired: 0,
            phantom: 0,
        };
        soaking.population.add(MIN_SOCKETS)?;
        let began = exec::now();
        let end = began + Duration::from_secs(self.minutes * 60);
        let mut minute = 0;
        while exec::now() < end {
            soaking.live(CALM)?;
            soaking.recover().context("without any fault")?;
            let index = soaking.population.random.usize(..FAULTS.len());
            let (name, fault) = FAULTS[index];
            let time = millis(&mut soaking.population.random, 2000..10_000);
            fault(&mut soaking, time)?;
            let took = soaking.recover().with_context(|| format!("after: {name}"))?;
            let (count, longest) = &mut soaking.faults[index];
            (*count, *longest) = (*count + 1, took.max(*longest));
            if began.elapsed().as_secs() / 60 > minute {
                minute = began.elapsed().as_secs() / 60;
                soaking.sizes.push(soaking.second.size()?);
                eprintln!("soak: minute {minute} of {}, {} checks", self.minutes, soaking.checks);
            }
        }
        soaking.end()?;
        println!("{} minutes, {} comparisons of all sockets\n", began.elapsed().as_secs() / 60, soaking.checks);
        soaking.print();
        check_counts(&soaking.watcher.totals, soaking.phantom).context("the agents on the pinned maps")?;
        check_counts(&soaking.second.totals, count(&soaking.second.totals, "phantom")).context("the second agent")?;
        check_sizes(&soaking.sizes)
    }
}

fn count(totals: &Value, name: &str) -> u64 {
    totals[name].as_u64().unwrap_or(0)
}

/// Every socket that entered has left, is there, or is known to be lost: its time of entry was dropped or replaced by that
/// of the next one at its address, or an audit found it to be gone. `phantom` is how many of the last kind there were at most.
fn check_counts(totals: &Value, phantom: u64) -> Result<()> {
    let [entered, left, unseen, replaced, map_full, tracked] =
        ["entered", "left", "left_unseen", "replaced", "lost_map_full", "tracked"].map(|name| count(totals, name));
    let accounted = (left - unseen) + replaced + map_full + tracked;
    let lost = entered.checked_sub(accounted).context("more left than entered")?;
    ensure!(lost <= phantom, "{entered} entered, {accounted} left or are there, and {phantom} are known to be lost");
    Ok(())
}

/// Returns the most memory, and the most descriptors.
fn most(sizes: &[[u64; 2]]) -> Option<[u64; 2]> {
    sizes.iter().copied().reduce(|one, other| [one[0].max(other[0]), one[1].max(other[1])])
}

/// Neither memory nor descriptors grow.
fn check_sizes(sizes: &[[u64; 2]]) -> Result<()> {
    let third = sizes.len() / 3;
    let (first, last) = (most(&sizes[..third]), most(&sizes[sizes.len() - third..]));
    let Some(([memory, fds], [memory_last, fds_last])) = first.zip(last) else { return Ok(()) };
    ensure!(fds_last <= fds, "{fds} descriptors became {fds_last}");
    let allowed = (memory as f64 * (1.0 + GROWTH)) as u64 + SLACK;
    ensure!(memory_last <= allowed, "{memory} KiB of resident memory became {memory_last} KiB");
    Ok(())
}

impl Soaking<'_> {
    /// Sockets enter and exit.
    fn live(&mut self, time: Duration) -> Result<()> {
        let end = exec::now() + time;
        while exec::now() < end {
            let len = self.population.len();
            if len < MAX_SOCKETS {
                let count = self.population.random.u64(..8);
                self.population.add(count)?;
            }
            if len > MIN_SOCKETS {
                let count = self.population.random.u64(..9);
                self.population.close(count)?;
            }
            self.watcher.watch(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Kills the agent, lets sockets exit and enter, and starts another agent.
    fn replace(&mut self) -> Result<()> {
        self.add_counts();
        self.watcher.kill();
        let (exits, enters) = (self.population.random.u64(..50), self.population.random.u64(..50));
        self.population.close(exits)?;
        self.population.add(enters)?;
        thread::sleep(millis(&mut self.population.random, 0..1000));
        self.watcher = self.agents.start(RING_BYTES, if self.is_changed { "2s" } else { "1s" })?;
        Ok(())
    }

    fn add_counts(&mut self) {
        self.repaired += count(&self.watcher.totals, "repaired");
        self.phantom += count(&self.watcher.totals, "phantom");
    }

    /// Waits until the agent tracks the sockets that exist, and returns how long that took.
    fn recover(&mut self) -> Result<Duration> {
        let began = exec::now();
        loop {
            let before = self.population.ages();
            let listed = self.watcher.list()?;
            let after = self.population.ages();
            self.checks += 1;
            let Some(difference) = difference(&before, &after, &listed) else { return Ok(began.elapsed()) };
            ensure!(
                began.elapsed() <= REPAIR_LIMIT,
                "the agent tracks other sockets than exist, {} s later: {difference}",
                REPAIR_LIMIT.as_secs()
            );
            self.watcher.watch(Duration::from_millis(500));
        }
    }

    /// Closes everything, and ends both agents.
    fn end(&mut self) -> Result<()> {
        self.load = None;
        self.population.close(self.population.len())?;
        self.recover().context("after all were closed")?;
        // The next audit removes the entry times of sockets whose exit the kernel program missed.
        thread::sleep(LAST_AUDIT);
        self.watcher.stop()?;
        self.add_counts();
        self.sizes.push(self.second.size()?);
        self.second.stop()
    }

    fn print(&self) {
        let (pinned, second) = (&self.watcher.totals, &self.second.totals);
        let faults = FAULTS.iter().zip(self.faults);
        let faults =
            faults.map(|((name, _), (count, longest))| format!("{name} | {count} | {:.1} s", longest.as_secs_f64()));
        println!("{}", markdown::table("fault | times | longest recovery", faults));
        let names =
            ["entered", "left", "left_unseen", "replaced", "lost_ring_full", "lost_map_full", "skipped_by_kernel"];
        let counts = names.map(|name| format!("{name} | {} | {}", pinned[name], second[name]));
        let found = [("repaired", self.repaired), ("phantom", self.phantom)];
        let found = found.map(|(name, sum)| format!("{name} | {sum} | {}", second[name]));
        let tracked =
            format!("tracked at the end, after all were closed | {} | {}", pinned["tracked"], second["tracked"]);
        let header = "counted | on the pinned maps, by all agents | by the second agent, never killed";
        println!("{}", markdown::table(header, counts.into_iter().chain(found).chain([tracked])));
        if let (Some(first), Some(last), Some(most)) = (self.sizes.first(), self.sizes.last(), most(&self.sizes)) {
            let row = |(at, name)| format!("{name} | {} | {} | {}", first[at], last[at], most[at]);
            let rows = ["resident memory, KiB", "descriptors"].into_iter().enumerate().map(row);
            print!("{}", markdown::table("the second agent | first minute | last | most", rows));
        }
    }
}

/// The first difference between the population, its ages before and after a listing, and the listing.
fn difference(
    before: &BTreeMap<Ends, Stay>,
    after: &BTreeMap<Ends, Stay>,
    listed: &BTreeMap<Ends, (f64, f64)>,
) -> Option<String> {
    let missing: Vec<_> = before.keys().filter(|ends| !listed.contains_key(ends)).collect();
    let phantoms: Vec<_> = listed.keys().filter(|ends| !before.contains_key(ends)).collect();
    if let (Some(first), count) = (missing.first(), missing.len()) {
        return Some(format!("{count} of {} are missing, {first:?} is the first", before.len()));
    }
    if let (Some(first), count) = (phantoms.first(), phantoms.len()) {
        return Some(format!("{count} are not there, {first:?} is the first"));
    }
    before.iter().zip(after.values()).find_map(|((ends, before), after)| {
        let (low, high) = listed[ends];
        let possible = low <= after.longest + TOLERANCE && high >= before.shortest - TOLERANCE;
        (!possible).then(|| format!("{ends:?} is {}..{} s old, and not {low}..{high}", before.shortest, after.longest))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_difference_is_reported() {
        let ends = |port: u16| -> Ends { (([127, 79, 0, 1], 80).into(), ([127, 0, 0, 1], port).into()) };
        let age = |shortest, longest| Stay { shortest, longest };
        let before = BTreeMap::from([(ends(1), age(1.0, 1.001))]);
        let after = BTreeMap::from([(ends(1), age(1.1, 1.101))]);
        let said = |listed: &[(Ends, (f64, f64))]| difference(&before, &after, &listed.iter().copied().collect());
        assert_eq!(said(&[(ends(1), (1.05, 1.05))]), None);
        assert_eq!(said(&[(ends(1), (0.2, 9.0))]), None);
        assert!(said(&[]).unwrap().contains("missing"));
        assert!(said(&[(ends(1), (1.05, 1.05)), (ends(2), (1.0, 1.0))]).unwrap().contains("not there"));
        assert!(said(&[(ends(1), (1.2, 1.2))]).unwrap().contains("old, and not"));
        assert!(said(&[(ends(1), (0.5, 0.9))]).unwrap().contains("old, and not"));
    }

    #[test]
    fn what_entered_is_accounted_for() {
        let totals = |entered: u64, left: u64| json!({ "entered": entered, "left": left, "left_unseen": 1, "replaced": 1, "lost_map_full": 1, "tracked": 2 });
        check_counts(&totals(10, 7), 0).unwrap();
        check_counts(&totals(11, 7), 1).unwrap();
        check_counts(&totals(12, 7), 1).unwrap_err();
        check_counts(&totals(9, 7), 1).unwrap_err();
    }

    #[test]
    fn growth_is_reported() {
        check_sizes(&[]).unwrap();
        check_sizes(&[[10_000, 20], [11_000, 19], [12_000, 20]]).unwrap();
        check_sizes(&[[10_000, 20], [11_000, 20], [30_000, 20]]).unwrap_err();
        check_sizes(&[[10_000, 20], [11_000, 20], [10_000, 21]]).unwrap_err();
    }
}
