//! Load and faults at random; after each, what the agent tracks is to be what is there.

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
/// Between two faults.
const CALM: Duration = Duration::from_secs(8);
/// What was lost is found by then: an audit comes within ten seconds, or fifty times as long as the last one took.
const REPAIRED_WITHIN: Duration = Duration::from_secs(45);
/// An audit after what was lost last begins and ends in this time.
const LAST_AUDIT: Duration = Duration::from_secs(25);
/// Memory may grow by this from the first third of the minutes to the last.
const GROWTH: f64 = 0.25;
/// Kilobytes on top of that, for what one burst at the wrong moment takes.
const SLACK: u64 = 4096;
/// The population stays between these.
const LEAST: u64 = 100;
const MOST: u64 = 3000;
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

/// What is done to the agent, or around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Kill,
    KillAndChange,
    StandStill,
    LoadComesOrGoes,
    NamespaceGoes,
    Burst,
    SlowReader,
}

/// All faults, and their names.
const FAULTS: [(Fault, &str); 7] = [
    (Fault::Kill, "SIGKILL, and another agent"),
    (Fault::KillAndChange, "SIGKILL, and another agent with another program"),
    (Fault::StandStill, "SIGSTOP for 2 to 10 s while 200 sockets leave and 200 enter"),
    (Fault::LoadComesOrGoes, "load at full speed begins or ends"),
    (Fault::NamespaceGoes, "a network namespace ends with 50 sockets in it"),
    (Fault::Burst, "500 sockets enter and leave at once"),
    (Fault::SlowReader, "no program reads the events for 2 to 10 s, while all sockets are reported"),
];

/// Kilobytes of resident memory, and open descriptors.
type Size = (u64, usize);

/// What is measured.
#[derive(Default)]
struct Account {
    /// How often, and the longest time until what was tracked was right again.
    faults: BTreeMap<(Fault, &'static str), (u32, Duration)>,
    checks: u64,
    /// Of the agent that is never killed, at each minute.
    sizes: Vec<Size>,
    /// Summed over all agents.
    repaired: u64,
    phantom: u64,
}

struct Soaking<'a> {
    agents: &'a Agents<'a>,
    watcher: Option<Watcher>,
    /// Has maps of its own and is never killed: what grows, grows here.
    beside: Watcher,
    population: Population,
    load: Option<Load>,
    account: Account,
    changed: bool,
}

impl Soak {
    /// Runs and prints the summary.
    pub(crate) fn run(&self, agents: &Agents<'_>) -> Result<()> {
        let watcher = Some(agents.start(RING_BYTES, "1s")?);
        let (beside, population) = (agents.start_beside(RING_BYTES, "1s")?, Population::new(self.seed)?);
        let account = Account::default();
        let mut soaking = Soaking { agents, watcher, beside, population, load: None, account, changed: false };
        soaking.population.add(LEAST)?;
        let began = exec::now();
        let end = began + Duration::from_secs(self.minutes * 60);
        let mut minute = 0;
        while exec::now() < end {
            soaking.live(CALM)?;
            soaking.check_within(REPAIRED_WITHIN).context("without any fault")?;
            let fault = FAULTS[soaking.population.random.usize(..FAULTS.len())];
            soaking.bring_about(fault.0)?;
            let took = soaking.check_within(REPAIRED_WITHIN).with_context(|| format!("after: {}", fault.1))?;
            let (count, longest) = soaking.account.faults.entry(fault).or_default();
            (*count, *longest) = (*count + 1, took.max(*longest));
            if began.elapsed().as_secs() / 60 > minute {
                minute = began.elapsed().as_secs() / 60;
                soaking.account.sizes.push(soaking.beside.size()?);
                eprintln!("soak: minute {minute} of {}, {} checks", self.minutes, soaking.account.checks);
            }
        }
        let (totals, account) = soaking.end()?;
        print(&account, &totals, began);
        check_counts(&totals.pinned, account.phantom).context("the agents on the pinned maps")?;
        check_counts(&totals.beside, count(&totals.beside, "phantom")).context("the agent beside")?;
        check_sizes(&account.sizes)
    }
}

/// What the last agents gave at their ends.
struct Totals {
    pinned: Value,
    beside: Value,
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

/// The most memory, and the most descriptors.
fn most(sizes: &[Size]) -> Option<Size> {
    sizes.iter().copied().reduce(|one, other| (one.0.max(other.0), one.1.max(other.1)))
}

/// Neither memory nor descriptors grow.
fn check_sizes(sizes: &[Size]) -> Result<()> {
    let third = sizes.len() / 3;
    let Some(((memory, fds), (memory_last, fds_last))) = most(&sizes[..third]).zip(most(&sizes[sizes.len() - third..]))
    else {
        return Ok(());
    };
    ensure!(fds_last <= fds, "{fds} descriptors became {fds_last}");
    let allowed = (memory as f64 * (1.0 + GROWTH)) as u64 + SLACK;
    ensure!(memory_last <= allowed, "{memory} KiB of resident memory became {memory_last} KiB");
    Ok(())
}

impl Soaking<'_> {
    fn watcher(&mut self) -> Result<&mut Watcher> {
        self.watcher.as_mut().context("no agent runs; this is a bug")
    }

    /// Sockets enter and leave.
    fn live(&mut self, time: Duration) -> Result<()> {
        let end = exec::now() + time;
        while exec::now() < end {
            let len = self.population.len();
            if len < MOST {
                let count = self.population.random.u64(..8);
                self.population.add(count)?;
            }
            if len > LEAST {
                let count = self.population.random.u64(..9);
                self.population.close(count)?;
            }
            self.watcher()?.watch(Duration::from_millis(50));
        }
        Ok(())
    }

    fn bring_about(&mut self, fault: Fault) -> Result<()> {
        let time = millis(&mut self.population.random, 2000..10_000);
        match fault {
            Fault::Kill => self.replace()?,
            Fault::KillAndChange => {
                self.changed = !self.changed;
                self.replace()?;
            }
            Fault::StandStill => {
                self.watcher()?.signal(Signal::STOP)?;
                self.population.close(200)?;
                self.population.add(200)?;
                thread::sleep(time);
                self.watcher()?.signal(Signal::CONT)?;
            }
            Fault::LoadComesOrGoes => {
                self.load = if self.load.is_some() { None } else { Some(Load::start()?) };
            }
            Fault::NamespaceGoes => {
                let inside = thread::spawn(|| -> Result<()> {
                    namespaces::enter_new_network()?;
                    let mut population = Population::new(1)?;
                    population.add(50)?;
                    thread::sleep(Duration::from_secs(1));
                    Ok(())
                });
                match inside.join() {
                    Ok(done) => done?,
                    Err(_panic) => bail!("a thread in a namespace panicked; its message is above"),
                }
            }
            Fault::Burst => {
                self.population.add(500)?;
                self.population.close(500)?;
            }
            Fault::SlowReader => {
                self.watcher()?.read(false);
                self.live(time)?;
                self.watcher()?.read(true);
            }
        }
        Ok(())
    }

    /// Kills the agent, lets sockets leave and enter, and starts another agent.
    fn replace(&mut self) -> Result<()> {
        let watcher = self.watcher.take().context("no agent runs; this is a bug")?;
        self.count(&watcher.totals);
        watcher.kill();
        let (leave, enter) = (self.population.random.u64(..50), self.population.random.u64(..50));
        self.population.close(leave)?;
        self.population.add(enter)?;
        thread::sleep(millis(&mut self.population.random, 0..1000));
        self.watcher = Some(self.agents.start(RING_BYTES, if self.changed { "2s" } else { "1s" })?);
        Ok(())
    }

    fn count(&mut self, totals: &Value) {
        self.account.repaired += count(totals, "repaired");
        self.account.phantom += count(totals, "phantom");
    }

    /// Waits until the agent tracks what is there, and tells how long that took.
    fn check_within(&mut self, limit: Duration) -> Result<Duration> {
        let began = exec::now();
        loop {
            let before = self.population.ages();
            let listed = self.watcher()?.list()?;
            let after = self.population.ages();
            self.account.checks += 1;
            let Some(difference) = difference(&before, &after, &listed) else { return Ok(began.elapsed()) };
            ensure!(
                began.elapsed() <= limit,
                "the agent tracks something else than what is there, {} s later: {difference}",
                limit.as_secs()
            );
            self.watcher()?.watch(Duration::from_millis(500));
        }
    }

    /// Everything is closed; the last agent gives its counts.
    fn end(mut self) -> Result<(Totals, Account)> {
        self.load = None;
        self.population.close(self.population.len())?;
        self.check_within(REPAIRED_WITHIN).context("after all were closed")?;
        // The times of entry of those that left unseen go with the next audit.
        thread::sleep(LAST_AUDIT);
        let watcher = self.watcher.take().context("no agent runs; this is a bug")?;
        let (_left, pinned) = watcher.stop()?;
        self.count(&pinned);
        self.account.sizes.push(self.beside.size()?);
        let (_left, beside) = self.beside.stop()?;
        Ok((Totals { pinned, beside }, self.account))
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

fn print(account: &Account, totals: &Totals, began: Instant) {
    let faults = account
        .faults
        .iter()
        .map(|((_fault, name), (count, longest))| format!("{name} | {count} | {:.1} s", longest.as_secs_f64()));
    let names = ["entered", "left", "left_unseen", "replaced", "lost_ring_full", "lost_map_full", "skipped_by_kernel"];
    let counts = names.map(|name| format!("{name} | {} | {}", totals.pinned[name], totals.beside[name]));
    let found = [("repaired", account.repaired), ("phantom", account.phantom)];
    let found = found.map(|(name, all)| format!("{name} | {all} | {}", totals.beside[name]));
    let tracked = format!(
        "tracked at the end, after all had been closed | {} | {}",
        totals.pinned["tracked"], totals.beside["tracked"]
    );
    let sizes = &account.sizes;
    let [first, last, most] = [sizes.first().copied(), sizes.last().copied(), most(sizes)].map(|size| {
        size.map_or_else(|| ["?", "?"].map(str::to_owned), |(kib, fds)| [kib.to_string(), fds.to_string()])
    });
    let sizes = ["resident memory, KiB", "descriptors"].into_iter().enumerate();
    let sizes = sizes.map(|(at, what)| format!("{what} | {} | {} | {}", first[at], last[at], most[at]));
    println!(
        "{} minutes, {} comparisons of all sockets\n\n{}\n{}\n{}",
        began.elapsed().as_secs() / 60,
        account.checks,
        markdown::table("fault | times | longest until all was right again", faults),
        markdown::table(
            "counted | on the pinned maps, by all agents | by the agent beside, never killed",
            counts.into_iter().chain(found).chain([tracked])
        ),
        markdown::table("the agent beside | first minute | last | most", sizes).trim_end(),
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_difference_is_said() {
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
    fn what_grows_is_said() {
        check_sizes(&[]).unwrap();
        check_sizes(&[(10_000, 20), (11_000, 19), (12_000, 20)]).unwrap();
        check_sizes(&[(10_000, 20), (11_000, 20), (30_000, 20)]).unwrap_err();
        check_sizes(&[(10_000, 20), (11_000, 20), (10_000, 21)]).unwrap_err();
    }
}
